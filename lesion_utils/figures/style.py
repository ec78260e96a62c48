"""The house style of every figure: sizes, colours, names, the footer, and how a figure is shown and saved.

Figures never pass through pyplot: no global state, nothing to close. Layout is computed once, when a figure is
finished, so that PNG, SVG and the notebook show the same picture and saving twice gives the same bytes.
"""

from __future__ import annotations

import io
import textwrap
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.transforms import Bbox

from lesion_utils.core.files import write_atomic
from lesion_utils.core.names import COMBINATION, SeriesName

MM = 1 / 25.4
SINGLE, DOUBLE = 89.0, 183.0  # widths of a journal's one and two columns, mm
FOOTER = 5.5  # strip at the bottom of every figure: n and what the figure is drawn from, mm
DPI = 200
SCREEN_SCALE = 1.4 * 96 / 25.4  # CSS px per mm in a notebook: 7 pt type reads as 13 px

CLASS_NAMES = ("benign", "malignant")
# Blue and vermilion after Okabe and Ito (2008), moved apart in lightness so that they also differ in greyscale.
CLASS_COLOURS = {"benign": "#2d7ab1", "malignant": "#8f2b00"}
MODEL_COLOURS, MODEL_MARKERS = ("#4b2a85", "#15835f", "#a01c5c", "#3f5a66"), ("o", "s", "p", "h")
ACCENT = MODEL_COLOURS[0]
REGIME_DASHES = {"scratch": (0, (1.2, 1.2)), "features": (0, (4, 1.6)), "finetune": "-"}
OTHER_COLOURS = ("#bb5217", "#2f6db5", "#b0568f", "#7a6a00")
OTHER_MARKERS = ("^", "v", "P", "D")
SHARES, SHARE_LABELS = np.linspace(0, 1, 5), ["0", "", "0.5", "", "1"]  # ticks of neighbours never meet
INK, GREY, LIGHT = "#222222", "#6b6b6b", "#d9d9d9"

#: What PDF calls the metadata that it has a place for.
PDF_NAMES = {"Title": "Title", "Description": "Subject", "Identifier": "Keywords"}

HOUSE = {
    **{k: v for k, v in matplotlib.rcParamsDefault.items() if not k.startswith(("backend", "interactive", "webagg"))},
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same letters on every machine
    "font.size": 7, "axes.labelsize": 7, "xtick.labelsize": 6.5, "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5, "axes.titlesize": 7.5, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.titlepad": 4, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6,
    "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5, "ytick.major.size": 2.5,
    "xtick.minor.size": 0, "ytick.minor.size": 0,
    "lines.linewidth": 1.2, "lines.markersize": 4, "patch.linewidth": 0.6, "axes.unicode_minus": True,
    "legend.frameon": False, "legend.handlelength": 2.2, "legend.borderaxespad": 0.2,
    "figure.dpi": DPI, "savefig.dpi": DPI,
    "figure.constrained_layout.h_pad": 0.03, "figure.constrained_layout.w_pad": 0.03,
    "svg.hashsalt": "lesion_utils", "svg.fonttype": "path", "pdf.fonttype": 42,
}  # fmt: skip

#: Decorator: what is drawn inside a function follows the house style, whatever the user's matplotlibrc says.
house_style = matplotlib.rc_context(HOUSE)


class Plate(Figure):
    """A matplotlib Figure that shows itself in a notebook without pyplot, and says in words what it shows."""

    alt: str = ""  # for readers who cannot see the figure; set by every plot function

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        width, height = self.get_size_inches() / MM * SCREEN_SCALE
        return render_figure(self, "png"), {"width": round(width), "height": round(height)}


