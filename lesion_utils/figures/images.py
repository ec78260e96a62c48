"""Figures made of images: samples, duplicates, augmentation; and the grid of tiles that they stand on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lesion_utils.figures.style import (
    CLASS_COLOURS,
    CLASS_NAMES,
    DOUBLE,
    FOOTER,
    GREY,
    MM,
    SINGLE,
    Plate,
    count_classes,
    finish_figure,
    house_style,
    wrap_label,
)

GAP = 1.6  # between tiles, mm
LINE = 3.0  # one line of small type, mm
NAME: dict[str, Any] = {"weight": "bold", "fontsize": 6.5}  # of a row or column


def new_tiles(
    rows: int, columns: int, *, lines: int, left: float = 1.0, top: float = 1.0, side: float = 30.0, group: int = 99
) -> tuple[Plate, np.ndarray]:
    """Square tiles on at most two columns of a page, placed to the millimetre; hidden until something is shown in them.

    Args:
        lines: lines of small type below each tile.
        left: room for the names of rows, mm.
        top: room for the names of columns, mm.
        side: of a tile where the page has room for it, mm.
        group: columns that belong together; a wider gap follows them.

    Returns:
        The figure and its axes (rows, columns).
    """
    gaps = np.array([GAP * c + 3 * GAP * (c // group) for c in range(columns)])
    side = min(side, (DOUBLE - left - 1 - gaps[-1]) / columns)
    width = max(left + 1 + columns * side + gaps[-1], SINGLE)
    step = side + lines * LINE + GAP
    height = top + rows * step + FOOTER
    fig = Plate(figsize=(width * MM, height * MM))
    axes = np.empty((rows, columns), dtype=object)
    for r, c in np.ndindex(rows, columns):
        x, y = left + c * side + gaps[c], height - top - r * step - side
        tile = fig.add_axes((x / width, y / height, side / width, side / height), xticks=[], yticks=[])
        tile.set_visible(False)
        axes[r, c] = tile
    return fig, axes


def show_tile(ax: Axes, image: np.ndarray, label: str = "", *, colour: str = GREY, edge: float = 0.5) -> None:
    """An image in its frame, with a label of any number of lines below."""
    ax.set_visible(True)
    ax.imshow(image)
    ax.spines[:].set(visible=True, color=colour, linewidth=edge)
    place: dict[str, Any] = {"transform": ax.transAxes, "ha": "center", "va": "top"}
    ax.text(0.5, -0.03, label, **place, fontsize=6, linespacing=1.15, parse_math=False)  # a file's name may hold $


def show_case(ax: Axes, image: np.ndarray, image_id: str, target: int, extra: str = "") -> None:
    """An image with its id and class; the frame has the class's colour."""
    name = CLASS_NAMES[int(target)]
    show_tile(ax, image, "\n".join(filter(None, (str(image_id), name, extra))), colour=CLASS_COLOURS[name], edge=1.4)


def name_row(ax: Axes, text: str) -> None:
    """Write a row's name to the left of its first tile."""
    ax.text(-0.08, 0.5, wrap_label(text, 16), transform=ax.transAxes, ha="right", va="center", **NAME)


def name_column(ax: Axes, text: str) -> None:
    """Write a column's name above its first tile."""
    ax.text(0.5, 1.04, wrap_label(text, 20), transform=ax.transAxes, ha="center", va="bottom", **NAME)


