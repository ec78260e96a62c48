"""A whole study, killed again and again while it is made: it ends as one that nobody touched."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from real_project import copy_finished_real_project, forget_everything
from small_project import clean_environment, copy_finished_project, make, read_results

REPORT = Path("reports/demo")
#: By a part of its command line, the likelier first; the group is make and what it has started, but for the kernel.
VICTIMS = {"kernel": "ipykernel_launcher", "runner": "-m lesion_utils", "make": "", "group": ""}
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
#: In the environment of all that a `make` starts, so that none is overlooked.
TAG = "LESION_TEST_KILLS"
WHAT = "`make all`, at random moments: make, runner, kernel or group, by KILL, TERM or INT"
#: What a small study makes again in the short form.
LOST = ("metrics/01_eda.json", "predictions/vgg19.csv")


def list_processes(project: Path) -> dict[int, str]:
    """The command lines of what lives and was started for a project, by process."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{TAG}={project}\0".encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has ended, or is another user's
            continue
    return found


def wait_until_gone(project: Path, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while left := list_processes(project):
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.1)


def start_make(project: Path) -> subprocess.Popen[bytes]:
    """`make all` in a group of its own; what it says goes to files, which no survivor keeps open for us."""
    return subprocess.Popen(
        ["make", f"VENV={sys.prefix}", "all"],
        cwd=project,
        env=clean_environment() | {TAG: str(project)},
        stdout=(project / "out.txt").open("wb"),
        stderr=(project / "err.txt").open("wb"),
        start_new_session=True,
        # Where these tests run in the background, they were started with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_a_write(project: Path, process: subprocess.Popen[bytes], seconds: float = 20.0) -> None:
    """Return as soon as the report has another file: where the moments between two files are."""
    deadline, before = time.monotonic() + seconds, read_times(project / REPORT)
    while time.monotonic() < deadline and process.poll() is None and read_times(project / REPORT) == before:
        time.sleep(0.001)


def read_times(folder: Path) -> list[int]:
    """A folder's time changes with every file that is made, renamed or removed in it."""
    try:
        return [path.stat().st_mtime_ns for path in sorted(folder.rglob("*/"))]
    except FileNotFoundError:  # removed while we look: a change
        return []


def strike(rng: random.Random, project: Path, process: subprocess.Popen[bytes]) -> tuple[str, signal.Signals]:
    """Send one of the signals to one of those that are there; whom, "" where all had ended."""
    number, alive = rng.choice(SIGNALS), list_processes(project)
    for victim in rng.sample(list(VICTIMS), k=7, counts=[3, 2, 1, 1]):
        own = [process.pid] if victim in ("make", "group") else [p for p, c in alive.items() if VICTIMS[victim] in c]
        if own:
            try:
                (os.killpg if victim == "group" else os.kill)(own[0], number)
            except ProcessLookupError:
                continue
            return victim, number
    return "", number


def break_off(rng: random.Random, project: Path, longest: float) -> tuple[str, str, float, int]:
    """Start `make all` and strike at a random moment, more often an early one.

    Returns:
        whom ("" where it had ended before), by which signal, after how many seconds, and make's status.
    """
    process, moment = start_make(project), 0.3 * (longest / 0.3) ** rng.random()
    victim, number = "", signal.SIGKILL
    try:
        process.wait(timeout=moment)
    except subprocess.TimeoutExpired:
        if rng.random() < 0.5:
            wait_for_a_write(project, process)
        victim, number = strike(rng, project, process)
    status = process.wait(timeout=3600)  # where all that was struck was left over from a make before, all of it is made
    if not (victim == "make" and number == signal.SIGKILL):  # whose step goes on without it
        wait_until_gone(project)
    return victim, number.name, moment, status


def assert_told(project: Path, done: tuple[str, str, float, int]) -> None:
    """Whoever could still speak said what to do, in words."""
    victim, number, _, status = done
    told = (project / "err.txt").read_text()
    assert "Traceback" not in told or victim == "kernel", (done, told)  # which may still be loading its packages
    if victim == "kernel" and status:
        assert "resume with: make all STUDY=demo" in told, (done, told)
    if victim == "runner" and number == "SIGINT" and status:
        assert (
            "go on with: make all STUDY=demo" in told
            or "nothing was lost" in told
            or all(line.startswith("make: ") for line in told.splitlines())
        ), (done, told)


def kill_often(project: Path, expected: dict[str, bytes], *, kills: int, longest: float, begin_again) -> None:
    """Kill what makes a study, so often; whenever it ends all the same, it is as it should be and begins again."""
    rng, history = random.Random(2016), []
    while len(history) < kills:
        done = break_off(rng, project, longest)
        history += [done] if done[0] else []
        assert_told(project, done)
        if done[-1] == 0:
            assert read_results(project) == expected, history
            begin_again()
    whole = make(project, "all", "verify")
    assert whole.returncode == 0, (history, whole.stdout + whole.stderr)
    wait_until_gone(project)
    assert read_results(project) == expected, history


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
@pytest.mark.fault("kills", WHAT, "nothing stays alive; the results of an unbroken run, byte for byte")
def test_a_small_study_killed_thrice_ends_as_one_that_was_not(tmp_path_factory):
    project = copy_finished_project(tmp_path_factory)
    expected = read_results(project)

    def begin_again() -> None:
        for name in LOST:
            (project / REPORT / name).unlink()

    begin_again()
    kill_often(project, expected, kills=3, longest=8.0, begin_again=begin_again)


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
@pytest.mark.fault("kills", WHAT, "nothing stays alive; the results of an unbroken run, byte for byte")
def test_a_study_killed_fifty_times_ends_as_one_that_was_not(tmp_path_factory):
    """With its real notebooks and three networks, from the decoding of the images to the index page."""
    project = copy_finished_real_project(tmp_path_factory)
    expected = read_results(project)
    begin_again = partial(forget_everything, project)
    records = [json.loads(path.read_text()) for path in (project / REPORT / "runs").glob("*/run.json")]
    longest = sum(record["wall_seconds"] for record in records) / 4  # so that fifty take minutes; each goes on
    begin_again()
    kill_often(project, expected, kills=50, longest=longest, begin_again=begin_again)
