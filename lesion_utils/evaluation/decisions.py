"""Would acting on a score help? Predictive values at a threshold, and the net benefit over all thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta

from lesion_utils.config.schema import Comparison
from lesion_utils.core.errors import MetricError
from lesion_utils.evaluation.evaluate import AT_TARGET
from lesion_utils.evaluation.intervals import ENDS, map_draws, percentile_interval
from lesion_utils.evaluation.metrics import choose_threshold, rank_scores
from lesion_utils.evaluation.predictions import ENSEMBLE, iterate_means

#: Of the distribution of a share, so many equally probable values stand for all.
QUANTILES = (np.arange(400) + 0.5) / 400


def measure_shift(predictions: pd.DataFrame, single: pd.DataFrame, params: Comparison) -> pd.DataFrame:
    """How far the operating point moves since its threshold is chosen on other scores than it is used on.

    With several folds, a held-out image is scored by the networks of one fold, a test image by the mean over all
    folds. Where folds disagree, the mean lies nearer to the middle than single scores, so the same threshold calls
    other images malignant. The test images are called with both kinds of score; nothing is chosen by them.

    Args:
        predictions: from `predictions.add_ensembles`.
        single: test scores of single networks: `model`, `regime`, `seed`, `fold`, `image_id`, `probability`.
        params: of the comparison.

    Returns:
        one row per network and regime with several folds: `name`, `model`, `regime`, `folds`, `threshold`, and for
        "sensitivity" and "specificity" `_single` (mean over the folds), `_mean` (of the mean over all folds) and
        `_shift` (mean minus single).
    """
    rows = []
    for name, validation, test in iterate_means(predictions):
        own = single[(single["model"] == name.model) & (single["regime"] == name.regime)]
        if validation.empty or own["fold"].nunique() < 2:
            continue
        seen = validation["target"], validation["probability"]
        threshold = choose_threshold(*seen, sensitivity=params.sensitivity_target)
        by_fold = own.groupby(["fold", "image_id"])["probability"].mean().unstack("image_id")[test["image_id"]]
        called = {"single": by_fold.to_numpy() > threshold, "mean": (test["probability"] > threshold).to_numpy()}
        malignant = test["target"].to_numpy() == 1
        row: dict[str, Any] = name.columns | {"folds": len(by_fold), "threshold": threshold}
        for metric, member, right in (("sensitivity", malignant, True), ("specificity", ~malignant, False)):
            row |= {f"{metric}_{kind}": float((calls[..., member] == right).mean()) for kind, calls in called.items()}
            row[f"{metric}_shift"] = row[f"{metric}_mean"] - row[f"{metric}_single"]
        rows.append(row)
    metrics = [f"{metric}_{end}" for metric in ("sensitivity", "specificity") for end in ("single", "mean", "shift")]
    return pd.DataFrame(rows, columns=["name", "model", "regime", "folds", "threshold", *metrics])


def predict_values(
    found: int, malignant: int, passed: int, benign: int, *, prevalence: float, confidence: float
) -> dict[str, float]:
    """Positive and negative predictive value where another share of lesions is malignant than in the test set.

    By Bayes' rule from sensitivity and specificity, which are taken to be the same there. The interval is the middle
    share of what their posteriors under Jeffreys' prior give together, extended to the value, which the middle share
    does not hold at 0 or 1 (Brown, Cai and DasGupta 2001); it has a width where no image is called wrongly.

    Args:
        found: malignant images predicted malignant, of `malignant`.
        passed: benign images called benign, of `benign`.
        prevalence: share of malignant lesions, in (0, 1).

    Returns:
        `ppv` and `npv`, each also with `_low` and `_high`; the value is NaN where no image is called so.
    """
    sensitivities = beta.ppf(QUANTILES, found + 0.5, malignant - found + 0.5)[:, None]
    specificities = beta.ppf(QUANTILES, passed + 0.5, benign - passed + 0.5)
    values = _apply_bayes(np.float64(found / malignant), np.float64(passed / benign), prevalence)
    spreads = _apply_bayes(sensitivities, specificities, prevalence)
    shares: dict[str, float] = {}
    for name, value, spread in zip(("ppv", "npv"), values, spreads, strict=True):
        low, high = percentile_interval(spread.ravel(), confidence=confidence)
        span = float(value), float(np.fmin(low, value)), float(np.fmax(high, value))  # both ignore a value of NaN
        shares |= {name + end: number for end, number in zip(ENDS, span, strict=True)}
    return shares


def _apply_bayes(sensitivity: Any, specificity: Any, prevalence: float) -> tuple[Any, Any]:
    """For numbers and for arrays that broadcast."""
    right, wrong = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    passed, missed = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    with np.errstate(invalid="ignore"):  # nothing is called so
        return right / (right + wrong), passed / (passed + missed)


def tabulate_predictive_values(results: pd.DataFrame, params: Comparison, *, targets: ArrayLike) -> pd.DataFrame:
    """Predictive values at the threshold from validation, at the test set's share of malignant lesions and at others.

    Returns:
        one row per model and share: `model`, `regime`, `name`, `threshold`, `prevalence`, `ppv`, `ppv_low`, `ppv_high`,
        `npv`, `npv_low`, `npv_high`; none of models without validation images.
    """
    labels = np.asarray(targets)
    malignant, benign = int(labels.sum()), int((1 - labels).sum())
    rows, keys = [], ["model", "regime", "name", "threshold"]
    shares = results[(results["seed"] == ENSEMBLE) & results["metric"].str.endswith(AT_TARGET)]
    for key, part in shares.groupby(keys, sort=False):
        called = part.set_index("metric")["value"]
        found, passed = called[f"sensitivity{AT_TARGET}"] * malignant, called[f"specificity{AT_TARGET}"] * benign
        for prevalence in (malignant / (malignant + benign), *params.prevalences):
            values = predict_values(
                round(found), malignant, round(passed), benign, prevalence=prevalence, confidence=params.confidence
            )
            rows.append(dict(zip(keys, key, strict=True)) | {"prevalence": prevalence} | values)
    return pd.DataFrame(rows, columns=[*keys, "prevalence", *(name + end for name in ("ppv", "npv") for end in ENDS)])


def compute_net_benefit(
    targets: ArrayLike, probs: ArrayLike, *, thresholds: ArrayLike, weights: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Net benefit per image of acting on every score of **at least** a threshold (Vickers and Elkin 2006).

    It is TP / N - FP / N x t / (1 - t): what malignant images acted on gain, less what benign ones cost, when t is the
    probability from which one would act.

    Args:
        thresholds: (T,) in (0, 1).

    Returns:
        (T,) or (draws, T) net benefits, in malignant images per image.
    """
    at = np.asarray(thresholds, dtype=np.float64)
    if not ((at > 0) & (at < 1)).all():
        raise MetricError("a decision threshold is not between 0 and 1", expected="finite odds t / (1 - t)")
    ranking = rank_scores(targets, probs, weights=weights)
    acted = np.searchsorted(-ranking.thresholds, -at, side="right")
    tp, fp = (np.insert(steps, 0, 0, axis=-1)[..., acted] for steps in (ranking.tp, ranking.fp))
    return (tp - fp * at / (1 - at)) / (ranking.tp[..., -1:] + ranking.fp[..., -1:])


