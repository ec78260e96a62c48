"""Would acting on a score help? Decision curves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from lesion_utils.core.errors import MetricError
from lesion_utils.evaluation.metrics import rank_scores


def compute_net_benefit(targets: ArrayLike, probs: ArrayLike, *, thresholds: ArrayLike) -> NDArray[np.float64]:
    """Net benefit per image of acting on every score of **at least** a threshold (Vickers and Elkin 2006).

    It is TP / N - FP / N x t / (1 - t): what malignant images acted on gain, less what benign ones cost, when t is the
    probability from which one would act.

    Args:
        targets: (N,) labels, 0 or 1.
        probs: (N,) scores in [0, 1].
        thresholds: (T,) in (0, 1).

    Returns:
        (T,) net benefits, in malignant images per image.
    """
    at = np.asarray(thresholds, dtype=np.float64)
    if not ((at > 0) & (at < 1)).all():
        raise MetricError("a decision threshold is not between 0 and 1", expected="finite odds t / (1 - t)")
    ranking = rank_scores(targets, probs)
    acted = np.searchsorted(-ranking.thresholds, -at, side="right")
    tp, fp = np.append(0, ranking.tp)[acted], np.append(0, ranking.fp)[acted]
    return (tp - fp * at / (1 - at)) / (ranking.tp[-1] + ranking.fp[-1])


def trace_decision_curves(targets: ArrayLike, probs: Mapping[str, ArrayLike], *, thresholds: ArrayLike) -> pd.DataFrame:
    """Decision curves of several models on the same images, between treating all and treating none.

    Args:
        targets: (N,) labels, 0 or 1.
        probs: name -> (N,) scores in [0, 1].
        thresholds: (T,) in (0, 1).

    Returns:
        one row per name and threshold: `name`, `threshold`, `net_benefit`; "treat all" and "treat none" come last.
    """
    everyone = dict(probs) | {"treat all": np.ones(len(targets)), "treat none": np.zeros(len(targets))}
    curves = {name: compute_net_benefit(targets, scores, thresholds=thresholds) for name, scores in everyone.items()}
    return pd.concat(
        [pd.DataFrame({"name": name, "threshold": thresholds, "net_benefit": curve}) for name, curve in curves.items()],
        ignore_index=True,
    )
