"""Training: regimes, options, selection, exactness. Each option has a test that fails if it did nothing."""

from __future__ import annotations

import gc
import json
import math
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny_study import NO_AUGMENTATION, make_images, make_params, read_results, regimes
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lesion_utils.core.errors import TrainingError, WeightsError
from lesion_utils.core.paths import weights_dir
from lesion_utils.models import inference
from lesion_utils.models.compute import choose_compute
from lesion_utils.models.networks import head_of
from lesion_utils.notebooks import recipe
from lesion_utils.training import inputs
from lesion_utils.training import train as running
from lesion_utils.training.inputs import plan_epoch
from lesion_utils.training.task import (
    TrainingTask,
    choose_regimes,
    describe_task,
    identify,
    list_tasks,
    name_run,
)
from lesion_utils.training.train import NetworkResult, Run, read_history, train_network, train_run

DATA = make_images()
FEW = make_images(16, 6, 6)
PRETRAINED = {"weights": "small.safetensors"}
FOLDS = np.where(DATA.table["subset"] == "test", 0, np.arange(len(DATA.table)) // 3 % 2 + 1)
FOLDED = DATA.table.assign(subset=DATA.table["subset"].replace("val", "train"), fold=FOLDS)

pytestmark = pytest.mark.usefixtures("small_machine")


def make_run(folder, *, augmentation=None, regime="scratch", seed=1, data=DATA, **network) -> Run:
    params = make_params(augmentation, **network)
    task = TrainingTask(params, "resnet50", regime, seed, data)
    _, source, _ = choose_regimes(task.settings)
    compute = choose_compute(task.settings)
    identity = identify(task, compute=compute, source=source)
    return Run(task, compute=compute, source=source, identity=identity, folder=folder)


def train(folder, *, data=DATA, on_event=None, **network) -> NetworkResult:
    return train_network(make_params(**network), "resnet50", data=data, folder=folder, on_event=on_event)


def keep_epochs(events: list[dict]) -> Callable[[dict], None]:
    """Epochs alone: how far a stage has come is told once a second, by the clock."""
    return lambda event: events.append(event) if "epoch" in event else None


def copy_weights(run: Run) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def list_kept(run: Run, before: dict[str, torch.Tensor]) -> set[str]:
    """Names of the tensors that have not changed."""
    return {name for name, tensor in run.model.state_dict().items() if torch.equal(tensor, before[name])}


def figures(*pairs: tuple[float, float]) -> Callable[..., dict[str, float]]:
    """A validation that finds these APs and losses, one pair after the other."""
    left = iter(pairs)
    return lambda *_: dict(zip(("val_ap", "val_loss"), next(left), strict=True)) | {"val_auc": 0.5}


# Regimes


@pytest.mark.parametrize(
    ("regime", "changes", "kept"),
    [
        ("scratch", {}, "nothing"),
        ("scratch", {"batchnorm": "frozen"}, r".*\.(running_|num_batches_)"),
        ("features", {}, r"(?!fc\.)"),
        ("finetune", {}, "nothing"),
        ("finetune", {"frozen_layers": 2}, r"levels\.[01]\."),
    ],
    ids=str,
)
def test_a_regime_starts_and_trains_as_it_should(tmp_path, regime, changes, kept):
    run = make_run(tmp_path, regime=regime, regimes=regimes(regime, **changes), **PRETRAINED)
    before, file = copy_weights(run), timm.models.load_state_dict(weights_dir() / "small.safetensors")
    assert torch.equal(before["levels.0.0.weight"], file["levels.0.0.weight"]) == (regime != "scratch")
    run.train()
    assert list_kept(run, before) == {name for name in before if re.match(kept, name)}
    assert run.history[-1]["loss"] < run.history[0]["loss"]


def test_a_fitted_head_knows_the_images_before_the_network_learns(tmp_path):
    """Its first loss is that of the converged classifier, not of chance, and the backbone is untouched."""
    scores = {}
    for head in ("new", "fitted"):
        finetune = regimes("finetune", head=head, lr=1e-9)
        run = make_run(tmp_path / head, regime="finetune", regimes=finetune, **PRETRAINED)
        before = copy_weights(run)
        run.train()
        scores[head] = run.history[0]["val_loss"]
    for name, parameter in run.model.named_parameters():
        assert name.startswith("fc.") or (parameter - before[name]).abs().max() < 1e-6, name
    assert scores["fitted"] < min(0.65, scores["new"] - 0.02)


def test_settings_that_cannot_act_are_named():
    def inert(averaging, epochs=3):
        params = make_params(averaging=averaging, regimes=regimes(epochs=epochs))
        return TrainingTask(params, "resnet50", "scratch", 1, DATA).inert_settings()

    assert "12 steps: 89% of the moving average is still the start" in inert({"method": "ema", "decay": 0.99})[0]
    assert not inert({"method": "ema", "decay": 0.7})
    assert "one of 3 epochs: nothing is averaged" in inert({"method": "swa", "swa_start": 0.8})[0]
    assert not inert({"method": "swa", "swa_start": 0.8}, epochs=10)
    assert not inert({"method": "none", "decay": 0.99})


def test_features_are_computed_once(tmp_path, monkeypatch):
    passes = []
    real = inference.Scorer.run_batches
    monkeypatch.setattr(inference.Scorer, "run_batches", lambda *a, **k: passes.append(1) or real(*a, **k))
    train(tmp_path / "runs", regimes=regimes("features"), seeds=[1, 2, 3], tta="flips", **PRETRAINED)
    assert len(passes) == 3, "once for training, once for the views of the validation and once of the test images"


def test_features_of_other_weights_are_other_features(tmp_path):
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        weights = str(tmp_path / f"{seed}.safetensors")
        save_file(timm.create_model("small_cnn").state_dict(), weights)
        runs.append(make_run(tmp_path, regime="features", regimes=regimes("features"), weights=weights))
    assert not torch.equal(runs[0].inputs._known, runs[1].inputs._known)


@pytest.mark.fault("weights", "damaged features, or of other code or timm", "made anew")
def test_features_of_other_code_or_another_timm_and_damaged_ones_are_made_anew(tmp_path, monkeypatch):
    def known():
        return make_run(tmp_path, regime="features", regimes=regimes("features"), **PRETRAINED).inputs._known

    first, folder = known(), tmp_path / "cache/features"
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    assert torch.equal(known(), first)
    assert path.read_bytes() == whole
    monkeypatch.setattr(timm, "__version__", "0")
    known()
    assert len(list(folder.iterdir())) == 2
    monkeypatch.setattr(inference, "fingerprint_definitions", lambda names, without: {"run_batches": "other"})
    known()
    assert len(list(folder.iterdir())) == 3


def test_without_weights_stops_or_skips(tmp_path):
    missing, both = {"weights": "absent.safetensors"}, regimes("scratch", "finetune", epochs=1)
    with pytest.raises(WeightsError, match="absent"):
        train(tmp_path, regimes=both, **missing)
    with pytest.raises(WeightsError, match="absent"):  # nothing would be left
        train(tmp_path, regimes=regimes("finetune"), without_weights="skip", **missing)
    result = train(tmp_path, regimes=both, without_weights="skip", **missing)
    assert set(result.predictions["regime"]) == {"scratch"}
    (skipped,) = result.skipped
    assert skipped["regime"] == "finetune" and "absent.safetensors" in skipped["reason"]


# The loop against a plain one


def test_the_loop_equals_a_plain_one(tmp_path):
    """AdamW, warm-up, cosine, clipping and accumulation, written out with torch's unfused parts."""
    optim = {"weight_decay": 0.1, "clip_norm": 0.5, "warmup_epochs": 1.0, "final_lr": 0.1}
    run = make_run(tmp_path, augmentation=NO_AUGMENTATION, optim=optim, accumulation=2, batch_size=8)
    plain = timm.create_model("small_cnn", num_classes=1).to(memory_format=torch.channels_last)
    plain.load_state_dict(run.model.state_dict())
    decayed = [p for p in plain.parameters() if p.ndim > 1]
    rest = [p for p in plain.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, betas=(0.9, 0.999), foreach=False)
    for epoch in range(3):
        run.train_epoch(epoch)
        plain.train()
        steps = plan_epoch(run.task, epoch)
        for number, step in enumerate(steps):
            now = epoch + (number + 1) / len(steps)
            cosine = 0.1 + 0.9 * (1 + math.cos(math.pi * (now - 1) / 2)) / 2
            reference.param_groups[0]["lr"] = reference.param_groups[1]["lr"] = 1e-2 * (now if now < 1 else cosine)
            rows = [batch.rows for batch in step]
            for part in rows:
                x = run.inputs.training_batch(inputs.Batch(part, part), epoch)
                y = torch.tensor(DATA.table["target"].to_numpy()[part], dtype=torch.float32)
                loss = nn.functional.binary_cross_entropy_with_logits(plain(x)[:, 0], y, reduction="sum")
                (loss / sum(map(len, rows))).backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 0.5, foreach=False)
            reference.step()
            reference.zero_grad()
    for (name, mine), theirs in zip(run.model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-3, atol=2e-4, msg=name)