def new_figure(
    rows: int = 1, columns: int = 1, *, width: float, height: float, **subplots: Any
) -> tuple[Plate, np.ndarray]:
    """An empty figure on the size grid, with rows and columns of panels.

    Args:
        width: `SINGLE` or `DOUBLE`, mm.
        height: mm, without the footer.
        **subplots: passed on to matplotlib's `subplots`.

    Returns:
        The figure and its axes, always as an array (rows, columns).
    """
    fig = Plate(figsize=(width * MM, (height + FOOTER) * MM), layout="constrained")
    parts: np.ndarray = np.asarray(fig.subfigures(2, 1, height_ratios=(height, FOOTER)))
    return fig, parts[0].subplots(rows, columns, squeeze=False, **subplots)


def new_panels(count: int, *, height: float, **subplots: Any) -> tuple[Plate, np.ndarray]:
    """As `new_figure`, with `count` panels of one kind, at most three in a row; the rest of the last row is empty."""
    columns = min(count, 3)
    rows, width = -(-count // columns), SINGLE if columns == 1 else DOUBLE
    fig, axes = new_figure(rows, columns, width=width, height=height * rows, **subplots)
    for ax in axes.flat[count:]:
        ax.set_axis_off()
    return fig, axes


def state_absence(text: str) -> Plate:
    """A figure that says why there is nothing to draw."""
    fig, ((ax,),) = new_figure(width=SINGLE, height=16)
    ax.set_axis_off()
    ax.text(0.5, 0.5, wrap_label(text, 44), ha="center", va="center")
    return finish_figure(fig, note="n = 0", alt=text)


def finish_figure(fig: Plate, *, note: str, alt: str) -> Plate:
    """Write the footer, keep the text for screen readers, and fix the layout for good.

    Args:
        note: what the figure is drawn from, with n; two short lines at most.
        alt: what the figure shows, in words and numbers.
    """
    fig.alt = " ".join(alt.split()).rstrip(".") + "."
    width, height = fig.get_size_inches()
    text = wrap_label(note, int((width / MM - 2) / 1.15))  # mm per letter at 6 pt
    place = MM / width, FOOTER / 2 * MM / height
    fig.text(*place, text, fontsize=6, color=GREY, va="center", linespacing=1.1, gid="note")
    if (engine := fig.get_layout_engine()) is not None:
        engine.execute(fig)
        fig.set_layout_engine("none")
        _round_layout(fig)
    return fig


def _round_layout(fig: Figure) -> None:
    """Give every panel a place in few digits: the solver's last ones depend on memory addresses, and an SVG on them."""
    for part in fig.subfigs:
        part.bbox_relative.set_points(part.bbox_relative.get_points().round(9))
    for ax in fig.axes:
        ax.set_position(Bbox(ax.get_position(original=True).get_points().round(9)))


@house_style
def render_figure(fig: Figure, kind: str, metadata: Mapping[str, str | None] | None = None) -> bytes:
    """The bytes of a figure as "png", "svg" or "pdf": the same figure and metadata give the same bytes."""
    fixed: dict[str, dict[str, Any]] = {
        "png": {"Software": "lesion_utils"},
        "svg": {"Creator": "lesion_utils", "Date": None},
        "pdf": {"Creator": "lesion_utils", "CreationDate": None},
    }
    own = dict(metadata or {})
    if kind == "pdf":
        own = {PDF_NAMES[name]: text for name, text in own.items() if name in PDF_NAMES}
    buffer = io.BytesIO()
    fig.savefig(buffer, format=kind, dpi=DPI, metadata=fixed[kind] | own)
    return buffer.getvalue()


def save(
    fig: Figure, path_stem: Path | str, *, metadata: Mapping[str, str], kinds: Sequence[str] = ("png", "svg", "pdf")
) -> list[Path]:
    """Write `<path_stem>.png` and so on, without dates, fit to be compared byte by byte.

    Args:
        path_stem: path without a suffix; its folder is created.
        metadata: Dublin Core names, such as Title, Description, Identifier (the run), Source.
        kinds: which files, in the order of the paths returned; a PDF takes as long as the others together, since its
            letters are cut out of the font.

    Raises:
        ValueError: a name that SVG's metadata does not know.
    """
    stem = Path(path_stem)
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in kinds]
    for path, kind in zip(paths, kinds, strict=True):
        write_atomic(path, render_figure(fig, kind, metadata))
    return paths


