"""Figures after Lopez et al. (2017) and Benyahia et al. (2022): regimes, and classifiers on frozen features."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lesion_utils.core.names import CLASSIFIER_NAMES, REGIME_NAMES, SeriesName, name_model
from lesion_utils.evaluation.evaluate import label_metric
from lesion_utils.evaluation.literature import SECONDARY_MARK
from lesion_utils.figures.style import (
    DOUBLE,
    INK,
    LIGHT,
    SHARE_LABELS,
    SHARES,
    SINGLE,
    Plate,
    finish_figure,
    house_style,
    legend_below,
    new_figure,
    style_series,
    wrap_label,
)

SHADE = "#9383c5"  # darkest cell of the heat map: dark type still reads on it


@house_style
def plot_classifier_heatmap(rows: pd.DataFrame, *, metric: str = "ap") -> Plate:
    """Classical classifiers on frozen features: a cell per backbone and classifier, with its interval.

    Args:
        rows: one row per cell, with `backbone`, `classifier`, `value`, `low`, `high`.
        metric: what `value` is. Without a row, the figure says so.
    """
    if rows.empty:
        return _state_absence("no classical classifiers in this study: they need pretrained features")
    table = rows.pivot(index="classifier", columns="backbone", values="value")
    order = [c for c in CLASSIFIER_NAMES if c in table.index] + [c for c in table.index if c not in CLASSIFIER_NAMES]
    table = table.loc[order, list(dict.fromkeys(rows["backbone"]))]
    spans = rows.set_index(["classifier", "backbone"])
    fig, ((ax,),) = new_figure(width=SINGLE if table.shape[1] < 3 else DOUBLE, height=24 + 8 * len(table))
    cells = [[_write_cell(spans, c, b) for b in table.columns] for c in table.index]
    sns.heatmap(
        table, annot=np.array(cells), fmt="", cmap=sns.light_palette(SHADE, as_cmap=True), ax=ax, linewidths=1,
        annot_kws={"fontsize": 6.5, "color": INK},
        cbar_kws={"label": label_metric(metric), "shrink": 0.8, "ticks": MaxNLocator(5)},
    )  # fmt: skip
    ax.set_xticklabels([wrap_label(name_model(b), 16) for b in table.columns], rotation=0)
    ax.set_yticklabels([wrap_label(CLASSIFIER_NAMES.get(c, c), 20) for c in table.index], rotation=0)
    ax.set(xlabel="frozen features of", ylabel="")
    ax.tick_params(length=0)
    best = rows.loc[rows["value"].idxmax()]
    winner = f"{CLASSIFIER_NAMES.get(best.classifier, best.classifier)} on {name_model(best.backbone)}"
    return finish_figure(
        fig,
        note=f"{label_metric(metric)} with its interval",
        alt=f"{label_metric(metric)} of {len(table)} classifiers on frozen features of {table.shape[1]} networks; "
        f"highest: {winner}, {best.value:.3f}.",
    )


def _state_absence(text: str) -> Plate:
    """A figure that says why there is nothing to draw."""
    fig, ((ax,),) = new_figure(width=SINGLE, height=16)
    ax.set_axis_off()
    ax.text(0.5, 0.5, wrap_label(text, 44), ha="center", va="center")
    return finish_figure(fig, note="n = 0", alt=text)


def _write_cell(spans: pd.DataFrame, classifier: str, backbone: str) -> str:
    if (classifier, backbone) not in spans.index:
        return ""
    cell = spans.loc[(classifier, backbone)]
    return f"{cell.value:.3f}\n{cell.low:.3f}–{cell.high:.3f}"


@house_style
def plot_regimes(rows: pd.DataFrame) -> Plate:
    """The three regimes of Lopez et al. (2017): a panel per metric, own networks beside the published one.

    Args:
        rows: one row per (regime, source, balanced, metric), with `regime` (scratch, features, finetune), `model`
            ("" of published rows), `source`
            (such as "ResNet50" or "VGG16, Lopez et al. 2017"), `balanced` (bool: measured on 75 + 75 images, not on
            the full test set), `metric`, `value`, `low`, `high` (NaN without an interval); optionally `mark`, which
            says of a value "secondary source": those are crossed out.
    """
    metrics, regimes = list(dict.fromkeys(rows["metric"])), [r for r in REGIME_NAMES if r in set(rows["regime"])]
    series = list(dict.fromkeys(zip(rows["source"], rows["balanced"], strict=True)))
    own = dict(zip(rows["source"], rows["model"], strict=True))
    styles = style_series([SeriesName(source, model, "finetune") for source, model in own.items()])
    height = 20 + 1.6 * len(series) + len(regimes) * (4 + 3.2 * len(series))
    fig, axes = new_figure(1, len(metrics), width=DOUBLE, height=height, sharey=True)
    for ax, metric in zip(axes[0], metrics, strict=True):
        for k, (source, balanced) in enumerate(series):
            part = rows[(rows["metric"] == metric) & (rows["source"] == source) & (rows["balanced"] == balanced)]
            y = np.array([regimes.index(r) for r in part["regime"]]) + (k - (len(series) - 1) / 2) * 0.75 / len(series)
            colour, marker = styles[source]["color"], styles[source]["marker"]
            ax.hlines(y, part["low"], part["high"], color=colour, lw=1.1)
            doubtful = part["mark"].eq(SECONDARY_MARK).to_numpy() if "mark" in part else np.zeros(len(part), bool)
            if doubtful.any():
                ax.plot(part["value"][doubtful], y[doubtful], "x", ms=6, mew=0.8, color=INK, clip_on=False, zorder=5)
            ax.plot(
                part["value"],
                y,
                ls="",
                ms=4.5,
                color=colour,
                marker=marker,
                mfc="white" if balanced else colour,
                clip_on=False,
            )
        _frame_regimes(ax, metric, len(regimes))
    axes[0, 0].set_yticks(range(len(regimes)), [REGIME_NAMES[r] for r in regimes])
    axes[0, 0].set_ylim(len(regimes) - 0.5, -0.5)
    handles = [
        Line2D([], [], ls="", color=styles[s]["color"], marker=styles[s]["marker"], mfc="white" if b else None,
               label=f"{s}, {'balanced subset' if b else 'official test set'}")
        for s, b in series
    ]  # fmt: skip
    if "mark" in rows and rows["mark"].eq(SECONDARY_MARK).any():
        handles.append(Line2D([], [], ls="", color=INK, marker="x", ms=6, mew=0.8, label=f"crossed: {SECONDARY_MARK}"))
    legend_below(fig, handles, columns=2)
    note = "hollow: balanced subset of the test set, not comparable with the full one"
    told = (
        f"{r.source}{', balanced' * r.balanced}, {REGIME_NAMES[r.regime]}, {label_metric(r.metric)} {r.value:.2f}"
        for r in rows.itertuples()
    )
    return finish_figure(fig, note=note, alt=f"Training regimes: {'; '.join(told)}.")


def _frame_regimes(ax: Axes, metric: str, regimes: int) -> None:
    ax.set_xlabel(label_metric(metric))
    if ax.dataLim.x1 <= 1:
        ax.set_xlim(0, 1)
        ax.set_xticks(SHARES, SHARE_LABELS)
    else:  # a loss has no upper end
        ax.set_xlim(0, 1.05 * ax.dataLim.x1)
        ax.xaxis.set_major_locator(MaxNLocator(3))
    ax.grid(axis="x", color=LIGHT, lw=0.5)
    for edge in range(1, regimes):
        ax.axhline(edge - 0.5, color=LIGHT, lw=0.8)
    ax.set_axisbelow(True)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
