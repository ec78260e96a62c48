"""Two reports side by side: every number with its interval, predictions, parameters, figures and notebooks.

The verdict is about agreement: a number is the same in both reports, or each report's value lies within the other's
interval, or, where one states no interval, the two are close by a stated tolerance, or it differs.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from lesion_utils.core.errors import RunError
from lesion_utils.core.files import digest_file, write_if_changed
from lesion_utils.data.tables import dump_csv, restore_text
from lesion_utils.provenance.steps import list_differences
from lesion_utils.report.content import Figure, Report
from lesion_utils.report.pages import format_number

_PREDICTION_KEY = ("image_id", "split", "model", "regime", "seed")
_CIRCUMSTANCES = ("params", "data", "weights", "commit", "device", "determinism", "packages")

#: How far apart two values without intervals, such as calibration errors, may lie: the share of the larger, or so much.
RELATIVE, ABSOLUTE = 0.05, 0.005
TOLERANCE = f"{100 * RELATIVE:g} % or {ABSOLUTE:g}"

#: Every verdict, the best first: how it is coloured, and what it says of a whole report.
VERDICTS = {
    "same": ("good", "Every number is the same in both reports."),
    "within tolerance": ("good", f"Numbers without an interval differ, by no more than {TOLERANCE}."),
    "within interval": (
        "good",
        "Numbers differ, and each lies within the other report's interval; those without an interval differ by no more "
        f"than {TOLERANCE}.",
    ),
    **dict.fromkeys(
        ("only in A", "only in B"), ("warn", "The reports do not state the same numbers; those that both state agree.")
    ),
    "differs": (
        "bad",
        "At least one number lies outside the other report's interval or, without one, differs by more than "
        f"{TOLERANCE}.",
    ),
    "nothing to compare": ("warn", "The reports have no number in common."),
}


@dataclass(frozen=True)
class Number:
    """One number of both reports; `a` and `b` hold value, low and high, or None where a report lacks it."""

    name: str
    a: dict[str, Any] | None
    b: dict[str, Any] | None

    @property
    def verdict(self) -> str:
        """One of `VERDICTS`."""
        if self.a is None or self.b is None:
            return "only in B" if self.a is None else "only in A"
        if self.a == self.b:
            return "same"
        if None in (self.a["value"], self.b["value"]):
            return "differs"
        if None in (*self.a.values(), *self.b.values()):
            close = math.isclose(self.a["value"], self.b["value"], rel_tol=RELATIVE, abs_tol=ABSOLUTE)
            return "within tolerance" if close else "differs"
        both = ((self.a, self.b), (self.b, self.a))
        inside = all(one["low"] <= other["value"] <= one["high"] for one, other in both)
        return "within interval" if inside else "differs"


@dataclass(frozen=True)
class Comparison:
    """Two reports, A and B; everything is worked out when it is first asked for."""

    a: Report
    b: Report

    @cached_property
    def numbers(self) -> list[Number]:
        """Every number that has an interval, A's order first."""
        left, right = dict(_list_intervals(self.a.metrics)), dict(_list_intervals(self.b.metrics))
        return [Number(name, left.get(name), right.get(name)) for name in dict.fromkeys([*left, *right])]

    @cached_property
    def predictions(self) -> list[tuple[str, str]]:
        """(name, how the scores agree) of every predictions file that both have."""
        return [(name, _compare_scores(a, b)) for name, a, b in self._pair_files("predictions/*.csv")]

    @cached_property
    def circumstances(self) -> list[tuple[str, str, str]]:
        """What may explain a difference, as (what, in A, in B): parameters, data, commit, device and packages."""
        rows: dict[str, tuple[str, str, str]] = {}
        for step in [name for name in self.a.runs if name in self.b.runs]:
            left, right = ({key: report.runs[step].get(key) for key in _CIRCUMSTANCES} for report in (self.a, self.b))
            for row in list_differences(left, right):
                if row[0] != "device.peak_memory_gib":  # it explains nothing, and differs from run to run
                    rows.setdefault(row[0], row)
        return list(rows.values())

    @cached_property
    def figures(self) -> list[tuple[str, Figure | None, Figure | None, bool]]:
        """(name, A's, B's, whether the files are the same) for every figure of either report."""
        left, right = ({f"{f.step}_{f.name}": f for f in report.figures} for report in (self.a, self.b))
        pairs = [(name, left.get(name), right.get(name)) for name in dict.fromkeys([*left, *right])]
        return [(name, a, b, bool(a and b and _same_figure(a, b))) for name, a, b in pairs]

    @property
    def verdict(self) -> str:
        """The worst verdict of any number, or "nothing to compare"."""
        found = (number.verdict for number in self.numbers)
        return max(found, key=list(VERDICTS).index, default="nothing to compare")

    def diff_notebooks(self, *, outputs: bool = False) -> list[tuple[str, str]]:
        """(name, changes of sources, and of outputs too, as text) of every executed notebook that both have."""
        pairs = [pair for pair in self._pair_files("notebooks/*.ipynb") if ".partial." not in pair[0]]
        return [(name, _diff_notebook(a, b, outputs=outputs)) for name, a, b in pairs]

    def _pair_files(self, pattern: str) -> list[tuple[str, Path, Path]]:
        """(name, A's, B's) of every such file that both have."""
        pairs = [(a, self.b.folder / a.relative_to(self.a.folder)) for a in sorted(self.a.folder.glob(pattern))]
        return [(a.name, a, b) for a, b in pairs if b.is_file()]


