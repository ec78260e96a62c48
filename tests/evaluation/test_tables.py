"""Tables from drawn predictions: what they hold, and that each number is the one asked for."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from drawn_predictions import COMPARISON, SKILL, draw_predictions
from sklearn import metrics as sk

from lesion_utils.core.errors import DataError
from lesion_utils.core.files import dump_json
from lesion_utils.core.names import COMBINATION
from lesion_utils.evaluation.candidates import list_spoken, pick_classifiers, rank_on_validation, read_choices
from lesion_utils.evaluation.control import id_block
from lesion_utils.evaluation.literature import read_published
from lesion_utils.evaluation.predictions import ENSEMBLE, add_ensembles, select_run
from lesion_utils.evaluation.ranking import compare_networks, find_power, state_power, state_primary
from lesion_utils.evaluation.replication import LOPEZ_METRICS, draw_balanced, tabulate_classifiers, tabulate_regimes
from lesion_utils.evaluation.shortcuts import ALL, WITHIN, tabulate_blocks, tabulate_exclusions, widen_exclusions
from lesion_utils.evaluation.tables import (
    format_value,
    summarise_seeds,
    tabulate_calibration,
    tabulate_controls,
    tabulate_leaderboard,
    tabulate_results,
    widen_results,
    widen_seeds,
)
from lesion_utils.notebooks.comparison import find_best, state_standing, summarise
from lesion_utils.notebooks.ensembles import write_submissions

CLASSICAL = {("resnet50", "features:svm_rbf"): 1.0, ("resnet50", "features:knn"): 0.2, ("vgg19", "features:knn"): 0.8}
COMBINED = {
    "both": ["resnet50/finetune", "vgg19/finetune"],
    "with an SVM": ["resnet50/finetune", "resnet50/features:svm_rbf"],
    "never": ["vgg19/finetune", "vgg19/features:logistic"],
}
WITH_COMBINATIONS = COMPARISON.model_copy(update={"combinations": COMBINED})


@pytest.fixture(scope="module")
def predictions() -> pd.DataFrame:
    return draw_predictions(skill=SKILL | CLASSICAL)


@pytest.fixture(scope="module")
def results(predictions) -> pd.DataFrame:
    return tabulate_results(predictions, COMPARISON)


@pytest.fixture(scope="module")
def comparisons(predictions) -> pd.DataFrame:
    return compare_networks(predictions, COMPARISON)


@pytest.fixture(scope="module")
def controls(predictions) -> pd.DataFrame:
    run = select_run(predictions, model="vgg19", regime="scratch", seed=0)
    return tabulate_controls(run.assign(control="id, size and bytes"), COMPARISON)


def get(results, model, regime, metric, seed=ENSEMBLE):
    keys = (results["model"] == model) & (results["regime"] == regime) & (results["seed"] == seed)
    return results[keys & (results["metric"] == metric)].iloc[0]


def test_results_hold_every_run_and_the_ensembles(predictions, results):
    assert {tuple(sorted(set(seeds))) for _, seeds in results.groupby(["model", "regime"])["seed"]} == {
        ("0", "1", ENSEMBLE)
    }
    for seed in ("0", "1"):
        run = select_run(predictions, model="vgg19", regime="finetune", seed=seed)
        expected = sk.roc_auc_score(run["target"], run["probability"])
        assert get(results, "vgg19", "finetune", "auc", seed)["value"] == pytest.approx(expected)
    run = select_run(add_ensembles(predictions), model="vgg19", regime="finetune")
    expected = sk.average_precision_score(run["target"], run["probability"])
    assert get(results, "vgg19", "finetune", "ap")["value"] == pytest.approx(expected)


def test_the_second_threshold_comes_from_the_runs_own_validation(predictions, results):
    row = get(results, "resnet50", "finetune", "sensitivity_at_target", "1")
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
    values = [get(results, "vgg19", "scratch", "auc", seed)["value"] for seed in ("0", "1")]
    assert (row["mean"], row["sd"], row["seeds"]) == pytest.approx((np.mean(values), np.std(values, ddof=1), 2))
    assert row["ensemble"] == get(results, "vgg19", "scratch", "auc")["value"]


def test_wide_results_are_written_as_read(results):
    wide = widen_results(results, ["ap", "auc"])
    assert list(wide.columns) == ["name", "average precision", "AUC"]
    row = get(results, "resnet50", "finetune", "auc")
    cell = wide.set_index("name").loc["ResNet50, fine-tuned", "AUC"]
    assert cell == f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
    assert len(widen_results(results, ["ap"], ensembles_only=False)) == 3 * len(wide)
    assert format_value(np.nan) == "–" and format_value(-0.5) == "−0.500"


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
    board = tabulate_leaderboard(results, read_published(), controls, official=True)
    assert list(dict.fromkeys(board["group"])) == ["this study", "controls", "published", "not comparable"]
    own = board[board["group"] == "this study"]
    assert len(own) == len(SKILL), "classical classifiers have their own table"
    assert own["ap"].is_monotonic_decreasing and (own["ap_low"] < own["ap_high"]).all()
    published = board[board["group"] == "published"]
    assert published["ap"].dropna().is_monotonic_decreasing and published["ap_low"].isna().all()
    assert published["name"].iloc[0].startswith("Tang")
    assert "Yu Z. et al. 2019 [secondary source]" in set(published["name"])
    assert "Lopez et al. 2017 M3 [balanced 75 + 75 subset]" in set(board["name"])


def test_nothing_published_is_comparable_with_other_images(results, controls):
    board = tabulate_leaderboard(results, read_published(), controls, official=False)
    assert "published" not in set(board["group"])
    assert (board["group"] == "not comparable").sum() == len(read_published())


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
        "accuracy": "", "sensitivity": "", "specificity": "", "precision": "", "log_loss": "secondary source",
    }  # fmt: skip


def test_lopez_table_has_both_test_sets_and_the_published_rows(predictions, results):
    rows = tabulate_regimes(predictions, results, read_published(), COMPARISON)
    assert set(rows["metric"]) == set(LOPEZ_METRICS)
    counts = rows.groupby(["source", "balanced"]).size().to_dict()
    assert counts[("ResNet50", False)] == counts[("ResNet50", True)] == counts[("VGG19", True)] == 15
    lopez = rows[(rows["source"] == "VGG16, Lopez et al. 2017") & (rows["metric"] == "accuracy")]
    assert lopez.set_index("regime")["value"].to_dict() == {"scratch": 0.66, "features": 0.687, "finetune": 0.813}
    assert lopez.set_index("regime")["mark"].to_dict()["scratch"] == "secondary source"
    run = select_run(add_ensembles(predictions), model="vgg19", regime="finetune")
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
    assert rows["value"][0] == get(results, "resnet50", "features:svm_rbf", "auc")["value"]


def test_blocks_are_ranked_each_by_itself(predictions):
    rows = tabulate_blocks(predictions, COMPARISON)
    own = rows[(rows["model"] == "resnet50") & (rows["regime"] == "finetune")]
    run = select_run(add_ensembles(predictions), model="resnet50", regime="finetune")
    pairs = right = 0.0
    for block, part in run.groupby(run["image_id"].map(id_block)):
        y, p = part["target"].to_numpy(), part["probability"].to_numpy()
        wins = np.heaviside(p[y == 1][:, None] - p[y == 0], 0.5)
        if min(y.sum(), (1 - y).sum()) >= 2:
            row = own[(own["block"] == block) & (own["metric"] == "auc")].iloc[0]
            assert row["value"] == pytest.approx(wins.mean()) and (row["images"], row["malignant"]) == (len(y), y.sum())
            pairs, right = pairs + wins.size, right + wins.sum()
    within = own[own["block"] == WITHIN].iloc[0]
    assert within["value"] == pytest.approx(right / pairs) and within["low"] < within["value"] < within["high"]
    whole = own[(own["block"] == ALL) & (own["metric"] == "ap")].iloc[0]
    assert whole["value"] == pytest.approx(sk.average_precision_score(run["target"], run["probability"]))


def test_a_model_that_knows_only_the_block_is_chance_within(predictions):
    blocks = predictions["image_id"].map(id_block)
    rate = predictions.groupby(blocks)["target"].transform("mean").clip(0.01, 0.99)
    knowing = predictions.assign(probability=rate, logit=np.log(rate / (1 - rate)))
    rows = tabulate_blocks(knowing, COMPARISON)
    assert (rows.loc[rows["block"] == WITHIN, "value"] == 0.5).all()


def test_a_block_of_one_class_is_left_undefined(predictions):
    first = predictions["image_id"].map(id_block) == id_block("ISIC_0000000")
    kept = predictions[~(first & (predictions["target"] == 1))]
    rows = tabulate_blocks(kept, COMPARISON)
    assert rows.loc[rows["block"] == id_block("ISIC_0000000"), "value"].isna().all()
    assert rows.loc[rows["block"] == WITHIN, "value"].notna().all()


def test_exclusions_say_how_many_and_what_changes(predictions):
    run = select_run(add_ensembles(predictions), model="vgg19", regime="features")
    doubtful = run["image_id"][:5].tolist()
    rows = tabulate_exclusions(
        predictions, COMPARISON, exclusions={"doubtful": doubtful, "elsewhere": ["ISIC_9999999"]}
    )
    own = rows[(rows["model"] == "vgg19") & (rows["regime"] == "features") & (rows["metric"] == "auc")]
    row = own[(own["split"] == "test") & (own["exclusion"] == "doubtful")].iloc[0]
    kept = run[~run["image_id"].isin(doubtful)]
    assert row["removed"] == 5
    assert row["value_out"] == pytest.approx(sk.roc_auc_score(kept["target"], kept["probability"]))
    assert row["change"] == pytest.approx(row["value_out"] - row["value_in"])
    assert (own.loc[own["exclusion"] == "elsewhere", ["removed", "change"]] == 0).all(axis=None)
    assert set(own["split"]) == {"test", "val"}


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
    sentence = state_primary(compare_networks(draw_predictions(skill=skill), COMPARISON), COMPARISON)
    names = {"resnet50": "ResNet50", "vgg19": "VGG19"}
    assert sentence.startswith(f"{names[better]} ranks the test images better than") and "p < 0.001" in sentence


def test_the_primary_comparison_may_be_of_average_precision(predictions):
    primary = COMPARISON.primary.model_copy(update={"metric": "ap"})
    params = COMPARISON.model_copy(update={"primary": primary})
    rows = compare_networks(predictions, params)
    assert rows[rows["primary"]]["test"].tolist() == ["paired bootstrap"]
    assert "average precision" in state_primary(rows, params)


def test_what_cannot_be_compared_is_said(predictions, results):
    alone = predictions[(predictions["model"] == "resnet50") | (predictions["regime"] == "scratch")]
    rows = compare_networks(alone, COMPARISON)
    assert set(rows["regime"]) == {"scratch"} and not rows["primary"].any()
    assert "could not be made" in state_primary(rows, COMPARISON)
    assert "nothing can be said" in state_power(rows, COMPARISON)
    empty = compare_networks(predictions[predictions["model"] == "vgg19"], COMPARISON)
    assert empty.empty and np.isnan(find_power(empty, COMPARISON))
    summary = summarise(alone, results, summarise_seeds(results), rows, COMPARISON)
    assert summary["primary"] is None and summary["detectable_auc_difference"] is None
    assert [row["label"] for row in summary["headline"]] == ["ResNet50, fine-tuned"] * 2 + ["VGG19, fine-tuned"] * 2
    below = results[results["regime"] == "scratch"]
    standing = summarise(alone, results, summarise_seeds(results), rows, COMPARISON, standing="Below the best.")
    assert set(standing["sentences"]) - set(summary["sentences"]) == {"Below the best."}
    assert list_spoken(below, COMPARISON) == [("resnet50", "scratch"), ("vgg19", "scratch")]
    unequal = results[(results["regime"] == "scratch") | (results["model"] == "resnet50")]
    declared = COMPARISON.model_copy(update={"primary": COMPARISON.primary.model_copy(update={"regime": "scratch"})})
    expected = [("resnet50", "scratch"), ("resnet50", "finetune"), ("vgg19", "scratch")]
    assert list_spoken(unequal, declared) == expected, "of each network the declared regime and the most pretrained"
    dump_json(summary)


def test_the_summary_is_json_and_its_numbers_are_the_tables(predictions, results, comparisons):
    summary = summarise(predictions, results, summarise_seeds(results), comparisons, COMPARISON)
    dump_json(summary)
    assert (summary["images"], summary["malignant"]) == (120, 24)
    assert summary["always_benign_accuracy"] == pytest.approx(0.8)
    assert summary["sentences"][0] == state_primary(comparisons, COMPARISON)
    assert "80.0 %" in summary["sentences"][-1]
    ap = get(results, "vgg19", "finetune", "ap")
    assert any(f"{ap['value']:.3f} ({ap['low']:.3f} to {ap['high']:.3f})" in s for s in summary["sentences"])
    assert [row["label"] for row in summary["headline"]] == [
        "ResNet50, fine-tuned", "ResNet50, fine-tuned", "VGG19, fine-tuned", "VGG19, fine-tuned",
        "ResNet50 − VGG19, fine-tuned",
    ]  # fmt: skip
    assert all(row["low"] <= row["value"] <= row["high"] and row["n"] == 120 for row in summary["headline"])


@pytest.fixture(scope="module")
def combined(predictions) -> pd.DataFrame:
    return tabulate_results(predictions, WITH_COMBINATIONS)


def test_combinations_are_rows_of_their_own(predictions, combined, controls):
    rows = combined[combined["model"] == COMBINATION]
    assert set(rows["name"]) == {"both", "with an SVM"} and set(rows["seed"]) == {ENSEMBLE}
    run = select_run(add_ensembles(predictions, COMBINED), model=COMBINATION, regime="both")
    expected = sk.average_precision_score(run["target"], run["probability"])
    assert get(combined, COMBINATION, "both", "ap")["value"] == pytest.approx(expected)
    calibration = tabulate_calibration(predictions, WITH_COMBINATIONS)
    assert (calibration["model"] == COMBINATION).sum() == 4
    blocks = tabulate_blocks(predictions, WITH_COMBINATIONS)
    assert {"both", "with an SVM"} <= set(blocks["name"])
    board = tabulate_leaderboard(combined, read_published(), controls, official=True)
    assert {"both", "with an SVM"} <= set(board.loc[board["group"] == "this study", "name"])


def test_combinations_stay_out_of_the_networks_own_tables(predictions, combined, comparisons):
    assert COMBINATION not in set(summarise_seeds(combined)["model"])
    pd.testing.assert_frame_equal(compare_networks(predictions, WITH_COMBINATIONS), comparisons)
    named = combined.replace({"regime": {"both": "scratch"}})  # a study may call one so
    assert set(tabulate_regimes(predictions, named, read_published(), COMPARISON)["source"]) == {
        "ResNet50", "VGG19", "VGG16, Lopez et al. 2017",
    }  # fmt: skip
    assert set(tabulate_classifiers(combined, metric="ap")["backbone"]) == {"resnet50", "vgg19"}


def test_the_best_row_is_chosen_by_validation_and_not_by_the_test(predictions, combined, comparisons):
    ranking = rank_on_validation(predictions, WITH_COMBINATIONS)
    assert len(ranking) == len(SKILL | CLASSICAL) + 2 and ranking["ap"].is_monotonic_decreasing
    run = select_run(add_ensembles(predictions), model="vgg19", regime="features", split="val")
    row = ranking.set_index("name").loc["VGG19, frozen features"]
    assert row["ap"] == pytest.approx(sk.average_precision_score(run["target"], run["probability"]))
    poor = "ResNet50 features, k nearest neighbours"
    lucky = predictions.copy()  # a poor classifier that is right about every validation image
    own = (lucky["regime"] == "features:knn") & (lucky["model"] == "resnet50") & (lucky["split"] == "val")
    lucky.loc[own, "probability"] = 0.01 + 0.98 * lucky["target"]
    best = find_best(lucky, combined, WITH_COMBINATIONS)
    assert (best.name, best.validation_ap, best.rivals) == (poor, 1.0, len(ranking))
    summary = summarise(lucky, combined, summarise_seeds(combined), comparisons, WITH_COMBINATIONS)
    assert [row["label"] for row in summary["headline"]].count(poor) == 2
    assert any(f"put first \u201c{poor}\u201d" in sentence for sentence in summary["sentences"])
    assert sum("\u201cnever\u201d is left out" in sentence for sentence in summary["sentences"]) == 1
    dump_json(summary)


def test_no_validation_images_no_best_row(predictions):
    tested = predictions[predictions["split"] == "test"]
    results = tabulate_results(tested, COMPARISON)
    assert find_best(tested, results, COMPARISON) is None
    assert "no row was chosen" in state_standing(None, results, read_published(), official=True)


def test_the_standing_says_by_how_much(predictions, combined):
    best = find_best(predictions, combined, WITH_COMBINATIONS)
    row = get(combined, best.model, best.regime, "ap")
    sentence = state_standing(best, combined, read_published(), official=True)
    assert f"{abs(row['value'] - 0.718):.3f} {'above' if row['value'] > 0.718 else 'below'}" in sentence
    assert "0.718 (Tang et al. 2020" in sentence
    assert ("within" in sentence) == (row["low"] <= 0.718 <= row["high"])
    assert "drawn" in state_standing(best, combined, read_published(), official=False)


def test_the_leaderboard_shows_each_networks_best_classifier_and_how_it_was_chosen(
    predictions, results, controls, tmp_path
):
    ranking = rank_on_validation(predictions, COMPARISON)
    picked = pick_classifiers(ranking, read_choices(tmp_path))
    assert {model for model, _ in picked} == {"resnet50", "vgg19"} and picked["vgg19", "features:knn"] == (
        "best of 1 by validation"
    )
    choices = pd.DataFrame({"classifier": ["svm_rbf", "knn"], "C": [1.0, np.nan], "cv_ap": [0.5, 0.6]})
    choices.to_csv(tmp_path / "03_resnet50_finetune_choices.csv", index=False)
    picked = pick_classifiers(ranking, read_choices(tmp_path))
    assert picked["resnet50", "features:knn"] == "best of 2 by cross-validation"
    assert ("resnet50", "features:svm_rbf") not in picked
    board = tabulate_leaderboard(results, read_published(), controls, official=True, classifiers=picked)
    own = board.loc[board["group"] == "this study", "name"]
    assert len(own) == len(SKILL) + 2
    assert "ResNet50 features, k nearest neighbours [best of 2 by cross-validation]" in set(own)


def test_a_single_network_stands_beside_the_average_of_all(results):
    seeds = summarise_seeds(results)
    wide = widen_seeds(seeds).set_index("name")
    values = [get(results, "vgg19", "finetune", "ap", seed)["value"] for seed in ("0", "1")]
    row = wide.loc["VGG19, fine-tuned"]
    assert row["average precision, single network"] == f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
    assert row["average precision, all averaged"] == f"{get(results, 'vgg19', 'finetune', 'ap')['value']:.3f}"
    assert len(wide) == len(SKILL), "classical classifiers are no networks"


def test_the_summary_gives_a_single_networks_scores_with_their_spread(predictions, results, comparisons):
    summary = summarise(predictions, results, summarise_seeds(results), comparisons, COMPARISON)
    values = [get(results, "resnet50", "finetune", "ap", seed)["value"] for seed in ("0", "1")]
    expected = f"a single network (mean of 2 seeds): AP {np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
    assert sum(expected in sentence for sentence in summary["sentences"]) == 1


def test_entries_are_written_for_networks_and_combinations(predictions, tmp_path):
    table = write_submissions(predictions, WITH_COMBINATIONS, folder=tmp_path, prefix="entry")
    assert len(table) == len(SKILL) + 2 and table["file"].is_unique
    assert {path.name for path in tmp_path.iterdir()} == set(table["file"])
    entry = pd.read_csv(tmp_path / table.set_index("name").loc["with an SVM", "file"])
    run = select_run(add_ensembles(predictions, COMBINED), model=COMBINATION, regime="with an SVM")
    np.testing.assert_allclose(entry["malignant"], run["probability"])


def test_exclusions_are_read_as_changes(predictions):
    run = select_run(predictions, model="vgg19", regime="features", seed=0)
    doubtful = {"doubtful": run["image_id"][:5].tolist(), "elsewhere": []}
    wide = widen_exclusions(tabulate_exclusions(predictions, WITH_COMBINATIONS, exclusions=doubtful))
    assert list(wide.columns) == ["name", "without doubtful (5)"]
    assert len(wide) == len(SKILL) + 2 and wide.iloc[0, 1].startswith("AUC ")


def test_one_seed_says_that_spread_is_unknown():
    predictions = draw_predictions(seeds=1)
    results = tabulate_results(predictions, COMPARISON)
    seeds = summarise_seeds(results)
    assert seeds["sd"].isna().all()
    summary = summarise(predictions, results, seeds, compare_networks(predictions, COMPARISON), COMPARISON)
    assert sum("one seed" in sentence for sentence in summary["sentences"]) == 2
    dump_json(summary)
