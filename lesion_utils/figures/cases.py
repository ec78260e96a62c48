"""Figures of single cases: right and wrong predictions, where a network looked, and a sheet of photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable

from lesion_utils.evaluation.predictions import select_outcomes
from lesion_utils.figures.images import name_column, name_row, new_tiles, show_tile
from lesion_utils.figures.style import (
    CLASS_COLOURS,
    CLASS_NAMES,
    GREY,
    MM,
    Plate,
    count_classes,
    finish_figure,
    house_style,
)

#: Photographs in a row of a contact sheet; each has a second tile beside it for its map.
IN_A_ROW = 3
HEAT = "inferno"  # perceptually uniform, monotonic in lightness
#: The four outcomes at a threshold of 0.5, the order of the rows of a prediction grid.
OUTCOMES = {
    "TP": "malignant, predicted malignant", "FN": "malignant, predicted benign",
    "FP": "benign, predicted malignant", "TN": "benign, predicted benign",
}  # fmt: skip


@house_style
def plot_prediction_grid(
    images: np.ndarray, image_ids: Sequence[str], targets: np.ndarray, probs: np.ndarray, *, columns: int = 6
) -> Plate:
    """Right and wrong predictions: a row each of true positives, false negatives, false positives, true negatives.

    Args:
        images: all of them; only those shown are read.
        columns: cases in a row, drawn at random from all of that outcome.
    """
    chosen = select_outcomes(targets, probs, count=columns)
    all_of = {name: len(picks) for name, picks in select_outcomes(targets, probs, count=len(targets)).items()}
    fig, axes = new_tiles(4, columns, lines=2, left=24)
    for row, (name, picks) in zip(axes, chosen.items(), strict=True):
        row[0].set_visible(True)
        row[0].set_axis_off()
        name_row(row[0], "\n".join((name, *OUTCOMES[name].split(" ", 1), f"{all_of[name]} in total")))
        if not len(picks):
            row[0].text(0.5, 0.5, "none", transform=row[0].transAxes, ha="center", va="center", color=GREY)
        for ax, k in zip(row, picks, strict=False):
            ax.set_axis_on()
            colour = CLASS_COLOURS[CLASS_NAMES[int(targets[k])]]
            show_tile(ax, images[k], f"{image_ids[k]}\np = {probs[k]:.2f}", colour=colour, edge=1.4)
    note = f"{count_classes(targets)}; cases drawn at random from each outcome; p: probability of malignant"
    return finish_figure(
        fig, note=note, alt=f"Example images of each outcome at threshold 0.5: {_list_outcomes(all_of)}"
    )


def _list_outcomes(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name} ({OUTCOMES[name]})" for name, count in counts.items())


@house_style
def plot_gradcam_grid(
    images: np.ndarray, maps: Mapping[str, np.ndarray], *, labels: Sequence[str], targets: np.ndarray
) -> Plate:
    """Where a network looked: each row an image, then the image under each set of maps.

    Args:
        maps: column title -> (N, h, w) float in [0, 1], such as {"ResNet50": ..., "ResNet50, randomised": ...};
            stretched over the image.
        labels: N short texts beside the rows, such as "TP ISIC_0000001, p = 0.91".
    """
    fig, axes = new_tiles(len(images), len(maps) + 1, lines=0, left=24, top=8, side=23)
    for i, row in enumerate(axes):
        name_row(row[0], labels[i])
        colour = CLASS_COLOURS[CLASS_NAMES[int(targets[i])]]
        show_tile(row[0], images[i], colour=colour, edge=1.4)
        for ax, heat in zip(row[1:], maps.values(), strict=True):
            show_tile(ax, images[i])
            lay_map_over(ax, heat[i], images[i].shape)
    for ax, title in zip(axes[0], ("image", *maps), strict=True):
        name_column(ax, title)
    _add_heat_key(fig)
    told = f"Grad-CAM heat maps over {len(images)} images for {', '.join(maps)}: {'; '.join(labels)}"
    return finish_figure(fig, note=f"{count_classes(targets)}; each map scaled to its maximum", alt=told)


@house_style
def plot_mean_maps(means: Mapping[str, np.ndarray], *, counts: Mapping[str, int]) -> Plate:
    """Where a network looked on average: a mean map for each outcome.

    Args:
        means: outcome of `OUTCOMES` -> (h, w) float in [0, 1].
        counts: outcome -> images behind its map.
    """
    fig, axes = new_tiles(1, max(len(means), 2), lines=1, top=14, side=30)
    for ax, (outcome, heat) in zip(axes[0], means.items(), strict=False):
        show_tile(ax, np.zeros((2, 2, 3)), "" if heat.any() else "no region raised the score")
        ax.imshow(heat, cmap=HEAT, vmin=0, vmax=1, interpolation="bilinear", extent=(-0.5, 1.5, 1.5, -0.5))
        name_column(ax, f"{outcome} ({counts[outcome]}): {OUTCOMES[outcome]}")
    _add_heat_key(fig)
    shown = {name: counts[name] for name in means}
    note = f"{sum(shown.values())} test images; mean of the maps, each scaled to its maximum"
    return finish_figure(fig, note=note, alt=f"Mean Grad-CAM maps: {_list_outcomes(shown)}")


def lay_map_over(ax: Axes, heat: np.ndarray, shape: tuple[int, ...]) -> None:
    """Stretch a map (h, w) in [0, 1] over a shown image of that `shape`; where there is no heat, the image is bare."""
    high, wide = shape[:2]
    extent = (-0.5, wide - 0.5, high - 0.5, -0.5)
    ax.imshow(heat, cmap=HEAT, vmin=0, vmax=1, alpha=0.75 * heat, interpolation="bilinear", extent=extent)


def _add_heat_key(fig: Plate) -> None:
    """A small colour bar in the corner above the rows' names."""
    width, height = fig.get_size_inches() / MM
    key = fig.add_axes((6 / width, 1 - 6 / height, 12 / width, 1.6 / height))
    fig.colorbar(ScalarMappable(cmap=matplotlib.colormaps[HEAT]), cax=key, orientation="horizontal", ticks=[])
    for x, y, text in ((-0.12, 0.5, "0"), (1.12, 0.5, "1"), (0.5, 2.1, "weight")):
        key.text(x, y, text, transform=key.transAxes, ha="center", va="center", fontsize=6, color=GREY)


