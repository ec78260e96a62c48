"""Ranking within blocks of ids, and without doubtful images."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_predictions import COMPARISON, SKILL
from sklearn import metrics as sk

from lesion_utils.evaluation.control import id_block
from lesion_utils.evaluation.predictions import select_run
from lesion_utils.evaluation.shortcuts import ALL, WITHIN, tabulate_blocks, tabulate_exclusions, widen_exclusions


def test_blocks_are_ranked_each_by_itself(predictions):
    rows = tabulate_blocks(predictions, COMPARISON)
    own = rows[(rows["model"] == "resnet50") & (rows["regime"] == "finetune")]
    run = select_run(predictions, model="resnet50", regime="finetune")
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
