"""A network that learnt nothing is called so, and no order, combination or verdict uses it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from drawn_predictions import CLASSICAL, COMPARISON, SKILL, draw_predictions
from scipy.stats import entropy
from sklearn import metrics as sk

from lesion_utils.evaluation.predictions import add_ensembles, iterate_means, select_run
from lesion_utils.evaluation.ranking import compare_networks, rank_on_validation
from lesion_utils.evaluation.sentences import (
    describe_left_out,
    state_calibration_size,
    state_primary,
    state_single,
    state_training,
)
from lesion_utils.evaluation.tables import summarise_seeds, tabulate_results, widen_results
from lesion_utils.evaluation.trained import (
    LEARNT,
    drop_untrained,
    list_untrained,
    mark_training,
    measure_run,
    tabulate_training,
)

GUESS = entropy([0.192, 0.808])  # 173 of 900 training images are malignant: 0.489
BOTH = {"both": [("resnet50", "finetune"), ("vgg19", "finetune")]}


def make_training(**losses: float) -> pd.DataFrame:
    """Five networks of each model and regime; a loss of 0.2 but where it is given."""
    runs = [
        {"model": model, "regime": regime, "guess_loss": GUESS, "test_ap": 0.3 + fold / 100, "test_auc": 0.7}
        | {"training_loss": losses.get(f"{model}_{regime}", 0.2)}
        for model, regime in SKILL
        for fold in range(5)
    ]
    return tabulate_training(runs)


def mark(**losses: float) -> pd.DataFrame:
    table = mark_training(draw_predictions(skill=SKILL | CLASSICAL), make_training(**losses), folds=5)
    return add_ensembles(table, BOTH)


def test_a_run_is_measured_by_its_last_loss_and_its_own_test_scores():
    own = draw_predictions(skill={("resnet50", "scratch"): 1.0}, seeds=1)
    test = own[own["split"] == "test"]
    measured = measure_run(pd.DataFrame({"loss": [0.7, 0.4]}), own, guess_loss=GUESS)
    assert (measured["training_loss"], measured["guess_loss"]) == (0.4, GUESS)
    assert measured["test_auc"] == pytest.approx(sk.roc_auc_score(test["target"], test["probability"]))
    assert measured["test_ap"] == pytest.approx(sk.average_precision_score(test["target"], test["probability"]))


@pytest.mark.parametrize(
    ("loss", "trained"),
    [(0.475, False), (1.2, False), ((1 - LEARNT) * GUESS + 0.001, False), ((1 - LEARNT) * GUESS - 0.001, True)],
)
def test_a_network_is_trained_if_its_loss_ends_well_below_guessing(loss, trained):
    table = make_training(vgg19_scratch=loss).set_index(["model", "regime"])
    row = table.loc["vgg19", "scratch"]
    assert row["trained"] == trained and row["networks"] == 5
    assert (row["ap_min"], row["ap_max"], row["ap_mean"]) == pytest.approx((0.30, 0.34, 0.32))
    assert table["trained"].sum() == len(table) - (not trained)


def test_what_is_not_trained_is_said_with_its_numbers_and_what_is_trained_needs_no_sentence():
    assert state_training(make_training()) == []
    (said,) = state_training(make_training(vgg19_scratch=0.475))
    assert said.startswith("VGG19, from scratch, is not trained: its final training loss is 0.475")
    assert "has 0.489" in said and "at least 5% below" in said and "is 2.9% below" in said
    assert "is 12.4% above" in state_training(make_training(vgg19_scratch=0.55))[0]


def test_every_row_says_how_many_networks_it_averages_and_which_are_not_trained():
    names = {(n.model, n.regime): str(n) for n, _, _ in iterate_means(mark(vgg19_scratch=0.48))}
    assert names["vgg19", "scratch"] == "VGG19, from scratch (mean of 5 networks, not trained)"
    assert names["resnet50", "finetune"] == "ResNet50, fine-tuned (mean of 5 networks)"
    assert names["resnet50", "features:svm_rbf"] == "ResNet50 features, RBF SVM (mean of 5 classifiers)"
    assert names["combination", "both"] == "both (mean of 10 models)"
    results = tabulate_results(mark(vgg19_scratch=0.48), COMPARISON)
    assert set(widen_results(results, ["ap"])["name"]) == set(names.values())
    assert summarise_seeds(results)["name"].isin(names.values()).all()


def test_the_order_and_combinations_leave_out_what_is_not_trained():
    scores = mark(vgg19_finetune=GUESS)
    assert list_untrained(scores) == [("vgg19", "finetune")]
    order = rank_on_validation(scores)
    assert ("vgg19", "finetune") not in set(zip(order["model"], order["regime"], strict=True)) and len(order) == 8
    assert "combination" not in set(scores["model"])
    members = [["resnet50/finetune", "vgg19/finetune"]]
    (said,) = describe_left_out(scores, COMPARISON.model_copy(update={"combinations": members}))
    assert said.endswith("is omitted: VGG19, fine-tuned, is not trained.")
    kept = drop_untrained(scores, list_untrained(scores))
    assert len(kept) == len(scores) - 3 * 180 and drop_untrained(kept, []) is kept


def test_no_verdict_is_built_on_a_network_that_is_not_trained():
    comparisons = compare_networks(mark(vgg19_finetune=0.48), COMPARISON)
    assert not comparisons["primary"].any() and comparisons["declared"].any()
    said = state_primary(comparisons, COMPARISON)
    assert said == "The declared comparison gives no verdict: ResNet50 − VGG19, fine-tuned (not trained: VGG19)."
    assert compare_networks(mark(), COMPARISON)["primary"].sum() == 1


def test_marks_leave_every_score_as_it_is():
    plain = add_ensembles(draw_predictions(skill=SKILL | CLASSICAL), BOTH)
    marked = mark(vgg19_scratch=0.48)
    assert marked[plain.columns].equals(plain)
    run = select_run(marked, model="combination", regime="both")
    assert np.all(run["networks"] == 10)


def test_single_networks_are_said_with_mean_and_range_and_what_the_spread_over_seeds_is():
    said = state_single(make_training(vgg19_scratch=0.48), 1)
    assert said[2] == (
        "ResNet50, fine-tuned, 5 single networks, mean (range): AUC 0.700 (0.700 to 0.700), AP 0.320 (0.300 to 0.340)."
    )
    assert said[3].startswith("VGG19, from scratch, not trained, 5 single networks")
    assert len(said) == 6 and len(state_single(make_training(), 2)) == 7
    assert "compares 2 seeds on the same folds" in state_single(make_training(), 2)[-1]
    assert state_single(make_training().assign(networks=1), 1) == [], "a single one is in the tables"


@pytest.mark.parametrize(("malignant", "said"), [(75, "does not meet the 100"), (150, "meets the 100")])
def test_the_sample_size_for_calibration_is_judged_by_the_rarer_class(malignant, said):
    sentence = state_calibration_size(1000, malignant)
    assert f"has {malignant} test images. This {said}" in sentence and "does not meet the 200" in sentence
