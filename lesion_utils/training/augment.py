"""Random changes of training images: one affine resampling and one colour step per batch.

Rotation, flips, scale, translation (which crops) and shear are composed into one matrix per sample, so that pixels
are interpolated once. Brightness, contrast, saturation and hue are composed into one colour matrix per sample. The
random numbers belong to (seed, epoch, sample): neither the order nor the company of a sample in a batch changes what
happens to it.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lesion_utils.config.schema import Augmentation
from lesion_utils.models.preprocess import resize_pixels
from lesion_utils.training.augment_plan import (
    FACTORS,
    OPERATIONS,
    RGB_TO_YIQ,
    Draws,
    compose_colour,
    compose_geometry,
    draw_changes,
    operation_range,
)

_PADDING = {"reflect": "reflection", "border": "border", "zeros": "zeros"}


class Augmenter:
    """Augments batches on the device they lie on.

    Args:
        params: the largest change that each operation makes.
        image_size: side of the output, px.
        seed: seed of the run.
        interpolation: "bilinear" or "bicubic", as the network's pretraining had it.
    """

    def __init__(self, params: Augmentation, *, image_size: int, seed: int, interpolation: str = "bilinear"):
        self.params, self.image_size, self.seed, self.interpolation = params, image_size, seed, interpolation

    def __call__(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        """Change every image in its own way.

        Args:
            images: (N, S, S, 3) uint8, RGB.
            indices: (N,) int64 >= 0, the sample's number in the data set. A sample that comes twice in an epoch and
                shall look different gets two numbers.
            epoch: >= 0.

        Returns:
            (N, 3, image_size, image_size) float32 in [0, 1].
        """
        draws = draw_changes(self.params, indices.cpu().numpy(), seed=self.seed, epoch=epoch)
        return apply_changes(
            images, draws, image_size=self.image_size, params=self.params, interpolation=self.interpolation
        )


def apply_changes(
    images: Tensor, draws: Draws, *, image_size: int, params: Augmentation, interpolation: str = "bilinear"
) -> Tensor:
    """Apply drawn changes to a batch.

    An image much larger than needed is first reduced, antialiased, to the side at which the largest magnification of
    `params.scale` just shows every pixel; the one resampling starts from there.

    Args:
        images: (N, S, S, 3) uint8, RGB.
        draws: as `draw_changes` returns them.
        image_size: side of the output, px.
        params: its `scale` and `fill` are used.
        interpolation: "bilinear" or "bicubic".

    Returns:
        (N, 3, image_size, image_size) float32 in [0, 1].
    """
    working = max(image_size, round(image_size * params.scale[1]))
    matrices = compose_geometry(draws)
    flips_only = np.array_equal(np.abs(matrices), np.broadcast_to(np.eye(2, 3), matrices.shape))
    if flips_only:  # pixels change places and are not interpolated at all
        x = _flip(resize_pixels(images, image_size, interpolation), draws)
    else:
        x = resize_pixels(images, working, interpolation) if images.shape[1] > working else images.permute(0, 3, 1, 2)
        grid = _sampling_grid(torch.as_tensor(matrices, dtype=torch.float32, device=x.device), image_size)
        x = F.grid_sample(x.float(), grid, mode=interpolation, padding_mode=_PADDING[params.fill], align_corners=False)
    return _recolour(x.float().div_(255), draws)


def describe(params: Augmentation) -> list[str]:
    """One line per operation, with its range; operations that are off say so."""
    lines = []
    for name, label in OPERATIONS.items():
        low, high = operation_range(params, name)
        if low == high:
            strength = "off" if name != "scale" or low == 1 else label.format(low)
        elif name.endswith("_flip"):
            strength = f"with probability {getattr(params, name):g}"
        else:
            strength = f"{label.format(low)} to {label.format(high)}".replace("-", "−")
        lines.append(f"{name.replace('_', ' ')}: {strength}")
    return lines


def preview(image: np.ndarray, params: Augmentation, *, name: str, steps: int = 7) -> tuple[list[str], np.ndarray]:
    """One image under one operation alone, over the range that it is drawn from.

    Args:
        image: (S, S, 3) uint8, RGB.
        params: the ranges.
        name: one of `OPERATIONS`; translation is shown to the sides.
        steps: values, from the smallest to the largest; a flip has two, an operation that is off has one.

    Returns:
        labels: K values as text.
        tiles: (K, S, S, 3) uint8.
    """
    low, high = operation_range(params, name)
    steps = 1 if low == high else 2 if name.endswith("_flip") else steps
    values = np.geomspace(low, high, steps) if name == "scale" else np.linspace(low, high, steps)
    draws = {other: np.full(steps, float(other in FACTORS)) for other in OPERATIONS}
    draws[name] = values
    draws["translation"] = np.stack([draws["translation"], np.zeros(steps)], axis=1)
    batch = torch.as_tensor(np.array(image))[None].expand(steps, -1, -1, -1)
    tiles = apply_changes(batch, draws, image_size=len(image), params=params).mul(255).round().byte()
    labels = [OPERATIONS[name].format(value).replace("-", "−") for value in values]
    if name.endswith("_flip"):
        labels = ["as it is", "flipped"][:steps]
    return labels, tiles.permute(0, 2, 3, 1).numpy()


def _flip(x: Tensor, draws: Draws) -> Tensor:
    for name, dim in (("horizontal_flip", 3), ("vertical_flip", 2)):
        chosen = torch.as_tensor(draws[name] > 0, device=x.device)
        x = torch.where(chosen[:, None, None, None], x.flip(dim), x)
    return x


def _sampling_grid(matrices: Tensor, size: int) -> Tensor:
    """(N, 2, 3) to (N, size, size, 2): like `F.affine_grid`, five times faster and blind to the batch's size."""
    centres = (torch.arange(size, device=matrices.device, dtype=torch.float32) * 2 + 1) / size - 1
    along_x = matrices[:, None, :, 0] * centres[:, None]
    along_y = matrices[:, None, :, 1] * centres[:, None] + matrices[:, None, :, 2]
    return along_x[:, None] + along_y[:, :, None]


def _recolour(x: Tensor, draws: Draws) -> Tensor:
    """Apply the colour step to (N, 3, H, W) float32 in [0, 1] and clamp."""
    matrix, share = compose_colour(draws)
    if np.array_equal(draws["hue"], 0 * share) and (matrix == np.eye(3)).all():
        return x.clamp_(0, 1)
    luma = torch.as_tensor(RGB_TO_YIQ[0], dtype=x.dtype, device=x.device)
    matrix = torch.as_tensor(matrix, dtype=x.dtype, device=x.device)[..., None, None]
    share = torch.as_tensor(share, dtype=x.dtype, device=x.device)
    offset = share * (x.mean(dim=(2, 3)) * luma).sum(1)
    y = matrix[:, :, 0] * x[:, 0:1]
    y.addcmul_(matrix[:, :, 1], x[:, 1:2]).addcmul_(matrix[:, :, 2], x[:, 2:3])
    return y.add_(offset[:, None, None, None]).clamp_(0, 1)
