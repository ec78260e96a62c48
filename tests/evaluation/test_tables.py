"""Tables from drawn predictions: what they hold, and that each number is the one asked for."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from drawn_predictions import CLASSICAL, COMPARISON, SKILL, get_row
from sklearn import metrics as sk

from lesion_utils.core.errors import DataError
from lesion_utils.core.names import COMBINATION
from lesion_utils.evaluation.intervals import format_value
from lesion_utils.evaluation.literature import read_published, tabulate_leaderboard
from lesion_utils.evaluation.predictions import ENSEMBLE, select_run
from lesion_utils.evaluation.tables import (
    list_exclusions,
    summarise_seeds,
    tabulate_calibration,
    tabulate_exclusions,
    tabulate_results,
    widen_exclusions,
    widen_results,
    widen_seeds,
)


def test_results_hold_every_run_and_the_ensembles(predictions, results):
    assert {tuple(sorted(set(seeds))) for _, seeds in results.groupby(["model", "regime"])["seed"]} == {
        ("0", "1", ENSEMBLE)
    }
    for seed in ("0", "1"):
        run = select_run(predictions, model="vgg19", regime="finetune", seed=seed)
        expected = sk.roc_auc_score(run["target"], run["probability"])
        assert get_row(results, "vgg19", "finetune", "auc", seed)["value"] == pytest.approx(expected)
    run = select_run(predictions, model="vgg19", regime="finetune")
    expected = sk.average_precision_score(run["target"], run["probability"])
    assert get_row(results, "vgg19", "finetune", "ap")["value"] == pytest.approx(expected)


def test_the_second_threshold_comes_from_the_runs_own_validation(predictions, results):
    row = get_row(results, "resnet50", "finetune", "sensitivity_at_target", "1")
    validation, test = (
        select_run(predictions, model="resnet50", regime="finetune", seed=1, split=split) for split in ("val", "test")
    )
    malignant = validation.loc[validation["target"] == 1, "probability"]
    assert (malignant > row["threshold"]).mean() >= 0.9
    assert (malignant > row["threshold"] + 1e-12).mean() < 0.9 + 1 / len(malignant)
    called = test.loc[test["target"] == 1, "probability"] > row["threshold"]
    assert row["value"] == called.mean()


def test_runs_without_validation_have_no_second_threshold(predictions):
    rows = tabulate_results(predictions[predictions["split"] == "test"], COMPARISON)
    assert not rows["metric"].str.endswith("_at_target").any() and rows["threshold"].isna().all()


def test_runs_without_test_scores_are_an_error(predictions):
    with pytest.raises(DataError, match="no test scores"):
        tabulate_results(predictions[predictions["split"] == "val"], COMPARISON)


def test_results_do_not_depend_on_the_order_of_rows(predictions, results):
    shuffled = tabulate_results(predictions.sample(frac=1, random_state=1), COMPARISON)
    keys = ["model", "regime", "seed", "metric"]
    pd.testing.assert_frame_equal(
        shuffled.sort_values(keys, ignore_index=True), results.sort_values(keys, ignore_index=True)
    )


def test_seeds_are_summarised_apart_from_their_ensemble(results):
    seeds = summarise_seeds(results)
    row = seeds[(seeds["model"] == "vgg19") & (seeds["regime"] == "scratch") & (seeds["metric"] == "auc")].iloc[0]
    values = [get_row(results, "vgg19", "scratch", "auc", seed)["value"] for seed in ("0", "1")]
    assert (row["mean"], row["sd"], row["seeds"]) == pytest.approx((np.mean(values), np.std(values, ddof=1), 2))
    assert row["ensemble"] == get_row(results, "vgg19", "scratch", "auc")["value"]


def test_wide_results_are_written_as_read(results):
    wide = widen_results(results, ["ap", "auc"])
    assert list(wide.columns) == ["name", "average precision", "AUC"]
    row = get_row(results, "resnet50", "finetune", "auc")
    cell = wide.set_index("name").loc["ResNet50, fine-tuned", "AUC"]
    assert cell == f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
    assert format_value(np.nan) == "–" and format_value(-0.5) == "−0.500"


def test_a_single_network_stands_beside_the_average_of_all(results):
    seeds = summarise_seeds(results)
    wide = widen_seeds(seeds, folds=1).set_index("name")
    values = [get_row(results, "vgg19", "finetune", "ap", seed)["value"] for seed in ("0", "1")]
    row = wide.loc["VGG19, fine-tuned"]
    assert row["average precision, a single network"] == f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
    assert row["average precision, all averaged"] == f"{get_row(results, 'vgg19', 'finetune', 'ap')['value']:.3f}"
    assert len(wide) == len(SKILL), "classical classifiers are no networks"
    assert "AUC, one seed's 5 networks averaged" in widen_seeds(seeds, folds=5)


def test_calibration_is_told_before_and_after(predictions):
    rows = tabulate_calibration(predictions, COMPARISON)
    assert len(rows) == 2 * len(SKILL | CLASSICAL)
    pairs = rows.pivot(index="name", columns="stage", values="log_loss")
    assert len(pairs) == len(SKILL | CLASSICAL) and pairs.notna().all(axis=None)
    assert rows["ece_expected"].between(rows["ece_expected_low"], rows["ece_expected_high"]).all()
    assert rows["ece"].between(rows["ece_low"], rows["ece_high"]).all()


def test_controls_end_with_always_benign(controls, predictions):
    row = controls[(controls["name"] == "Always benign")].set_index("metric")["value"]
    assert (row["auc"], row["sensitivity"], row["specificity"]) == (0.5, 0, 1)
    assert row["ap"] == pytest.approx(0.2) and row["accuracy"] == pytest.approx(0.8)


def test_combinations_are_rows_of_their_own(scored, combined, controls, seen):
    rows = combined[combined["model"] == COMBINATION]
    assert set(rows["name"]) == {"both", "with an SVM"} and set(rows["seed"]) == {ENSEMBLE}
    run = select_run(scored, model=COMBINATION, regime="both")
    expected = sk.average_precision_score(run["target"], run["probability"])
    assert get_row(combined, COMBINATION, "both", "ap")["value"] == pytest.approx(expected)
    calibration = tabulate_calibration(scored, COMPARISON)
    assert (calibration["model"] == COMBINATION).sum() == 4
    assert {"both", "with an SVM"} <= set(seen.blocks["name"]) & set(seen.differences["name"])
    board = tabulate_leaderboard(combined, read_published(), controls)
    assert {"both", "with an SVM"} <= set(board.loc[board["group"] == "this study", "name"])


def test_doubtful_images_are_listed_by_what_is_wrong():
    duplicates = pd.DataFrame(
        {"image_id_a": ["a", "c"], "split_a": ["train"] * 2, "image_id_b": ["b", "d"], "split_b": ["test", "train"]}
    )
    found = list_exclusions(duplicates, pd.DataFrame({"image_id": ["e"]}))
    assert sorted(found["duplicates across the split"]) == ["a", "b"]
    assert sorted(found["all duplicates"]) == ["a", "b", "c", "d"]
    assert found["changed labels"] == ["e"]


def test_exclusions_say_how_many_and_what_changes(predictions):
    run = select_run(predictions, model="vgg19", regime="features")
    doubtful = run["image_id"][:5].tolist()
    rows = tabulate_exclusions(predictions, {"doubtful": doubtful, "elsewhere": ["ISIC_9999999"]})
    own = rows[(rows["model"] == "vgg19") & (rows["regime"] == "features") & (rows["metric"] == "auc")]
    row = own[(own["split"] == "test") & (own["exclusion"] == "doubtful")].iloc[0]
    kept = run[~run["image_id"].isin(doubtful)]
    assert row["removed"] == 5
    assert row["value_out"] == pytest.approx(sk.roc_auc_score(kept["target"], kept["probability"]))
    assert row["change"] == pytest.approx(row["value_out"] - row["value_in"])
    assert (own.loc[own["exclusion"] == "elsewhere", ["removed", "change"]] == 0).all(axis=None)
    assert set(own["split"]) == {"test", "val"}


def test_exclusions_are_read_as_changes(scored):
    run = select_run(scored, model="vgg19", regime="features", seed=0)
    doubtful = {"doubtful": run["image_id"][:5].tolist(), "elsewhere": []}
    wide = widen_exclusions(tabulate_exclusions(scored, doubtful))
    assert list(wide.columns) == ["name", "without doubtful (5)"]
    assert len(wide) == len(SKILL) + 2 and wide.iloc[0, 1].startswith("AUC ")
