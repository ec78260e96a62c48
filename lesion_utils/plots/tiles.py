"""Figures made of images: samples, duplicates, augmentation, right and wrong predictions, Grad-CAM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable

from lesion_utils.plots.style import (
    CLASS_COLOURS,
    CLASS_NAMES,
    DOUBLE,
    FOOTER,
    GREY,
    MM,
    Plate,
    count_classes,
    finish_figure,
    house_style,
    wrap_label,
)

GAP = 1.6  # between tiles, mm
LINE = 3.0  # one line of small type, mm
HEAT = "inferno"  # perceptually uniform, monotonic in lightness
#: The four outcomes at a threshold of 0.5, the order of the rows of a prediction grid.
OUTCOMES = {
    "TP": "malignant, called malignant", "FN": "malignant, called benign",
    "FP": "benign, called malignant", "TN": "benign, called benign",
}  # fmt: skip


def _new_tiles(rows: int, columns: int, *, lines: int, left: float = 1.0, top: float = 1.0) -> tuple[Plate, np.ndarray]:
    """Square tiles across two columns of a page, with room for `lines` of type below each, placed to the millimetre."""
    side = min(30.0, (DOUBLE - left - 1 - GAP * (columns - 1)) / columns)
    width = max(left + 1 + columns * side + GAP * (columns - 1), 89.0)
    step = side + lines * LINE + GAP
    height = top + rows * step + FOOTER
    fig = Plate(figsize=(width * MM, height * MM))
    axes = np.empty((rows, columns), dtype=object)
    for r, c in np.ndindex(rows, columns):
        x, y = left + c * (side + GAP), height - top - r * step - side
        axes[r, c] = fig.add_axes((x / width, y / height, side / width, side / height), xticks=[], yticks=[])
        axes[r, c].set_visible(False)
    return fig, axes


def _show_tile(ax: Axes, image: np.ndarray, label: str = "", *, colour: str = GREY, edge: float = 0.5) -> None:
    ax.set_visible(True)
    ax.imshow(image)
    ax.spines[:].set(visible=True, color=colour, linewidth=edge)
    ax.text(0.5, -0.03, label, transform=ax.transAxes, ha="center", va="top", fontsize=6, linespacing=1.15)


def _show_case(ax: Axes, image: np.ndarray, image_id: str, target: int, extra: str = "") -> None:
    """An image with its id and class; the frame has the class's colour."""
    name = CLASS_NAMES[int(target)]
    _show_tile(ax, image, "\n".join(filter(None, (str(image_id), name, extra))), colour=CLASS_COLOURS[name], edge=1.4)


def _name_row(ax: Axes, text: str) -> None:
    ax.text(
        -0.08, 0.5, wrap_label(text, 14), transform=ax.transAxes, ha="right", va="center", weight="bold", fontsize=6.5
    )


def _name_column(ax: Axes, text: str) -> None:
    ax.text(
        0.5, 1.04, wrap_label(text, 20), transform=ax.transAxes, ha="center", va="bottom", weight="bold", fontsize=6.5
    )