def trace_decision_curves(
    targets: ArrayLike, probs: Mapping[Any, ArrayLike], *, thresholds: ArrayLike, weights: ArrayLike, confidence: float
) -> pd.DataFrame:
    """Decision curves of several models on the same images, between treating all and treating none.

    Args:
        probs: name -> (N,) scores in [0, 1].
        thresholds: (T,) in (0, 1).

    Returns:
        one row per name and threshold: `name`, `threshold`, `net_benefit`, and its pointwise interval, `low` and
        `high`; "treat all" and "treat none" come last, and have no spread, since draws keep the share of malignant.
    """
    everyone = dict(probs) | {"treat all": np.ones(np.size(targets)), "treat none": np.zeros(np.size(targets))}
    tail, tables = (1 - confidence) / 2, []
    for name, scores in everyone.items():

        def compute(part: NDArray[Any], scores: ArrayLike = scores) -> dict[str, NDArray[Any]]:
            return {"": compute_net_benefit(targets, scores, thresholds=thresholds, weights=part)}

        draws = map_draws(compute, np.asarray(weights))[""]
        low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
        benefit = compute_net_benefit(targets, scores, thresholds=thresholds)
        columns = {"threshold": thresholds, "net_benefit": benefit, "low": low, "high": high}
        tables.append(pd.DataFrame({"name": name} | columns))
    return pd.concat(tables, ignore_index=True)
