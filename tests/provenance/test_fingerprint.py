"""What changes a notebook's fingerprint, and what of the package a notebook reaches."""

from __future__ import annotations

import pytest
from small_project import STEPS, list_reached_modules, write_notebook

from lesion_utils.core.errors import RunError
from lesion_utils.provenance.fingerprint import fingerprint_notebook, read_code


def test_what_runs_steps_and_what_writes_pages_reruns_no_notebook():
    unwanted = ("report.", "pipeline.", "extras.", "cli")
    step_of_data = {"data.download", "data.prepare", "data.make_box", "data.split"}
    for step in (step for step in STEPS.values() if step.is_notebook):
        reached = list_reached_modules(step.notebook)
        assert "notebooks.study" in reached
        found = [name for name in reached if name.startswith(unwanted)] + list(step_of_data & reached)
        assert not found, f"an edit there runs {step.name} again"


def test_the_code_of_a_notebook_is_read_without_commands(tmp_path):
    (tmp_path / "notebooks").mkdir()
    path = write_notebook(tmp_path, "01_eda", "%matplotlib inline\nx = 1\n!ls", heading="Work")
    lines = read_code(path).splitlines()
    assert "x = 1" in lines and not [line for line in lines if line.startswith(("%", "!"))]


def test_a_notebook_counts_by_its_words_and_its_code(tmp_path):
    (tmp_path / "notebooks").mkdir()
    path = write_notebook(tmp_path, "01_eda", "x = 1", heading="Work")
    before = fingerprint_notebook(path)
    assert fingerprint_notebook(write_notebook(tmp_path, "01_eda", "x = 1", heading="Other words")) != before
    assert fingerprint_notebook(write_notebook(tmp_path, "01_eda", "x = 2", heading="Work")) != before
    content = path.read_text().replace("../params/demo", "../params/mine").replace("x = 2", "x = 1")
    path.write_text(content)
    assert fingerprint_notebook(path) == before, "the parameters cell is replaced by every run"


@pytest.mark.parametrize("content", ["", "{}", "[1", "[]", "3"])
def test_a_damaged_notebook_is_named(tmp_path, content):
    path = tmp_path / "01_eda.ipynb"
    path.write_text(content)
    with pytest.raises(RunError, match=r"notebooks/01_eda\.ipynb"):
        fingerprint_notebook(path)