@house_style
def plot_sample_grid(images: np.ndarray, image_ids: Sequence[str], targets: np.ndarray, *, columns: int = 6) -> Plate:
    """Images with their ids and classes, in the order given.

    Args:
        images: (N, H, W, 3) uint8, RGB.
        image_ids: N ids.
        targets: (N,) int, 0 benign, 1 malignant.
        columns: tiles in a row.
    """
    rows = -(-len(images) // columns)
    fig, axes = _new_tiles(rows, columns, lines=2)
    for ax, image, image_id, target in zip(axes.flat, images, image_ids, targets, strict=False):
        _show_case(ax, image, image_id, target)
    return finish_figure(
        fig,
        note=f"{count_classes(targets)} shown; frames: benign blue, malignant red",
        alt=f"A grid of {len(images)} dermoscopic images with their ids, {int(np.sum(targets))} of them malignant.",
    )


@house_style
def plot_duplicate_pairs(left: np.ndarray, right: np.ndarray, pairs: pd.DataFrame) -> Plate:
    """Suspected duplicates side by side, two pairs in a row.

    Args:
        left: (P, H, W, 3) uint8, the first image of each pair.
        right: (P, H, W, 3) uint8, the second.
        pairs: P rows with `image_id_a, split_a, target_a, image_id_b, split_b, target_b, kind`; `kind` says in a few
            words how they match, such as "same bytes".
    """
    fig, axes = _new_tiles(-(-len(pairs) // 2), 4, lines=4)
    for k, pair in enumerate(pairs.itertuples(index=False)):
        a, b = axes[k // 2, 2 * (k % 2) : 2 * (k % 2) + 2]
        _show_case(a, left[k], pair.image_id_a, pair.target_a, pair.split_a)
        _show_case(b, right[k], pair.image_id_b, pair.target_b, pair.split_b)
        middle = 1 + GAP * MM / 2 / (a.get_position().width * fig.get_figwidth())
        a.text(middle, -0.36, pair.kind, transform=a.transAxes, ha="center", va="top", fontsize=6, style="italic")
    across = int((pairs["split_a"] != pairs["split_b"]).sum())
    return finish_figure(
        fig,
        note=f"{len(pairs)} pairs, {across} of them between training and test",
        alt=f"{len(pairs)} pairs of images that are or look the same, drawn side by side: "
        + "; ".join(
            f"{p.split_a} {p.image_id_a} and {p.split_b} {p.image_id_b} ({p.kind})" for p in pairs.itertuples()
        ),
    )


@house_style
def plot_augmentation_strips(strips: Mapping[str, tuple[Sequence[str], np.ndarray]]) -> Plate:
    """One row per operation: the same image over the operation's range, each tile with its value.

    Args:
        strips: name of the operation -> (K value labels such as "-30°", (K, H, W, 3) uint8 tiles), from the smallest
            value to the largest. Rows may differ in K.
    """
    columns = max(len(labels) for labels, _ in strips.values())
    fig, axes = _new_tiles(len(strips), columns, lines=1, left=22)
    for row, (name, (labels, tiles)) in zip(axes, strips.items(), strict=True):
        _name_row(row[0], name)
        for ax, label, tile in zip(row, labels, tiles, strict=False):
            _show_tile(ax, tile, label)
    return finish_figure(
        fig,
        note="one image; each operation alone, over the whole range it is drawn from",
        alt="Rows of one image under each augmentation alone: "
        + "; ".join(f"{name} from {labels[0]} to {labels[-1]}" for name, (labels, _) in strips.items()),
    )


@house_style
def plot_augmented_samples(
    originals: np.ndarray, augmented: np.ndarray, *, image_ids: Sequence[str], targets: np.ndarray
) -> Plate:
    """All operations together: each row an image as it is, then independent draws of its augmentation.

    Args:
        originals: (N, H, W, 3) uint8.
        augmented: (N, K, H, W, 3) uint8, or float in [0, 1].
        image_ids: N ids.
        targets: (N,) int, 0 benign, 1 malignant.
    """
    draws = augmented.shape[1]
    fig, axes = _new_tiles(len(originals), draws + 1, lines=0, left=19, top=5)
    for row, original, versions, image_id, target in zip(axes, originals, augmented, image_ids, targets, strict=True):
        colour = CLASS_COLOURS[CLASS_NAMES[int(target)]]
        _show_tile(row[0], original, colour=colour, edge=1.4)
        row[0].text(
            -0.08,
            0.5,
            f"{image_id}\n{CLASS_NAMES[int(target)]}",
            transform=row[0].transAxes,
            ha="right",
            va="center",
            fontsize=6,
        )
        for ax, version in zip(row[1:], versions, strict=True):
            _show_tile(ax, version)
    _name_column(axes[0, 0], "as it is")
    _name_column(axes[0, 1], "augmented")
    return finish_figure(
        fig,
        note=f"{count_classes(targets)}; {draws} independent draws of each",
        alt=f"{len(originals)} images, each followed by {draws} randomly augmented versions of itself.",
    )


def select_outcomes(targets: np.ndarray, probs: np.ndarray, *, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Pick cases of each outcome at 0.5, at random, so that a grid shows neither the best nor the worst.

    Args:
        targets: (N,) int, 0 benign, 1 malignant.
        probs: (N,) float in [0, 1]; above 0.5 is called malignant.
        count: at most so many of each.
        seed: of the choice.

    Returns:
        "TP", "FN", "FP", "TN" -> positions in the arrays, the highest probability first.
    """
    targets, probs = np.asarray(targets), np.asarray(probs)
    called = probs > 0.5
    masks = {"TP": (targets == 1) & called, "FN": (targets == 1) & ~called}
    masks |= {"FP": (targets == 0) & called, "TN": (targets == 0) & ~called}
    random = np.random.default_rng(seed)
    chosen = {name: random.permutation(np.flatnonzero(mask))[:count] for name, mask in masks.items()}
    return {name: picks[np.argsort(-probs[picks], kind="stable")] for name, picks in chosen.items()}


@house_style
def plot_prediction_grid(
    images: np.ndarray,
    image_ids: Sequence[str],
    targets: np.ndarray,
    probs: np.ndarray,
    *,
    columns: int = 6,
    seed: int = 0,
) -> Plate:
    """Right and wrong predictions: a row each of true positives, false negatives, false positives, true negatives.

    Args:
        images: (N, H, W, 3) uint8, all of them; only those shown are read.
        image_ids: N ids.
        targets: (N,) int, 0 benign, 1 malignant.
        probs: (N,) float in [0, 1], probability of malignant; above 0.5 is called malignant.
        columns: cases in a row, drawn at random from all of that outcome.
        seed: of the choice.
    """
    chosen = select_outcomes(targets, probs, count=columns, seed=seed)
    all_of = {name: len(picks) for name, picks in select_outcomes(targets, probs, count=len(targets)).items()}
    fig, axes = _new_tiles(4, columns, lines=2, left=24)
    for row, (name, picks) in zip(axes, chosen.items(), strict=True):
        row[0].set_visible(True)
        row[0].set_axis_off()
        _name_row(row[0], f"{name}: {OUTCOMES[name]}, {all_of[name]} in all")
        if not len(picks):
            row[0].text(0.5, 0.5, "none", transform=row[0].transAxes, ha="center", va="center", color=GREY)
        for ax, k in zip(row, picks, strict=False):
            ax.set_axis_on()
            colour = CLASS_COLOURS[CLASS_NAMES[int(targets[k])]]
            _show_tile(ax, images[k], f"{image_ids[k]}\np = {probs[k]:.2f}", colour=colour, edge=1.4)
    return finish_figure(
        fig,
        note=f"{count_classes(targets)}; cases drawn at random from each outcome; p: probability of malignant",
        alt="Example images of each outcome at threshold 0.5: "
        + ", ".join(f"{all_of[name]} {name} ({OUTCOMES[name]})" for name in OUTCOMES),
    )


@house_style
def plot_gradcam_grid(
    images: np.ndarray, maps: Mapping[str, np.ndarray], *, labels: Sequence[str], targets: np.ndarray
) -> Plate:
    """Where a network looked: each row an image, then the image under each set of maps.

    Args:
        images: (N, H, W, 3) uint8.
        maps: column title -> (N, h, w) float in [0, 1], such as {"ResNet50": ..., "ResNet50, randomised": ...};
            stretched over the image.
        labels: N short texts beside the rows, such as "TP ISIC_0000001, p = 0.91".
        targets: (N,) int, 0 benign, 1 malignant.
    """
    fig, axes = _new_tiles(len(images), len(maps) + 1, lines=0, left=24, top=8)
    high, wide = images.shape[1:3]
    for i, row in enumerate(axes):
        _name_row(row[0], labels[i])
        colour = CLASS_COLOURS[CLASS_NAMES[int(targets[i])]]
        _show_tile(row[0], images[i], colour=colour, edge=1.4)
        for ax, heat in zip(row[1:], maps.values(), strict=True):
            _show_tile(ax, images[i])
            ax.imshow(
                heat[i],
                cmap=HEAT,
                vmin=0,
                vmax=1,
                alpha=0.55,
                interpolation="bilinear",
                extent=(-0.5, wide - 0.5, high - 0.5, -0.5),
            )
    for ax, title in zip(axes[0], ("image", *maps), strict=True):
        _name_column(ax, title)
    _add_heat_key(fig)
    return finish_figure(
        fig,
        note=f"{count_classes(targets)} shown; each map scaled to its own maximum",
        alt=f"Grad-CAM heat maps over {len(images)} images for {', '.join(maps)}: " + "; ".join(labels),
    )


def _add_heat_key(fig: Plate) -> None:
    """A small colour bar in the footer, from none to most."""
    width, height = fig.get_size_inches() / MM
    right = width - 42  # leaves the corner to the stamp
    key = fig.add_axes((right / width, 1.6 / height, 14 / width, 1.4 / height))
    fig.colorbar(ScalarMappable(cmap=matplotlib.colormaps[HEAT]), cax=key, orientation="horizontal", ticks=[])
    for x, text, side in ((-0.06, "weight 0", "right"), (1.06, "1", "left")):
        key.text(x, 0.4, text, transform=key.transAxes, ha=side, va="center", fontsize=6, color=GREY)
