"""Colour statistics of decoded images, for the exploration of the data."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lesion_utils.data.cache import WORKERS
from lesion_utils.data.images import run_parallel

COLOURS = ("red", "green", "blue")
COLUMNS = [*(f"{colour}_mean" for colour in COLOURS), *(f"{colour}_std" for colour in COLOURS), "corner_mean"]


def measure_pixels(images: np.ndarray, *, boxes: list[tuple[slice, slice]]) -> pd.DataFrame:
    """Measure the colours of each image.

    Args:
        images: (N, S, S, 3) uint8, RGB.
        boxes: for each image the rows and columns that show it, see `images.content_box`.

    Returns:
        N rows: mean and standard deviation of red, green and blue, and the mean of the four corners over all colours
        (dark where the dermatoscope's tube shows); all in grey levels, 0 to 255.
    """
    measured = run_parallel(lambda i: _measure(images[i][boxes[i]]), range(len(images)), workers=WORKERS)
    return pd.DataFrame(list(measured), columns=COLUMNS)


def _measure(picture: np.ndarray) -> list[float]:
    """The statistics of one picture (H, W, 3), from whole numbers, so that they are the same on every machine."""
    values = picture.reshape(-1, 3).astype(np.int64)
    count, total, squares = len(values), values.sum(axis=0), (values**2).sum(axis=0)
    mean = total / count
    std = np.sqrt(np.maximum(squares * count - total**2, 0)) / count
    return [*mean, *std, _corners(picture).mean()]


def _corners(picture: np.ndarray) -> np.ndarray:
    """The four corners, each a twelfth of the sides, as one array."""
    down, across = (max(1, side // 12) for side in picture.shape[:2])
    return np.stack([p[:down, :across] for p in (picture, picture[::-1], picture[:, ::-1], picture[::-1, ::-1])])
