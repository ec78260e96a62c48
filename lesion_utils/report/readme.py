"""The README's numbers: for each published study a block between two marks, written from the files of its copy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lesion_utils.core.console import format_duration
from lesion_utils.core.errors import RunError
from lesion_utils.core.files import write_if_changed
from lesion_utils.core.markup import escape_markdown
from lesion_utils.core.names import name_data_set
from lesion_utils.core.paths import docs_root
from lesion_utils.report.content import Report
from lesion_utils.report.pages import format_number

BLOCK = re.compile(r"(<!-- results:([\w-]+):begin -->\n)(.*?)(<!-- results:\2:end -->)", re.DOTALL)


def update_readme(readme: Path) -> bool:
    """Write each block whose study has a published comparison, and nothing else; returns whether the file changed."""
    return write_if_changed(readme, BLOCK.sub(_fill, readme.read_text(encoding="utf-8")))


def render_block(report: Report) -> str:
    """The block's Markdown: what was run, the headline numbers with their intervals, what they do not show, a figure.

    Raises:
        RunError: the report has no comparison yet.
    """
    if not report.headline:
        raise RunError(
            "the report has no headline numbers",
            where=report.folder / "metrics" / "05_comparison.json",
            do=f"run: make all STUDY={report.study}, then make publish STUDY={report.study}",
        )
    folder = f"docs/{report.study}"
    what = ", ".join(filter(None, [name_data_set(report.manifest.get("source")), report.manifest.get("summary")]))
    lines = [f"**[{escape_markdown(report.title)}]({folder}/index.html)**: {what}; {_name_computing(report)}.", ""]
    confidence = report.runs["05_comparison"]["params"]["comparison"]["confidence"]
    lines += [f"| | metric | value | {100 * confidence:g} % interval | images |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(_spell_row(item))} |" for item in report.headline]
    remarks = report.runs.get("data", {}).get("params", {}).get("data", {}).get("remarks", [])
    if report.limits or remarks:
        lines += ["", "What this does not show, and what to know before reading it:", ""]
        lines += [f"- {escape_markdown(note)}" for note in (*report.limits, *remarks)]
    charts = [(figure.alt, figure.svg) for figure in report.figures if figure.step == "05_comparison" and figure.svg]
    if charts:
        alt, svg = charts[0]
        lines += ["", f"![{escape_markdown(alt)}]({folder}/figures/{svg.name})"]
    return "\n".join(lines) + "\n"


def _fill(found: re.Match[str]) -> str:
    begin, study, old, end = found.groups()
    report = Report(docs_root() / study)
    return f"{begin}{render_block(report) if report.headline else old}{end}"


def _name_computing(report: Report) -> str:
    """What the study took, and on what."""
    devices = [run["device"]["name"] for run in report.runs.values() if (run.get("device") or {}).get("name")]
    return f"{format_duration(report.seconds)} of computing" + (
        f" on {escape_markdown(devices[-1])}" if devices else ""
    )


def _spell_row(item: dict[str, Any]) -> list[str]:
    """A headline's cells; a published result may have no interval and no number of images."""
    low, high, count = item["low"], item["high"], item["n"]
    interval = "–" if None in (low, high) else f"{format_number(low)} to {format_number(high)}"
    cells = escape_markdown(item["label"]), escape_markdown(item["metric"]), format_number(item["value"]), interval
    return [*cells, "–" if count is None else str(count)]
