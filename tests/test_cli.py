"""`python -m lesion_utils`: quick, and its errors are sentences."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from unittest.mock import Mock

import pytest

from lesion_utils import __version__, cli
from lesion_utils.core.errors import DataError
from lesion_utils.core.paths import project_root

HEAVY = {"torch", "timm", "pandas", "numpy", "PIL", "matplotlib", "sklearn", "scipy", "papermill", "IPython"}


def test_what_make_asks_at_every_turn_loads_nothing_heavy(tmp_path, monkeypatch):
    monkeypatch.setenv("REPORTS_DIR", str(tmp_path))
    code = "import sys, lesion_utils.cli as c; c.main(['keys', 'demo']); c.main(['why', 'demo'])"
    command = [sys.executable, "-c", f"{code}; print('loaded', *sys.modules)"]
    done = subprocess.run(command, cwd=project_root(), capture_output=True, text=True, check=True)
    loaded = set(done.stdout.partition("loaded ")[2].split())
    assert {f"lesion_utils.{name}" for name in ("pipeline.graph", "config.load", "config.sources")} <= loaded
    assert not HEAVY & loaded


def test_cleaning_needs_the_standard_library_alone():
    """`make clean` works where there is no environment, or a broken one."""
    command = [sys.executable, "-S", "-c", "import lesion_utils.cli, lesion_utils.pipeline.clean"]
    subprocess.run(command, cwd=project_root(), check=True)


def test_a_wrong_study_is_one_message(capsys):
    assert cli.main(["keys", "nowhere"]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith("STUDY=nowhere: there is no study 'nowhere'")
    assert "Traceback" not in shown.err


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (DataError("a", do="b"), 1, "a\n  do next   b\n"),
        (ModuleNotFoundError("x", name="timm"), 1, "the package 'timm' is not installed\n  do next   make env\n"),
        (KeyboardInterrupt(), 130, "\n01_eda was interrupted; go on with: make all STUDY=demo\n"),
    ],
)
def test_how_a_verb_ends(monkeypatch, capsys, error, status, message):
    monkeypatch.setattr("lesion_utils.pipeline.execute.run_step", Mock(side_effect=error))
    assert cli.main(["run", "01_eda"]) == status
    assert capsys.readouterr().err == message


@pytest.mark.slow
def test_a_reader_that_has_gone_is_no_error():
    """As with `python -m lesion_utils why demo | head -1`."""
    command = [sys.executable, "-m", "lesion_utils", "why", "demo"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=project_root())
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


def test_a_mistake_in_the_package_keeps_its_traceback(monkeypatch):
    mistake = ModuleNotFoundError("x", name="lesion_utils.nothing")
    monkeypatch.setattr("lesion_utils.pipeline.execute.run_step", Mock(side_effect=mistake))
    with pytest.raises(ModuleNotFoundError):
        cli.main(["run", "01_eda"])


def test_an_unknown_verb_lists_the_known(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["dance"])
    assert stopped.value.code == 2
    assert "keys" in capsys.readouterr().err


def test_outside_a_checkout_a_verb_says_what_to_do(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("lesion_utils.core.paths.project_root", lambda: tmp_path)
    assert cli.main(["why"]) == 1
    assert "outside a checkout" in (message := capsys.readouterr().err)
    assert "clone the repository" in message


def test_the_installed_command_runs_the_same_verbs_and_the_version_has_one_source():
    project = tomllib.loads((project_root() / "pyproject.toml").read_text())
    module, _, function = project["project"]["scripts"]["lesion-utils"].partition(":")
    code = f"import sys; sys.argv[1:] = ['why', '--help']; from {module} import {function}; {function}()"
    assert "what would run" in subprocess.check_output([sys.executable, "-c", code], text=True, cwd=project_root())
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "lesion_utils.__version__"}
    assert f"version: {__version__}\n" in (project_root() / "CITATION.cff").read_text()
    assert f"## {__version__} " in (project_root() / "CHANGELOG.md").read_text()
