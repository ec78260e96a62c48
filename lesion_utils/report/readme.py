"""The README's results: for each published study a block between two marks, written from the files of its copy."""

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
    """Write each block whose study has a published comparison, and nothing else; returns whether the file changed.

    A project without a README has no blocks.
    """
    return readme.is_file() and write_if_changed(readme, BLOCK.sub(_fill, readme.read_text(encoding="utf-8")))


def render_block(report: Report) -> str:
    """The block's Markdown: what was run, the main results in three lines, remarks, and the ROC curves.

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
    confidence = 100 * report.runs["05_comparison"]["params"]["comparison"]["confidence"]
    lines = [
        f"**[{escape_markdown(report.title)}]({folder}/index.html)**: {what}; {_name_computing(report)}. "
        f"Results on the test images, with {confidence:g} % intervals:",
        "",
    ]
    lines += [f"- {line}" for line in _list_results(report)]
    remarks = report.runs.get("data", {}).get("params", {}).get("data", {}).get("remarks", [])
    if remarks:
        lines += ["", " ".join(map(escape_markdown, remarks))]
    charts = [(figure.alt, figure.svg) for figure in report.figures if figure.step == "05_comparison" and figure.svg]
    if charts:
        alt, svg = charts[0]
        lines += ["", f"![{escape_markdown(alt)}]({folder}/figures/{svg.name})"]
    return "\n".join(lines) + "\n"


def _list_results(report: Report) -> list[str]:
    """A line for the selected model, one for what metadata alone reach, and one for the threshold.

    Rows of one label stand together; the selected model is the one that has a threshold.
    """
    rows = report.headline
    selected = next((row["label"] for row in rows if row["metric"].startswith("sensitivity")), rows[0]["label"])
    labels = dict.fromkeys([selected, *(row["label"] for row in rows)])
    lines = []
    for label in labels:
        own = [row for row in rows if row["label"] == label]
        told = "; ".join(f"{escape_markdown(row['metric'])} {_spell_value(row)}" for row in own)
        is_difference = any(row["difference"] for row in own)
        if label == selected or is_difference or "metadata" in label.lower():
            name = f"**{escape_markdown(label)}**" if label == selected else escape_markdown(label)
            lines.append(f"{name}: {told}.")
    return lines + [escape_markdown(said) for said in (report.evaluation, report.outdated) if said]


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


def _spell_value(row: dict[str, Any]) -> str:
    """A value with its interval; a published result may have none."""
    low, high = row["low"], row["high"]
    interval = "" if None in (low, high) else f" ({format_number(low)} to {format_number(high)})"
    return f"{format_number(row['value'])}{interval}"
