"""What is put forward by validation; the one comparison that is declared and tested, and what is said of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from drawn_predictions import CLASSICAL, COMPARISON, SKILL, draw_predictions
from sections import change_data
from sklearn import metrics as sk
from tiny_study import make_params

from lesion_utils.core.names import name_model, name_series
from lesion_utils.evaluation.literature import read_published, tabulate_leaderboard
from lesion_utils.evaluation.predictions import add_ensembles, select_run
from lesion_utils.evaluation.ranking import (
    compare_networks,
    find_power,
    list_spoken,
    pick_classifiers,
    rank_on_validation,
    tabulate_detectable,
)
from lesion_utils.evaluation.sentences import state_detectable, state_power, state_primary, state_validation


def test_one_comparison_is_primary(comparisons):
    assert comparisons["primary"].sum() == 1
    row = comparisons[comparisons["primary"]].iloc[0]
    assert (row["regime"], row["metric"], row["test"]) == ("finetune", "auc", "DeLong")
    assert row["difference"] == pytest.approx(row["a"] - row["b"])
    assert comparisons.groupby(["regime", "metric"])["of_record"].sum().eq(1).all()


def test_no_difference_is_called_no_difference(comparisons):
    sentence = state_primary(comparisons, COMPARISON)
    row = comparisons[comparisons["primary"]].iloc[0]
    assert row["p"] > 0.05 and sentence.startswith("No significant difference between ResNet50 and VGG19, fine-tuned")
    assert f"p = {row['p']:.3f}" in sentence and f"{row['a']:.3f} against {row['b']:.3f}" in sentence


@pytest.mark.parametrize("better", ["resnet50", "vgg19"])
def test_a_difference_names_the_better_network(better):
    skill = {("resnet50", "finetune"): 0.2, ("vgg19", "finetune"): 0.2} | {(better, "finetune"): 3.0}
    sentence = state_primary(compare_networks(add_ensembles(draw_predictions(skill=skill)), COMPARISON), COMPARISON)
    names = {"resnet50": "ResNet50", "vgg19": "VGG19"}
    assert sentence.startswith(f"{names[better]} ranks the test images better than") and "p < 0.001" in sentence


def test_means_over_unlike_numbers_of_seeds_are_said_to_be_unlike():
    scores = draw_predictions()
    one_seed = scores[(scores["model"] == "resnet50") | (scores["seed"] == scores["seed"].min())]
    for table, said in ((scores, False), (one_seed, True)):
        sentence = state_primary(compare_networks(add_ensembles(table), COMPARISON), COMPARISON)
        assert sentence.endswith("averaging alone can raise a score.") == said
    count = scores["seed"].nunique()
    assert f"ResNet50 is a mean over {count} seeds and VGG19 over 1:" in sentence and count > 1


def test_the_primary_comparison_may_be_of_average_precision(predictions):
    primary = COMPARISON.primary.model_copy(update={"metric": "ap"})
    params = COMPARISON.model_copy(update={"primary": primary})
    rows = compare_networks(predictions, params)
    assert rows[rows["primary"]]["test"].tolist() == ["paired bootstrap"]
    assert "average precision" in state_primary(rows, params)


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
    params = change_data(make_params(keep="last"), folds=folds)
    params = params.model_copy(update={"resnet50": params.resnet50.model_copy(update={"keep": keep})})
    subsets = pd.Series(["train"] * 200 + ["val"] * 60)
    said = state_validation(rank_on_validation(predictions), subsets, params)
    assert ("same 200 images and ranked on 60 other images" in said) == (folds == 1)
    assert ("Each of the 60 training images" in said and "5 folds" in said) == (folds == 5)
    name = name_model(params.models["resnet50"])
    assert (f"{name}: the epoch with the best score on these images was kept" in said) == (keep == "best")
    tested = predictions[predictions["split"] == "test"]
    nothing = rank_on_validation(tested)
    assert "because no network is trained" in state_validation(nothing, subsets, params)
    if folds == 1:
        only = subsets[subsets != "val"]
        assert "because there are no validation images" in state_validation(nothing, only, params)


def test_the_order_is_that_of_the_validation_images(predictions, scored):
    ranking = rank_on_validation(scored)
    assert len(ranking) == len(SKILL | CLASSICAL) + 2 and ranking["ap"].is_monotonic_decreasing
    run = select_run(predictions, model="vgg19", regime="features", split="val")
    row = ranking.set_index("name").loc["VGG19, frozen features"]
    assert row["ap"] == pytest.approx(sk.average_precision_score(run["target"], run["probability"]))


def test_what_cannot_be_compared_is_said(predictions, results):
    alone = predictions[(predictions["model"] == "resnet50") | (predictions["regime"] == "scratch")]
    rows = compare_networks(alone, COMPARISON)
    assert set(rows["regime"]) == {"scratch"} and not rows["primary"].any()
    assert "could not be made" in state_primary(rows, COMPARISON)
    assert "is not known" in state_power(rows, COMPARISON)
    empty = compare_networks(predictions[predictions["model"] == "vgg19"], COMPARISON)
    assert empty.empty and np.isnan(find_power(empty, COMPARISON))


def test_the_rows_spoken_of_are_the_declared_regime_and_the_most_pretrained(results):
    below = results[results["regime"] == "scratch"]
    assert list_spoken(below, COMPARISON) == [("resnet50", "scratch"), ("vgg19", "scratch")]
    unequal = results[(results["regime"] == "scratch") | (results["model"] == "resnet50")]
    declared = COMPARISON.model_copy(update={"primary": COMPARISON.primary.model_copy(update={"regime": "scratch"})})
    expected = [("resnet50", "scratch"), ("resnet50", "finetune"), ("vgg19", "scratch")]
    assert list_spoken(unequal, declared) == expected


def test_what_can_be_detected_depends_on_the_pair(predictions):
    twin = predictions[predictions["regime"] == "finetune"]
    near = twin[twin["model"] == "resnet50"].assign(regime="features")
    near = near.assign(probability=near["probability"] ** 1.5)  # the same order
    pairs = tabulate_detectable(pd.concat([twin, near]), COMPARISON)
    assert len(pairs) == 3 and pairs["detectable"].is_monotonic_increasing
    first, last = pairs.iloc[0], pairs.iloc[-1]
    assert {first["a"], first["b"]} == {"ResNet50, fine-tuned", "ResNet50, frozen features"}
    assert first["detectable"] == 0 and last["detectable"] == pytest.approx(2.8016 * last["error"], abs=1e-3)
    said = state_detectable(pairs, COMPARISON)
    assert "depends on the pair: 0.000 (" in said and f" to {last['detectable']:.3f} ({last['a']} against" in said
    assert "not two trained networks" in state_detectable(pairs[:0], COMPARISON)
