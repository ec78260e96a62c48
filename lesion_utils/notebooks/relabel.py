"""A sensitivity analysis of 03 and 04: what comes out when the labels of training images are those of today."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from lesion_utils.config.schema import Comparison, Network
from lesion_utils.core.names import CLASSIFIER_NAMES
from lesion_utils.data.prepared import PreparedData
from lesion_utils.evaluation.evaluate import label_metric
from lesion_utils.evaluation.intervals import draw_weights, format_value
from lesion_utils.evaluation.paired_tests import compare_bootstrap
from lesion_utils.training.classifiers import ClassifierResult, score_classifiers

#: The classifier that learns twice: it takes seconds, where fine-tuning takes hours.
CLASSIFIER = "logistic"
#: What labels of today mean; what is indeterminate keeps its label of 2016.
TODAY = {"benign": 0, "melanoma": 1}


def relabel(data: PreparedData) -> tuple[PreparedData, int]:
    """The data with the labels that training images have today, and how many of those changed."""
    changes = data.label_changes.set_index("image_id")["label_today"].map(TODAY).dropna()
    table = data.table
    known = table["image_id"].isin(changes.index) & table["subset"].isin(("train", "val"))
    targets = table["target"].mask(known, table["image_id"].map(changes)).astype(table["target"].dtype)
    return replace(data, table=table.assign(target=targets)), int((targets != table["target"]).sum())


def compare_labels(params: Network, classical: ClassifierResult, data: PreparedData, stats: Comparison) -> str:
    """What a classifier reaches on the test images after it has learnt today's labels, beside those of 2016.

    Args:
        params: of the network whose frozen features it sees.
        classical: the classifiers of the study.
        stats: seed, draws and confidence of the paired bootstrap.
    """
    relabelled, count = relabel(data)
    before = _select_test(classical.predictions)
    if before.empty or not count:
        why = f"there is no {CLASSIFIER_NAMES[CLASSIFIER]} on frozen features"
        if not count:
            why = "no training image has another label today"
        return f"No classifier was refitted on the current labels: {why}."
    again = score_classifiers(params.model_copy(update={"classifiers": [CLASSIFIER]}), data=relabelled)
    both = before.merge(_select_test(again.predictions), on=["image_id", "target"], suffixes=("_2016", "_today"))
    targets, said = both["target"].to_numpy(), []
    weights = draw_weights(targets, draws=stats.bootstrap_draws, seed=stats.seed)
    for metric in ("ap", "auc"):
        scores = (both["probability_today"], both["probability_2016"])
        gap = compare_bootstrap(targets, *scores, metric=metric, weights=weights, confidence=stats.confidence)
        change = format_value(gap.difference, gap.low, gap.high, "+.3f")
        said.append(f"{label_metric(metric)} {gap.a:.3f} instead of {gap.b:.3f}, difference {change}")
    return (
        f"{count} training images have another label today. After refitting on the current labels, the "
        f"{CLASSIFIER_NAMES[CLASSIFIER]} on frozen features has on the test images: {'; '.join(said)}."
    )


def _select_test(predictions: pd.DataFrame) -> pd.DataFrame:
    own = (predictions["split"] == "test") & (predictions["regime"] == f"features:{CLASSIFIER}")
    return predictions.loc[own, ["image_id", "target", "probability"]]
