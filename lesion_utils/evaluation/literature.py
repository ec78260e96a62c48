"""What others report on this task, whether it can be true, and their tables with this study's networks in them.

`published_results.csv` holds facts with citations. `certainty` says how each was had: "read" in the source, "computed"
from what the source gives, or "secondary", taken from another work and to be marked so wherever it is printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from lesion_utils.config.schema import Comparison
from lesion_utils.core.names import COMBINATION, REGIMES, name_model
from lesion_utils.evaluation.evaluate import evaluate
from lesion_utils.evaluation.intervals import ENDS, map_draws, percentile_interval
from lesion_utils.evaluation.predictions import ENSEMBLE, select_run
from lesion_utils.evaluation.ranking import CLASSICAL, find_classical

#: Half a unit of the third decimal, the last that the published rows give, and room for rounding the other way.
TOLERANCE = 0.0005 + 1e-9

#: The columns that one confusion matrix determines.
CONFUSION_SCORES = ("accuracy", "sensitivity", "specificity", "precision")

#: Readers' averages come from many confusion matrices.
AVERAGED = ("Eight dermatologists",)

SECONDARY_MARK = "secondary source"

#: What Lopez et al. print for each regime, and the specificity that the imbalance of the official test set calls for.
LOPEZ_METRICS = ("accuracy", "sensitivity", "specificity", "precision", "log_loss")

#: Columns of the leaderboard that come with an interval.
LEADERBOARD_METRICS = ("ap", "ap_trapezoid", "auc", "accuracy", "balanced_accuracy", "sensitivity", "specificity")

#: What is printed beside a figure for its certainty; one that was read in the source needs no mark.
MARKS = {"read": "", "computed": "recomputed", "secondary": SECONDARY_MARK}


def read_published(*, challenge: bool = True) -> pd.DataFrame:
    """The published rows.

    Args:
        challenge: whether the test images are those of ISIC 2016, which the published results rest on; no row if not.

    Returns:
        columns `work`, `year`, `method`, `regime` (of Lopez et al., else empty), the scores (NaN where not given),
        `malignant`, `benign` (test images), `comparable` (bool: on the official 379), `why_not`, `certainty`,
        `citation`, `note`.
    """
    text = dict.fromkeys(("work", "method", "regime", "comparable", "certainty", "citation", "note"), str)
    table = pd.read_csv(Path(__file__).with_name("published_results.csv"), dtype=text).fillna(dict.fromkeys(text, ""))
    why_not = table["comparable"].str.removeprefix("no: ").where(table["comparable"] != "yes", "")
    return table.assign(comparable=table["comparable"] == "yes", why_not=why_not)[: None if challenge else 0]


def list_readers(published: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Published human readers as `plot_roc` takes them: label with the source -> (sensitivity, specificity)."""
    return {
        f"{row.work} ({row.citation.partition(',')[0]}), {row.why_not}: sensitivity {row.sensitivity:.2f}, specificity "
        f"{row.specificity:.2f}": (row.sensitivity, row.specificity)
        for row in published[published["method"] == "human readers"].itertuples()
    }


def find_confusions(scores: pd.Series | dict[str, float], *, malignant: int, benign: int) -> list[tuple[int, int]]:
    """Every confusion matrix that gives the rounded scores, by trying them all.

    Args:
        scores: any of `CONFUSION_SCORES`, to three decimals; NaN and absent ones are not asked for.
        malignant, benign: test images of each class.

    Returns:
        all that fit, as malignant and benign images called rightly; none means that the scores contradict each other or
        the test set.
    """
    tp, tn = np.meshgrid(np.arange(malignant + 1), np.arange(benign + 1), indexing="ij")
    called = tp + benign - tn
    implied = {
        "accuracy": (tp + tn) / (malignant + benign),
        "sensitivity": tp / malignant,
        "specificity": tn / benign,
        "precision": np.divide(tp, called, out=np.full(tp.shape, np.nan), where=called > 0),
    }
    fits = np.ones(tp.shape, dtype=bool)
    for name in CONFUSION_SCORES:
        if name in scores and not pd.isna(scores[name]):
            fits &= np.abs(implied[name] - scores[name]) <= TOLERANCE
    return list(zip(tp[fits].tolist(), tn[fits].tolist(), strict=True))


