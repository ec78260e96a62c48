"""Notebook 01 in Colab: a badge where the repository's address is known, and a cell that does nothing anywhere else."""

from __future__ import annotations

import json
import shutil
import sys
from types import ModuleType

import pytest

from lesion_utils.core.errors import ParamsError
from lesion_utils.core.paths import project_root
from lesion_utils.report.colab import BADGE, NOTEBOOK, SETUP, write_badge

ADDRESS = "https://github.com/someone/lesion-utils"


@pytest.fixture
def root(tmp_path):
    """The files that it reads and writes."""
    for name in ("CITATION.cff", "README.md", NOTEBOOK):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(project_root() / name, tmp_path / name)
    return tmp_path


def read_all(root) -> list[str]:
    return [(root / name).read_text(encoding="utf-8") for name in ("README.md", NOTEBOOK)]


def name_address(root, address: str) -> None:
    citation = root / "CITATION.cff"
    lines = [line for line in citation.read_text().splitlines() if not line.startswith("repository-code")]
    citation.write_text("\n".join([*lines, f"repository-code: {address}"]) + "\n")


def find_cell(root, name: str) -> str:
    cells = {cell["id"]: "".join(cell["source"]) for cell in json.loads((root / NOTEBOOK).read_text())["cells"]}
    return cells[name]


def test_readme_and_notebook_are_what_the_citation_says(root):
    before = read_all(root)
    write_badge(root)
    assert read_all(root) == before, "run: make reference"


def test_an_address_gives_both_a_badge_and_goes_again_without_a_trace(root):
    name_address(root, ADDRESS)
    write_badge(root)
    opened = f"(https://colab.research.google.com/github/someone/lesion-utils/blob/HEAD/{NOTEBOOK})"
    assert opened in (root / "README.md").read_text()
    assert find_cell(root, BADGE).endswith(opened)
    once = read_all(root)
    write_badge(root)
    assert read_all(root) == once, "a second time changes nothing"
    name_address(root, '""')
    write_badge(root)
    assert not any("colab.research" in text for text in read_all(root))


def test_the_cell_does_its_work_on_colab_alone(root, monkeypatch):
    name_address(root, ADDRESS)
    write_badge(root)
    cell, said = find_cell(root, SETUP), []
    monkeypatch.setattr("IPython.get_ipython", lambda: type("Shell", (), {"system": staticmethod(said.append)}))
    monkeypatch.setattr("os.chdir", said.append)
    monkeypatch.setattr("sys.path", list(sys.path))
    exec(cell, {})
    assert said == []
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    exec(cell, {})
    assert said[0] == f"git clone --depth 1 {ADDRESS} /content/lesion-utils"
    assert said[-1].endswith("python -m lesion_utils run data demo")
    assert sys.path[0] == "/content/lesion-utils"


def test_colab_opens_notebooks_of_github_alone(root):
    name_address(root, "https://example.org/lesion-utils")
    with pytest.raises(ParamsError, match=r"example\.org"):
        write_badge(root)
