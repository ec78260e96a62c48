"""CSV files that a spreadsheet opens without running anything, and that are read back as they were."""

from __future__ import annotations

import csv
import io

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lesion_utils.data.tables import dump_csv, protect_text, read_csv, restore_text

#: What OWASP lists as the beginning of a formula.
SIGNS = "=+-@\t\r\n＝＋－＠"
#: Any text that UTF-8 can hold; beginnings of formulas are drawn often. A NUL ends a cell for every reader.
TEXTS = st.text(st.sampled_from(f"{SIGNS}'\"") | st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(text=TEXTS)
@example("=cmd|' /C calc'!A0")
@example("'=1")
@example("''''-")
def test_no_text_begins_a_formula_and_every_text_is_read_back(text):
    safe = protect_text(text)
    assert safe[:1] not in tuple(SIGNS)
    assert restore_text(safe) == text
    assert safe in (text, f"'{text}")


@given(rows=st.lists(st.tuples(TEXTS, TEXTS, st.integers(-9, 9), st.floats(-1, 1, width=16)), min_size=1, max_size=5))
def test_a_table_comes_back_whole_and_its_numbers_are_untouched(rows, tmp_path_factory):
    table = pd.DataFrame(rows, columns=["=name", "site", "count", "-value"])
    path = tmp_path_factory.getbasetemp() / "table.csv"
    path.write_bytes(dump_csv(table).encode())
    cells = list(csv.reader(io.StringIO(path.read_bytes().decode(), newline="")))
    assert all(cell[:1] not in tuple(SIGNS) for row in cells[1:] for cell in row[:2])
    assert [float(row[3]) for row in cells[1:]] == pytest.approx(table["-value"]), "a negative number stays one"
    again = read_csv(path, dtype={"=name": str, "'=name": str, "site": str}, keep_default_na=False)
    assert again.columns.tolist() == table.columns.tolist()
    assert again["-value"].tolist() == pytest.approx(table["-value"])
    texts = ["=name", "site", "count"]
    assert again[texts].to_numpy().tolist() == table[texts].to_numpy().tolist()


@pytest.mark.parametrize("column", [[1, 2, None], [1.5, -2], [True, False], ["a", None], ["−1", "x"], [1, "b"]])
def test_a_harmless_table_has_the_bytes_that_pandas_writes(column):
    table = pd.DataFrame({"a": pd.Series(column, dtype=object), "b": column})
    assert dump_csv(table) == table.to_csv(index=False, float_format="%.9g", lineterminator="\n")