def test_a_few_images_are_learnt_by_heart():
    task = TrainingTask(make_params(), "resnet50", "scratch", 1, DATA)
    losses = recipe.overfit(task, images=6, steps=25)
    assert losses[0] > 0.5
    assert losses[-1] < math.log(2) / 10 <= losses[-2] and len(losses) < 25, "it ends as soon as they are learnt"
    assert losses == recipe.overfit(task, images=6, steps=25)
    assert len(recipe.overfit(task, images=6, steps=2)) == 2


def test_float16_scales_its_loss_and_learns_what_float32_learns(tmp_path):
    """As on GPUs without bfloat16; the scale is part of what a stopped run goes on from."""
    runs = {}
    for precision in ("float32", "float16"):
        run = make_run(tmp_path / precision, optim={"clip_norm": 1.0})
        run.compute = replace(run.compute, precision=precision)
        run.inputs.compute, run.scaler = run.compute, run.compute.make_scaler()
        run.train()
        runs[precision] = run
    losses = {name: [epoch["loss"] for epoch in run.history] for name, run in runs.items()}
    assert losses["float16"] == pytest.approx(losses["float32"], abs=0.05)
    assert losses["float16"] != losses["float32"]
    assert runs["float16"].scaler.get_scale() > 1
    assert runs["float16"].scaler.state_dict()["_growth_tracker"] > 0
    saved = torch.load(tmp_path / "float16/last.pt", weights_only=True)["scaler"]
    assert 0 < saved["_growth_tracker"] < runs["float16"].scaler.state_dict()["_growth_tracker"], "of an earlier epoch"
    assert runs["float32"].scaler.state_dict() == {}


