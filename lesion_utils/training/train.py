"""Training runs: every regime, seed and fold of a network, epoch by epoch, with a checkpoint to continue from.

`train_network` trains all runs of a network, `train_run` one run, `Run.train` its epochs; `loop.train_epoch` is the
inner loop. A run's folder holds `last.pt` (to continue from; removed at the end), `best.pt` (the selected weights),
`history.jsonl`, `predictions.csv` and, written last, `DONE` (a record in JSON with the hashes of these files; a run is
reused only if they hold). Random numbers are functions of (seed, epoch, sample), so a run that continues from `last.pt`
ends with the same bytes as one that was never stopped.

`keep: best` selects the epoch with the highest validation AP; ties are broken by the lower validation loss, then by the
earlier epoch. `keep: last` selects the last epoch. The test images are scored once, after the epoch is selected.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import expit
from torch import nn

from lesion_utils.config.schema import PRETRAINED_REGIMES, StudyParams
from lesion_utils.core.errors import TrainingError, is_out_of_memory
from lesion_utils.core.events import Event, OnEvent
from lesion_utils.core.files import write_atomic
from lesion_utils.core.names import name_training
from lesion_utils.core.run_files import DONE, KEPT, check_run, read_done, write_done
from lesion_utils.evaluation.predictions import check_predictions, join_folds, read_predictions, write_predictions
from lesion_utils.evaluation.trained import measure_run
from lesion_utils.models.checkpoint import load_checkpoint, save_checkpoint
from lesion_utils.models.compute import Compute, choose_compute, computing
from lesion_utils.models.inference import prefetch
from lesion_utils.models.networks import build_network, head_of
from lesion_utils.models.weights import WeightsSource
from lesion_utils.training.classifiers import fit_head
from lesion_utils.training.inputs import load_batches, make_inputs, plan_epoch
from lesion_utils.training.loop import deterministic_part, rank_epoch, score_validation, train_epoch
from lesion_utils.training.loss import class_weights, guess_loss, sample_losses
from lesion_utils.training.optim import (
    WeightAverage,
    averages_epoch,
    freeze_layers,
    make_optimizer,
    make_schedule,
    measure_state,
    set_train_mode,
)
from lesion_utils.training.sampling import derive_seed
from lesion_utils.training.task import (
    Images,
    TrainingTask,
    choose_regimes,
    describe_task,
    hash_identity,
    identify,
    list_tasks,
    name_run,
    name_subsets,
)

#: The files in a run's folder.
RUN_FILES = ("last.pt", *KEPT, DONE)


@dataclass(frozen=True)
class NetworkResult:
    """Everything that was trained of a network.

    Attributes:
        predictions: as `predictions.COLUMNS`, one score per image, regime and seed. With several folds, a training
            image (split val) is scored by the network that held it out, a test image by the mean probability of all.
        single: the test scores of single networks: `model`, `regime`, `seed`, `fold` (1 where there are no folds),
            `image_id`, `probability`.
        runs: the record of each run, with `model`, `folder` (its name), `settings` (a hash of all that the run depends
            on but the machine), and what `trained.measure_run` finds.
        skipped: the regimes left out because weights are missing, each with `regime` and `reason`.
    """

    predictions: pd.DataFrame
    single: pd.DataFrame
    runs: list[dict[str, Any]]
    skipped: list[dict[str, str]]


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        folder: of its files.
        record: the content of `DONE`: the selected epoch, its validation scores, times, device, weights.
        predictions: of the validation and test images, as `predictions.COLUMNS`.
        history: one row per epoch.
    """

    folder: Path
    record: dict[str, Any]
    predictions: pd.DataFrame
    history: pd.DataFrame


