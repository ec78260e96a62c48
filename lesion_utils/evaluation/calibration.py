"""Do the probabilities mean what they say? Brier score, calibration error, intercept and slope, recalibration."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression

from lesion_utils.core.errors import MetricError
from lesion_utils.evaluation.intervals import (
    ENDS,
    Estimate,
    Interval,
    map_draws,
    percentile_interval,
    split_draws,
    wilson_interval,
)
from lesion_utils.evaluation.metrics import check_scores

#: Bins of the calibration error and of the reliability curve, each with (nearly) the same number of images.
BINS = 10

#: The least slope of a recalibration.
FLATTEST = 0.01


def average_losses(
    targets: ArrayLike, probs: ArrayLike, *, weights: ArrayLike | None = None
) -> dict[str, NDArray[Any]]:
    """Brier score, its reference, log loss and expected calibration error, for one or many weightings.

    The reference of the Brier score is prevalence x (1 - prevalence), which giving every image the prevalence as its
    probability would score. The log loss clips probabilities at the resolution of float64, as scikit-learn does. Bins
    stay those of the unweighted images.

    Returns:
        `brier`, `brier_reference`, `log_loss` and `ece`, each a number or (draws,).
    """
    labels, scores = check_scores(targets, probs)
    weights = np.ones(labels.size) if weights is None else np.asarray(weights, dtype=np.float64)
    bounded = np.clip(scores, np.finfo(float).eps, 1 - np.finfo(float).eps)
    members = assign_bins(scores)[:, None] == np.arange(BINS)
    losses = (scores - labels) ** 2, -np.log(np.where(labels, bounded, 1 - bounded))
    columns = np.column_stack([np.ones(labels.size), labels, *losses, members * (scores - labels)[:, None]])
    total, malignant, brier, log_loss, *gaps = np.moveaxis(weights @ columns, -1, 0)
    prevalence = malignant / total
    return {
        "brier": brier / total,
        "brier_reference": prevalence * (1 - prevalence),
        "log_loss": log_loss / total,
        "ece": np.abs(gaps).sum(0) / total,
    }


def assign_bins(probs: NDArray[np.float64]) -> NDArray[np.intp]:
    """(N,) index of the equal-count bin of each score; tied scores share one, so some bins may stay empty."""
    edges = np.percentile(probs, np.linspace(0, 1, BINS + 1) * 100)
    return np.searchsorted(edges[1:-1], probs)


def measure_reliability(targets: ArrayLike, probs: ArrayLike, *, confidence: float) -> pd.DataFrame:
    """Observed share of malignant images against the predicted one, in bins of equal count.

    Returns:
        one row per bin that holds images: `predicted` and `observed` (means in [0, 1]), `low` and `high` (Wilson's
        interval of `observed`), `images`.
    """
    labels, scores = check_scores(targets, probs)
    table = pd.DataFrame({"bin": assign_bins(scores), "predicted": scores, "observed": labels.astype(float)})
    grouped = table.groupby("bin")
    rows = grouped[["predicted", "observed"]].mean().assign(images=grouped.size())
    malignant = grouped["observed"].sum()
    spans = [wilson_interval(*counts, confidence=confidence) for counts in zip(malignant, rows["images"], strict=True)]
    rows[["low", "high"]] = np.array(spans)
    return rows.reset_index(drop=True)[["predicted", "observed", "low", "high", "images"]]


def expect_ece(probs: ArrayLike, *, draws: int, confidence: float, seed: int) -> dict[str, float]:
    """The calibration error that a perfectly calibrated model with these scores would show: the bias of the estimate.

    The error is a mean of absolute values, so it is never zero on a finite test set. Labels are drawn from the scores
    themselves; a measured error within the range is no evidence of miscalibration.

    Returns:
        `ece_expected`, the mean, and `ece_expected_low` and `ece_expected_high`, the ends of the middle share.
    """
    scores = np.asarray(probs, dtype=np.float64)
    rng = np.random.default_rng(seed)
    members = (assign_bins(scores)[:, None] == np.arange(BINS)).astype(float)
    errors = np.empty(draws)
    for some in split_draws(draws, scores.size):
        labels = rng.random((len(errors[some]), scores.size)) < scores
        errors[some] = np.abs((scores - labels) @ members).sum(-1) / scores.size
    low, high = percentile_interval(errors, confidence=confidence)
    return {"ece_expected": float(errors.mean()), "ece_expected_low": low, "ece_expected_high": high}


def ece_interval(
    targets: ArrayLike, probs: ArrayLike, *, weights: ArrayLike, expected_high: float, confidence: float
) -> Interval:
    """A conservative interval of the calibration error, which is biased upwards, and more so by resampling.

    The lower end is the bootstrap's upper one mirrored at the measured error (Davison and Hinkley 1997, 5.2.1), or 0 if
    perfect calibration would show such an error as well; the upper end is the bootstrap's. In simulations of 379 images
    it holds the truth 93 to 99 times in 100; the percentiles at both ends do so 0 to 88 times, mirrored ones 82 to 99.

    Args:
        targets: (N,) labels, 0 or 1.
        probs: (N,) scores in [0, 1].
        weights: (draws, N) from `intervals.draw_weights`.
        expected_high: upper end of what perfect calibration would show, from `expect_ece`.
        confidence: nominal coverage.
    """
    value = float(average_losses(targets, probs)["ece"])
    draws = map_draws(lambda part: {"ece": average_losses(targets, probs, weights=part)["ece"]}, np.asarray(weights))
    _, high = percentile_interval(draws["ece"], confidence=confidence)
    return Interval(0.0 if value <= expected_high else max(0.0, 2 * value - high), high)


class Recalibration(NamedTuple):
    """A line through the log odds: `intercept + slope * logit` (Cox 1958, Platt 1999)."""

    intercept: float
    slope: float

    def apply(self, logits: ArrayLike) -> NDArray[np.float64]:
        """The logits (N,) of the recalibrated probabilities; their order stays."""
        return self.intercept + self.slope * np.asarray(logits, dtype=np.float64)


def fit_recalibration(targets: ArrayLike, logits: ArrayLike) -> Recalibration:
    """Logistic recalibration: intercept and slope of the labels' regression on the logits; fit it on validation.

    Platt's labels, (m + 1) / (m + 2) of m malignant and 1 / (n + 2) of n benign images instead of 1 and 0, leave a
    line to be found where the logits separate the classes. Where they rank worse than chance, the slope stops at
    `FLATTEST`: recalibration must not turn a ranking round.
    """
    labels, logits = _check_logits(targets, logits)
    softened = np.where(labels, (labels.sum() + 1) / (labels.sum() + 2), 1 / ((~labels).sum() + 2))
    if np.ptp(logits) > 0 and (line := _fit_line(softened, logits)).slope >= FLATTEST:
        return line
    return Recalibration(_find_shift(softened.sum(), FLATTEST * logits), FLATTEST)


def _check_logits(targets: ArrayLike, logits: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    logits = np.asarray(logits, dtype=np.float64)
    if not np.isfinite(logits).all():
        raise MetricError("a logit is NaN or infinite", expected="finite log odds")
    return check_scores(targets, expit(logits))[0], logits


def _fit_line(shares: NDArray[np.float64], logits: NDArray[np.float64]) -> Recalibration:
    """Maximum likelihood of labels that are (N,) shares in [0, 1]: each image counts for both classes in part."""
    regression = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10)
    classes, both = np.repeat([1, 0], logits.size), np.tile(logits, 2)[:, None]
    regression.fit(both, classes, sample_weight=np.concatenate([shares, 1 - shares]))
    return Recalibration(regression.intercept_.item(), regression.coef_.item())


def _find_shift(malignant: float, logits: NDArray[np.float64]) -> float:
    """What to add to all logits so that their probabilities sum to `malignant`."""
    low, high = logit(malignant / logits.size) - np.array([logits.max() + 1, logits.min() - 1])
    return brentq(lambda a: expit(a + logits).sum() - malignant, low, high, xtol=1e-12)


def measure_calibration(targets: ArrayLike, logits: ArrayLike, *, confidence: float) -> dict[str, float]:
    """How far probabilities lie from what was observed, in three numbers with their intervals.

    - `in_the_large`: what is missing from all log odds; 0 is perfect, above it the probabilities are too low.
    - `slope` of the labels' regression on the logits (Cox 1958); 1 is perfect, below it they are too extreme.
    - `observed_expected`: malignant images over the sum of probabilities; 1 is perfect.

    Intervals are Wald's, and for the ratio Debray's on the log scale (BMJ 2017, 356:i6460); the test images are taken
    for a random sample of their pool.

    Returns:
        each name, and with `_low` and `_high` its interval. Where the logits separate the classes there is no slope:
        NaN.
    """
    labels, logits = _check_logits(targets, logits)
    reach, malignant = norm.ppf((1 + confidence) / 2), labels.sum()
    shift = _find_shift(float(malignant), logits)
    slope, ratio = _measure_slope(labels, logits), malignant / expit(logits).sum()
    of_shift = reach / np.sqrt(_spread(expit(logits + shift)).sum())
    factor = np.exp(reach * np.sqrt((1 - labels.mean()) / malignant))
    spans = {
        "in_the_large": (shift, shift - of_shift, shift + of_shift),
        "slope": (slope.value, slope.value - reach * slope.error, slope.value + reach * slope.error),
        "observed_expected": (ratio, ratio / factor, ratio * factor),
    }
    return {name + end: float(v) for name, span in spans.items() for end, v in zip(ENDS, span, strict=True)}


def _measure_slope(labels: NDArray[np.bool_], logits: NDArray[np.float64]) -> Estimate:
    one, other = logits[labels], logits[~labels]
    if one.min() >= other.max() or other.min() >= one.max():
        return Estimate(np.nan, np.nan)
    line = _fit_line(labels.astype(float), logits)
    design = np.column_stack([np.ones(logits.size), logits])
    information = design.T @ (_spread(expit(line.apply(logits)))[:, None] * design)
    return Estimate(line.slope, float(np.sqrt(np.linalg.inv(information)[1, 1])))


def _spread(probs: NDArray[np.float64]) -> NDArray[np.float64]:
    return probs * (1 - probs)
