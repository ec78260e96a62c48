"""What a network is fed with: augmented pixels, or the features of a frozen backbone that are computed once.

Both kinds have the same face, so that there is one training loop: `training_batch`, `forward`, `predict`.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lesion_utils.augment import Augmenter, flip_views, resize_batch
from lesion_utils.device import Compute
from lesion_utils.files import write_atomic
from lesion_utils.models import data_config, features_of, head_of
from lesion_utils.schedule import Batch
from lesion_utils.schema import Augmentation, Network

T = TypeVar("T")
_END = object()


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

    def training_batch(self, batch: Batch, epoch: int) -> Tensor:
        """Augmented images of a batch, (N, 3, H, W) float32, normalised, on the device."""
        pixels = read_rows(self.images, batch.rows, self.compute.device)
        x = self._augmenter(pixels, torch.from_numpy(batch.keys), epoch)
        return self._config.normalise(x).contiguous(memory_format=self.compute.memory_format)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N,) float32 of what `training_batch` returned."""
        return forward_logits(self.model, x, compute=self.compute).squeeze(1)

    def predict(self, rows: np.ndarray, *, tta: str) -> np.ndarray:
        """Logits (N,) float32 of the images in `rows`."""
        return predict_logits(self.model, self.images, rows, params=self.params, compute=self.compute, tta=tta)


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
    ):
        self.model, self.images, self.params, self.compute = model, images, params, compute
        self._weights, self._folder = weights, folder
        features = self._features(rows, "none")
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
    def predict(self, rows: np.ndarray, *, tta: str) -> np.ndarray:
        """Logits (N,) float32 of the images in `rows`."""
        self.model.eval()
        if tta == "none" and all(int(row) in self._place for row in rows):
            return self.forward(self.training_batch(Batch(rows, rows), 0)).cpu().numpy()
        views = torch.from_numpy(self._features(rows, tta)).to(self.compute.device)
        return self.forward(views.flatten(0, 1)).view(views.shape[:2]).mean(1).cpu().numpy()

    def _features(self, rows: np.ndarray, tta: str) -> np.ndarray:
        return frozen_features(
            self.model,
            self.images,
            rows,
            params=self.params,
            compute=self.compute,
            tta=tta,
            weights=self._weights,
            folder=self._folder,
        )


def frozen_features(
    model: nn.Module,
    images: np.ndarray,
    rows: np.ndarray,
    *,
    params: Network,
    compute: Compute,
    tta: str,
    weights: str,
    folder: Path,
) -> np.ndarray:
    """Features of images under a pretrained, frozen network: computed once, then read from `folder`.

    Args:
        model: a pretrained network of `build_network`, placed by `compute`; its last layer plays no part.
        images: (N, S, S, 3) uint8, RGB.
        rows: (M,) which of them.
        params: `backbone`, `image_size` and `batch_size` are used.
        compute: where and how.
        tta: "none" or "flips".
        weights: SHA-256 of the pretrained weights.
        folder: of the features kept.

    Returns:
        (M, V, D) float32 for V views of each image: 1, or 8 with "flips".
    """
    key = [params.backbone, params.image_size, params.batch_size, tta, weights, compute.to_dict()]
    key = [*key, hash_array(np.ascontiguousarray(images[rows]))]
    path = folder / f"{params.backbone}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.f32"
    if not path.is_file():

        def function(x: Tensor) -> Tensor:
            return forward_features(model, x, compute=compute)

        views = run_batches(model, images, rows, function, params=params, compute=compute, tta=tta)
        write_atomic(path, views.astype("<f4").tobytes())
    views = 8 if tta == "flips" else 1
    return np.fromfile(path, "<f4").reshape(len(rows), views, -1)


def predict_logits(
    model: nn.Module, images: np.ndarray, rows: np.ndarray, *, params: Network, compute: Compute, tta: str
) -> np.ndarray:
    """Logits of images; with test-time augmentation, the mean over the eight flips and quarter turns.

    Args:
        model: a network of `build_network`, placed by `compute`.
        images: (N, S, S, 3) uint8, RGB.
        rows: (M,) which of them.
        params: `image_size` and `batch_size` are used.
        compute: where and how.
        tta: "none" or "flips".

    Returns:
        (M,) float32.
    """

    def function(x: Tensor) -> Tensor:
        return forward_logits(model, x, compute=compute)

    views = run_batches(model, images, rows, function, params=params, compute=compute, tta=tta)
    return views[:, :, 0].mean(1)


def forward_logits(model: nn.Module, x: Tensor, *, compute: Compute) -> Tensor:
    """Logits (N, 1) float32 of normalised images.

    The last layer always computes in float32: bfloat16 would leave some hundred different scores, and ties between
    images of both classes.
    """
    return head_of(model)(forward_features(model, x, compute=compute))


def forward_features(model: nn.Module, x: Tensor, *, compute: Compute) -> Tensor:
    """Features (N, D) float32 of normalised images."""
    with compute.autocast():
        return features_of(model, x).float()


@torch.no_grad()
def run_batches(
    model: nn.Module, images: np.ndarray, rows: np.ndarray, function, *, params: Network, compute: Compute, tta: str
) -> np.ndarray:
    """Apply `function` to the views of images, without augmentation or gradients: (M, V, D) float32."""
    model.eval()
    config = data_config(model)

    def prepare() -> Iterator[Tensor]:
        for start in range(0, len(rows), params.batch_size):
            pixels = read_rows(images, rows[start : start + params.batch_size], compute.device)
            x = config.normalise(resize_batch(pixels, params.image_size, interpolation=config.interpolation))
            yield x.contiguous(memory_format=compute.memory_format)

    outputs = []
    for x in prefetch(prepare()):
        views = flip_views(x) if tta == "flips" else [x]
        views = [function(view.contiguous(memory_format=compute.memory_format)) for view in views]
        outputs.append(torch.stack(views, dim=1).cpu().numpy())
    return np.concatenate(outputs)


def read_rows(images: np.ndarray, rows: np.ndarray, device: str) -> Tensor:
    """Copy rows of a memory map to the device: (N, S, S, 3) uint8."""
    return torch.from_numpy(np.asarray(images[rows])).to(device, non_blocking=True)


def hash_array(array: np.ndarray) -> str:
    """SHA-256 of an array's shape and bytes."""
    digest = hashlib.sha256(repr((array.shape, array.dtype.str)).encode())
    digest.update(memoryview(array).cast("B"))
    return digest.hexdigest()


def prefetch(items: Iterable[T], *, ahead: int = 2) -> Iterator[T]:
    """The same items, made by another thread while the caller works on earlier ones."""
    source = iter(items)
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, source, _END) for _ in range(ahead))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(pool.submit(next, source, _END))
            yield item
