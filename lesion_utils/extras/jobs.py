"""Runs as jobs for worker processes, and how far their logs say they are.

A job carries names and parameters; the worker opens the images itself and writes the run's events to a log. A run
continues from its last epoch, on whichever machine that was trained.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

from lesion_utils.config.data import Data
from lesion_utils.config.schema import Regime, StudyParams
from lesion_utils.core.console import describe_event, format_duration
from lesion_utils.core.errors import WeightsError
from lesion_utils.core.files import lock_file, write_atomic
from lesion_utils.core.names import name_training
from lesion_utils.core.paths import Study
from lesion_utils.core.run_files import check_run
from lesion_utils.data.prepared import load_prepared
from lesion_utils.models.compute import choose_compute
from lesion_utils.models.weights import WeightsSource
from lesion_utils.provenance.steps import find_training_step
from lesion_utils.training.task import Images, TrainingTask, choose_regimes, identify, list_tasks, name_run
from lesion_utils.training.train import train_run


@dataclass(frozen=True, eq=False)
class Job:
    """A run that a worker process trains.

    Attributes:
        study: its name.
        params: of the study, as this task has them.
        network, regime, seed, fold: see `TrainingTask`.
        folder: of all the network's runs.
        log: takes the task's events, one a line; it is there while somebody waits for the task.
        title: what the terminal calls the network, or the candidate.
        load: opens the images.
    """

    study: str
    params: StudyParams
    network: str
    regime: Regime
    seed: int
    fold: int | None
    folder: Path
    log: Path
    title: str
    load: Callable[[Study, Data], Images] = load_prepared

    @classmethod
    def of(
        cls,
        task: TrainingTask,
        *,
        study: Study,
        folder: Path,
        number: int,
        title: str = "",
        load: Callable[[Study, Data], Images] = load_prepared,
    ) -> Job:
        """The job that trains a task elsewhere.

        Args:
            task: what is trained; its images stay here.
            study: whose it is.
            folder: of all the network's runs.
            number: of the task among those that are trained together; it names its log.
            title, load: as the job's.
        """
        return cls(
            study=study.name,
            params=task.params,
            network=task.network,
            regime=task.regime,
            seed=task.seed,
            fold=task.fold,
            folder=folder,
            log=folder / "jobs" / f"{number}.jsonl",
            title=title or task.network,
            load=load,
        )

    def open(self) -> tuple[TrainingTask, WeightsSource | None]:
        """The task with its images, and the pretrained weights."""
        images = _open_images(self.load, self.study, self.params.data.model_dump_json())
        params = StudyParams.model_validate(_intern(self.params.model_dump(mode="json")))
        task = TrainingTask(params, self.network, self.regime, self.seed, images, self.fold)
        return task, choose_regimes(params.network(self.network))[1]

    def check(self) -> tuple[bool, str]:
        """Whether its run has been trained and is unchanged, and if it changed, what to say; see `check_run`."""
        task, source = self.open()
        identity = identify(task, compute=choose_compute(task.settings), source=source)
        return check_run(self.folder / name_run(task, identity))

    def note(self, event: Mapping[str, Any]) -> None:
        """Add an event to the log; ends the task where the log is gone, since nobody waits for it any more."""
        with self.log.open("r+", encoding="utf-8") as file:
            file.seek(0, os.SEEK_END)
            file.write(json.dumps(event) + "\n")

    def read_event(self) -> dict[str, Any] | None:
        """The latest event; None before the task has begun."""
        with suppress(OSError, ValueError):  # not there yet, or half a line
            lines = self.log.read_text(encoding="utf-8").splitlines()
            return json.loads(lines[-1]) if lines else {}
        return None

    def __str__(self) -> str:
        fold = {} if self.fold is None else {"fold": self.fold}
        return f"{self.title}, {name_training({'regime': self.regime, 'seed': self.seed, **fold})}"


def _intern(value: Any) -> Any:
    """Make equal strings one object, as in a notebook's process: pickle writes an object once, so a checkpoint's bytes
    depend on it."""
    if isinstance(value, dict):
        return {sys.intern(key): _intern(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_intern(inner) for inner in value]
    return sys.intern(value) if isinstance(value, str) else value


@lru_cache(maxsize=1)
def _open_images(load: Callable[[Study, Data], Images], study: str, data: str) -> Images:
    return load(Study(study), Data.model_validate_json(data))


def list_jobs(study: Study, params: StudyParams) -> list[Job]:
    """Every run of a study, except for networks whose weights are missing: their notebooks report that."""
    jobs, data = [], load_prepared(study, params.data)
    for network in study.networks:
        folder = study.runs / find_training_step(network).name
        with suppress(WeightsError):
            tasks = list_tasks(params, network, choose_regimes(params.network(network))[0], data)
            jobs += [Job.of(task, study=study, folder=folder, number=number) for number, task in enumerate(tasks)]
    return jobs


def run_job(job: Job, settings: Mapping[str, str]) -> None:
    """Train a run, in a worker.

    Args:
        job: the run.
        settings: environment variables of the process that sends it.
    """
    os.environ.update(settings)
    with lock_file(job.log.with_suffix(".lock")):  # a worker that was given up may be at it still
        write_atomic(job.log, "")
        task, source = job.open()
        train_run(task, folder=job.folder, source=source, on_event=job.note)


@dataclass(frozen=True)
class Workers:
    """The workers that train.

    Attributes:
        submit: sends a task.
        tend: called about once a second while tasks run.
        count: workers that there are now.
        lost: what a task's future raises when its worker was lost.
    """

    submit: Callable[[Job], Future[Any]]
    tend: Callable[[], None]
    count: Callable[[], int]
    lost: type[BaseException]


class Progress:
    """How far the jobs are, by their logs.

    Attributes:
        jobs: all tasks.
        epochs: done by all of them, as far as their logs were read.
    """

    def __init__(self, jobs: Sequence[Job]):
        self.jobs = list(jobs)
        self._events: dict[Job, dict[str, Any]] = {}

    @property
    def epochs(self) -> int:
        return sum(event["epoch"] for event in self._events.values())

    def describe(self, waiting: Sequence[Job], workers: int) -> str:
        """A line for all tasks, and one for each that is being trained."""
        latest = self.look(waiting)
        left = self._count_seconds(waiting) / max(1, workers)
        done = f"{len(self.jobs) - len(waiting)} of {len(self.jobs)} tasks done, {workers} workers, "
        lines = [f"{done}{format_duration(left if self._events else None)} left"]
        for job, event in latest.items():
            if event is not None:
                lines.append(f"  {job.title}, {describe_event(event)}" if event else f"  {job} begins")
        return "\n".join(lines)

    def look(self, waiting: Sequence[Job]) -> dict[Job, dict[str, Any] | None]:
        """Read the latest event of tasks, in their order."""
        there = set(waiting)
        latest = {job: job.read_event() for job in self.jobs if job in there}
        self._events |= {job: event for job, event in latest.items() if event and "epoch" in event}
        return latest

    def _count_seconds(self, waiting: Sequence[Job]) -> float:
        """Of one worker for all that is left: tasks that have not begun take as long as their kind, or as all."""
        known: dict[Any, list[float]] = {}
        for job, event in self._events.items():
            seconds = event["epochs"] * (event["seconds"] + event["seconds_validation"])
            for kind in ((job.network, job.regime), None):
                known.setdefault(kind, []).append(seconds)
        whole = {job: fmean(known.get((job.network, job.regime), known.get(None, [0.0]))) for job in waiting}
        return sum(self._events[job]["seconds_left"] if job in self._events else whole[job] for job in waiting)
