"""Every published row, checked with mlscorecheck and by trying every confusion matrix; tables with our rows in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawn_predictions import COMPARISON, SKILL, get_row
from hypothesis import given
from hypothesis import strategies as st
from mlscorecheck.check.binary import check_1_testset_no_kfold
from mlscorecheck.check.bundles.skinlesion import check_isic2016
from sklearn import metrics as sk

from lesion_utils.core.names import COMBINATION
from lesion_utils.evaluation.literature import (
    AVERAGED,
    CONFUSION_SCORES,
    LOPEZ_METRICS,
    check_published,
    draw_balanced,
    find_confusions,
    list_readers,
    read_published,
    tabulate_classifiers,
    tabulate_leaderboard,
    tabulate_regimes,
)
from lesion_utils.evaluation.metrics import rank_scores
from lesion_utils.evaluation.predictions import select_run
from lesion_utils.evaluation.ranking import compare_networks
from lesion_utils.evaluation.tables import summarise_seeds

PUBLISHED = read_published()
VERDICTS = check_published(PUBLISHED).set_index("work")
THEIR_NAMES = {"accuracy": "acc", "sensitivity": "sens", "specificity": "spec", "precision": "ppv"}


def test_the_published_dermatologists_have_their_source_and_own_images_have_none():
    (label,) = (readers := list_readers(PUBLISHED))
    assert readers[label] == (0.82, 0.59)
    assert all(part in label for part in ("Marchetti et al. 2018", "100-image subset", "0.82", "0.59"))
    assert list_readers(read_published(challenge=False)) == {}


@pytest.mark.parametrize("work", PUBLISHED["work"])
def test_mlscorecheck_agrees_about_every_row(work):
    row = PUBLISHED.set_index("work").loc[work]
    scores = {THEIR_NAMES[s]: row[s] for s in CONFUSION_SCORES if not np.isnan(row[s])}
    verdict = VERDICTS.loc[work, "verdict"]
    if verdict == "not checkable":
        assert len(scores) < 2 or work in AVERAGED
        return
    testset = {"p": int(row["malignant"]), "n": int(row["benign"])}
    answer = check_1_testset_no_kfold(testset=testset, scores=scores, eps=5e-4, prefilter_by_pairs=True)
    assert answer["inconsistency"] == (verdict == "contradictory")
    if row["comparable"]:
        assert check_isic2016(scores=scores, eps=5e-4)["inconsistency"] is False


def test_the_leaderboard_has_one_confusion_matrix_a_row():
    assert VERDICTS.loc["CUMED (challenge 1st)", ["tp", "tn"]].tolist() == [38, 286]
    assert VERDICTS.loc["Al-masni et al. 2020", ["tp", "tn"]].tolist() == [48, 255]
    assert VERDICTS.loc["Lopez et al. 2017 M3", ["tp", "tn"]].tolist() == [59, 63], "on the balanced subset"
    official = VERDICTS[VERDICTS.index.str.contains("challenge")]
    assert (official["matrices"] == 1).all() and len(official) == 5


def test_class_weighted_scores_are_seen_through():
    """Al-masni et al. print 0.818 and 0.714, which no confusion matrix on 75 + 304 gives with their accuracy."""
    printed = {"accuracy": 0.799, "sensitivity": 0.818, "specificity": 0.714}
    assert find_confusions(printed, malignant=75, benign=304) == []


@given(st.integers(0, 75), st.integers(0, 304))
def test_a_confusion_matrix_is_found_from_its_rounded_scores(tp, tn):
    exact = {"accuracy": (tp + tn) / 379, "sensitivity": tp / 75, "specificity": tn / 304}
    scores = {name: round(value, 3) for name, value in exact.items()}
    assert find_confusions(scores, malignant=75, benign=304) == [(tp, tn)]
    theirs = {THEIR_NAMES[name]: value for name, value in scores.items()}
    assert check_isic2016(scores=theirs, eps=5e-4)["inconsistency"] is False


def test_our_own_rows_pass_the_same_check():
    rng = np.random.default_rng(1)
    targets = np.repeat([1, 0], [75, 304])
    probs = rng.random(379) * 0.7 + 0.3 * targets
    confusion = rank_scores(targets, probs).confusion(0.5)
    names = THEIR_NAMES | {"balanced_accuracy": "bacc", "f1": "f1", "mcc": "mcc"}
    scores = {theirs: round(float(getattr(confusion, ours)), 3) for ours, theirs in names.items()}
    assert check_isic2016(scores=scores, eps=5e-4)["inconsistency"] is False
    wrong = check_isic2016(scores=scores | {"sens": scores["sens"] + 0.005}, eps=5e-4)
    assert wrong["inconsistency"] is True, "the check can fail"


def test_every_row_has_its_source_and_its_mark():
    assert (PUBLISHED["citation"] != "").all()
    assert set(PUBLISHED["certainty"]) == {"read", "computed", "secondary"}
    comparable = PUBLISHED["comparable"]
    assert (PUBLISHED.loc[comparable, ["malignant", "benign"]] == [75, 304]).all(axis=None)
    assert (PUBLISHED.loc[~comparable, "why_not"] != "").all() and (PUBLISHED.loc[comparable, "why_not"] == "").all()
    scores = PUBLISHED[["ap", "auc", *CONFUSION_SCORES]]
    assert (scores.isna() | ((scores >= 0) & (scores <= 1))).all(axis=None)
    assert scores.notna().any(axis=1).all()
    assert PUBLISHED["work"].is_unique


REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "published_results.csv"


@pytest.mark.skipif(not REFERENCE.is_file(), reason="the reference table is not on this machine")
def test_rows_agree_with_the_reference_table():
    """Row by row: the figures, the test set, and how sure each is."""
    reference = pd.read_csv(REFERENCE, keep_default_na=False, na_values=[""])
    names = {"Project this one starts from": "The project this one starts from"}
    sure = {"high": "read", "medium": "secondary", "computed": "computed"}
    own = PUBLISHED.set_index("work")
    for row in reference.itertuples():
        if row.work == "Always benign":  # a control of ours
            continue
        ours = own.loc[names.get(row.work, row.work)]
        for score in ("ap", "auc", "accuracy", "sensitivity", "specificity"):
            assert ours[score] == pytest.approx(getattr(row, score), nan_ok=True), (row.work, score)
        assert ours["malignant"] + ours["benign"] == row.test_images
        assert ours["comparable"] == (row.comparable == "yes")
        assert ours["certainty"] == sure[row.confidence], row.work
    extra = set(own.index) - {names.get(work, work) for work in reference["work"]}
    assert extra == {"Lopez et al. 2017 M1", "Lopez et al. 2017 M2"}, "recalled, from the reference's page"
    assert (own.loc[sorted(extra), "certainty"] == "secondary").all()


def test_balanced_subsets_are_balanced_and_vary():
    targets = np.repeat([1, 0], [75, 304])
    weights = draw_balanced(targets, per_class=75, repeats=400, seed=1)
    assert (weights[:, :75] == 1).all() and (weights[:, 75:].sum(1) == 75).all()
    assert set(np.unique(weights)) == {0, 1}
    np.testing.assert_allclose(weights[:, 75:].mean(0), 75 / 304, atol=0.09)
    assert (draw_balanced(targets, per_class=500, repeats=3, seed=1).sum(1) == 150).all(), "the smaller class bounds it"
    assert (draw_balanced(targets, per_class=20, repeats=3, seed=1).sum(1) == 40).all()


def test_lopez_table_has_both_test_sets_and_the_published_rows(predictions, results):
    rows = tabulate_regimes(predictions, results, PUBLISHED, COMPARISON)
    assert set(rows["metric"]) == set(LOPEZ_METRICS)
    counts = rows.groupby(["source", "balanced"]).size().to_dict()
    assert counts[("ResNet50", False)] == counts[("ResNet50", True)] == counts[("VGG19", True)] == 15
    lopez = rows[rows["source"] == "VGG16, Lopez et al. 2017"].set_index(["metric", "regime"])
    assert lopez["value"]["accuracy"].to_dict() == {"scratch": 0.66, "features": 0.687, "finetune": 0.813}
    assert lopez["mark"]["accuracy", "scratch"] == "secondary source"
    recomputed = dict.fromkeys(("accuracy", "sensitivity", "specificity", "precision"), "recomputed")
    marks = lopez["mark"].xs("finetune", level="regime").to_dict()
    assert marks == recomputed | {"log_loss": "secondary source"}, "a loss follows from no counts"
    run = select_run(predictions, model="vgg19", regime="finetune")
    balanced = rows[(rows["source"] == "VGG19") & rows["balanced"] & (rows["regime"] == "finetune")].set_index("metric")
    recall = sk.recall_score(run["target"], run["probability"] > 0.5)
    specificity = sk.recall_score(run["target"], run["probability"] > 0.5, pos_label=0)
    assert balanced.loc["sensitivity", "value"] == pytest.approx(recall), "all malignant images are in every subset"
    assert balanced.loc["accuracy", "value"] == pytest.approx((recall + specificity) / 2, abs=0.02)
    assert balanced.loc["accuracy", "sd"] > 0 and balanced.loc["accuracy", "low"] < balanced.loc["accuracy", "high"]


def test_classifiers_are_listed_by_backbone(results):
    rows = tabulate_classifiers(results, metric="auc")
    known = list(zip(rows["backbone"], rows["classifier"], strict=True))
    assert known == [("resnet50", "svm_rbf"), ("resnet50", "knn"), ("vgg19", "knn")]
    assert rows["value"][0] == get_row(results, "resnet50", "features:svm_rbf", "auc")["value"]


def test_combinations_stay_out_of_the_networks_own_tables(scored, combined, comparisons):
    assert COMBINATION not in set(summarise_seeds(combined)["model"])
    pd.testing.assert_frame_equal(compare_networks(scored, COMPARISON), comparisons)
    named = combined.replace({"regime": {"both": "scratch"}})  # a study may call one so
    sources = set(tabulate_regimes(scored, named, PUBLISHED, COMPARISON)["source"])
    assert sources == {"ResNet50", "VGG19", "VGG16, Lopez et al. 2017"}
    assert set(tabulate_classifiers(combined, metric="ap")["backbone"]) == {"resnet50", "vgg19"}


def test_leaderboard_keeps_the_comparable_apart(results, controls):
    board = tabulate_leaderboard(results, PUBLISHED, controls)
    assert list(dict.fromkeys(board["group"])) == ["this study", "controls", "published", "not comparable"]
    own = board[board["group"] == "this study"]
    assert len(own) == len(SKILL), "classical classifiers have their own table"
    assert own["ap"].is_monotonic_decreasing and (own["ap_low"] < own["ap_high"]).all()
    published = board[board["group"] == "published"]
    assert published["ap"].dropna().is_monotonic_decreasing and published["ap_low"].isna().all()
    assert published["name"].iloc[0].startswith("Tang")
    assert "Yu Z. et al. 2019 [secondary source]" in set(published["name"])
    recomputed = board[board["name"].str.startswith("Al-masni")].iloc[0]
    assert recomputed["name"].endswith("recomputed]") and "un-weighted" in recomputed["note"]
    assert "Lopez et al. 2017 M3 [balanced 75 + 75 subset, recomputed]" in set(board["name"])


def test_nothing_published_stands_beside_other_images(predictions, results, controls):
    nothing = read_published(challenge=False)
    assert nothing.empty and list(nothing) == list(PUBLISHED) and check_published(nothing).empty
    board = tabulate_leaderboard(results, nothing, controls)
    assert set(board["group"]) == {"this study", "controls"}
    assert set(tabulate_regimes(predictions, results, nothing, COMPARISON)["source"]) == {"ResNet50", "VGG19"}
