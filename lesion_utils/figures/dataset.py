"""Figures of the data itself: classes, sizes, colours, and the shortcuts that metadata offer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from lesion_utils.figures.style import (
    CLASS_COLOURS,
    CLASS_NAMES,
    DOUBLE,
    GREY,
    INK,
    LIGHT,
    SINGLE,
    Plate,
    count_classes,
    finish_figure,
    house_style,
    legend_below,
    list_class_patches,
    new_figure,
    new_panels,
    state_absence,
    wrap_label,
)

SUBSET_NAMES = {"train": "training", "val": "validation", "test": "test", "left_out": "removed"}
SIZES = [round(64 * 2 ** (k / 2) / 32) * 32 for k in range(14)]  # ticks, px: 64, 96, 128, ...
MEDIAN: dict[str, Any] = {"linewidth": 1, "linestyle": (0, (3, 2))}
ASPECTS = {"4:3": 4 / 3, "3:2": 3 / 2, "1:1": 1.0}


@house_style
def plot_class_balance(table: pd.DataFrame) -> Plate:
    """How many benign and malignant images each part of the data holds.

    Args:
        table: one row per image, with `target` (0 benign, 1 malignant) and `subset`, a key of `SUBSET_NAMES`.
    """
    counts = pd.crosstab(table["subset"], table["target"]).reindex(columns=[0, 1], fill_value=0)
    parts = [part for part in SUBSET_NAMES if part in counts.index]
    names = [SUBSET_NAMES[part] for part in parts]
    benign, malignant = counts.loc[parts].to_numpy().T
    rows, total = np.arange(len(parts)), benign + malignant
    fig, ((ax,),) = new_figure(width=SINGLE, height=18 + 8 * len(parts))
    ax.barh(rows, benign, color=CLASS_COLOURS["benign"], height=0.62)
    ax.barh(rows, malignant, left=benign, color=CLASS_COLOURS["malignant"], height=0.62)
    texts = [f"{b} + {m}  ({m / n:.1%} malignant)" for b, m, n in zip(benign, malignant, total, strict=True)]
    for row, (end, text) in enumerate(zip(total, texts, strict=True)):
        ax.text(end + 0.02 * total.max(), row, text, va="center", fontsize=6.5)
    ax.set(xlim=(0, 1.8 * total.max()), yticks=rows, yticklabels=names)
    ax.set_xticks([tick for tick in ax.get_xticks() if tick <= total.max()])
    ax.spines["bottom"].set_bounds(0, total.max())
    ax.set_xlabel("images", loc="left")
    ax.invert_yaxis()
    legend_below(fig, list_class_patches(), columns=2)
    shown = "; ".join(f"{name} {text}" for name, text in zip(names, texts, strict=True))
    return finish_figure(fig, note=count_classes(table["target"]), alt=f"Bars of benign + malignant images: {shown}.")


@house_style
def plot_image_sizes(table: pd.DataFrame) -> Plate:
    """Width and height of the photographs, a panel per class: what the size alone could give away.

    Args:
        table: one row per image, with `width`, `height` (px) and `target`.
    """
    fig, axes = new_figure(1, 2, width=DOUBLE, height=62, sharex=True, sharey=True)
    sizes = table.groupby(["target", "width", "height"]).size().rename("images").reset_index()
    low, high = 0.85 * table[["width", "height"]].min().min(), 1.2 * table[["width", "height"]].max().max()
    for target, ax in enumerate(axes[0]):
        name, part = CLASS_NAMES[target], sizes[sizes["target"] == target]
        for aspect in ASPECTS.values():
            ax.plot([low * aspect, high * aspect], [low, high], color=LIGHT, lw=0.8, zorder=0)
        share = part["images"] / max(part["images"].sum(), 1)
        ax.scatter(part["width"], part["height"], s=6 + 500 * share, color=CLASS_COLOURS[name], alpha=0.65, lw=0)
        ax.set(title=f"{name} (n = {part['images'].sum()})", xlabel="width (px)", xlim=(low, high), ylim=(low, high))
        ax.set(xscale="log", yscale="log")
        ticks = [t for t in SIZES if low <= t <= high]
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_ticks(ticks[:: 1 + len(ticks) // 6], ticks[:: 1 + len(ticks) // 6])
            axis.set_ticks([], minor=True)
    for label, aspect in ASPECTS.items():
        axes[0, 1].text(1.05 * high, high / aspect, label, fontsize=6, color=GREY, va="center")
    axes[0, 0].set_ylabel("height (px)")
    pairs, widths = len(table[["width", "height"]].drop_duplicates()), table["width"]
    note = f"{count_classes(table['target'])}; {pairs} different sizes; area of a disc: share of the class"
    told = f"{pairs} different sizes between {widths.min()} and {widths.max()} px of width."
    return finish_figure(fig, note=note, alt=f"Width against height of {len(table)} images, by class; {told}")


@house_style
def plot_colour_statistics(table: pd.DataFrame, *, columns: Mapping[str, str]) -> Plate:
    """Distribution of per-image pixel statistics in each class.

    Args:
        table: one row per image, with `target` and the numeric columns named.
        columns: column -> label of its axis, such as {"red_mean": "mean of red (0 to 255)"}; at most three in a row.
    """
    fig, axes = new_panels(len(columns), height=42)
    palette = [CLASS_COLOURS[name] for name in CLASS_NAMES]
    for ax, (column, label) in zip(axes.flat, columns.items(), strict=False):
        bins = np.histogram_bin_edges(table[column].dropna(), bins=18)
        sns.histplot(
            table, x=column, hue="target", hue_order=[0, 1], palette=palette, bins=bins, stat="density",
            common_norm=False, element="step", alpha=0.25, lw=1.1, legend=False, ax=ax,
        )  # fmt: skip
        for target, values in table.groupby("target")[column]:
            ax.axvline(values.median(), color=palette[target], **MEDIAN)
        ax.set(xlabel=label, ylabel="", yticks=[])
        ax.spines["left"].set_visible(False)
    medians = Line2D([], [], color=GREY, **MEDIAN, label="median of the class")
    legend_below(fig, [*list_class_patches(), medians], columns=3)
    middle = table.groupby("target")[list(columns)].median()
    shown = "; ".join(f"{label} {' and '.join(f'{v:.3g}' for v in middle[c])}" for c, label in columns.items())
    told = f"Histograms of colour statistics by class. Medians of benign and malignant: {shown}."
    return finish_figure(fig, note=f"{count_classes(table['target'])}; each class has area 1", alt=told)


@house_style
def plot_prevalence_by_block(blocks: pd.DataFrame, *, kind: str) -> Plate:
    """Share of malignant images in each block of ids, or at each site: a map of where the images came from.

    Args:
        blocks: one row per block and split, as `shortcuts.count_blocks` returns them: `block`, `split`, `images`,
            `malignant` (counts), `low`, `high` (interval of the share).
        kind: what a block is, such as "site".
    """
    if blocks.empty:
        return state_absence("the labels name no sites")
    splits = list(dict.fromkeys(blocks["split"]))
    names = list(dict.fromkeys(blocks["block"]))
    fig, ((ax,),) = new_figure(width=SINGLE if len(names) < 5 else DOUBLE, height=56)
    for k, split in enumerate(splits):
        part = blocks[blocks["split"] == split]
        x = np.array([names.index(b) for b in part["block"]]) + (k - (len(splits) - 1) / 2) * 0.28
        share = (part["malignant"] / part["images"]).to_numpy()
        ax.vlines(x, part["low"], part["high"], color=CLASS_COLOURS["malignant"], lw=1.2)
        ax.scatter(
            x, share, s=16, zorder=3, lw=1, edgecolor=CLASS_COLOURS["malignant"],
            color="white" if k else CLASS_COLOURS["malignant"], clip_on=False, label=SUBSET_NAMES.get(split, split),
        )  # fmt: skip
    overall = blocks["malignant"].sum() / blocks["images"].sum()
    line = ax.axhline(overall, color=INK, lw=0.8, ls=(0, (4, 2)), zorder=0, label=f"all images: {overall:.1%}")
    ax.set(ylim=(0, min(1, 1.05 * blocks["high"].max())), ylabel="malignant", xlim=(-0.6, len(names) - 0.4))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    counts = blocks.groupby("block", sort=False)[["malignant", "images"]].sum()
    shares = [f"{wrap_label(n, 14)}\n{counts.malignant[n]} of {counts.images[n]}" for n in names]
    ax.set_xticks(range(len(names)), shares)
    ax.set_xlabel(f"{kind}, malignant of all images")
    legend_below(fig, [*ax.collections[1::2], line], columns=3)
    told = "; ".join(
        f"{b.block}, {SUBSET_NAMES.get(b.split, b.split)} {b.malignant} of {b.images}" for b in blocks.itertuples()
    )
    note = f"n = {counts.images.sum():,} images; bars: confidence intervals of the share"
    return finish_figure(fig, note=note, alt=f"Share of malignant images by {kind}: {told}")
