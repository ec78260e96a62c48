"""Scores of external images: the measures of the internal test set with their intervals, and the drop between both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lesion_utils.config.schema import Comparison
from lesion_utils.core.names import SeriesName
from lesion_utils.evaluation.calibration import measure_calibration
from lesion_utils.evaluation.evaluate import AT_TARGET
from lesion_utils.evaluation.intervals import (
    ENDS,
    delong_interval,
    draw_weights,
    logit_interval,
    map_draws,
    percentile_interval,
    wilson_interval,
)
from lesion_utils.evaluation.metrics import DEFAULT_THRESHOLD, Ranking, rank_scores
from lesion_utils.evaluation.predictions import ENSEMBLE, iterate_means
from lesion_utils.evaluation.shortcuts import CONTROL, FEWEST, predict_external
from lesion_utils.evaluation.tables import widen_metrics

#: Columns by whose values images are judged apart, where a file of labels has them.
GROUPS = {"site": "site", "skin_type": "skin type"}
EVERYONE = "all"
UNKNOWN = (np.nan, np.nan)


class ExternalResults(NamedTuple):
    """Results on the external test sets (`set`): of networks, combinations and the metadata-only baseline."""

    measures: pd.DataFrame  # see `judge_scores`, with `set`, `name`, `model`, `regime`
    drops: pd.DataFrame  # see `measure_drops`, likewise


def judge_scores(table: pd.DataFrame, params: Comparison, *, threshold: float | None) -> pd.DataFrame:
    """Measures of one model's scores on one set of images: on all of them, and by site and skin type.

    Args:
        table: columns `target`, `probability`, `logit` (NaN where there is none), and those of `GROUPS` that are known.
        threshold: above which an image is predicted malignant, chosen on the own validation images; by
            default `DEFAULT_THRESHOLD`.

    Returns:
        one row per group and metric: `group` ("all", "site A", ...), `images`, `malignant`, `metric`, `value`, `low`,
        `high`. Without both classes there are calls alone; with fewer than `FEWEST` images of one, ranking and
        calibration have no interval.
    """
    rows = []
    for group, part in _list_groups(table):
        counted = {"group": group, "images": len(part), "malignant": int(part["target"].sum())}
        for metric, span in _measure(part, params, threshold).items():
            rows.append(counted | {"metric": metric} | dict(zip(("value", "low", "high"), span, strict=True)))
    return pd.DataFrame(rows)


def _list_groups(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    yield EVERYONE, table
    for column, word in GROUPS.items():
        if column in table:
            for value, part in table[table[column].fillna("") != ""].groupby(column):
                yield f"{word} {value}", part


def _measure(part: pd.DataFrame, params: Comparison, threshold: float | None) -> dict[str, tuple[float, float, float]]:
    """Metric -> value, low, high."""
    targets, probs = part["target"].to_numpy(), part["probability"].to_numpy()
    ending, called = ("", probs > DEFAULT_THRESHOLD) if threshold is None else (AT_TARGET, probs > threshold)
    found, confidence = {}, params.confidence
    fewest = min(targets.sum(), (1 - targets).sum())
    if fewest:
        ranking, of_ap, of_auc = rank_scores(targets, probs), UNKNOWN, UNKNOWN
        if fewest >= FEWEST:
            draws = _draw(targets, probs, params, lambda r: {"ap": r.average_precision()})
            of_ap = logit_interval(float(ranking.average_precision()), draws["ap"], confidence=confidence)
            of_auc = delong_interval(targets, probs, confidence=confidence)
        found = {"ap": (float(ranking.average_precision()), *of_ap), "auc": (float(ranking.roc_auc()), *of_auc)}
    for metric, member, right in (("sensitivity", targets == 1, called), ("specificity", targets == 0, ~called)):
        if member.any():
            hits, count = int((right & member).sum()), int(member.sum())
            found[metric + ending] = hits / count, *wilson_interval(hits, count, confidence=confidence)
    if fewest and part["logit"].notna().all():
        measured = measure_calibration(targets, part["logit"], confidence=confidence)
        for name in ("in_the_large", "slope"):
            value, *span = (measured[name + end] for end in ENDS)
            found[name] = (value, *(span if fewest >= FEWEST else UNKNOWN))
    return found


def _draw(
    targets: NDArray[Any],
    probs: NDArray[Any],
    params: Comparison,
    compute: Callable[[Ranking], dict[str, NDArray[Any]]],
    *,
    seed: int = 0,
) -> dict[str, NDArray[Any]]:
    """Bootstrap draws of what `compute` makes of a ranking."""
    weights = draw_weights(targets, draws=params.bootstrap_draws, seed=params.seed + seed)
    return map_draws(lambda part: compute(rank_scores(targets, probs, weights=part)), weights)


def measure_drops(
    internal: pd.DataFrame, external: pd.DataFrame, params: Comparison, *, threshold: float | None
) -> pd.DataFrame:
    """What a model loses from the internal to the external test images; they are others, so nothing is paired.

    Args:
        internal: columns `target`, `probability`; so has `external`. Each is resampled by itself.
        threshold: chosen on the own validation images; by
            default `DEFAULT_THRESHOLD`.

    Returns:
        one row per metric: `metric`, `internal`, `external`, `drop` (internal minus external), `low`, `high`. Empty
        with fewer than `FEWEST` images of a class on either side.
    """
    ending = "" if threshold is None else AT_TARGET

    def compute(ranking: Ranking) -> dict[str, NDArray[Any]]:
        calls = ranking.confusion(DEFAULT_THRESHOLD if threshold is None else threshold)
        shares = {f"sensitivity{ending}": calls.sensitivity, f"specificity{ending}": calls.specificity}
        return {"ap": ranking.average_precision(), "auc": ranking.roc_auc()} | shares

    sides = [(side["target"].to_numpy(), side["probability"].to_numpy()) for side in (internal, external)]
    if min(min(targets.sum(), (1 - targets).sum()) for targets, _ in sides) < FEWEST:
        return pd.DataFrame(columns=["metric", "internal", "external", "drop", "low", "high"])
    values = [compute(rank_scores(*side)) for side in sides]
    draws = [_draw(*side, params, compute, seed=k) for k, side in enumerate(sides)]
    rows = []
    for metric in values[0]:
        inside, outside = (float(value[metric]) for value in values)
        span = percentile_interval(draws[0][metric] - draws[1][metric], confidence=params.confidence)
        rows.append(
            {"metric": metric, "internal": inside, "external": outside, "drop": inside - outside} | span._asdict()
        )
    return pd.DataFrame(rows)


def examine_external(
    internal: pd.DataFrame,
    external: pd.DataFrame,
    results: pd.DataFrame,
    params: Comparison,
    *,
    images: pd.DataFrame,
    others: pd.DataFrame,
) -> ExternalResults:
    """Every network and combination on every external set, and the control that knows sizes and bytes.

    Images that training has seen are left out.

    Args:
        internal: predictions on the study's own images.
        external: predictions on the others; their split is "test".
        results: has the threshold of each row.
        images: the study's own, as `PreparedData.table`.
        others: the external ones, as `PreparedData.external`.
    """
    known = others[~find_seen(others)]
    tests = {(name.model, name.regime): (name, test) for name, _, test in iterate_means(internal)}
    chosen = results[results["seed"] == ENSEMBLE].drop_duplicates("name").set_index("name")["threshold"]
    rows = [
        (tests[key][0], tests[key][1], scored, chosen.get(tests[key][0], np.nan))
        for name, _, scored in iterate_means(external)
        if (key := (name.model, name.regime)) in tests
    ]
    control = SeriesName("Metadata alone: size and bytes", CONTROL, "size and bytes")
    rows.append((control, *predict_external(images, others), np.nan))
    measures, drops = [], []
    for name, own, scored, threshold in rows:
        columns = ["image_id", "set", *(column for column in GROUPS if column in known)]
        joined = scored[["image_id", "target", "probability", "logit"]].merge(known[columns], on="image_id")
        limit = None if np.isnan(threshold) else float(threshold)
        for place, part in joined.groupby("set", sort=False):
            about = {"set": place} | name.columns
            measures.append(judge_scores(part, params, threshold=limit).assign(**about))
            drops.append(measure_drops(own, part, params, threshold=limit).assign(**about))
    return ExternalResults(pd.concat(measures, ignore_index=True), pd.concat(drops, ignore_index=True))


def find_seen(others: pd.DataFrame) -> pd.Series:
    """Which external images show a photograph that the networks learnt from or were chosen on."""
    return others["seen_in"].isin(("train", "val"))


def widen_measures(measures: pd.DataFrame) -> pd.DataFrame:
    """Measures as people read them: a row per set, model and group, a column per metric."""
    keys = [key for key in ("set", "name", "group", "images", "malignant") if key in measures]
    return widen_metrics(measures, keys, list(dict.fromkeys(measures["metric"]))).fillna("–")
