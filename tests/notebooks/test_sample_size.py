"""The curve over the number of training images: its draws, its sentence and its end."""

from __future__ import annotations

import numpy as np
import pandas as pd
from pytest import approx
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lesion_utils.notebooks.sample_size import draw_subsets, state_sample_size, summarise_draws, trace_sample_size
from lesion_utils.training.classifiers import CANDIDATES


def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = (np.arange(300) % 5 == 0).astype(int)
    return rng.normal(size=(300, 30)) + 0.35 * targets[:, None] * (np.arange(30) < 15), targets


def test_the_scores_rise_with_the_images_and_the_spread_narrows():
    (features, targets), (test_features, test_targets) = draw(0), draw(1)
    args = (features, test_features, targets, test_targets)
    draws = draw_subsets(*args, groups=np.arange(300), seed=1, shares=(0.1, 0.5, 1.0), repeats=6)
    assert draws["share"].value_counts().to_dict() == {0.1: 6, 0.5: 6, 1.0: 1}
    assert draws.groupby("share")["images"].first().tolist() == [30, 150, 300]
    assert (draws["malignant"] == draws["images"] / 5).all(), "each class in proportion"
    rows = summarise_draws(draws)
    assert rows["auc_mean"].is_monotonic_increasing and rows["ap_mean"].is_monotonic_increasing
    width = rows["auc_high"] - rows["auc_low"]
    assert width.iloc[0] > width.iloc[1] > width.iloc[2] == 0
    first = draws[draws["share"] == 0.1]["ap"]
    assert rows.loc[0, ["ap_low", "ap_mean", "ap_high"]].tolist() == approx([first.min(), first.mean(), first.max()])
    whole = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    probs = [
        whole.set_params(logisticregression__C=c).fit(features, targets).predict_proba(test_features)[:, 1]
        for c in CANDIDATES["logistic"][1]["C"]
    ]
    assert any(rows["ap_mean"].iloc[-1] == approx(average_precision_score(test_targets, each)) for each in probs)


def test_the_sentence_has_the_numbers_of_the_table():
    table = {"share": [0.5, 1.0], "images": [448, 897], "malignant": [88, 172], "repeats": [20, 1]}
    table |= {"ap_mean": [0.5, 0.48], "ap_low": [0.4, 0.48], "ap_high": [0.6, 0.48]}
    table |= {"auc_mean": [0.75, 0.8], "auc_low": [0.7, 0.8], "auc_high": [0.79, 0.8]}
    said = state_sample_size(pd.DataFrame(table))
    assert "448 training images: AP 0.500 (0.400 to 0.600), AUC 0.750 (0.700 to 0.790); " in said
    assert said.endswith("897 training images: AP 0.480, AUC 0.800. All images instead of half of them: AP −0.020.")


def test_a_study_without_frozen_features_has_no_curve():
    rows = trace_sample_size(None, pd.DataFrame(), data=None)  # type: ignore[arg-type]
    assert rows.empty and "no frozen features" in state_sample_size(rows)