def style_series(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, dash and marker of each series: the network gives colour and marker, the regime the dash and the fill.

    Combinations of networks, and names that know no network, take the remaining colours in the order of the alphabet,
    so that figures which sort them differently agree.

    Returns:
        name -> keyword arguments of `Axes.plot`: color, linestyle, marker, markerfacecolor.
    """
    own = [name for name in names if isinstance(name, SeriesName) and name.model not in ("", COMBINATION)]
    own = [name for name in own if name.regime.partition(":")[0] in REGIME_DASHES]  # not the controls
    places, others = _place_models({name.model for name in own}), sorted(set(names) - set(own))
    styles = {}
    for name in names:
        if isinstance(name, SeriesName) and name in own:
            place, colours, markers = places[name.model], MODEL_COLOURS, MODEL_MARKERS
            regime = name.regime.partition(":")[0]
        else:
            place, colours, markers, regime = others.index(name), OTHER_COLOURS, OTHER_MARKERS, "finetune"
        colour, marker = colours[place % len(colours)], markers[place % len(markers)]
        fill = {"finetune": colour, "features": "white", "scratch": _blend_white(colour)}[regime]
        styles[name] = {"color": colour, "linestyle": REGIME_DASHES[regime], "marker": marker, "markerfacecolor": fill}
    return styles


def _place_models(models: Collection[str]) -> dict[str, int]:
    """Each network's place among the colours, the same in every figure unless two want one: then the next free one."""
    fixed = {"resnet50": 0, "vgg19": 1}
    places: dict[str, int] = {}
    for model in sorted(models, key=lambda model: (model not in fixed, model)):
        place, count = fixed.get(model, zlib.crc32(model.encode())), len(MODEL_COLOURS)
        free = [(place + step) % count for step in range(count) if (place + step) % count not in places.values()]
        places[model] = free[0] if free else place % count
    return places


def list_series(rows: pd.DataFrame) -> list[SeriesName]:
    """The series of a table with `name`, `model` ("" for others' rows) and `regime`, each once, in its order."""
    return list(dict.fromkeys(SeriesName(*key) for key in rows[["name", "model", "regime"]].to_numpy()))


def _blend_white(colour: str) -> str:
    red, green, blue = 0.55 + (1 - 0.55) * np.array(to_rgb(colour))
    return to_hex((red, green, blue))


def count_classes(targets: np.ndarray) -> str:
    """The n of a footer: `n = 379 images: 304 benign, 75 malignant`."""
    malignant = int(np.sum(targets))
    return f"n = {len(targets):,} images: {len(targets) - malignant:,} benign, {malignant:,} malignant"


def wrap_label(text: str, width: int) -> str:
    """Break a long name into lines, also where it has no spaces; lines that are already broken stay so."""
    return "\n".join(
        piece for line in str(text).split("\n") for piece in textwrap.wrap(line, width, break_on_hyphens=False)
    )


def title_panel(ax: Axes, title: str) -> None:
    """A panel's title, broken where the panel ends."""
    place = ax.get_subplotspec()
    columns = 1 if place is None else place.get_gridspec().ncols
    ax.set_title(wrap_label(title, 46 if columns == 1 else 96 // columns))


def list_class_patches() -> list[Patch]:
    """Legend handles of the two classes."""
    return [Patch(color=CLASS_COLOURS[name], label=name) for name in CLASS_NAMES]


def legend_below(fig: Plate, handles: Sequence[Artist], *, columns: int) -> None:
    """A legend between the panels and the footer, where it can cover no data.

    Args:
        columns: so many, or fewer if the legend would be wider than the figure.
    """
    for count in range(columns, 0, -1):
        legend = fig.subfigs[0].legend(handles=handles, loc="outside lower center", ncols=count)
        if count == 1 or legend.get_window_extent().width <= fig.bbox.width:
            return
        legend.remove()
