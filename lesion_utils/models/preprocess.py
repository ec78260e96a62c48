"""From decoded pixels to what a network is given: resizing, and the views of test-time augmentation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_batch(images: Tensor, image_size: int, *, interpolation: str = "bilinear") -> Tensor:
    """Resize for evaluation, antialiased; an image of the right size passes through.

    Args:
        images: (N, S, S, 3) uint8, RGB.
        image_size: side of the output, px.
        interpolation: "bilinear" or "bicubic".

    Returns:
        (N, 3, image_size, image_size) float32 in [0, 1].
    """
    return resize_pixels(images, image_size, interpolation).float().div_(255)


def flip_views(x: Tensor) -> list[Tensor]:
    """The eight flips and quarter turns of square images; the first is the image itself.

    Args:
        x: (N, C, S, S).

    Returns:
        Eight (N, C, S, S) tensors.
    """
    return [torch.rot90(side, turns, dims=(2, 3)) for side in (x, x.flip(3)) for turns in range(4)]


def cut_middle(images: Tensor) -> Tensor:
    """The middle of square images, four fifths of the side: a lesion as if it had been photographed closer.

    Args:
        images: (N, S, S, 3).

    Returns:
        (N, T, T, 3) for T = 4 S / 5, rounded down.
    """
    side = images.shape[1]
    kept = side * 4 // 5
    start = (side - kept) // 2
    return images[:, start : start + kept, start : start + kept].contiguous()


def resize_pixels(images: Tensor, size: int, interpolation: str) -> Tensor:
    """(N, S, S, 3) uint8 to (N, 3, size, size) in [0, 255]; uint8 where torch can resize it (7 times faster)."""
    x = images.permute(0, 3, 1, 2)
    if images.shape[1] == size:
        return x
    if x.device.type != "cpu":
        x = x.float()
    return F.interpolate(x, size=size, mode=interpolation, antialias=True, align_corners=False).clamp_(0, 255)
