"""The tables of the papers that the study reproduces, and which rows are put forward."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from drawn_predictions import COMPARISON, SKILL, get_row
from sklearn import metrics as sk

from lesion_utils.core.names import COMBINATION
from lesion_utils.evaluation.candidates import pick_classifiers, rank_on_validation, read_choices
from lesion_utils.evaluation.literature import read_published
from lesion_utils.evaluation.predictions import select_run
from lesion_utils.evaluation.ranking import compare_networks
from lesion_utils.evaluation.replication import LOPEZ_METRICS, draw_balanced, tabulate_classifiers, tabulate_regimes
from lesion_utils.evaluation.tables import (
    summarise_seeds,
    tabulate_leaderboard,
)


def test_balanced_subsets_are_balanced_and_vary():
    targets = np.repeat([1, 0], [75, 304])
    weights = draw_balanced(targets, per_class=75, repeats=400, seed=1)
    assert (weights[:, :75] == 1).all() and (weights[:, 75:].sum(1) == 75).all()
    assert set(np.unique(weights)) == {0, 1}
    np.testing.assert_allclose(weights[:, 75:].mean(0), 75 / 304, atol=0.09)
    assert (draw_balanced(targets, per_class=500, repeats=3, seed=1).sum(1) == 150).all(), "the smaller class bounds it"
    assert (draw_balanced(targets, per_class=20, repeats=3, seed=1).sum(1) == 40).all()


def test_a_loss_that_no_matrix_gives_is_marked(predictions, results):
    rows = tabulate_regimes(predictions, results, read_published(), COMPARISON)
    lopez = rows[(rows["source"] == "VGG16, Lopez et al. 2017") & (rows["regime"] == "finetune")].set_index("metric")
    assert lopez["mark"].to_dict() == {
        **dict.fromkeys(("accuracy", "sensitivity", "specificity", "precision"), "recomputed"),
        "log_loss": "secondary source",
    }  # fmt: skip


def test_lopez_table_has_both_test_sets_and_the_published_rows(predictions, results):
    rows = tabulate_regimes(predictions, results, read_published(), COMPARISON)
    assert set(rows["metric"]) == set(LOPEZ_METRICS)
    counts = rows.groupby(["source", "balanced"]).size().to_dict()
    assert counts[("ResNet50", False)] == counts[("ResNet50", True)] == counts[("VGG19", True)] == 15
    lopez = rows[(rows["source"] == "VGG16, Lopez et al. 2017") & (rows["metric"] == "accuracy")]
    assert lopez.set_index("regime")["value"].to_dict() == {"scratch": 0.66, "features": 0.687, "finetune": 0.813}
    assert lopez.set_index("regime")["mark"].to_dict()["scratch"] == "secondary source"
    run = select_run(predictions, model="vgg19", regime="finetune")
    balanced = rows[(rows["source"] == "VGG19") & rows["balanced"] & (rows["regime"] == "finetune")].set_index("metric")
    recall = sk.recall_score(run["target"], run["probability"] > 0.5)
    specificity = sk.recall_score(run["target"], run["probability"] > 0.5, pos_label=0)
    assert balanced.loc["sensitivity", "value"] == pytest.approx(recall), "all malignant images are in every subset"
    assert balanced.loc["accuracy", "value"] == pytest.approx((recall + specificity) / 2, abs=0.02)
    assert balanced.loc["accuracy", "sd"] > 0 and balanced.loc["accuracy", "low"] < balanced.loc["accuracy", "high"]


def test_classifiers_are_listed_by_backbone(results):
    rows = tabulate_classifiers(results, metric="auc")
    assert rows[["backbone", "classifier"]].to_records(index=False).tolist() == [
        ("resnet50", "svm_rbf"),
        ("resnet50", "knn"),
        ("vgg19", "knn"),
    ]
    assert rows["value"][0] == get_row(results, "resnet50", "features:svm_rbf", "auc")["value"]


def test_combinations_stay_out_of_the_networks_own_tables(scored, combined, comparisons):
    assert COMBINATION not in set(summarise_seeds(combined)["model"])
    pd.testing.assert_frame_equal(compare_networks(scored, COMPARISON), comparisons)
    named = combined.replace({"regime": {"both": "scratch"}})  # a study may call one so
    assert set(tabulate_regimes(scored, named, read_published(), COMPARISON)["source"]) == {
        "ResNet50", "VGG19", "VGG16, Lopez et al. 2017",
    }  # fmt: skip
    assert set(tabulate_classifiers(combined, metric="ap")["backbone"]) == {"resnet50", "vgg19"}


def test_the_leaderboard_shows_each_networks_best_classifier_and_how_it_was_chosen(
    predictions, results, controls, tmp_path
):
    ranking = rank_on_validation(predictions)
    picked = pick_classifiers(ranking, read_choices(tmp_path, COMPARISON.models))
    assert {model for model, _ in picked} == {"resnet50", "vgg19"} and picked["vgg19", "features:knn"] == (
        "best of 1 by validation"
    )
    choices = pd.DataFrame({"classifier": ["svm_rbf", "knn"], "C": [1.0, np.nan], "cv_ap": [0.5, 0.6]})
    choices.to_csv(tmp_path / "03_resnet50_finetune_choices.csv", index=False)
    picked = pick_classifiers(ranking, read_choices(tmp_path, COMPARISON.models))
    assert picked["resnet50", "features:knn"] == "best of 2 by cross-validation"
    assert ("resnet50", "features:svm_rbf") not in picked
    board = tabulate_leaderboard(results, read_published(), controls, classifiers=picked)
    own = board.loc[board["group"] == "this study", "name"]
    assert len(own) == len(SKILL) + 2
    assert "ResNet50 features, k nearest neighbours [best of 2 by cross-validation]" in set(own)
