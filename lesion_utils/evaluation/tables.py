"""Tables made of predictions: every run with its intervals, the spread over seeds, calibration, and the leaderboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.special import expit

from lesion_utils.config.schema import Comparison
from lesion_utils.core.errors import DataError
from lesion_utils.core.names import name_series
from lesion_utils.evaluation.calibration import (
    average_losses,
    expect_ece,
    fit_recalibration,
    measure_calibration,
)
from lesion_utils.evaluation.candidates import find_classical
from lesion_utils.evaluation.evaluate import evaluate_with_intervals, label_metric
from lesion_utils.evaluation.intervals import ENDS, draw_weights, format_value
from lesion_utils.evaluation.literature import MARKS
from lesion_utils.evaluation.metrics import choose_threshold
from lesion_utils.evaluation.predictions import ENSEMBLE, RUN, iterate_runs

#: Columns of the leaderboard that come with an interval.
LEADERBOARD_METRICS = ("ap", "auc", "accuracy", "balanced_accuracy", "sensitivity", "specificity")


def tabulate_results(predictions: pd.DataFrame, params: Comparison) -> pd.DataFrame:
    """Every metric of every run on the test images, of the mean probability over seeds, and of the combinations.

    The second threshold is chosen on the run's own validation rows; a run without them has no metrics `*_at_target`.

    Args:
        predictions: from `add_ensembles`.
        params: draws, seed, confidence and the target sensitivity.

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
        threshold = None
        if not validation.empty:
            threshold = choose_threshold(
                validation["target"], validation["probability"], sensitivity=params.sensitivity_target
            )
        rows = evaluate_with_intervals(
            test["target"],
            test["probability"],
            weights=weights,
            confidence=params.confidence,
            target_threshold=threshold,
        )
        run = {"model": model, "regime": regime, "seed": seed, "name": name_series(model, regime)}
        parts.append(rows.assign(**run, threshold=np.nan if threshold is None else threshold))
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


def widen_seeds(seeds: pd.DataFrame, metrics: Sequence[str] = ("ap", "auc")) -> pd.DataFrame:
    """A single network's mean and standard deviation over seeds, beside the mean probability of all of them.

    Args:
        seeds: from `summarise_seeds`.
        metrics: a pair of columns each.

    Returns:
        a row per network and regime: `name`, `seeds`, and the columns in words.
    """
    networks = seeds[~find_classical(seeds)]
    wide = networks.drop_duplicates("name")[["name", "seeds"]].set_index("name")
    for metric in metrics:
        rows = networks[networks["metric"] == metric].set_index("name")
        single = [format_spread(row.mean_, row.sd) for row in rows.rename(columns={"mean": "mean_"}).itertuples()]
        wide[f"{label_metric(metric)}, single network"] = pd.Series(single, rows.index)
        wide[f"{label_metric(metric)}, all averaged"] = rows["ensemble"].map(format_value)
    return wide.reset_index()


def format_spread(mean: float, sd: float) -> str:
    """A mean with its standard deviation: `0.812 ± 0.011`; the mean alone where one seed leaves no spread."""
    return format_value(mean) if np.isnan(sd) else f"{mean:.3f} ± {sd:.3f}"


def widen_results(results: pd.DataFrame, metrics: Sequence[str], *, ensembles_only: bool = True) -> pd.DataFrame:
    """Results as people read them: a row per model, a column per metric, each cell a value with its interval."""
    rows = results[results["metric"].isin(metrics)]
    rows = rows[rows["seed"] == ENSEMBLE] if ensembles_only else rows
    cells = rows.assign(cell=[format_value(r.value, r.low, r.high) for r in rows.itertuples()])
    index = ["name"] if ensembles_only else ["name", "seed"]
    wide = cells.pivot_table(index=index, columns="metric", values="cell", aggfunc="first", sort=False)
    return wide[[m for m in metrics if m in wide]].rename(columns=label_metric).rename_axis(columns=None).reset_index()


def tabulate_calibration(predictions: pd.DataFrame, params: Comparison) -> pd.DataFrame:
    """Calibration on the test images, as trained and with the line of log odds that is fitted on validation.

    Returns:
        two rows per model and regime (mean probability over seeds) and per combination: `stage` ("before", "after"),
        `validation_images`, `intercept` and `recalibration_slope` of the line, `brier`, `brier_reference`, `log_loss`,
        `ece`, and `ece_expected`, `ece_low`, `ece_high`: what perfect calibration would show; `in_the_large`, `slope`
        and `observed_expected`, each with `_low` and `_high`, see `calibration.measure_calibration`.
    """
    rows = []
    for (model, regime, seed), validation, test in iterate_runs(predictions):
        if seed != ENSEMBLE or validation.empty:
            continue
        line = fit_recalibration(validation["target"], validation["logit"])
        run = {"model": model, "regime": regime, "name": name_series(model, regime)}
        fitted = {"validation_images": len(validation), "intercept": line.intercept, "recalibration_slope": line.slope}
        for stage, logits in (("before", test["logit"].to_numpy()), ("after", line.apply(test["logit"]))):
            measured = measure_calibration(test["target"], logits, confidence=params.confidence)
            losses = {name: float(value) for name, value in average_losses(test["target"], expit(logits)).items()}
            expected = expect_ece(
                expit(logits), draws=params.bootstrap_draws, confidence=params.confidence, seed=params.seed
            )
            bias = {"ece_expected": expected.mean, "ece_low": expected.low, "ece_high": expected.high}
            rows.append(run | {"stage": stage} | fitted | losses | bias | measured)
    return pd.DataFrame(rows)


