"""What a study set out to reach on the test images, and by how much it did, or did not."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from lesion_utils.config.schema import Aim
from lesion_utils.core.names import name_series
from lesion_utils.evaluation.evaluate import label_metric
from lesion_utils.evaluation.predictions import ENSEMBLE
from lesion_utils.evaluation.tables import format_value


def judge_aims(
    results: pd.DataFrame, aims: Mapping[str, Aim], *, best: tuple[str, str] | None, confidence: float
) -> list[str]:
    """A sentence for each aim: reached or missed, by how much, and whether its interval holds the aim.

    A network's row is judged as a single network: by the mean over its seeds, with the mean of the seeds' intervals,
    since averaging their probabilities makes a better classifier than any of them. The best row is judged as it stands.

    Args:
        results: from `tables.tabulate_results`.
        aims: of `comparison.yaml`: "resnet50/finetune" or "best" -> what it is to reach.
        best: (model, regime) of the row that validation puts first; None where there is none.
        confidence: of the intervals, 0 to 1.
    """
    return [
        _judge(results, row, metric, aim, best, f"{confidence * 100:g} %")
        for row, wanted in aims.items()
        for metric, aim in wanted
        if aim is not None
    ]


def _judge(
    results: pd.DataFrame, row: str, metric: str, aim: float, best: tuple[str, str] | None, confidence: str
) -> str:
    single = row != "best"
    if not (single or best):
        return "Aim for the row that validation puts first: none was chosen, as there are no validation images."
    model, regime = row.split("/") if single else best
    own = (results["model"] == model) & (results["regime"] == regime) & (results["metric"] == metric)
    rows = results[own & ((results["seed"] != ENSEMBLE) == single)]
    who = "a single network of" if single else "the row that validation puts first,"
    meant = f"Aim for {who} \u201c{name_series(model, regime)}\u201d: {label_metric(metric)} of at least {aim:g}"
    if rows.empty:
        return f"{meant}. There are no scores to judge it by."
    value, low, high = rows[["value", "low", "high"]].mean()
    verdict = "Reached" if value >= aim else f"Missed by {aim - value:.3f}"
    side = "within" if low <= aim <= high else "outside"
    what = f"means of {len(rows)} seeds and of their {confidence} intervals" if single else f"{confidence} interval"
    return f"{meant}. {verdict}: {format_value(value, low, high)}, {what}; the aim lies {side} the interval."
