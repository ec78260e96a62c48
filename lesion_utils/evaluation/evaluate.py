"""All metrics of one set of scores, each with its interval, from one pass over the bootstrap; bands of its curves."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from lesion_utils.evaluation.calibration import average_losses
from lesion_utils.evaluation.intervals import (
    ENDS,
    Interval,
    bounds_from_below,
    combine_intervals,
    delong_interval,
    draw_weights,
    format_value,
    logit_interval,
    map_draws,
    percentile_interval,
    wilson_interval,
)
from lesion_utils.evaluation.metrics import DEFAULT_THRESHOLD, rank_scores

#: Sensitivities at which specificity is read: 82 and 89 % by the 2017 challenge, 95 % by both, 98 and 99 % by 2016.
SENSITIVITIES = {0.82: "2017", 0.89: "2017", 0.95: "2016 and 2017", 0.98: "2016", 0.99: "2016"}

AT_SENSITIVITY = "specificity_at_sensitivity_"

#: Sensitivity above which the partial AUC counts, as in the official scorer.
PARTIAL_FROM = 0.80

#: Settings of `look_at`: those of the studies that come with the project, so that its intervals are the same as in
#: 05_comparison. They are fixed here, so that a change of `comparison.yaml` does not concern the notebooks that train.
CONFIDENCE, DRAWS, SEED = 0.95, 10_000, 2016

#: Ending of the metrics at the threshold that was chosen on validation; those at `DEFAULT_THRESHOLD` have none.
AT_TARGET = "_at_target"

#: The calibration error is biased upwards and resampling adds to the bias: `tables.tabulate_calibration` has its
#: interval, and the range that perfect calibration would show. The Brier reference depends on the prevalence alone.
WITHOUT_INTERVAL = ("ece", "brier_reference")

#: Their interval is `intervals.logit_interval`.
ON_LOGIT_SCALE, ON_LOGIT = ("ap", "ap_trapezoid"), "bootstrap, logit scale"

#: A band: x, lower y, upper y; each (`POINTS`,).
Curve = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
POINTS = 101

UNKNOWN = Interval(np.nan, np.nan)

#: Metrics of a confusion matrix, in the order of tables.
CONFUSION_METRICS = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "precision", "f1", "mcc")

#: How metrics are written in tables; the rest by their key.
LABELS = {
    "ap": "average precision",
    "ap_trapezoid": "average precision, trapezoid (scorer of 2016)",
    "auc": "AUC",
    "partial_auc_80": "partial AUC above 80 % sensitivity",
    "brier": "Brier score",
    "brier_reference": "Brier score of the prevalence",
    "log_loss": "log loss",
    "ece": "expected calibration error",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "mcc": "MCC",
    "in_the_large": "calibration in the large",
    "slope": "calibration slope",
}


def label_metric(metric: str) -> str:
    """How a metric's key is written in a table, with the challenge's year where there are several conventions."""
    name = metric.removesuffix(AT_TARGET)
    if name.startswith(AT_SENSITIVITY):
        sensitivity = int(name.removeprefix(AT_SENSITIVITY))
        return f"specificity at {sensitivity} % sensitivity ({SENSITIVITIES[sensitivity / 100]})"
    label = LABELS.get(name, name)
    return f"{label}, threshold from validation" if metric.endswith(AT_TARGET) else label


def evaluate(
    targets: ArrayLike, probs: ArrayLike, *, target_threshold: float | None = None, weights: ArrayLike | None = None
) -> dict[str, NDArray[np.float64]]:
    """Every metric of scores, for one or many weightings of the images.

    Args:
        target_threshold: chosen on validation for a sensitivity; without it the metrics `*_at_target` are left out.

    Returns:
        metric -> a number, or (draws,).

    Raises:
        MetricError: as `metrics.check_scores`.
    """
    ranking = rank_scores(targets, probs, weights=weights)
    values = {
        "ap": ranking.average_precision(),
        "ap_trapezoid": ranking.average_precision_trapezoid(),
        "auc": ranking.roc_auc(),
        "partial_auc_80": ranking.partial_auc(PARTIAL_FROM),
    }
    values |= {f"{AT_SENSITIVITY}{s * 100:.0f}": ranking.specificity_at(s) for s in SENSITIVITIES}
    values |= average_losses(targets, probs, weights=weights)
    for ending, threshold in _list_thresholds(target_threshold).items():
        confusion = ranking.confusion(threshold)
        values |= {metric + ending: getattr(confusion, metric) for metric in CONFUSION_METRICS}
    return values


def _list_thresholds(target_threshold: float | None) -> dict[str, float]:
    """Ending of a metric -> above which score an image is predicted malignant."""
    return {"": DEFAULT_THRESHOLD} | ({} if target_threshold is None else {AT_TARGET: target_threshold})


def evaluate_with_intervals(
    targets: ArrayLike,
    probs: ArrayLike,
    *,
    weights: ArrayLike,
    confidence: float,
    target_threshold: float | None = None,
) -> pd.DataFrame:
    """Every metric with its interval: the analytic one where it exists, the bootstrap's beside it.

    Where the test set cannot bound a specificity from below (`intervals.bounds_from_below`) it has no interval. A
    perfect ranking leaves neither DeLong nor the bootstrap anything to vary; then low is high.

    Returns:
        one row per metric: `metric`, `value`, `low`, `high`, `interval` (how it was had),
        `bootstrap_low`, `bootstrap_high`. An undefined value (precision when nothing is predicted malignant) is NaN.
    """
    compute = partial(evaluate, targets, probs, target_threshold=target_threshold)
    draws = map_draws(lambda part: compute(weights=part), np.asarray(weights))
    analytic = _find_analytic(targets, probs, target_threshold, confidence)
    rows = []
    for metric, value in compute().items():
        bootstrap = percentile_interval(draws[metric], confidence=confidence)
        name, interval = analytic.get(metric, ("bootstrap", bootstrap))
        if metric in ON_LOGIT_SCALE:
            name, interval = ON_LOGIT, logit_interval(float(value), draws[metric], confidence=confidence)
        if metric in WITHOUT_INTERVAL:
            name, interval = "none", UNKNOWN
        rows.append((metric, float(value), *interval, name, *(UNKNOWN if name == "none" else bootstrap)))
    return pd.DataFrame(rows, columns=["metric", "value", "low", "high", "interval", "bootstrap_low", "bootstrap_high"])


def _find_analytic(
    targets: ArrayLike, probs: ArrayLike, target_threshold: float | None, confidence: float
) -> dict[str, tuple[str, Interval]]:
    """The intervals that need no resampling: DeLong's of the AUC, Wilson's of sensitivity and specificity, one bound.

    Accuracy mixes two classes of fixed size, so it is no binomial share: Wilson's interval would hold the truth 99
    times in 100 where it promises 95. It and balanced accuracy are combined from the two shares that they are made of.
    """
    found = {"auc": ("DeLong", delong_interval(targets, probs, confidence=confidence))}
    ranking = rank_scores(targets, probs)
    for sensitivity in SENSITIVITIES:
        if not bounds_from_below(sensitivity, int(np.asarray(targets).sum()), confidence=confidence):
            found[f"{AT_SENSITIVITY}{sensitivity * 100:.0f}"] = ("none", UNKNOWN)
    for ending, threshold in _list_thresholds(target_threshold).items():
        c = ranking.confusion(threshold)
        sizes = c.tp + c.fn, c.tn + c.fp
        pairs: Any = zip((c.tp, c.tn), sizes, strict=True)
        spans = [wilson_interval(*pair, confidence=confidence) for pair in pairs]
        values = c.sensitivity, c.specificity
        found["sensitivity" + ending], found["specificity" + ending] = (("Wilson", span) for span in spans)
        for metric, weights in (("accuracy", np.divide(sizes, sum(sizes))), ("balanced_accuracy", (0.5, 0.5))):
            found[metric + ending] = ("combined Wilson", combine_intervals(values, spans, weights=weights))
    return found


def band_curves(targets: ArrayLike, probs: ArrayLike, *, weights: ArrayLike, confidence: float) -> tuple[Curve, Curve]:
    """Pointwise bands of the ROC curve and of the precision-recall steps, from the bootstrap.

    Returns:
        false positive rates from 0 to 1, and the lower and the upper sensitivity there; recalls above 0 up to 1, and
        the lower and the upper precision at the first threshold that reaches each.
    """
    rates, recalls = np.linspace(0, 1, POINTS), np.linspace(0, 1, POINTS + 1)[1:]

    def compute(part: NDArray[Any]) -> dict[str, NDArray[Any]]:
        ranking, roc, steps = rank_scores(targets, probs, weights=part), [], []
        for tp, fp in zip(ranking.tp, ranking.fp, strict=True):
            roc.append(np.interp(rates, np.append(0, fp / fp[-1]), np.append(0, tp / tp[-1])))
            at = np.searchsorted(tp / tp[-1], recalls)
            steps.append(tp[at] / (tp[at] + fp[at]))
        return {"roc": np.stack(roc), "steps": np.stack(steps)}

    tail, draws = (1 - confidence) / 2, map_draws(compute, np.asarray(weights))
    roc, steps = (np.quantile(draws[name], [tail, 1 - tail], axis=0) for name in ("roc", "steps"))
    return (rates, *roc), (recalls, *steps)


class FirstLook(NamedTuple):
    """Values, intervals and bands of one set of scores."""

    metrics: dict[str, dict[str, float]]  # metric -> value, low, high
    confusion: NDArray[np.int_]  # (2, 2), at `DEFAULT_THRESHOLD`; rows the truth, columns the prediction, benign first
    roc: Curve
    precision_recall: Curve

    def write(self, metric: str) -> str:
        """A value with its interval, such as "AUC 0.821 (0.765 to 0.877)"."""
        found = self.metrics[metric]
        return f"{metric.upper()} {format_value(found['value'], found['low'], found['high'])}"

    def flatten(self, *metrics: str) -> dict[str, float]:
        """Values and intervals for one row of a table: `auc`, `auc_low`, `auc_high`, ..."""
        spans = ((metric, self.metrics[metric].values()) for metric in metrics)
        return {metric + end: value for metric, span in spans for end, value in zip(ENDS, span, strict=True)}


def look_at(targets: np.ndarray, probs: np.ndarray) -> FirstLook:
    """Evaluate one set of test scores, in the notebooks before the comparison."""
    settings: dict[str, Any] = {"weights": draw_weights(targets, draws=DRAWS, seed=SEED), "confidence": CONFIDENCE}
    table = evaluate_with_intervals(targets, probs, **settings).set_index("metric")
    at_half = rank_scores(targets, probs).confusion(DEFAULT_THRESHOLD)
    roc, recall = band_curves(targets, probs, **settings)
    return FirstLook(
        metrics=table[["value", "low", "high"]].to_dict("index"),
        confusion=np.array([[at_half.tn, at_half.fp], [at_half.fn, at_half.tp]]).astype(int),
        roc=roc,
        precision_recall=recall,
    )
