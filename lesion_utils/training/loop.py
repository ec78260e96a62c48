"""The training loop: one pass over the training images, and the figures by which an epoch is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from lesion_utils.evaluation.metrics import average_precision, roc_auc
from lesion_utils.training.inputs import TrainingBatch


def train_epoch(
    model: Callable[[Tensor], Tensor],
    batches: Iterable[TrainingBatch],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    *,
    clip_norm: float = 0.0,
    scaler: GradScaler | None = None,
    update_average: Callable[[], object] | None = None,
) -> float:
    """Train for one epoch: one pass over the training images.

    Args:
        model: inputs to logits (N,), in training mode.
        batches: of the epoch.
        optimizer: of the weights.
        schedule: of the learning rate, stepped after each optimizer step.
        loss_fn: logits (N,) and targets (N,) to the loss of each image, (N,).
        clip_norm: largest norm of the gradient; 0: no clipping.
        scaler: scales the loss in float16; None in other precisions.
        update_average: takes the weights into their moving average, if the study has one.

    Returns:
        The mean loss over the images, as optimised.
    """
    scaler = scaler or GradScaler(enabled=False)  # which passes everything through
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    total, images = 0.0, 0
    for batch in batches:
        losses = loss_fn(model(batch.x), batch.targets)
        # step_size counts the images of all batches of a step, so that accumulation does not change the gradient
        scaler.scale(losses.sum() / batch.step_size).backward()
        # the sum stays on the device: to read it here would make the CPU wait for the GPU in every batch
        total, images = total + losses.detach().sum(), images + len(losses)
        if not batch.ends_step:
            continue  # gradients of several batches add up to one step
        if clip_norm:
            scaler.unscale_(optimizer)  # the norm is that of the true gradient
            nn.utils.clip_grad_norm_(parameters, clip_norm)
        scaler.step(optimizer)  # skips the step if a float16 gradient overflowed
        scaler.update()
        optimizer.zero_grad()
        schedule.step()
        if update_average:
            update_average()
    return float(total) / images


def score_validation(targets: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Loss (plain cross-entropy), AP and AUC; rounded to 12 digits, so that equal rankings score exactly the same.

    Args:
        targets: (N,) int, 0 or 1.
        logits: (N,) float.
    """
    logits = logits.astype(np.float64)
    return {
        "val_loss": float(np.mean(np.logaddexp(0, np.where(targets == 1, -logits, logits)))),
        "val_ap": round(float(average_precision(targets, expit(logits))), 12),
        "val_auc": round(float(roc_auc(targets, expit(logits))), 12),
    }


def rank_epoch(record: Mapping[str, Any]) -> tuple[float, float]:
    """The better epoch has the larger rank: higher validation AP, then lower validation loss."""
    return record["val_ap"], -record["val_loss"]


def deterministic_part(record: Mapping[str, Any]) -> dict[str, Any]:
    """An epoch's record without its times, so that the same training gives the same file."""
    return {k: v for k, v in record.items() if k not in ("seconds", "seconds_validation", "images_per_s")}
