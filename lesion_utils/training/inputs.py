"""What a network is fed with: augmented pixels, or the features of a frozen backbone that are computed once.

Both kinds have the same face, so that there is one training loop: `training_batch`, `forward`, `predict`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lesion_utils.config.schema import Augmentation, Network
from lesion_utils.models.compute import Compute
from lesion_utils.models.inference import OnBatch, forward_logits, frozen_features, predict_logits, read_rows
from lesion_utils.models.networks import data_config, head_of
from lesion_utils.training.augment import Augmenter
from lesion_utils.training.sampling import Batch


class Images(Protocol):
    """Decoded images and their table; row i of the table is image i.

    Attributes:
        images: (N, S, S, 3) uint8, RGB.
        table: columns `image_id`, `target` (0 or 1) and `subset` (train, val, test, left_out).
    """

    images: np.ndarray
    table: pd.DataFrame


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
        self._config = data_config(model)
        self._augmenter = Augmenter(
            augmentation, image_size=params.image_size, seed=seed, interpolation=self._config.interpolation
        )
        self._network = torch.compile(self._run_network) if params.compile else self._run_network

    def training_batch(self, batch: Batch, epoch: int) -> Tensor:
        """Augmented images of a batch, (N, 3, H, W) float32, normalised, on the device."""
        pixels = read_rows(self.images, batch.rows, self.compute.device)
        x = self._augmenter(pixels, torch.from_numpy(batch.keys), epoch)
        return self._config.normalise(x).contiguous(memory_format=self.compute.memory_format)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N,) float32 of what `training_batch` returned."""
        return self._network(x)

    def predict(self, rows: np.ndarray, *, tta: str, on_batch: OnBatch | None = None) -> np.ndarray:
        """Logits (N,) float32 of the images in `rows`."""
        settings = {"params": self.params, "compute": self.compute, "tta": tta, "on_batch": on_batch}
        return predict_logits(self.model, self.images, rows, **settings)

    def _run_network(self, x: Tensor) -> Tensor:
        return forward_logits(self.model, x, compute=self.compute).squeeze(1)


class FeatureInputs:
    """Features of the frozen backbone through the last layer.

    Args:
        model: a pretrained network of `build_network`, placed by `compute`.
        images: (N, S, S, 3) uint8, RGB.
        params: of the network.
        rows: the images whose features are wanted for training and validation.
        weights: SHA-256 of the pretrained weights; with it the features are kept in `folder` for other runs.
        folder: where.
        compute: where and how.
        on_batch: called while the features are computed.
    """

    def __init__(
        self,
        model: nn.Module,
        images: np.ndarray,
        params: Network,
        *,
        rows: np.ndarray,
        weights: str,
        folder: Path,
        compute: Compute,
        on_batch: OnBatch | None = None,
    ):
        self.model, self.images, self.params, self.compute = model, images, params, compute
        self._weights, self._folder = weights, folder
        features = self._features(rows, "none", on_batch)
        self._place = {int(row): i for i, row in enumerate(rows)}
        self._known = torch.from_numpy(features[:, 0]).to(compute.device)

    def training_batch(self, batch: Batch, epoch: int) -> Tensor:
        """Features of a batch, (N, D) float32; they are the same in every epoch."""
        return self._known[[self._place[int(row)] for row in batch.rows]]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N,) float32 of features; dropout acts as in the network itself."""
        x = F.dropout(x, self.params.drop_rate, self.model.training)
        return head_of(self.model)(x).squeeze(1)

    @torch.no_grad()
    def predict(self, rows: np.ndarray, *, tta: str, on_batch: OnBatch | None = None) -> np.ndarray:
        """Logits (N,) float32 of the images in `rows`."""
        self.model.eval()
        if tta == "none" and all(int(row) in self._place for row in rows):
            return self.forward(self.training_batch(Batch(rows, rows), 0)).cpu().numpy()
        views = torch.from_numpy(self._features(rows, tta, on_batch)).to(self.compute.device)
        return self.forward(views.flatten(0, 1)).view(views.shape[:2]).mean(1).cpu().numpy()

    def _features(self, rows: np.ndarray, tta: str, on_batch: OnBatch | None) -> np.ndarray:
        return frozen_features(
            self.model,
            self.images,
            rows,
            params=self.params,
            compute=self.compute,
            tta=tta,
            weights=self._weights,
            folder=self._folder,
            on_batch=on_batch,
        )
