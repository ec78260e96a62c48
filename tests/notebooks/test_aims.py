"""Aims of a study: what is said of them, against means that numpy takes of scikit-learn's scores."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_predictions import COMPARISON, draw_predictions
from sklearn import metrics as sk

from lesion_utils.config.schema import Aim
from lesion_utils.evaluation.predictions import add_ensembles, select_run
from lesion_utils.evaluation.ranking import compare_networks
from lesion_utils.evaluation.tables import summarise_seeds, tabulate_results
from lesion_utils.notebooks.aims import judge_aims
from lesion_utils.notebooks.comparison import find_best, summarise


@pytest.fixture(scope="module")
def predictions():
    return add_ensembles(draw_predictions())


@pytest.fixture(scope="module")
def results(predictions):
    return tabulate_results(predictions, COMPARISON)


@pytest.fixture(scope="module")
def single(predictions):
    """The mean average precision of the single networks."""
    runs = [select_run(predictions, model="resnet50", regime="finetune", seed=seed) for seed in ("0", "1")]
    return float(np.mean([sk.average_precision_score(run["target"], run["probability"]) for run in runs]))


def judge(results, aims, best=None):
    return judge_aims(results, aims, best=best, confidence=0.95)


def test_a_single_network_is_judged_by_the_mean_of_the_seeds(results, single):
    (said,) = judge(results, {"resnet50/finetune": Aim(ap=single + 0.02, auc=None)})
    assert "Missed by 0.020" in said and f"{single:.3f} (" in said
    assert "means of 2 seeds and of their 95 % intervals; the aim lies within the interval" in said
    (said,) = judge(results, {"resnet50/finetune": Aim(ap=single - 0.02, auc=None)})
    assert "Reached" in said and "Missed" not in said
    (said,) = judge(results, {"resnet50/finetune": Aim(ap=0.999, auc=None)})
    assert "the aim lies outside" in said


def test_the_best_row_is_judged_as_it_stands(predictions, results, single):
    run = select_run(predictions, model="resnet50", regime="finetune")
    averaged = sk.average_precision_score(run["target"], run["probability"])
    assert abs(averaged - single) > 0.001, "the test could not tell the two apart"
    (said,) = judge(results, {"best": Aim(ap=0.5, auc=None)}, best=("resnet50", "finetune"))
    assert f"{averaged:.3f} (" in said and "seeds" not in said


def test_what_cannot_be_judged_is_said(results):
    missing = results[results["regime"] != "finetune"]
    said = judge(missing, {"resnet50/finetune": Aim(ap=0.5, auc=0.5), "best": Aim(ap=None, auc=0.9)})
    assert ["no scores" in s for s in said] == [True, True, False]
    assert "no validation images" in said[2]


def test_aims_are_among_the_sentences_of_the_study(predictions, results):
    params = COMPARISON.model_copy(update={"aims": {"best": Aim(ap=0.5, auc=0.5)}})
    compared = compare_networks(predictions, params)
    summary = summarise(predictions, results, summarise_seeds(results), compared, params)
    assert len(summary["aims"]) == 2 and set(summary["aims"]) <= set(summary["sentences"])
    assert find_best(predictions, results).name in summary["aims"][0]
