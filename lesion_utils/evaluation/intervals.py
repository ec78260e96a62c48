"""How far a number can be trusted: bootstrap, DeLong and Wilson intervals.

The bootstrap resamples the benign and the malignant images apart, so that every draw keeps the test set's counts. It
says how much another test set from the same pool might differ, not another training run: that is what seeds show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from scipy.stats import norm, rankdata

from lesion_utils.core.errors import MetricError
from lesion_utils.evaluation.metrics import check_scores

#: Draws worked on together: few enough to stay in the processor's cache, which makes the whole several times faster.
CHUNK_ENTRIES = 200_000
#: Draws made together, times images.
PART_ENTRIES = 2**24

#: A value, and both ends of its interval, in the names of columns.
ENDS = ("", "_low", "_high")


def format_value(value: float, low: float = np.nan, high: float = np.nan, form: str = ".3f") -> str:
    """A number as tables and sentences print it: `0.812 (0.754 to 0.861)`, a dash where it is undefined."""
    if np.isnan(value):
        return "–"
    text = f"{value:{form}}" if np.isnan(low) else f"{value:{form}} ({low:{form}} to {high:{form}})"
    return text.replace("-", "−")


class Interval(NamedTuple):
    """Both ends of a confidence interval."""

    low: float
    high: float


def draw_weights(targets: ArrayLike, *, draws: int, seed: int, strata: ArrayLike | None = None) -> NDArray[np.uint16]:
    """How often a stratified bootstrap draws each image.

    The same labels, draws and seed give the same counts, so two models evaluated with them are compared in pairs.

    Args:
        strata: (N,) labels of groups, each of which is resampled by itself; one group by default.

    Returns:
        (draws, N) counts; in every row those of each class (and stratum) sum to its size.

    Raises:
        MetricError: a class is missing.
    """
    labels = np.asarray(targets).astype(bool)
    if labels.all() or not labels.any():
        raise MetricError("labels of one class cannot be drawn by class", expected="at least one image of each class")
    rng = np.random.default_rng(seed)
    weights = np.empty((draws, labels.size), dtype=np.uint16)
    strata = np.zeros(labels.size) if strata is None else np.asarray(strata)
    groups = [(strata == stratum) & member for stratum in np.unique(strata) for member in (~labels, labels)]
    for member in filter(np.any, groups):
        size = int(member.sum())
        for some in split_draws(draws, size):  # at once they would take four times the memory
            weights[some, member] = rng.multinomial(size, np.full(size, 1 / size), size=len(weights[some]))
    return weights


def split_draws(draws: int, size: int) -> Iterator[slice]:
    """Draws of so many images each, in parts that take little memory; those of a few thousand images are one part."""
    step = max(1, PART_ENTRIES // size)
    return (slice(start, start + step) for start in range(0, draws, step))


def map_draws(
    compute: Callable[[NDArray[Any]], dict[str, NDArray[Any]]], weights: NDArray[Any]
) -> dict[str, NDArray[np.float64]]:
    """Apply a function of (draws, N) weights to all draws, a cache-sized part at a time; values gain length draws."""
    step = max(1, CHUNK_ENTRIES // weights.shape[1])
    parts = [compute(weights[start : start + step]) for start in range(0, len(weights), step)]
    return {name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in parts[0]}


def percentile_interval(values: NDArray[np.float64], *, confidence: float) -> Interval:
    """The middle share of bootstrap values. Draws in which the metric is undefined (NaN) are left out."""
    tail = (1 - confidence) / 2
    if np.isnan(values).all():
        return Interval(np.nan, np.nan)
    return Interval(*np.nanquantile(values, [tail, 1 - tail]).tolist())


def logit_interval(value: float, draws: NDArray[np.float64], *, confidence: float) -> Interval:
    """A normal interval on the logit scale, with the bootstrap's standard error (Boyd, Eng and Page 2013).

    For average precision, which is bounded and biased upwards in small samples: a bootstrap repeats the bias, so its
    percentile interval lies too high. `benchmarks/coverage.txt` has the coverage of both.

    Args:
        value: the metric of the sample, in [0, 1].
        draws: (draws,) its bootstrap values.
        confidence: nominal coverage.
    """
    if not 0 < value < 1:
        return Interval(value, value)
    reach = norm.ppf((1 + confidence) / 2) * draws.std(ddof=1) / (value * (1 - value))
    return Interval(*expit(logit(value) + np.array([-reach, reach])).tolist())


def wilson_interval(successes: float, trials: float, *, confidence: float) -> Interval:
    """Wilson's score interval of a proportion (1927); NaN where there is no trial.

    Counts are whole numbers, so no interval of a proportion covers it equally often everywhere. Of Wilson's, Jeffreys'
    and the mid-P interval, Wilson's keeps to 93 to 97 % over most of the range at 75 and at 304 images, see
    `benchmarks/stats.py proportions`; above a share of 0.95 of 75 images it swings between 92 and 98 %.
    """
    if trials == 0:
        return Interval(np.nan, np.nan)
    share, reach = successes / trials, norm.ppf((1 + confidence) / 2)
    centre, shrink = share + reach**2 / (2 * trials), 1 + reach**2 / trials
    half = reach * np.sqrt(share * (1 - share) / trials + (reach / (2 * trials)) ** 2)
    return Interval(float(max(0, centre - half) / shrink), float(min(shrink, centre + half) / shrink))


def combine_intervals(values: ArrayLike, intervals: Sequence[Interval], *, weights: ArrayLike) -> Interval:
    """An interval of a weighted sum of independent estimates, recovered from theirs (MOVER, Zou and Donner 2008).

    Accuracy is the sum of sensitivity and specificity weighted by the classes' shares. With Wilson's intervals this one
    keeps a width where every image is called alike and a bootstrap has nothing to vary. Each of the (K,) values has an
    interval and a non-negative weight.
    """
    values, weights = np.asarray(values), np.asarray(weights)
    low, high = np.transpose(intervals)
    centre = weights @ values
    return Interval(
        float(centre - np.linalg.norm(weights * (values - low))),
        float(centre + np.linalg.norm(weights * (high - values))),
    )


class Placements(NamedTuple):
    """DeLong's components of the AUC (DeLong, DeLong and Clarke-Pearson 1988); ties count one half."""

    malignant: NDArray[np.float64]  # (m,) share of the benign images that each malignant image scores above
    benign: NDArray[np.float64]  # (n,) share of the malignant images that score above each benign image


