"""New words in a notebook: its page follows, nothing runs, and no output comes to stand under other code."""

from __future__ import annotations

import copy
import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lesion_utils.fingerprint import fingerprint_notebook
from lesion_utils.prose import fingerprint_prose, splice_prose


def write(path, cells) -> dict:
    nbformat.write(new_notebook(cells=cells), path)
    return json.loads(path.read_text())


def list_written() -> list:
    return [
        new_markdown_cell("# Title", id="title"),
        new_code_cell("params = 1", id="params", metadata={"tags": ["parameters"]}),
        new_code_cell("x = 1", id="first"),
        new_markdown_cell("Words.", id="words"),
        new_code_cell("print(x)", id="second"),
    ]


def list_executed() -> list:
    cells = list_written()
    cells.insert(2, new_code_cell("params = 2", id="injected", metadata={"tags": ["injected-parameters"]}))
    cells[3].execution_count = 2
    cells[5].outputs = [new_output("stream", text="1\n")]
    cells[5].metadata = {"papermill": {"duration": 1.5}}
    return cells


@pytest.fixture
def executed(tmp_path) -> dict:
    return write(tmp_path / "executed.ipynb", list_executed())


def splice(tmp_path, executed, cells) -> dict | None:
    return splice_prose(write(tmp_path / "written.ipynb", cells), executed)


def test_without_a_change_nothing_changes(tmp_path, executed):
    assert splice(tmp_path, executed, list_written()) == executed


def test_words_change_and_outputs_stay(tmp_path, executed):
    cells, before = list_written(), copy.deepcopy(executed)
    cells[3].source = "Other words."
    cells[4].source = "print(x)  # a comment"
    spliced = splice(tmp_path, executed, cells)
    assert executed == before, "what was given stays as it was"
    assert [cell["id"] for cell in spliced["cells"]] == ["title", "params", "injected", "first", "words", "second"]
    assert "".join(spliced["cells"][4]["source"]) == "Other words."
    assert spliced["cells"][5] == {**executed["cells"][5], "source": ["print(x)  # a comment"]}


def test_cells_of_prose_may_come_go_and_move(tmp_path, executed):
    cells = list_written()
    cells = [cells[0], cells[1], cells[3], new_markdown_cell("New.", id="new"), cells[2], cells[4]]
    del cells[0]
    spliced = splice(tmp_path, executed, cells)
    assert [cell["id"] for cell in spliced["cells"]] == ["params", "injected", "words", "new", "first", "second"]
    assert spliced["cells"][-1]["outputs"] == executed["cells"][5]["outputs"]


@pytest.mark.parametrize("change", ["other code", "other order", "one more", "one less"])
def test_other_code_keeps_its_old_words_and_has_to_run(tmp_path, executed, change):
    cells = list_written()
    if change == "other code":
        cells[4].source = "print(2 * x)"
    elif change == "other order":
        cells[2], cells[4] = cells[4], cells[2]
    elif change == "one more":
        cells.append(new_code_cell("x", id="third"))
    else:
        del cells[4]
    assert splice(tmp_path, executed, cells) is None


@pytest.mark.parametrize(
    ("place", "source", "code", "prose"),
    [
        (3, "Other.", False, True),
        (4, "print(x)  # why", False, True),
        (4, "print(3)", True, True),
        (1, "p = 3", False, False),
    ],
)
def test_the_fingerprint_of_the_prose_follows_what_that_of_the_code_leaves_out(tmp_path, place, source, code, prose):
    path, cells = tmp_path / "a.ipynb", list_written()
    write(path, cells)
    before = fingerprint_notebook(path), fingerprint_prose(path)
    cells[place].source = source
    cells[2].outputs = [new_output("stream", text="an output in the working copy")]
    write(path, cells)
    assert (fingerprint_notebook(path) != before[0], fingerprint_prose(path) != before[1]) == (code, prose)
