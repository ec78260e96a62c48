"""The preview of augmentation: what training feeds its networks, and no other view."""

from __future__ import annotations

from itertools import chain
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sections import change_data
from tiny_study import AUGMENTATION, make_images, make_params, regimes

from lesion_utils.models.compute import choose_compute
from lesion_utils.models.networks import build_network, data_config
from lesion_utils.notebooks import augmentation
from lesion_utils.training.augment import OPERATIONS
from lesion_utils.training.inputs import make_inputs, plan_epoch
from lesion_utils.training.task import TrainingTask

DATA = make_images()
TRAIN = np.flatnonzero(DATA.table["subset"] == "train")
PREPARED = SimpleNamespace(images=DATA.images, table=DATA.table, rows_of=lambda rows: np.asarray(rows))


@pytest.mark.parametrize("backbone", ["small_cnn", "vit_tiny_patch16_224.augreg_in21k_ft_in1k"])
@pytest.mark.parametrize("size", [32, 40])
def test_the_views_are_those_that_training_feeds_byte_for_byte(backbone, size, monkeypatch):
    monkeypatch.setenv("DEVICE", "cpu")
    params = make_params(backbone=backbone, regimes=regimes(image_size=size), seeds=[7])
    shown = augmentation.draw_epochs(PREPARED, TRAIN, augmentation.choose_augmenter(params), epochs=2)
    assert shown.augmented.shape == (len(TRAIN), 2, size, size, 3)
    task = TrainingTask(params, "resnet50", "scratch", 7, DATA)
    model, compute = build_network(task.settings, pretrained=False, seed=7), choose_compute(task.settings)
    inputs = make_inputs(task, model, compute=compute, source=None, on_event=None)
    for epoch in (0, 1):
        for batch in chain.from_iterable(plan_epoch(task, epoch)):
            view = torch.from_numpy(shown.augmented[batch.rows, epoch]).permute(0, 3, 1, 2)
            assert torch.equal(data_config(model).normalise(view), inputs.training_batch(batch, epoch))


def test_the_largest_input_that_is_changed_is_shown_and_every_input_is_listed():
    params = make_params(
        weights="a file", regimes=regimes() | regimes("features", image_size=40) | regimes("finetune", image_size=36)
    )
    assert augmentation.choose_augmenter(params).image_size == 36
    own = augmentation.list_inputs(params).iloc[:3]
    assert own["regime"].tolist() == ["from scratch", "frozen features", "fine-tuned"]
    assert own["side"].tolist() == [32, 40, 36] and own["augmented"].tolist() == ["yes", "no", "yes"]
    frozen = make_params(weights="a file", regimes=regimes("features", image_size=40))
    assert augmentation.choose_augmenter(frozen).image_size == 40, "where nothing is changed, there is still a page"


def test_a_strip_shows_a_change_alone_over_its_range_and_none_that_is_off():
    params = make_params({**AUGMENTATION, "rotation": 180.0, "vertical_flip": 0.0}, image_size=40)
    strips = augmentation.draw_strips(DATA.images[0], augmentation.choose_augmenter(params), steps=5)
    off = {"vertical flip", "shear"}
    assert list(strips) == [name for name in (n.replace("_", " ") for n in OPERATIONS) if name not in off]
    for name, (labels, tiles) in strips.items():
        assert tiles.shape == (len(labels), 40, 40, 3) and len(labels) == (2 if name == "horizontal flip" else 5)
        assert (tiles[0] != tiles[1]).any()
    labels, tiles = strips["rotation"]
    assert labels == ["−180°", "−90°", "+0°", "+90°", "+180°"]
    assert (255 * tiles[2]).round().astype(np.uint8).tobytes() == DATA.images[0].tobytes()
    assert np.abs(255 * tiles[3] - np.rot90(DATA.images[0])).max() < 1
    told = augmentation.describe_changes(params.augmentation).set_index("change")["range"]
    assert list(told.index) == [name.replace("_", " ") for name in OPERATIONS]
    assert told["rotation"] == "−180° to +180°" and told["shear"] == told["vertical flip"] == "off"
    assert told["horizontal flip"] == "with probability 0.5" and told["scale"] == "×0.90 to ×1.10"


@pytest.mark.parametrize(
    ("aspect", "width", "shears"), [("squash", 400, True), ("squash", 300, False), ("crop", 400, False)]
)
def test_a_turn_of_squashed_photographs_is_said_to_shear(aspect, width, shears):
    params = change_data(make_params(), aspect=aspect)
    data = SimpleNamespace(table=pd.DataFrame({"native_width": [width] * 3, "native_height": [300] * 3}))
    told = augmentation.describe_views(data, params, augmentation.choose_augmenter(params))
    assert ("an aspect ratio of 1.33 or more" in told) == shears
    assert "32 px" in told and "bilinear" in told and "mirror image" in told