@house_style
def plot_contact_sheet(
    images: np.ndarray, names: Sequence[str], probs: np.ndarray, maps: np.ndarray | None, *, call: float, note: str
) -> Plate:
    """A sheet of photographs in the order given.

    Args:
        images: as the network saw them.
        names: N file names; long ones are cut in the middle.
        maps: (N, h, w) float in [0, 1], Grad-CAM; None where the network has none.
        call: above it, an image is predicted malignant, and its frame is red.
        note: what the sheet shows, and of which network.
    """
    wide = 1 if maps is None else 2
    fig, axes = new_tiles(-(-len(images) // IN_A_ROW), IN_A_ROW * wide, lines=2, group=wide)
    for k, (image, name, prob) in enumerate(zip(images, names, probs, strict=True)):
        row, column = divmod(k, IN_A_ROW)
        tiles = axes[row, column * wide : column * wide + wide]
        colour = CLASS_COLOURS["malignant"] if prob > call else GREY
        show_tile(tiles[0], image, f"{shorten_name(name)}\np = {prob:.3f}", colour=colour, edge=1.4)
        if maps is not None:
            show_tile(tiles[1], image, "" if maps[k].any() else "no region raised the score")
            lay_map_over(tiles[1], maps[k], image.shape)
    listed = "; ".join(f"{shorten_name(name)}, p = {prob:.3f}" for name, prob in zip(names, probs, strict=True))
    return finish_figure(fig, note=note, alt=f"{len(images)} photographs with the network's scores: {listed}")


def shorten_name(name: str) -> str:
    """A file's name as a figure can show it: letters that its type lacks become question marks."""
    shown = "".join(c if c.isprintable() and ord(c) < 0x250 else "?" for c in name)
    return shown if len(shown) <= 22 else f"{shown[:11]}…{shown[-10:]}"
