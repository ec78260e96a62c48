"""Turning templates into pages: escaping, the small formats they share, and images inside the page."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image

from lesion_utils.core.console import format_duration

TEMPLATES = Path(__file__).resolve().parent / "templates"

#: Figures are drawn for print with 7 pt type; enlarged by this, it reads as 13 px.
SCREEN_SCALE = 1.4

#: Stands on every page that may show images of the data set.
CREDITS = {
    True: "Photographs: ISIC 2016 (Gutman et al., arXiv:1605.01397), in the public domain (CC-0).",
    False: "Photographs: from this study; ask its authors before you use them.",
}

#: The one script there is: opens every code cell of a notebook's page, on request or when the address ends in #code.
SCRIPT = """
const cells = document.querySelectorAll("details.code"), button = document.getElementById("show-code");
const isShown = (cell) => cell.classList.contains("shown");
const show = (open) => {
  cells.forEach((c) => { c.open = open || isShown(c); }); button.setAttribute("aria-pressed", open);
};
button.hidden = cells.length === 0;
button.addEventListener("click", () => show(button.getAttribute("aria-pressed") !== "true"));
if (location.hash === "#code") show(true);
"""


def name_credit(source: str | None) -> str:
    """Whose the photographs of a page are, by the `source` of the study's data.yaml."""
    return CREDITS[source != "folder"]


def render_page(template: str, *, script: str | None = None, **content: Any) -> str:
    """Fill a template. Whatever `content` holds is escaped, and the page's policy forbids every request.

    Args:
        template: file name under `templates/`.
        script: the page's one script, if it has one; the policy allows this text and no other.
    """
    digest = base64.b64encode(hashlib.sha256((script or "").encode()).digest()).decode()
    source = f"'sha256-{digest}'" if script else "'none'"
    page = _environment().get_template(template)
    return page.render(script=Markup(script or ""), script_source=source, **content)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    formats = (format_duration, format_bytes, format_date, format_number, embed_image, describe_value)
    environment.filters |= {f.__name__.split("_")[-1]: f for f in formats}
    environment.globals["draw_interval"] = draw_interval
    return environment


def format_bytes(count: float | None) -> str:
    """Bytes in decimal units: "1.5 GB"."""
    if count is None:
        return "unknown"
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def format_date(moment: str | None) -> str:
    """An ISO date and time in UTC, to the minute."""
    if not moment:
        return "unknown"
    return datetime.fromisoformat(moment).strftime("%-d %B %Y, %H:%M UTC")


def format_number(value: float | None) -> str:
    """A number with three decimals and a true minus sign; a dash for None."""
    return "–" if value is None else f"{value:.3f}".replace("-", "−")


def describe_value(value: Any) -> str:
    """A recorded value as a person reads it: mappings as "key: value", lists with commas."""
    if isinstance(value, dict):
        return ", ".join(f"{k}: {describe_value(v)}" for k, v in value.items() if v not in (None, "", [], {})) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(describe_value(v) for v in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else f"{value:,}" if isinstance(value, int) and value > 9999 else str(value)


def embed_image(path: Path, photographs: bool) -> dict[str, str | int]:
    """A figure's file as a data address, so that the page needs no second file, with its size on the page in CSS px.

    SVG, which is all that a published copy has of a chart, stays as it is; a PNG may show `photographs`.
    """
    if path.suffix == ".svg":
        return _embed_svg(path)
    with Image.open(path) as image:
        dots_per_inch = image.info.get("dpi", (200, 200))[0]
        width, height = (round(side / dots_per_inch * 96 * SCREEN_SCALE) for side in image.size)
        source = embed_pixels(image, photographs)
    return {"source": source, "width": width, "height": height}


def embed_pixels(image: Image.Image, photographs: bool) -> str:
    """A picture as a data address in WebP: without loss for charts, with an invisible one for photographs."""
    packed = io.BytesIO()
    image.convert("RGB").save(packed, "webp", lossless=not photographs, quality=85)
    return "data:image/webp;base64," + base64.b64encode(packed.getvalue()).decode("ascii")


def _embed_svg(path: Path) -> dict[str, str | int]:
    raw = path.read_bytes()
    sides = [re.search(rb'<svg[^>]*\s%s="([\d.]+)pt"' % side, raw) for side in (b"width", b"height")]
    width, height = (round(float(side[1]) / 72 * 96 * SCREEN_SCALE) if side else 480 for side in sides)
    source = "data:image/svg+xml;base64," + base64.b64encode(raw).decode("ascii")
    return {"source": source, "width": width, "height": height}


def draw_interval(item: dict[str, Any], items: list[dict[str, Any]]) -> dict[str, float] | None:
    """Where a headline's value and interval lie on its axis, in per cent of the width.

    The axis is 0 to 1. For differences, known by `difference: true` or by an interval that goes below zero, it is as
    far to either side of zero as the widest of them needs. None where there is no interval.
    """
    if None in (item["value"], item["low"], item["high"]):
        return None
    stated = [i for i in items if None not in (i["low"], i["high"])]
    signed = [i for i in stated if i.get("difference") or i["low"] < 0]
    reach = 1.1 * max((max(abs(i["low"]), abs(i["high"])) for i in signed), default=1)
    start, width = (-reach, 2 * reach) if item in signed else (0.0, 1.0)
    return {key: round(min(max(100 * (item[key] - start) / width, 0), 100), 2) for key in ("low", "value", "high")}
