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
from lesion_utils.models.inference import copy_to
from lesion_utils.models.preprocess import resize_each, resize_pixels

#: Every operation, under its key in augmentation.yaml, and how its strength is written.
OPERATIONS = {
    "rotation": "{:+.0f}°",
    "horizontal_flip": "{:.0f}",
    "vertical_flip": "{:.0f}",
    "scale": "×{:.2f}",
    "translation": "{:+.0%}",
    "shear": "{:+.0f}°",
    "brightness": "×{:.2f}",
    "contrast": "×{:.2f}",
    "saturation": "×{:.2f}",
    "hue": "{:+.3f} turns",
}

#: Operations whose strength is a factor, 1 for no change; the others' is an amount, 0 for none.
FACTORS = ("scale", "brightness", "contrast", "saturation")

COLOURS = ("brightness", "contrast", "saturation", "hue")

#: RGB to luma and the two chroma axes of NTSC (FCC 47 CFR 73.682): hue is an angle and saturation a length there.
RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
YIQ_TO_RGB = np.linalg.inv(RGB_TO_YIQ)

# Keeps these numbers apart from other streams with the same seed (initialisation, order of samples, mixup).
_STREAM = 0x617567

Draws = dict[str, np.ndarray]

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

    Like an evaluation view, each image is first reduced, antialiased, to the side at which its magnification shows
    every pixel; the one resampling starts from there.

    Args:
        images: (N, S, S, 3) uint8, RGB.
        draws: as `draw_changes` returns them.
        image_size: side of the output, px.
        params: its `fill` is used.
        interpolation: "bilinear" or "bicubic".

    Returns:
        (N, 3, image_size, image_size) float32 in [0, 1].
    """
    matrices = compose_geometry(draws)
    flips_only = np.array_equal(np.abs(matrices), np.broadcast_to(np.eye(2, 3), matrices.shape))
    recolours = any((draws[name] != (name in FACTORS)).any() for name in COLOURS)
    sides = np.array([min(images.shape[1], round(image_size * scale)) for scale in draws["scale"]])
    changes = [matrices, sides]
    if recolours:
        changes += [*compose_colour(draws), np.tile(RGB_TO_YIQ[0], (len(matrices), 1))]
    on_device, spans, *colours = _copy_together(changes, device=images.device.type)
    if flips_only:  # pixels change places and are not interpolated at all
        x = _flip(resize_pixels(images, image_size, interpolation), on_device)
    else:
        grid = _sampling_grid(on_device, image_size)
        if images.device.type == "cpu" or interpolation != "bilinear":
            x = _warp_each(images, sides, grid, fill=params.fill, interpolation=interpolation)
        else:
            x = _warp_together(images, sides, spans, grid, fill=params.fill)
    x = x.float().div_(255)
    return _recolour(x, *colours) if recolours else x.clamp_(0, 1)


def draw_changes(params: Augmentation, indices: np.ndarray, *, seed: int, epoch: int) -> Draws:
    """Draw every operation's strength for every sample.

    The numbers of sample i are row i of one counter-based stream, keyed by seed and epoch (Philox4x64, Salmon et al.
    2011).

    Args:
        params: the ranges.
        indices: (N,) int >= 0.
        seed: seed of the run, below 2**32.
        epoch: >= 0.

    Returns:
        For each operation (N,) float64 (translation: (N, 2)): degrees, magnification, shares of the side, factors,
        turns of the colour circle; flips are 0 or 1.
    """
    stream = np.random.Generator(np.random.Philox(key=np.array([(_STREAM << 32) + seed, epoch], dtype=np.uint64)))
    u = stream.random((int(indices.max()) + 1, len(OPERATIONS) + 1))[indices]
    draws = {}
    for column, name in enumerate(OPERATIONS):
        low, high = operation_range(params, name)
        if name.endswith("_flip"):
            draws[name] = (u[:, column] < getattr(params, name)).astype(float)
        elif name == "scale":
            draws[name] = low * (high / low) ** u[:, column]  # halving is as likely as doubling
        else:
            draws[name] = low + (high - low) * u[:, column]
    low, high = operation_range(params, "translation")
    draws["translation"] = np.stack([draws["translation"], low + (high - low) * u[:, -1]], axis=1)
    return draws


def operation_range(params: Augmentation, name: str) -> tuple[float, float]:
    """Smallest and largest strength of an operation, in the units of `draw_changes`."""
    value = getattr(params, name)
    if name == "scale":
        return value[0], value[1]
    if name.endswith("_flip"):
        return 0, float(value > 0)
    return (1 - value, 1 + value) if name in FACTORS else (-value, value)


def compose_geometry(draws: Draws) -> np.ndarray:
    """The map from output to input, flips first, then shear, scale, rotation and translation.

    Coordinates run from -1 to 1 across the image, x to the right, y down. Positive rotation is counter-clockwise,
    positive shear leans the image to the right, positive translation is to the right and down.

    Returns:
        (N, 2, 3) float64.
    """
    angle, shear = np.deg2rad(draws["rotation"]), np.tan(np.deg2rad(draws["shear"]))
    cos, sin, one, zero = np.cos(angle), np.sin(angle), np.ones_like(angle), np.zeros_like(angle)
    rotate = np.array([[cos, sin], [-sin, cos]])
    lean = np.array([[one, -shear], [zero, one]])
    flip = np.array([[1 - 2 * draws["horizontal_flip"], zero], [zero, 1 - 2 * draws["vertical_flip"]]])
    forward = np.einsum("ijn,jkn,kln->nil", rotate, lean, flip) * draws["scale"][:, None, None]
    inverse = np.linalg.inv(forward)
    shift = -inverse @ (2 * draws["translation"])[:, :, None]
    return np.concatenate([inverse, shift], axis=2)


def compose_colour(draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """The colour step: `matrix @ rgb + share * mean_luma`.

    Brightness multiplies, contrast blends with the image's mean luma, saturation stretches the chroma plane of YIQ and
    hue turns it; luma is left alone by the last two.

    Returns:
        matrix: (N, 3, 3) float64.
        share: (N,) float64, the weight of the image's mean luma.
    """
    turn, saturation = 2 * np.pi * draws["hue"], draws["saturation"]
    chroma = np.zeros((len(turn), 3, 3))
    chroma[:, 0, 0] = 1
    chroma[:, 1, 1] = chroma[:, 2, 2] = saturation * np.cos(turn)
    chroma[:, 2, 1] = saturation * np.sin(turn)
    chroma[:, 1, 2] = -chroma[:, 2, 1]
    matrix = (draws["brightness"] * draws["contrast"])[:, None, None] * (YIQ_TO_RGB @ chroma @ RGB_TO_YIQ)
    return matrix, draws["brightness"] * (1 - draws["contrast"])


def _copy_together(arrays: list[np.ndarray], *, device: str) -> list[Tensor]:
    """Arrays (N, ...) as float32 on the device, in one copy: on a GPU each copy costs more than its few numbers."""
    count, sizes = len(arrays[0]), [array[0].size for array in arrays]
    packed = np.concatenate([array.reshape(count, -1) for array in arrays], axis=1)
    parts = copy_to(device, torch.from_numpy(packed).float()).split(sizes, dim=1)
    return [part.reshape(array.shape) for part, array in zip(parts, arrays, strict=True)]


def _flip(x: Tensor, matrices: Tensor) -> Tensor:
    """Mirror the images whose matrix does: -1 instead of 1 on its diagonal, for the x axis and the y axis."""
    for axis, dim in ((0, 3), (1, 2)):
        chosen = matrices[:, axis, axis] < 0
        x = torch.where(chosen[:, None, None, None], x.flip(dim), x)
    return x


def _sampling_grid(matrices: Tensor, size: int) -> Tensor:
    """(N, 2, 3) to (N, size, size, 2): like `F.affine_grid`, five times faster and blind to the batch's size."""
    centres = (torch.arange(size, device=matrices.device, dtype=torch.float32) * 2 + 1) / size - 1
    along_x = matrices[:, None, :, 0] * centres[:, None]
    along_y = matrices[:, None, :, 1] * centres[:, None] + matrices[:, None, :, 2]
    return along_x[:, None] + along_y[:, :, None]


