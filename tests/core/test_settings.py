"""The variables of the machine: each is taken for what it says, or refused before anything runs."""

from __future__ import annotations

import os
import resource
import time
from unittest.mock import Mock

import pytest

from lesion_utils import cli
from lesion_utils.core import settings
from lesion_utils.core.errors import ParamsError
from lesion_utils.provenance.record import describe_device

NAMES = ("THREADS", "OMP_NUM_THREADS", "DEVICE", "JOBS", "CLUSTER", "WEIGHTS_DIR", "DATA_DIR", "LESION_CACHE")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch, tmp_path):
    for name in (*NAMES, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REPORTS_DIR", str(tmp_path / "reports"))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("THREADS", "abc", "not a number of threads"),
        ("THREADS", "1e9", "not a number of threads"),
        ("THREADS", "0", "not a number of threads"),
        ("THREADS", "٣", "not a number of threads"),
        ("OMP_NUM_THREADS", "4,x", "not a number of threads"),
        ("JOBS", "-1", "not a number of workers"),
        ("DEVICE", "cuda:x", "not a device"),
        ("DEVICE", "gpu", "did you mean cuda?"),
        ("DEVICE", "cudaa", "did you mean cuda?"),
        ("CLUSTER", "slrum", "did you mean slurm?"),
        ("CLUSTER", "10.0.0.1", "no address of a scheduler"),
        ("WEIGHTS_DIR", "/nowhere/at/all", "there is no such folder"),
        ("DATA_DIR", "~nobody-of-this-name", "there is no such folder"),
        ("DATA_DIR", "/etc/passwd", "there is no such folder"),
        ("REPORTS_DIR", "/etc/passwd/reports", "/etc/passwd is no folder"),
        ("LESION_CACHE", "/dev/null", "/dev/null is no folder"),
    ],
)
@pytest.mark.fault("parameters", "a variable that cannot be meant (THREADS, DEVICE, JOBS, folders)", "refused at once")
def test_every_verb_refuses_what_cannot_be_meant(monkeypatch, capsys, name, value, said):
    monkeypatch.setattr("lesion_utils.pipeline.doctor.check_torch", list)  # which loads torch
    monkeypatch.setenv(name, value)
    for verb in ("keys", "why", "plan", "run", "doctor"):
        started = time.process_time()
        assert cli.main([verb, *["01_eda"] * (verb == "run")]) == 1
        shown = capsys.readouterr()
        assert f"{name}={value}: " in shown.out + shown.err and said in shown.out + shown.err, verb
        assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("variables", "threads"),
    [
        ({"OMP_NUM_THREADS": "4,2"}, 4),
        ({"OMP_NUM_THREADS": " 3 , 1 "}, 3),
        ({"OMP_NUM_THREADS": "4,2", "THREADS": "2"}, 2),
        ({"OMP_NUM_THREADS": "", "THREADS": ""}, os.cpu_count()),
    ],
)
@pytest.mark.fault("together", "`OMP_NUM_THREADS=4,2`, as clusters set it", "its first number counts")
def test_a_list_of_threads_is_legal(monkeypatch, variables, threads):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings.check_settings()
    assert describe_device()["threads"] == threads


def test_every_problem_is_named_at_once(monkeypatch):
    monkeypatch.setenv("THREADS", "x")
    monkeypatch.setenv("JOBS", "y")
    with pytest.raises(ParamsError, match=r"THREADS=x: (.|\n)*JOBS=y: "):
        settings.check_settings()


@pytest.mark.parametrize(
    ("device", "version", "driver", "gpus", "said"),
    [
        ("cuda", "2.14.1", False, 0, "no driver of a GPU was found"),
        ("CUDA:0", "2.14.1+cpu", True, 1, "CPU build of PyTorch"),
        ("cuda:1", "2.14.1", True, 1, "has 1 NVIDIA GPUs, numbered from 0"),
        ("cuda:1", "2.14.1", True, 2, None),
        ("Cuda", "2.14.1+cu130", True, 1, None),
    ],
)
@pytest.mark.fault("parameters", "`DEVICE` names a GPU that is not there", "refused before the first step")
def test_a_gpu_that_is_absent_is_named(tmp_path, monkeypatch, device, version, driver, gpus, said):
    monkeypatch.setattr(settings.shutil, "which", lambda name: "/usr/bin/nvidia-smi" if driver else None)
    monkeypatch.setattr(settings, "_DRIVERS", ())
    monkeypatch.setattr(settings.platform, "system", lambda: "Linux")
    monkeypatch.setattr(settings.metadata, "version", lambda name: version)
    for number in range(gpus):
        (tmp_path / str(number)).mkdir()
    monkeypatch.setattr(settings, "_NVIDIA_GPUS", tmp_path)
    monkeypatch.setenv("DEVICE", device)
    if said:
        with pytest.raises(ParamsError, match=said):
            settings.find_device()
        return
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    settings.settle_device()
    number = device.partition(":")[2]
    assert (os.environ["DEVICE"], os.environ["CUDA_VISIBLE_DEVICES"]) == ("cuda", number)


@pytest.mark.parametrize(("driver", "usable"), [("535.104.05", False), ("580.65.06", True), (None, True)])
def test_a_driver_that_is_too_old_is_seen_without_torch(tmp_path, monkeypatch, driver, usable):
    (tmp_path / "version.py").write_text("__version__ = '2.14.1+cu130'\ncuda: Optional[str] = '13.0'\nhip = None\n")
    origin = Mock(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(settings.importlib.util, "find_spec", lambda name: origin)
    monkeypatch.setattr(settings, "read_driver", lambda: driver)
    monkeypatch.setattr(settings.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(settings.platform, "system", lambda: "Linux")
    monkeypatch.setattr(settings, "_NVIDIA_GPUS", tmp_path / "none")
    monkeypatch.setattr(settings.metadata, "version", lambda name: "2.14.1")
    assert settings.guess_device() == ("cuda0" if usable else "cpu")
    if not usable:
        monkeypatch.setenv("DEVICE", "cuda")
        with pytest.raises(
            ParamsError, match=r"driver 535\.104\.05 is too old for PyTorch with CUDA 13\.0.* 580 or newer"
        ):
            settings.find_device()


def test_the_second_gpu_is_that_of_those_that_are_visible(monkeypatch):
    monkeypatch.setattr(settings, "explain_no_cuda", lambda number: None)
    monkeypatch.setenv("DEVICE", "cuda:1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    settings.settle_device()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"


@pytest.mark.parametrize("value", ["auto", "", " CPU "])
def test_no_choice_and_any_case_of_letters_are_taken(monkeypatch, value):
    monkeypatch.setenv("DEVICE", value)
    settings.settle_device()
    assert os.environ.get("DEVICE") == ("cpu" if "CPU" in value else None)


@pytest.mark.parametrize(("limits", "raised"), [((64, 64), None), ((64, 4096), 1024), ((256, 300), 300)])
@pytest.mark.fault("together", "`ulimit -n 64`", "the limit is raised, or the message says how")
def test_too_few_open_files_are_raised_or_refused(monkeypatch, limits, raised):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits)
    monkeypatch.setattr(resource, "setrlimit", change := Mock())
    if raised is None:
        with pytest.raises(ParamsError, match=r"may open 64 files(.|\n)*ulimit -n 1024"):
            settings.allow_open_files()
        return
    settings.allow_open_files()
    change.assert_called_once_with(resource.RLIMIT_NOFILE, (raised, limits[1]))
