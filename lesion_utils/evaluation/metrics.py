"""Point metrics of scores against labels, for one test set or for thousands of reweighted ones at once.

`rank_scores` sorts the images once and counts, at every distinct score, the malignant and the benign images that
score at least as much. Every ranking metric and every confusion matrix is a few sums over these two staircases.
Given weights of shape (draws, N), the staircases and the metrics gain a leading axis: that is how a bootstrap of
ten thousand draws takes a second.

Labels: 1 malignant, 0 benign. An image is predicted malignant when its score exceeds the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lesion_utils.core.errors import MetricError

#: An image is predicted malignant if its score is above this; a score of exactly one half is benign (ISIC 2016).
DEFAULT_THRESHOLD = 0.5


def check_scores(targets: ArrayLike, probs: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Labels and scores as arrays that every metric here is defined for.

    Args:
        targets: (N,) labels, 0 benign or 1 malignant.
        probs: (N,) scores in [0, 1].

    Returns:
        targets (N,) bool and probs (N,) float64.

    Raises:
        MetricError: lengths differ; a label is neither 0 nor 1; a score is NaN or outside [0, 1]; a class is missing.
    """
    labels, scores = np.asarray(targets), np.asarray(probs, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise MetricError(
            f"labels have shape {labels.shape} and scores {scores.shape}", expected="two vectors of one length"
        )
    if not np.isin(labels, (0, 1)).all():
        raise MetricError("a label is neither 0 nor 1", expected="0 benign, 1 malignant")
    if np.isnan(scores).any():
        raise MetricError(
            f"{int(np.isnan(scores).sum())} of {scores.size} scores are NaN",
            do="look for the run whose training diverged; a metric would hide it",
        )
    if ((scores < 0) | (scores > 1)).any():
        raise MetricError(
            f"scores run from {scores.min():g} to {scores.max():g}", expected="probabilities in [0, 1], not logits"
        )
    labels = labels.astype(bool)
    if labels.all() or not labels.any():
        raise MetricError(
            f"{int(labels.sum())} malignant of {labels.size} images", expected="at least one image of each class"
        )
    return labels, scores


@dataclass(frozen=True)
class Confusion:
    """Counts (or sums of weights) at one threshold; each a number or an array (draws,)."""

    tp: NDArray[np.float64]
    fp: NDArray[np.float64]
    fn: NDArray[np.float64]
    tn: NDArray[np.float64]

    @property
    def accuracy(self) -> NDArray[np.float64]:
        return (self.tp + self.tn) / (self.tp + self.fp + self.fn + self.tn)

    @property
    def sensitivity(self) -> NDArray[np.float64]:
        return self.tp / (self.tp + self.fn)

    @property
    def specificity(self) -> NDArray[np.float64]:
        return self.tn / (self.tn + self.fp)

    @property
    def balanced_accuracy(self) -> NDArray[np.float64]:
        return (self.sensitivity + self.specificity) / 2

    @property
    def precision(self) -> NDArray[np.float64]:
        """Share of malignant images among those predicted malignant; NaN where none is."""
        called = self.tp + self.fp
        return np.divide(self.tp, called, out=np.full(np.shape(called), np.nan), where=called > 0)[()]

    @property
    def f1(self) -> NDArray[np.float64]:
        return 2 * self.tp / (2 * self.tp + self.fp + self.fn)

    @property
    def mcc(self) -> NDArray[np.float64]:
        """Matthews's correlation; 0 where every image is called alike, as in scikit-learn."""
        called, passed = self.tp + self.fp, self.tn + self.fn
        scale = np.sqrt(called) * np.sqrt(passed) * np.sqrt(self.tp + self.fn) * np.sqrt(self.tn + self.fp)
        covariance = self.tp * self.tn - self.fp * self.fn
        return np.divide(covariance, scale, out=np.zeros(np.shape(scale)), where=scale > 0)[()]


@dataclass(frozen=True)
class Ranking:
    """The staircases behind ROC and precision-recall, for one or many weightings of the same images.

    Attributes:
        thresholds: (G,) the distinct scores, highest first.
        tp: (..., G) malignant images that score at least the threshold.
        fp: (..., G) benign images that score at least the threshold.
    """

    thresholds: NDArray[np.float64]
    tp: NDArray[np.float64]
    fp: NDArray[np.float64]

    @cached_property
    def tpr(self) -> NDArray[np.float64]:
        """(..., G) sensitivity at each threshold."""
        return self.tp / self.tp[..., -1:]

    @cached_property
    def fpr(self) -> NDArray[np.float64]:
        """(..., G) one minus specificity at each threshold."""
        return self.fp / self.fp[..., -1:]

    @cached_property
    def precision(self) -> NDArray[np.float64]:
        """(..., G) precision at each threshold; 1 where (in a reweighted sample) no image scores as much."""
        called = self.tp + self.fp
        return np.divide(self.tp, called, out=np.ones_like(called), where=called > 0)

    def roc_auc(self) -> NDArray[np.float64]:
        """Area under the ROC curve, tied pairs counting one half (Mann and Whitney 1947)."""
        pairs = (np.diff(self.fp, prepend=0) * (self.tp + _shift(self.tp)) / 2).sum(-1)
        return pairs / (self.tp[..., -1] * self.fp[..., -1])

    def average_precision(self) -> NDArray[np.float64]:
        """Sum of precision over the steps of recall: the metric that ranks ISIC 2016 entries, without interpolation."""
        return (np.diff(self.tpr, prepend=0) * self.precision).sum(-1)

    def average_precision_trapezoid(self) -> NDArray[np.float64]:
        """Area under the precision-recall polygon from (0, 1), as the scorer of April 2016 printed it.

        scikit-learn computed average precision this way before release 0.19. It flatters: straight lines between points
        of a precision-recall curve cannot be reached (Davis and Goadrich 2006), least of all with few distinct scores.
        """
        return (np.diff(self.tpr, prepend=0) * (self.precision + _shift(self.precision, first=1.0)) / 2).sum(-1)

    def specificity_at(self, sensitivity: float) -> NDArray[np.float64]:
        """Specificity at the first ROC point whose sensitivity is at least the given one; no interpolation."""
        return 1 - _take(self.fpr, self._first(sensitivity))

    def partial_auc(self, sensitivity: float) -> NDArray[np.float64]:
        """Area under the part of the ROC curve that lies at or above a sensitivity, down to the axis.

        The official scorer's definition (`auc_sens_80`), without McClish's rescaling: 1 for a perfect ranking, 0.18 for
        chance at sensitivity 0.8. The curve is interpolated where it crosses the given sensitivity.
        """
        at = self._first(sensitivity)
        before = _shift(self.tpr), _shift(self.fpr)
        segments = (self.fpr - before[1]) * (self.tpr + before[0]) / 2
        beyond = (segments * (np.arange(self.thresholds.size) > at[..., None])).sum(-1)
        tpr0, fpr0, tpr1, fpr1 = (_take(x, at) for x in (*before, self.tpr, self.fpr))
        crossing = fpr0 + (sensitivity - tpr0) / (tpr1 - tpr0) * (fpr1 - fpr0)
        return beyond + (fpr1 - crossing) * (sensitivity + tpr1) / 2

    def confusion(self, threshold: float) -> Confusion:
        """Counts when every score above the threshold is predicted malignant."""
        called = int((self.thresholds > threshold).sum())
        tp, fp = (x[..., called - 1] if called else np.zeros(x.shape[:-1])[()] for x in (self.tp, self.fp))
        return Confusion(tp=tp, fp=fp, fn=self.tp[..., -1] - tp, tn=self.fp[..., -1] - fp)

    def _first(self, sensitivity: float) -> NDArray[np.intp]:
        return np.asarray((self.tpr < sensitivity).sum(-1))


def _shift(steps: NDArray[np.float64], *, first: float = 0.0) -> NDArray[np.float64]:
    """Each entry's predecessor along the last axis."""
    return np.concatenate([np.full_like(steps[..., :1], first), steps[..., :-1]], axis=-1)


def _take(steps: NDArray[np.float64], at: NDArray[np.intp]) -> NDArray[np.float64]:
    return np.take_along_axis(steps, at[..., None], axis=-1)[..., 0]


def rank_scores(targets: ArrayLike, probs: ArrayLike, *, weights: ArrayLike | None = None) -> Ranking:
    """Sort scores once and count the images of each class above every distinct score.

    Args:
        targets: (N,) labels, 0 or 1.
        probs: (N,) scores in [0, 1].
        weights: (N,) or (draws, N) non-negative weight of each image, such as how often a bootstrap drew it; 1 by
            default.

    Raises:
        MetricError: as `check_scores`, or a weighting leaves a class out.
    """
    labels, scores = check_scores(targets, probs)
    order = np.argsort(-scores, kind="stable")
    weights = np.ones(scores.size) if weights is None else np.asarray(weights)
    sorted_scores, sorted_weights, sorted_labels = scores[order], weights[..., order], labels[order]
    tp = np.cumsum(sorted_weights * sorted_labels, axis=-1, dtype=np.float64)
    fp = np.cumsum(sorted_weights * ~sorted_labels, axis=-1, dtype=np.float64)
    if not ((tp[..., -1] > 0).all() and (fp[..., -1] > 0).all()):
        raise MetricError("a weighting leaves no image of one class", expected="positive weight in each class")
    last = np.append(sorted_scores[1:] < sorted_scores[:-1], True)
    if not last.all():
        sorted_scores, tp, fp = sorted_scores[last], tp[..., last], fp[..., last]
    return Ranking(thresholds=sorted_scores, tp=tp, fp=fp)


def roc_auc(targets: ArrayLike, probs: ArrayLike) -> float:
    """Area under the ROC curve of (N,) scores."""
    return float(rank_scores(targets, probs).roc_auc())


def average_precision(targets: ArrayLike, probs: ArrayLike) -> float:
    """Average precision of (N,) scores, the step sum."""
    return float(rank_scores(targets, probs).average_precision())


def auc_within(
    targets: ArrayLike, probs: ArrayLike, *, strata: ArrayLike, weights: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Area under the ROC curve over the pairs of a malignant and a benign image of one and the same stratum.

    What tells the strata apart cannot help here. It is the mean of the strata's areas, weighted by their pairs.

    Args:
        targets: (N,) labels, 0 or 1.
        probs: (N,) scores in [0, 1].
        strata: (N,) labels of groups.
        weights: (N,) or (draws, N) weight of each image; 1 by default.

    Returns:
        a number, or (draws,); NaN where no stratum holds both classes.
    """
    labels, scores = check_scores(targets, probs)
    strata = np.asarray(strata)
    weights = np.ones(labels.size) if weights is None else np.asarray(weights, dtype=np.float64)
    pairs = (strata[labels][:, None] == strata[~labels]).astype(np.float64)
    right = pairs * np.heaviside(scores[labels][:, None] - scores[~labels], 0.5)
    malignant, benign = weights[..., labels], weights[..., ~labels]
    total = ((malignant @ pairs) * benign).sum(-1)
    won = ((malignant @ right) * benign).sum(-1)
    return np.divide(won, total, out=np.full(np.shape(total), np.nan), where=total > 0)[()]


def choose_threshold(targets: ArrayLike, probs: ArrayLike, *, sensitivity: float) -> float:
    """The largest threshold at which at least a given share of the malignant images score above it.

    Meant for validation images; the threshold then goes unchanged to the test images.
    """
    labels, scores = check_scores(targets, probs)
    malignant = np.sort(scores[labels])[::-1]
    needed = int(np.ceil(sensitivity * malignant.size - 1e-9))
    return float(np.nextafter(malignant[needed - 1], -1.0))
