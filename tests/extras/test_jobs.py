"""Tasks in worker processes: the bytes of one process after the other, whoever dies."""

from __future__ import annotations

import inspect
import io
import os
import re
import signal
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import psutil
import pytest
import worker_tasks
from joblib.externals.loky import process_executor
from tiny_study import read_results
from worker_tasks import ROUNDS, count_epochs, killing, make_jobs

from lesion_utils import cli
from lesion_utils.core.console import Console
from lesion_utils.core.errors import ParamsError, RunError
from lesion_utils.core.paths import Study
from lesion_utils.extras import ahead
from lesion_utils.extras.ahead import open_local, train_ahead
from lesion_utils.extras.jobs import Progress
from lesion_utils.pipeline import execute

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("two_workers")


def list_workers() -> list[psutil.Process]:
    """The processes that train."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "popen_loky_posix" in " ".join(child.cmdline())]


@pytest.mark.slow
@pytest.mark.fault("kills", "worker processes (JOBS), at random moments", "the bytes of one process")
@pytest.mark.parametrize("seed", ROUNDS)
def test_workers_killed_at_random_moments_leave_the_same_bytes(one_process, tmp_path, monkeypatch, seed):
    jobs = make_jobs(tmp_path)
    with killing(jobs, list_workers, seed=seed):
        assert train_ahead(jobs, console=Console(io.StringIO())) == {}
    assert read_results(tmp_path / "runs") == one_process
    assert set(count_epochs(jobs).values()) == {1}, "an epoch that was kept was trained again"
    monkeypatch.setattr(ahead, "open_local", None)
    assert train_ahead(jobs, console=Console(io.StringIO())) == {}, "what is done starts nobody"


@pytest.mark.slow
@pytest.mark.fault(
    "kills", "a worker process (JOBS) that dies each time", "ends after some, names the task and what to do"
)
def test_a_task_that_no_worker_survives_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(ahead, "TRIES", 1)
    with pytest.raises(RunError, match=r"resnet50, from scratch, seed 1(.|\n)*workers died 2 times(.|\n)*lower JOBS"):
        train_ahead(make_jobs(tmp_path, worker_tasks.die_in_worker)[:1], console=Console(io.StringIO()))
    assert not list_workers()


@pytest.mark.slow
def test_a_task_that_fails_leaves_the_others_alone(tmp_path):
    first, second = make_jobs(tmp_path, worker_tasks.open_in_parent_only)[0], make_jobs(tmp_path)[1]
    failed = train_ahead([first, second], console=Console(io.StringIO()))
    assert list(failed) == [first] and "these images cannot be read" in str(failed[first])
    assert second.check() == (True, "") and first.check() == (False, "")


@pytest.mark.parametrize(
    ("gib", "places"),
    [([7.8], "0"), ([23.6], "00"), ([79.1, 15.7], "0100"), ([139, 139, 139], "012012012"), ([], "")],
)
def test_a_gpu_has_as_many_workers_as_its_memory_holds_and_three_at_most(monkeypatch, gib, places):
    monkeypatch.setattr(ahead.torch.cuda, "is_available", lambda: True)
    known = [SimpleNamespace(total_memory=each * 2**30) for each in gib]
    monkeypatch.setattr(ahead.torch.cuda, "get_device_properties", known.__getitem__)
    assert ahead.list_places([str(i) for i in range(len(gib))]) == list(places)


def test_workers_that_share_a_gpu_hold_a_place_each(tmp_path, monkeypatch):
    monkeypatch.setattr(ahead, "_held", [])
    monkeypatch.setattr(ahead.signal, "signal", lambda *_: None)
    monkeypatch.setattr(ahead.threading, "Thread", Mock())
    taken = []
    for _ in range(3):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "none")
        ahead._begin(os.getpid(), ("4", "7", "4"), tmp_path)
        taken.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert taken == ["4", "7", "4"]


@pytest.mark.slow
@pytest.mark.fault("kills", "the command whose worker processes (JOBS) train", "they end with it")
def test_workers_end_with_whoever_started_them(tmp_path):
    script = (
        "import worker_tasks, pathlib, sys\n"
        "from lesion_utils.extras.ahead import open_local\n"
        "with open_local(2, []) as workers:\n"
        "    job = worker_tasks.make_jobs(pathlib.Path(sys.argv[1]))[0]\n"
        "    workers.submit(job).result()\n"
        "    print('trained', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    places = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    command = [sys.executable, "-c", script, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    runner = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": places}, **pipes)
    assert runner.stdout.readline() == "trained\n"
    workers = psutil.Process(runner.pid).children(recursive=True)
    runner.send_signal(signal.SIGKILL)
    runner.communicate()
    assert workers and not psutil.wait_procs(workers, timeout=60)[1]


@pytest.mark.parametrize(
    ("jobs", "threads", "workers", "each"),
    [("2", "", 2, "4"), ("3", "", 3, "2"), ("64", "", 8, "1"), ("8", "2", 4, "2")],
)
def test_cores_are_shared_out_and_never_twice(tmp_path, monkeypatch, jobs, threads, workers, each):
    monkeypatch.setattr(ahead, "cpu_count", lambda **_: 8)
    monkeypatch.setenv("JOBS", jobs)
    monkeypatch.setenv("THREADS", threads)
    monkeypatch.setattr(ahead, "open_local", lambda count, devices: pytest.fail(f"{count} {os.environ['THREADS']}"))
    with pytest.raises(pytest.fail.Exception, match=f"^{workers} {each}$"):
        train_ahead(make_jobs(tmp_path) * 5, console=Console(io.StringIO()))


def test_one_job_changes_nothing_and_a_word_is_no_number(tmp_path, monkeypatch):
    monkeypatch.setenv("THREADS", "")
    for jobs in ("", "1"):
        monkeypatch.setenv("JOBS", jobs)
        assert train_ahead(make_jobs(tmp_path), console=Console(io.StringIO())) == {}
        assert not os.environ["THREADS"] and not list(tmp_path.glob("runs/*"))
    monkeypatch.setenv("JOBS", "all")
    with pytest.raises(ParamsError, match="JOBS=all: not a number of workers"):
        train_ahead(make_jobs(tmp_path), console=Console(io.StringIO()))


def test_only_the_failures_of_the_own_network_are_raised(tmp_path, monkeypatch):
    """That of another network is explained by its own notebook."""
    first, second = make_jobs(tmp_path)[:2]
    second = replace(second, network="vgg19")
    failed = {second: ValueError("not mine")}
    monkeypatch.setattr(ahead, "list_jobs", lambda *_: [first, second])
    monkeypatch.setattr(ahead, "train_ahead", lambda jobs, console: failed)
    given = (Study("demo"), first.params, first.network)
    ahead.train_study(*given, console=Console(io.StringIO()))
    failed[first] = ValueError("mine")
    with pytest.raises(ValueError, match=r"^mine$"):
        ahead.train_study(*given, console=Console(io.StringIO()))


@pytest.mark.parametrize(("name", "value"), [("JOBS", "2"), ("CLUSTER", "tcp://127.0.0.1:8786")])
def test_only_with_workers_the_command_line_trains_ahead(monkeypatch, name, value):
    given = []
    monkeypatch.setattr(execute, "run_step", lambda *_, train_ahead, **__: given.append(train_ahead))
    for workers in ("JOBS", "CLUSTER"):
        monkeypatch.delenv(workers, raising=False)
    cli.main(["run", "data"])
    monkeypatch.setenv(name, value)
    cli.main(["run", "data"])
    assert given == [None, cli._train_ahead]


def test_the_terminal_has_a_line_for_all_and_one_for_each_that_is_trained(tmp_path):
    jobs = make_jobs(tmp_path)
    progress = Progress(jobs)
    assert progress.describe(jobs, 2) == "0 of 2 tasks done, 2 workers, unknown left"
    jobs[0].log.parent.mkdir()
    jobs[0].log.touch()
    assert progress.describe(jobs, 2).splitlines()[1] == "  resnet50, from scratch, seed 1 begins"
    event = {"regime": "scratch", "seed": 1, "epoch": 2, "epochs": 12, "loss": 0.5, "val_ap": 0.4, "val_auc": 0.7}
    jobs[0].note(event | {"images_per_s": 9, "seconds": 25, "seconds_validation": 5, "seconds_left": 300})
    first, second = progress.describe(jobs, 2).splitlines()
    assert first == "0 of 2 tasks done, 2 workers, 5 min 30 s left"  # (300 s + 12 x 30 s) / 2
    assert second.startswith("  resnet50, from scratch, seed 1: 5 min 00 s left, epoch 2 of 12, validation AP 0.400")
    assert progress.epochs == 2
    jobs[0].log.unlink()
    with pytest.raises(FileNotFoundError):  # ends the task: nobody waits for it any more
        jobs[0].note(event)


def test_a_pool_that_is_taken_down_prints_no_traceback(monkeypatch):
    heard = []
    monkeypatch.setattr(threading, "excepthook", heard.append)

    def stumble():
        thread = threading.Thread(target=lambda: {}[14])
        thread.start()
        thread.join()

    with ahead._silent_threads():
        stumble()
    assert not heard
    stumble()
    assert [args.exc_type for args in heard] == [KeyError], "elsewhere threads are heard"


def test_a_worker_that_the_pool_replaces_for_its_memory_is_no_news():
    (said,) = re.findall(r'"(A worker stopped [^"]*)"', inspect.getsource(process_executor))
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with open_local(1, []):
            warnings.warn(f"{said}executor.", UserWarning, stacklevel=1)
    assert not shown
