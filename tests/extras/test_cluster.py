"""Tasks on a cluster: a real Dask scheduler and worker processes on loopback."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from odd_machines import with_own_mounts
from small_project import ROOT
from tiny_study import read_results
from worker_tasks import ROUNDS, count_epochs, killing, make_jobs

from lesion_utils.core.console import Console
from lesion_utils.core.errors import RunError
from lesion_utils.extras.ahead import train_ahead

distributed = pytest.importorskip("distributed", reason="Dask is not installed: make test installs it")
Gate = pytest.importorskip("lesion_utils.extras.cluster").Gate
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("two_workers")]


@contextmanager
def start(*arguments: str, code: Path = ROOT, prefix: tuple[str, ...] = ()) -> Iterator[subprocess.Popen]:
    """A process of Dask's, and those that it starts, for as long as the block runs."""
    places = os.pathsep.join(map(str, (code, ROOT / "tests")))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = os.environ | {"PYTHONPATH": places}
    process = subprocess.Popen([*prefix, sys.executable, "-m", *arguments], cwd=code, env=environment, **quiet)
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen) -> None:
    """Kill a process and all that it started, at once."""
    if process.poll() is None:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for member in family[::-1]:
            member.kill()
    process.wait()


@pytest.fixture
def scheduler(two_workers, tmp_path, monkeypatch) -> Iterator[subprocess.Popen]:
    """A scheduler on loopback; `CLUSTER` names it."""
    file = tmp_path / "scheduler.json"
    options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    with start("distributed.cli.dask_scheduler", *options) as process:
        deadline = time.monotonic() + 120
        while not file.is_file() or not file.read_text().strip():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        monkeypatch.setenv("CLUSTER", re.search(r"tcp://[\d.:]+", file.read_text())[0])
        yield process


def worker(*, threads: int = 2, **how):
    """A worker of that scheduler, with a process that starts it again when it dies."""
    options = ["--nthreads", str(threads), "--no-dashboard", "--local-directory", os.environ["REPORTS_DIR"]]
    return start("distributed.cli.dask_worker", os.environ["CLUSTER"], *options, **how)


def trainers(nanny: subprocess.Popen) -> list[psutil.Process]:
    """The process in which a worker trains."""
    children = psutil.Process(nanny.pid).children(recursive=True)
    return [child for child in children if "spawn_main" in str(child.cmdline())]


def await_training(jobs) -> None:
    deadline = time.monotonic() + 300
    while not any(job.read_event() for job in jobs):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def train(jobs) -> str:
    """Train, and return what the terminal had."""
    out = io.StringIO()
    assert train_ahead(jobs, console=Console(out)) == {}
    return out.getvalue()


@pytest.mark.fault("kills", "workers of a cluster, at random moments", "others go on; the bytes of one process")
@pytest.mark.parametrize("seed", ROUNDS)
def test_a_cluster_leaves_the_bytes_of_one_process_though_workers_are_killed(one_process, tmp_path, scheduler, seed):
    jobs = make_jobs(tmp_path)
    with worker() as one, worker() as two, killing(jobs, lambda: [*trainers(one), *trainers(two)], seed=seed):
        said = train(jobs)
    assert read_results(tmp_path / "runs") == one_process
    assert set(count_epochs(jobs).values()) == {1}, "an epoch that was kept was trained again"
    assert "Dask scheduler tcp://127.0.0.1" in said and "refused" not in said


class Lost:
    """What Dask has of an answer whose worker died before anybody fetched it."""

    status = "finished"

    def done(self) -> bool:
        return True

    def result(self, timeout: float | None = None) -> dict:
        assert timeout, "it would be waited for, for ever"
        raise TimeoutError


@pytest.mark.fault("kills", "a worker of a cluster, between its examination and our asking for it", "others go on")
def test_a_worker_that_died_with_its_answer_is_not_waited_for(tmp_path):
    at, out = {"workers": {"tcp://192.0.2.1:1": {}}}, io.StringIO()
    client = SimpleNamespace(status="running", scheduler_info=lambda: at, submit=lambda *_, **__: Lost())
    gate = Gate(client, "token", make_jobs(tmp_path), console=Console(out))
    gate.admit()
    at["workers"] = {}
    gate.admit()
    assert (gate.count_workers(), out.getvalue()) == (0, "")


