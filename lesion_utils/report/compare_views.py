"""A comparison of two reports as text for a terminal and as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lesion_utils.core.files import write_if_changed
from lesion_utils.report.compare import Comparison, Number, Predictions
from lesion_utils.report.pages import format_number, render_page

TONES = {"same": "good", "within interval": "good", "differs": "bad"}
SENTENCES = {
    "same": "Every number is the same in both reports.",
    "within interval": "Numbers differ, and each lies within the other report's interval.",
    "differs": "At least one number lies outside the other report's interval.",
    "only in A": "The reports do not state the same numbers; those that both state agree.",
    "only in B": "The reports do not state the same numbers; those that both state agree.",
    "nothing to compare": "The reports have no number in common.",
}


def describe_comparison(comparison: Comparison, *, outputs: bool = False) -> str:
    """The comparison as text: verdict, numbers, predictions, circumstances, figures and notebooks.

    Args:
        comparison: of two reports.
        outputs: show the notebooks' changed outputs as well as their changed sources.
    """
    width = max((len(number.name) for number in comparison.numbers), default=0)
    lines = [f"A  {comparison.a.folder}", f"B  {comparison.b.folder}", f"   {SENTENCES[comparison.verdict]}"]
    lines += _section("numbers", [_describe_number(number, width) for number in comparison.numbers])
    lines += _section("predictions", [f"{p.name}: {describe_predictions(p)}" for p in comparison.predictions])
    lines += _section("what differs", [f"{name}: {a} | {b}" for name, a, b in comparison.circumstances])
    lines += _section("figures", [_describe_figure(*figure) for figure in comparison.figures])
    for name, changes in comparison.diff_notebooks(outputs=outputs):
        lines += _section(name, changes.splitlines() or ["no change"])
    return "\n".join(lines)


def write_comparison(comparison: Comparison, page: Path, *, outputs: bool = False) -> Path:
    """Write the comparison as one page, with the figures side by side.

    Args:
        comparison: of two reports.
        page: where it goes.
        outputs: as for `describe_comparison`.
    """
    html = render_page(
        "compare.html.j2",
        a=comparison.a,
        b=comparison.b,
        verdict={"word": comparison.verdict, "tone": TONES.get(comparison.verdict, "warn")},
        sentence=SENTENCES[comparison.verdict],
        numbers=[_lay_out(number) for number in comparison.numbers],
        predictions=[(p.name, describe_predictions(p)) for p in comparison.predictions],
        circumstances=comparison.circumstances,
        figures=comparison.figures,
        notebooks=comparison.diff_notebooks(outputs=outputs),
    )
    write_if_changed(page, html)
    return page


def describe_predictions(predictions: Predictions) -> str:
    """How two files of predictions agree, in a sentence."""
    if predictions.identical:
        return f"{predictions.common:,} scores, identical byte for byte"
    alone = [f"{n:,} only in {side}" for side, n in (("A", predictions.only_a), ("B", predictions.only_b)) if n]
    parts = [
        f"{predictions.common:,} scores in common",
        f"largest difference {predictions.largest:.3g}",
        f"{predictions.flipped:,} on the other side of 0.5",
        *alone,
    ]
    return ", ".join(parts)


def format_interval(number: dict[str, float | None] | None) -> str:
    """ "0.812 (0.760 to 0.859)", or a dash."""
    if number is None:
        return "–"
    value, low, high = (format_number(number[key]) for key in ("value", "low", "high"))
    return value if number["low"] is None else f"{value} ({low} to {high})"


def _describe_number(number: Number, width: int) -> str:
    return f"{number.name:<{width}}  {format_interval(number.a):<26} {format_interval(number.b):<26} {number.verdict}"


def _describe_figure(name: str, a: Any, b: Any, same: bool) -> str:
    if a is None or b is None:
        return f"{name}: only in {'B' if a is None else 'A'}"
    if a.file is None or b.file is None:
        return f"{name}: not in this copy of {'A' if a.file is None else 'B'}"
    return f"{name}: {'the same' if same else 'different'}"


def _lay_out(number: Number) -> dict[str, str]:
    return {
        "name": number.name,
        "a": format_interval(number.a),
        "b": format_interval(number.b),
        "verdict": number.verdict,
        "tone": TONES.get(number.verdict, "warn"),
    }


def _section(title: str, lines: list[str]) -> list[str]:
    return ["", title, *(f"  {line}" for line in lines or ["none"])]