def train_network(
    params: StudyParams, network: str, *, data: Images, folder: Path, on_event: OnEvent | None = None
) -> NetworkResult:
    """Train every regime, seed and fold of a network; runs that are done are read, runs that were stopped continue.

    Args:
        params: of the study.
        network: "resnet50" or "vgg19": the file of the network.
        data: decoded images (`images`) and their table (`table`).
        folder: of all runs; each has `<regime>-seed<k>-<fingerprint>/`, or `<regime>-seed<k>-fold<j>-<fingerprint>/`.
        on_event: called after each epoch, about once a second between epochs, and once for a run that was done before.

    Raises:
        TrainingError: the loss is no longer finite, memory is short, or a subset lacks a class.
        WeightsError: weights are needed and missing.
        KeyboardInterrupt: with a message that says how to continue.
    """
    settings = params.network(network)
    regimes, source, skipped = choose_regimes(settings)
    runs, predictions, single = [], [], []
    for task in list_tasks(params, network, regimes, data):
        result = train_run(task, folder=folder, source=source, on_event=on_event)
        guess = guess_loss(task.targets(task.rows("train")), params=task.settings)
        learnt = measure_run(result.history, result.predictions, guess_loss=guess)
        same_anywhere = hash_identity(describe_task(task, source=source))
        names = {"folder": result.folder.name, "settings": same_anywhere}
        runs.append({"model": settings.model, **result.record, **names, **learnt})
        predictions.append(result.predictions)
        test = result.predictions[result.predictions["split"] == "test"].assign(fold=task.fold or 1)
        single.append(test[["model", "regime", "seed", "fold", "image_id", "probability"]])
    table = check_predictions(join_folds(predictions), where=network)
    return NetworkResult(table, pd.concat(single, ignore_index=True), runs, skipped)


def train_run(
    task: TrainingTask, *, folder: Path, source: WeightsSource | None = None, on_event: OnEvent | None = None
) -> RunResult:
    """Train one run, continue it, or read it if it is done and its files are unchanged.

    Args:
        task: what to train.
        folder: of all runs.
        source: the pretrained weights, as `choose_regimes` found them; None for scratch.
        on_event: as for `train_network`.

    Raises:
        See `train_network`.
    """
    task.check()
    compute = choose_compute(task.settings)
    identity = identify(task, compute=compute, source=source)
    folder = folder / name_run(task, identity)
    done, remark = check_run(folder)
    if not done:
        with computing(compute) as nondeterministic, _explain_stops(task, folder):
            run = Run(task, compute=compute, source=source, identity=identity, folder=folder, on_event=on_event)
            if remark:
                run.discard(remark)
            run.resume()
            run.train()
            run.finish(nondeterministic)
    elif on_event:
        on_event({**read_history(folder).iloc[-1].to_dict(), "seconds_left": 0.0})  # type: ignore[typeddict-item]  # an epoch's record
    (folder / "last.pt").unlink(missing_ok=True)  # up to 1.7 GB that no one needs any more
    record = read_done(folder)
    assert record is not None  # checked above, or written just now
    return RunResult(folder, record, read_predictions(folder / "predictions.csv"), read_history(folder))


