"""Ranking within blocks of ids, and without doubtful images."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from drawn_predictions import COMPARISON, SKILL, draw_metadata
from sklearn import metrics as sk

from lesion_utils.evaluation.control import id_block
from lesion_utils.evaluation.predictions import select_run
from lesion_utils.evaluation.shortcuts import (
    ALL,
    COMPARED,
    CONTROL,
    FEWEST,
    QUARTERS,
    WITHIN,
    examine,
    quarter_blocks,
    tabulate_exclusions,
    widen_exclusions,
)


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
    row = rows.loc[("ResNet50, fine-tuned", "id, size and bytes", WITHIN, "auc")]
    blocks = run["image_id"].map(id_block)
    assert row["difference"] == pytest.approx(rank_pairs(run, blocks) - rank_pairs(control, blocks))
    assert row["low"] < row["difference"] < row["high"]
    single = seen.blocks[seen.blocks["block"] == WITHIN].set_index("name")
    spans = single.loc[["ResNet50, fine-tuned", "Metadata alone: id, size and bytes"]]
    apart = np.hypot(*(spans["high"] - spans["low"]))
    assert row["high"] - row["low"] < apart, "the two share images, and so luck"
    assert seen.harder == "id, size and bytes", "the id alone is drawn worse than chance"
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


def test_exclusions_say_how_many_and_what_changes(predictions):
    run = select_run(predictions, model="vgg19", regime="features")
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


def test_exclusions_are_read_as_changes(scored):
    run = select_run(scored, model="vgg19", regime="features", seed=0)
    doubtful = {"doubtful": run["image_id"][:5].tolist(), "elsewhere": []}
    wide = widen_exclusions(tabulate_exclusions(scored, COMPARISON, exclusions=doubtful))
    assert list(wide.columns) == ["name", "without doubtful (5)"]
    assert len(wide) == len(SKILL) + 2 and wide.iloc[0, 1].startswith("AUC ")
