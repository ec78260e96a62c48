"""Executed notebooks as pages that need no network: images inside, code folded away, nothing that runs but a toggle."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import nbformat
from markupsafe import Markup
from nbconvert import HTMLExporter
from pygments.formatters import HtmlFormatter

from lesion_utils.core.errors import RunError
from lesion_utils.core.files import write_if_changed
from lesion_utils.report.pages import SCRIPT, TEMPLATES, render_page

#: What an output is shown as, best first. Scripts and widgets are not: a page that is sent on must not run anything.
SHOWN_TYPES = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/plain"]


def write_notebook_page(notebook: Path, page: Path, *, study: str) -> Path:
    """Write an executed notebook as one HTML file.

    Code cells are folded; a button opens them all, and so does an address that ends in `#code`.

    Args:
        notebook: the executed `.ipynb`.
        page: where the page goes.
        study: the study's name, for the page's title.

    Raises:
        RunError: the notebook's file is damaged.
    """
    try:
        node = nbformat.read(notebook, as_version=4)
    except (ValueError, nbformat.ValidationError) as error:
        raise RunError(
            f"not readable as a notebook ({error})", where=notebook, do="delete it and run `make all` for this study"
        ) from None
    _describe_images(node)
    body, _ = _exporter().from_notebook_node(node)
    style = Markup(HtmlFormatter(style="bw").get_style_defs(".highlight"))
    html = render_page(
        "notebook.html.j2",
        script=SCRIPT,
        body=Markup(body),
        highlight=style,
        title=_find_title(node) or page.stem,
        study=study,
    )
    write_if_changed(page, html)
    return page


@cache
def _exporter() -> HTMLExporter:
    return HTMLExporter(
        template_name="notebook",
        extra_template_basedirs=[str(TEMPLATES)],
        embed_images=True,
        exclude_anchor_links=True,
        config={"NbConvertBase": {"display_data_priority": SHOWN_TYPES}},
    )


def _find_title(node: nbformat.NotebookNode) -> str:
    prose = "\n".join(cell.source for cell in node.cells if cell.cell_type == "markdown")
    return next(iter(re.findall(r"^# (.+)$", prose, re.MULTILINE)), "")


def _describe_images(node: nbformat.NotebookNode) -> None:
    """Give each image that has no alternative text the heading that it stands under."""
    heading = "the notebook"
    for cell in node.cells:
        if cell.cell_type == "markdown":
            heading = next(iter(re.findall(r"^#+\s*(.+)$", cell.source, re.MULTILINE)[::-1]), heading)
        for output in cell.get("outputs", []):
            for kind in ("image/png", "image/jpeg"):
                if kind in output.get("data", {}):
                    output.metadata.setdefault(kind, {}).setdefault("alt", f"Figure under “{heading}”")
