"""Figures that set models beside each other and beside the literature: Lopez et al. (2017), Benyahia et al. (2022)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lesion_utils.core.names import CLASSIFIER_NAMES, REGIME_NAMES, REGIMES, SeriesName, name_model
from lesion_utils.evaluation.evaluate import label_metric
from lesion_utils.evaluation.literature import SECONDARY_MARK
from lesion_utils.evaluation.shortcuts import CONTROL
from lesion_utils.figures.style import (
    ACCENT,
    DOUBLE,
    GREY,
    INK,
    LIGHT,
    SHARE_LABELS,
    SHARES,
    SINGLE,
    Plate,
    finish_figure,
    house_style,
    legend_below,
    list_series,
    new_figure,
    state_absence,
    style_series,
    wrap_label,
)

SHADE = "#9383c5"  # darkest cell of the heat map: dark type still reads on it
CROSS: dict[str, Any] = {"linestyle": "", "color": INK, "marker": "x", "ms": 6, "mew": 0.8}
METRICS = ("ap", "auc")  # the panels of a forest plot

#: Groups of a forest plot, from top to bottom: how each is drawn; the study's own rows take their network's style.
GROUPS = {
    "this study": {"color": ACCENT, "marker": "o"},
    "controls": {"color": GREY, "marker": "s"},
    "published": {"color": INK, "marker": "D"},
    "not comparable": {"color": GREY, "marker": "D", "markerfacecolor": "white"},
}


@house_style
def plot_forest(rows: pd.DataFrame) -> Plate:
    """All models with their intervals, among the published results; what cannot be compared is shown apart.

    Args:
        rows: one per model, with `group` (a key of `GROUPS`), and for each of `METRICS` `<metric>`, `<metric>_low`,
            `<metric>_high`; NaN where there is none. A group keeps its order; rows without any metric are left out.
    """
    rows = rows.dropna(subset=list(METRICS), how="all")
    groups = [g for g in GROUPS if g in set(rows["group"])]
    ordered = pd.concat([rows[rows["group"] == g] for g in groups], ignore_index=True)
    labels = [wrap_label(name, 46) for name in ordered["name"]]
    steps = np.array([max(1, 0.7 * (label.count("\n") + 1)) for label in labels])  # longer names take more room
    y = np.cumsum(steps) - steps / 2 + 1.6 * np.array([groups.index(g) for g in ordered["group"]])
    fig, axes = new_figure(1, len(METRICS), width=DOUBLE, height=16 + 4.3 * (y[-1] + 2), sharey=True)
    for ax, metric in zip(axes[0], METRICS, strict=True):
        _draw_forest(ax, ordered, y, metric)
    axes[0, 0].set_yticks(y, labels)
    axes[0, 0].set_ylim(y[-1] + 0.8, -1.2)
    for group in groups:
        top = (y - steps / 2)[(ordered["group"] == group).to_numpy()][0] - 0.5
        axes[0, 0].annotate(
            group, (0, top), xycoords=axes[0, 0].get_yaxis_transform(), xytext=(-4, 0), textcoords="offset points",
            ha="right", va="center", weight="bold",
        )  # fmt: skip
    told = "; ".join(
        f"{row['name']}: " + ", ".join(f"{label_metric(m)} {row[m]:.3f}" for m in METRICS)
        for _, row in rows[rows["group"] == "this study"].iterrows()
    )
    note = "bars: confidence intervals; published results have none"
    return finish_figure(fig, note=note, alt=f"Forest plot of {len(rows)} models. {told}")


def _draw_forest(ax: Axes, rows: pd.DataFrame, y: np.ndarray, metric: str) -> None:
    """One panel: a mark and a bar per row, the numbers in a column at the right edge."""
    own = style_series(list_series(rows[rows["group"] == "this study"]))
    for (_, row), height in zip(rows[rows[metric].notna()].iterrows(), y[rows[metric].notna()], strict=True):
        style = own.get(row["name"], GROUPS[row["group"]]) | {"linestyle": ""}
        low, high = row[f"{metric}_low"], row[f"{metric}_high"]
        ax.plot([low, high], [height, height], color=style["color"], lw=1.1)
        ax.plot(row[metric], height, ms=4.5, **style)
        span = "" if np.isnan(low) else f" ({low:.3f}–{high:.3f})"
        _write_beside(ax, height, f"{row[metric]:.3f}{span}")
    apart = (rows["group"] == "not comparable").to_numpy()
    if apart.any():
        ax.axhspan(y[apart][0] - 1.6, y[-1] + 0.8, color=LIGHT, alpha=0.35, lw=0, zorder=0)
    _frame_rows(ax, label_metric(metric))


def _write_beside(ax: Axes, y: float, text: str) -> None:
    """Numbers in the column right of a panel, at the height of their row."""
    ax.text(1.02, y, text, transform=ax.get_yaxis_transform(), va="center_baseline", fontsize=6)


def _frame_rows(ax: Axes, label: str) -> None:
    """A panel whose rows are named, not measured."""
    ax.set_xlabel(label)
    ax.grid(axis="x", color=LIGHT, lw=0.5)
    ax.set_axisbelow(True)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


@house_style
def plot_paired_differences(rows: pd.DataFrame) -> Plate:
    """Differences between two models on the same images, with intervals; zero is no difference.

    Args:
        rows: one per comparison, with `name` (such as "ResNet50 − VGG19, fine-tuned"), `metric`, `difference`, `low`,
            `high` (NaN without an interval), `p` (NaN where untested) and `primary` (bool: the one that is tested).
    """
    metrics, names = list(dict.fromkeys(rows["metric"])), list(dict.fromkeys(rows["name"]))
    fig, axes = new_figure(1, len(metrics), width=DOUBLE, height=14 + 8 * len(names), sharey=True)
    reach = 1.1 * rows[["difference", "low", "high"]].abs().max().max()
    for ax, metric in zip(axes[0], metrics, strict=True):
        ax.axvline(0, color=INK, lw=0.8)
        for row in rows[rows["metric"] == metric].itertuples():
            y, colour = names.index(row.name), ACCENT if row.primary else GREY
            ax.plot([row.low, row.high], [y, y], color=colour, lw=2 if row.primary else 1.1)
            ax.plot(row.difference, y, "o", color=colour, ms=5 if row.primary else 4)
            tested = "" if np.isnan(row.p) else f", p = {row.p:.3f}" if row.p >= 0.001 else ", p < 0.001"
            span = "" if np.isnan(row.low) else f"\n({row.low:+.3f} to {row.high:+.3f})"
            _write_beside(ax, y, f"{row.difference:+.3f}{tested}{span}".replace("-", "−"))
        ax.set_xlim(-reach, reach)
        ax.xaxis.set_major_locator(MaxNLocator(2 if len(metrics) > 2 else 4, symmetric=True))
        _frame_rows(ax, f"difference in {label_metric(metric)}")
    axes[0, 0].set_yticks(range(len(names)), [wrap_label(n, 30) for n in names])
    axes[0, 0].set_ylim(len(names) - 0.5, -0.5)
    told = "; ".join(
        f"{r.name}, {label_metric(r.metric)} {r.difference:+.3f}"
        + ("" if np.isnan(r.low) else f" ({r.low:+.3f} to {r.high:+.3f})")
        for r in rows.itertuples()
    )
    note = "paired on the same images; thick: the declared comparison, the others are descriptive"
    return finish_figure(fig, note=note, alt=f"Paired differences: {told}.")


@house_style
def plot_scores_by_block(rows: pd.DataFrame) -> Plate:
    """The AUC on all images, within each block of ids, and over the pairs of one stratum.

    Args:
        rows: one per block and series, with `block`, `images`, `malignant` (counts in the block), `value`, `low`,
            `high`; NaN where a block holds one class only.
    """
    blocks, names = list(dict.fromkeys(rows["block"])), list_series(rows)
    controls = [name for name in names if name.model == CONTROL]
    styles = style_series([name for name in names if name not in controls])  # as in the forest plot
    styles |= {name: {"color": GREY, "marker": mark} for name, mark in zip(controls, "sDP", strict=False)}
    fig, ((ax,),) = new_figure(width=DOUBLE, height=58)
    for k, name in enumerate(names):
        part = rows[(rows["name"] == name) & rows["value"].notna()]
        x = np.array([blocks.index(b) for b in part["block"]]) + (k - (len(names) - 1) / 2) * 0.7 / len(names)
        ax.vlines(x, part["low"], part["high"], color=styles[name]["color"], lw=1.1)
        ax.plot(x, part["value"], **styles[name] | {"linestyle": ""}, ms=4.2, clip_on=False)
    counts = rows.drop_duplicates("block").set_index("block")
    labels = [f"{wrap_label(b, 16)}\n{counts.malignant[b]} of {counts.images[b]}" for b in blocks]
    several = len(blocks) > 1
    ax.set_xticks(range(len(blocks)), labels)
    for edge in range(1, len(blocks)):
        ax.axvline(edge - 0.5, color=LIGHT, lw=0.6)
    chance = ax.axhline(0.5, color=GREY, lw=0.8, ls=(0, (1, 2)), label="guessing")
    ax.set(ylim=(0, 1), xlim=(-0.5, len(blocks) - 0.5), ylabel="AUC")
    ax.set_xlabel("block, malignant of all images" if several else "malignant of all images")
    handles = [Line2D([], [], **style | {"linestyle": ""}, label=name) for name, style in styles.items()]
    legend_below(fig, [*handles, chance], columns=min(3, len(handles) + 1))
    note = "bars: confidence intervals" + (
        "; no bar: fewer than ten images of a class" if rows["low"].isna().any() else ""
    )
    told = "; ".join(f"{r.name} in {r.block} {r.value:.2f}" for r in rows.itertuples() if not np.isnan(r.value))
    return finish_figure(
        fig, note=note, alt=f"AUC on all images{' and within blocks of ids' if several else ''}: {told}"
    )


@house_style
def plot_classifier_heatmap(rows: pd.DataFrame, *, metric: str) -> Plate:
    """Classical classifiers on frozen features, after Benyahia et al.: a cell per backbone and classifier.

    Args:
        rows: one per cell, with `backbone`, `classifier`, `value` (of the metric), `low`, `high`; none: it says so.
    """
    if rows.empty:
        return state_absence("no classical classifiers: they need pretrained weights")
    table = rows.pivot(index="classifier", columns="backbone", values="value")
    order = [c for c in CLASSIFIER_NAMES if c in table.index] + [c for c in table.index if c not in CLASSIFIER_NAMES]
    table = table.loc[order, rows["backbone"].unique()]
    written = rows.assign(cell=[f"{row.value:.3f}\n{row.low:.3f}–{row.high:.3f}" for row in rows.itertuples()])
    cells = written.pivot(index="classifier", columns="backbone", values="cell").fillna("")
    fig, ((ax,),) = new_figure(width=SINGLE if table.shape[1] < 3 else DOUBLE, height=24 + 8 * len(table))
    sns.heatmap(
        table, annot=cells.loc[table.index, table.columns], fmt="", cmap=sns.light_palette(SHADE, as_cmap=True), ax=ax,
        linewidths=1, annot_kws={"fontsize": 6.5, "color": INK},
        cbar_kws={"label": label_metric(metric), "shrink": 0.8, "ticks": MaxNLocator(5)},
    )  # fmt: skip
    ax.set_xticklabels([wrap_label(name_model(b), 16) for b in table.columns], rotation=0)
    ax.set_yticklabels([wrap_label(CLASSIFIER_NAMES.get(c, c), 20) for c in table.index], rotation=0)
    ax.set(xlabel="frozen features of", ylabel="")
    ax.tick_params(length=0)
    best = rows.loc[rows["value"].idxmax()]
    winner = (
        f"{CLASSIFIER_NAMES.get(best.classifier, best.classifier)} on {name_model(best.backbone)}, {best.value:.3f}"
    )
    told = f"{len(table)} classifiers on frozen features of {table.shape[1]} networks; highest: {winner}."
    return finish_figure(fig, note=f"{label_metric(metric)} with its interval", alt=f"{label_metric(metric)} of {told}")


@house_style
def plot_regimes(rows: pd.DataFrame) -> Plate:
    """The three regimes of Lopez et al. (2017): a panel per metric, own networks beside the published one.

    Args:
        rows: from `literature.tabulate_regimes`; values with the mark "secondary source" are crossed out.
    """
    metrics, regimes = list(dict.fromkeys(rows["metric"])), [r for r in REGIMES if r in set(rows["regime"])]
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
            doubtful = part["mark"].eq(SECONDARY_MARK).to_numpy()
            if doubtful.any():  # an empty series would upset the layout
                ax.plot(part["value"][doubtful], y[doubtful], **CROSS, clip_on=False, zorder=5)
            fill = "white" if balanced else colour
            ax.plot(part["value"], y, ls="", ms=4.5, color=colour, marker=marker, mfc=fill, clip_on=False)
        _frame_regimes(ax, metric, len(regimes))
    axes[0, 0].set_yticks(range(len(regimes)), [REGIME_NAMES[r] for r in regimes])
    axes[0, 0].set_ylim(len(regimes) - 0.5, -0.5)
    handles = [
        Line2D([], [], ls="", color=styles[s]["color"], marker=styles[s]["marker"], mfc="white" if b else None,
               label=f"{s}, {'balanced subset' if b else 'official test set'}")
        for s, b in series
    ]  # fmt: skip
    if rows["mark"].eq(SECONDARY_MARK).any():
        handles.append(Line2D([], [], **CROSS, label=f"crossed out: {SECONDARY_MARK}"))
    legend_below(fig, handles, columns=2)
    note = "hollow: balanced subset of the test set, not comparable with the full test set"
    told = "; ".join(
        f"{r.source}{', balanced' * r.balanced}, {REGIME_NAMES[r.regime]}, {label_metric(r.metric)} {r.value:.2f}"
        for r in rows.itertuples()
    )
    return finish_figure(fig, note=note, alt=f"Training regimes: {told}.")


def _frame_regimes(ax: Axes, metric: str, regimes: int) -> None:
    _frame_rows(ax, label_metric(metric))
    if ax.dataLim.x1 <= 1:
        ax.set_xlim(0, 1)
        ax.set_xticks(SHARES, SHARE_LABELS)
    else:  # a loss has no upper end
        ax.set_xlim(0, 1.05 * ax.dataLim.x1)
        ax.xaxis.set_major_locator(MaxNLocator(3))
    for edge in range(1, regimes):
        ax.axhline(edge - 0.5, color=LIGHT, lw=0.8)
