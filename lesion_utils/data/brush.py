"""Exact brushes: noise, ramps, meshes and mixing of colours that give the same bytes on every machine.

Only operations that IEEE 754 rounds correctly are used (+ - * / sqrt), with comparisons and integers: sin, exp, matrix
products and sums of floats differ in their last bit from processor to processor.

Fields are (height, width) float32 and an image in the making is three of them. Positions are in units of half the
image's height, x to the right, y downwards, the origin in the middle. Colours are (red, green, blue) in [0, 255].
"""

from __future__ import annotations

import numpy as np


def draw_normal(rng):
    """A number of mean 0 and variance 1, nearly normal: twelve uniforms summed (as integers, so exactly)."""
    return int(rng.integers(0, 2**32, 12).sum()) / 2**32 - 6.0


def draw_between(rng, low, high):
    """A number drawn uniformly from [low, high)."""
    return low + (high - low) * rng.random()


def draw_direction(rng):
    """A unit vector (cosine, sine) of uniform direction, without either function: a point of the disc, normalised."""
    while True:
        x, y = 2 * rng.random() - 1, 2 * rng.random() - 1
        square = x * x + y * y
        if 0.01 < square <= 1:
            length = float(np.sqrt(square))
            return x / length, y / length


def ramp(values, low, high):
    """Rise smoothly from 0 where `values` is at most `low` to 1 where it is at least `high` (cubic, [0, 1])."""
    t = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)
    return t * t * (3 - 2 * t)


def draw_noise(rng, shape, cells):
    """Smooth noise in [-1, 1]: random values on a lattice, `cells` to the image's height, joined by cubics."""
    height, width = shape
    step = np.float32(cells) / np.float32(height)
    y, x = (np.arange(n, dtype=np.float32) * step for n in (height, width))
    rows, columns = y.astype(np.int64), x.astype(np.int64)
    lattice = rng.random((int(rows[-1]) + 2, int(columns[-1]) + 2), dtype=np.float32) * 2 - 1
    ty, tx = ramp(y - rows.astype(np.float32), 0, 1)[:, None], ramp(x - columns.astype(np.float32), 0, 1)
    across = lattice[:, columns] + tx * (lattice[:, columns + 1] - lattice[:, columns])
    return across[rows] + ty * (across[rows + 1] - across[rows])


def draw_clouds(rng, shape, cells):
    """Noise of three scales, about [-1, 1]: `cells`, twice and four times as many to the image's height."""
    coarse, middle, fine = (draw_noise(rng, shape, cells * k) for k in (1, 2, 4))
    return (coarse * 4 + middle * 2 + fine) / np.float32(5)


def mix(image, colour, weight):
    """Lay a colour over the image, in place; weight is a field or a number in [0, 1]."""
    weight = np.asarray(weight, dtype=np.float32)
    for plane, value in zip(image, colour, strict=True):
        plane += weight * (np.float32(value) - plane)


def make_grid(shape):
    """The fields x and y."""
    height, width = shape
    y, x = ((np.arange(n, dtype=np.float32) * 2 - (n - 1)) / np.float32(height) for n in (height, width))
    return np.broadcast_to(x, shape), np.broadcast_to(y[:, None], shape)


def turn(x, y, direction):
    """Coordinates along and across a direction."""
    cosine, sine = (np.float32(part) for part in direction)
    return x * cosine + y * sine, y * cosine - x * sine


def make_mesh(x, y, period):
    """Distance to the walls of a hexagonal net, 0 on a wall to 1 in the middle of a mesh."""
    walls = np.ones_like(x)
    for cosine, sine in ((1.0, 0.0), (0.5, 0.8660254), (-0.5, 0.8660254)):
        phase = (x * np.float32(cosine) + y * np.float32(sine)) / np.float32(period)
        phase = phase - np.floor(phase)
        walls = np.minimum(walls, np.abs(2 * phase - 1))
    return walls
