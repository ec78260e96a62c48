"""Figures of how well probabilities rank the images: ROC and precision-recall."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from sklearn.metrics import precision_recall_curve, roc_curve

from lesion_utils.evaluation.evaluate import Curve
from lesion_utils.figures.style import (
    GREY,
    SINGLE,
    Plate,
    count_classes,
    finish_figure,
    frame_unit_square,
    house_style,
    legend_below,
    new_figure,
    style_series,
    wrap_label,
)

CHANCE: dict[str, Any] = {"color": GREY, "lw": 0.8, "ls": (0, (1, 2)), "zorder": 1}
Bands = Mapping[str, Curve]
#: x and y of a curve, and of its operating point; None where nothing is called malignant.
Trace = tuple[np.ndarray, np.ndarray, tuple[float, float] | None]


@house_style
def plot_roc(
    targets: np.ndarray,
    probs: Mapping[str, np.ndarray],
    *,
    bands: Bands | None = None,
    summaries: Mapping[str, str] | None = None,
) -> Plate:
    """ROC curves with their confidence bands, the chance line, and the operating point at 0.5.

    Args:
        bands: name -> (false positive rate, lower, upper sensitivity).
        summaries: name -> what its legend line adds, such as "AUC 0.82 (0.77 to 0.87)".
    """
    malignant = np.asarray(targets) == 1

    def trace(scores: np.ndarray, called: np.ndarray) -> Trace:
        fpr, tpr, _ = roc_curve(targets, scores, drop_intermediate=False)
        return fpr, tpr, (called[~malignant].mean(), called[malignant].mean())

    chance = Line2D([0, 1], [0, 1], **CHANCE, label="chance")
    fig = _plot_curves(trace, targets, probs, bands, summaries, chance, what="ROC curves")
    frame_unit_square(fig.axes[0], "1 − specificity", "sensitivity")
    return finish_figure(fig, note=count_classes(targets), alt=fig.alt)


@house_style
def plot_precision_recall(
    targets: np.ndarray,
    probs: Mapping[str, np.ndarray],
    *,
    bands: Bands | None = None,
    summaries: Mapping[str, str] | None = None,
) -> Plate:
    """Precision against recall, as steps (no interpolation), with the prevalence as the line of chance.

    Args:
        bands: name -> (recall, lower, upper precision).
        summaries: name -> what its legend line adds, such as "AP 0.62 (0.52 to 0.71)".
    """
    malignant = np.asarray(targets) == 1

    def trace(scores: np.ndarray, called: np.ndarray) -> Trace:
        precision, recall = _list_steps(targets, scores)
        return recall, precision, (called[malignant].mean(), malignant[called].mean()) if called.any() else None

    share = malignant.mean()
    chance = Line2D([0, 1], [share, share], **CHANCE, label=f"chance: prevalence {share:.1%}")
    fig = _plot_curves(
        trace, targets, probs, bands, summaries, chance, what="Precision-recall curves", drawstyle="steps-pre"
    )
    frame_unit_square(fig.axes[0], "recall (sensitivity)", "precision")
    return finish_figure(fig, note=count_classes(targets), alt=fig.alt)


def _list_steps(targets: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall from recall 0 to the first threshold that finds all: the area of these steps is the AP."""
    precision, recall, _ = precision_recall_curve(targets, scores)
    precision, recall = precision[-2::-1], recall[-2::-1]  # without the last point, which scikit-learn adds
    end = np.searchsorted(recall, 1.0) + 1
    return np.r_[precision[0], precision[:end]], np.r_[0.0, recall[:end]]


def _plot_curves(
    trace: Callable[[np.ndarray, np.ndarray], Trace],
    targets: np.ndarray,
    probs: Mapping[str, np.ndarray],
    bands: Bands | None,
    summaries: Mapping[str, str] | None,
    chance: Line2D,
    *,
    what: str,
    drawstyle: str = "default",
) -> Plate:
    """Each series' curve, band and operating point; in the legend a line each with its summary."""
    fig, ((ax,),) = new_figure(width=SINGLE, height=76 + 4 * len(probs))
    styles = style_series(list(probs))
    for name, scores in probs.items():
        x, y, point = trace(scores, np.asarray(scores) > 0.5)
        ax.plot(x, y, **styles[name] | {"marker": ""}, drawstyle=drawstyle, zorder=3)
        if bands and name in bands:
            ax.fill_between(*bands[name], color=styles[name]["color"], alpha=0.15, lw=0, zorder=2)
        if point is not None:
            ax.plot(*point, **styles[name] | {"linestyle": ""}, ms=5, clip_on=False, zorder=5)
    ax.add_line(chance)
    labels = {name: ": ".join(filter(None, (name, (summaries or {}).get(name)))) for name in styles}
    handles = [Line2D([], [], **style, ms=5, label=wrap_label(labels[name], 60)) for name, style in styles.items()]
    marker = Line2D([], [], color=GREY, marker="o", ls="", ms=5, label="mark: above 0.5 is called malignant")
    legend_below(fig, [*handles, chance, marker], columns=1)
    fig.alt = f"{what}: {'; '.join(labels.values())}."
    return fig
