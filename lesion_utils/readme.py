"""The README's figure and numbers: a block between two marks, written from a report's files."""

from __future__ import annotations

from pathlib import Path

from lesion_utils.errors import RunError
from lesion_utils.files import write_if_changed
from lesion_utils.paths import Study, project_root
from lesion_utils.site_content import Figure, Report
from lesion_utils.site_pages import format_duration, format_number

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def update_readme(readme: Path, study: Study, *, figure: str | None = None) -> bool:
    """Write the block from a study's report; everything outside the marks stays as it is.

    Args:
        readme: the file with the two marks.
        study: whose report it shows.
        figure: `<step>_<name>` of the figure to show; by default the first of 05_comparison that shows no photograph.

    Returns:
        whether the file changed.

    Raises:
        RunError: the marks or the numbers are not there.
    """
    before, after = _split(readme)
    block = render_block(Report(study.report_dir), figure=figure)
    return write_if_changed(readme, f"{before}{BEGIN}\n{block}{END}{after}")


def is_current(readme: Path, study: Study, *, figure: str | None = None) -> bool:
    """Whether the block is what the report's files say."""
    before, after = _split(readme)
    block = render_block(Report(study.report_dir), figure=figure)
    return readme.read_text(encoding="utf-8") == f"{before}{BEGIN}\n{block}{END}{after}"


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
    seconds = sum(run.get("wall_seconds") or 0 for name, run in report.runs.items() if name != "index")
    drawn = "**synthetic data**: drawn images, so this shows what a report looks like and says nothing about skin"
    kind = drawn if report.synthetic else "ISIC 2016 Part 3"
    where = f"From [`{folder}`]({folder}/index.html), study `{report.study}` on {kind}"
    lines = [f"{where}; {format_duration(seconds)} of computing.", ""]
    if shown and shown.png:
        lines += [f"![{_escape(shown.alt)}]({_relative(shown.png)})", ""]
    lines += ["| | metric | value | interval | images |", "|---|---|---|---|---|"]
    for item in report.headline:
        interval = f"{format_number(item['low'])} to {format_number(item['high'])}"
        cells = (
            _escape(item["label"]),
            _escape(item["metric"]),
            format_number(item["value"]),
            interval,
            str(item["n"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _choose_figure(report: Report, name: str | None) -> Figure | None:
    if name is None:
        own = [f for f in report.figures if f.step == "05_comparison" and not f.shows_images]
        return own[0] if own else None
    for figure in report.figures:
        if f"{figure.step}_{figure.name}" == name:
            return figure
    raise RunError(f"the report has no figure {name!r}", where=report.folder / "figures", do="name another one")


def _split(readme: Path) -> tuple[str, str]:
    text = readme.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise RunError("the marks of the generated block are missing", where=readme, expected=f"{BEGIN} and {END}")
    return before, after


def _relative(path: Path) -> str:
    return path.relative_to(project_root()).as_posix() if path.is_relative_to(project_root()) else path.as_posix()


def _escape(text: str) -> str:
    """Text that means nothing to Markdown or HTML."""
    for character in "\\`*_[]<>|":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
