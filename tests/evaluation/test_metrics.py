"""Every point metric against scikit-learn, against the official scorer, and at the edges of what it is defined for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scored_labels import scored_labels
from sklearn import metrics as sk

from lesion_utils.core.errors import MetricError
from lesion_utils.evaluation.evaluate import AT_SENSITIVITY, SENSITIVITIES, evaluate, label_metric
from lesion_utils.evaluation.metrics import choose_threshold, rank_scores, roc_auc

ISIC = Path(__file__).parents[1] / "oracles" / "isic"
CASES = sorted(json.loads((ISIC / "scores.json").read_text()))


def ask_sklearn(y: np.ndarray, p: np.ndarray) -> dict[str, float]:
    """The same metrics from scikit-learn, by its public functions."""
    precision, recall, _ = sk.precision_recall_curve(y, p)
    fpr, tpr, _ = sk.roc_curve(y, p, drop_intermediate=False)
    called = (p > 0.5).astype(int)
    below = tpr < 0.8
    crossing = np.interp(0.8, [tpr[below][-1], tpr[~below][0]], [fpr[below][-1], fpr[~below][0]])
    left = sk.auc(np.append(fpr[below], crossing), np.append(tpr[below], 0.8)) if crossing > 0 else 0.0
    answers = {
        "ap": sk.average_precision_score(y, p),
        "ap_trapezoid": sk.auc(recall, precision),
        "auc": sk.roc_auc_score(y, p),
        "partial_auc_80": sk.auc(fpr, tpr) - left,
        "brier": sk.brier_score_loss(y, p),
        "log_loss": sk.log_loss(y, p),
        "accuracy": sk.accuracy_score(y, called),
        "balanced_accuracy": sk.balanced_accuracy_score(y, called),
        "sensitivity": sk.recall_score(y, called),
        "specificity": sk.recall_score(y, called, pos_label=0),
        "precision": sk.precision_score(y, called, zero_division=np.nan),
        "f1": sk.f1_score(y, called, zero_division=0),
        "mcc": sk.matthews_corrcoef(y, called),
    }
    return answers | {f"{AT_SENSITIVITY}{s * 100:.0f}": 1 - fpr[tpr >= s][0] for s in SENSITIVITIES}


@settings(max_examples=60)
@given(scored_labels())
@example((np.repeat([1, 0], [75, 304]), np.zeros(379)))  # all are called benign
def test_every_metric_agrees_with_scikit_learn(case):
    y, p = case
    ours = evaluate(y, p)
    for name, value in ask_sklearn(y, p).items():
        assert ours[name] == pytest.approx(value, abs=1e-9, nan_ok=True), name


@pytest.mark.parametrize("case", CASES)
def test_metrics_agree_with_the_official_scorer(case):
    truth, entry = (pd.read_csv(ISIC / f"{name}.csv") for name in ("truth", case))
    official = json.loads((ISIC / "scores.json").read_text())[case]
    ours = evaluate(truth["malignant"], entry["malignant"])
    names = {"ap": "ap", "auc": "auc", "auc_sens_80": "partial_auc_80", "dice": "f1", "overall": "ap"}
    names |= {name: name for name in ("accuracy", "sensitivity", "specificity")}
    for theirs, name in names.items():
        assert ours[name] == pytest.approx(official[theirs], abs=1e-9), name
    if np.isnan(ours["precision"]):
        assert official["ppv"] == 1.0, "the scorer gives precision away when nothing is called malignant; we do not"
    else:
        assert ours["precision"] == pytest.approx(official["ppv"], abs=1e-9)


@given(scored_labels(), st.data())
def test_weights_count_an_image_as_often_as_they_say(case, data):
    y, p = case
    times = st.lists(st.integers(0, 3), min_size=y.size, max_size=y.size)
    weights = np.array([data.draw(times), np.ones(y.size, int)])
    weights[0, [np.argmax(y), np.argmin(y)]] += 1  # both classes stay
    weighted = evaluate(y, p, target_threshold=0.3, weights=weights)
    repeated = evaluate(np.repeat(y, weights[0]), np.repeat(p, weights[0]), target_threshold=0.3)
    plain = evaluate(y, p, target_threshold=0.3)
    for name, values in weighted.items():
        assert values.shape == (2,), name
        assert values[1] == pytest.approx(plain[name], abs=1e-9, nan_ok=True), name
        if name != "ece":  # its bins belong to the images as they are
            assert values[0] == pytest.approx(repeated[name], abs=1e-9, nan_ok=True), name


@given(scored_labels())
def test_ranking_metrics_see_only_the_order(case):
    y, p = case
    ranks = np.unique(p, return_inverse=True)[1] / y.size
    before, after = rank_scores(y, p), rank_scores(y, ranks)
    assert before.roc_auc() == after.roc_auc()
    assert before.average_precision() == after.average_precision()
    flipped = 1 - roc_auc(1 - y, ranks)
    assert roc_auc(y, p) == pytest.approx(flipped, abs=1e-12)


def test_exactly_one_half_is_benign():
    above = np.nextafter(0.5, 1)
    confusion = rank_scores([0, 1, 0, 1], [0.5, 0.5, above, above]).confusion(0.5)
    assert (confusion.tp, confusion.fp, confusion.fn, confusion.tn) == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("targets", "probs", "says"),
    [
        ([0, 1, 1], [0.1, np.nan, 0.2], "1 of 3 scores are NaN"),
        ([0, 0, 0], [0.1, 0.2, 0.3], "0 malignant of 3 images"),
        ([1, 1], [0.1, 0.2], "2 malignant of 2 images"),
        ([], [], "0 malignant of 0 images"),
        ([0, 1], [0.1, 1.5], "not logits"),
        ([0, 1], [-0.1, 0.5], "not logits"),
        ([0, 1], [0.1, np.inf], "not logits"),
        ([0, 2], [0.1, 0.5], "neither 0 nor 1"),
        ([0, np.nan], [0.1, 0.5], "neither 0 nor 1"),
        ([0, 1, 1], [0.1, 0.5], r"shape \(3,\)"),
        ([[0, 1]], [[0.1, 0.5]], "vectors"),
    ],
)
def test_undefined_input_is_an_error_that_says_why(targets, probs, says):
    with pytest.raises(MetricError, match=says):
        evaluate(targets, probs)


def test_a_weighting_without_a_class_is_an_error():
    with pytest.raises(MetricError, match="no image of one class"):
        rank_scores([0, 1], [0.2, 0.7], weights=[[1, 1], [1, 0]])


@given(scored_labels(), st.floats(0.01, 1))
def test_chosen_threshold_is_the_largest_that_keeps_the_sensitivity(case, wanted):
    y, p = case
    threshold = choose_threshold(y, p, sensitivity=wanted)
    malignant = p[y == 1]
    assert (malignant > threshold).mean() >= wanted - 1e-9
    assert (malignant > np.nextafter(threshold, 2)).mean() < wanted + 1e-9
    assert (malignant > np.nextafter(threshold, 2)).mean() < 1


def test_labels_name_the_challenge_year():
    assert label_metric("specificity_at_sensitivity_98") == "specificity at 98 % sensitivity (2016)"
    assert label_metric("specificity_at_sensitivity_95") == "specificity at 95 % sensitivity (2016 and 2017)"
    assert label_metric("sensitivity_at_target") == "sensitivity, threshold from validation"
    assert "trapezoid" in label_metric("ap_trapezoid")
