"""Figures of how well probabilities rank the images: ROC and precision-recall."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from sklearn.metrics import precision_recall_curve, roc_curve

from lesion_utils.plots.style import (
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

#: A band around a curve: x, lower y, upper y; each (K,) float in [0, 1].
Band = tuple[np.ndarray, np.ndarray, np.ndarray]


@house_style
def plot_roc(
    targets: np.ndarray,
    probs: Mapping[str, np.ndarray],
    *,
    bands: Mapping[str, Band] | None = None,
    summaries: Mapping[str, str] | None = None,
) -> Plate:
    """ROC curves with their confidence bands, the chance line, and the operating point at 0.5.

    Args:
        targets: (N,) int, 0 benign, 1 malignant.
        probs: name of the series -> (N,) float in [0, 1].
        bands: name -> (false positive rate, lower, upper sensitivity).
        summaries: name -> what its legend line adds, such as "AUC 0.82 (0.77 to 0.87)".
    """
    fig, ((ax,),) = new_figure(width=SINGLE, height=76 + 8 * len(probs) / 2)
    for name, style in style_series(list(probs)).items():
        fpr, tpr, _ = roc_curve(targets, probs[name], drop_intermediate=False)
        _draw_curve(ax, fpr, tpr, style, (bands or {}).get(name))
        called, positive = np.asarray(probs[name]) > 0.5, np.asarray(targets) == 1
        ax.plot(
            called[~positive].mean(),
            called[positive].mean(),
            ls="",
            mec="white",
            mew=0.7,
            ms=6,
            marker=style["marker"],
            color=style["color"],
            clip_on=False,
            zorder=5,
        )
    chance = ax.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls=(0, (1, 2)), zorder=1, label="chance")
    frame_unit_square(ax, "1 − specificity", "sensitivity")
    _list_series(fig, probs, summaries, chance)
    return finish_figure(fig, note=count_classes(targets), alt=_tell("ROC curves", probs, summaries))


@house_style
def plot_precision_recall(
    targets: np.ndarray,
    probs: Mapping[str, np.ndarray],
    *,
    bands: Mapping[str, Band] | None = None,
    summaries: Mapping[str, str] | None = None,
) -> Plate:
    """Precision against recall, as steps (no interpolation), with the prevalence as the line of chance.

    Args:
        targets: (N,) int, 0 benign, 1 malignant.
        probs: name of the series -> (N,) float in [0, 1].
        bands: name -> (recall, lower, upper precision).
        summaries: name -> what its legend line adds, such as "AP 0.62 (0.52 to 0.71)".
    """
    fig, ((ax,),) = new_figure(width=SINGLE, height=76 + 8 * len(probs) / 2)
    for name, style in style_series(list(probs)).items():
        precision, recall, _ = precision_recall_curve(targets, probs[name])
        _draw_curve(ax, recall[::-1][1:], precision[::-1][1:], style, (bands or {}).get(name), drawstyle="steps-pre")
        called, positive = np.asarray(probs[name]) > 0.5, np.asarray(targets) == 1
        if called.any():
            ax.plot(
                called[positive].mean(),
                positive[called].mean(),
                ls="",
                mec="white",
                mew=0.7,
                ms=6,
                marker=style["marker"],
                color=style["color"],
                clip_on=False,
                zorder=5,
            )
    prevalence = np.mean(targets)
    chance = ax.axhline(
        prevalence, color=GREY, lw=0.8, ls=(0, (1, 2)), zorder=1, label=f"chance: prevalence {prevalence:.1%}"
    )
    frame_unit_square(ax, "recall (sensitivity)", "precision")
    _list_series(fig, probs, summaries, [chance])
    return finish_figure(fig, note=count_classes(targets), alt=_tell("Precision-recall curves", probs, summaries))


def _draw_curve(ax: Axes, x: np.ndarray, y: np.ndarray, style: dict, band: Band | None, **kwargs) -> None:
    ax.plot(x, y, color=style["color"], ls=style["linestyle"], zorder=3, **kwargs)
    if band is not None:
        ax.fill_between(*band, color=style["color"], alpha=0.15, lw=0, zorder=2)


def _list_series(fig: Plate, names: Mapping[str, object], summaries: Mapping[str, str] | None, chance: list) -> None:
    """The legend: a line per series with its summary, the chance line, and what the markers are."""
    handles = []
    for name, style in style_series(list(names)).items():
        label = ": ".join(filter(None, (name, (summaries or {}).get(name))))
        handles.append(
            Line2D(
                [],
                [],
                color=style["color"],
                ls=style["linestyle"],
                marker=style["marker"],
                mec="white",
                mew=0.7,
                ms=6,
                label=wrap_label(label, 60),
            )
        )
    marker = Line2D(
        [], [], color=GREY, marker="o", mec="white", ls="", ms=6, label="markers: called malignant above 0.5"
    )
    legend_below(fig, [*handles, *chance, marker], columns=1)


def _tell(what: str, names: Mapping[str, object], summaries: Mapping[str, str] | None) -> str:
    return f"{what}: " + "; ".join(": ".join(filter(None, (name, (summaries or {}).get(name)))) for name in names) + "."
