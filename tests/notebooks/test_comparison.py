"""What 05_comparison says, against the tables that it is said from."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from drawn_predictions import CLASSICAL, COMBINED, COMPARISON, SKILL, draw_predictions, get_row
from sklearn import metrics as sk

from lesion_utils.core.files import dump_json
from lesion_utils.core.names import COMBINATION
from lesion_utils.evaluation.candidates import list_spoken, rank_on_validation
from lesion_utils.evaluation.literature import read_published
from lesion_utils.evaluation.predictions import add_ensembles, select_run
from lesion_utils.evaluation.ranking import compare_networks, find_power, state_power, state_primary
from lesion_utils.evaluation.tables import (
    summarise_seeds,
    tabulate_results,
)
from lesion_utils.notebooks.comparison import find_best, state_standing, summarise
from lesion_utils.notebooks.ensembles import write_submissions


def test_what_cannot_be_compared_is_said(predictions, results, seen):
    alone = predictions[(predictions["model"] == "resnet50") | (predictions["regime"] == "scratch")]
    rows = compare_networks(alone, COMPARISON)
    assert set(rows["regime"]) == {"scratch"} and not rows["primary"].any()
    assert "could not be made" in state_primary(rows, COMPARISON)
    assert "nothing can be said" in state_power(rows, COMPARISON)
    empty = compare_networks(predictions[predictions["model"] == "vgg19"], COMPARISON)
    assert empty.empty and np.isnan(find_power(empty, COMPARISON))
    summary = summarise(alone, results, summarise_seeds(results), rows, COMPARISON, seen=seen)
    assert summary["primary"] is None and summary["detectable_auc_difference"] is None
    assert not any("ResNet50 − VGG19" in row["label"] for row in summary["headline"])
    below = results[results["regime"] == "scratch"]
    standing = summarise(
        alone, results, summarise_seeds(results), rows, COMPARISON, seen=seen, standing="Below the best."
    )
    assert set(standing["sentences"]) - set(summary["sentences"]) == {"Below the best."}
    assert list_spoken(below, COMPARISON) == [("resnet50", "scratch"), ("vgg19", "scratch")]
    unequal = results[(results["regime"] == "scratch") | (results["model"] == "resnet50")]
    declared = COMPARISON.model_copy(update={"primary": COMPARISON.primary.model_copy(update={"regime": "scratch"})})
    expected = [("resnet50", "scratch"), ("resnet50", "finetune"), ("vgg19", "scratch")]
    assert list_spoken(unequal, declared) == expected, "of each network the declared regime and the most pretrained"
    dump_json(summary)


def test_the_summary_is_json_and_its_numbers_are_the_tables(predictions, results, comparisons, seen):
    summary = summarise(predictions, results, summarise_seeds(results), comparisons, COMPARISON, seen=seen)
    dump_json(summary)
    assert (summary["images"], summary["malignant"]) == (120, 24)
    assert summary["always_benign_accuracy"] == pytest.approx(0.8)
    assert summary["sentences"][0] == state_primary(comparisons, COMPARISON)
    assert "80.0 %" in summary["sentences"][-1]
    ap = get_row(results, "vgg19", "finetune", "ap")
    assert any(f"{ap['value']:.3f} ({ap['low']:.3f} to {ap['high']:.3f})" in s for s in summary["sentences"])
    network, control = "ResNet50, fine-tuned", "Metadata alone: id, size and bytes"
    scores = ["average precision", "AUC"]
    difference, at = f"{network} − m{control[1:]}", "threshold from validation"
    assert [(row["label"], row["metric"], row["n"]) for row in summary["headline"]] == [
        *((name, metric, 120) for name in (network, "VGG19, fine-tuned", control, difference) for metric in scores),
        *((name, "AUC within blocks", 120) for name in (network, control, difference)),
        (network, f"sensitivity, {at}", 24), (network, f"specificity, {at}", 96),
        ("ResNet50 − VGG19, fine-tuned", "AUC", 120),
    ]  # fmt: skip
    assert all(row["low"] <= row["value"] <= row["high"] for row in summary["headline"])
    assert [row["difference"] for row in summary["headline"]] == [" − " in row["label"] for row in summary["headline"]]


def test_the_limits_say_what_is_missed_and_what_the_control_reaches(predictions, results, comparisons, seen):
    summary = summarise(predictions, results, summarise_seeds(results), comparisons, COMPARISON, seen=seen)
    said = "\n".join(summary["limits"])
    run = select_run(predictions, model="resnet50", regime="finetune")
    malignant = run.loc[run["target"] == 1, "probability"]
    threshold = get_row(results, "resnet50", "finetune", "auc")["threshold"]
    missed, at_half = (malignant <= threshold).sum(), (malignant <= 0.5).sum()
    assert missed != at_half
    assert f"{missed} of 24 malignant lesions are missed there, {at_half} at 0.5" in said
    for row in summary["headline"][6:8]:
        numbers = f"{row['value']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        assert f"{row['metric']} {numbers.replace('-', '−')}" in said
    assert all(word in said for word in ("one archive", "patient", "120 images, 24 of them malignant"))


def test_the_best_row_is_chosen_by_validation_and_not_by_the_test(predictions, scored, combined, comparisons, seen):
    ranking = rank_on_validation(scored)
    assert len(ranking) == len(SKILL | CLASSICAL) + 2 and ranking["ap"].is_monotonic_decreasing
    run = select_run(predictions, model="vgg19", regime="features", split="val")
    row = ranking.set_index("name").loc["VGG19, frozen features"]
    assert row["ap"] == pytest.approx(sk.average_precision_score(run["target"], run["probability"]))
    poor = "ResNet50 features, k nearest neighbours"
    lucky = scored.copy()  # a poor classifier that is right about every validation image
    own = (lucky["regime"] == "features:knn") & (lucky["model"] == "resnet50") & (lucky["split"] == "val")
    lucky.loc[own, "probability"] = 0.01 + 0.98 * lucky["target"]
    best = find_best(lucky, combined)
    assert (best.name, best.validation_ap, best.rivals) == (poor, 1.0, len(ranking))
    summary = summarise(
        lucky,
        combined,
        summarise_seeds(combined),
        comparisons,
        COMPARISON.model_copy(update={"combinations": [list(map("/".join, members)) for members in COMBINED.values()]}),
        seen=seen,
    )
    assert [row["label"] for row in summary["headline"]].count(poor) == 2
    assert any(f"put first \u201c{poor}\u201d" in sentence for sentence in summary["sentences"])
    left_out = "\u201cVGG19, fine-tuned + logistic regression\u201d is left out"
    assert sum(left_out in sentence for sentence in summary["sentences"]) == 1
    dump_json(summary)


def test_no_validation_images_no_best_row(predictions):
    tested = predictions[predictions["split"] == "test"]
    results = tabulate_results(tested, COMPARISON)
    assert find_best(tested, results) is None
    assert "no row was chosen" in state_standing(None, results, read_published())


def test_the_standing_says_by_how_much(scored, combined):
    best = find_best(scored, combined)
    row = get_row(combined, best.model, best.regime, "ap")
    sentence = state_standing(best, combined, read_published())
    assert f"{abs(row['value'] - 0.718):.3f} {'above' if row['value'] > 0.718 else 'below'}" in sentence
    assert "0.718 (Tang et al. 2020" in sentence
    assert ("within" in sentence) == (row["low"] <= 0.718 <= row["high"])


def test_the_summary_gives_a_single_networks_scores_with_their_spread(predictions, results, comparisons, seen):
    summary = summarise(predictions, results, summarise_seeds(results), comparisons, COMPARISON, seen=seen)
    values = [get_row(results, "resnet50", "finetune", "ap", seed)["value"] for seed in ("0", "1")]
    expected = f"a single network (mean of 2 seeds): AP {np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
    assert sum(expected in sentence for sentence in summary["sentences"]) == 1


def test_entries_are_written_for_networks_and_combinations(scored, tmp_path):
    table = write_submissions(scored, folder=tmp_path, prefix="entry")
    assert len(table) == len(SKILL) + 2 and table["file"].is_unique
    assert {path.name for path in tmp_path.iterdir()} == set(table["file"])
    entry = pd.read_csv(tmp_path / table.set_index("name").loc["with an SVM", "file"])
    run = select_run(scored, model=COMBINATION, regime="with an SVM")
    np.testing.assert_allclose(entry["malignant"], run["probability"])


def test_one_seed_says_that_spread_is_unknown(seen):
    predictions = add_ensembles(draw_predictions(seeds=1))
    results = tabulate_results(predictions, COMPARISON)
    seeds = summarise_seeds(results)
    assert seeds["sd"].isna().all()
    summary = summarise(predictions, results, seeds, compare_networks(predictions, COMPARISON), COMPARISON, seen=seen)
    assert sum("one seed" in sentence for sentence in summary["sentences"]) == 2
    dump_json(summary)
