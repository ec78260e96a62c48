"""The order of the samples and the steps of an epoch.

Nothing here has a state: every random number is a function of (seed, epoch, sample). That is why a run can go on from
any epoch with no random state to store.
"""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

import numpy as np


class Batch(NamedTuple):
    """Samples that pass through the network together.

    Attributes:
        rows: (N,) int64, rows of the images' table.
        keys: (N,) int64, numbers of the samples for their random changes. They are the rows, except that balanced
            sampling takes some images several times in an epoch, and then each time has a number of its own.
    """

    rows: np.ndarray
    keys: np.ndarray


def derive_seed(*parts: object) -> int:
    """A seed below 2**63 for the stream of random numbers that `parts` name, such as ("order", seed, epoch)."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def draw_order(rows: np.ndarray, targets: np.ndarray, *, balanced: bool, seed: int, epoch: int, total: int) -> Batch:
    """The samples of an epoch, in random order.

    Balanced sampling takes as many samples as there are images, half of each class: the images of the rarer class
    several times, in whole rounds, and a random part of the others.

    Args:
        rows: (N,) int64, the training images.
        targets: (N,) int, 0 or 1.
        balanced: whether both classes come equally often.
        seed: of the run.
        epoch: from 0.
        total: images in the table; keys of second and later rounds lie above it.
    """
    rng = np.random.default_rng(derive_seed("order", seed, epoch))
    if not balanced:
        order = rng.permutation(rows)
        return Batch(order, order)
    drawn, keys = [], []
    for target in (0, 1):
        mine = rows[targets == target]
        count = len(rows) // 2 + (len(rows) % 2) * (target == 0)
        rounds = math.ceil(count / len(mine))
        drawn.append(np.concatenate([rng.permutation(mine) for _ in range(rounds)])[:count])
        keys.append(drawn[-1] + total * (np.arange(count) // len(mine)))
    order = rng.permutation(len(rows))
    return Batch(np.concatenate(drawn)[order], np.concatenate(keys)[order])


def split_steps(samples: Batch, *, batch_size: int, accumulation: int) -> list[list[Batch]]:
    """The steps of an epoch: for each change of the weights, its batches.

    Batches are as even as they can be, and hold two samples at least: BatchNorm cannot do with one.

    Returns:
        Steps of up to `accumulation` batches of up to `batch_size` samples; with an odd number and batches of two, one
        has three.
    """
    count = max(1, min(math.ceil(len(samples.rows) / batch_size), len(samples.rows) // 2))
    parts = zip(np.array_split(samples.rows, count), np.array_split(samples.keys, count), strict=True)
    batches = [Batch(*part) for part in parts]
    return [batches[i : i + accumulation] for i in range(0, count, accumulation)]
