"""A run that is killed, whenever: the next `make` runs its step again, and the report verifies."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from small_project import STEPS, clean_environment, copy_finished_project, make, run

REPORT = Path("reports/demo")
STEP = "04_vgg19_finetune"
#: What each step has to make again when it is gone.
LOST = {"data": "data/manifest.json", STEP: "predictions/vgg19.csv", "index": "index.html"}

START = """
import os, signal, sys
from lesion_utils import cli
from lesion_utils.data import prepare
from lesion_utils.pipeline import graph
from lesion_utils.report import notebook_pages
def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)
def after(work):
    return lambda *arguments, **options: die(work(*arguments, **options))
"""
MOMENTS = {
    "before its mark": (STEP, "graph.mark_done = die"),
    "before its page": (STEP, "notebook_pages.write_notebook_page = die"),
    "after the manifest": ("data", "prepare.prepare_study = after(prepare.prepare_study)"),
}
#: Count what changes a file of the report, and die before the change of that number.
COUNT = """
left = {number}
def watch(event, arguments):
    global left
    writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if (writes or event in ("os.rename", "os.remove", "os.utime")) and "reports/demo" in str(arguments[0]):
        left -= 1
        if not left:
            die()
sys.addaudithook(watch)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A finished report; each test leaves one behind."""
    return copy_finished_project(tmp_path_factory)


def run_with(project: Path, code: str, step: str) -> subprocess.CompletedProcess[str]:
    """Run a step that has something to do, in a process that `code` has prepared."""
    (project / REPORT / LOST[step]).unlink(missing_ok=True)
    code = f"{START}{code}\ncli.main(['run', {step!r}])\nprint(globals().get('left'))"
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=project, env=clean_environment(), capture_output=True, text=True, check=False)


def is_marked(project: Path, step: str) -> bool:
    """Whether a step counts as done: `make` compares the mark, and nothing else."""
    return (project / REPORT / STEPS[step].mark).exists()


def assert_made_again(project: Path, *steps: str) -> None:
    done = make(project, "all")
    assert done.returncode == 0, done.stderr
    for step in steps:
        assert re.search(rf"^{step} +ok ", done.stdout, re.MULTILINE), done.stdout
        assert json.loads((project / REPORT / "runs" / step / "run.json").read_text())["status"] == "ok"
    verdict = run(project, "verify")
    assert verdict.returncode == 0, verdict.stdout


def kill_at_writes(project: Path, step: str, choose: Callable[[range], Iterable[int]]) -> None:
    """Kill a step before some of its writes; the first is what takes the mark away."""
    whole = run_with(project, COUNT.format(number=-1), step)
    writes = range(1, -int(whole.stdout.split()[-1]))
    assert len(writes) > 4, "mark, record, files, record and mark"
    for number in choose(writes):
        killed = run_with(project, COUNT.format(number=number), step)
        assert killed.returncode == -9, f"write {number} of {writes[-1]}: {killed.stderr}"
        assert number == 1 or not is_marked(project, step)


@pytest.mark.slow
@pytest.mark.fault("kills", "between a step's files and its mark", "the step runs again")
def test_a_run_that_is_killed_is_made_again(project):
    for moment, (step, code) in MOMENTS.items():
        assert run_with(project, code, step).returncode == -9, moment
        assert not is_marked(project, step)
    assert_made_again(project, "data", STEP)


@pytest.mark.long
@pytest.mark.parametrize("step", LOST)
@pytest.mark.fault("kills", "at any write of a step", "the step runs again; the report verifies")
def test_a_run_that_is_killed_at_each_of_its_writes_is_made_again(project, step):
    kill_at_writes(project, step, lambda writes: writes[1:])
    assert_made_again(project, step)


@pytest.mark.slow
@pytest.mark.fault("kills", "at any write of a step", "the step runs again; the report verifies")
def test_a_run_that_is_killed_at_any_write_or_cannot_write_its_page_is_made_again(project):
    kill_at_writes(project, STEP, lambda writes: random.Random(2016).sample(writes, 3))
    page = project / REPORT / "html" / f"{STEP}.html"
    page.unlink(missing_ok=True)
    page.mkdir()
    (page / "in the way").touch()
    assert f"{STEP} failed" in run_with(project, "", STEP).stderr
    assert not is_marked(project, STEP)
    shutil.rmtree(page)
    assert_made_again(project, STEP)
