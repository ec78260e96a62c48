"""Calibration against scikit-learn and dcurves."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from dcurves import dca
from hypothesis import given, settings
from scipy.special import expit
from scored_labels import scored_labels
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from statsmodels.stats.proportion import proportion_confint

from lesion_utils.core.errors import MetricError
from lesion_utils.evaluation.calibration import (
    TEMPERATURES,
    average_losses,
    calibrate_run,
    compute_net_benefit,
    expect_ece,
    fit_temperature,
    measure_reliability,
    trace_decision_curves,
)


def draw_scores(*, images: int, temperature: float = 1.0, seed: int = 0):
    """Labels that are drawn from calibrated probabilities, and logits made too sure by a temperature below 1."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1.3, 1.5, images)
    return (rng.random(images) < expit(logits)).astype(int), logits / temperature


@pytest.mark.parametrize("digits", [1, 2, 15])
def test_calibration_error_agrees_with_sklearns_bins(digits):
    targets, logits = draw_scores(images=379)
    probs = np.round(expit(logits), digits)
    observed, predicted = calibration_curve(targets, probs, n_bins=10, strategy="quantile")
    rows = measure_reliability(targets, probs, confidence=0.95)
    np.testing.assert_allclose(rows["observed"], observed, atol=1e-12)
    np.testing.assert_allclose(rows["predicted"], predicted, atol=1e-12)
    assert rows["images"].sum() == 379
    expected = np.average(np.abs(observed - predicted), weights=rows["images"])
    assert average_losses(targets, probs)["ece"] == pytest.approx(expected, abs=1e-12)


def test_reliability_intervals_are_wilsons():
    targets, logits = draw_scores(images=379)
    rows = measure_reliability(targets, expit(logits), confidence=0.9)
    for row in rows.itertuples():
        low, high = proportion_confint(round(row.observed * row.images), row.images, alpha=0.1, method="wilson")
        assert (row.low, row.high) == pytest.approx((low, high), abs=1e-9)


def test_brier_reference_is_the_score_of_the_prevalence():
    targets, logits = draw_scores(images=200)
    constant = np.full(200, targets.mean())
    losses = average_losses(targets, constant)
    assert losses["brier"] == pytest.approx(losses["brier_reference"])
    assert average_losses(targets, expit(logits))["brier"] < losses["brier_reference"]


def test_expected_error_is_what_calibrated_models_show():
    probs = expit(draw_scores(images=379)[1])
    expected = expect_ece(probs, draws=2000, confidence=0.95, seed=1)
    rng = np.random.default_rng(2)
    measured = [average_losses(rng.random(379) < probs, probs)["ece"] for _ in range(400)]
    assert expected.mean == pytest.approx(np.mean(measured), rel=0.03)
    assert np.mean([expected.low <= e <= expected.high for e in measured]) == pytest.approx(0.95, abs=0.035)
    assert expected.mean > 0.02, "zero is never expected on 379 images"


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_temperature_is_the_slope_of_a_logistic_regression(temperature):
    targets, logits = draw_scores(images=2000, temperature=temperature)
    oracle = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(logits[:, None], targets)
    assert 1 / fit_temperature(targets, logits) == pytest.approx(oracle.coef_.item(), rel=1e-6)


def test_temperature_undoes_overconfidence():
    validation, test = (
        draw_scores(images=4000, temperature=0.4, seed=1),
        draw_scores(images=4000, temperature=0.4, seed=2),
    )
    rows = [pd.DataFrame({"target": y, "logit": z, "probability": expit(z)}) for y, z in (validation, test)]
    calibrated = calibrate_run(*rows)
    assert calibrated.temperature == pytest.approx(2.5, rel=0.1)
    before, after = (average_losses(test[0], p) for p in (calibrated.before, calibrated.after))
    assert after["log_loss"] < before["log_loss"]
    assert after["ece"] < before["ece"] / 2
    np.testing.assert_array_equal(np.argsort(calibrated.before), np.argsort(calibrated.after))


def test_temperature_stays_within_its_bounds():
    assert fit_temperature([0, 0, 1, 1], [-2, -1, 1, 2]) == TEMPERATURES[0], "separated: as sure as allowed"
    assert fit_temperature([0, 0, 1, 1], [2, 1, -1, -2]) == TEMPERATURES[1], "reversed: as unsure as allowed"


@pytest.mark.parametrize("logits", [[0.1, np.nan], [0.1, np.inf]])
def test_temperature_refuses_undefined_logits(logits):
    with pytest.raises(MetricError, match="NaN or infinite"):
        fit_temperature([0, 1], logits)


@settings(max_examples=25)  # dcurves takes its time
@given(scored_labels())
def test_net_benefit_agrees_with_dcurves(case):
    targets, probs = case
    thresholds = np.array([0.01, 0.1, 0.25, 0.3, 0.5, 0.75, 0.9])
    theirs = dca(
        data=pd.DataFrame({"y": targets, "score": probs}),
        outcome="y",
        modelnames=["score"],
        thresholds=thresholds,
        models_to_prob=None,
    )
    ours = trace_decision_curves(targets, {"score": probs}, thresholds=thresholds)
    for mine, name in (("score", "score"), ("treat all", "all"), ("treat none", "none")):
        expected = theirs[theirs["model"] == name].sort_values("threshold")["net_benefit"].to_numpy(float)
        np.testing.assert_allclose(ours[ours["name"] == mine]["net_benefit"], expected, atol=1e-9)


@pytest.mark.parametrize("threshold", [0.0, 1.0, np.nan])
def test_net_benefit_needs_finite_odds(threshold):
    with pytest.raises(MetricError, match="between 0 and 1"):
        compute_net_benefit([0, 1], [0.2, 0.8], thresholds=[threshold])
