"""What 05_comparison draws and says, against the tables that it is said from."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from drawn_predictions import (
    CLASSICAL,
    COMBINED,
    COMPARISON,
    SKILL,
    collect_findings,
    draw_external,
    draw_predictions,
    get_row,
)
from sklearn.metrics import roc_auc_score

from lesion_utils.core.files import dump_json
from lesion_utils.core.names import COMBINATION
from lesion_utils.evaluation.decisions import tabulate_predictive_values
from lesion_utils.evaluation.intervals import format_value
from lesion_utils.evaluation.literature import read_published
from lesion_utils.evaluation.predictions import add_ensembles, select_run, write_predictions
from lesion_utils.evaluation.ranking import compare_networks, rank_on_validation
from lesion_utils.evaluation.sentences import describe_left_out, state_primary
from lesion_utils.evaluation.tables import tabulate_results
from lesion_utils.figures.comparison import plot_forest
from lesion_utils.notebooks import headline
from lesion_utils.notebooks.comparison import (
    collect_external,
    collect_models,
    judge_external,
    trace_curves,
    trace_reliability,
    write_submissions,
)
from lesion_utils.notebooks.statements import list_limits, state_external, state_operating_points, state_standing
from lesion_utils.notebooks.study import _to_plain


def summarise(found, **more) -> dict:
    """The summary as 05 saves it."""
    return json.loads(dump_json(_to_plain(headline.summarise(found, **more))))


def test_models_are_networks_and_recalibration_changes_no_ranking(scored):
    models = collect_models(scored)
    assert len(models.probs) == len(SKILL), "classical classifiers and combinations have tables of their own"
    for name, before in models.probs.items():
        assert not np.allclose(before, models.calibrated[name])
        assert roc_auc_score(models.targets, before) == roc_auc_score(models.targets, models.calibrated[name])
    assert list(collect_models(scored, runs=[("vgg19", "scratch")]).probs) == ["VGG19, from scratch"]


def test_the_points_of_each_curve_are_those_of_its_scores(scored):
    models = collect_models(scored)
    points = trace_curves(models)
    for name, probs in models.probs.items():
        own = points[points["name"] == name]
        area = np.trapezoid(own["sensitivity"], 1 - own["specificity"])
        assert area == pytest.approx(roc_auc_score(models.targets, probs))
        row = own[own["threshold"] <= 0.5].iloc[0]
        called = probs >= row["threshold"]
        assert row["precision"] == pytest.approx(models.targets[called].mean())
    assert {"before", "after"} == set(trace_reliability(models, COMPARISON)["stage"])


def test_entries_are_written_for_networks_and_combinations(scored, tmp_path):
    table = write_submissions(scored, folder=tmp_path, prefix="entry")
    assert len(table) == len(SKILL) + 2 and table["file"].is_unique
    assert {path.name for path in tmp_path.iterdir()} == set(table["file"])
    entry = pd.read_csv(tmp_path / table.set_index("name").loc["with an SVM", "file"])
    run = select_run(scored, model=COMBINATION, regime="with an SVM")
    assert entry.columns.tolist() == ["image", "malignant"] and entry["image"].tolist() == run["image_id"].tolist()
    np.testing.assert_allclose(entry["malignant"], run["probability"])


def test_without_a_tested_comparison_the_summary_has_none(predictions, findings):
    alone = predictions[(predictions["model"] == "resnet50") | (predictions["regime"] == "scratch")]
    untested = replace(findings, comparisons=compare_networks(alone, COMPARISON))
    summary = summarise(untested)
    assert summary["primary"] is None and summary["detectable_auc_difference"] is None
    assert not any("ResNet50 − VGG19" in row["label"] for row in summary["headline"])
    assert set(summarise(untested, more=["Below the best."])["sentences"]) - set(summary["sentences"]) == {
        "Below the best."
    }


def test_the_summary_is_json_and_its_numbers_are_the_tables(results, findings):
    summary = summarise(findings)
    assert (summary["images"], summary["malignant"]) == (120, 24)
    assert summary["always_benign_accuracy"] == pytest.approx(0.8)
    assert len(summary["sentences"]) == 6
    assert summary["sentences"][1] == state_primary(findings.comparisons, COMPARISON)
    assert "80.0 % accurate" in summary["sentences"][-1]
    ap = get_row(results, *findings.lead, "ap")
    assert any(f"{ap['value']:.3f} ({ap['low']:.3f} to {ap['high']:.3f})" in s for s in summary["sentences"])
    values = [get_row(results, "resnet50", "finetune", "ap", seed)["value"] for seed in ("0", "1")]
    expected = f"A single network: AP {np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
    assert sum(expected in sentence for sentence in headline.describe_seeds(findings)) == 1
    network, control = "ResNet50, fine-tuned", "Metadata alone: archive order, size and bytes"
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


def test_the_tiles_are_the_selected_model_its_added_value_and_its_errors(results, findings):
    best, added, use = summarise(findings)["tiles"]
    row = get_row(results, *findings.lead, "auc")
    assert f"AUC {row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})" == best["value"]
    gain = findings.added.query("metric == 'auc' and control == @findings.seen.harder")
    gain = gain[(gain["model"] == findings.lead[0]) & (gain["regime"] == findings.lead[1])].iloc[0]
    assert added["value"].startswith(f"AUC {gain['increment']:+.3f}".replace("-", "\u2212"))
    sensitivity, specificity = (
        get_row(results, *findings.lead, f"{m}_at_target")["value"] for m in ("sensitivity", "specificity")
    )
    assert use["value"] == (
        f"{round(24 * (1 - sensitivity))} of 24 melanomas missed, "
        f"false alarms on {round(96 * (1 - specificity))} of 96 benign lesions"
    )
    assert "malignant lesions missed" in headline.list_tiles(replace(findings, challenge=False))[2]["value"]
    assert headline.list_tiles(replace(findings, order=findings.order.iloc[:0])) == []


def test_the_limits_say_what_is_missed_and_what_the_control_reaches(predictions, results, findings):
    said = "\n".join(list_limits(findings))
    run = select_run(predictions, model="resnet50", regime="finetune")
    malignant = run.loc[run["target"] == 1, "probability"]
    threshold = get_row(results, "resnet50", "finetune", "auc")["threshold"]
    missed, at_half = (malignant <= threshold).sum(), (malignant <= 0.5).sum()
    assert missed != at_half
    assert f"it misses {missed} of 24 malignant lesions" in said and f"threshold 0.5 it misses {at_half}." in said
    row = findings.added[
        (findings.added["model"] == "resnet50")
        & (findings.added["regime"] == "finetune")
        & (findings.added["control"] == findings.seen.harder)
        & (findings.added["metric"] == "auc")
    ].iloc[0]
    assert f"AUC from {row['alone']:.3f} to {row['together']:.3f}" in said
    assert all(word in said for word in ("one archive", "patient", "120 images, 24 of them malignant"))


def test_an_operating_point_is_said_with_what_was_asked_for_and_reached(predictions, results):
    targets = select_run(predictions, model="vgg19", regime="finetune")["target"]
    values = tabulate_predictive_values(results, COMPARISON, targets=targets)
    first, second = state_operating_points(results, values, COMPARISON, targets=targets)
    row = get_row(results, "vgg19", "finetune", "sensitivity_at_target")
    (in_folds, _) = state_operating_points(results, values, COMPARISON, targets=targets, folds=5)
    assert "chosen on the out-of-fold scores" in in_folds and "chosen on the validation images" in first
    assert "for a sensitivity of 0.90" in first and ", ResNet50, fine-tuned, has a sensitivity of " in first
    assert f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})" in second
    where = "inside" if row["low"] <= 0.9 <= row["high"] else "outside"
    assert f"which is {where} the interval" in second and "with 20 % malignant lesions" in second
    tested = predictions[predictions["split"] == "test"]
    results = tabulate_results(tested, COMPARISON)
    values = tabulate_predictive_values(results, COMPARISON, targets=targets)
    (only, _) = state_operating_points(results, values, COMPARISON, targets=targets)
    assert only.endswith("malignant lesions at the threshold 0.5."), "no validation images, no threshold"


def test_the_best_row_is_chosen_by_validation_and_not_by_the_test(scored, combined, seen):
    poor = "ResNet50 features, k nearest neighbours"
    lucky = scored.copy()  # a poor classifier that is right about every validation image
    own = (lucky["regime"] == "features:knn") & (lucky["model"] == "resnet50") & (lucky["split"] == "val")
    lucky.loc[own, "probability"] = 0.01 + 0.98 * lucky["target"]
    found = collect_findings(lucky, combined, seen)
    assert found.lead == ("resnet50", "finetune"), "a network is set against the controls"
    members = [list(map("/".join, members)) for members in COMBINED.values()]
    left_out = describe_left_out(lucky, COMPARISON.model_copy(update={"combinations": members}))
    assert [text.partition(" is omitted")[0] for text in left_out] == [
        "The combination \u201cVGG19, fine-tuned + logistic regression\u201d"
    ]
    summary = summarise(found, more=left_out)
    assert summary["best"] == {"name": poor, "validation_ap": 1.0}
    assert [row["label"] for row in summary["headline"]].count(poor) == 2
    said = [sentence for sentence in summary["sentences"] if f"\u201c{poor}\u201d has the highest AP" in sentence]
    assert len(said) == 1 and f"Of the {len(SKILL | CLASSICAL) + 2} models" in said[0]


def test_no_validation_images_no_best_row(predictions, findings):
    order = rank_on_validation(predictions[predictions["split"] == "test"])
    assert order.empty and "No model was selected" in state_standing(order, findings.results, read_published())
    summary = summarise(replace(findings, order=order))
    assert summary["best"] is None and "No model was selected" in summary["sentences"][0]


def test_the_standing_says_by_how_much(scored, combined):
    order = rank_on_validation(scored)
    row = get_row(combined, order["model"][0], order["regime"][0], "ap")
    sentence = state_standing(order, combined, read_published())
    assert f"{abs(row['value'] - 0.718):.3f} {'above' if row['value'] > 0.718 else 'below'}" in sentence
    assert "0.718 (Tang et al. 2020" in sentence
    assert ("inside" in sentence) == (row["low"] <= 0.718 <= row["high"])


def test_one_seed_says_that_spread_is_unknown(seen):
    predictions = add_ensembles(draw_predictions(seeds=1))
    found = collect_findings(predictions, tabulate_results(predictions, COMPARISON), seen)
    assert found.seeds["sd"].isna().all()
    assert sum("There is one seed" in sentence for sentence in headline.describe_seeds(found)) == 2


def test_of_images_of_ones_own_the_limits_name_patients_as_they_are(findings):
    assert "challenge publishes no patient numbers" in list_limits(findings)[-1]
    assert "the labels name no patients" in list_limits(replace(findings, challenge=False))[-1]
    limits = list_limits(replace(findings, challenge=False, patients=True))
    assert "all images of a patient are in one split" in limits[-1] and "from one collection" in limits[-2]
    assert "No published result" in state_standing(findings.order, findings.results, read_published(challenge=False))


def test_external_results_are_said_in_the_numbers_of_its_table(findings, predictions, results, tmp_path):
    away, own, others = draw_external()
    for model, rows in away.groupby("model"):
        write_predictions(rows, tmp_path / f"{model}_external.csv")
    others.loc[:2, ["seen_in", "seen_how"]] = ["train", "same bytes"]
    data = SimpleNamespace(table=own, external=others)
    external = judge_external(data, predictions, results, COMPARISON, folder=tmp_path)
    first, last = state_external(external, others, findings)
    of_lead = [table.set_index(["model", "regime", "metric"]) for table in external]
    row, drop = (table.loc[(*findings.lead, "auc")] for table in of_lead)
    malignant = others["target"][3:].sum()
    assert first.startswith(f"P (87 images, {malignant} of them malignant; 3 excluded as duplicates")
    assert f"AUC {row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})" in first
    change = format_value(-drop["drop"], -drop["high"], -drop["low"], "+.3f")
    assert "Change against the internal test set: average precision" in first and f"AUC {change}" in first
    assert "20.0 % in the internal test set" in last
    rows = collect_external(results, external)
    assert set(rows["group"]) == {"this study", "controls"} and rows["name"].str.endswith((": internal", ": P")).all()
    assert len(rows) == 2 * 6 + 1 and plot_forest(rows).alt
    nothing = SimpleNamespace(external=others[:0])
    assert judge_external(nothing, predictions, results, COMPARISON, folder=tmp_path) is None
    assert "no external test set" in state_external(None, others, findings)[0]
    assert "external test sets (P)." in list_limits(replace(findings, sets=("P",)))[-2]


def test_without_a_trained_network_nothing_is_said_about_added_value_and_use(findings):
    nothing = replace(findings, order=findings.order[:0])
    said = summarise(nothing)
    assert said["limits"][0] == (
        "Shortcuts: No network is trained, so what the pixels add to the metadata was not measured."
    )
    assert not any("Missed lesions" in sentence for sentence in said["limits"])
    assert any("Missed lesions" in sentence for sentence in summarise(findings)["limits"])
    assert len(said["sentences"]) == 3 and "because no network is trained" in said["sentences"][0]
