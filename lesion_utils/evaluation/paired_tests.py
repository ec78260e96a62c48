"""Tests between two models that scored the same images: DeLong, paired bootstrap, McNemar, and what they could show."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest, norm

from lesion_utils.core.errors import MetricError
from lesion_utils.evaluation.intervals import (
    Placements,
    combine_placements,
    map_draws,
    percentile_interval,
    place_scores,
)
from lesion_utils.evaluation.metrics import DEFAULT_THRESHOLD, Ranking, check_scores, rank_scores


class PairedTest(NamedTuple):
    """A difference between models a and b on the same images."""

    test: str  # how it was tested
    metric: str  # what differs
    a: float
    b: float
    difference: float  # a minus b
    low: float  # of its confidence interval, NaN where the test gives none; so are `high` and `error`
    high: float
    error: float  # standard error
    p: float  # two-sided


def compare_delong(targets: ArrayLike, probs_a: ArrayLike, probs_b: ArrayLike, *, confidence: float) -> PairedTest:
    """DeLong's test of two correlated AUCs (1988).

    Without any variance (such as two identical models) p is 1 when the AUCs are equal and 0 when they are not.
    """
    a, b = place_scores(targets, probs_a), place_scores(targets, probs_b)
    difference, error = combine_placements(Placements(a.malignant - b.malignant, a.benign - b.benign))
    reach = norm.ppf((1 + confidence) / 2) * error
    p = 2 * norm.sf(abs(difference) / error) if error > 0 else float(difference == 0)
    values = float(a.malignant.mean()), float(b.malignant.mean()), difference
    return PairedTest("DeLong", "auc", *values, float(difference - reach), float(difference + reach), error, float(p))


def compare_bootstrap(
    targets: ArrayLike, probs_a: ArrayLike, probs_b: ArrayLike, *, metric: str, weights: ArrayLike, confidence: float
) -> PairedTest:
    """Paired bootstrap: the difference between the models in every draw, both weighted alike.

    The p-value is the share of draws whose distance from the sample's difference is at least that difference, counting
    the sample itself as a draw: the draws are moved to where the difference is zero, as the null hypothesis has it
    (Hall and Wilson 1991). It does not come from the interval, so near its level the two may disagree.

    Args:
        metric: "ap" or "auc".
    """
    compute = RANKING_METRICS[metric]
    a, b = (float(compute(rank_scores(targets, probs))) for probs in (probs_a, probs_b))

    def compare(part: np.ndarray) -> dict[str, np.ndarray]:
        first, second = (compute(rank_scores(targets, probs, weights=part)) for probs in (probs_a, probs_b))
        return {"difference": first - second}

    differences = map_draws(compare, np.asarray(weights))["difference"]
    beyond = (np.abs(differences - (a - b)) >= abs(a - b)).sum()
    p = float((beyond + 1) / (differences.size + 1))
    span, error = percentile_interval(differences, confidence=confidence), float(differences.std(ddof=1))
    return PairedTest("paired bootstrap", metric, a, b, a - b, *span, error, p)


#: What the paired bootstrap can compare.
RANKING_METRICS: dict[str, Callable[[Ranking], np.ndarray]] = {"ap": Ranking.average_precision, "auc": Ranking.roc_auc}


def compare_mcnemar(targets: ArrayLike, probs_a: ArrayLike, probs_b: ArrayLike) -> PairedTest:
    """McNemar's exact test (1947) on the images that exactly one of the models calls rightly."""
    labels, a = check_scores(targets, probs_a)
    _, b = check_scores(targets, probs_b)
    right_a, right_b = (a > DEFAULT_THRESHOLD) == labels, (b > DEFAULT_THRESHOLD) == labels
    only_a, only_b = int((right_a & ~right_b).sum()), int((~right_a & right_b).sum())
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    values = float(right_a.mean()), float(right_b.mean()), (only_a - only_b) / labels.size
    return PairedTest("McNemar, exact", "accuracy", *values, np.nan, np.nan, np.nan, p)


def detectable_difference(error: float, *, alpha: float, power: float) -> float:
    """The smallest true difference that a two-sided test with this standard error finds with the given power.

    Args:
        error: standard error of the difference, such as DeLong's on the test set at hand.
        alpha: two-sided significance level.
        power: probability of a significant result.
    """
    if not error >= 0:
        raise MetricError(f"a standard error of {error}", expected="a number of at least 0")
    return float((norm.ppf(1 - alpha / 2) + norm.ppf(power)) * error)