def _warp_each(images: Tensor, sides: np.ndarray, grid: Tensor, *, fill: str, interpolation: str) -> Tensor:
    """Reduce each image to its side and resample it, one by one: on a CPU faster than together.

    Args:
        images: (N, S, S, 3) uint8.
        sides: (N,) whole numbers, at most S.
        grid: (N, H, W, 2), -1 to 1 across the image.
        fill: what lies beyond the image, as `Augmentation.fill`.
        interpolation: "bilinear" or "bicubic".

    Returns:
        (N, 3, H, W) float32, 0 to 255.
    """
    parts = []
    for image, side, places in zip(images.split(1), sides.tolist(), grid.split(1), strict=True):
        reduced = resize_pixels(image, side, interpolation).float()
        padding = _PADDING[fill]
        parts.append(F.grid_sample(reduced, places, mode=interpolation, padding_mode=padding, align_corners=False))
    return torch.cat(parts)


def _warp_together(images: Tensor, sides: np.ndarray, spans: Tensor, grid: Tensor, *, fill: str) -> Tensor:
    """As `_warp_each`, bilinear, by few kernels for the batch: a GPU takes longer to start one than for an image.

    Args:
        spans: (N,) float32, the sides on the images' device.
    """
    spans = spans[:, None, None, None]
    place = (grid + 1) * spans / 2 - 0.5  # px from the centre of the first pixel
    if fill == "reflect":
        turn = (place + 0.5).abs() % (2 * spans)
        place = turn.minimum(2 * spans - turn) - 0.5
    low, high = (-1, spans) if fill == "zeros" else (0, spans - 1)
    # Zeros lie around each image, and an image smaller than the others has them to its right and below.
    framed = F.pad(resize_each(images.permute(0, 3, 1, 2), sides.tolist(), "bilinear"), (1, 1, 1, 1))
    grid = (2 * place.clamp_min(low).minimum(high) + 3) / framed.shape[-1] - 1
    return F.grid_sample(framed, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _recolour(x: Tensor, matrices: Tensor, shares: Tensor, luma: Tensor) -> Tensor:
    """Apply the colour step of `compose_colour` to (N, 3, H, W) float32 in [0, 1], and clamp."""
    matrix = matrices[..., None, None]
    offset = shares * (x.mean(dim=(2, 3)) * luma).sum(1)
    y = matrix[:, :, 0] * x[:, 0:1]
    y.addcmul_(matrix[:, :, 1], x[:, 1:2]).addcmul_(matrix[:, :, 2], x[:, 2:3])
    return y.add_(offset[:, None, None, None]).clamp_(0, 1)
