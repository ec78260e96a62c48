"""Intervals against statsmodels, MLstatkit and brute force, and against the truth in a simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from MLstatkit import Delong_test
from scipy.special import expit
from scipy.stats import binom
from scored_labels import scored_labels
from statsmodels.stats.proportion import proportion_confint

from benchmarks.stats import draw_population, draw_test_set, measure_coverage, measure_proportions
from lesion_utils.core.errors import MetricError
from lesion_utils.evaluation import intervals
from lesion_utils.evaluation.calibration import expect_ece
from lesion_utils.evaluation.evaluate import band_curves, evaluate, evaluate_with_intervals
from lesion_utils.evaluation.intervals import (
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


def state(targets, probs, *, draws: int = 300, **settings) -> pd.DataFrame:
    weights = draw_weights(targets, draws=draws, seed=1)
    return evaluate_with_intervals(targets, probs, weights=weights, confidence=0.95, **settings).set_index("metric")


def test_calling_everything_benign_leaves_accuracy_an_interval():
    row = state(np.repeat([1, 0], [30, 70]), np.zeros(100), draws=50).loc["accuracy"]
    assert row["value"] == row["bootstrap_low"] == row["bootstrap_high"] == 0.7
    assert 0.6 < row["low"] < 0.7 < row["high"] < 0.8


@pytest.mark.parametrize("strata", [np.repeat("a", 8), np.repeat(["a", "b"], 4)])
def test_draws_keep_the_size_of_each_class_in_each_stratum(strata):
    targets, settings = np.array([0, 0, 0, 1, 0, 0, 1, 1]), {"draws": 500, "strata": strata}
    weights = draw_weights(targets, seed=1, **settings)
    for stratum, target in itertools.product(set(strata), (0, 1)):
        member = (strata == stratum) & (targets == target)
        assert (weights[:, member].sum(1) == member.sum()).all()
    np.testing.assert_allclose(weights.mean(0), 1, atol=0.15)
    np.testing.assert_array_equal(weights, draw_weights(targets, seed=1, **settings))
    assert (weights != draw_weights(targets, seed=2, **settings)).any()


@pytest.mark.parametrize("targets", [[], [0, 0], [1]])
def test_one_class_cannot_be_drawn_by_class(targets):
    with pytest.raises(MetricError, match="one class"):
        draw_weights(targets, draws=3, seed=1)


def test_draws_made_in_parts_are_those_made_at_once(monkeypatch):
    targets, probs = np.array([0, 1, 0, 0, 1, 0, 0] * 3), np.linspace(0.1, 0.9, 21)
    settings = {"draws": 50, "seed": 1}
    weights, error = draw_weights(targets, **settings), expect_ece(probs, confidence=0.95, **settings)
    monkeypatch.setattr(intervals, "PART_ENTRIES", 100)  # 6 draws of 15 images, 16 of 6, 4 of 21
    np.testing.assert_array_equal(draw_weights(targets, **settings), weights)
    assert expect_ece(probs, confidence=0.95, **settings) == pytest.approx(error, rel=1e-12)


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
    rows = state(*test_set, target_threshold=0.1)
    assert rows.loc["auc", "interval"] == "DeLong"
    assert rows.loc[["accuracy", "balanced_accuracy"], "interval"].eq("combined Wilson").all()
    shares = {f"{name}{ending}" for name in ("sensitivity", "specificity") for ending in ("", "_at_target")}
    assert set(rows.index[rows["interval"] == "Wilson"]) == shares
    assert set(rows.index[rows["interval"] == "none"]) == {
        *("ece", "brier_reference", "specificity_at_sensitivity_98", "specificity_at_sensitivity_99")
    }
    having = rows[rows["interval"] != "none"]
    assert (having["low"] < having["value"]).all() and (having["value"] < having["high"]).all()


def test_few_malignant_images_leave_a_specificity_at_high_sensitivity_without_interval(test_set):
    assert bounds_from_below(0.95, 75, confidence=0.95)
    assert not bounds_from_below(0.98, 75, confidence=0.95)
    rows = state(*test_set)
    assert rows.loc["specificity_at_sensitivity_95", "low"] > 0
    unknown = rows.loc[["specificity_at_sensitivity_98", "specificity_at_sensitivity_99"]]
    assert (unknown["interval"] == "none").all() and unknown[["low", "high", "bootstrap_low"]].isna().all(axis=None)


def test_bands_hold_the_curve_and_end_where_it_ends(test_set):
    weights = draw_weights(test_set[0], draws=300, seed=1)
    (_, low, high), recalls = band_curves(*test_set, weights=weights, confidence=0.95)
    assert (low <= high).all() and (np.diff(low) >= 0).all() and (np.diff(high) >= 0).all()
    assert low[-1] == high[-1] == 1
    recall, low, high = recalls
    assert (low <= high).all() and recall[0] > 0
    assert low[-1] <= high[-1] < 0.5, "at full recall little is left of precision"


def test_the_logit_interval_is_the_delta_methods():
    """By hand: a standard error of 0.05 at 0.6 is 0.05 / (0.6 * 0.4) in log odds."""
    draws = 0.6 + 0.05 * np.array([-1.0, 1.0]) / np.sqrt(2)
    low, high = intervals.logit_interval(0.6, draws, confidence=0.95)
    reach = 1.959964 * 0.05 / 0.24
    assert (low, high) == pytest.approx((expit(np.log(1.5) - reach), expit(np.log(1.5) + reach)), abs=1e-6)
    assert intervals.logit_interval(1.0, np.ones(5), confidence=0.95) == (1, 1)


def test_the_interval_of_a_weak_networks_ap_lies_lower_than_the_bootstraps(test_set):
    row = state(test_set[0], np.random.default_rng(0).random(379)).loc["ap"]
    assert row["interval"] == "bootstrap, logit scale"
    assert row["low"] < row["bootstrap_low"] and row["high"] < row["bootstrap_high"]


def test_wilsons_interval_keeps_its_promise_best():
    """The choice among intervals of a proportion; no simulation, so no tolerance for luck."""
    usual, high = (measure_proportions(np.linspace(*ends, 101), trials=75) for ends in ((0.3, 0.9), (0.95, 0.99)))
    assert usual["Wilson"].between(0.925, 0.972).all()
    on_target = high.apply(lambda values: values.between(0.93, 0.97).mean())
    assert on_target.idxmax() == "Wilson" and 0.5 < on_target["Wilson"] < 1


def test_a_populations_metrics_are_those_of_a_large_sample():
    population = draw_population(np.random.default_rng(4))
    rng = np.random.default_rng(5)
    tests = [evaluate(*population.draw(rng), target_threshold=population.threshold) for _ in range(300)]
    for metric, truth in population.evaluate().items():
        if metric not in ("ece", "partial_auc_80") and "specificity_at_sens" not in metric:  # biased in small samples
            assert np.nanmean([float(t[metric]) for t in tests]) == pytest.approx(truth, abs=0.025), metric


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say():
    """A small `benchmarks/stats.py coverage`; by the binomial, honest intervals would fail one such test in 100."""
    tests = 150
    coverage = measure_coverage(tests=tests, draws=200, seed=5)["coverage"]
    tail = 0.01 / 2 / len(coverage)
    least, most = binom.ppf([tail, 1 - tail], tests, 0.95) / tests
    off = coverage[~coverage.between(least, most)]
    assert off.empty, f"coverage of a 95 % interval, {least} to {most} expected: {off.to_dict()}"
