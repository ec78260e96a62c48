"""Calibration against scikit-learn and statsmodels."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from drawn_predictions import COMPARISON
from scipy.special import expit, logit
from scipy.stats import binom
from sklearn.calibration import calibration_curve
from statsmodels.genmod.families import Binomial
from statsmodels.genmod.generalized_linear_model import GLM
from statsmodels.stats.proportion import proportion_confint

from lesion_utils.core.errors import MetricError
from lesion_utils.evaluation.calibration import (
    FLATTEST,
    average_losses,
    ece_interval,
    expect_ece,
    fit_recalibration,
    measure_calibration,
    measure_reliability,
)
from lesion_utils.evaluation.intervals import ENDS, draw_weights
from lesion_utils.evaluation.sentences import state_calibration
from lesion_utils.evaluation.tables import tabulate_calibration


def draw_scores(*, images: int, temperature: float = 1.0, seed: int = 0):
    """Labels that are drawn from calibrated probabilities, and logits made too sure by a temperature below 1."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1.3, 1.5, images)
    return (rng.random(images) < expit(logits)).astype(int), logits / temperature


@pytest.mark.parametrize("digits", [1, 2, 15])
def test_bins_agree_with_scikit_learn_and_their_intervals_with_statsmodels(digits):
    targets, logits = draw_scores(images=379)
    probs = np.round(expit(logits), digits)
    observed, predicted = calibration_curve(targets, probs, n_bins=10, strategy="quantile")
    rows = measure_reliability(targets, probs, confidence=0.9)
    np.testing.assert_allclose(rows[["observed", "predicted"]], np.column_stack([observed, predicted]), atol=1e-12)
    assert rows["images"].sum() == 379
    expected = np.average(np.abs(observed - predicted), weights=rows["images"])
    assert average_losses(targets, probs)["ece"] == pytest.approx(expected, abs=1e-12)
    counts = (rows["observed"] * rows["images"]).round()
    wilson = proportion_confint(counts, rows["images"], alpha=0.1, method="wilson")
    np.testing.assert_allclose(rows[["low", "high"]], np.column_stack(wilson), atol=1e-9)


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
    assert expected["ece_expected"] == pytest.approx(np.mean(measured), rel=0.03)
    held = [expected["ece_expected_low"] <= error <= expected["ece_expected_high"] for error in measured]
    assert np.mean(held) == pytest.approx(0.95, abs=0.035)
    assert expected["ece_expected"] > 0.02, "zero is never expected on 379 images"


def as_statsmodels(targets, logits, offset=None):
    ones = np.ones((len(targets), 1))
    design = ones if offset is not None else np.column_stack([ones, logits])
    return GLM(targets, design, family=Binomial(), offset=offset).fit(tol=1e-12)


@pytest.mark.parametrize(("intercept", "slope"), [(0.0, 1.0), (0.8, 0.4), (-0.5, 2.5)])
def test_calibration_agrees_with_statsmodels(intercept, slope):
    targets, logits = draw_scores(images=379, seed=3)
    logits = intercept + slope * logits
    found = measure_calibration(targets, logits, confidence=0.9)
    cox, large = as_statsmodels(targets, logits), as_statsmodels(targets, logits, offset=logits)
    for name, value, span in (
        ("slope", cox.params[1], cox.conf_int(0.1)[1]),
        ("in_the_large", large.params[0], large.conf_int(0.1)[0]),
    ):
        assert found[name] == pytest.approx(value, abs=1e-6)
        assert [found[f"{name}_low"], found[f"{name}_high"]] == pytest.approx(span, abs=1e-6)
    assert found["observed_expected"] == pytest.approx(targets.sum() / expit(logits).sum())


def test_the_interval_of_observed_over_expected_is_debrays():
    """By hand: 20 malignant of 100, each given 0.1; ln 2 more or less 1.96 times the root of 0.8 / 20."""
    found = measure_calibration(np.repeat([1, 0], [20, 80]), np.full(100, logit(0.1)), confidence=0.95)
    ends = [found[f"observed_expected{end}"] for end in ("", "_low", "_high")]
    assert ends == pytest.approx([2, 2 * np.exp(-1.96 * 0.2), 2 * np.exp(1.96 * 0.2)], rel=1e-4)
    assert found["in_the_large"] == pytest.approx(logit(0.2) - logit(0.1))
    assert np.isnan(found["slope"]), "one probability for all has no slope"


def test_intervals_of_calibration_hold_the_truth():
    """Labels drawn from the probabilities: perfect is 0, 1 and 1. Of 300 test sets, so many by the binomial."""
    least, most = binom.ppf([1e-4, 1 - 1e-4], 300, 0.95)
    found = pd.DataFrame(
        [measure_calibration(*draw_scores(images=379, seed=seed), confidence=0.95) for seed in range(300)]
    )
    for name, perfect in (("in_the_large", 0), ("slope", 1), ("observed_expected", 1)):
        held = ((found[f"{name}_low"] <= perfect) & (perfect <= found[f"{name}_high"])).sum()
        assert least <= held <= most, f"{name}: {held} of 300"


