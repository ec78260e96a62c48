"""One training run: its network, optimiser and averages, epoch by epoch, with a checkpoint to go on from."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lesion_utils.config.schema import PRETRAINED_REGIMES
from lesion_utils.core.errors import TrainingError
from lesion_utils.core.files import write_atomic
from lesion_utils.models.checkpoint import load_checkpoint, save_checkpoint
from lesion_utils.models.compute import Compute
from lesion_utils.models.inference import prefetch
from lesion_utils.models.networks import build_network, freeze_backbone, freeze_layers, head_of, set_train_mode
from lesion_utils.models.weights import WeightsSource
from lesion_utils.training.averaging import WeightAverage
from lesion_utils.training.batches import load_batches, make_inputs, plan_epoch
from lesion_utils.training.loss import class_weights, sample_losses
from lesion_utils.training.optim import make_optimizer, set_learning_rates
from lesion_utils.training.sampling import derive_seed
from lesion_utils.training.selection import deterministic_part, rank_epoch, score_validation
from lesion_utils.training.task import TrainingTask


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
        settings, regime = task.settings, task.regime_params
        self.frozen = task.regime == "features"
        model = build_network(settings, pretrained=task.regime in PRETRAINED_REGIMES, seed=task.seed)
        self.model = compute.place(model)
        self.optimizer = make_optimizer(self.model, task)
        self.average = WeightAverage(self._live(), settings.averaging, epochs=regime.epochs)
        self.train_rows, self.val_rows = task.rows("train"), task.rows("val")
        self._weights = class_weights(task.targets(self.train_rows), settings.imbalance.method)
        self.inputs = make_inputs(
            task, self.model, compute=compute, source=source, on_batch=self._tell("frozen features")
        )

    def train(self) -> None:
        """Train the epochs that are left; ends with the history and the selected weights on disk."""
        for epoch in range(len(self.history), self.task.regime_params.epochs):
            if self._has_stalled():
                break
            begun = time.monotonic()
            loss, lr = self.train_epoch(epoch)
            seconds = time.monotonic() - begun
            self.average.after_epoch(epoch)
            record = {**self._describe(epoch), "loss": loss, "lr": lr, **self.validate()}
            record |= {
                "seconds": round(seconds, 3),
                "seconds_validation": round(time.monotonic() - begun - seconds, 3),
                "images_per_s": round(len(self.train_rows) / seconds, 3),
            }
            self.take_in(record)
            self.save()
            self._on_event({**record, "seconds_left": self._seconds_left()})

    def train_epoch(self, epoch: int) -> tuple[float, float]:
        """One pass over the training images.

        Returns:
            The mean loss, as optimised, and the last layer's learning rate at the end.

        Raises:
            TrainingError: the loss is not finite.
        """
        settings, head_only = self.task.settings, self._is_head_only(epoch)
        self._set_mode(head_only)
        steps = plan_epoch(self.task, epoch)
        batches = prefetch(load_batches(self.task, self.inputs, steps, epoch=epoch, device=self.compute.device))
        total = torch.zeros((), dtype=torch.float64 if self.compute.device != "mps" else torch.float32)
        total = total.to(self.compute.device)
        for number, step in enumerate(steps):
            set_learning_rates(self.optimizer, epoch + (number + 1) / len(steps), task=self.task)
            size = sum(len(batch.rows) for batch in step)
            for part in range(len(step)):
                x, targets = next(batches)
                torch.manual_seed(derive_seed("dropout", self.task.seed, epoch, number, part))
                losses = sample_losses(self.inputs.forward(x), targets, params=settings, weights=self._weights)
                (losses.sum() / size).backward()
                total += losses.detach().sum()
            if settings.optim.clip_norm:
                torch.nn.utils.clip_grad_norm_(self._learning(), settings.optim.clip_norm, foreach=True)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.average.after_step()
        next(batches, None)  # lets the loading thread end
        loss = total.item() / sum(len(batch.rows) for step in steps for batch in step)
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is not finite in epoch {epoch + 1}")
        return loss, max(group["lr"] for group in self.optimizer.param_groups)

    def validate(self) -> dict[str, float]:
        """Figures of the validation images, with averaged weights where there are any."""
        with self.average.applied():
            logits = self.inputs.predict(self.val_rows, tta="none")
        if not np.isfinite(logits).all():
            raise self._diverged(f"the scores of validation images are not finite after {len(self.history)} epochs")
        return score_validation(self.task.targets(self.val_rows), logits)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Logits (N,) float32 of images, with the network's test-time augmentation."""
        return self.inputs.predict(rows, tta=self.task.settings.tta, on_batch=self._tell("final scores"))

    def resume(self) -> None:
        """Go on from `last.pt`, if there is one.

        `best.pt` says itself what was selected. It may be ahead of `last.pt`, if a kill came between the two: the
        epochs in between are trained again, reach the same score, and do not replace it.
        """
        for leftover in self.folder.glob(".*"):  # of a kill while a file was being written
            leftover.unlink()
        if (self.folder / "best.pt").is_file():
            self.best = load_checkpoint(self.folder / "best.pt", identity=self.identity)["selected"]
        if not (self.folder / "last.pt").is_file():
            return
        state = load_checkpoint(self.folder / "last.pt", identity=self.identity, device=self.compute.device)
        self._load_live(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state["average"])
        self.history = state["history"]

    def load_best(self) -> None:
        """Give the network the selected weights."""
        self._load_live(load_checkpoint(self.folder / "best.pt", identity=self.identity)["model"])

    def _tell(self, stage: str) -> Callable[[int, int], None]:
        """A clock for what takes its time between epochs: images done, of how many; an event a second at most."""
        told = time.monotonic()

        def tell(done: int, total: int) -> None:
            nonlocal told
            if time.monotonic() - told > 1:
                told = time.monotonic()
                run = {"regime": self.task.regime, "seed": self.task.seed}
                self._on_event({**run, "stage": stage, "done": done, "total": total})

        return tell

    def _is_head_only(self, epoch: int) -> bool:
        return self.frozen or epoch < self.task.regime_params.head_epochs

    def _set_mode(self, head_only: bool) -> None:
        freeze_backbone(self.model, frozen=head_only)
        if not head_only:
            freeze_layers(self.model, self.task.regime_params.frozen_layers)
        set_train_mode(self.model, batchnorm="frozen" if head_only else self.task.regime_params.batchnorm)

    def _learning(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]

    def _live(self) -> dict[str, Tensor]:
        """The network's tensors that this regime changes; they share its memory."""
        state = self.model.state_dict()
        if not self.frozen:
            return state
        head = {p.data_ptr() for p in head_of(self.model).parameters()}
        return {name: tensor for name, tensor in state.items() if tensor.data_ptr() in head}

    @torch.no_grad()
    def _load_live(self, state: Mapping[str, Tensor]) -> None:
        for name, tensor in self._live().items():
            tensor.copy_(state[name])

    def _diverged(self, what: str) -> TrainingError:
        task = self.task
        return TrainingError(
            what,
            where=f"{task.network}, {task.regime}, seed {task.seed}",
            do=f"lower regimes.{task.regime}.lr, or set optim.clip_norm, in {task.network}.yaml",
        )

    def _describe(self, epoch: int) -> dict[str, Any]:
        task = self.task
        return {"regime": task.regime, "seed": task.seed, "epoch": epoch + 1, "epochs": task.regime_params.epochs}

    def take_in(self, record: dict[str, Any]) -> None:
        """Add an epoch to the history; it is the selected one if it is the best."""
        self.history.append(record)
        if self.best is None or rank_epoch(record) > rank_epoch(self.best):
            self.best = record

    def _has_stalled(self) -> bool:
        patience, scores = self.task.settings.early_stopping, [h["val_ap"] for h in self.history]
        return bool(patience and scores) and len(scores) - 1 - scores.index(max(scores)) >= patience

    def _seconds_left(self) -> float:
        spent = [h["seconds"] + h["seconds_validation"] for h in self.history]
        return round(sum(spent) / len(spent) * (self.task.regime_params.epochs - len(spent)), 1)

    def save(self) -> None:
        """Write the history, then the selected weights where they are new, then what to go on from.

        In this order a kill leaves the history ahead of `last.pt`, never behind: nobody would write it after the last
        epoch, and the learning curves would lack it.
        """
        write_atomic(self.folder / "history.jsonl", "".join(json.dumps(record) + "\n" for record in self.history))
        if self.best is self.history[-1]:
            with self.average.applied():
                content = {"selected": deterministic_part(self.best), "model": self._live(), **self._about()}
                save_checkpoint(self.folder / "best.pt", content, identity=self.identity)
        state = {
            "model": self._live(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict(),
            "history": self.history,
        }
        save_checkpoint(self.folder / "last.pt", state, identity=self.identity)

    def _about(self) -> dict[str, Any]:
        """What `predict.load_network` needs to build the network again."""
        task = self.task
        return {
            "about": {
                "network": task.network,
                "regime": task.regime,
                "seed": task.seed,
                "settings": task.settings.model_dump(mode="json"),
                "stored_size": task.params.data.stored_size,
                "aspect": task.params.data.aspect,
            }
        }
