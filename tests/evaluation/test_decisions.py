"""Decision curves against stored answers of dcurves; predictive values against Bayes' rule and an integral."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawn_predictions import COMPARISON, get_row
from scipy.integrate import quad
from scipy.special import expit, logit
from scipy.stats import beta
from sklearn.metrics import precision_score, recall_score

from lesion_utils.core.errors import MetricError
from lesion_utils.evaluation.decisions import (
    compute_net_benefit,
    measure_shift,
    predict_values,
    tabulate_predictive_values,
    trace_decision_curves,
)
from lesion_utils.evaluation.intervals import draw_weights
from lesion_utils.evaluation.predictions import add_ensembles, select_run
from lesion_utils.evaluation.sentences import state_predictive_values, state_shift

ANSWERS = json.loads(Path(__file__).with_name("dcurves_answers.json").read_text())


@pytest.mark.parametrize("case", ANSWERS["cases"], ids=lambda case: f"{len(case['targets'])} images")
def test_net_benefit_agrees_with_dcurves(case):
    """The cases have ties in plenty, and scores at the thresholds. dcurves itself is in no lock: it needs a build."""
    targets, thresholds = case["targets"], ANSWERS["thresholds"]
    weights = draw_weights(targets, draws=3, seed=1)
    scores = {"score": case["scores"]}
    ours = trace_decision_curves(targets, scores, thresholds=thresholds, weights=weights, confidence=0.95)
    for mine, name in (("score", "score"), ("treat all", "all"), ("treat none", "none")):
        np.testing.assert_allclose(ours[ours["name"] == mine]["net_benefit"], case["net_benefit"][name], atol=1e-9)


def test_the_band_of_a_decision_curve_is_the_spread_of_resampled_images():
    rng = np.random.default_rng(1)
    targets = np.repeat([1, 0], [30, 90])
    probs, at = rng.random(120) * 0.6 + 0.3 * targets, np.array([0.1, 0.4])
    weights = draw_weights(targets, draws=400, seed=1)
    curves = trace_decision_curves(targets, {"x": probs}, thresholds=at, weights=weights, confidence=0.9)
    own = curves[curves["name"] == "x"]
    repeated = [compute_net_benefit(np.repeat(targets, w), np.repeat(probs, w), thresholds=at) for w in weights]
    np.testing.assert_allclose(own[["low", "high"]], np.quantile(repeated, [0.05, 0.95], axis=0).T)
    assert (own["low"] < own["high"]).all()
    references = curves[curves["name"] != "x"]
    np.testing.assert_allclose(references["low"], references["net_benefit"])


@pytest.mark.parametrize("threshold", [0.0, 1.0, np.nan])
def test_net_benefit_needs_finite_odds(threshold):
    with pytest.raises(MetricError, match="between 0 and 1"):
        compute_net_benefit([0, 1], [0.2, 0.8], thresholds=[threshold])


def test_predictive_values_follow_bayes_rule():
    """Sensitivity 0.9 and specificity 0.8 where one lesion in fifty is malignant: 18 right calls beside 196 wrong."""
    values = predict_values(90, 100, 80, 100, prevalence=0.02, confidence=0.95)
    assert values["ppv"] == pytest.approx(18 / (18 + 196)) and values["npv"] == pytest.approx(784 / (784 + 2))


@pytest.mark.parametrize(("found", "passed"), [(59, 200), (75, 304), (0, 12)])
def test_intervals_of_predictive_values_hold_their_share_of_the_posterior(found, passed):
    """The chance of a PPV under x is an integral over specificities of that of a sensitivity under what gives x."""
    values = predict_values(found, 75, passed, 304, prevalence=0.1, confidence=0.9)
    sensitivity, specificity = beta(found + 0.5, 75.5 - found), beta(passed + 0.5, 304.5 - passed)
    for end, share, edge in (("_low", 0.05, 0.0), ("_high", 0.95, 1.0)):
        if values["ppv"] == edge:
            assert values[f"ppv{end}"] == edge, "the interval holds its value"
            continue
        odds = 0.9 / 0.1 * values[f"ppv{end}"] / (1 - values[f"ppv{end}"])
        ends = specificity.ppf([1e-9, 1 - 1e-9])
        below = quad(lambda s, k=odds: specificity.pdf(s) * sensitivity.cdf(k * (1 - s)), *ends, limit=200)[0]
        assert below == pytest.approx(share, abs=0.004)


@pytest.mark.parametrize(("found", "passed"), [(21, 0), (0, 22), (22, 22), (0, 0), (3, 9)])
def test_an_interval_of_a_predictive_value_holds_the_value(found, passed):
    values = predict_values(found, 22, passed, 22, prevalence=0.5, confidence=0.95)
    for name in ("ppv", "npv"):
        assert np.isnan(values[name]) or values[f"{name}_low"] <= values[name] <= values[f"{name}_high"]


def test_nothing_called_malignant_has_no_positive_predictive_value():
    values = predict_values(0, 75, 304, 304, prevalence=0.1, confidence=0.95)
    assert np.isnan(values["ppv"]) and values["npv"] == pytest.approx(0.9)
    assert 0 < values["npv_low"] < 0.9 < values["npv_high"] < 1


def test_the_table_has_the_test_images_share_and_the_others(predictions, results):
    run = select_run(predictions, model="vgg19", regime="finetune")
    rows = tabulate_predictive_values(results, COMPARISON, targets=run["target"])
    own = rows[(rows["model"] == "vgg19") & (rows["regime"] == "finetune")]
    assert own["prevalence"].tolist() == [0.2, 0.02, 0.1]
    called = run["probability"] > get_row(results, "vgg19", "finetune", "auc")["threshold"]
    assert own["ppv"].iloc[0] == pytest.approx(precision_score(run["target"], called))
    assert own["npv"].iloc[0] == pytest.approx(precision_score(1 - run["target"], ~called))
    said = state_predictive_values(own)
    row = own.iloc[1]
    span = f"{100 * row['ppv_low']:.1f} to {100 * row['ppv_high']:.1f}"
    assert f"with 2 %, PPV {100 * row['ppv']:.1f} % ({span})" in said
    assert said.startswith("Predictive values: with 20 % malignant lesions, as in the test images, PPV ")


def draw_folds(*, noise: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predictions of five folds whose networks disagree by `noise`, and their single test scores."""
    rng, count = np.random.default_rng(1), 2000
    target = np.tile(np.arange(count) % 5 == 0, 2).astype(int)
    split = np.repeat(["test", "val"], count)
    ids = np.array([f"{k:06d}" for k in range(2 * count)])
    shared = rng.normal(size=2 * count) + target - 1.5
    folds = expit(shared + noise * rng.normal(size=(5, 2 * count)))
    probs = np.where(split == "test", folds.mean(0), folds[0])
    about = {"model": "vgg19", "regime": "scratch", "seed": 1}
    table = pd.DataFrame(
        {"image_id": ids, "split": split, "target": target, "probability": probs, "logit": logit(probs)}
    )
    single = [
        pd.DataFrame({"image_id": ids[:count], "fold": fold, "probability": scores[:count]} | about)
        for fold, scores in enumerate(folds, start=1)
    ]
    return add_ensembles(table.assign(**about)), pd.concat(single)


