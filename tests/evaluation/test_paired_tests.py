"""Tests between models against MLstatkit, statsmodels and their own distribution under no difference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from MLstatkit import Delong_test
from scipy.special import expit
from scipy.stats import bootstrap
from sklearn.metrics import average_precision_score
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.power import normal_power

from lesion_utils.core.errors import MetricError
from lesion_utils.evaluation.intervals import draw_weights
from lesion_utils.evaluation.paired_tests import (
    compare_bootstrap,
    compare_delong,
    compare_mcnemar,
    detectable_difference,
)


def draw_pair(seed: int = 0, *, gap: float = 0.0, malignant: int = 75, benign: int = 304):
    """Labels and the correlated scores of two models; the first separates the classes by `gap` more."""
    rng = np.random.default_rng(seed)
    targets = np.repeat([1, 0], [malignant, benign])
    shared = rng.normal(size=targets.size)
    a, b = (expit(shared + rng.normal(size=targets.size) + s * targets - 1.5) for s in (1.2 + gap, 1.2))
    return targets, a, b


@pytest.mark.parametrize("digits", [1, 2, 15])
@pytest.mark.parametrize("seed", range(5))
def test_delong_agrees_with_mlstatkit(seed, digits):
    y, a, b = draw_pair(seed, gap=0.3)
    a, b = np.round(a, digits), np.round(b, digits)
    ours = compare_delong(y, a, b, confidence=0.95)
    z, p, _, _, auc_a, auc_b, info = Delong_test(y, a, b)
    assert info["method"] == "delong"
    assert (ours.a, ours.b, ours.p) == pytest.approx((auc_a, auc_b, p), abs=1e-9)
    assert ours.difference / ours.error == pytest.approx(-z, abs=1e-9), "theirs is b minus a"


def test_delong_without_variance():
    y, a, _ = draw_pair()
    same = compare_delong(y, a, a, confidence=0.95)
    assert (same.difference, same.error, same.p) == (0, 0, 1)
    perfect = compare_delong(y, 0.25 + y / 2, np.full(y.size, 0.5), confidence=0.95)
    assert (perfect.difference, perfect.error, perfect.p) == (0.5, 0, 0)


@pytest.mark.parametrize("metric", ["auc", "ap"])
def test_bootstrap_is_symmetric_and_knows_equality(metric):
    y, a, b = draw_pair(1, gap=0.4)
    settings = {"metric": metric, "weights": draw_weights(y, draws=2000, seed=1), "confidence": 0.95}
    there, back = compare_bootstrap(y, a, b, **settings), compare_bootstrap(y, b, a, **settings)
    assert (there.difference, there.low, there.high) == pytest.approx((-back.difference, -back.high, -back.low))
    assert there.p == back.p
    assert compare_bootstrap(y, a, a, **settings).p == 1


def test_bootstrap_of_the_auc_agrees_with_delong():
    y, a, b = draw_pair(2, gap=0.4)
    weights = draw_weights(y, draws=10_000, seed=1)
    resampled = compare_bootstrap(y, a, b, metric="auc", weights=weights, confidence=0.95)
    analytic = compare_delong(y, a, b, confidence=0.95)
    assert resampled.difference == pytest.approx(analytic.difference, abs=1e-12)
    assert resampled.error == pytest.approx(analytic.error, rel=0.03)
    assert resampled.p == pytest.approx(analytic.p, rel=0.3, abs=0.005)


@pytest.mark.slow
def test_bootstrap_of_the_ap_agrees_with_scipy():
    """scipy resamples all images together, so its interval is a little wider; the two share centre and scale."""
    y, a, b = draw_pair(3, gap=0.4)

    def difference(index):
        return average_precision_score(y[index], a[index]) - average_precision_score(y[index], b[index])

    theirs = bootstrap((np.arange(y.size),), difference, n_resamples=600, vectorized=False, method="percentile", rng=1)
    weights = draw_weights(y, draws=4000, seed=1)
    ours = compare_bootstrap(y, a, b, metric="ap", weights=weights, confidence=0.95)
    assert ours.error == pytest.approx(theirs.standard_error, rel=0.12)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.025)


@given(st.integers(0, 30), st.integers(0, 30))
def test_mcnemar_agrees_with_statsmodels(only_a, only_b):
    y = np.repeat([1, 0, 1, 0], [only_a, only_b, 1, 1])
    a = np.concatenate([np.full(only_a, 0.9), np.full(only_b, 0.9), [0.9, 0.1]])
    b = np.concatenate([np.full(only_a, 0.1), np.full(only_b, 0.1), [0.9, 0.1]])
    test = compare_mcnemar(y, a, b)
    table = [[2, only_a], [only_b, 0]]
    assert test.p == pytest.approx(mcnemar(table, exact=True).pvalue if only_a + only_b else 1.0, abs=1e-9)
    assert test.difference == pytest.approx((only_a - only_b) / y.size)


@pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
def test_detectable_difference_has_the_power_it_claims(power):
    smallest = detectable_difference(0.02, alpha=0.05, power=power)
    found = normal_power(smallest / 0.02, nobs=1, alpha=0.05, alternative="two-sided")
    assert found == pytest.approx(power, abs=1e-4)


def test_detectable_difference_refuses_nan():
    with pytest.raises(MetricError, match="standard error"):
        detectable_difference(np.nan, alpha=0.05, power=0.8)


def test_delong_keeps_its_level_and_its_power():
    """Under no difference 5 % of tests are significant; at the detectable difference 80 % are (about, in 300 draws)."""
    null = [compare_delong(*draw_pair(seed), confidence=0.95) for seed in range(300)]
    assert np.mean([t.p < 0.05 for t in null]) == pytest.approx(0.05, abs=0.025)
    real = [compare_delong(*draw_pair(seed, gap=0.5), confidence=0.95) for seed in range(300)]
    shown = np.mean([t.p < 0.05 for t in real])
    true = np.mean([t.difference for t in real])
    claimed = normal_power(true / np.mean([t.error for t in real]), nobs=1, alpha=0.05, alternative="two-sided")
    assert shown == pytest.approx(claimed, abs=0.05)