class Reads(TorchDispatchMode):
    """Counts where a number or a size is read from a tensor: there the CPU would wait for a GPU."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "item")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket.__name__ in self.WAITS
        return function(*args, **(kwargs or {}))


def test_no_step_waits_for_the_gpu_only_the_end_of_an_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "prefetch", lambda batches, device: batches)  # the mode sees its own thread alone
    counts = []
    for batch_size in (15, 5):  # 2 steps, 6 steps
        run = make_run(
            tmp_path, averaging={"method": "ema"}, optim={"clip_norm": 1.0}, mixup=0.2, batch_size=batch_size
        )
        with Reads() as reads:
            run.train_epoch(0)
        counts.append(reads.count)
    assert counts == [1, 1], "the mean loss"


def test_sgd_takes_its_momentum(tmp_path):
    run = make_run(tmp_path, optim={"name": "sgd", "momentum": 0.8}, regimes=regimes(batchnorm="frozen"), batch_size=64)
    one, before = run.model.fc.bias, run.model.fc.bias.detach().clone()
    run.train_epoch(0)
    first = one.detach().clone() - before
    gradient = run.optimizer.state[one]["momentum_buffer"].clone()
    torch.testing.assert_close(first, -1e-2 * gradient)
    run.train_epoch(1)
    assert not torch.allclose(run.optimizer.state[one]["momentum_buffer"], gradient)
    assert run.optimizer.defaults["momentum"] == 0.8


@pytest.mark.slow
@pytest.mark.parametrize(
    "option",
    [
        {"optim": {"name": "sgd"}},
        {"optim": {"momentum": 0.5}},
        {"optim": {"weight_decay": 0.5}},
        {"optim": {"clip_norm": 0.01}},
        {"optim": {"warmup_epochs": 2.0}},
        {"optim": {"final_lr": 0.0}},
        {"batch_size": 4},
        {"accumulation": 2},
        {"label_smoothing": 0.2},
        {"drop_rate": 0.5},
        {"mixup": 0.4},
        {"imbalance": {"method": "class_weights"}},
        {"imbalance": {"method": "balanced_sampling"}},
        {"imbalance": {"method": "focal"}},
        {"averaging": {"method": "ema"}},
        {"averaging": {"method": "swa"}},
        {"precision": "bfloat16"},
        {"regimes": regimes(lr=2e-2)},
        {"regimes": regimes(batchnorm="frozen")},
        {"augmentation": NO_AUGMENTATION},
        {"seed": 2},
    ],
    ids=str,
)
def test_every_option_changes_what_is_learnt(tmp_path, option):
    assert learn(tmp_path, **option) != learn_as_usual()


def learn(folder, **changes) -> list[float]:
    """Validation losses of the epochs of a small run."""
    run = make_run(folder, data=FEW, **changes)
    run.train()
    return [epoch["val_loss"] for epoch in run.history]


@cache
def learn_as_usual() -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        return learn(Path(folder))


# Selection and the end


def test_averaged_weights_are_what_is_validated_selected_and_scored(tmp_path):
    run = make_run(tmp_path, averaging={"method": "ema", "decay": 0.9})
    run.train()
    last = copy_weights(run)
    run.load_best()
    assert "fc.weight" not in list_kept(run, last)
    logits, targets = run.inputs.predict(run.learner, run.val_rows, tta="none"), run.task.targets(run.val_rows)
    loss = nn.functional.binary_cross_entropy_with_logits(torch.tensor(logits), torch.tensor(targets).float())
    assert loss.item() == pytest.approx(run.best["val_loss"])


def test_selection_takes_the_best_ap_then_the_lower_loss_then_the_earlier(tmp_path):
    run = make_run(tmp_path, data=FEW, regimes=regimes(epochs=5))
    run.train_epoch = lambda epoch: 0.5
    run.validate = figures((0.5, 1.0), (0.9, 0.6), (0.9, 0.4), (0.9, 0.4), (0.7, 0.1))
    run.train()
    assert run.best["epoch"] == 3


def test_the_last_epoch_is_kept_where_a_study_says_so(tmp_path):
    run = make_run(tmp_path, data=FEW, keep="last")
    run.validate = figures((0.3, 1.0), (0.9, 1.0), (0.5, 1.0))
    run.train()
    last = copy_weights(run)
    run.load_best()
    assert run.best["epoch"] == 3 and list_kept(run, last) == set(last)


@pytest.mark.parametrize(("patience", "expected"), [(0, 6), (1, 3), (2, 4), (3, 6)])
def test_early_stopping_waits_for_a_better_ap(tmp_path, patience, expected):
    run = make_run(tmp_path, data=FEW, regimes=regimes(epochs=6), early_stopping=patience)
    run.train_epoch = lambda epoch: 0.5
    aps = (0.5, 0.6, 0.6, 0.4, 0.9, 0.9)
    run.validate = figures(*zip(aps, range(10, 4, -1), strict=True))  # a falling loss alone does not count as better
    run.train()
    assert len(run.history) == expected


def test_the_test_images_are_opened_once_and_after_selection(tmp_path, monkeypatch):
    opened, epochs = [], []
    real = inference.read_rows

    def spy(images, rows, device):
        opened.append((len(epochs), set(np.asarray(rows).tolist())))
        return real(images, rows, device)

    monkeypatch.setattr(inference, "read_rows", spy)
    monkeypatch.setattr(inputs, "read_rows", spy)
    train(tmp_path, batch_size=64, on_event=keep_epochs(epochs))
    test = set(np.flatnonzero(DATA.table["subset"] == "test").tolist())
    times = [(epoch, rows & test) for epoch, rows in opened if rows & test]
    assert {epoch for epoch, _ in times} == {3}, "only after the last epoch"
    assert sum(len(rows) for _, rows in times) == len(test), "each once"


def test_the_table_left_out_is_never_used(tmp_path):
    table = DATA.table.assign(subset=DATA.table["subset"].where(DATA.table.index != 4, "left_out"))
    run = make_run(tmp_path, data=type(DATA)(DATA.images, table))
    assert 4 not in {row for step in plan_epoch(run.task, 0) for batch in step for row in batch.rows}


def test_predictions_follow_the_contract_and_tta_is_the_mean_of_eight_views(tmp_path):
    once = {"regimes": regimes(epochs=1), "batch_size": 64}
    plain, turned = (train(tmp_path, tta=tta, **once).predictions for tta in ("none", "flips"))
    assert list(plain) == ["image_id", "split", "model", "regime", "seed", "target", "logit", "probability"]
    assert plain.groupby("split").size().to_dict() == {"test": 12, "val": 12}
    assert np.abs(turned["logit"] - plain["logit"]).max() > 1e-3

    data = make_images(size=32)  # of the network's size: resizing before or after a turn rounds differently
    run = make_run(tmp_path, data=data)
    rows = run.val_rows

    def predict(images, tta):
        scorer = inference.Scorer(run.model, run.task.settings, run.compute)
        return scorer.logits(np.ascontiguousarray(images), rows, tta=tta)

    sides = (data.images, np.flip(data.images, axis=2))
    views = [predict(np.rot90(side, -turns, axes=(1, 2)), "none") for side in sides for turns in range(4)]
    with_tta = run.inputs.predict(run.learner, rows, tta="flips")
    np.testing.assert_allclose(with_tta, np.mean(views, axis=0), rtol=1e-4, atol=1e-5)

    closer = predict(data.images[:, 3:28, 3:28], "flips")  # 25 px, four fifths of 32
    both = run.inputs.predict(run.learner, rows, tta="flips_and_middle")
    np.testing.assert_allclose(both, (with_tta + closer) / 2, rtol=1e-4, atol=1e-5)


def test_each_image_is_scored_by_the_network_of_its_fold_and_the_test_images_by_all(tmp_path):
    once = {"regimes": regimes(epochs=1), "batch_size": 64}
    result = train(tmp_path, data=type(DATA)(DATA.images, FOLDED), seeds=[1, 2], **once)
    assert [(run["seed"], run["fold"]) for run in result.runs] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    joined = result.predictions.set_index(["seed", "split", "image_id"])["probability"]
    assert joined.groupby(level="split").size().to_dict() == {"test": 24, "val": 84}
    own = pd.concat(
        pd.read_csv(tmp_path / run["folder"] / "predictions.csv").assign(fold=run["fold"]) for run in result.runs
    )
    held_out = own[own["split"] == "val"].merge(FOLDED[["image_id", "fold"]], on="image_id", suffixes=("", "_due"))
    assert (held_out["fold"] == held_out["fold_due"]).all()
    expected = own.groupby(["seed", "split", "image_id"])["probability"].mean()
    np.testing.assert_allclose(joined.sort_index(), expected.sort_index(), rtol=1e-6)
    for run in result.runs:
        assert run["learnt_from"] == np.count_nonzero(FOLDS) - np.count_nonzero(run["fold"] == FOLDS)


def test_the_images_held_out_teach_nothing(tmp_path):
    other = FOLDED.assign(target=np.where(FOLDS == 2, 1 - FOLDED["target"], FOLDED["target"]))
    params, scores = make_params(regimes=regimes(epochs=1), keep="last"), []
    for number, table in enumerate((FOLDED, other)):
        task = TrainingTask(params, "resnet50", "scratch", 1, type(DATA)(DATA.images, table), 2)
        scores.append(train_run(task, folder=tmp_path / str(number)).predictions["probability"].to_numpy())
    np.testing.assert_array_equal(*scores)


def test_runs_are_recorded_and_not_trained_again(tmp_path, monkeypatch):
    settings, events = {"data": FEW, "batch_size": 64, "seeds": [1, 2]}, []
    first = train(tmp_path, on_event=keep_epochs(events), **settings)
    assert len(events) == 6
    told = {"regime", "seed", "epoch", "epochs", "loss", "val_ap", "val_auc", "images_per_s", "seconds_left"}
    assert told <= set(events[0])
    record = first.runs[0]
    assert record["compute"]["threads"] == 1
    assert record["compute"]["level"] == "exact"
    assert record["selected_epoch"] in (1, 2, 3)
    folder = tmp_path / record["folder"]
    assert {p.name for p in folder.iterdir()} == {"best.pt", "history.jsonl", "predictions.csv", "DONE"}
    assert len(read_history(tmp_path)) == 6
    assert len(read_history(folder)) == 3

    monkeypatch.setattr("lesion_utils.training.train.Run", None)  # would fail if a run began
    events.clear()
    again = train(tmp_path, on_event=keep_epochs(events), **settings)
    assert again.predictions.equals(first.predictions)
    assert [(e["seed"], e["epoch"], e["seconds_left"]) for e in events] == [(1, 3, 0.0), (2, 3, 0.0)]


DAMAGES = {
    "best.pt": lambda path: path.unlink(),
    "history.jsonl": lambda path: path.write_text(path.read_text().replace('"val_ap"', '"val_AP"')),
    "predictions.csv": lambda path: path.write_text(path.read_text() + "\n"),
    "DONE": lambda path: path.write_text(path.read_text().replace('"epochs": 3', '"epochs": 4')),
}


@pytest.mark.parametrize(("name", "damage"), DAMAGES.items(), ids=DAMAGES)
@pytest.mark.fault("training", "a file of a finished run is changed or deleted", "named; the run is trained again")
def test_a_run_whose_files_changed_is_named_and_trained_again(tmp_path, name, damage):
    settings, events = {"data": FEW, "batch_size": 64}, []
    first = train(tmp_path, **settings)
    expected, folder = read_results(tmp_path), tmp_path / first.runs[0]["folder"]
    damage(folder / name)
    again = train(tmp_path, on_event=events.append, **settings)
    assert events[0].keys() == {"regime", "seed", "remark"}
    assert f"{folder.name} is trained again" in events[0]["remark"] and f"({name}: " in events[0]["remark"]
    assert again.predictions.equals(first.predictions) and read_results(tmp_path) == expected


def test_a_run_without_its_best_weights_begins_again(tmp_path):
    def stop(event):
        raise KeyboardInterrupt

    whole = finish(tmp_path / "whole", data=FEW)
    with pytest.raises(KeyboardInterrupt):
        finish(tmp_path / "broken", data=FEW, on_event=stop)
    (path,) = (tmp_path / "broken").glob("*/best.pt")
    path.unlink()
    assert finish(tmp_path / "broken", data=FEW) == whole


# Exactness


@pytest.mark.slow
def test_the_same_training_gives_the_same_bytes_in_bfloat16(tmp_path):
    a, b = (finish(tmp_path / name, precision="bfloat16") for name in "ab")
    assert a == b
    logits = {line.split(b",")[6] for line in a["predictions.csv"].splitlines()[1:]}
    assert len(logits) > 20, "the last layer keeps scores apart"


@pytest.mark.parametrize("regime", ["scratch", "features", "finetune"])
@pytest.mark.parametrize("optimiser", ["adamw", pytest.param("sgd", marks=pytest.mark.slow)])
def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(tmp_path, few_fits, regime, optimiser):
    options = {
        "regimes": regimes(regime, epochs=4, head="fitted" if regime == "finetune" else "new"),
        "optim": {"name": optimiser, "warmup_epochs": 1.0, "final_lr": 0.0, "clip_norm": 1.0},
        "averaging": {"method": "swa" if optimiser == "sgd" else "ema"},
        "mixup": 0.3,
        "drop_rate": 0.3,
        "data": FEW,
        **PRETRAINED,
    }
    whole = finish(tmp_path / "whole", regime=regime, **options)

    def stop(event):
        raise KeyboardInterrupt

    for kept in (1, 2, 3, 3):  # one epoch at a time; after the last one nothing is written to continue from
        with pytest.raises(KeyboardInterrupt, match=f"{kept} of 4 epochs are kept .* same command again"):
            finish(tmp_path / "broken", regime=regime, on_event=stop, **options)
    assert finish(tmp_path / "broken", regime=regime, **options) == whole


@pytest.mark.slow
@pytest.mark.parametrize("interrupted", ["best.pt", "last.pt", "history.jsonl"])
@pytest.mark.fault("kills", "training, between two of its files", "learning curves are whole")
def test_learning_curves_are_whole_wherever_a_kill_came(tmp_path, monkeypatch, interrupted):
    """The kill comes before one of the files that the last epoch writes, or before the last `last.pt`."""

    def make_improving_run(name):
        run = make_run(tmp_path / name, data=FEW)
        run.validate = lambda: {"val_ap": len(run.history) / 10, "val_loss": 1.0, "val_auc": 0.5}
        return run

    whole, broken = make_improving_run("whole"), make_improving_run("broken")
    whole.train()

    def kill_before(name):
        write = getattr(running, name)

        def maybe_write(path, *args, **kwargs):
            if path.name == interrupted and len(broken.history) == len(whole.history) - (interrupted == "last.pt"):
                raise SystemExit
            write(path, *args, **kwargs)

        monkeypatch.setattr(running, name, maybe_write)

    with monkeypatch.context() as monkeypatch, pytest.raises(SystemExit):
        kill_before("save_checkpoint")
        kill_before("write_atomic")
        broken.train()
    again = make_improving_run("broken")
    again.resume()
    again.train()
    curves = ["epoch", "loss", "lr", "val_loss", "val_ap", "val_auc"]
    assert read_history(tmp_path / "broken")[curves].equals(read_history(tmp_path / "whole")[curves])


def test_going_on_removes_half_written_files_and_nothing_else(tmp_path):
    run = make_run(tmp_path)
    (tmp_path / ".ipynb_checkpoints").mkdir()
    for name in (".note", ".last.pt.x1", ".DONE.17"):
        (tmp_path / name).touch()
    run.resume()
    assert {path.name for path in tmp_path.iterdir()} == {".ipynb_checkpoints", ".note"}


def finish(folder, *, regime="scratch", data=DATA, on_event=None, **network) -> dict[str, bytes]:
    task = TrainingTask(make_params(**network), "resnet50", regime, 1, data)
    result = train_run(task, folder=folder, source=choose_regimes(task.settings)[1], on_event=on_event)
    return {name: (result.folder / name).read_bytes() for name in ("best.pt", "predictions.csv")}


def test_a_change_of_parameters_data_or_threads_is_another_run(tmp_path, monkeypatch):
    base = make_run(tmp_path).identity
    assert make_run(tmp_path).identity == base
    assert make_run(tmp_path, early_stopping=5).identity != base
    assert make_run(tmp_path, augmentation=NO_AUGMENTATION).identity != base
    assert make_run(tmp_path, data=make_images(seed=1)).identity != base
    monkeypatch.setenv("THREADS", "2")
    assert make_run(tmp_path).identity != base
    fast = make_run(tmp_path, determinism="fast").identity
    monkeypatch.setenv("THREADS", "1")
    assert make_run(tmp_path, determinism="fast").identity == fast


# What goes wrong


@pytest.mark.fault("training", "no memory left: an error, or the kernel is killed", "said, with the batch size to try")
@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
            TrainingError,
            ("batch_size: 4", "accumulation: 2", "resnet50.yaml", "batch_size 8, 32 px"),
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            TrainingError,
            ("batch_size: 4", "0.0 GiB for weights, gradients and the optimizer"),
        ),
        (RuntimeError("shapes do not match"), RuntimeError, ("shapes do not match",)),
    ],
)
def test_out_of_memory_says_what_to_lower_and_other_errors_are_left_alone(tmp_path, monkeypatch, error, raised, said):
    def fail(*_):
        raise error

    monkeypatch.setattr(Run, "train_epoch", fail)
    with pytest.raises(raised) as caught:
        train(tmp_path)
    assert all(words in str(caught.value) for words in said)


@pytest.mark.fault("training", "a loss that is NaN", "stops, with what to lower")
def test_a_loss_that_is_not_finite_stops_training(tmp_path):
    run = make_run(tmp_path)
    with torch.no_grad():
        head_of(run.model).weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"not finite in epoch 1(.|\n)*lower regimes.scratch.lr"):
        run.train()


@pytest.mark.fault("training", "images of one class only", "refused by subset")
def test_a_subset_of_one_class_is_named(tmp_path):
    table = DATA.table.assign(target=DATA.table["target"].where(DATA.table["subset"] != "val", 0))
    with pytest.raises(TrainingError, match="subset val"):
        train(tmp_path, data=type(DATA)(DATA.images, table))


# Real networks


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone", ["resnet50", "vgg19", "convnext_atto", "mobilenetv3_small_050", "vit_tiny_patch16_224"]
)
def test_real_backbones_train_and_predict(tmp_path, backbone):
    """By SGD without momentum: VGG19's AdamW would write a gigabyte more, twice."""
    small = {"regimes": regimes(epochs=1, lr=1e-4), "optim": {"name": "sgd", "momentum": 0.0}, "batch_size": 8}
    small |= {"data": make_images(8, 6, 6), "precision": "auto"}
    events = []
    table = train(tmp_path, backbone=backbone, on_event=events.append, **small).predictions
    assert np.isfinite(table["logit"]).all()
    assert table["logit"].nunique() > 6
    assert json.dumps(events)