def test_averaging_folds_that_disagree_moves_the_operating_point():
    (row,) = measure_shift(*draw_folds(noise=2.0), COMPARISON).to_dict("records")
    assert row["specificity_shift"] < -0.05 and row["sensitivity_shift"] > 0.02, "the mean lies nearer to the middle"
    assert row["sensitivity_single"] == pytest.approx(COMPARISON.sensitivity_target, abs=0.03)
    predictions, single = draw_folds(noise=2.0)
    test = select_run(predictions, model="vgg19", regime="scratch")
    called = [
        recall_score(test["target"], part.sort_values("image_id")["probability"] > row["threshold"])
        for _, part in single.groupby("fold")
    ]
    assert row["sensitivity_single"] == pytest.approx(np.mean(called))
    (said,) = state_shift(measure_shift(predictions, single, COMPARISON))
    assert said.startswith("VGG19, from scratch: its threshold was chosen on scores of the networks of one fold")
    assert f"specificity by \u2212{-row['specificity_shift']:.3f} (from {row['specificity_single']:.3f} to" in said


def test_folds_that_agree_leave_the_operating_point_where_it_is():
    (row,) = measure_shift(*draw_folds(noise=0.0), COMPARISON).to_dict("records")
    assert row["specificity_shift"] == row["sensitivity_shift"] == 0
    predictions, single = draw_folds(noise=0.0)
    assert measure_shift(predictions, single[single["fold"] == 1], COMPARISON).empty
