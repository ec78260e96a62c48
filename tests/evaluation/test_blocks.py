"""Blocks one by one, on scores made so that the answer is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from drawn_predictions import COMPARISON
from scipy.special import expit
from sklearn import metrics as sk
from statsmodels.stats.meta_analysis import combine_effects
from statsmodels.stats.proportion import proportion_confint

from lesion_utils.evaluation.blocks import audit_shortcuts, compare_blocks, exact_interval, tabulate_calls
from lesion_utils.evaluation.paired_tests import compare_delong
from lesion_utils.evaluation.predictions import add_ensembles
from lesion_utils.evaluation.sentences import state_audit, state_blocks, state_calls_by_block
from lesion_utils.evaluation.shortcuts import BLOCKS, COMPARED, examine, id_block

NAMES = list(BLOCKS.values())


def draw(*, network=(1.5, 1.5, 1.5), baseline=(0.5, 0.5, 0.5), shift=(0.0, 0.0, 0.0), benign=120, malignant=30):
    """One network and the baselines, each with a separation of the classes in every block, and a shift of the block."""
    rng, parts = np.random.default_rng(2), []
    for split in ("test", "val"):
        for place, start in enumerate(BLOCKS):
            target = np.repeat([0, 1], [benign, malignant])
            logits = rng.normal(size=target.size) + network[place] * target + shift[place] - 1
            numbers = start + np.arange(target.size) + 200 * (split == "val")
            known = rng.normal(size=target.size) + baseline[place] * target
            parts.append(pd.DataFrame({
                "image_id": [f"ISIC_{n:07d}" for n in numbers], "split": split, "target": target,
                "model": "resnet50", "regime": "finetune", "seed": 1, "logit": logits, "probability": expit(logits),
                "known": expit(known),
            }))  # fmt: skip
    table = pd.concat(parts, ignore_index=True)
    known = table.drop(columns="probability").rename(columns={"known": "probability"})
    metadata = pd.concat([known.assign(control=control) for control in COMPARED])
    return add_ensembles(table.drop(columns="known")), metadata


def test_exact_intervals_are_statsmodels():
    for hits, trials in ((5, 5), (33, 35), (0, 41)):
        expected = proportion_confint(hits, trials, alpha=0.05, method="beta")
        assert exact_interval(hits, trials, confidence=0.95) == pytest.approx(expected)
    assert np.isnan(exact_interval(0, 0, confidence=0.95).low)


def test_calls_are_counted_in_each_block_at_the_threshold_of_validation():
    predictions, _ = draw(shift=(0, -2, 0))
    calls = tabulate_calls(predictions, COMPARISON)
    test = predictions[(predictions["split"] == "test") & (predictions["seed"] == "ensemble")]
    for (block, metric), row in calls.set_index(["block", "metric"]).iterrows():
        part = test[test["image_id"].map(id_block) == block]
        called = part["probability"] > row["threshold"]
        truth = part["target"] if metric.startswith("sens") else 1 - part["target"]
        assert row["value"] == pytest.approx(sk.recall_score(truth, called if metric.startswith("sens") else ~called))
        assert row["low"] < row["value"] < row["high"] or row["value"] in (0, 1)
    said = state_calls_by_block(calls)
    hits = calls.iloc[0]
    assert said.startswith(
        f"ResNet50, fine-tuned, at the threshold {hits['threshold']:.3f}, by block of ids: {NAMES[0]}:"
    )
    assert said.count("sensitivity") == said.count("specificity") == 3


def test_the_interaction_is_statsmodels_heterogeneity():
    predictions, metadata = draw(network=(0.5, 1.0, 2.0), baseline=(1.5, 0.5, 0))
    row = compare_blocks(predictions, metadata).set_index("control").loc[COMPARED[0]]
    test = predictions[(predictions["split"] == "test") & (predictions["seed"] == "ensemble")].sort_values("image_id")
    known = metadata[(metadata["control"] == COMPARED[0]) & (metadata["split"] == "test")].sort_values("image_id")
    found = []
    for block in NAMES:
        own = (test["image_id"].map(id_block) == block).to_numpy()
        scores = test["probability"].to_numpy()[own], known["probability"].to_numpy()[own]
        found.append(compare_delong(test["target"].to_numpy()[own], *scores, confidence=0.95))
    effects = [f.difference for f in found], [f.error**2 for f in found]
    assert row["q"] == pytest.approx(combine_effects(*map(np.array, effects)).q)
    assert row["p"] < 1e-3 and (row["lowest"], row["highest"]) == (min(effects[0]), max(effects[0]))


def state(predictions, metadata):
    seen, control = examine(predictions, metadata, COMPARISON), COMPARED[0]
    differences, interaction = seen.differences, compare_blocks(predictions, metadata)
    return state_blocks(*(t[t["control"] == control] for t in (differences, interaction)))


def test_blocks_that_differ_are_said_to_and_pooling_is_defined():
    said = state(*draw(network=(0.5, 1.5, 2.0), baseline=(1.5, 0.5, 0)))
    assert "The difference depends on the block (test of interaction, p < 0.001)" in said
    assert all(f"in {block} (150 images; network 0." in said for block in NAMES)
    assert "weighs each block by its pairs" in said
    assert "do not differ significantly" in state(*draw())
    assert "too few images" in state(*draw(malignant=5))


@pytest.mark.parametrize(("shift", "side"), [(-2.0, "lower"), (2.0, "higher")])
def test_a_score_that_tells_a_block_apart_is_found_out(shift, side):
    audit = audit_shortcuts(draw(shift=(0, shift, 0))[0], confidence=0.95)
    row = audit.set_index("block").loc[NAMES[1]]
    benign = draw(shift=(0, shift, 0))[0].query("split == 'test' and seed == 'ensemble' and target == 0")
    inside = benign["image_id"].map(id_block) == NAMES[1]
    assert row["auc"] == pytest.approx(sk.roc_auc_score(inside, benign["probability"])) and row["images"] == 120
    said = state_audit(audit)
    assert f"tells the block {NAMES[1]} from the others" in said and f"120 images {side}" in said
    assert "depends on what tells the blocks apart" in said


def test_a_score_that_reads_skin_alone_passes_the_audit():
    assert "No block is told apart" in state_audit(audit_shortcuts(draw()[0], confidence=0.95))
