"""Training runs before a notebook needs them: in several processes here (`JOBS`), or on a cluster (`CLUSTER`).

Notebooks and trials then find their runs done. A run's name says what it depends on, and it goes on from its last
epoch: it does not matter which worker trains it, nor how many, and a worker that is lost costs an epoch.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from joblib import cpu_count
from joblib.externals.loky import get_reusable_executor

from lesion_utils.config.schema import StudyParams
from lesion_utils.core import paths
from lesion_utils.core.console import Console
from lesion_utils.core.errors import ParamsError, RunError
from lesion_utils.core.files import lock_file
from lesion_utils.core.paths import Study
from lesion_utils.core.settings import read_setting
from lesion_utils.extras.jobs import Job, Progress, Workers, list_jobs, run_job
from lesion_utils.models.compute import choose_device

#: Runs at once on one GPU, at most: one such run leaves a large GPU idle in part.
RUNS_PER_GPU = 3
#: GPU memory that each of several runs needs. VGG19's weights, gradients, optimizer state and average take 2.6 GiB
#: (140 million float32 numbers, five times), a batch of 16 at 224 px about as much, and CUDA its share.
GIB_PER_RUN = 8

#: Times that workers may be lost, one after the other, before a task has got an epoch further.
TRIES = 3

_held: list[FileLock] = []  # by this process for as long as it lives


def train_ahead(jobs: Sequence[Job], *, console: Console) -> dict[Job, BaseException]:
    """Train the runs that are not done in worker processes, as `JOBS` and `CLUSTER` say; without them, do nothing.

    `THREADS` is set if it is not: a run's name depends on it, so the code that reads the runs later needs the same.

    Args:
        jobs: the runs.
        console: shows how far they are, and reports each that failed.

    Returns:
        the runs that failed, and what they raised.

    Raises:
        ParamsError: `JOBS` is not a number.
        RunError: workers are lost again and again, or there are none.
    """
    asked, cluster = os.environ.get("JOBS") or "1", os.environ.get("CLUSTER", "").strip()
    if not asked.isdigit() or int(asked) < 1:
        raise ParamsError("not a number of workers", where=f"JOBS={asked}", expected="a whole number from 1")
    if asked == "1" and not cluster:
        return {}
    if not os.environ.get("THREADS"):
        cores = cpu_count(only_physical_cores=True)
        os.environ["THREADS"] = str(torch.get_num_threads() if cluster else max(1, cores // int(asked)))
    if not jobs:
        return {}
    console.show("waits for another command at the same tasks")
    with lock_file(jobs[0].log.with_name("command.lock")):  # it has the same logs
        checked = [(job, *job.check()) for job in jobs]
        for remark in filter(None, (remark for _, _, remark in checked)):
            console.report(remark)
        jobs = [job for job, done, _ in checked if not done]
        if not jobs:
            return {}
        with _open_workers(jobs, asked=int(asked), cluster=cluster, console=console) as workers:
            failed = _train(jobs, workers, console=console)
    for job, error in failed.items():
        console.report(f"{job}: {str(error).splitlines()[0]}")
    return failed


def train_study(study: Study, params: StudyParams, network: str, *, console: Console) -> None:
    """Train all networks of a study ahead, for the step of one of them.

    A run that fails here fails again in the notebook of its network, which explains more. Only the failures of the
    given network are raised.
    """
    failed = train_ahead(list_jobs(study, params), console=console)
    own = [error for job, error in failed.items() if job.network == network]
    if own:
        raise own[0]


def _open_workers(
    jobs: Sequence[Job], *, asked: int, cluster: str, console: Console
) -> AbstractContextManager[Workers]:
    if cluster:
        from lesion_utils.extras.cluster import open_cluster

        return open_cluster(cluster, jobs, count=asked, console=console)
    cores, places = cpu_count(only_physical_cores=True), list_places(list_devices())
    most = len(places) or max(1, cores // int(os.environ["THREADS"]))
    if asked > most:
        why = (
            f"{GIB_PER_RUN} GiB of GPU memory and at most {RUNS_PER_GPU} per GPU" if places else "or cores were shared"
        )
        console.report(f"JOBS={asked}: {most} at a time, {why}")
    return open_local(min(asked, most, len(jobs)), places)


def _train(jobs: list[Job], workers: Workers, *, console: Console) -> dict[Job, BaseException]:
    """Train tasks until each is done or has failed; those whose worker was lost are sent again."""
    progress, tries, before = Progress(jobs), 0, None
    failed: dict[Job, BaseException] = {}
    try:
        while jobs:
            for job in jobs:
                job.log.unlink(missing_ok=True)
            futures = {workers.submit(job): job for job in jobs}
            waiting = set(futures)
            while waiting:
                workers.tend()
                console.show(progress.describe([futures[f] for f in waiting], workers.count()))
                waiting = wait(waiting, timeout=1, return_when=FIRST_COMPLETED).not_done
            errors = {job: future.exception() for future, job in futures.items()}
            jobs = [job for job, error in errors.items() if isinstance(error, workers.lost)]
            failed |= {job: error for job, error in errors.items() if error and job not in jobs}
            progress.look(jobs)
            now = (progress.epochs, len(jobs))
            tries, before = (tries + 1 if now == before else 1), now
            if jobs and tries > TRIES:
                raise _explain_loss([job for job in jobs if job.log.is_file()] or jobs, tries)
    finally:
        for job in progress.jobs:
            job.log.unlink(missing_ok=True)
        console.show("")
    return failed


def _explain_loss(jobs: Sequence[Job], times: int) -> RunError:
    return RunError(
        f"workers died {times} times, and no task got further in between",
        where="; ".join(map(str, jobs[:4])) + (f" and {len(jobs) - 4} more" if len(jobs) > 4 else ""),
        expected="workers that live as long as an epoch; most often memory runs out",
        do="lower JOBS or the network's batch_size, and give the same command again: every epoch so far is kept",
    )


# --- workers on this machine --------------------------------------------------------------------


def list_devices() -> list[str]:
    """The GPUs here, as `CUDA_VISIBLE_DEVICES` names them; none if the CPU computes."""
    device = choose_device()
    if device == "cuda":
        named = read_setting("CUDA_VISIBLE_DEVICES")
        return named.split(",") if named else list(map(str, range(torch.cuda.device_count())))
    return [] if device == "cpu" else [device]


def list_places(devices: Sequence[str]) -> list[str]:
    """Places for workers: each device once, then a second and a third time those whose memory is enough for more."""
    runs = [min(RUNS_PER_GPU, max(1, int(_read_gib(i) / GIB_PER_RUN))) for i in range(len(devices))]
    return [device for i in range(RUNS_PER_GPU) for device, most in zip(devices, runs, strict=True) if i < most]


def _read_gib(number: int) -> float:
    """Memory of a GPU; of MPS, where one run computes at a time, 0."""
    return torch.cuda.get_device_properties(number).total_memory / 2**30 if torch.cuda.is_available() else 0


@contextmanager
def open_local(count: int, places: Sequence[str]) -> Iterator[Workers]:
    """Worker processes on this machine, each at a place of `list_places` if there are any.

    The caller holds the first device; the others are locked here.
    """
    folder = paths.reports_root()
    begin = partial(_begin, os.getpid(), tuple(places), folder)
    pools: list[Any] = []

    def submit(job: Job) -> Future[Any]:
        pools[:] = [get_reusable_executor(max_workers=count, initializer=begin)]  # a new one if a lost worker ended it
        return pools[0].submit(run_job, job, {})

    # The pool ends a worker whose memory has grown from task to task, and starts another: that is no news to a user.
    warnings.filterwarnings("ignore", "A worker stopped while some jobs were given", UserWarning)
    with ExitStack() as stack:
        for device in list(dict.fromkeys(places[:count]))[1:]:
            stack.enter_context(lock_file(folder / f".cuda{device}.lock"))
        try:
            yield Workers(submit, lambda: None, lambda: count, BrokenProcessPool)
        finally:
            with _silent_threads():
                for pool in pools:
                    pool.shutdown(kill_workers=True)


@contextmanager
def _silent_threads() -> Iterator[None]:
    """While tasks are taken back, the pool's own thread may stumble over one of them, and would print a traceback."""
    hook, threading.excepthook = threading.excepthook, lambda _: None
    try:
        yield
    finally:
        threading.excepthook = hook


def _begin(parent: int, places: Sequence[str], folder: Path) -> None:
    """In a new worker: leave Ctrl-C to the parent, end with it, and take a place that no other worker has."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    for number, device in enumerate(places):
        lock = FileLock(folder / f".cuda{device}.{number}.worker.lock")
        with suppress(Timeout):
            lock.acquire(timeout=0)
            _held.append(lock)
            os.environ["CUDA_VISIBLE_DEVICES"] = device
            return


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)  # what it writes is whole or not there
