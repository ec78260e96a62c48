"""SIGKILL at random moments: the run goes on and ends with the bytes of one that was never stopped."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_study import make_demanding_study, make_images, read_results

from lesion_utils.config.schema import StudyParams
from lesion_utils.training.train import train_network


def train_tiny(params: StudyParams, folder: Path, *, die_in_write: int | None = None) -> None:
    """What the killed process does; it kills itself in the middle of a checkpoint's write if it is told in which."""
    os.environ.update(THREADS="1", DEVICE="cpu")
    if die_in_write is not None:
        _die_in_write(die_in_write)
    train_network(params, "resnet50", data=make_images(16, 6, 6), folder=folder)


def _die_in_write(number: int) -> None:
    """Let write `number` of a checkpoint, from 0, end after half its bytes, and the process with it."""
    left, save = number, torch.save

    def save_half(content, file) -> None:
        nonlocal left
        if left:
            left -= 1
            save(content, file)
            return
        whole = io.BytesIO()
        save(content, whole)
        file.write(whole.getvalue()[: whole.tell() // 2])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    torch.save = save_half


def start(folder: Path, *, die_in_write: int | None = None) -> multiprocessing.process.BaseProcess:
    """Train in a process of its own."""
    processes = multiprocessing.get_context("forkserver")  # imports torch once, not once per kill
    processes.set_forkserver_preload(["lesion_utils.training.train", "tiny_study"])
    arguments = {"args": (make_demanding_study(), folder), "kwargs": {"die_in_write": die_in_write}}
    process = processes.Process(target=train_tiny, **arguments)
    process.start()
    return process


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[dict[str, object], float]:
    """What a run leaves that nobody stops, and its seconds."""
    found = []
    for name in ("first", "second"):  # the first one pays for imports
        begun, folder = time.monotonic(), tmp_path_factory.mktemp(name)
        process = start(folder)
        process.join()
        assert process.exitcode == 0
        found.append(read_results(folder))
    assert found[0] == found[1] and len([name for name in found[0] if name.endswith("DONE")]) == 2
    return found[0], time.monotonic() - begun


@pytest.mark.slow
@pytest.mark.fault(
    "kills", "training, in the middle of a checkpoint's write", "the epoch is trained again; the same bytes"
)
def test_a_kill_in_the_middle_of_a_write_costs_the_epoch_that_was_being_written(whole, tmp_path):
    for number in (0, 1, 2, 3, 2):  # best.pt and last.pt of the first epochs; the last kills come after a resume
        process = start(tmp_path / "broken", die_in_write=number)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert list((tmp_path / "broken").rglob(".*.pt.*")), "the kill did not come while a checkpoint was written"
    process = start(tmp_path / "broken")
    process.join()
    assert read_results(tmp_path / "broken") == whole[0]


@pytest.mark.slow
@pytest.mark.fault("kills", "training, at random moments", "the bytes of an unbroken run")
@pytest.mark.parametrize("wanted", [4, pytest.param(20, marks=pytest.mark.long)])
def test_runs_killed_at_random_moments_end_with_the_same_bytes(whole, tmp_path, wanted):
    expected, took = whole
    rng, kills, begun = np.random.default_rng(2016), 0, 0
    while True:
        folder = tmp_path / f"broken{begun}"
        process = start(folder)
        process.join(timeout=rng.uniform(0, took) if kills < wanted else None)
        if process.exitcode is None:
            process.kill()
            process.join()
            kills += 1
            continue
        assert process.exitcode == 0
        assert read_results(folder) == expected, f"after {kills} kills"
        if kills == wanted:
            return
        begun += 1
