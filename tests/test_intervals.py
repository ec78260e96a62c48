"""Intervals against statsmodels, MLstatkit and brute force, and against the truth in a simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from MLstatkit import Delong_test
from scored_labels import scored_labels
from statsmodels.stats.proportion import proportion_confint

from benchmarks.stats import draw_test_set, measure_coverage
from lesion_utils import intervals
from lesion_utils.errors import MetricError
from lesion_utils.evaluation import band_precision_recall, band_roc, evaluate, evaluate_with_intervals
from lesion_utils.intervals import (
    bounds_from_below,
    combine_intervals,
    combine_placements,
    delong_interval,
    draw_weights,
    map_draws,
    percentile_interval,
    place_scores,
    wilson_interval,
)


@pytest.fixture(scope="module")
def test_set():
    return draw_test_set(np.random.default_rng(3), malignant=75, benign=304, separation=1.2)


@given(scored_labels().filter(lambda case: 2 <= case[0].sum() <= case[0].size - 2))
def test_delong_agrees_with_its_definition_and_mlstatkit(case):
    y, p = case
    wins = np.heaviside(p[y == 1][:, None] - p[y == 0], 0.5)  # the m x n table that midranks avoid
    error = np.sqrt(wins.mean(1).var(ddof=1) / y.sum() + wins.mean(0).var(ddof=1) / (1 - y).sum())
    estimate = combine_placements(place_scores(y, p))
    assert estimate.value == pytest.approx(wins.mean(), abs=1e-9)
    assert estimate.error == pytest.approx(error, abs=1e-9)
    if error > 1e-6:  # without a variance MLstatkit turns to a bootstrap
        _, _, _, theirs, _, auc, _ = Delong_test(y, np.zeros(y.size), p)
        assert estimate.value == pytest.approx(auc, abs=1e-9)
        assert delong_interval(y, p, confidence=0.95) == pytest.approx(theirs, abs=1e-9)


def test_delong_needs_two_images_of_each_class():
    with pytest.raises(MetricError, match="two images of each class"):
        delong_interval([1, 0, 0], [0.4, 0.3, 0.2], confidence=0.95)


@given(st.integers(0, 400), st.integers(1, 400), st.floats(0.5, 0.999))
def test_wilson_agrees_with_statsmodels(successes, trials, confidence):
    successes = min(successes, trials)
    expected = proportion_confint(successes, trials, alpha=1 - confidence, method="wilson")
    assert wilson_interval(successes, trials, confidence=confidence) == pytest.approx(expected, abs=1e-9)


def test_wilson_of_nothing_is_undefined():
    assert np.isnan(wilson_interval(0, 0, confidence=0.95)).all()


def test_combined_interval_of_one_estimate_is_its_own():
    span = wilson_interval(7, 20, confidence=0.95)
    assert combine_intervals([0.35], [span], weights=[1.0]) == pytest.approx(span)


def test_combined_interval_of_symmetric_ones_is_their_normal_sum():
    """Of two symmetric intervals, such as normal ones, half the width adds up like standard errors."""
    spans = [(0.3, 0.5), (0.6, 0.8)]
    low, high = combine_intervals([0.4, 0.7], spans, weights=[0.5, 0.5])
    assert (low, high) == pytest.approx((0.55 - 0.1 / np.sqrt(2), 0.55 + 0.1 / np.sqrt(2)))


def test_calling_everything_benign_leaves_accuracy_an_interval():
    y = np.repeat([1, 0], [30, 70])
    rows = evaluate_with_intervals(y, np.zeros(100), weights=draw_weights(y, draws=50, seed=1), confidence=0.95)
    row = rows.set_index("metric").loc["accuracy"]
    assert row["value"] == row["bootstrap_low"] == row["bootstrap_high"] == 0.7
    assert 0.6 < row["low"] < 0.7 < row["high"] < 0.8


def test_draws_keep_the_size_of_each_class():
    targets = np.array([0, 1, 0, 0, 1, 0, 0])
    weights = draw_weights(targets, draws=500, seed=1)
    assert (weights[:, targets == 1].sum(1) == 2).all()
    assert (weights[:, targets == 0].sum(1) == 5).all()
    np.testing.assert_allclose(weights.mean(0), 1, atol=0.15)
    np.testing.assert_array_equal(weights, draw_weights(targets, draws=500, seed=1))
    assert (weights != draw_weights(targets, draws=500, seed=2)).any()


@pytest.mark.parametrize("targets", [[], [0, 0], [1]])
def test_one_class_cannot_be_drawn_by_class(targets):
    with pytest.raises(MetricError, match="one class"):
        draw_weights(targets, draws=3, seed=1)


def test_the_size_of_the_parts_changes_nothing(test_set, monkeypatch):
    weights = draw_weights(test_set[0], draws=40, seed=1)
    whole = evaluate(*test_set, weights=weights)
    monkeypatch.setattr(intervals, "CHUNK_ENTRIES", 379 * 7)
    parts = map_draws(lambda part: evaluate(*test_set, weights=part), weights)
    for name, values in whole.items():
        np.testing.assert_allclose(parts[name], values, atol=1e-12, err_msg=name)


def test_percentiles_leave_undefined_draws_out():
    values = np.array([np.nan, *np.linspace(0, 1, 101)])
    assert percentile_interval(values, confidence=0.9) == pytest.approx((0.05, 0.95))
    assert np.isnan(percentile_interval(np.full(3, np.nan), confidence=0.9)).all()


def test_every_metric_has_its_interval(test_set):
    weights = draw_weights(test_set[0], draws=300, seed=1)
    rows = evaluate_with_intervals(*test_set, weights=weights, confidence=0.95, target_threshold=0.1)
    rows = rows.set_index("metric")
    assert rows.loc["auc", "interval"] == "DeLong"
    assert rows.loc[["accuracy", "balanced_accuracy"], "interval"].eq("combined Wilson").all()
    assert set(rows.index[rows["interval"] == "Wilson"]) == {
        "sensitivity", "specificity", "sensitivity_at_target", "specificity_at_target",
    }  # fmt: skip
    assert set(rows.index[rows["interval"] == "none"]) == {"ece", "brier_reference"}
    having = rows[rows["interval"] != "none"]
    assert (having["low"] < having["value"]).all() and (having["value"] < having["high"]).all()


def test_few_malignant_images_bound_a_specificity_from_above_only(test_set):
    assert bounds_from_below(0.95, 75, confidence=0.95)
    assert not bounds_from_below(0.98, 75, confidence=0.95)
    weights = draw_weights(test_set[0], draws=300, seed=1)
    rows = evaluate_with_intervals(*test_set, weights=weights, confidence=0.95).set_index("metric")
    assert rows.loc["specificity_at_sensitivity_95", "low"] > 0
    assert rows.loc["specificity_at_sensitivity_98", "low"] == 0
    assert rows.loc["specificity_at_sensitivity_99", "low"] == 0


def test_bands_hold_the_curve_and_end_where_it_ends(test_set):
    weights = draw_weights(test_set[0], draws=300, seed=1)
    _, low, high = band_roc(*test_set, weights=weights, confidence=0.95)
    assert (low <= high).all() and (np.diff(low) >= 0).all() and (np.diff(high) >= 0).all()
    assert low[-1] == high[-1] == 1
    recall, low, high = band_precision_recall(*test_set, weights=weights, confidence=0.95)
    assert (low <= high).all() and recall[0] > 0
    assert low[-1] <= high[-1] < 0.5, "at full recall little is left of precision"


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say():
    """A small version of `benchmarks/stats.py coverage`; at 250 test sets 95 % has a standard error of 1.4 %."""
    coverage = measure_coverage(tests=250, draws=300, separation=1.2, seed=5)["coverage"]
    one_sided = ["specificity_at_sensitivity_98", "specificity_at_sensitivity_99"]
    off = coverage.drop(one_sided)[~coverage.drop(one_sided).between(0.95 - 0.04, 0.95 + 0.04)]
    assert off.empty, f"coverage of a 95 % interval: {off.to_dict()}"
    assert (coverage[one_sided] >= 0.93).all(), "a bound that claims too much"
