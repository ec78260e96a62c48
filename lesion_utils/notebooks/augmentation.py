"""What 02_augmentation_preview shows: each change alone, all together, and what they do to the pixels.

Everything is drawn by training's own `Augmenter`, at the size and with the interpolation that a network is fed with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from lesion_utils.config.schema import Augmentation, Regime, StudyParams
from lesion_utils.core.names import REGIME_NAMES, name_model
from lesion_utils.data.prepared import PreparedData
from lesion_utils.models.networks import data_config, make_architecture
from lesion_utils.models.preprocess import resize_batch
from lesion_utils.training.augment import FACTORS, OPERATIONS, Augmenter, apply_changes, operation_range


class Shown(NamedTuple):
    """Images before and after augmentation."""

    originals: np.ndarray  # (N, S, S, 3) float32 in [0, 1]
    augmented: np.ndarray  # (N, epochs, S, S, 3) float32 in [0, 1]


def list_inputs(params: StudyParams) -> pd.DataFrame:
    """What each network is fed with in each regime: `network`, `regime`, `side` (px), `interpolation`, `augmented`.

    Frozen features are computed once, of images that nothing has changed.
    """
    rows = [
        (name_model(params.models[network]), REGIME_NAMES[regime], made.image_size, made.interpolation)
        for network, regime, made in _list_augmenters(params)
    ]
    table = pd.DataFrame(rows, columns=["network", "regime", "side", "interpolation"])
    return table.assign(augmented=np.where(table["regime"] == REGIME_NAMES["features"], "no", "yes"))


def choose_augmenter(params: StudyParams) -> Augmenter:
    """The augmenter whose views show most: of the largest input whose images are changed, the first."""
    made = _list_augmenters(params)
    changed = [augmenter for _, regime, augmenter in made if regime != "features"]
    return max(changed or [augmenter for *_, augmenter in made], key=lambda augmenter: augmenter.image_size)


def _list_augmenters(params: StudyParams) -> list[tuple[str, Regime, Augmenter]]:
    """(network, regime, augmenter of its first run there) for each regime of each network."""
    made = []
    for network, own in params.networks.items():
        for regime in [regime for regime in REGIME_NAMES if regime in own.regimes]:
            settings = own.in_regime(regime)
            with torch.device("meta"):  # the input's description is wanted, and no weights
                interpolation = data_config(make_architecture(settings, device="meta")).interpolation
            seen: dict[str, Any] = {"image_size": settings.image_size, "interpolation": interpolation}
            made.append((network, regime, Augmenter(params.augmentation, seed=settings.seeds[0], **seen)))
    return made


def describe_changes(params: Augmentation) -> pd.DataFrame:
    """One row per change with its range in words."""
    rows = []
    for name, label in OPERATIONS.items():
        low, high = operation_range(params, name)
        if low == high:
            told = "off" if name != "scale" or low == 1 else label.format(low)
        elif name.endswith("_flip"):
            told = f"with probability {getattr(params, name):g}"
        else:
            told = f"{label.format(low)} to {label.format(high)}".replace("-", "−")
        rows.append((name.replace("_", " "), told))
    return pd.DataFrame(rows, columns=["change", "range"])


def draw_strips(image: np.ndarray, augmenter: Augmenter, *, steps: int = 7) -> dict[str, tuple[list[str], np.ndarray]]:
    """One image under each change that is switched on, from one end of its range to the other.

    Args:
        image: (H, H, 3) uint8.
        augmenter: of a network; its views have side S.
        steps: tiles of a range; a flip has two.

    Returns:
        name of the change -> (labels, (K, S, S, 3) float32 tiles in [0, 1]), as `plot_augmentation_strips` takes it.
        Translation is shown to the sides.
    """
    strips = {}
    for name in OPERATIONS:
        low, high = operation_range(augmenter.params, name)
        if low < high:
            flip = name.endswith("_flip")
            values = (np.geomspace if name == "scale" else np.linspace)(low, high, 2 if flip else steps)
            labels = [OPERATIONS[name].format(value).replace("-", "−") for value in values]
            labels = ["unchanged", "flipped"] if flip else labels
            strips[name.replace("_", " ")] = labels, _change(image, augmenter, name, values)
    return strips


def _change(image: np.ndarray, augmenter: Augmenter, name: str, values: np.ndarray) -> np.ndarray:
    """The image under given strengths of one change, (K, S, S, 3) float32 in [0, 1]."""
    draws = {other: np.full(len(values), float(other in FACTORS)) for other in OPERATIONS} | {name: values}
    draws["translation"] = np.stack([draws["translation"], np.zeros(len(values))], axis=1)
    batch = torch.from_numpy(np.array(image))[None].expand(len(values), -1, -1, -1)
    settings: dict[str, Any] = {"image_size": augmenter.image_size, "interpolation": augmenter.interpolation}
    return _as_shown(apply_changes(batch, draws, params=augmenter.params, **settings))


def draw_epochs(data: PreparedData, image_ids: Sequence[str], augmenter: Augmenter, *, epochs: int) -> Shown:
    """Images as the network is shown them in validation, and in its first epochs of training."""
    rows = data.rows_of(image_ids)
    images = torch.from_numpy(data.images[rows])
    plain = resize_batch(images, augmenter.image_size, interpolation=augmenter.interpolation)
    views = [augmenter(images, torch.from_numpy(rows), epoch) for epoch in range(epochs)]
    return Shown(_as_shown(plain), np.stack([_as_shown(view) for view in views], axis=1))


def _as_shown(x: torch.Tensor) -> np.ndarray:
    return x.permute(0, 2, 3, 1).numpy()


def describe_views(data: PreparedData, params: StudyParams, augmenter: Augmenter) -> str:
    """What the tiles show that is true of these settings and images alone, in sentences."""
    said = [
        f"Each image has the size ({augmenter.image_size} px) and the interpolation ({augmenter.interpolation}) of the "
        "network's input.",
        f"Areas outside the photograph are filled with {_FILLS[params.augmentation.fill]}; see the corners of rotated "
        "images.",
    ]
    sides = data.table[["native_width", "native_height"]]
    longer = (sides.max(axis=1) / sides.min(axis=1)).median()
    if params.data.aspect == "squash" and params.augmentation.rotation and longer > 1:
        said.append(
            f"Half of the photographs have an aspect ratio of {longer:.2f} or more. They are squashed to squares "
            "before they are rotated, so that a round lesion becomes oval in a direction that rotates with the image. "
            "`aspect: crop` in data.yaml keeps the shape and cuts off the margins."
        )
    return " ".join(said)


_FILLS = {"reflect": "the mirror image", "border": "the outermost pixels", "zeros": "black"}


def measure_changes(data: PreparedData, augmenter: Augmenter) -> dict[str, Any]:
    """How far one epoch of augmentation moves the training images, in grey levels (0 to 255).

    Returns:
        `images`; `brightness_before` and `brightness_after`, the means over images of their mean grey level;
        `spread_before` and `spread_after`, the standard deviations of the same between images; `pixel_change`, the mean
        absolute difference of a pixel; and `text`.
    """
    rows = np.flatnonzero(data.table["subset"] == "train")
    before, after, moved = [], [], []
    for start in range(0, len(rows), 64):
        part = rows[start : start + 64]
        images = torch.from_numpy(data.images[part])
        plain = resize_batch(images, augmenter.image_size, interpolation=augmenter.interpolation)
        changed = augmenter(images, torch.from_numpy(part), 0)
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
    "In one epoch of {images:,} training images, augmentation changes a pixel by {pixel_change:.1f} of 255 grey levels "
    "on average. The mean brightness of the images is {brightness_before:.1f} before and {brightness_after:.1f} after "
    "augmentation. The standard deviation of the brightness between images is {spread_before:.1f} before and "
    "{spread_after:.1f} after. Augmentation should increase the standard deviation slightly and leave the mean "
    "unchanged."
)
