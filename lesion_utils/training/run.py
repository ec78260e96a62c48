"""One run epoch by epoch, with a checkpoint to go on from.

With `keep: best` the epoch with the highest validation AP is selected, among equals the one with the lower validation
loss, among those the earlier; with `keep: last` the last.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lesion_utils.config.schema import PRETRAINED_REGIMES
from lesion_utils.core.errors import TrainingError
from lesion_utils.core.files import write_atomic
from lesion_utils.core.names import name_training
from lesion_utils.models.checkpoint import load_checkpoint, save_checkpoint
from lesion_utils.models.compute import Compute
from lesion_utils.models.inference import prefetch
from lesion_utils.models.networks import build_network, head_of
from lesion_utils.models.weights import WeightsSource
from lesion_utils.provenance.run_files import DONE, KEPT
from lesion_utils.training.classifiers import fit_head
from lesion_utils.training.inputs import load_batches, make_inputs, plan_epoch
from lesion_utils.training.loop import deterministic_part, rank_epoch, score_validation, train_epoch
from lesion_utils.training.loss import class_weights, sample_losses
from lesion_utils.training.optim import (
    WeightAverage,
    averages_epoch,
    freeze_layers,
    make_optimizer,
    make_schedule,
    set_train_mode,
)
from lesion_utils.training.sampling import derive_seed
from lesion_utils.training.task import TrainingTask

#: What lies in a run's folder.
RUN_FILES = ("last.pt", *KEPT, DONE)


class Run:
    """A run in progress.

    Args:
        task: what is trained.
        compute: where and how.
        source: the pretrained weights, if the regime needs them.
        identity: what the run depends on, kept in its checkpoints.
        folder: of its files.
        on_event: called after each epoch, and while features or the final scores are computed.

    Attributes:
        model: the network.
        learner: what of it learns, and lies in checkpoints: the network, or its last layer where the rest is frozen.
        history: one mapping per epoch that is done.
        best: the mapping of the selected epoch so far; None before the first.
    """

    def __init__(
        self,
        task: TrainingTask,
        *,
        compute: Compute,
        source: WeightsSource | None,
        identity: Mapping[str, Any],
        folder: Path,
        on_event: Callable[[dict[str, Any]], None] | None = None,
    ):
        self.task, self.compute, self.source, self.identity, self.folder = task, compute, source, identity, folder
        self._on_event = on_event or (lambda event: None)
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        settings = task.settings
        self.frozen = task.regime == "features"
        self.model = compute.place(
            build_network(settings, pretrained=task.regime in PRETRAINED_REGIMES, seed=task.seed)
        )
        self.learner = head_of(self.model) if self.frozen else self.model
        self.average = None if settings.averaging.method == "none" else WeightAverage(self.learner, settings.averaging)
        self.optimizer = make_optimizer(self.model, settings, task.regime)
        epochs, steps = task.regime_params.epochs, len(plan_epoch(task, 0))
        self.schedule = make_schedule(self.optimizer, settings.optim, epochs=epochs, steps=steps)
        self.scaler = compute.make_scaler()
        self.train_rows, self.val_rows = task.rows("train"), task.rows("val")
        weights = class_weights(task.targets(self.train_rows), settings.imbalance.method)
        self.loss_fn = partial(sample_losses, params=settings, weights=weights)
        self.inputs = make_inputs(
            task, self.model, compute=compute, source=source, on_batch=self._tell("frozen features")
        )

    def train(self) -> None:
        """Train the epochs that are left; ends with the history and the selected weights on disk."""
        if not self.history and self.task.regime_params.head == "fitted":
            fit_head(self.model, self.task, compute=self.compute, on_batch=self._tell("frozen features"))
        for epoch in range(len(self.history), self.task.regime_params.epochs):
            if self._has_stalled():
                break
            begun = time.monotonic()
            loss = self.train_epoch(epoch)
            seconds = time.monotonic() - begun
            lr = max(group["lr"] for group in self.optimizer.param_groups)
            record = {**self.task.key}
            record |= {"epoch": epoch + 1, "epochs": self.task.regime_params.epochs, "loss": loss, "lr": lr}
            record |= self.validate()
            record["seconds"] = round(seconds, 3)
            record["seconds_validation"] = round(time.monotonic() - begun - seconds, 3)
            record["images_per_s"] = round(len(self.train_rows) / seconds, 3)
            self.take_in(record)
            self.save()
            self._on_event({**record, "seconds_left": self._seconds_left()})

    def train_epoch(self, epoch: int) -> float:
        """Train one epoch, counted from 0; returns the mean loss.

        Raises:
            TrainingError: the loss is not finite.
        """
        self._set_mode()
        torch.manual_seed(derive_seed("dropout", self.task.seed, epoch))
        optim, averaging = self.task.settings.optim, self.task.settings.averaging
        batches = load_batches(self.task, self.inputs, epoch=epoch, device=self.compute.device)
        loss = train_epoch(
            self.inputs.forward,
            prefetch(batches, device=self.compute.device),
            self.optimizer,
            self.schedule,
            self.loss_fn,
            clip_norm=optim.clip_norm,
            scaler=self.scaler,
            update_average=self._update_average if averaging.method == "ema" else None,
        )
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is not finite in epoch {epoch + 1}")
        if averages_epoch(averaging, epoch, epochs=self.task.regime_params.epochs):
            self._update_average()
        return loss

    def validate(self) -> dict[str, float]:
        """Figures of the validation images, with averaged weights where there are any."""
        logits = self.inputs.predict(self._evaluated(), self.val_rows, tta="none")
        if not np.isfinite(logits).all():
            raise self._diverged(f"the scores of validation images are not finite after {len(self.history)} epochs")
        return score_validation(self.task.targets(self.val_rows), logits)

    def load_best(self) -> None:
        """Give the network the selected weights."""
        state = load_checkpoint(self.folder / "best.pt", identity=self.identity)["model"]
        self.learner.load_state_dict({name.removeprefix(self._prefix()): tensor for name, tensor in state.items()})

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Logits (N,) float32 of images by the network as it is, with its test-time augmentation."""
        tell = self._tell("final scores")
        return self.inputs.predict(self.learner, rows, tta=self.task.settings.tta, on_batch=tell)

    def discard(self, why: str) -> None:
        """Remove every file of the run, to train it again from the start, and say why."""
        for name in RUN_FILES:
            (self.folder / name).unlink(missing_ok=True)
        self._on_event({**self.task.key, "remark": why})

    def resume(self) -> None:
        """Go on from `last.pt`, if there is one.

        `best.pt` says itself what was selected. It may be ahead of `last.pt`, if a kill came between the two: the
        epochs in between are trained again, reach the same score, and do not replace it.
        """
        for name in RUN_FILES:
            for leftover in self.folder.glob(f".{name}.*"):  # of a kill while the file was being written
                leftover.unlink()
        if (self.folder / "best.pt").is_file():
            self.best = load_checkpoint(self.folder / "best.pt", identity=self.identity)["selected"]
        if self.best is None or not (self.folder / "last.pt").is_file():  # the first epoch writes both, this one last
            return
        state = load_checkpoint(self.folder / "last.pt", identity=self.identity, device=self.compute.device)
        self.history = state["history"]
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def take_in(self, record: dict[str, Any]) -> None:
        """Add an epoch to the history; it is the selected one if it is the best, or if the last one is to be kept."""
        self.history.append(record)
        latest = self.task.settings.keep == "last"
        if latest or self.best is None or rank_epoch(record) > rank_epoch(self.best):
            self.best = record

    def save(self) -> None:
        """Write the history, then the selected weights where they are new, then what to go on from.

        In this order a kill leaves the history ahead of `last.pt`, never behind: nobody would write it after the last
        epoch, and the learning curves would lack it.
        """
        write_atomic(self.folder / "history.jsonl", "".join(json.dumps(record) + "\n" for record in self.history))
        if self.best is self.history[-1]:
            model = {self._prefix() + name: tensor for name, tensor in self._evaluated().state_dict().items()}
            content = {"selected": deterministic_part(self.best), "model": model, "about": self._about()}
            save_checkpoint(self.folder / "best.pt", content, identity=self.identity)
        state = {name: part.state_dict() for name, part in self._parts().items()}
        save_checkpoint(self.folder / "last.pt", {**state, "history": self.history}, identity=self.identity)

    def _parts(self) -> dict[str, Any]:
        """What has a state."""
        parts = {"model": self.learner, "optimizer": self.optimizer, "schedule": self.schedule, "scaler": self.scaler}
        return parts | ({"average": self.average} if self.average is not None else {})

    def _update_average(self) -> None:
        assert self.average is not None  # asked for by those settings alone that have one
        self.average.update(self.learner)

    def _evaluated(self) -> nn.Module:
        """The learner with averaged weights, once there are any; until then with its own."""
        return self.average.module if self.average is not None and self.average.count else self.learner

    def _prefix(self) -> str:
        """Of the learner's tensors in the whole network."""
        return next(f"{name}." if name else "" for name, part in self.model.named_modules() if part is self.learner)

    def _set_mode(self) -> None:
        freeze_layers(self.model, self.task.settings, self.task.regime)
        set_train_mode(self.model, batchnorm="frozen" if self.frozen else self.task.regime_params.batchnorm)

    def _tell(self, stage: str) -> Callable[[int, int], None]:
        """A clock for what takes its time between epochs: images done, of how many; an event a second at most."""
        told = time.monotonic()

        def tell(done: int, total: int) -> None:
            nonlocal told
            if time.monotonic() - told > 1:
                told = time.monotonic()
                self._on_event({**self.task.key, "stage": stage, "done": done, "total": total})

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
        return round(sum(spent) / len(spent) * (self.task.regime_params.epochs - len(spent)), 1)

    def _about(self) -> dict[str, Any]:
        """What `predict.load_network` needs to build the network again."""
        task, data = self.task, self.task.params.data
        about = {"network": task.network, **task.key}
        settings = task.settings.model_dump(mode="json")
        return {**about, "settings": settings, "stored_size": data.stored_size, "aspect": data.aspect}
