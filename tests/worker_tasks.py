"""Tasks for tests of other processes, and what these open: here, because a worker imports it by its name."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tiny_study import TinyImages, make_demanding_study, make_images

from lesion_utils.config.data import Data
from lesion_utils.core.errors import DataError
from lesion_utils.core.paths import Study
from lesion_utils.extras.jobs import Job
from lesion_utils.models.weights import WeightsSource
from lesion_utils.training.task import TrainingTask

PARAMS = make_demanding_study(epochs=12)

#: Seeds of moments at which workers are killed; all but the first belong to the long form.
ROUNDS = [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 11))]


_were_done: dict[Job, bool] = {}  # when this process began with them: these tell of their last epoch again


class CountedJob(Job):
    """A task with a journal of every epoch that anybody trains."""

    @property
    def journal(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.journal")

    def open(self) -> tuple[TrainingTask, WeightsSource | None]:
        _were_done[self] = any(self.folder.glob(f"*seed{self.seed}-*/DONE"))
        return super().open()

    def note(self, event: Mapping[str, Any]) -> None:
        if "epoch" in event and not _were_done.get(self):
            with self.journal.open("a") as file:
                file.write(json.dumps([event["seed"], event["epoch"]]) + "\n")
        super().note(event)


def open_tiny(study: Study, data: Data) -> TinyImages:
    """Few images."""
    return make_images(16, 6, 6)


def open_in_parent_only(study: Study, data: Data) -> TinyImages:
    """Few images; whoever opens them in another process than the first gets none."""
    if os.environ["FIRST_PROCESS"] != str(os.getpid()):
        raise DataError("these images cannot be read", where="here")
    return make_images(16, 6, 6)


def die_in_worker(study: Study, data: Data) -> TinyImages:
    """Few images, which no other process survives."""
    if os.environ["FIRST_PROCESS"] != str(os.getpid()):
        os.kill(os.getpid(), signal.SIGKILL)
    return make_images(16, 6, 6)


def make_jobs(tmp_path: Path, load=open_tiny, study: str = "tiny") -> list[CountedJob]:
    """A task for each of two seeds."""
    folder, logs = tmp_path / "runs", tmp_path / "logs"
    return [
        CountedJob(study, PARAMS, "resnet50", "scratch", seed, None, folder, logs / f"{seed}.jsonl", "resnet50", load)
        for seed in (1, 2)
    ]


def count_epochs(jobs: Sequence[CountedJob]) -> Counter[str]:
    """How often each epoch of tasks was trained to its end."""
    journal = jobs[0].journal
    return Counter(journal.read_text().splitlines() if journal.is_file() else [])


@contextmanager
def killing(
    jobs: Sequence[CountedJob], list_workers: Callable[[], list[psutil.Process]], *, seed: int
) -> Iterator[None]:
    """Kill workers at random moments while the block trains: once in the short form, up to three times in the long.

    A moment is a number of epochs, of the 24 of both tasks, and a part of one.
    """
    rng, over = np.random.default_rng(seed), threading.Event()
    moments = np.sort(rng.uniform(1, 16, size=1 if seed == 1 else rng.integers(1, 4)))

    def kill() -> int:
        for number, moment in enumerate(moments):
            while not (count_epochs(jobs).total() >= int(moment) and (workers := find(list_workers))):
                if over.wait(0.01):
                    return number
            over.wait(moment % 1 * 0.1)
            workers[rng.integers(len(workers))].kill()
        return len(moments)

    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill)
        try:
            yield
        finally:
            over.set()
    assert killed.result() == len(moments), "training ended before all were killed"


def find(list_workers: Callable[[], list[psutil.Process]]) -> list[psutil.Process]:
    """The workers, or none where one ends while they are listed."""
    try:
        return list_workers()
    except psutil.NoSuchProcess:
        return []