def compare_reports(a: Path, b: Path) -> Comparison:
    """Open two report folders for comparison.

    Raises:
        RunError: one of them is not a report.
    """
    for side, folder in (("A", a), ("B", b)):
        if not list(Path(folder).glob("runs/*/run.json")):
            raise RunError(
                "there is no report here",
                where=f"{side}={folder}",
                expected="a folder with runs/<step>/run.json in it, such as reports/demo",
                do="name another folder, or make the report: make all STUDY=<name>",
            )
    return Comparison(Report(Path(a)), Report(Path(b)))


def describe_comparison(comparison: Comparison, *, outputs: bool = False) -> str:
    """The comparison as text: verdict, numbers, predictions, circumstances, figures, notebooks and their outputs."""
    width = max((len(number.name) for number in comparison.numbers), default=0)
    rows = [(n.name, *map(format_interval, (n.a, n.b)), n.verdict) for n in comparison.numbers]
    sections = {
        "numbers": [f"{name:<{width}}  {a:<26} {b:<26} {verdict}" for name, a, b, verdict in rows],
        "predictions": [f"{name}: {agreement}" for name, agreement in comparison.predictions],
        "what differs": [f"{name}: {a} | {b}" for name, a, b in comparison.circumstances],
        "figures": [_describe_figure(*figure) for figure in comparison.figures],
    }
    for name, changes in comparison.diff_notebooks(outputs=outputs):
        sections[name] = changes.splitlines() or ["no change"]
    lines = [f"A  {comparison.a.folder}", f"B  {comparison.b.folder}", f"   {VERDICTS[comparison.verdict][1]}"]
    for title, section in sections.items():
        lines += ["", title, *(f"  {line}" for line in section or ["none"])]
    return "\n".join(lines)


def write_comparison(comparison: Comparison, path: Path) -> Path:
    """Write every number of both reports as CSV: `name`, and of A and B `value`, `low` and `high`; `verdict`."""
    sides = [(number, {"a": number.a or {}, "b": number.b or {}}) for number in comparison.numbers]
    columns = ("value", "low", "high")
    rows = [
        {"name": number.name, "verdict": number.verdict}
        | {f"{side}_{column}": values.get(column) for side, values in both.items() for column in columns}
        for number, both in sides
    ]
    names = ["name", *(f"{side}_{column}" for side in "ab" for column in columns), "verdict"]
    write_if_changed(path, dump_csv(pd.DataFrame(rows, columns=names)))
    return path


def format_interval(number: dict[str, float | None] | None) -> str:
    """ "0.812 (0.760 to 0.859)", or a dash."""
    if number is None:
        return "–"
    value, low, high = (format_number(number[key]) for key in ("value", "low", "high"))
    return value if number["low"] is None else f"{value} ({low} to {high})"


def _describe_figure(name: str, a: Any, b: Any, same: bool) -> str:
    if a is None or b is None:
        return f"{name}: only in {'B' if a is None else 'A'}"
    if a.file is None or b.file is None:
        return f"{name}: not in this copy of {'A' if a.file is None else 'B'}"
    return f"{name}: {'the same' if same else 'different'}"


def _list_intervals(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, float | None]]]:
    """Every mapping with value, low and high, anywhere in the metrics, under a name that a person can find it by."""
    if isinstance(node, dict) and {"value", "low", "high"} <= node.keys():
        yield path, {key: node[key] for key in ("value", "low", "high")}
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _list_intervals(value, f"{path} › {key}" if path else str(key))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _list_intervals(value, f"{path} › {_name_item(value, i)}")


def _name_item(item: Any, position: int) -> str:
    keys = ("label", "model", "regime", "metric") if isinstance(item, dict) else ()
    return ", ".join(str(item[key]) for key in keys if item.get(key)) or str(position)


def _compare_scores(a: Path, b: Path) -> str:
    left, right = _read_scores(a), _read_scores(b)
    common = left.keys() & right.keys()
    if _same_file(a, b):
        return f"{len(common):,} scores, identical byte for byte"
    largest = max((abs(left[key] - right[key]) for key in common), default=0.0)
    flipped = sum((left[key] > 0.5) != (right[key] > 0.5) for key in common)
    alone = [(side, len(scores) - len(common)) for side, scores in (("A", left), ("B", right))]
    return (
        f"{len(common):,} scores in common, largest difference {largest:.3g}, {flipped:,} on the other side of 0.5"
        + "".join(f", {count:,} only in {side}" for side, count in alone if count)
    )


def _read_scores(path: Path) -> dict[tuple[str, ...], float]:
    with path.open(encoding="utf-8", newline="") as stream:
        rows = [{name: restore_text(value) for name, value in row.items()} for row in csv.DictReader(stream)]
    return {tuple(row[key] for key in _PREDICTION_KEY): float(row["probability"]) for row in rows}


def _same_figure(a: Figure, b: Figure) -> bool:
    return _same_file(a.png, b.png) or _same_file(a.svg, b.svg)


def _same_file(a: Path | None, b: Path | None) -> bool:
    return a is not None and b is not None and digest_file(a) == digest_file(b)


def _diff_notebook(a: Path, b: Path, *, outputs: bool) -> str:
    """Changes between two executed notebooks by nbdime, as plain text."""
    import nbformat
    from nbdime.diffing.notebooks import diff_notebooks, set_notebook_diff_targets
    from nbdime.prettyprint import PrettyPrintConfig, pretty_print_notebook_diff

    ignored = dict.fromkeys(("attachments", "metadata", "identifier", "details"), False)
    set_notebook_diff_targets(sources=True, outputs=outputs, **ignored)
    left, right = (nbformat.read(path, as_version=4) for path in (a, b))
    changes = diff_notebooks(left, right)
    if not changes:
        return ""
    text = io.StringIO()
    config = PrettyPrintConfig(out=text, use_color=False, use_git=False, use_diff=False)
    pretty_print_notebook_diff("A", "B", left, changes, config)
    return text.getvalue()