@pytest.mark.fault("kills", "a cluster's scheduler, during training", "said; the next call ends with the same bytes")
def test_a_scheduler_that_goes_away_ends_clearly_and_loses_nothing(one_process, tmp_path, scheduler, monkeypatch):
    jobs = make_jobs(tmp_path)

    def kill() -> None:
        await_training(jobs)
        end(scheduler)

    with worker(), worker():
        thread = threading.Thread(target=kill)
        thread.start()
        with pytest.raises(RunError, match=r"CLUSTER=tcp://.*: the Dask scheduler has gone(.|\n)*same command again"):
            train_ahead(jobs, console=Console(io.StringIO()))
        thread.join()
    monkeypatch.setenv("CLUSTER", "")
    train(jobs)
    assert read_results(tmp_path / "runs") == one_process


@pytest.mark.fault("together", "a worker of a cluster that stands still and goes on", "the bytes; no epoch twice")
@pytest.mark.long
@pytest.mark.parametrize("given_up", [True, False])
def test_a_worker_that_stands_still_costs_time_and_nothing_else(one_process, tmp_path, scheduler, given_up):
    """Given up, its task goes to the other worker, which has to wait: the first one holds it, and will go on."""
    jobs = make_jobs(tmp_path)

    async def give_up(address: str, dask_scheduler) -> None:
        await dask_scheduler.remove_worker(address, stimulus_id="as after minutes without a sign of life")

    def stop(nanny: subprocess.Popen) -> None:
        while not count_epochs(jobs):
            time.sleep(0.01)
        (slow,) = trainers(nanny)
        with distributed.Client(os.environ["CLUSTER"], set_as_default=False) as client:
            address = next(address for address, pid in client.run(os.getpid).items() if pid == slow.pid)
            machine = [psutil.Process(nanny.pid), slow]
            for process in machine:
                process.suspend()
            if given_up:
                client.run_on_scheduler(give_up, address)
            time.sleep(4)
            for process in machine:
                process.resume()

    with worker() as one, worker(), ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(stop, one)
        train(jobs)
        stopped.result()
    assert read_results(tmp_path / "runs") == one_process
    assert set(count_epochs(jobs).values()) == {1}


@pytest.mark.long
@pytest.mark.fault("together", "two studies, and two commands of one, on one scheduler", "the bytes; no epoch twice")
def test_two_studies_and_two_commands_at_once_end_with_the_same_bytes(one_process, tmp_path, scheduler):
    studies = [make_jobs(tmp_path / "one", study="one"), make_jobs(tmp_path / "other", study="other")]
    with worker(threads=1), worker(), ThreadPoolExecutor(3) as pool:
        commands = [pool.submit(train, jobs) for jobs in studies]
        await_training(studies[0])
        commands.append(pool.submit(train, studies[0]))
        for command in commands:
            assert "refused" not in command.result()
    for name, jobs in zip(("one", "other"), studies, strict=True):
        assert read_results(tmp_path / name / "runs") == one_process
        assert set(count_epochs(jobs).values()) == {1}


@pytest.mark.fault("together", "a worker with other code, or without the shared folder", "refused, by what differs")
def test_workers_that_differ_are_refused_by_what_differs(tmp_path, scheduler):
    shutil.copytree(ROOT / "lesion_utils", tmp_path / "old" / "lesion_utils")
    loss = tmp_path / "old" / "lesion_utils" / "training" / "loss.py"
    loss.write_text(loss.read_text().replace("    return targets", "    old = True\n    return targets", 1))
    hide = (*with_own_mounts(), "sh", "-c", 'mount -t tmpfs tmpfs "$0" && exec "$@"', os.environ["REPORTS_DIR"])
    with ExitStack() as stack:
        for how in ({"code": tmp_path / "old"}, {"prefix": hide}):
            stack.enter_context(worker(**how))
        with distributed.Client(os.environ["CLUSTER"], set_as_default=False) as client:
            client.wait_for_workers(2, timeout=300)
        with pytest.raises(RunError, match=r"none of the 2 workers can take tasks(.|\n)*fix what is reported"):
            train_ahead(make_jobs(tmp_path), console=Console(out := io.StringIO()))
    said, folder = out.getvalue(), re.escape(os.environ["REPORTS_DIR"])
    assert re.search(r"refused: worker at tcp\S+: code of lesion_utils: \w{12} \(here: \w{12}\)$", said, re.MULTILINE)
    assert re.search(rf"refused: .*REPORTS_DIR {folder}: not the folder that is shared \(here: read and", said)
    assert not list((tmp_path / "runs").glob("*"))


def test_no_scheduler_says_how_to_start_one(tmp_path, monkeypatch):
    monkeypatch.setenv("CLUSTER", "tcp://127.0.0.1:9")
    monkeypatch.setattr("lesion_utils.extras.cluster.PATIENCE", 1)
    with pytest.raises(RunError, match=r"CLUSTER=tcp://127.0.0.1:9: no Dask scheduler answers(.|\n)*dask scheduler"):
        train_ahead(make_jobs(tmp_path), console=Console(io.StringIO()))
