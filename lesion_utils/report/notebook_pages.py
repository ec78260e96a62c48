"""Executed notebooks as pages that need no network: images inside, code folded away, nothing that runs but a toggle.

Pictures are packed again as WebP, which is smaller: charts without loss, photographs with one that is not seen.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import pass_context
from markupsafe import Markup
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat.v4 import new_markdown_cell, new_notebook
from PIL import Image
from pygments.formatters import HtmlFormatter

from lesion_utils.core.errors import RunError
from lesion_utils.core.files import write_if_changed
from lesion_utils.core.paths import list_networks, params_root
from lesion_utils.provenance.steps import list_names
from lesion_utils.report.pages import SCRIPT, TEMPLATES, embed_image, embed_pixels, name_credit, render_page

#: What an output is shown as, best first. Scripts and widgets are not: a page that is sent on must not run anything.
SHOWN_TYPES = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/plain"]

#: What is shown in place of a photograph that must not be shown.
HIDDEN = "data:image/svg+xml;base64," + base64.b64encode(
    b'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="80"><text x="16" y="46" font-family="sans-serif" '
    b'font-size="16">Photographs, which are not part of this copy.</text></svg>'
).decode("ascii")


def write_notebook_page(
    notebook: Path, page: Path, *, study: str, photographs: bool = True, scores: bool = True
) -> Path:
    """Write an executed notebook as one HTML file.

    Code cells are folded, but for those tagged `show-code`; a button opens them all, and so does an address that ends
    in `#code`.

    Args:
        photographs: whether the page may show any; every picture is one that is not a chart of `figures/`, beside the
            notebook's folder.
        scores: whether it may show scores of single images, which descriptions of photographs name.

    Raises:
        RunError: the notebook's file is damaged.
    """
    try:
        node = nbformat.read(notebook, as_version=4)
    except (ValueError, nbformat.ValidationError) as error:
        raise RunError(
            f"not readable as a notebook ({error})", where=notebook, do="delete it and run `make all` for this study"
        ) from None
    charts = _find_charts(notebook.parent.parent / "figures")
    _describe_images(node, charts if not (photographs and scores) else None)
    body, _ = _exporter().from_notebook_node(node)
    credit = name_credit(_find_source(node))
    return _write_page(page, node, _pack_pictures(body, charts, photographs), study=study, credit=credit)


def write_document(document: Path, page: Path, *, study: str) -> Path:
    """Write a Markdown file of a report as a page, with the charts in SVG that it shows inside."""
    node = new_notebook(cells=[new_markdown_cell(document.read_text(encoding="utf-8"), id="text")])
    body, _ = _exporter().from_notebook_node(node)
    charts = {path.relative_to(document.parent).as_posix(): path for path in document.parent.glob("*/*.svg")}

    def embed(found: re.Match[str]) -> str:
        return str(embed_image(charts[found[1]], False)["source"]) if found[1] in charts else found[1]

    return _write_page(page, node, re.sub(r'(?<= src=")([^"]+)', embed, body), study=study, credit="")


def _write_page(page: Path, node: nbformat.NotebookNode, body: str, *, study: str, credit: str) -> Path:
    body, contents = _number_headings(body)
    before, after = _find_neighbours(page.stem, study)
    style = Markup(HtmlFormatter(style="bw").get_style_defs(".highlight"))
    text = render_page(
        "notebook.html.j2",
        script=SCRIPT,
        body=Markup(body),
        contents=contents,
        before=before,
        after=after,
        highlight=style,
        title=_find_title(node) or page.stem,
        study=study,
        credit=credit,
    )
    write_if_changed(page, text)
    return page


def _number_headings(body: str) -> tuple[str, list[tuple[str, str]]]:
    """The page's body with an anchor at each section, and the sections' anchors and headings."""
    contents: list[tuple[str, str]] = []

    def add(found: re.Match[str]) -> str:
        contents.append((f"section-{len(contents) + 1}", html.unescape(re.sub(r"<[^>]+>", "", found[1]))))
        return f'<h2 id="{contents[-1][0]}">{found[1]}</h2>'

    return re.sub(r"<h2>(.*?)</h2>", add, body), contents


def _find_neighbours(step: str, study: str) -> tuple[str | None, str | None]:
    """The notebooks before and after one in its study."""
    every = [name for name in list_names(list_networks(params_root() / study)) if name not in ("data", "index")]
    if step not in every:
        return None, None
    place = every.index(step)
    return (every[place - 1] if place else None), (every[place + 1] if place + 1 < len(every) else None)


class TextExporter(HTMLExporter):
    """An exporter to which everything that a notebook shows as Markdown is text and Markdown, never HTML."""

    @pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        """The filter of that name."""
        renderer = IPythonRenderer(escape=True, allow_harmful_protocols=False, exclude_anchor_links=True)
        return MarkdownWithMath(renderer=renderer).render(source)


@cache
def _exporter() -> HTMLExporter:
    return TextExporter(  # type: ignore[no-untyped-call]
        template_name="nbconvert_page",
        extra_template_basedirs=[str(TEMPLATES)],
        embed_images=True,
        exclude_anchor_links=True,
        config={"NbConvertBase": {"display_data_priority": SHOWN_TYPES}},
    )


def _find_source(node: nbformat.NotebookNode) -> str | None:
    """The source of the images, from the parameters that the run injected."""
    run = node.metadata.get("papermill", {}).get("parameters", {}).get("params", {})
    return run.get("data", {}).get("source") if isinstance(run, dict) else None


def _find_title(node: nbformat.NotebookNode) -> str:
    prose = "\n".join(cell.source for cell in node.cells if cell.cell_type == "markdown")
    return next(iter(re.findall(r"^# (.+)$", prose, re.MULTILINE)), "")


def _describe_images(node: nbformat.NotebookNode, charts: Collection[str] | None) -> None:
    """Give each image without alternative text its section's heading.

    Args:
        node: the notebook, which is changed.
        charts: hashes of the only images that keep a text of their own; None if all do.
    """
    heading = "the notebook"
    for cell in node.cells:
        if cell.cell_type == "markdown":
            heading = next(iter(re.findall(r"^#+\s*(.+)$", cell.source, re.MULTILINE)[::-1]), heading)
        for output in cell.get("outputs", []):
            for kind in ("image/png", "image/jpeg"):
                if kind in output.get("data", {}):
                    about = output.metadata.setdefault(kind, {})
                    if charts is not None and _hash_picture(output.data[kind]) not in charts:
                        about.pop("alt", None)
                    about.setdefault("alt", f"Figure under “{heading}”")


def _find_charts(figures: Path) -> set[str]:
    """Hashes of the figures that say of themselves that they show no photograph."""
    records = {path: json.loads(path.read_text(encoding="utf-8")) for path in figures.glob("*.json")}
    charts = [path.with_suffix(".png") for path, record in records.items() if record.get("shows_images") is False]
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in charts if path.is_file()}


def _hash_picture(encoded: str) -> str:
    return hashlib.sha256(base64.b64decode(encoded)).hexdigest()


def _pack_pictures(body: str, charts: Collection[str], photographs: bool) -> str:
    def pack(found: re.Match[str]) -> str:
        raw = base64.b64decode(found[1])
        is_chart = _hash_picture(found[1]) in charts
        if not (is_chart or photographs):
            return HIDDEN
        with Image.open(io.BytesIO(raw)) as image:
            return embed_pixels(image, photographs=not is_chart)

    return re.sub(r"data:image/(?:png|jpeg);base64,([A-Za-z0-9+/=\s]+)", pack, body)
