"""Figures of how well probabilities rank the images: ROC and precision-recall."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from sklearn.metrics import precision_recall_curve, roc_curve

from lesion_utils.evaluation.evaluate import Curve
from lesion_utils.evaluation.metrics import DEFAULT_THRESHOLD
from lesion_utils.figures.style import (
    GREY,
    INK,
    SINGLE,
    Plate,
    count_classes,
    finish_figure,
    house_style,
    legend_below,
    new_figure,
    style_series,
    wrap_label,
)

CHANCE: dict[str, Any] = {"color": GREY, "lw": 0.8, "ls": (0, (1, 2)), "zorder": 1}
CROSS: dict[str, Any] = {"linestyle": "", "color": INK, "ms": 6, "mew": 1.2}
Bands = Mapping[str, Curve]
#: x and y of a curve, and of its operating point; None if nothing is predicted malignant.
Trace = tuple[np.ndarray, np.ndarray, tuple[float, float] | None]


@house_style
def plot_roc(
    targets: np.ndarray,
    probs: Mapping[str, np.ndarray],
    *,
    bands: Bands | None = None,
    summaries: Mapping[str, str] | None = None,
    readers: Mapping[str, tuple[float, float]] | None = None,
) -> Plate:
    """ROC curves with their confidence bands, the line of guessing, and the operating point at `DEFAULT_THRESHOLD`.

    Args:
        targets: (N,) int, 0 benign and 1 malignant.
        probs: name -> (N,) float in [0, 1].
        bands: name -> (false positive rate, lower, upper sensitivity).
        summaries: name -> what its legend line adds, such as "AUC 0.82 (0.77 to 0.87)".
        readers: label -> (sensitivity, specificity) of published readers, drawn as crosses.
    """
    malignant, traces = np.asarray(targets) == 1, {}
    for name, scores in probs.items():
        fpr, tpr, _ = roc_curve(targets, scores, drop_intermediate=False)
        called = np.asarray(scores) > DEFAULT_THRESHOLD
        traces[name] = fpr, tpr, (called[~malignant].mean(), called[malignant].mean())
    chance = Line2D([0, 1], [0, 1], **CHANCE, label="guessing")
    crosses = {label: (1 - specificity, sensitivity) for label, (sensitivity, specificity) in (readers or {}).items()}
    axes = ("1 − specificity", "sensitivity")
    fig = _plot_curves(traces, bands, summaries, chance, axes=axes, crosses=crosses)
    return finish_figure(fig, note=count_classes(targets), alt=f"ROC curves: {fig.alt}.")


@house_style
def plot_precision_recall(
    targets: np.ndarray,
    probs: Mapping[str, np.ndarray],
    *,
    bands: Bands | None = None,
    summaries: Mapping[str, str] | None = None,
) -> Plate:
    """Precision against recall, as steps (no interpolation), with the prevalence as the line of guessing.

    Args:
        bands: name -> (recall, lower, upper precision).
        summaries: name -> what its legend line adds, such as "AP 0.62 (0.52 to 0.71)".
    """
    malignant, traces = np.asarray(targets) == 1, {}
    for name, scores in probs.items():
        precision, recall = _list_steps(targets, scores)
        called = np.asarray(scores) > DEFAULT_THRESHOLD
        point = (called[malignant].mean(), malignant[called].mean()) if called.any() else None
        traces[name] = recall, precision, point
    share, axes = malignant.mean(), ("recall (sensitivity)", "precision")
    chance = Line2D([0, 1], [share, share], **CHANCE, label=f"guessing: prevalence {share:.1%}")
    fig = _plot_curves(traces, bands, summaries, chance, axes=axes, drawstyle="steps-pre")
    return finish_figure(fig, note=count_classes(targets), alt=f"Precision-recall curves: {fig.alt}.")


def _list_steps(targets: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall from recall 0 to the first threshold that finds all: the area of these steps is the AP."""
    precision, recall, _ = precision_recall_curve(targets, scores)
    precision, recall = precision[-2::-1], recall[-2::-1]  # without the last point, which scikit-learn adds
    end = np.searchsorted(recall, 1.0) + 1
    return np.r_[precision[0], precision[:end]], np.r_[0.0, recall[:end]]


def _plot_curves(
    traces: Mapping[str, Trace],
    bands: Bands | None,
    summaries: Mapping[str, str] | None,
    chance: Line2D,
    *,
    axes: tuple[str, str],
    drawstyle: str = "default",
    crosses: Mapping[str, tuple[float, float]] | None = None,
) -> Plate:
    """Each series' curve, band and operating point; in the legend, and as `alt`, a line each with its summary."""
    fig, ((ax,),) = new_figure(width=SINGLE, height=76 + 4 * len(traces) + 7 * len(crosses or {}))
    styles = style_series(list(traces))
    for name, (x, y, point) in traces.items():
        ax.plot(x, y, **styles[name] | {"marker": ""}, drawstyle=drawstyle, zorder=3)
        if bands and name in bands:
            ax.fill_between(*bands[name], color=styles[name]["color"], alpha=0.15, lw=0, zorder=2)
        if point is not None:
            ax.plot(*point, **styles[name] | {"linestyle": ""}, ms=5, clip_on=False, zorder=5)
    ax.add_line(chance)
    for k, point in enumerate((crosses or {}).values()):
        ax.plot(*point, **CROSS | {"marker": "xP*"[k % 3]}, clip_on=False, zorder=6)
    labels = {name: ": ".join(filter(None, (name, (summaries or {}).get(name)))) for name in styles}
    handles = [Line2D([], [], **style, ms=5, label=wrap_label(labels[name], 60)) for name, style in styles.items()]
    marker = Line2D([], [], color=GREY, marker="o", ls="", ms=5, label=f"mark: threshold {DEFAULT_THRESHOLD}")
    published = [
        Line2D([], [], **CROSS | {"marker": "xP*"[k % 3]}, label=wrap_label(label, 60))
        for k, label in enumerate(crosses or {})
    ]
    legend_below(fig, [*handles, *published, chance, marker], columns=1)
    ticks = np.linspace(0, 1, 6)
    ax.set(xlim=(0, 1), ylim=(0, 1), xticks=ticks, yticks=ticks, xlabel=axes[0], ylabel=axes[1], aspect="equal")
    for edge in ax.spines.values():
        edge.set_zorder(0.5)  # curves that run along it stay visible
    fig.alt = "; ".join([*labels.values(), *(crosses or {})])
    return fig
