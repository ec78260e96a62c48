"""The committed reports' own tables before the official scorer and mlscorecheck: `benchmarks/oracles.py`."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from drawn_predictions import COMPARISON, draw_predictions

from benchmarks.oracles import ROOT, ask_mlscorecheck, ask_official, find_contradiction, read_truth
from lesion_utils.evaluation.predictions import add_ensembles, write_predictions
from lesion_utils.evaluation.tables import tabulate_results
from lesion_utils.notebooks.comparison import write_submissions

REPORTS = sorted(path.parent.parent for path in ROOT.glob("docs/*/metrics/05_comparison_results.csv"))
COMBINED = COMPARISON.model_copy(update={"combinations": [["resnet50/finetune", "vgg19/finetune"]]})

BOTH = "ResNet50 + VGG19, fine-tuned"


@pytest.fixture
def report(tmp_path):
    """What 05_comparison leaves of drawn predictions, on a test set of the challenge's size."""
    skill = {("resnet50", "finetune"): 1.2, ("vgg19", "finetune"): 0.9}
    predictions = draw_predictions(images=379, prevalence=75 / 379, seeds=1, skill=skill)
    (tmp_path / "metrics").mkdir()
    write_predictions(predictions, tmp_path / "predictions" / "both.csv")
    scores = add_ensembles(predictions, COMBINED.averages)
    results = tabulate_results(scores, COMBINED)
    results.to_csv(tmp_path / "metrics" / "05_comparison_results.csv", index=False, float_format="%.9g")
    entries = write_submissions(scores, folder=tmp_path / "metrics", prefix="entry")
    entries.to_csv(tmp_path / "metrics" / "05_comparison_entries.csv", index=False)
    return tmp_path


def ask_if_there(folder) -> pd.DataFrame:
    try:
        return ask_official(folder, offline=True)
    except RuntimeError as error:
        pytest.skip(f"run benchmarks/oracles.py once, which fetches the scorer ({str(error)[:60]} ...)")


@pytest.mark.slow
@pytest.mark.parametrize("folder", REPORTS, ids=lambda folder: folder.name)
def test_mlscorecheck_agrees_with_every_row_of_a_committed_report(folder):
    table = ask_mlscorecheck(folder)
    assert len(table) and table["agrees"].all(), table[~table["agrees"]].to_string()


@pytest.mark.slow
@pytest.mark.parametrize("folder", REPORTS, ids=lambda folder: folder.name)
def test_the_official_scorer_agrees_with_a_committed_report(folder):
    table = ask_if_there(folder)
    if table.empty:
        pytest.skip("this report was made before its entries were listed")
    assert table["agrees"].all(), table[~table["agrees"]].to_string()


def test_mlscorecheck_sees_a_wrong_digit(report):
    assert ask_mlscorecheck(report)["agrees"].all()
    path = report / "metrics" / "05_comparison_results.csv"
    table = pd.read_csv(path)
    at = table.index[(table["metric"] == "sensitivity") & (table["name"] == BOTH)][0]
    table.loc[at, "value"] += 0.006
    table.to_csv(path, index=False)
    answers = ask_mlscorecheck(report)
    assert answers.loc[~answers["agrees"], "name"].tolist() == [BOTH]


def test_the_bundle_of_the_challenge_is_asked_on_its_own_test_set(report):
    assert read_truth(report).sum() == 75 and len(read_truth(report)) == 379
    right = {"acc": round((40 + 280) / 379, 3), "sens": round(40 / 75, 3), "spec": round(280 / 304, 3)}
    assert not find_contradiction(right, {"p": 75, "n": 304})
    assert find_contradiction(right | {"sens": 0.54}, {"p": 75, "n": 304})


@pytest.mark.slow
def test_the_official_scorer_sees_a_wrong_digit(report):
    table = ask_if_there(report)
    assert table["agrees"].all() and set(table["name"]) == {"ResNet50, fine-tuned", "VGG19, fine-tuned", BOTH}
    path = report / "metrics" / "05_comparison_results.csv"
    results = pd.read_csv(path)
    results["value"] = np.where(results["metric"] == "ap", results["value"] + 1e-6, results["value"])
    results.to_csv(path, index=False)
    table = ask_if_there(report)
    assert set(table.loc[~table["agrees"], "metric"]) == {"ap"}
