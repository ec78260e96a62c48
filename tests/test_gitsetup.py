"""Notebooks under git: in a scratch clone with the committed `.gitattributes`, and the committed ones themselves."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
from pathlib import Path

import nbformat
import nbstripout
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from lesion_utils.errors import RunError
from lesion_utils.gitsetup import diff_notebooks, list_settings, setup_git

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def clone(tmp_path, monkeypatch) -> Path:
    """A repository of its own, with no settings of the user's, and an `env` without this environment's programs."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv(
        "PATH", os.pathsep.join(["/usr/local/bin", "/usr/bin", "/bin", str(Path(shutil.which("git")).parent)])
    )
    for variable in [name for name in os.environ if name.startswith("GIT_") and name != "GIT_CONFIG_NOSYSTEM"]:
        monkeypatch.delenv(variable)
    folder = tmp_path / "clone"
    folder.mkdir()
    git(folder, "init", "-q")
    git(folder, "config", "user.name", "A")
    git(folder, "config", "user.email", "a@example.org")
    shutil.copy(ROOT / ".gitattributes", folder)
    setup_git(folder)
    write_notebook(folder, "print(1)")
    commit(folder, "first")
    return folder


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", message)


def write_notebook(folder: Path, source: str, *, name: str = "notebooks/01_eda.ipynb", more: str = "x = 1") -> Path:
    """An executed notebook of two cells, the first with a tag, an id and an output."""
    output = new_output("stream", text="a long output\n")
    cells = [
        new_code_cell(source, id="first", execution_count=7, outputs=[output], metadata={"tags": ["parameters"]}),
        new_code_cell("y = 2", id="middle"),
        new_code_cell(more, id="last"),
    ]
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells), path)
    return path


def test_the_settings_stay_in_this_clone(clone, tmp_path):
    assert not (tmp_path / ".gitconfig").exists()
    for name, value in list_settings().items():
        assert git(clone, "config", "--local", name).strip() == value


def test_outputs_are_not_committed_and_tags_and_ids_are(clone):
    committed = nbformat.reads(git(clone, "show", "HEAD:notebooks/01_eda.ipynb"), as_version=4)
    first = committed.cells[0]
    assert first.outputs == []
    assert first.execution_count is None
    assert (first.id, first.metadata.tags) == ("first", ["parameters"])
    assert "a long output" in (clone / "notebooks" / "01_eda.ipynb").read_text(), "the working copy keeps its outputs"
    assert git(clone, "status", "--porcelain") == ""


def test_executed_notebooks_of_a_report_are_committed_as_they_are(clone):
    path = write_notebook(clone, "print(1)", name="reports/demo/notebooks/01_eda.ipynb")
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    commit(clone, "report")
    done = subprocess.run(
        ["git", "-C", clone, "show", "HEAD:reports/demo/notebooks/01_eda.ipynb"], capture_output=True, check=True
    )
    assert done.stdout == path.read_bytes(), "a report's files are kept byte for byte"


def test_a_diff_shows_cells_and_no_json(clone):
    write_notebook(clone, "print(2)")
    shown = git(clone, "diff")
    assert "print(2)" in shown
    assert "/cells/0/source" in shown
    assert '"source": [' not in shown


def test_changes_of_different_cells_are_merged(clone):
    git(clone, "checkout", "-q", "-b", "other")
    write_notebook(clone, "print(2)")
    commit(clone, "first cell")
    git(clone, "checkout", "-q", "-")
    write_notebook(clone, "print(1)", more="x = 3")
    commit(clone, "last cell")
    git(clone, "merge", "-q", "other")
    merged = nbformat.read(clone / "notebooks" / "01_eda.ipynb", as_version=4)
    assert [cell.source for cell in merged.cells] == ["print(2)", "y = 2", "x = 3"]


def test_diff_notebooks_shows_sources_against_a_revision(clone, capfd):
    write_notebook(clone, "print(2)")
    assert diff_notebooks("HEAD", repository=clone) == 0
    shown = capfd.readouterr().out
    assert "print(2)" in shown
    assert "a long output" not in shown


def test_an_unknown_revision_is_named(clone):
    with pytest.raises(RunError, match="nope"):
        diff_notebooks("nope", repository=clone)


def test_outside_a_clone_it_says_so(tmp_path):
    with pytest.raises(RunError, match="do next   run this inside a clone"):
        setup_git(tmp_path)


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_committed_notebooks_are_as_the_filter_leaves_them(path):
    """No outputs, no execution counts, no machine's metadata: what `git add` would store is what is there."""
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    stripped = nbstripout.strip_output(copy.deepcopy(notebook), keep_output=False, keep_count=False, keep_id=True)
    assert stripped == notebook, f"run: make strip ({path.name} has outputs, counts or metadata)"
