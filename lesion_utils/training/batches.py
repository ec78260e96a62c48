"""What a network is shown in training: its inputs, and the batches of an epoch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from lesion_utils.core.paths import cache_dir
from lesion_utils.models.compute import Compute
from lesion_utils.models.inference import OnBatch
from lesion_utils.models.weights import WeightsSource
from lesion_utils.training.inputs import FeatureInputs, PixelInputs
from lesion_utils.training.loss import mix, soften
from lesion_utils.training.sampling import Batch, derive_seed, draw_order, split_steps
from lesion_utils.training.task import TrainingTask


def make_inputs(
    task: TrainingTask, model: nn.Module, *, compute: Compute, source: WeightsSource | None, on_batch: OnBatch
) -> PixelInputs | FeatureInputs:
    """Photographs for a network that learns, features for one that is frozen.

    Args:
        task: what is trained.
        model: the network, where it computes.
        compute: where and how.
        source: the pretrained weights, if the regime needs them; features are kept by their hash.
        on_batch: called while features are computed.
    """
    if task.regime != "features":
        augmentation = task.params.augmentation
        images, settings = task.data.images, task.settings
        return PixelInputs(model, images, settings, augmentation=augmentation, seed=task.seed, compute=compute)
    return FeatureInputs(
        model,
        task.data.images,
        task.settings,
        rows=task.rows("train", "val"),
        weights=source.sha256,
        folder=cache_dir() / "features",
        compute=compute,
        on_batch=on_batch,
    )


def plan_epoch(task: TrainingTask, epoch: int) -> list[list[Batch]]:
    """The batches of an epoch: for each change of the weights, those whose gradients it sums."""
    settings, rows = task.settings, task.rows("train")
    samples = draw_order(
        rows,
        task.targets(rows),
        balanced=settings.imbalance.method == "balanced_sampling",
        seed=task.seed,
        epoch=epoch,
        total=len(task.data.table),
    )
    return split_steps(samples, batch_size=settings.batch_size, accumulation=settings.accumulation)


def load_batches(
    task: TrainingTask, inputs: PixelInputs | FeatureInputs, steps: list[list[Batch]], *, epoch: int, device: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and soft targets (N,) float32 of each batch, in order, augmented and mixed as the study says."""
    settings = task.settings
    for number, batch in enumerate(batch for step in steps for batch in step):
        x = inputs.training_batch(batch, epoch)
        targets = torch.from_numpy(task.targets(batch.rows)).float().to(device)
        targets = soften(targets, settings.label_smoothing)
        if settings.mixup:
            rng = np.random.default_rng(derive_seed("mixup", task.seed, epoch, number))
            x, targets = mix(x, targets, alpha=settings.mixup, rng=rng)
        yield x, targets
