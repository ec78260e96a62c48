"""The README's figures and numbers: for each study a block between two marks, written from its report's files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lesion_utils.core.errors import RunError
from lesion_utils.core.files import write_if_changed
from lesion_utils.core.paths import Study, project_root
from lesion_utils.report.content import Figure, Report
from lesion_utils.report.pages import format_duration, format_number


def mark_block(study: str) -> tuple[str, str]:
    """The two marks of a study's block."""
    return f"<!-- results:{study}:begin -->", f"<!-- results:{study}:end -->"


def list_blocks(readme: Path) -> dict[str, str]:
    """What stands between the marks of each study's block, in the order of the file."""
    pattern = r"(?s)<!-- results:([\w-]+):begin -->\n(.*?)<!-- results:\1:end -->"
    return dict(re.findall(pattern, readme.read_text(encoding="utf-8")))


def update_readme(readme: Path, study: Study | None = None, *, figure: str | None = None) -> bool:
    """Write blocks from the studies' reports; everything outside the marks stays as it is.

    Args:
        readme: the file with the marks.
        study: whose block is written; None for each whose report has a comparison.
        figure: `<step>_<name>` of the figure to show; by default the first of 05_comparison that shows no photograph.

    Returns:
        whether the file changed.

    Raises:
        RunError: the marks or the numbers are not there.
    """
    if study is None:
        marked = [Study(name) for name in list_blocks(readme)]
        changed = [update_readme(readme, s, figure=figure) for s in marked if Report(s.report_dir).headline]
        return any(changed)
    return write_if_changed(readme, _fill(readme, study, figure))


def is_current(readme: Path, study: Study, *, figure: str | None = None) -> bool:
    """Whether a study's block is what its report's files say."""
    return readme.read_text(encoding="utf-8") == _fill(readme, study, figure)


def render_block(report: Report, *, figure: str | None = None) -> str:
    """The block's Markdown: what was run, the figure, the headline numbers with their intervals.

    Raises:
        RunError: the report has no comparison yet.
    """
    if not report.headline:
        raise RunError(
            "the report has no headline numbers",
            where=report.folder / "metrics" / "05_comparison.json",
            do=f"run: make all STUDY={report.study}",
        )
    shown = _choose_figure(report, figure)
    folder = _relative(report.folder)
    kind = ", ".join(filter(None, ["ISIC 2016 Part 3", report.manifest.get("summary")]))
    where = f"From [`{folder}`]({folder}/index.html), study `{report.study}` on {kind}"
    lines = [f"{where}; {format_duration(report.seconds)} of computing.", ""]
    # Of a chart, a published copy has the SVG.
    if shown and (file := shown.svg or shown.png):
        lines += [f"![{_escape(shown.alt)}]({_relative(file)})", ""]
    lines += ["| | metric | value | interval | images |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(_spell_row(item))} |" for item in report.headline]
    remarks = report.runs.get("data", {}).get("params", {}).get("data", {}).get("remarks", [])
    if remarks:
        lines += ["", *(f"- {_escape(remark)}" for remark in remarks)]
    return "\n".join(lines) + "\n"


def _spell_row(item: dict[str, Any]) -> list[str]:
    """A headline's cells; a published result may have no interval and no number of images."""
    low, high, count = item["low"], item["high"], item["n"]
    interval = "–" if None in (low, high) else f"{format_number(low)} to {format_number(high)}"
    return [
        _escape(item["label"]),
        _escape(item["metric"]),
        format_number(item["value"]),
        interval,
        "–" if count is None else str(count),
    ]


def _choose_figure(report: Report, name: str | None) -> Figure | None:
    if name is None:
        own = [f for f in report.figures if f.step == "05_comparison" and not f.shows_images]
        return own[0] if own else None
    for figure in report.figures:
        if f"{figure.step}_{figure.name}" == name:
            return figure
    raise RunError(f"the report has no figure {name!r}", where=report.folder / "figures", do="name another one")


def _fill(readme: Path, study: Study, figure: str | None) -> str:
    """The README's text with a study's block as its report has it."""
    marks = mark_block(study.name)
    before, begin, rest = readme.read_text(encoding="utf-8").partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not (begin and end):
        raise RunError("the marks of the generated block are missing", where=readme, expected=" and ".join(marks))
    return f"{before}{begin}\n{render_block(Report(study.report_dir), figure=figure)}{end}{after}"


def _relative(path: Path) -> str:
    return path.relative_to(project_root()).as_posix() if path.is_relative_to(project_root()) else path.as_posix()


def _escape(text: str) -> str:
    """Text that means nothing to Markdown or HTML."""
    for character in "\\`*_[]<>|":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