def check_published(table: pd.DataFrame) -> pd.DataFrame:
    """Which published rows can come from one confusion matrix on their test set.

    Two scores or more are needed for a check; one alone nearly always fits.

    Returns:
        the rows' `work` with `scores` (how many could be checked), `matrices` (how many fit), `tp`, `tn` (missing
        unless exactly one fits), `verdict`: "consistent", "contradictory" or "not checkable", and the row's `note`.
    """
    rows = []
    for _, row in table.iterrows():
        given = int(row[list(CONFUSION_SCORES)].notna().sum())
        checkable = given >= 2 and row["work"] not in AVERAGED
        found = find_confusions(row, malignant=row["malignant"], benign=row["benign"]) if checkable else []
        tp, tn = found[0] if len(found) == 1 else (np.nan, np.nan)
        verdict = "not checkable" if not checkable else "consistent" if found else "contradictory"
        rows.append((row["work"], given, len(found), tp, tn, verdict, row["note"]))
    checked = pd.DataFrame(rows, columns=["work", "scores", "matrices", "tp", "tn", "verdict", "note"])
    return checked.astype({"tp": "Int64", "tn": "Int64"})


def draw_balanced(targets: ArrayLike, *, per_class: int, repeats: int, seed: int) -> NDArray[np.uint8]:
    """Subsets with as many malignant as benign images, drawn without replacement.

    Returns:
        (repeats, N) weights: 1 for `per_class` images of each class, fewer where a class has fewer; 0 for the rest.
    """
    labels = np.asarray(targets).astype(bool)
    size = min(per_class, int(labels.sum()), int((~labels).sum()))
    keys = np.random.default_rng(seed).random((repeats, labels.size))
    weights = np.zeros(keys.shape, dtype=np.uint8)
    for member in (labels, ~labels):
        ranks = keys[:, member].argsort(axis=1).argsort(axis=1)
        weights[:, member] = ranks < size
    return weights


def tabulate_regimes(
    predictions: pd.DataFrame, results: pd.DataFrame, published: pd.DataFrame, params: Comparison
) -> pd.DataFrame:
    """Lopez's table: three regimes, on the official test images and on balanced subsets of them.

    Lopez et al. tested on 75 + 75 images, where accuracy is another quantity than on the official 75 + 304; so theirs
    is set beside the mean over many such subsets, whose spread says what one subset is worth.

    Returns:
        one row per regime, source and metric: `regime`, `model` ("" of published rows), `source`, `balanced` (bool),
        `metric`, `value`, `low`, `high` (the interval, or the middle share of subsets; NaN in published rows), `sd`
        (over subsets; NaN elsewhere), `mark`.
    """
    own = results[(results["seed"] == ENSEMBLE) & results["regime"].isin(REGIMES) & (results["model"] != COMBINATION)]
    official = own[own["metric"].isin(LOPEZ_METRICS)].assign(balanced=False, sd=np.nan, mark="")
    parts = [official.assign(source=official["model"].map(name_model))]
    for (model, regime), _ in own.groupby(["model", "regime"], sort=False):
        run = select_run(predictions, model=model, regime=regime)
        parts.append(_evaluate_balanced(run, params).assign(regime=regime, model=model, source=name_model(model)))
    parts.append(_list_lopez(published))
    table = pd.concat(parts, ignore_index=True)
    columns = ["regime", "model", "source", "balanced", "metric", "value", "low", "high", "sd", "mark"]
    order = [table["regime"].map(REGIMES.index), table["metric"].map(LOPEZ_METRICS.index)]
    return table.iloc[np.lexsort(order[::-1])][columns].reset_index(drop=True)


def _evaluate_balanced(run: pd.DataFrame, params: Comparison) -> pd.DataFrame:
    targets, probs = run["target"], run["probability"]
    weights = draw_balanced(
        targets, per_class=params.balanced_subset, repeats=params.balanced_repeats, seed=params.seed
    )
    draws = map_draws(lambda part: evaluate(targets, probs, weights=part), weights)
    rows, marks = [], []
    for metric in LOPEZ_METRICS:
        spread = percentile_interval(draws[metric], confidence=params.confidence)
        values = draws[metric][~np.isnan(draws[metric])]
        mean, sd = (values.mean(), values.std(ddof=min(1, values.size - 1))) if values.size else (np.nan, np.nan)
        rows.append((metric, mean, *spread, sd))
        few = "" if values.size == draws[metric].size else f"{values.size} of "  # the others have no such value
        marks.append(f"mean of {few}{params.balanced_repeats} subsets")
    table = pd.DataFrame(rows, columns=["metric", "value", "low", "high", "sd"])
    return table.assign(balanced=True, mark=marks)


