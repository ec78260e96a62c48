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
from lesion_utils.evaluation.literature import read_published
from lesion_utils.evaluation.predictions import ENSEMBLE, select_run
from lesion_utils.evaluation.tables import (
    summarise_seeds,
    tabulate_calibration,
    tabulate_leaderboard,
    tabulate_results,
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
    assert len(widen_results(results, ["ap"], ensembles_only=False)) == 3 * len(wide)
    assert format_value(np.nan) == "–" and format_value(-0.5) == "−0.500"


def test_a_single_network_stands_beside_the_average_of_all(results):
    seeds = summarise_seeds(results)
    wide = widen_seeds(seeds).set_index("name")
    values = [get_row(results, "vgg19", "finetune", "ap", seed)["value"] for seed in ("0", "1")]
    row = wide.loc["VGG19, fine-tuned"]
    assert row["average precision, single network"] == f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
    assert row["average precision, all averaged"] == f"{get_row(results, 'vgg19', 'finetune', 'ap')['value']:.3f}"
    assert len(wide) == len(SKILL), "classical classifiers are no networks"


def test_calibration_is_told_before_and_after(predictions):
    rows = tabulate_calibration(predictions, COMPARISON)
    assert len(rows) == 2 * len(SKILL | CLASSICAL)
    pairs = rows.pivot(index="name", columns="stage", values="log_loss")
    assert len(pairs) == len(SKILL | CLASSICAL) and pairs.notna().all(axis=None)
    assert (rows["ece_low"] < rows["ece_expected"]).all() and (rows["ece_expected"] < rows["ece_high"]).all()


def test_controls_end_with_always_benign(controls, predictions):
    row = controls[(controls["name"] == "Always benign")].set_index("metric")["value"]
    assert (row["auc"], row["sensitivity"], row["specificity"]) == (0.5, 0, 1)
    assert row["ap"] == pytest.approx(0.2) and row["accuracy"] == pytest.approx(0.8)


def test_leaderboard_keeps_the_comparable_apart(results, controls):
    board = tabulate_leaderboard(results, read_published(), controls)
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