def tabulate_controls(metadata: pd.DataFrame, params: Comparison) -> pd.DataFrame:
    """Rows that see no pixel: classifiers of metadata alone, and calling every image benign.

    Args:
        metadata: columns `control`, `image_id`, `target`, `probability`, from `control.predict_from_metadata`.
        params: draws, seed and confidence.

    Returns:
        as `tabulate_results` without run columns: `name`, `metric`, `value`, `low`, `high`, ...
    """
    parts = []
    for control, rows in metadata.groupby("control", sort=False):
        rows = rows.sort_values("image_id")
        parts.append((f"Metadata alone: {control}", rows["target"], rows["probability"]))
    targets = parts[0][1]
    parts.append(("Always benign", targets, np.zeros(len(targets))))
    weights = draw_weights(targets, draws=params.bootstrap_draws, seed=params.seed)
    tables = [
        evaluate_with_intervals(y, p, weights=weights, confidence=params.confidence).assign(name=name)
        for name, y, p in parts
    ]
    return pd.concat(tables, ignore_index=True)


def tabulate_leaderboard(
    results: pd.DataFrame,
    published: pd.DataFrame,
    controls: pd.DataFrame,
    *,
    classifiers: Mapping[tuple[str, str], str] | None = None,
) -> pd.DataFrame:
    """This study among the published results, best average precision first, comparable rows apart from the rest.

    Args:
        results: from `tabulate_results`; networks enter by their mean probability over seeds, and combinations.
        published: from `read_published`.
        controls: from `tabulate_controls`.
        classifiers: (model, regime) -> how it was chosen, of the classical classifiers to show; all of them have a
            table of their own.

    Returns:
        `name`, `group` ("this study", "controls", "published", "not comparable"), each of `LEADERBOARD_METRICS` with
        `_low` and `_high` (NaN in published rows), `citation`, `note`, `model` and `regime` ("" in
        rows of others). Names of published rows say in brackets why a row is not comparable and where a figure is
        recomputed or comes from a secondary source.
    """
    own = results[results["seed"] == ENSEMBLE]
    runs = pd.Series(list(zip(own["model"], own["regime"], strict=True)), own.index)
    marks = runs.map(lambda run: f" [{classifiers[run]}]" if run in (classifiers or {}) else "")
    own = own.assign(name=own["name"] + marks)[~find_classical(own) | (marks != "")]
    controls = controls.assign(model="", regime="")
    tables = [_spread_columns(own, "this study"), _spread_columns(controls, "controls")]
    rows = published.assign(
        name=_mark_names(published),
        model="",
        regime="",
        group=published["comparable"].map({True: "published", False: "not comparable"}),
    )
    tables += [part.sort_values("ap", ascending=False) for _, part in rows.groupby("group", sort=False)]
    columns = [f"{metric}{end}" for metric in LEADERBOARD_METRICS for end in ENDS]
    board = pd.concat(tables, ignore_index=True).reindex(
        columns=["name", "group", *columns, "citation", "note", "model", "regime"]
    )
    order = {"this study": 0, "controls": 1, "published": 2, "not comparable": 3}
    board = board.sort_values("group", key=lambda g: g.map(order), kind="stable", ignore_index=True)
    return board.fillna({"citation": "", "note": "", "model": "", "regime": ""})


def _mark_names(published: pd.DataFrame) -> list[str]:
    """A work's name with what a reader must know beside it: why it cannot be compared, how its figures were had."""
    certainty = published["certainty"].map(MARKS)
    marks = (", ".join(filter(None, pair)) for pair in zip(published["why_not"], certainty, strict=True))
    return [f"{work} [{mark}]" if mark else work for work, mark in zip(published["work"], marks, strict=True)]


def _spread_columns(rows: pd.DataFrame, group: str) -> pd.DataFrame:
    rows = rows[rows["metric"].isin(LEADERBOARD_METRICS)]
    wide = rows.pivot(index=["name", "model", "regime"], columns="metric", values=["value", "low", "high"])
    wide.columns = [metric if part == "value" else f"{metric}_{part}" for part, metric in wide.columns]
    return wide.sort_values("ap", ascending=False).reset_index().assign(group=group)
