"""From decoded pixels to what a network is given: resizing, and the views of test-time augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
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
    """Resize, antialiased: (N, S, S, 3) uint8 to (N, 3, size, size), whole numbers from 0 to 255, uint8 on CPUs.

    Every device gives the same pixels. torch resizes uint8 on CPUs alone, seven times faster than floats.
    """
    x = images.permute(0, 3, 1, 2)
    if images.shape[1] == size:
        return x
    if x.device.type != "cpu":
        return resize_by_matrix(x, size, interpolation)
    return F.interpolate(x, size=size, mode=interpolation, antialias=True, align_corners=False).clamp_(0, 255)


def resize_by_matrix(x: Tensor, size: int, interpolation: str) -> Tensor:
    """The pixels that torch's resizing of uint8 gives on CPUs, by matrix products that run on every device.

    Like Pillow, torch resizes rows, then columns, and rounds after each; its weights are multiples of 2^-bits. Here
    each is split into two whole numbers, so that all sums stay below 2^24, where float32 is exact in any order.

    Args:
        x: (N, C, S, S) uint8.
        size: side of the output, px.
        interpolation: "bilinear" or "bicubic".

    Returns:
        (N, C, size, size) float32, whole numbers from 0 to 255.
    """
    return _multiply_twice(x, *_resizing_weights(x.shape[-1], size, interpolation, x.device))


def resize_each(x: Tensor, sizes: Sequence[int], interpolation: str) -> Tensor:
    """Reduce each image of a batch to a side of its own, as `resize_by_matrix`, in one go.

    Args:
        x: (N, C, S, S) uint8.
        sizes: of the N sides, px, at most S.
        interpolation: "bilinear" or "bicubic".

    Returns:
        (N, C, S, S) float32, each image in the corner of rows and columns 0, and 0 beyond it.
    """
    known = [_resizing_weights(x.shape[-1], size, interpolation, x.device, x.shape[-1]) for size in sizes]
    weights, bits = (torch.stack(parts) for parts in zip(*known, strict=True))
    return _multiply_twice(x, weights[:, None], bits[:, None, None, None])


def _multiply_twice(x: Tensor, weights: Tensor, bits: Tensor) -> Tensor:
    y = x.float()
    for _ in range(2):  # along the last dimension; the second time, along what was the rows
        coarse, fine = (y @ weights).int().chunk(2, dim=-1)
        y = ((coarse * 256 + fine + (1 << (bits - 1))) >> bits).clamp_(0, 255).float().transpose(2, 3)
    return y


@cache
def _resizing_weights(
    side: int, size: int, interpolation: str, device: torch.device, padded: int = 0
) -> tuple[Tensor, Tensor]:
    """The weights of torch's antialiased resizing of uint8, times 2^bits, and bits, a whole number.

    They are (side, 2 size) float32 whole numbers: first those of 256ths, then the rests. Each part is followed by
    zeros up to `padded` columns. As in ATen's `_compute_index_ranges_int16_weights` (UpSampleKernel.cpp), which follows
    Pillow's Resample.c.
    """
    support, kernel = (2.0, _cubic) if interpolation == "bicubic" else (1.0, _triangle)
    scale = side / size
    stretch = max(scale, 1.0)  # antialiasing: the kernel covers all pixels that fall on one
    centres = scale * (np.arange(size) + 0.5)
    first = np.maximum((centres - support * stretch + 0.5).astype(int), 0)
    last = np.minimum((centres + support * stretch + 0.5).astype(int), side)
    pixels = np.arange(side)
    weights = kernel((pixels - centres[:, None] + 0.5) * (1 / stretch))
    weights *= (pixels >= first[:, None]) & (pixels < last[:, None])
    weights *= 1 / weights.cumsum(axis=1)[:, -1:]  # in ATen's order: the last digit decides about halves
    bits = next(bits for bits in range(23) if bits == 22 or int(0.5 + weights.max() * 2 ** (bits + 1)) >= 2**15)
    whole = np.trunc(weights * 2**bits + np.copysign(0.5, weights))
    beyond = np.zeros((max(0, padded - size), side))
    split = np.concatenate([part for half in np.divmod(whole, 256) for part in (half, beyond)])
    return torch.as_tensor(split.T, dtype=torch.float32, device=device), torch.tensor(bits, device=device)


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


def _cubic(x: np.ndarray, a: float = -0.5) -> np.ndarray:
    """The cubic convolution kernel (Keys 1981)."""
    x = np.abs(x)
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))
