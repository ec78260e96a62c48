"""One comparison is declared and tested, and what is said of it."""

from __future__ import annotations

import pytest
from drawn_predictions import COMPARISON, draw_predictions

from lesion_utils.evaluation.predictions import add_ensembles
from lesion_utils.evaluation.ranking import compare_networks, state_primary


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


def test_the_primary_comparison_may_be_of_average_precision(predictions):
    primary = COMPARISON.primary.model_copy(update={"metric": "ap"})
    params = COMPARISON.model_copy(update={"primary": primary})
    rows = compare_networks(predictions, params)
    assert rows[rows["primary"]]["test"].tolist() == ["paired bootstrap"]
    assert "average precision" in state_primary(rows, params)
