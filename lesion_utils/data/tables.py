"""Tables as CSV files: written so that a spreadsheet runs nothing in them, and read back as they were.

Spreadsheets take a cell for a formula if it begins with one of a few signs, and a formula can start programs or send
data away (OWASP, CSV injection). Names of files, sites and studies come from outside, so a text that begins like a
formula gets an apostrophe in front, which spreadsheets take for "this is text". Numbers stay as they are.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pandas as pd

#: Signs that begin a formula, full-width ones among them, after any number of apostrophes.
_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")


def protect_text(text: str) -> str:
    """The text as a CSV file has it: an apostrophe in front if a spreadsheet would take it for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def restore_text(text: str) -> str:
    """The text that `protect_text` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def dump_csv(table: pd.DataFrame, *, digits: int | None = 9) -> str:
    """A table as CSV, as every file of the project has it: no index, line feeds, no text that is a formula.

    Args:
        table: any columns; only texts change, see `protect_text`.
        digits: significant digits of floats; None for as many as it takes to read the same float back.
    """
    unsafe = {name: [protect_text(v) if isinstance(v, str) else v for v in table[name]] for name in _find_unsafe(table)}
    # dtype=object: integers beside texts stay integers
    safe = table.assign(**{str(name): pd.Series(v, table.index, dtype=object) for name, v in unsafe.items()})
    safe = safe.rename(columns=lambda name: protect_text(name) if isinstance(name, str) else name)
    text = safe.to_csv(index=False, float_format=digits and f"%.{digits}g", lineterminator="\n")
    if "\r" in text:  # which csv leaves without quotes, and readers take for the end of a line
        settings = {"float_format": digits and f"%.{digits}g", "quoting": csv.QUOTE_ALL}
        return safe.to_csv(index=False, lineterminator="\n", **settings)
    return text


def _find_unsafe(table: pd.DataFrame) -> list[str]:
    """The columns with a text that would be taken for a formula."""
    texts = table.select_dtypes(exclude=["number", "bool"])
    return [name for name in texts if any(isinstance(v, str) and _FORMULA.match(v) for v in texts[name])]


def read_csv(path: Path, **settings: Any) -> pd.DataFrame:
    """Read a file that `dump_csv` wrote; settings are those of `pandas.read_csv`."""
    table = pd.read_csv(path, **settings).rename(columns=restore_text)
    for name in _find_unsafe(table):
        values = [restore_text(value) if isinstance(value, str) else value for value in table[name]]
        table[name] = pd.Series(values, table.index, dtype=table[name].dtype)
    return table
