"""Tables made of predictions: every run with its intervals, spread over seeds, calibration, without doubtful images."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from lesion_utils.config.schema import Comparison
from lesion_utils.core.errors import DataError
from lesion_utils.evaluation.calibration import (
    average_losses,
    ece_interval,
    expect_ece,
    fit_recalibration,
    measure_calibration,
)
from lesion_utils.evaluation.evaluate import evaluate_with_intervals, label_metric
from lesion_utils.evaluation.intervals import draw_weights, format_value
from lesion_utils.evaluation.metrics import average_precision, choose_threshold, roc_auc
from lesion_utils.evaluation.predictions import ENSEMBLE, RUN, iterate_means, iterate_runs, name_rows
from lesion_utils.evaluation.ranking import find_classical


def tabulate_results(predictions: pd.DataFrame, params: Comparison) -> pd.DataFrame:
    """Every metric of every run on the test images, of the mean probability over seeds, and of the combinations.

    The second threshold is chosen on the run's own validation rows; a run without them has no metrics `*_at_target`.

    Returns:
        one row per run and metric: `model` ("combination" for those), `regime`, `seed` (text; "ensemble" for the mean
        probability), `name`, `metric`, `value`, `low`, `high`, `interval`, `bootstrap_low`, `bootstrap_high`,
        `threshold` (from validation, or NaN).
    """
    weights, parts = None, []
    for (model, regime, seed), validation, test in iterate_runs(predictions):
        if test.empty:
            raise DataError(f"run {model}, {regime}, seed {seed} has no test scores", do="run its notebook again")
        if weights is None:  # every run scores the same images in the same order
            weights = draw_weights(test["target"], draws=params.bootstrap_draws, seed=params.seed)
        settings: dict[str, Any] = {"weights": weights, "confidence": params.confidence}
        if not validation.empty:
            seen = validation["target"], validation["probability"]
            settings["target_threshold"] = choose_threshold(*seen, sensitivity=params.sensitivity_target)
        rows = evaluate_with_intervals(test["target"], test["probability"], **settings)
        run = name_rows(test).columns | {"seed": seed}
        parts.append(rows.assign(**run, threshold=settings.get("target_threshold", np.nan)))
    table = pd.concat(parts, ignore_index=True)
    return table[[*RUN, "name", *[c for c in table.columns if c not in (*RUN, "name")]]]


def summarise_seeds(results: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation of each metric over the seeds of a model and regime.

    Returns:
        one row per model, regime and metric: `mean`, `sd` (NaN for one seed), `seeds` (how many), `ensemble` (the value
        of the mean probability).
    """
    keys = ["model", "regime", "name", "metric"]
    single = results["seed"] != ENSEMBLE
    spread = results[single].groupby(keys, sort=False)["value"].agg(mean="mean", sd="std", seeds="size")
    return spread.join(results[~single].set_index(keys)["value"].rename("ensemble")).reset_index()


def name_single(folds: int) -> str:
    """What one seed gives: a network, or the mean of those of all folds."""
    return "a single network" if folds == 1 else f"one seed's {folds} networks averaged"


def widen_seeds(seeds: pd.DataFrame, *, folds: int) -> pd.DataFrame:
    """One seed's mean and standard deviation, from `summarise_seeds`, beside the mean probability of all of them.

    Returns:
        a row per network and regime: `name`, `seeds`, and in words a pair of columns each for AP and AUC.
    """
    networks = seeds[~find_classical(seeds)]
    wide = networks.drop_duplicates("name")[["name", "seeds"]].set_index("name")
    for metric in ("ap", "auc"):
        rows = networks[networks["metric"] == metric].set_index("name")
        single = [format_spread(row.mean_, row.sd) for row in rows.rename(columns={"mean": "mean_"}).itertuples()]
        wide[f"{label_metric(metric)}, {name_single(folds)}"] = pd.Series(single, rows.index)
        wide[f"{label_metric(metric)}, all averaged"] = rows["ensemble"].map(format_value)
    return wide.reset_index()


def format_spread(mean: float, sd: float) -> str:
    """A mean with its standard deviation: `0.812 ± 0.011`; the mean alone where one seed leaves no spread."""
    return format_value(mean) if np.isnan(sd) else f"{mean:.3f} ± {sd:.3f}"


