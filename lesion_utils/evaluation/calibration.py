"""Do the probabilities mean what they say? Brier score, calibration error, temperature scaling, decision curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit

from lesion_utils.core.errors import MetricError
from lesion_utils.evaluation.intervals import wilson_interval
from lesion_utils.evaluation.metrics import check_scores, rank_scores

#: Bins of the calibration error and of the reliability curve, each with (nearly) the same number of images.
BINS = 10

#: Temperatures between which the best is sought; the ends are reached when validation images are separated perfectly.
TEMPERATURES = (1e-2, 1e2)


def average_losses(targets: ArrayLike, probs: ArrayLike, *, weights: ArrayLike | None = None) -> dict[str, NDArray]:
    """Brier score, its reference, log loss and expected calibration error, for one or many weightings.

    The reference of the Brier score is prevalence x (1 - prevalence), which giving every image the prevalence as its
    probability would score. The log loss clips probabilities at the resolution of float64, as scikit-learn does.

    Args:
        targets: (N,) labels, 0 or 1.
        probs: (N,) scores in [0, 1].
        weights: (N,) or (draws, N) weight of each image; 1 by default. The bins stay those of the unweighted images.

    Returns:
        `brier`, `brier_reference`, `log_loss` and `ece`, each a number or (draws,).
    """
    labels, scores = check_scores(targets, probs)
    weights = np.ones(labels.size) if weights is None else np.asarray(weights, dtype=np.float64)
    bounded = np.clip(scores, np.finfo(float).eps, 1 - np.finfo(float).eps)
    members = assign_bins(scores)[:, None] == np.arange(BINS)
    columns = np.column_stack(
        [
            np.ones(labels.size),
            labels,
            (scores - labels) ** 2,
            -np.log(np.where(labels, bounded, 1 - bounded)),
            members * (scores - labels)[:, None],
        ]
    )
    total, malignant, brier, log_loss, *gaps = np.moveaxis(weights @ columns, -1, 0)
    prevalence = malignant / total
    return {
        "brier": brier / total,
        "brier_reference": prevalence * (1 - prevalence),
        "log_loss": log_loss / total,
        "ece": np.abs(gaps).sum(0) / total,
    }


def assign_bins(probs: NDArray[np.float64], *, bins: int = BINS) -> NDArray[np.intp]:
    """(N,) index of the equal-count bin of each score; tied scores share one, so some bins may stay empty."""
    edges = np.percentile(probs, np.linspace(0, 1, bins + 1) * 100)
    return np.searchsorted(edges[1:-1], probs)


def measure_reliability(targets: ArrayLike, probs: ArrayLike, *, confidence: float, bins: int = BINS) -> pd.DataFrame:
    """Observed share of malignant images against the predicted one, in bins of equal count.

    Returns:
        one row per bin that holds images: `predicted` and `observed` (means in [0, 1]), `low` and `high` (Wilson's
        interval of `observed`), `images`.
    """
    labels, scores = check_scores(targets, probs)
    table = pd.DataFrame({"bin": assign_bins(scores, bins=bins), "predicted": scores, "observed": labels.astype(float)})
    grouped = table.groupby("bin")
    rows = grouped[["predicted", "observed"]].mean().assign(images=grouped.size())
    malignant = grouped["observed"].sum()
    spans = [wilson_interval(*counts, confidence=confidence) for counts in zip(malignant, rows["images"], strict=True)]
    rows[["low", "high"]] = np.array(spans)
    return rows.reset_index(drop=True)[["predicted", "observed", "low", "high", "images"]]


class ExpectedError(NamedTuple):
    """The calibration error of a perfectly calibrated model: its mean, and the middle share of its distribution."""

    mean: float
    low: float
    high: float


def expect_ece(probs: ArrayLike, *, draws: int, confidence: float, seed: int) -> ExpectedError:
    """The calibration error that a perfectly calibrated model with these scores would show: the bias of the estimate.

    The error is a mean of absolute values, so it is never zero on a finite test set. Labels are drawn from the scores
    themselves; a measured error within the range is no evidence of miscalibration.
    """
    scores = np.asarray(probs, dtype=np.float64)
    labels = np.random.default_rng(seed).random((draws, scores.size)) < scores
    members = assign_bins(scores)[:, None] == np.arange(BINS)
    errors = np.abs((scores - labels) @ members.astype(float)).sum(-1) / scores.size
    tail = (1 - confidence) / 2
    return ExpectedError(float(errors.mean()), *np.quantile(errors, [tail, 1 - tail]).tolist())


def fit_temperature(targets: ArrayLike, logits: ArrayLike) -> float:
    """The temperature whose division of the logits gives the least log loss (Guo et al. 2017); fit it on validation.

    The log loss is convex in the inverse temperature, so the zero of its derivative is the one minimum.

    Args:
        targets: (N,) labels, 0 or 1, both present.
        logits: (N,) finite log odds.

    Returns:
        a temperature within `TEMPERATURES`; above 1 the model was too sure of itself.
    """
    logits = np.asarray(logits, dtype=np.float64)
    if not np.isfinite(logits).all():
        raise MetricError("a logit is NaN or infinite", expected="finite log odds")
    labels, _ = check_scores(targets, expit(logits))

    def slope(inverse: float) -> float:
        return float(((expit(inverse * logits) - labels) * logits).sum())

    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    if slope(low) >= 0:
        return TEMPERATURES[1]
    return TEMPERATURES[0] if slope(high) <= 0 else 1 / brentq(slope, low, high, xtol=1e-14)


class Calibration(NamedTuple):
    """Temperature scaling of one run: the temperature, and the test images' probabilities before and after."""

    temperature: float
    before: NDArray[np.float64]
    after: NDArray[np.float64]


def calibrate_run(validation: pd.DataFrame, test: pd.DataFrame) -> Calibration:
    """Fit the temperature on validation rows of predictions and apply it to the test rows."""
    temperature = fit_temperature(validation["target"], validation["logit"])
    return Calibration(
        temperature=temperature,
        before=test["probability"].to_numpy(),
        after=expit(test["logit"].to_numpy() / temperature),
    )


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
