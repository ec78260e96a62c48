"""Classifiers that see no pixel, with known figures on the real data; and networks beside them within blocks of ids."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from drawn_predictions import COMPARISON, draw_metadata
from sklearn import metrics as sk
from statsmodels.stats.proportion import proportion_confint

from lesion_utils.data.challenge import CHALLENGE_COUNTS
from lesion_utils.data.prepare import read_verified
from lesion_utils.evaluation.predictions import select_run
from lesion_utils.evaluation.shortcuts import (
    ALL,
    COMPARED,
    CONTROL,
    CONTROLS,
    FEWEST,
    QUARTERS,
    UNNUMBERED,
    WITHIN,
    count_blocks,
    examine,
    id_block,
    predict_from_metadata,
    quarter_blocks,
)


@pytest.mark.parametrize("block", ["0000000 to 0000999", "0001000 to 0009859", "0009860 to 0011402"])
def test_blocks_begin_and_end_where_they_say(block):
    assert {id_block(f"ISIC_{number}") for number in block.split(" to ")} == {block}


def draw_table(rng, *, shortcut: bool) -> pd.DataFrame:
    numbers = rng.permutation(11_000)[:900]
    target = (rng.random(900) < (np.where(numbers < 3000, 0.8, 0.05) if shortcut else 0.2)).astype(int)
    return pd.DataFrame({
        "image_id": [f"ISIC_{n:07d}" for n in numbers], "split": ["train"] * 600 + ["test"] * 300, "target": target,
        "native_width": 1024, "native_height": 768, "native_bytes": rng.integers(1000, 2000, 900),
    })  # fmt: skip


def test_a_planted_shortcut_is_found_and_nothing_where_there_is_none():
    for shortcut in (True, False):
        scores = predict_from_metadata(draw_table(np.random.default_rng(0), shortcut=shortcut))
        assert list(scores["control"].unique()) == list(CONTROLS) and len(scores) == 5 * 300
        by_id = scores[scores["control"] == "archive order"]
        auc = sk.roc_auc_score(by_id["target"], by_id["probability"])
        assert auc > 0.75 if shortcut else abs(auc - 0.5) < 0.1, auc


def test_left_out_images_teach_nothing_and_folds_are_scored_by_the_others():
    table = draw_table(np.random.default_rng(0), shortcut=True)
    dealt = {"subset": np.where(np.arange(900) < 3, "left_out", table["split"]), "fold": np.arange(900) % 5 + 1}
    scores = predict_from_metadata(table.assign(**dealt, target=table["target"]))
    spoilt = table.assign(**dealt, target=table["target"].where(table.index >= 3, 1 - table["target"]))
    assert predict_from_metadata(spoilt).equals(scores), "labels of images that are left out change nothing"
    kept = scores[scores["control"] == "size"]
    assert kept["split"].value_counts().to_dict() == {"val": 597, "test": 300}
    from_order = scores[(scores["control"] == "archive order") & (scores["split"] == "val")]
    auc = sk.roc_auc_score(from_order["target"], from_order["probability"])
    assert 0.75 < auc < 0.97, "a classifier that had seen its images would be near 1"


def test_blocks_are_counted_with_wilson_intervals():
    table = draw_table(np.random.default_rng(1), shortcut=True)
    blocks = count_blocks(table, confidence=0.9)
    assert blocks["images"].sum() == 900 and blocks["malignant"].sum() == table["target"].sum()
    low, high = proportion_confint(blocks["malignant"], blocks["images"], alpha=0.1, method="wilson")
    np.testing.assert_allclose(blocks[["low", "high"]], np.stack([low, high], axis=1), atol=1e-12)
    assert list(blocks["split"][:2]) == ["train", "test"]


@pytest.mark.real_data
def test_the_known_figures_come_out_of_the_real_data(real_data):
    """AUC 0.771 and AP 0.573 from the id alone: fourth place of the challenge, without a pixel."""
    table, _ = read_verified(real_data, counts=CHALLENGE_COUNTS)
    scores = predict_from_metadata(table)
    by_control = dict(list(scores.groupby("control")))
    auc = {name: round(sk.roc_auc_score(s["target"], s["probability"]), 3) for name, s in by_control.items()}
    assert (auc["archive order"], auc["size"], auc["archive order, size and bytes"]) == (0.771, 0.578, 0.777)
    order = by_control["archive order"]
    assert round(sk.average_precision_score(order["target"], order["probability"]), 3) == 0.573
    assert auc["block, size and bytes"] == 0.576, "the block says little; the order inside the blocks says the rest"
    blocks = count_blocks(table, confidence=0.95)
    counted = blocks.groupby("block", sort=False)[["images", "malignant"]].sum()
    assert counted.to_numpy().tolist() == [[487, 118], [174, 16], [618, 114]]


def rank_pairs(run, strata) -> float:
    """The share of pairs of one stratum that are ranked rightly, counted one by one."""
    pairs = right = 0.0
    for _, part in run.groupby(np.asarray(strata)):
        y, p = part["target"].to_numpy(), part["probability"].to_numpy()
        wins = np.heaviside(p[y == 1][:, None] - p[y == 0], 0.5)
        pairs, right = pairs + wins.size, right + wins.sum()
    return right / pairs


def test_networks_and_controls_are_ranked_in_each_block(predictions, seen):
    run = select_run(predictions, model="resnet50", regime="finetune")
    own = seen.blocks[(seen.blocks["model"] == "resnet50") & (seen.blocks["regime"] == "finetune")]
    own = own.set_index(["block", "metric"])
    blocks = run["image_id"].map(id_block)
    for block, part in run.groupby(blocks):
        row = own.loc[(block, "auc")]
        assert row["value"] == pytest.approx(sk.roc_auc_score(part["target"], part["probability"]))
        assert (row["images"], row["malignant"]) == (len(part), part["target"].sum())
    for label, strata in ((WITHIN, blocks), (QUARTERS, quarter_blocks(run["image_id"]))):
        row = own.loc[(label, "auc")]
        assert row["value"] == pytest.approx(rank_pairs(run, strata)) and row["low"] < row["value"] < row["high"]
    whole = own.loc[(ALL, "ap"), "value"]
    assert whole == pytest.approx(sk.average_precision_score(run["target"], run["probability"]))
    labels = set(seen.blocks["block"])
    for control in COMPARED:
        assert set(seen.blocks.loc[seen.blocks["name"] == f"Metadata alone: {control}", "block"]) == labels


def test_few_images_of_a_class_have_a_value_and_no_interval(seen):
    few = seen.blocks[seen.blocks["malignant"] < FEWEST]
    assert len(few) and few["value"].notna().all() and few[["low", "high"]].isna().all(axis=None)
    assert seen.blocks.loc[seen.blocks["malignant"] >= FEWEST, ["low", "high"]].notna().all(axis=None)


def test_quarters_follow_the_ids_within_their_block(predictions):
    ids = select_run(predictions, model="resnet50", regime="finetune")["image_id"]
    quarters = pd.Series(quarter_blocks(ids), index=ids)
    assert quarters.nunique() == 12 and quarters.sort_index().is_monotonic_increasing
    assert quarters.groupby(ids.map(id_block).to_numpy()).apply(lambda part: np.ptp(part.value_counts()) <= 1).all()


def test_differences_to_the_controls_are_paired(predictions, seen):
    rows = seen.differences.set_index(["name", "control", "block", "metric"])
    run = select_run(predictions, model="resnet50", regime="finetune")
    control = select_run(predictions, model="vgg19", regime="scratch", seed=0)
    row = rows.loc[("ResNet50, fine-tuned", "archive order, size and bytes", WITHIN, "auc")]
    blocks = run["image_id"].map(id_block)
    assert row["difference"] == pytest.approx(rank_pairs(run, blocks) - rank_pairs(control, blocks))
    assert row["low"] < row["difference"] < row["high"]
    single = seen.blocks[seen.blocks["block"] == WITHIN].set_index("name")
    spans = single.loc[["ResNet50, fine-tuned", "Metadata alone: archive order, size and bytes"]]
    apart = np.hypot(*(spans["high"] - spans["low"]))
    assert row["high"] - row["low"] < apart, "the two share images, and so luck"
    assert seen.harder == "archive order, size and bytes", "the id alone is drawn worse than chance"
    assert not seen.differences["regime"].str.startswith("features:").any()


def test_a_model_that_knows_only_the_block_is_chance_within(predictions):
    blocks = predictions["image_id"].map(id_block)
    rate = predictions.groupby(blocks)["target"].transform("mean").clip(0.01, 0.99)
    knowing = predictions.assign(probability=rate, logit=np.log(rate / (1 - rate)))
    rows = examine(knowing, draw_metadata(predictions), COMPARISON).blocks
    assert (rows.loc[(rows["block"] == WITHIN) & (rows["model"] != CONTROL), "value"] == 0.5).all()


def test_a_block_of_one_class_is_left_undefined(predictions):
    first = predictions["image_id"].map(id_block) == id_block("ISIC_0000000")
    kept = predictions[~(first & (predictions["target"] == 1))]
    rows = examine(kept, draw_metadata(kept), COMPARISON).blocks
    assert rows.loc[rows["block"] == id_block("ISIC_0000000"), "value"].isna().all()
    assert rows.loc[rows["block"] == WITHIN, "value"].notna().all()


def test_few_malignant_images_leave_no_difference(predictions):
    test = predictions[predictions["split"] == "test"]
    malignant = test.loc[test["target"] == 1, "image_id"].unique()
    kept = test[~test["image_id"].isin(malignant[5:])]
    few = examine(kept, draw_metadata(kept), COMPARISON)
    assert few.differences.empty and few.blocks["low"].isna().all()


def test_images_without_meaningful_numbers_have_controls_of_sizes_and_no_blocks(predictions):
    table = draw_table(np.random.default_rng(0), shortcut=True)
    table["native_bytes"] += 5000 * table["target"]
    scores = predict_from_metadata(table, numbered=False)
    assert list(scores["control"].unique()) == list(UNNUMBERED)
    own = scores[scores["control"] == "size and bytes"]
    assert sk.roc_auc_score(own["target"], own["probability"]) == 1
    assert count_blocks(table, confidence=0.95, numbered=False).empty
    sites = count_blocks(table.assign(site=["A"] * 450 + ["B"] * 440 + [""] * 10), confidence=0.95, numbered=False)
    assert sites.groupby("block")["images"].sum().to_dict() == {"A": 450, "B": 440}
    test = select_run(predictions, model="vgg19", regime="scratch", seed=0)
    seen = examine(predictions, pd.concat([test.assign(control=control) for control in UNNUMBERED]), COMPARISON)
    assert set(seen.blocks["block"]) == set(seen.differences["block"]) == {ALL}
    assert set(seen.differences["control"]) == set(UNNUMBERED) and seen.harder in UNNUMBERED
