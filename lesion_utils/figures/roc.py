"""Figures of how well probabilities rank the images: ROC and precision-recall."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from sklearn.metrics import precision_recall_curve, roc_curve

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

CHANCE = {"color": GREY, "lw": 0.8, "ls": (0, (1, 2)), "zorder": 1}
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
    fig, ax, styles, positive = _begin_curves(targets, probs)
    for name, scores in probs.items():
        fpr, tpr, _ = roc_curve(targets, scores, drop_intermediate=False)
        called = np.asarray(scores) > 0.5
        point = called[~positive].mean(), called[positive].mean()
        _draw_curve(ax, fpr, tpr, styles[name], band=(bands or {}).get(name), point=point)
    chance = Line2D([0, 1], [0, 1], **CHANCE, label="chance")
    ax.add_line(chance)
    frame_unit_square(ax, "1 − specificity", "sensitivity")
    return _finish_curves(fig, targets, styles, summaries, chance, what="ROC curves")


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
    fig, ax, styles, positive = _begin_curves(targets, probs)
    for name, scores in probs.items():
        precision, recall = _list_steps(targets, scores)
        called = np.asarray(scores) > 0.5
        point = (called[positive].mean(), positive[called].mean()) if called.any() else None
        band = (bands or {}).get(name)
        _draw_curve(ax, recall, precision, styles[name], band=band, point=point, drawstyle="steps-pre")
    prevalence = positive.mean()
    chance = Line2D([0, 1], [prevalence, prevalence], **CHANCE, label=f"chance: prevalence {prevalence:.1%}")
    ax.add_line(chance)
    frame_unit_square(ax, "recall (sensitivity)", "precision")
    return _finish_curves(fig, targets, styles, summaries, chance, what="Precision-recall curves")


def _begin_curves(
    targets: np.ndarray, probs: Mapping[str, np.ndarray]
) -> tuple[Plate, Axes, dict[str, dict[str, object]], np.ndarray]:
    """An empty figure with room for the legend, its panel, the style of each series, and who is malignant."""
    fig, ((ax,),) = new_figure(width=SINGLE, height=76 + 4 * len(probs))
    return fig, ax, style_series(list(probs)), np.asarray(targets) == 1


def _list_steps(targets: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall from recall 0 to the first threshold that finds all: the area of these steps is the AP."""
    precision, recall, _ = precision_recall_curve(targets, scores)
    precision, recall = precision[-2::-1], recall[-2::-1]  # without the last point, which scikit-learn adds
    end = np.searchsorted(recall, 1.0) + 1
    return np.r_[precision[0], precision[:end]], np.r_[0.0, recall[:end]]


def _draw_curve(
    ax: Axes,
    x: np.ndarray,
    y: np.ndarray,
    style: dict[str, object],
    *,
    band: Band | None,
    point: tuple[float, float] | None,
    drawstyle: str = "default",
) -> None:
    """A curve, its band, and the operating point."""
    ax.plot(x, y, **style | {"marker": ""}, drawstyle=drawstyle, zorder=3)
    if band is not None:
        ax.fill_between(*band, color=style["color"], alpha=0.15, lw=0, zorder=2)
    if point is not None:
        ax.plot(*point, **style | {"linestyle": ""}, ms=5, clip_on=False, zorder=5)


def _finish_curves(
    fig: Plate,
    targets: np.ndarray,
    styles: Mapping[str, dict[str, object]],
    summaries: Mapping[str, str] | None,
    chance: Line2D,
    *,
    what: str,
) -> Plate:
    """The legend: a line per series with its summary, the line of chance, and what the markers are."""
    labels = {name: ": ".join(filter(None, (name, (summaries or {}).get(name)))) for name in styles}
    handles = [Line2D([], [], **style, ms=5, label=wrap_label(labels[name], 60)) for name, style in styles.items()]
    marker = Line2D([], [], color=GREY, marker="o", ls="", ms=5, label="mark: above 0.5 is called malignant")
    legend_below(fig, [*handles, chance, marker], columns=1)
    return finish_figure(fig, note=count_classes(targets), alt=f"{what}: {'; '.join(labels.values())}.")
