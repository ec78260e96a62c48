"""A first look at test scores, in the notebooks before the comparison.

Its settings are fixed, so that a change of `comparison.yaml` does not concern the notebooks that train. They are those
of the studies that come with the project, whose intervals are then the same here and in 05_comparison.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lesion_utils.evaluation.evaluate import band_precision_recall, band_roc, evaluate_with_intervals
from lesion_utils.evaluation.intervals import draw_weights
from lesion_utils.evaluation.metrics import rank_scores

CONFIDENCE, DRAWS, SEED = 0.95, 10_000, 2016


class FirstLook(NamedTuple):
    """Values, intervals and bands of one set of scores."""

    metrics: dict[str, dict[str, float]]  # metric -> value, low, high
    confusion: np.ndarray  # (2, 2) int at the threshold 0.5, rows the truth, benign first
    roc: tuple[np.ndarray, np.ndarray, np.ndarray]
    precision_recall: tuple[np.ndarray, np.ndarray, np.ndarray]

    def write(self, metric: str) -> str:
        """A value with its interval, such as "AUC 0.821 (0.765 to 0.877)"."""
        return metric.upper() + " {value:.3f} ({low:.3f} to {high:.3f})".format(**self.metrics[metric])

    def flatten(self, *metrics: str) -> dict[str, float]:
        """Values and intervals for one row of a table: `auc`, `auc_low`, `auc_high`, ..."""
        row = {}
        for metric in metrics:
            found = self.metrics[metric]
            row |= {metric: found["value"], f"{metric}_low": found["low"], f"{metric}_high": found["high"]}
        return row


def look_at(targets: np.ndarray, probs: np.ndarray) -> FirstLook:
    """Evaluate one set of test scores.

    Args:
        targets: (N,) int, 0 benign, 1 malignant.
        probs: (N,) float in [0, 1].
    """
    weights = draw_weights(targets, draws=DRAWS, seed=SEED)
    settings = {"weights": weights, "confidence": CONFIDENCE}
    table = evaluate_with_intervals(targets, probs, **settings).set_index("metric")
    at_half = rank_scores(targets, probs).confusion(0.5)
    return FirstLook(
        metrics=table[["value", "low", "high"]].to_dict("index"),
        confusion=np.array([[at_half.tn, at_half.fp], [at_half.fn, at_half.tp]]).astype(int),
        roc=band_roc(targets, probs, **settings),
        precision_recall=band_precision_recall(targets, probs, **settings),
    )