@house_style
def plot_sample_grid(images: np.ndarray, image_ids: Sequence[str], targets: np.ndarray, *, columns: int = 6) -> Plate:
    """Images with their ids and classes, in the order given, so many `columns` in a row."""
    fig, axes = new_tiles(-(-len(images) // columns), columns, lines=2)
    for ax, image, image_id, target in zip(axes.flat, images, image_ids, targets, strict=False):
        show_case(ax, image, image_id, target)
    told = f"A grid of {len(images)} dermoscopic images with their ids, {int(np.sum(targets))} of them malignant."
    return finish_figure(fig, note=f"{count_classes(targets)}; frame: blue benign, red malignant", alt=told)


@house_style
def plot_duplicate_pairs(left: np.ndarray, right: np.ndarray, pairs: pd.DataFrame) -> Plate:
    """Suspected duplicates side by side, two pairs in a row.

    Args:
        left, right: (P, H, W, 3) uint8, the first and the second image of each pair.
        pairs: P rows of `duplicates.csv`: `image_id_a, split_a, target_a, image_id_b, split_b, target_b, kind, pose,
            distance`.
    """
    fig, axes = new_tiles(-(-len(pairs) // 2), 4, lines=4, group=2)
    for k, pair in enumerate(pairs.itertuples(index=False)):
        a, b = axes[k // 2, 2 * (k % 2) : 2 * (k % 2) + 2]
        show_case(a, left[k], pair.image_id_a, pair.target_a, pair.split_a)
        show_case(b, right[k], pair.image_id_b, pair.target_b, pair.split_b)
        side = a.get_position().width * fig.get_figwidth() / MM
        a.text(
            1 + GAP / 2 / side, -0.03 - 2.85 * LINE / side, _describe_match(pair), transform=a.transAxes, ha="center",
            va="top", fontsize=6, style="italic",
        )  # fmt: skip
    told = "; ".join(
        f"{p.split_a} {p.image_id_a} and {p.split_b} {p.image_id_b} ({_describe_match(p)})" for p in pairs.itertuples()
    )
    note = f"{len(pairs)} pairs, {(pairs['split_a'] != pairs['split_b']).sum()} of them between training and test"
    alt = f"{len(pairs)} pairs of images that are or look the same, drawn side by side: {told}."
    return finish_figure(fig, note=note, alt=alt)


def _describe_match(pair: Any) -> str:
    return f"near: similarity {pair.similarity:.2f}, {pair.pose}" if pair.kind == "near" else pair.kind


@house_style
def plot_augmentation_strips(strips: Mapping[str, tuple[Sequence[str], np.ndarray]]) -> Plate:
    """One row per operation: the same image over the operation's range, each tile with its value.

    Args:
        strips: name of the operation -> (K value labels such as "−30°", (K, H, W, 3) tiles, uint8 or float in [0, 1]),
            from the smallest value to the largest. Rows may differ in K.
    """
    columns = max(len(labels) for labels, _ in strips.values())
    fig, axes = new_tiles(len(strips), columns, lines=1, left=22)
    for row, (name, (labels, tiles)) in zip(axes, strips.items(), strict=True):
        name_row(row[0], name.replace("_", " "))
        for ax, label, tile in zip(row, labels, tiles, strict=False):
            show_tile(ax, tile, label)
    told = "; ".join(f"{name} from {labels[0]} to {labels[-1]}" for name, (labels, _) in strips.items())
    note = "one image; each change by itself, over its whole range"
    return finish_figure(fig, note=note, alt=f"Rows of one image under each augmentation alone: {told}")


@house_style
def plot_augmented_samples(
    originals: np.ndarray, augmented: np.ndarray, *, image_ids: Sequence[str], targets: np.ndarray
) -> Plate:
    """All operations together: each row an image as it is, then independent draws of its augmentation.

    Args:
        originals: (N, H, W, 3) uint8, or float in [0, 1].
        augmented: (N, K, H, W, 3), likewise.
    """
    draws = augmented.shape[1]
    fig, axes = new_tiles(len(originals), draws + 1, lines=0, left=19, top=4.5)
    for row, original, versions, image_id, target in zip(axes, originals, augmented, image_ids, targets, strict=True):
        first, name = row[0], CLASS_NAMES[int(target)]
        show_tile(first, original, colour=CLASS_COLOURS[name], edge=1.4)
        first.text(-0.08, 0.5, f"{image_id}\n{name}", transform=first.transAxes, ha="right", va="center", fontsize=6)
        for ax, version in zip(row[1:], versions, strict=True):
            show_tile(ax, version)
    name_column(axes[0, 0], "original")
    name_column(axes[0, 1], "augmented")
    told = f"{len(originals)} images, each followed by {draws} randomly augmented versions of itself."
    return finish_figure(fig, note=f"{count_classes(targets)}; {draws} independent draws of each", alt=told)