@pytest.mark.long  # the compiler takes most of a minute
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_step_gives_the_same_logits_and_gradients(tmp_path):
    run = make_run(tmp_path, compile=True)
    assert run.inputs._compiled is not None
    x = run.inputs.training_batch(plan_epoch(run.task, 0)[0][0], 0)
    found = []
    for network in (run.inputs._compiled, run.inputs._run_network):
        run.model.zero_grad()
        logits = network(x)
        logits.sum().backward()
        found.append((logits.detach(), head_of(run.model).weight.grad.clone()))
    for compiled, plain in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain)


def test_a_regime_may_have_an_input_size_of_its_own(tmp_path):
    run = make_run(tmp_path, regimes=regimes(image_size=40))
    batch = plan_epoch(run.task, 0)[0][0]
    assert run.inputs.training_batch(batch, 0).shape[2:] == (40, 40)
    assert run.task.params.resnet50.image_size == 32
    assert identify(run.task, compute=run.compute, source=None)["resnet50"]["image_size"] == 40


def test_what_a_training_held_is_freed_at_its_end(tmp_path, monkeypatch):
    """Gigabytes of weights and of the optimiser's state must not wait until Python looks for circles of references."""
    held, task = [], TrainingTask(make_params(), "resnet50", "scratch", 1, DATA)

    def remember(model, params, regime, make=recipe.make_optimizer):
        optimizer = make(model, params, regime)
        held.extend([weakref.ref(model), weakref.ref(optimizer)])
        return optimizer

    for module in (running, recipe):
        monkeypatch.setattr(module, "make_optimizer", remember)
    gc.disable()
    try:
        train_run(task, folder=tmp_path, source=None)
        recipe.overfit(task, steps=1)
    finally:
        gc.enable()
    assert len(held) == 4
    assert [reference() is None for reference in held] == [True] * 4