class Run:
    """A run in progress.

    Args:
        task: what is trained.
        compute: device, precision and threads.
        source: the pretrained weights, if the regime needs them.
        identity: what the run depends on, kept in its checkpoints.
        folder: of its files.
        on_event: called after each epoch, and about once a second while features or final scores are computed.

    Attributes:
        model: the network.
        learner: the part that learns and is kept in checkpoints: the network, or its last layer if the rest is frozen.
        history: one mapping per finished epoch.
        best: the mapping of the epoch selected so far; None before the first.
    """

    def __init__(
        self,
        task: TrainingTask,
        *,
        compute: Compute,
        source: WeightsSource | None,
        identity: Mapping[str, Any],
        folder: Path,
        on_event: OnEvent | None = None,
    ):
        self.task, self.compute, self.source, self.identity, self.folder = task, compute, source, identity, folder
        self._on_event = on_event or (lambda event: None)
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        settings, pretrained = task.settings, task.regime in PRETRAINED_REGIMES
        self.train_rows, self.val_rows = task.rows("train"), task.rows("val")
        self.model = compute.place(build_network(settings, pretrained=pretrained, seed=task.seed))
        self.frozen = task.regime == "features"
        self.learner = head_of(self.model) if self.frozen else self.model
        self.average = None if settings.averaging.method == "none" else WeightAverage(self.learner, settings.averaging)
        self.optimizer = make_optimizer(self.model, settings, task.regime)
        self.epochs, steps = task.regime_params.epochs, len(plan_epoch(task, 0))
        self.schedule = make_schedule(self.optimizer, settings.optim, epochs=self.epochs, steps=steps)
        self.scaler = compute.make_scaler()
        weights = class_weights(task.targets(self.train_rows), settings.imbalance.method)
        self.loss_fn = partial(sample_losses, params=settings, weights=weights)
        self.inputs = make_inputs(
            task, self.model, compute=compute, source=source, on_event=self._clock("frozen features")
        )

    def discard(self, why: str) -> None:
        """Remove every file of the run, to train it again from the start, and say why."""
        for name in RUN_FILES:
            (self.folder / name).unlink(missing_ok=True)
        self._on_event({**self.task.key, "remark": why})

    def resume(self) -> None:
        """Continue from `last.pt`, if it is there.

        `best.pt` records which epoch it holds. It may be ahead of `last.pt`, after the last epoch or a kill between the
        two: the epochs in between are trained again, reach the same score, and do not replace it.
        """
        for name in RUN_FILES:
            for leftover in self.folder.glob(f".{name}.*"):  # a kill came while the file was being written
                leftover.unlink()
        if (self.folder / "best.pt").is_file():
            self.best = load_checkpoint(self.folder / "best.pt", identity=self.identity)["selected"]
        if self.best is None or not (self.folder / "last.pt").is_file():  # the first epoch writes both, last.pt second
            return
        state = load_checkpoint(self.folder / "last.pt", identity=self.identity, device=self.compute.device)
        self.history = state["history"]
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def train(self) -> None:
        """Train the epochs that are left; at the end the history and the selected weights are on disk."""
        if not self.history and self.task.regime_params.head == "fitted":
            fit_head(self.model, self.task, compute=self.compute, on_event=self._clock("frozen features"))
        for epoch in range(len(self.history), self.epochs):
            if self._has_stalled():
                break
            begun = time.monotonic()
            loss = self.train_epoch(epoch)
            trained = time.monotonic()
            scores = self.validate()
            seconds = trained - begun
            record = {
                **self.task.key,
                "epoch": epoch + 1,
                "epochs": self.epochs,
                "loss": loss,
                "lr": max(group["lr"] for group in self.optimizer.param_groups),
                **scores,
                "seconds": round(seconds, 3),
                "seconds_validation": round(time.monotonic() - trained, 3),
                "images_per_s": round(len(self.train_rows) / seconds, 3),
            }
            self.add_epoch(record)
            self.save()
            self._on_event({**record, "seconds_left": self._seconds_left()})  # type: ignore[typeddict-item]  # an epoch's record

    def train_epoch(self, epoch: int) -> float:
        """Train one epoch, counted from 0.

        Returns:
            the mean loss.

        Raises:
            TrainingError: the loss is not finite.
        """
        settings, regime = self.task.settings, self.task.regime_params
        # validation left the network in evaluation mode
        freeze_layers(self.model, settings, self.task.regime)
        set_train_mode(self.model, batchnorm="frozen" if self.frozen else regime.batchnorm)
        # dropout draws from the global stream: seeded here, an epoch does not depend on those before it
        torch.manual_seed(derive_seed("dropout", self.task.seed, epoch))
        device = self.compute.device
        batches = load_batches(self.task, self.inputs, epoch=epoch, device=device)
        loss = train_epoch(
            self.inputs.forward,
            # the next batches are read and augmented while the network works on this one
            prefetch(batches, device=device),
            self.optimizer,
            self.schedule,
            self.loss_fn,
            clip_norm=settings.optim.clip_norm,
            scaler=self.scaler,
            update_average=self._update_average if settings.averaging.method == "ema" else None,
        )
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is not finite in epoch {epoch + 1}")
        if averages_epoch(settings.averaging, epoch, epochs=self.epochs):
            self._update_average()
        return loss

    def validate(self) -> dict[str, float]:
        """Scores of the validation images, by the averaged weights if there are any.

        Raises:
            TrainingError: they are not finite.
        """
        logits = self.inputs.predict(self._evaluated(), self.val_rows, tta="none")
        if not np.isfinite(logits).all():
            raise self._diverged(f"the scores of validation images are not finite after {len(self.history)} epochs")
        return score_validation(self.task.targets(self.val_rows), logits)

    def add_epoch(self, record: dict[str, Any]) -> None:
        """Add an epoch to the history; it is selected if it is the best so far, or if the last one is to be kept."""
        self.history.append(record)
        latest = self.task.settings.keep == "last"
        if latest or self.best is None or rank_epoch(record) > rank_epoch(self.best):
            self.best = record

    def save(self) -> None:
        """Write the history, then the selected weights if they are new, then the state to continue from.

        In this order a kill leaves the history ahead of `last.pt`, never behind: it would not be written again after
        the last epoch, and the learning curves would be incomplete.
        """
        write_atomic(self.folder / "history.jsonl", "".join(json.dumps(record) + "\n" for record in self.history))
        if self.best is self.history[-1]:
            model = {self._prefix() + name: tensor for name, tensor in self._evaluated().state_dict().items()}
            content = {"selected": deterministic_part(self.best), "model": model, "about": self._about()}
            save_checkpoint(self.folder / "best.pt", content, identity=self.identity)
        if len(self.history) == self.epochs or self._has_stalled():
            return  # up to 1.7 GB that `train_run` would delete after scoring: a kill before that costs the epoch
        state = {name: part.state_dict() for name, part in self._parts().items()}
        save_checkpoint(self.folder / "last.pt", {**state, "history": self.history}, identity=self.identity)

    def load_best(self) -> None:
        """Load the selected weights into the network."""
        state = load_checkpoint(self.folder / "best.pt", identity=self.identity)["model"]
        self.learner.load_state_dict({name.removeprefix(self._prefix()): tensor for name, tensor in state.items()})

    def finish(self, nondeterministic: set[str]) -> None:
        """Score the validation and test images with the selected weights, and write the predictions and `DONE`.

        Args:
            nondeterministic: operations that warned, see `compute.computing`.
        """
        self.load_best()
        task, best, clock = self.task, self.best, self._clock("final scores")
        assert best is not None  # an epoch was trained, or read
        tables = []
        for rows in (task.rows("val"), task.rows("test")):  # one by one: the test images are the same for every fold
            if len(rows):
                logits = self.inputs.predict(self.learner, rows, tta=task.settings.tta, on_event=clock)
                tables.append(make_table(task, rows, logits))
        write_predictions(pd.concat(tables, ignore_index=True), self.folder / "predictions.csv")
        record = {
            "network": task.network,
            "backbone": task.settings.backbone,
            **task.key,
            "selected_epoch": best["epoch"],
            "val_ap": best["val_ap"],
            "val_auc": best["val_auc"],
            "val_loss": best["val_loss"],
            "epochs": len(self.history),
            "inert": task.inert_settings(),
            "stopped_early": len(self.history) < self.epochs,
            "learnt_from": len(self.train_rows),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "seconds": round(sum(h["seconds"] + h["seconds_validation"] for h in self.history), 3),
            "compute": self.compute.describe(),
            "nondeterministic": sorted(nondeterministic),
            "weights": self.source.to_dict() if self.source is not None and task.regime in PRETRAINED_REGIMES else None,
            "identity": self.identity,
        }
        write_done(self.folder, record)

    def _parts(self) -> dict[str, Any]:
        """Everything with a state that `last.pt` keeps."""
        parts = {"model": self.learner, "optimizer": self.optimizer, "schedule": self.schedule, "scaler": self.scaler}
        return parts | ({"average": self.average} if self.average is not None else {})

    def _update_average(self) -> None:
        assert self.average is not None  # only called for settings that have one
        self.average.update(self.learner)

    def _evaluated(self) -> nn.Module:
        """The learner with averaged weights once there are any; until then with its own."""
        return self.average.module if self.average is not None and self.average.count else self.learner

    def _prefix(self) -> str:
        """The learner's name in the whole network, as a prefix of its tensors: "fc." or ""."""
        return next(f"{name}." if name else "" for name, part in self.model.named_modules() if part is self.learner)

    def _clock(self, stage: str) -> OnEvent:
        """Pass on how far a stage between epochs is, once a second at most."""
        last = time.monotonic()

        def tell(event: Event) -> None:
            nonlocal last
            if time.monotonic() - last > 1:
                last = time.monotonic()
                self._on_event({**self.task.key, "stage": stage, **event})

        return tell

    def _diverged(self, what: str) -> TrainingError:
        task = self.task
        return TrainingError(
            what,
            where=f"{task.network}, {name_training(task.key)}",
            do=f"lower regimes.{task.regime}.lr, or set optim.clip_norm, in {task.network}.yaml",
        )

    def _has_stalled(self) -> bool:
        patience, scores = self.task.settings.early_stopping, [h["val_ap"] for h in self.history]
        return bool(patience and scores) and len(scores) - 1 - scores.index(max(scores)) >= patience

    def _seconds_left(self) -> float:
        spent = [h["seconds"] + h["seconds_validation"] for h in self.history]
        return round(sum(spent) / len(spent) * (self.epochs - len(spent)), 1)

    def _about(self) -> dict[str, Any]:
        """What `predict.load_network` needs to build the network again."""
        task, data = self.task, self.task.params.data
        about = {"network": task.network, **task.key}
        settings = task.settings.model_dump(mode="json")
        return {**about, "settings": settings, "stored_size": data.stored_size, "aspect": data.aspect}


