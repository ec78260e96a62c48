"""Figures of predicted probabilities: confusion matrices, distributions, calibration, decision curves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from lesion_utils.evaluation.calibration import measure_reliability
from lesion_utils.evaluation.metrics import DEFAULT_THRESHOLD
from lesion_utils.figures.style import (
    CLASS_COLOURS,
    CLASS_NAMES,
    DOUBLE,
    GREY,
    INK,
    SHARE_LABELS,
    SHARES,
    SINGLE,
    Plate,
    count_classes,
    finish_figure,
    house_style,
    legend_below,
    list_class_patches,
    list_series,
    new_figure,
    new_panels,
    style_series,
    title_panel,
    wrap_label,
)


@house_style
def plot_confusion(matrices: Mapping[str, np.ndarray]) -> Plate:
    """Confusion matrices with counts and row percentages; rows are the truth.

    Args:
        matrices: title -> (2, 2) int, rows the true class, columns the predicted class, in the order benign, malignant.
    """
    fig, axes = new_panels(len(matrices), height=62 if len(matrices) == 1 else 58)
    for ax, (title, matrix) in zip(axes.flat, matrices.items(), strict=False):
        matrix = np.asarray(matrix)
        shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        ax.imshow(shares, cmap="Greys", vmin=0, vmax=1.25)
        for (r, c), count in np.ndenumerate(matrix):
            ink = "white" if shares[r, c] > 0.75 else INK
            ax.text(c, r - 0.06, f"{count}", ha="center", va="center", fontsize=11, weight="bold", color=ink)
            ax.text(c, r + 0.2, f"{shares[r, c]:.1%}", ha="center", va="center", fontsize=7, color=ink)
        ax.set_xticks([0, 1], CLASS_NAMES)
        ax.set_yticks([0, 1], [f"{name}\n(n = {n})" for name, n in zip(CLASS_NAMES, matrix.sum(axis=1), strict=True)])
        ax.tick_params(length=0)
        for label, name in zip([*ax.get_xticklabels(), *ax.get_yticklabels()], CLASS_NAMES * 2, strict=True):
            label.set_color(CLASS_COLOURS[name])
            label.set_weight("bold")
        ax.set(xlabel="predicted", ylabel="true class")
        title_panel(ax, title)
        ax.spines[:].set_visible(False)
    told = "; ".join(
        f"{title}: {tp} of {fn + tp} malignant and {tn} of {tn + fp} benign right"
        for title, ((tn, fp), (fn, tp)) in matrices.items()
    )
    note = f"counts and shares of the row; threshold {DEFAULT_THRESHOLD}"
    return finish_figure(fig, note=note, alt=f"Confusion matrices: {told}")


@house_style
def plot_score_distributions(targets: np.ndarray, probs: Mapping[str, np.ndarray]) -> Plate:
    """Histograms of the probability of malignant, benign upwards and malignant downwards, a panel per series."""
    fig, axes = new_panels(len(probs), height=46, sharex=True, sharey=True)
    edges, targets = np.linspace(0, 1, 26), np.asarray(targets)
    for ax, (name, scores) in zip(axes.flat, probs.items(), strict=False):
        for target, sign in ((0, 1), (1, -1)):
            counts = np.histogram(np.asarray(scores)[targets == target], edges)[0]
            heights, colour = sign * counts / max(counts.sum(), 1), CLASS_COLOURS[CLASS_NAMES[target]]
            ax.bar(edges[:-1], heights, width=1 / 25, align="edge", color=colour, lw=0)
        ax.axhline(0, color=INK, lw=0.6)
        ax.axvline(DEFAULT_THRESHOLD, color=INK, lw=0.8, ls=(0, (4, 2)))
        ax.set_xlim(0, 1)
        title_panel(ax, name)
    reach = max(abs(v) for v in axes[0, 0].get_ylim())
    axes[0, 0].set_ylim(-reach, reach)
    axes[0, 0].yaxis.set_major_formatter(lambda value, _: f"{abs(value):.0%}")
    for ax in axes[:, 0]:
        ax.set_ylabel("share of the class")
    for ax in axes[-1]:
        ax.set_xlabel("probability of malignant")
    line = Line2D([], [], color=INK, lw=0.8, ls=(0, (4, 2)), label=f"threshold {DEFAULT_THRESHOLD}")
    legend_below(fig, [*list_class_patches(), line], columns=3 if len(probs) > 1 else 2)
    medians = "; ".join(
        f"{name} {np.median(p[targets == 0]):.2f} and {np.median(p[targets == 1]):.2f}" for name, p in probs.items()
    )
    told = f"Distribution of the probability of malignant in each class. Medians of benign and malignant: {medians}"
    return finish_figure(fig, note=count_classes(targets), alt=told)


@house_style
def plot_reliability(targets: np.ndarray, probs: Mapping[str, np.ndarray], *, confidence: float) -> Plate:
    """Observed share of malignant against the predicted probability, in bins of equal count, a panel per series.

    Args:
        probs: panel title -> (N,) float in [0, 1], such as {"before": ..., "recalibrated": ...}; six at most.
        confidence: coverage of the intervals of the observed shares.
    """
    width = SINGLE if len(probs) == 1 else DOUBLE
    label = "predicted probability of malignant" if len(probs) <= 2 else "predicted"
    fig, axes = new_figure(2, len(probs), width=width, height=82, height_ratios=(4, 1), sharex=True, sharey="row")
    for (top, bottom), (name, scores) in zip(axes.T, probs.items(), strict=True):
        _draw_reliability(top, measure_reliability(targets, scores, confidence=confidence))
        title_panel(top, name)
        bottom.hist(scores, bins=np.linspace(0, 1, 26), color=GREY, lw=0)
        bottom.set(xlabel=label, xlim=(0, 1))
    axes[0, 0].set_ylabel("observed share of malignant")
    axes[1, 0].set_ylabel("images")
    note = f"{count_classes(targets)}; bins of equal count with {100 * confidence:g} % Wilson intervals"
    told = "; ".join(f"{name} {np.mean(p):.2f} and {np.mean(targets):.2f}" for name, p in probs.items())
    alt = f"Reliability diagrams, mean predicted probability and observed share: {told}"
    return finish_figure(fig, note=note, alt=alt)


def _draw_reliability(ax: Axes, curve: pd.DataFrame) -> None:
    ax.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls=(0, (1, 2)))
    ax.vlines(curve["predicted"], curve["low"], curve["high"], color=INK, lw=0.9)
    ax.plot(curve["predicted"], curve["observed"], "o-", color=INK, lw=0.9, mec="white", mew=0.6, clip_on=False)
    ax.set(xlim=(0, 1), ylim=(0, 1))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks(SHARES, SHARE_LABELS)


@house_style
def plot_decision_curve(curves: pd.DataFrame) -> Plate:
    """Net benefit of treating lesions above a threshold, for each threshold (Vickers and Elkin 2006).

    Args:
        curves: one row per series and `threshold` (float in (0, 1)), with `net_benefit`, and `low` and `high`, the ends
            of its band. The names "treat all" and "treat none" are drawn as references.
    """
    references = {"treat all": (0, (4, 2)), "treat none": (0, (1, 2))}
    models = [name for name in list_series(curves) if name not in references]
    fig, ((ax,),) = new_figure(width=SINGLE, height=56 + 3.5 * (len(models) + 2))
    styles = style_series(models) | {n: {"color": GREY, "linestyle": ls} for n, ls in references.items()}
    for name, part in curves.groupby("name", sort=False):
        look = {key: styles[name][key] for key in ("color", "linestyle")}
        ax.plot(part["threshold"], part["net_benefit"], **look, label=wrap_label(name, 60))
        ax.fill_between(part["threshold"], part["low"], part["high"], color=look["color"], alpha=0.15, lw=0, zorder=1)
    top = curves["net_benefit"].max()
    ax.set(xlim=(0, curves["threshold"].max()), ylim=(-0.25 * top, 1.08 * top))
    ax.set(xlabel="threshold probability", ylabel="net benefit (per image)")
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    legend_below(fig, ax.get_legend_handles_labels()[0], columns=1)
    told = f"Decision curves of {', '.join(models)} between treating all and treating none."
    return finish_figure(fig, note="bands: pointwise confidence intervals", alt=told)