def _list_lopez(published: pd.DataFrame) -> pd.DataFrame:
    rows = published[published["regime"] != ""].melt(
        id_vars=["regime", "certainty"], value_vars=list(LOPEZ_METRICS), var_name="metric"
    )
    recalled = (rows["certainty"] == "secondary") | (rows["metric"] == "log_loss")  # a loss follows from no counts
    marks = rows["certainty"].map(MARKS).mask(recalled, SECONDARY_MARK)
    return (
        rows.dropna(subset="value")
        .assign(model="", source="VGG16, Lopez et al. 2017", balanced=True, mark=marks)
        .assign(low=np.nan, high=np.nan, sd=np.nan)
    )


def tabulate_classifiers(results: pd.DataFrame, *, metric: str) -> pd.DataFrame:
    """Benyahia's table: classical classifiers on the frozen features of each backbone.

    Returns:
        one row per backbone and classifier: `backbone`, `classifier`, `value`, `low`, `high`.
    """
    chosen = find_classical(results) & (results["metric"] == metric)
    rows = results[chosen & (results["seed"] == ENSEMBLE)]
    named = rows.assign(backbone=rows["model"], classifier=rows["regime"].str.removeprefix(CLASSICAL))
    return named[["backbone", "classifier", "value", "low", "high"]].reset_index(drop=True)


def tabulate_leaderboard(
    results: pd.DataFrame,
    published: pd.DataFrame,
    controls: pd.DataFrame,
    *,
    classifiers: Mapping[tuple[str, str], str] | None = None,
) -> pd.DataFrame:
    """This study among the published results, best average precision first, comparable rows apart from the rest.

    Args:
        controls: from `tables.tabulate_controls`.
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
    shown = classifiers or {}
    marks = runs.map(lambda run: f" [{shown[run]}]" if run in shown else "")
    own = own.assign(name=own["name"] + marks)[~find_classical(own) | (marks != "")]
    controls = controls.assign(model="", regime="")
    tables = [_list_group(own, "this study"), _list_group(controls, "controls")]
    rows = published.assign(name=_mark_names(published), model="", regime="").sort_values("ap", ascending=False)
    for group, comparable in (("published", True), ("not comparable", False)):
        tables.append(rows[rows["comparable"] == comparable].assign(group=group))
    columns = [f"{metric}{end}" for metric in LEADERBOARD_METRICS for end in ENDS]
    columns = ["name", "group", *columns, "citation", "note", "model", "regime"]
    board = pd.concat(tables, ignore_index=True).reindex(columns=columns)
    return board.astype({"citation": object, "note": object}).fillna({"citation": "", "note": ""})


def _mark_names(published: pd.DataFrame) -> list[str]:
    """A work's name with what a reader must know beside it: why it cannot be compared, how its figures were had."""
    certainty = published["certainty"].map(MARKS)
    marks = (", ".join(filter(None, pair)) for pair in zip(published["why_not"], certainty, strict=True))
    return [f"{work} [{mark}]" if mark else work for work, mark in zip(published["work"], marks, strict=True)]


def _list_group(rows: pd.DataFrame, group: str) -> pd.DataFrame:
    wide = spread_metrics(rows[rows["metric"].isin(LEADERBOARD_METRICS)], ["name", "model", "regime"])
    return wide.sort_values("ap", ascending=False).reset_index().assign(group=group)


def spread_metrics(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """A row per combination of `keys`, its index, with columns `<metric>`, `<metric>_low`, `<metric>_high`."""
    wide = rows.pivot(index=keys, columns="metric", values=["value", "low", "high"])
    wide.columns = [metric if part == "value" else f"{metric}_{part}" for part, metric in wide.columns]
    return wide