def read_history(folder: Path) -> pd.DataFrame:
    """Learning curves of one run, or of all runs in a folder: one row per run and epoch.

    Returns:
        Columns `regime`, `seed`, `fold` (if there are several), `epoch` (from 1), `epochs`, `loss`, `val_loss`,
        `val_ap`, `val_auc`, `lr`, `seconds`, `seconds_validation`, `images_per_s`.
    """
    own = folder / "history.jsonl"
    files = [own] if own.is_file() else sorted(folder.glob("*/history.jsonl"))
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return pd.DataFrame([json.loads(line) for line in lines])


def make_table(task: TrainingTask, rows: np.ndarray, logits: np.ndarray) -> pd.DataFrame:
    """Predictions of one run, as `predictions.COLUMNS`.

    Args:
        task: the run.
        rows: (N,) int64, rows of the images' table.
        logits: (N,) float32.
    """
    table = task.data.table.iloc[rows]
    logits = logits.astype(np.float64)
    return pd.DataFrame(
        {
            "image_id": table["image_id"].to_numpy(),
            "split": name_subsets(table, task.fold).to_numpy(),
            "model": task.settings.model,
            "regime": task.regime,
            "seed": task.seed,
            "target": task.targets(rows),
            "logit": logits,
            "probability": expit(logits),
        }
    )


@contextmanager
def _explain_stops(task: TrainingTask, folder: Path) -> Iterator[None]:
    """Say how to continue after an interrupt, and what to change if memory runs out."""
    try:
        yield
    except KeyboardInterrupt:
        path = folder / "last.pt"
        kept = len(load_checkpoint(path)["history"]) if path.is_file() else 0
        raise KeyboardInterrupt(
            f"stopped while training {task.network} ({name_training(task.key)}); {kept} of "
            f"{task.regime_params.epochs} epochs are kept in {folder.name}. Run the same command again to continue."
        ) from None
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(f"{type(error).__name__}: {error}"):
            raise
        settings = task.settings
        smaller, steps = max(2, settings.batch_size // 2), settings.accumulation * 2
        fixed = measure_state(settings) / 2**30
        raise TrainingError(
            f"out of memory at batch_size {settings.batch_size}, {settings.image_size} px",
            where=f"{task.network}.yaml: batch_size",
            expected=f"{fixed:.1f} GiB for weights, gradients and the optimizer, and what the batch takes",
            do=f"try batch_size: {smaller} and accumulation: {steps} (the same images per step) in {task.network}.yaml",
        ) from error
