"""What 02_augmentation_preview shows: each change alone, all together, and what they do to the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from lesion_utils.config.schema import Augmentation
from lesion_utils.data.prepared import PreparedData
from lesion_utils.models.preprocess import resize_batch
from lesion_utils.training.augment import OPERATIONS, Augmenter, describe, preview


class Shown(NamedTuple):
    """Images before and after augmentation."""

    originals: np.ndarray  # (N, S, S, 3) uint8
    augmented: np.ndarray  # (N, epochs, S, S, 3) float32 in [0, 1]


def describe_changes(params: Augmentation) -> pd.DataFrame:
    """One row per change with its range in words."""
    pairs = (line.split(": ", 1) for line in describe(params))
    return pd.DataFrame(pairs, columns=["change", "range"])


def draw_strips(image: np.ndarray, params: Augmentation, *, steps: int = 7) -> dict[str, tuple[list[str], np.ndarray]]:
    """One image under each change that is switched on, over its range.

    Args:
        image: (S, S, 3) uint8.
        params: the ranges.
        steps: tiles from one end of a range to the other.

    Returns:
        name of the change -> (labels, (K, S, S, 3) uint8 tiles), as `plots.plot_augmentation_strips` takes it.
    """
    strips = {name.replace("_", " "): preview(image, params, name=name, steps=steps) for name in OPERATIONS}
    return {name: strip for name, strip in strips.items() if len(strip[0]) > 1}


def draw_epochs(data: PreparedData, image_ids: Sequence[str], params: Augmentation, *, seed: int, epochs: int) -> Shown:
    """Images as they are, and as the first epochs of a run with this seed show them.

    Args:
        data: the prepared images.
        image_ids: N of them.
        params: the ranges.
        seed: seed of the run.
        epochs: how many.
    """
    rows = data.rows_of(image_ids)
    images = torch.from_numpy(np.array(data.cache.images[rows]))
    augmenter = Augmenter(params, image_size=images.shape[1], seed=seed)
    views = [augmenter(images, torch.as_tensor(rows), epoch) for epoch in range(epochs)]
    return Shown(images.numpy(), torch.stack(views, 1).permute(0, 1, 3, 4, 2).numpy())


def measure_changes(data: PreparedData, params: Augmentation, *, seed: int) -> dict:
    """How far one epoch of augmentation moves the training images, in grey levels (0 to 255).

    Returns:
        `images`; `brightness_before` and `brightness_after`, the means over images of their mean grey level;
        `spread_before` and `spread_after`, the standard deviations of the same between images; `pixel_change`, the mean
        absolute difference of a pixel; and `text`.
    """
    rows = np.flatnonzero(data.table["subset"] == "train")
    size = data.cache.images.shape[1]
    augmenter = Augmenter(params, image_size=size, seed=seed)
    before, after, moved = [], [], []
    for start in range(0, len(rows), 64):
        part = rows[start : start + 64]
        images = torch.from_numpy(np.array(data.cache.images[part]))
        plain, changed = resize_batch(images, size), augmenter(images, torch.as_tensor(part), 0)
        before.append(255 * plain.mean(dim=(1, 2, 3)))
        after.append(255 * changed.mean(dim=(1, 2, 3)))
        moved.append(255 * (changed - plain).abs().mean(dim=(1, 2, 3)))
    old, new, change = (torch.cat(parts).double() for parts in (before, after, moved))
    numbers = {
        "images": len(rows),
        "brightness_before": old.mean().item(),
        "brightness_after": new.mean().item(),
        "spread_before": old.std().item(),
        "spread_after": new.std().item(),
        "pixel_change": change.mean().item(),
    }
    return {**numbers, "text": _TEXT.format(**numbers)}


_TEXT = (
    "Over one epoch of the {images} training images, the average pixel moves by {pixel_change:.1f} of 255 grey levels, "
    "almost all of it because lesions turn and shift. The images' mean brightness goes from {brightness_before:.1f} to "
    "{brightness_after:.1f}, and its spread between images from {spread_before:.1f} to {spread_after:.1f} grey levels: "
    "augmentation should widen the spread a little, and leave the mean where the cameras put it."
)