def test_a_regime_may_have_seeds_of_its_own():
    own = {**regimes("scratch", seeds=[7]), **regimes("finetune")}
    params = make_params(regimes=own, seeds=[1, 2], weights="small.safetensors")
    tasks = list_tasks(params, "resnet50", ["scratch", "finetune"], DATA)
    assert [(task.regime, task.seed) for task in tasks] == [("scratch", 7), ("finetune", 1), ("finetune", 2)]
    assert len(list_tasks(params, "resnet50", ["scratch"], type(DATA)(DATA.images, FOLDED))) == 2, "one per fold"
    compute = choose_compute(params.resnet50)
    plain = TrainingTask(make_params(regimes=regimes()), "resnet50", "scratch", 7, DATA)
    with_seeds = TrainingTask(make_params(regimes=regimes(seeds=[7, 8])), "resnet50", "scratch", 7, DATA)
    assert identify(plain, compute=compute, source=None) == identify(with_seeds, compute=compute, source=None)


def test_another_machine_has_other_runs_of_the_same_settings():
    task = TrainingTask(make_params(regimes=regimes()), "resnet50", "scratch", 1, DATA)
    here = choose_compute(task.settings)
    there = replace(here, processor="another", precision="bfloat16", threads=here.threads + 1)
    names = {name_run(task, identify(task, compute=compute, source=None)) for compute in (here, there)}
    assert len(names) == 2
    settings = describe_task(task, source=None)
    for compute in (here, there):
        assert identify(task, compute=compute, source=None) == {**settings, "compute": compute.identity}
