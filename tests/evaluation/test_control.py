"""The metadata control: known figures on the real data, and nothing to find where there is nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score
from statsmodels.stats.proportion import proportion_confint

from lesion_utils.data.challenge import CHALLENGE_COUNTS
from lesion_utils.data.prepare import read_verified
from lesion_utils.evaluation.control import CONTROLS, count_blocks, id_block, predict_from_metadata


@pytest.mark.parametrize(
    ("image_id", "block"),
    [
        ("ISIC_0000000", "0000000 to 0000999"),
        ("ISIC_0000999", "0000000 to 0000999"),
        ("ISIC_0001000", "0001000 to 0009859"),
        ("ISIC_0009859", "0001000 to 0009859"),
        ("ISIC_0009860", "0009860 to 0011402"),
        ("ISIC_0011402", "0009860 to 0011402"),
    ],
)
def test_blocks_begin_where_they_say(image_id, block):
    assert id_block(image_id) == block


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
        assert list(scores["control"].unique()) == list(CONTROLS) and len(scores) == 4 * 300
        by_id = scores[scores["control"] == "id"]
        auc = roc_auc_score(by_id["target"], by_id["probability"])
        assert auc > 0.75 if shortcut else abs(auc - 0.5) < 0.1, auc


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
    auc = {name: round(roc_auc_score(s["target"], s["probability"]), 3) for name, s in by_control.items()}
    assert (auc["id"], auc["size"], auc["id, size and bytes"]) == (0.771, 0.578, 0.777)
    assert round(average_precision_score(by_control["id"]["target"], by_control["id"]["probability"]), 3) == 0.573
    blocks = count_blocks(table, confidence=0.95)
    counted = blocks.groupby("block", sort=False)[["images", "malignant"]].sum()
    assert counted.to_numpy().tolist() == [[487, 118], [174, 16], [618, 114]]