def widen_results(results: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Results as people read them: a row per model, a column per metric, each cell a value with its interval."""
    return widen_metrics(results[results["seed"] == ENSEMBLE], ["name"], metrics)


def widen_metrics(rows: pd.DataFrame, keys: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """A row per combination of `keys`, and for each of the `metrics` that it has a column of values with intervals."""
    rows = rows[rows["metric"].isin(metrics)]
    cells = rows.assign(cell=[format_value(r.value, r.low, r.high) for r in rows.itertuples()])
    wide = cells.pivot_table(index=list(keys), columns="metric", values="cell", aggfunc="first", sort=False)
    return wide[[m for m in metrics if m in wide]].rename(columns=label_metric).rename_axis(columns=None).reset_index()


def tabulate_calibration(predictions: pd.DataFrame, params: Comparison) -> pd.DataFrame:
    """Calibration on the test images, as trained and with the line of log odds that is fitted on validation.

    Returns:
        two rows per model and regime (mean probability over seeds) and per combination: `stage` ("before", "after"),
        `validation_images`, `intercept` and `recalibration_slope` of the line, `brier`, `brier_reference`, `log_loss`,
        `ece` with `ece_low` and `ece_high`; `ece_expected`, `ece_expected_low`, `ece_expected_high`: what perfect
        calibration would show; `in_the_large`, `slope`
        and `observed_expected`, each with `_low` and `_high`, see `calibration.measure_calibration`.
    """
    rows, weights = [], None
    for name, validation, test in iterate_means(predictions):
        if validation.empty:
            continue
        if weights is None:
            weights = draw_weights(test["target"], draws=params.bootstrap_draws, seed=params.seed)
        line = fit_recalibration(validation["target"], validation["logit"])
        fitted = {"validation_images": len(validation), "intercept": line.intercept, "recalibration_slope": line.slope}
        for stage, logits in (("before", test["logit"].to_numpy()), ("after", line.apply(test["logit"]))):
            probs = expit(logits)
            losses = {loss: float(value) for loss, value in average_losses(test["target"], probs).items()}
            expected = expect_ece(probs, draws=params.bootstrap_draws, confidence=params.confidence, seed=params.seed)
            low, high = ece_interval(
                test["target"],
                probs,
                weights=weights,
                expected_high=expected["ece_expected_high"],
                confidence=params.confidence,
            )
            expected |= {"ece_low": low, "ece_high": high}
            measured = measure_calibration(test["target"], logits, confidence=params.confidence)
            rows.append({**name.columns, "stage": stage, **fitted, **losses, **expected, **measured})
    return pd.DataFrame(rows)


def tabulate_controls(metadata: pd.DataFrame, params: Comparison) -> pd.DataFrame:
    """Rows that see no pixel: classifiers of metadata alone, and calling every image benign.

    Args:
        metadata: from `shortcuts.predict_from_metadata`.

    Returns:
        as `tabulate_results` without run columns: `name`, `metric`, `value`, `low`, `high`, ...
    """
    parts = {
        f"Metadata alone: {control}": rows.sort_values("image_id")
        for control, rows in metadata[metadata["split"] == "test"].groupby("control", sort=False)
    }
    first = next(iter(parts.values()))
    parts["Always benign"] = first.assign(probability=0.0)
    weights = draw_weights(first["target"], draws=params.bootstrap_draws, seed=params.seed)
    settings: dict[str, Any] = {"weights": weights, "confidence": params.confidence}
    tables = [
        evaluate_with_intervals(rows["target"], rows["probability"], **settings).assign(name=name)
        for name, rows in parts.items()
    ]
    return pd.concat(tables, ignore_index=True)


def list_exclusions(duplicates: pd.DataFrame, label_changes: pd.DataFrame) -> dict[str, list[str]]:
    """Doubtful images by what is wrong with them, for the question of what they are worth."""
    across = duplicates[duplicates["split_a"] != duplicates["split_b"]]
    return {
        "duplicates across the split": [*across["image_id_a"], *across["image_id_b"]],
        "all duplicates": [*duplicates["image_id_a"], *duplicates["image_id_b"]],
        "changed labels": label_changes["image_id"].tolist(),
    }


def tabulate_exclusions(predictions: pd.DataFrame, exclusions: Mapping[str, Collection[str]]) -> pd.DataFrame:
    """AUC and average precision with and without doubtful images; nothing is trained again.

    Args:
        predictions: networks enter by their mean probability over seeds.
        exclusions: what is wrong -> ids, from `list_exclusions`.

    Returns:
        one row per model, split, exclusion and metric: `model`, `regime`, `name`, `split`, `exclusion`, `metric`,
        `removed` (images), `value_in`, `value_out` (with and without them), `change` (out minus in).
    """
    rows = []
    for name, validation, test in iterate_means(predictions):
        for split, part in (("test", test), ("val", validation)):
            if not part.empty:
                rows += [name.columns | {"split": split} | row for row in _exclude(part, exclusions)]
    return pd.DataFrame(rows)


def widen_exclusions(exclusions: pd.DataFrame) -> pd.DataFrame:
    """How the test scores of networks and combinations change without doubtful images, as people read it.

    Returns:
        `name`, and for each exclusion that removes a test image a column of changes: "AUC +0.012, AP −0.003".
    """
    rows = exclusions[(exclusions["split"] == "test") & (exclusions["removed"] > 0) & ~find_classical(exclusions)]
    cells: dict[str, dict[str, list[str]]] = {}
    for row in rows.itertuples():
        column = f"without {row.exclusion} ({row.removed})"
        cells.setdefault(row.name, {}).setdefault(column, []).append(f"{row.metric.upper()} {row.change:+.3f}")
    wide = pd.DataFrame.from_dict(cells, orient="index").map(lambda parts: ", ".join(parts).replace("-", "−"))
    return wide.rename_axis("name").reset_index()


def _exclude(part: pd.DataFrame, exclusions: Mapping[str, Collection[str]]) -> list[dict[str, object]]:
    rows = []
    for exclusion, images in exclusions.items():
        kept = part[~part["image_id"].isin(set(images))]
        for metric, compute in (("auc", roc_auc), ("ap", average_precision)):
            before, after = (compute(images_["target"], images_["probability"]) for images_ in (part, kept))
            rows.append(
                {"exclusion": exclusion, "metric": metric, "removed": len(part) - len(kept)}
                | {"value_in": before, "value_out": after, "change": after - before}
            )
    return rows
