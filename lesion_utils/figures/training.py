"""Figures of training: learning rates, losses and validation scores by step and epoch, settings by their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lesion_utils.core.names import REGIME_NAMES
from lesion_utils.figures.style import (
    DOUBLE,
    GREY,
    INK,
    SINGLE,
    Plate,
    finish_figure,
    house_style,
    legend_below,
    new_figure,
    new_panels,
    wrap_label,
)

LOSSES = {"train_loss": ("training", "#8a8a8a"), "val_loss": ("validation", "#1f4e79")}
SCORES = {"val_auc": ("AUC, validation", "#1a7f5a"), "val_ap": ("AP, validation", "#7a3b93")}


@house_style
def plot_learning_rates(rates: pd.DataFrame) -> Plate:
    """The learning rate of each layer over the epochs, on a logarithmic scale; the input's layers darkest.

    Args:
        rates: one row per step and per course of the learning rate, from the input to the head: `time` (epochs),
            `layers` and `learning_rate`, as `optim.tabulate_learning_rates` returns them.
    """
    courses = list(dict.fromkeys(rates["layers"]))
    fig, ((ax,),) = new_figure(width=SINGLE, height=58)
    shades = dict(zip(courses, colormaps["cividis"](np.linspace(0, 0.85, len(courses))), strict=True))
    for name in courses:
        part = rates[(rates["layers"] == name) & (rates["learning_rate"] > 0)]
        ax.plot(part["time"], part["learning_rate"], color=shades[name])
    ax.set(xlabel="epoch", ylabel="learning rate", yscale="log", xlim=(0, rates["time"].max()))
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    named = courses if len(courses) < 5 else [courses[0], courses[len(courses) // 2], courses[-1]]
    legend_below(fig, [Line2D([], [], color=shades[name], label=name) for name in named], columns=3)
    peaks = rates.groupby("layers", sort=False)["learning_rate"].max()
    told = "; ".join(f"{name} at most {peaks[name]:.1e}" for name in named)
    note = "one line per layer or group of layers" + ("" if named == courses else "; three lines are named")
    return finish_figure(fig, note=note, alt=f"Learning rates over the epochs: {told}.")


@house_style
def plot_overfitting(losses: Sequence[float], *, images: int) -> Plate:
    """The loss (cross-entropy before each step) of so many `images` that a network learns by heart."""
    fig, ((ax,),) = new_figure(width=SINGLE, height=46)
    ax.axhline(np.log(2), color=GREY, lw=0.8, ls=(0, (3, 2)))
    ax.text(1, np.log(2), "guessing", transform=ax.get_yaxis_transform(), ha="right", va="bottom", color=GREY)
    ax.plot(range(1, len(losses) + 1), losses, color=LOSSES["val_loss"][1], marker=".")
    ax.set(xlabel="step", ylabel="loss (cross-entropy)", ylim=(0, 1.2 * max(*losses, np.log(2))))
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    told = f"Loss of {images} images over {len(losses)} steps, from {losses[0]:.2f} to {losses[-1]:.2f}."
    return finish_figure(fig, note=f"{images} images, all in every step", alt=told)


@house_style
def plot_learning_curves(history: pd.DataFrame) -> Plate:
    """Loss above, validation AP and AUC below, a column per regime; every run is a thin line.

    Args:
        history: one row per run and epoch, with `regime`, `seed`, `fold` (where there are several), `epoch` (from 1),
            `train_loss`, `val_loss`, `val_ap`, `val_auc` and `selected` (bool: the epoch whose weights were kept). NaN
            where a regime has no such number.
    """
    regimes = [r for r in REGIME_NAMES if r in set(history["regime"])]
    regimes += [r for r in dict.fromkeys(history["regime"]) if r not in regimes]
    wide = len(regimes) > 1
    fig, axes = new_figure(2, len(regimes), width=DOUBLE if wide else SINGLE, height=84, sharex="col", sharey="row")
    for regime, (top, bottom) in zip(regimes, axes.T, strict=True):
        part = history[history["regime"] == regime]
        _draw_curves(top, part, LOSSES)
        _draw_curves(bottom, part, SCORES)
        top.set_title(f"{REGIME_NAMES.get(regime, regime)} ({_count_runs(part)})")
        bottom.set_xlabel("epoch")
        bottom.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes[0, 0].set_ylabel("loss (cross-entropy)")
    axes[1, 0].set_ylabel("AP or AUC")
    axes[0, 0].set_ylim(0, min(axes[0, 0].get_ylim()[1], 2.5 * history["val_loss"].quantile(0.9)))
    axes[1, 0].set_ylim(0, 1)
    named = {f"loss, {label}": c for label, c in LOSSES.values()} | dict(SCORES.values())
    lines = [Line2D([], [], color=colour, label=label) for label, colour in named.items()]
    chosen = Line2D([], [], color=INK, marker="o", mfc="white", ls="", label="selected epoch")
    legend_below(fig, [*lines, chosen], columns=3 if wide else 2)
    note = "one run" if len(history.groupby(_run_columns(history))) == 1 else "thin: single runs; thick: their mean"
    return finish_figure(fig, note=note, alt=_describe_curves(history, regimes))


@house_style
def plot_sample_size(rows: pd.DataFrame) -> Plate:
    """AP and AUC on the test images by the number of training images, as a line with the range of the draws.

    Args:
        rows: one per share of the training images, as `notebooks.sample_size.trace_sample_size` returns them.
    """
    fig, ((ax,),) = new_figure(width=SINGLE, height=58)
    lines = []
    for metric, colour in (("auc", SCORES["val_auc"][1]), ("ap", SCORES["val_ap"][1])):
        low, high = rows[f"{metric}_low"], rows[f"{metric}_high"]
        ax.fill_between(rows["images"], low, high, color=colour, alpha=0.15, lw=0)
        lines += ax.plot(rows["images"], rows[f"{metric}_mean"], color=colour, marker=".", label=metric.upper())
    ax.set(xlabel="training images", ylabel="AP or AUC", xlim=(0, 1.04 * rows["images"].max()))
    legend_below(fig, lines, columns=2)
    told = "; ".join(f"{r.images} images: AP {r.ap_mean:.2f}, AUC {r.auc_mean:.2f}" for r in rows.itertuples())
    note = f"logistic regression on frozen features; bands: range of {rows['repeats'].max()} draws"
    return finish_figure(fig, note=note, alt=f"Scores by the number of training images. {told}.")


@house_style
def plot_margins(margins: Mapping[str, Mapping[str, Sequence[float]]]) -> Plate:
    """What each parameter of a grid does to the average precision: every combination a ring, their mean a line.

    Args:
        margins: parameter -> its values -> the AP of every combination that has it.
    """
    fig, axes = new_panels(len(margins), height=52, sharey=True)
    told = []
    for ax, (key, by_value) in zip(axes.flat, margins.items(), strict=False):
        means = [float(np.mean(aps)) for aps in by_value.values()]
        for place, aps in enumerate(by_value.values()):
            ax.plot([place] * len(aps), aps, ls="", marker="o", mfc="none", color=GREY, ms=3.5)
        ax.plot(means, color=SCORES["val_ap"][1], marker="o", ms=3)
        ax.set_xticks(range(len(means)), list(by_value))
        ax.set(xlabel=wrap_label(key, 34), xlim=(-0.5, len(means) - 0.5))
        shown = ", ".join(f"{value} {mean:.3f}" for value, mean in zip(by_value, means, strict=True))
        told.append(f"{key}: {shown}")
    axes[0, 0].set_ylabel("average precision")
    note = "rings: combinations of the grid; line: their mean"
    return finish_figure(fig, note=note, alt=f"Mean AP by value. {'; '.join(told)}.")


def _run_columns(history: pd.DataFrame) -> list[str]:
    """What tells the runs of one regime apart."""
    return list(history.columns.intersection(["seed", "fold"]))


def _count_runs(part: pd.DataFrame) -> str:
    counts = ((part[name].nunique(), name) for name in _run_columns(part))
    return " × ".join(f"{count} {name}{'s' if count > 1 else ''}" for count, name in counts)


def _draw_curves(ax: Axes, part: pd.DataFrame, series: dict[str, tuple[str, str]]) -> None:
    """Every run thin, the mean of the runs that reached an epoch thick, the selected epochs as rings."""
    for key, (_, colour) in series.items():
        for _, run in part.groupby(_run_columns(part)):
            ax.plot(run["epoch"], run[key], color=colour, lw=0.5, alpha=0.6)
        mean = part.groupby("epoch")[key].mean()
        lone: dict[str, Any] = {"marker": "."} if len(mean) == 1 else {}
        ax.plot(mean.index, mean, color=colour, lw=1.5, **lone)
        if key.startswith("val"):
            chosen = part[part["selected"]]
            ax.scatter(chosen["epoch"], chosen[key], s=13, fc="white", ec=colour, lw=0.9, zorder=4)
    ax.set_xlim(part["epoch"].min() - 0.5, part["epoch"].max() + 0.5)


def _describe_curves(history: pd.DataFrame, regimes: list[str]) -> str:
    told = []
    for regime in regimes:
        best = history[history["selected"] & (history["regime"] == regime)]
        told.append(
            f"{REGIME_NAMES.get(regime, regime)}: selected epoch {', '.join(map(str, best['epoch']))}, "
            f"validation AP {np.mean(best['val_ap']):.2f}, AUC {np.mean(best['val_auc']):.2f}"
        )
    return f"Learning curves of loss and of validation AP and AUC over epochs. {'; '.join(told)}."