def test_recalibration_is_platts_regression():
    """Platt (1999): a logistic regression on labels that are softened a little."""
    targets, logits = draw_scores(images=179, seed=4)
    malignant = targets.sum()
    softened = np.where(targets == 1, (malignant + 1) / (malignant + 2), 1 / (targets.size - malignant + 2))
    assert fit_recalibration(targets, logits) == pytest.approx(as_statsmodels(softened, logits).params, abs=1e-6)


def test_recalibration_undoes_what_is_too_sure_and_too_low():
    """On labels of its own: intercept, slope and ratio come back to perfect, and no image changes its place."""
    validation, test = (draw_scores(images=4000, temperature=0.4, seed=seed) for seed in (1, 2))
    line = fit_recalibration(validation[0], validation[1] - 1.5)
    before, after = test[1] - 1.5, line.apply(test[1] - 1.5)
    wrong, right = (measure_calibration(test[0], logits, confidence=0.95) for logits in (before, after))
    assert wrong["slope_high"] < 1 and wrong["in_the_large_low"] > 0 and wrong["observed_expected_low"] > 1
    assert right["slope_low"] < 1 < right["slope_high"] and right["in_the_large_low"] < 0 < right["in_the_large_high"]
    losses = [average_losses(test[0], expit(logits)) for logits in (before, after)]
    assert losses[1]["log_loss"] < losses[0]["log_loss"] and losses[1]["ece"] < losses[0]["ece"] / 2
    np.testing.assert_array_equal(np.argsort(before), np.argsort(after))


def test_recalibration_is_finite_wherever_there_are_two_classes():
    separated = fit_recalibration([0, 0, 1, 1], [-2, -1, 1, 2])
    assert 0 < separated.slope < 10, "four images are no proof"
    reversed_ = fit_recalibration([0, 0, 1, 1], [2, 1, -1, -2])
    assert reversed_.slope == FLATTEST, "a ranking is not turned round"
    assert expit(reversed_.apply([2, 1, -1, -2])).mean() == pytest.approx(0.5)
    constant = fit_recalibration([0, 0, 0, 1], np.full(4, -0.3))
    assert expit(constant.apply([-0.3])) == pytest.approx((2 / 3 + 3 / 5) / 4), "the share of softened labels"
    nearly = measure_calibration([0, 1, 0, 1], np.array([0.1, 0.1, 0.1, np.nextafter(0.1, 1)]), confidence=0.95)
    assert nearly["in_the_large"] == pytest.approx(-0.1)
    apart = measure_calibration([0, 0, 1, 1], [-2, -1, 1, 2], confidence=0.95)
    assert np.isnan(apart["slope"]) and np.isfinite(apart["in_the_large"])


@pytest.mark.parametrize("logits", [[0.1, np.nan], [0.1, np.inf]])
def test_undefined_logits_are_refused(logits):
    with pytest.raises(MetricError, match="NaN or infinite"):
        fit_recalibration([0, 1], logits)


def test_what_is_said_of_calibration_is_what_was_measured(predictions):
    rows = tabulate_calibration(predictions, COMPARISON)
    said = dict(zip(rows["name"].unique(), state_calibration(rows), strict=True))
    name = "VGG19, fine-tuned"
    own, before = rows[rows["name"] == name], rows.set_index(["name", "stage"]).loc[(name, "before")]
    span = f"{before['slope']:.2f} ({before['slope_low']:.2f} to {before['slope_high']:.2f})"
    assert said[name].startswith(f"Calibration of {name}: ") and f"slope {span}" in said[name]
    assert "validation images" in said[name] and "out-of-fold scores" in state_calibration(own, folds=5)[0]
    for slope, words in (((0.5, 0.4, 0.6), "is over-confident"), ((2, 1.5, 3), "is under-confident")):
        for shift, more in (((-1, -2, -0.5), "are too high;"), ((0.1, -0.2, 0.4), "are not shown to be too high")):
            values = {f"slope{end}": value for end, value in zip(ENDS, slope, strict=True)}
            values |= {f"in_the_large{end}": value for end, value in zip(ENDS, shift, strict=True)}
            (sentence,) = state_calibration(own.assign(**values))
            assert words in sentence and more in sentence
    (sentence,) = state_calibration(own.assign(slope=np.nan))
    assert "of unknown confidence" in sentence


@pytest.mark.parametrize("slope", [1.0, 2.5])
def test_the_interval_of_the_calibration_error_holds_the_truth(slope):
    """75 malignant and 304 benign images with known probabilities; scores are those, or over-confident ones."""
    rng, targets = np.random.default_rng(2), np.repeat([1, 0], [75, 304])

    def draw(labels):  # normal log odds that are the posterior's, at a distance of 1.5 between the classes
        return logit(75 / 379) + 1.5 * (labels - 0.5) + np.sqrt(1.5) * rng.normal(size=labels.size)

    many = np.sort(draw(np.repeat([1, 0], [75_000, 304_000])))
    error = np.mean([abs((expit(slope * part) - expit(part)).mean()) for part in np.array_split(many, 10)])
    weights, held = draw_weights(targets, draws=300, seed=1), []
    for _ in range(100):
        probs = expit(slope * draw(targets))
        top = expect_ece(probs, draws=300, confidence=0.95, seed=1)["ece_expected_high"]
        low, high = ece_interval(targets, probs, weights=weights, expected_high=top, confidence=0.95)
        held.append(low <= error <= high)
    assert np.mean(held) >= 0.9
