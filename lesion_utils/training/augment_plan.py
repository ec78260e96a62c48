"""What is done to which sample: the random strengths of every operation, and the matrices that they make.

Only numbers for a batch's samples are made here, in float64; `augment` applies them to pixels.
"""

from __future__ import annotations

import numpy as np

from lesion_utils.config.schema import Augmentation

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

#: RGB to luma and the two chroma axes of NTSC (FCC 47 CFR 73.682): hue is an angle and saturation a length there.
RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
YIQ_TO_RGB = np.linalg.inv(RGB_TO_YIQ)

# Keeps these numbers apart from other streams with the same seed (initialisation, order of samples, mixup).
_STREAM = 0x617567

Draws = dict[str, np.ndarray]


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
