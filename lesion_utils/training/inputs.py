"""The batches of an epoch: augmented images, or features of a frozen backbone.

Both kinds of inputs have the same methods, so that there is one training loop: `training_batch`, `forward`, `predict`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lesion_utils.config.schema import Augmentation, Network
from lesion_utils.core.events import OnEvent
from lesion_utils.models.compute import Compute
from lesion_utils.models.inference import Scorer, copy_to, forward_logits, place_images, read_rows
from lesion_utils.models.networks import data_config, head_of
from lesion_utils.models.weights import WeightsSource
from lesion_utils.training.augment import Augmenter
from lesion_utils.training.loss import mix, soften
from lesion_utils.training.sampling import Batch, derive_seed, draw_order, split_steps
from lesion_utils.training.task import TrainingTask


class TrainingBatch(NamedTuple):
    """What one pass through the network is given.

    Attributes:
        x: (N, 3, H, W) float32 images, augmented and normalised; or (N, D) features.
        targets: (N,) float32 in [0, 1].
        step_size: images whose gradients make up one optimizer step; N without accumulation.
        ends_step: whether the optimizer steps after this batch.
    """

    x: Tensor
    targets: Tensor
    step_size: int
    ends_step: bool


def make_inputs(
    task: TrainingTask, model: nn.Module, *, compute: Compute, source: WeightsSource | None, on_event: OnEvent
) -> PixelInputs | FeatureInputs:
    """Photographs for a network that learns, features for one that is frozen.

    Args:
        task: what is trained.
        model: the network, where it computes.
        compute: where and how.
        source: the pretrained weights, if the regime needs them; features are kept by their hash.
        on_event: called while features are computed.
    """
    images, settings = task.data.images, task.settings
    if task.regime != "features":
        return PixelInputs(
            model, images, settings, augmentation=task.params.augmentation, seed=task.seed, compute=compute
        )
    assert source is not None  # this regime starts from pretrained weights
    return FeatureInputs(
        model,
        images,
        settings,
        rows=task.rows("train", "val"),
        weights=source.sha256,
        compute=compute,
        on_event=on_event,
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
    task: TrainingTask, inputs: PixelInputs | FeatureInputs, *, epoch: int, device: str
) -> Iterator[TrainingBatch]:
    """The batches of an epoch, in order, augmented and mixed as the study says."""
    settings, number = task.settings, 0
    for step in plan_epoch(task, epoch):
        step_size = sum(len(batch.rows) for batch in step)
        for batch in step:
            x = inputs.training_batch(batch, epoch)
            targets = copy_to(device, torch.from_numpy(task.targets(batch.rows)).float())
            targets = soften(targets, settings.label_smoothing)
            if settings.mixup:
                rng = np.random.default_rng(derive_seed("mixup", task.seed, epoch, number))
                x, targets = mix(x, targets, alpha=settings.mixup, rng=rng)
            yield TrainingBatch(x, targets, step_size, ends_step=batch is step[-1])
            number += 1


class PixelInputs:
    """Augmented images through the whole network.

    Args:
        model: a network of `build_network`, placed by `compute`.
        images: (N, S, S, 3) uint8, RGB.
        params: of the network.
        augmentation: of the training images.
        seed: of the augmentation.
        compute: where and how.
    """

    def __init__(
        self,
        model: nn.Module,
        images: np.ndarray,
        params: Network,
        *,
        augmentation: Augmentation,
        seed: int,
        compute: Compute,
    ):
        self.model, self.images, self.params, self.compute = model, images, params, compute
        self._config, self._pixels = data_config(model), place_images(images, compute.device)
        self._augmenter = Augmenter(
            augmentation, image_size=params.image_size, seed=seed, interpolation=self._config.interpolation
        )
        self._compiled = torch.compile(self._run_network) if params.compile else None

    def training_batch(self, batch: Batch, epoch: int) -> Tensor:
        """Augmented images of a batch, (N, 3, H, W) float32, normalised, on the device."""
        pixels = read_rows(self._pixels, batch.rows, self.compute.device)
        x = self._augmenter(pixels, torch.from_numpy(batch.keys), epoch)
        return self._config.normalise(x).contiguous(memory_format=self.compute.memory_format)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N,) float32 of what `training_batch` returned."""
        return self._compiled(x) if self._compiled else self._run_network(x)

    def predict(self, learner: nn.Module, rows: np.ndarray, *, tta: str, on_event: OnEvent | None = None) -> np.ndarray:
        """Logits (N,) float32 of the images in `rows` by a network with these or averaged weights."""
        return Scorer(learner, self.params, self.compute, on_event).logits(self.images, rows, tta=tta)

    def _run_network(self, x: Tensor) -> Tensor:
        return forward_logits(self.model, x, compute=self.compute).squeeze(1)


class FeatureInputs:
    """Features of the frozen backbone through the last layer.

    Args:
        model: a pretrained network of `build_network`, placed by `compute`.
        images: (N, S, S, 3) uint8, RGB.
        params: of the network.
        rows: the images whose features are wanted for training and validation.
        weights: SHA-256 of the pretrained weights, by which the features are kept for other runs.
        compute: where and how.
        on_event: called while the features are computed.
    """

    def __init__(
        self,
        model: nn.Module,
        images: np.ndarray,
        params: Network,
        *,
        rows: np.ndarray,
        weights: str,
        compute: Compute,
        on_event: OnEvent | None = None,
    ):
        self.model, self.images, self.params, self.compute = model, images, params, compute
        self._weights = weights
        features = self._features(rows, "none", on_event)
        self._place = {int(row): i for i, row in enumerate(rows)}
        self._known = torch.from_numpy(features[:, 0]).to(compute.device)

    def training_batch(self, batch: Batch, epoch: int) -> Tensor:
        """Features of a batch, (N, D) float32; they are the same in every epoch."""
        return self._known[[self._place[int(row)] for row in batch.rows]]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N,) float32 of features; dropout acts as in the network itself."""
        return head_of(self.model)(F.dropout(x, self.params.drop_rate)).squeeze(1)

    @torch.no_grad()
    def predict(self, learner: nn.Module, rows: np.ndarray, *, tta: str, on_event: OnEvent | None = None) -> np.ndarray:
        """Logits (N,) float32 of the images in `rows` by a last layer with these or averaged weights."""
        if tta == "none" and all(int(row) in self._place for row in rows):
            return learner(self.training_batch(Batch(rows, rows), 0)).squeeze(1).cpu().numpy()
        views = torch.from_numpy(self._features(rows, tta, on_event)).to(self.compute.device)
        return learner(views).squeeze(2).mean(1).cpu().numpy()

    def _features(self, rows: np.ndarray, tta: str, on_event: OnEvent | None) -> np.ndarray:
        scorer = Scorer(self.model, self.params, self.compute, on_event)
        return scorer.features(self.images, rows, tta=tta, weights=self._weights)