def place_scores(targets: ArrayLike, probs: ArrayLike) -> Placements:
    """Place every image among those of the other class, by midranks (Sun and Xu 2014): n log n, not m x n.

    Raises:
        MetricError: as `check_scores`, or a class has a single image and so no variance.
    """
    labels, scores = check_scores(targets, probs)
    positive, negative = scores[labels], scores[~labels]
    if min(positive.size, negative.size) < 2:
        raise MetricError("a variance needs two images of each class", expected="at least 2 benign and 2 malignant")
    ranks = rankdata(scores)
    return Placements(
        malignant=(ranks[labels] - rankdata(positive)) / negative.size,
        benign=1 - (ranks[~labels] - rankdata(negative)) / positive.size,
    )


class Estimate(NamedTuple):
    """A value with its standard error."""

    value: float
    error: float


def combine_placements(placements: Placements) -> Estimate:
    """AUC and DeLong's standard error; or, of the difference of two models' placements, those of the difference."""
    variance = sum(part.var(ddof=1) / part.size for part in placements)
    return Estimate(value=float(placements.malignant.mean()), error=float(np.sqrt(variance)))


def delong_interval(targets: ArrayLike, probs: ArrayLike, *, confidence: float) -> Interval:
    """DeLong's normal interval of the AUC, cut at 0 and 1. A perfect ranking has no spread and gives (1, 1)."""
    auc, error = combine_placements(place_scores(targets, probs))
    reach = norm.ppf((1 + confidence) / 2) * error
    return Interval(max(0.0, auc - reach), min(1.0, auc + reach))


def bounds_from_below(sensitivity: float, malignant: int, *, confidence: float) -> bool:
    """Whether a test set can bound the specificity at a high sensitivity from below.

    The threshold in question leaves a share 1 - sensitivity of all malignant images under it. If the sample may well
    hold none of those (probability sensitivity ** malignant above half of 1 - confidence), its lowest score says
    nothing about how much lower the threshold lies, and a bootstrap, which never looks below that score, would claim
    too much.
    """
    return sensitivity**malignant <= (1 - confidence) / 2
