"""What 03 and 04 show of a network and of how it is trained, against the network and its settings."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from sklearn.metrics import average_precision_score
from tiny_study import REGIME, make_images, make_params

from lesion_utils.evaluation.predictions import read_predictions
from lesion_utils.notebooks.finetune import (
    choose_task,
    describe_parts,
    describe_recipe,
    describe_spread,
    score_external,
    write_layers,
)
from lesion_utils.notebooks.recipe import describe_layers, state_overfitting
from lesion_utils.training.task import TrainingTask
from lesion_utils.training.train import NetworkResult, train_network


def make_task(**network: object) -> TrainingTask:
    return TrainingTask(make_params(**network), "resnet50", "scratch", 1, data=None)


@pytest.mark.parametrize(("backbone", "size", "shown"), [("resnet18", 64, 64), ("vit_tiny_patch16_224", 64, 224)])
def test_the_parts_are_what_the_network_is_made_of(backbone, size, shown):
    model = timm.create_model(backbone, num_classes=1)
    parts = describe_parts(model, size)
    assert parts["output"].iloc[0] == f"3 × {shown} × {shown}"
    weights = parts["weights"].str.replace(",", "").replace("", "0").astype(int)
    assert weights.iloc[-1] == sum(p.numel() for p in model.parameters())
    if backbone == "resnet18":
        assert parts.set_index("part").loc["layer4", "output"] == "512 × 2 × 2"
        assert weights.iloc[1:-1].sum() == weights.iloc[-1]
    assert not any(part._forward_hooks for part in model.children())


@pytest.mark.parametrize(("name", "written"), [("adamw", "AdamW"), ("sgd", "SGD, momentum 0.9")])
def test_the_recipe_is_the_runs_own(name, written):
    task = make_task(optim={"name": name}, drop_rate=0.25, accumulation=2)
    recipe = describe_recipe(task).set_index("setting")["value"]
    assert recipe["optimizer"].startswith(written)
    for epochs, rising in ((1, "rises over 1 epoch, then"), (2, "rises over 2 epochs, then")):
        task = make_task(optim={"name": name, "warmup_epochs": epochs})
        assert rising in describe_recipe(task).set_index("setting").loc["learning rate", "what for"]
    assert recipe["dropout"] == "0.25" and recipe["batch"] == "16 images, in 2 parts"


def test_the_run_taken_apart_is_the_most_pretrained_that_can_be_trained():
    both = {"scratch": REGIME, "finetune": REGIME}
    params = make_params(regimes=both, weights="missing.safetensors", without_weights="skip", seeds=[7, 8])
    task = choose_task(params, "resnet50", data=make_images())
    assert (task.regime, task.seed) == ("scratch", 7), "finetune needs weights, which are missing"


def test_the_spread_is_that_of_seeds_and_of_folds_within_a_seed():
    targets = [0, 1, 0, 1]
    scores = {1: [0.1, 0.9, 0.2, 0.8], 2: [0.9, 0.1, 0.2, 0.8]}
    predictions = pd.concat(
        pd.DataFrame({"regime": "scratch", "seed": seed, "split": "val", "target": targets, "probability": probability})
        for seed, probability in scores.items()
    )
    folds = {1: (0.8, 0.6), 2: (0.5, 0.1)}
    runs = [
        {"regime": "scratch", "seed": seed, "fold": fold, "val_ap": value, "val_auc": value}
        for seed, values in folds.items()
        for fold, value in enumerate(values, start=1)
    ]
    spread = describe_spread(NetworkResult(predictions, pd.DataFrame(), runs, [])).set_index("metric")
    aps = [average_precision_score(targets, scores[seed]) for seed in (1, 2)]
    assert spread.loc["AP", "mean"] == pytest.approx(np.mean(aps), abs=5e-4)
    assert spread.loc["AP", "sd over seeds"] == pytest.approx(np.std(aps, ddof=1), abs=5e-4)
    assert spread.loc["AUC", "sd over folds"] == pytest.approx((0.2 / 2**0.5 + 0.4 / 2**0.5) / 2, abs=5e-4)


def test_a_frozen_layer_has_a_dash():
    task = make_task(backbone="resnet18", regimes={"scratch": REGIME | {"layer_decay": 0.5}})
    task.regime_params.__dict__["frozen_layers"] = 2
    with torch.random.fork_rng():
        layers = write_layers(describe_layers(timm.create_model("resnet18", num_classes=1), task))
    assert (layers["learning rate"] == "–").tolist() == [True] * 2 + [False] * 8
    assert layers.iloc[-1].tolist() == ["fc", "513", "1.0e-02", "0.01"]


def test_external_sets_are_scored_by_every_network_once(tmp_path):
    """The study's own test images taken for others get the same scores, averaged over folds as at home."""
    data, params, path = make_images(), make_params(seeds=[1, 2]), tmp_path / "resnet50_external.csv"
    result = train_network(params, "resnet50", data=data, folder=tmp_path)
    test = data.table[data.table["subset"] == "test"]
    images = np.memmap(tmp_path / "squash40-abc.u8", np.uint8, "w+", shape=(len(test), *data.images.shape[1:]))
    images[:] = data.images[test.index]
    seen = SimpleNamespace(external=test[["image_id", "target"]].assign(set="P"), external_images=images)
    assert score_external(result, seen, folder=tmp_path, path=path) == "2 networks scored P (12 images)."
    first, own = read_predictions(path), result.predictions.query("split == 'test'")
    keys = ["seed", "image_id"]
    merged = first.merge(own, on=keys, suffixes=("", "_own"))
    assert len(merged) == 24 and (merged["model"] == merged["model_own"]).all()
    np.testing.assert_allclose(merged["logit"], merged["logit_own"], rtol=1e-5, atol=1e-6)
    kept = sorted(tmp_path.glob("*/*.f32"))
    good = kept[0].read_bytes()
    for damaged in (b"", good[:-4], good[:-1] + bytes([good[-1] ^ 1]), good[32:]):
        kept[0].write_bytes(damaged)
        said = score_external(result, seen, folder=tmp_path, path=path)
        assert said.endswith(" Damaged files of kept scores, computed again: 1.")
        assert kept[0].read_bytes() == good and read_predictions(path).equals(first)
    for weights in tmp_path.glob("*/best.pt"):
        weights.unlink()
    assert score_external(result, seen, folder=tmp_path, path=path) == "2 networks scored P (12 images)."
    assert read_predictions(path).equals(first), "from what was kept"
    one = replace(result, runs=result.runs[:1])
    assert score_external(one, seen, folder=tmp_path, path=tmp_path / "one.csv").startswith("1 network scored P")
    none = SimpleNamespace(external=seen.external[:0])
    assert "names no external test sets" in score_external(result, none, folder=tmp_path, path=tmp_path / "none.csv")
    assert not (tmp_path / "none.csv").exists()


def test_it_is_said_when_images_were_not_learned_by_heart():
    assert "learned the 8 images by heart: the training loop works" in state_overfitting([0.7, 0.3, 0.02], images=8)
    said = state_overfitting([0.7, 0.6, 0.58], images=8)
    assert said.startswith("After 2 steps the loss is 0.58; guessing has a loss of 0.69.")
    assert "did not learn the 8 images by heart" in said
