"""The tables of the papers that the study reproduces, and which rows are put forward."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from drawn_predictions import COMPARISON, SKILL, get_row
from sklearn import metrics as sk
from tiny_study import make_params

from lesion_utils.core.names import COMBINATION, name_model, name_series
from lesion_utils.evaluation.candidates import pick_classifiers, rank_on_validation, state_validation
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


def test_the_leaderboard_shows_each_networks_best_classifier_and_how_it_was_chosen(predictions, results, controls):
    picked = pick_classifiers(rank_on_validation(predictions))
    assert {model for model, _ in picked} == {"resnet50", "vgg19"}
    assert picked["vgg19", "features:knn"] == "best of 1 by validation"
    scores = {
        name: sk.average_precision_score(run["target"], run["probability"])
        for name in ("svm_rbf", "knn")
        for run in [select_run(predictions, model="resnet50", regime=f"features:{name}", split="val")]
    }
    best = max(scores, key=scores.get)
    assert picked["resnet50", f"features:{best}"] == "best of 2 by validation" and len(picked) == 2
    board = tabulate_leaderboard(results, read_published(), controls, classifiers=picked)
    own = set(board.loc[board["group"] == "this study", "name"])
    assert len(own) == len(SKILL) + 2
    assert f"{name_series('resnet50', f'features:{best}')} [best of 2 by validation]" in own


@pytest.mark.parametrize(("folds", "keep"), [(1, "best"), (5, "last")])
def test_the_order_says_what_it_compares(predictions, folds, keep):
    params = make_params()
    params = params.model_copy(
        update={
            "data": params.data.model_copy(update={"folds": folds}),
            "resnet50": params.resnet50.model_copy(update={"keep": keep}),
            "vgg19": params.vgg19.model_copy(update={"keep": "last"}),
        }
    )
    subsets = pd.Series(["train"] * 200 + ["val"] * 60)
    said = state_validation(rank_on_validation(predictions), subsets, params)
    assert ("same 200 images and are ordered on 60 others" in said) == (folds == 1)
    assert ("Each of the 60 training images" in said and "other parts of 5" in said) == (folds == 5)
    name = name_model(params.models["resnet50"])
    assert (f"{name} kept the epoch that scored best on them" in said) == (keep == "best")
    tested = predictions[predictions["split"] == "test"]
    assert "nothing orders" in state_validation(rank_on_validation(tested), subsets, params)
