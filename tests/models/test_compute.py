"""What the arithmetic depends on, and that it is put back."""

from __future__ import annotations

import warnings
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from tiny_study import make_params

from lesion_utils.core import machine, settings
from lesion_utils.core.errors import ParamsError
from lesion_utils.models import compute
from lesion_utils.models.compute import (
    Compute,
    choose_compute,
    choose_device,
    computing,
    explain_unusable_gpu,
    has_bfloat16,
    is_built_for,
)
from lesion_utils.pipeline import doctor


def test_determinism_is_set_inside_and_put_back_outside(monkeypatch):
    monkeypatch.setenv("DEVICE", "cpu")
    monkeypatch.setenv("THREADS", "1")
    before = (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.random.get_rng_state())
    compute = choose_compute(make_params().resnet50)
    assert (compute.device, compute.precision, compute.threads, compute.level) == ("cpu", "float32", 1, "exact")
    with computing(compute) as operations:
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_num_threads() == 1
        torch.manual_seed(5)
        warnings.warn("foo_backward_cuda does not have a deterministic implementation, but you set", stacklevel=1)
    assert operations == {"foo_backward_cuda"}
    after = (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.random.get_rng_state())
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])
    with computing(choose_compute(make_params(determinism="fast").resnet50)):
        assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(("name", "value"), [("THREADS", "many"), ("THREADS", "0"), ("DEVICE", "abacus")])
def test_an_unusable_machine_setting_is_named(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ParamsError, match=f"{name}={value}"):
        choose_compute(make_params().resnet50)


def test_processors_of_one_name_are_told_apart(tmp_path, monkeypatch):
    names = []
    for family in (23, 25):
        path = tmp_path / f"{family}"
        core = f"cpu family\t: {family}\nmodel\t\t: 1\nmodel name\t: AMD EPYC\nstepping\t: 2\n"
        path.write_text(f"processor\t: 0\n{core}\nprocessor\t: 1\n{core}")
        monkeypatch.setattr(machine, "_CPUINFO", path)
        monkeypatch.setenv("DEVICE", "cpu")
        names.append(choose_compute(make_params().resnet50).processor)
    assert names[0] != names[1]
    assert names[1].startswith("AMD EPYC (family 25, model 1, stepping 2), ")
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "none")
    assert machine.name_processor()


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_random_states_of_the_runs_own_device_are_put_back_and_no_others(monkeypatch, device):
    states, read = {"cuda": torch.tensor([1]), "mps": torch.tensor([2])}, []
    for name, module in (("cuda", torch.cuda), ("mps", torch.mps)):

        def get(*index, name=name):
            read.append((name, *index))
            return states[name]

        monkeypatch.setattr(module, "get_rng_state", get)
        monkeypatch.setattr(module, "set_rng_state", lambda state, *_, name=name: states.update({name: state}))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    before, own = torch.random.get_rng_state(), dict(states)
    compute = replace(choose_compute(make_params().resnet50), device=device)
    with computing(compute):
        torch.rand(3)
        states[device] = torch.tensor([9])
    assert read == {"cpu": [], "cuda": [("cuda", 3)], "mps": [("mps",)]}[device]
    assert states == own | ({"cpu": torch.tensor([9])} if device == "cpu" else {})
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(("device", "level"), [("cpu", "exact"), ("cuda", "device"), ("mps", "fast")])
def test_each_device_promises_no_more_than_was_shown(monkeypatch, device, level):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    assert choose_compute(make_params().resnet50, device=device).level == level
    assert choose_compute(make_params(determinism="fast").resnet50, device=device).level == "fast"


def test_gpus_that_emulate_bfloat16_compute_in_float16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    for native in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native)
        compute = choose_compute(make_params(precision="auto").resnet50, device="cuda")
        assert compute.precision == ("bfloat16" if native else "float16")
    assert compute.make_scaler().is_enabled()
    assert not replace(compute, precision="float32").make_scaler().is_enabled()


def test_bfloat16_is_not_chosen_where_onednn_is_told_to_do_without(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    for allowed in (True, False):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda allowed=allowed: allowed)
        assert has_bfloat16("cpu") is allowed


BUILT_FOR = ["sm_75", "sm_80", "sm_86", "sm_90a", "sm_100", "sm_120", "compute_120"]  # of the locked torch


@pytest.mark.parametrize(
    ("capability", "runs"),
    [((6, 1), False), ((7, 0), False), ((7, 5), True), ((8, 0), True), ((8, 9), True), ((9, 0), True), ((10, 3), True),
     ((11, 0), False), ((12, 1), True), ((13, 0), True)],
)  # fmt: skip
def test_a_build_runs_on_the_capabilities_of_its_code(capability, runs):
    assert is_built_for(capability, BUILT_FOR) is runs


@pytest.fixture
def gpu(monkeypatch):
    """A machine with a GTX 1080 and its driver, as far as Python sees."""
    monkeypatch.delenv("DEVICE", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(settings, "explain_no_cuda", lambda number=0: None)
    monkeypatch.setattr(compute, "read_driver", lambda: "535.104.05")
    fakes = {
        "is_available": lambda: True,
        "get_device_capability": lambda: (6, 1),
        "get_arch_list": lambda: BUILT_FOR,
        "get_device_name": lambda: "NVIDIA GeForce GTX 1080",
        "get_device_properties": lambda: SimpleNamespace(major=6, minor=1, total_memory=8 << 30),
        "max_memory_reserved": lambda: 3 << 30,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)


def test_a_gpu_that_torch_was_not_built_for_is_said_and_left_alone(gpu, monkeypatch):
    with pytest.warns(
        UserWarning, match=r"no code for NVIDIA GeForce GTX 1080 \(compute capability 6\.1\).*on the CPU"
    ):
        assert choose_device() == "cpu"
    monkeypatch.setenv("DEVICE", "cuda")
    with pytest.raises(ParamsError, match=r"DEVICE=cuda: this PyTorch has no code for"):
        choose_device()


def test_a_driver_that_is_too_old_is_said(gpu, monkeypatch):
    def is_available() -> bool:
        warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old (found version 12020). Please"
                      " update your GPU driver", stacklevel=1)  # fmt: skip
        return False

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    with pytest.warns(UserWarning, match=r"CUDA 13\.0 cannot use the NVIDIA driver 535.*too old .*update the driver"):
        assert choose_device() == "cpu"
    monkeypatch.setattr(compute, "read_driver", lambda: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert explain_unusable_gpu() is None, "without a driver there is nothing to say"


@pytest.mark.parametrize("written", ["CUDA", " cuda ", "cuda:0"])
def test_a_device_is_read_the_same_however_it_is_written(gpu, monkeypatch, written):
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_61"])
    monkeypatch.setenv("DEVICE", written)
    assert choose_device() == "cuda"


def test_threads_are_part_of_what_numbers_depend_on_on_cpus_alone():
    cpu = Compute("cpu", "any", "float32", 1, "exact", "2")
    gpu = replace(cpu, device="cuda")
    assert cpu.identity != replace(cpu, threads=2).identity
    assert gpu.identity == replace(gpu, threads=2).identity


def test_the_record_of_a_gpu_has_its_driver_libraries_and_memory(gpu):
    told = Compute("cuda", "NVIDIA GeForce GTX 1080", "float32", 1, "device", "2").describe()
    assert (told["capability"], told["driver"], told["cuda"]) == ("6.1", "535.104.05", "13.0")
    assert (told["memory_gib"], told["peak_memory_gib"]) == (8.0, 3.0) and told["cudnn"] == 91002
    assert "driver" not in Compute("cpu", "any", "float32", 1, "exact", "2").describe()


@pytest.mark.parametrize(
    ("built_for", "state", "what"),
    [
        (
            ["sm_61"],
            "ok",
            "NVIDIA GeForce GTX 1080, compute capability 6.1, 8.0 GiB, driver 535.104.05, CUDA 13.0, cuDNN 91002",
        ),
        (BUILT_FOR, "note", "no code for NVIDIA GeForce GTX 1080"),
    ],
)
def test_the_doctor_shows_the_gpu_or_why_it_stays_unused(gpu, monkeypatch, capsys, built_for, state, what):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number=0: "NVIDIA GeForce GTX 1080")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built_for)
    exec(doctor._PROBE, {})
    told = SimpleNamespace(returncode=0, stdout=capsys.readouterr().out)
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: told)
    found = {finding.topic: finding for finding in doctor.check_torch()}["device"]
    assert found.state == state and what in found.what


def test_the_plan_names_the_gpu_without_torch(monkeypatch):
    shown = SimpleNamespace(stdout="NVIDIA H200, 9.0, 143771 MiB, 580.65.06\nNVIDIA H200, 9.0, 143771 MiB, 580.65.06\n")
    monkeypatch.setattr(machine.subprocess, "run", lambda *_, **__: shown)
    monkeypatch.setattr(
        machine.metadata, "requires", lambda name: ["numpy", "nvidia-cudnn-cu13==9.15.1.9; sys_platform"]
    )
    one = "NVIDIA H200 (compute capability 9.0, 143771 MiB, driver 580.65.06)"
    assert machine.describe_gpus() == f"{one}, {one}, cuDNN 9.15.1.9"
    monkeypatch.setattr(machine.subprocess, "run", Mock(side_effect=FileNotFoundError))
    assert machine.describe_gpus() == ""


def test_float32_is_not_tf32(monkeypatch):
    monkeypatch.setenv("DEVICE", "cpu")
    backends = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    with computing(choose_compute(make_params().resnet50)):
        assert not any(backend.allow_tf32 for backend in backends)
    assert [backend.allow_tf32 for backend in backends] == before


def test_a_mac_is_named_by_its_chip_and_a_driver_by_its_version(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "none")
    monkeypatch.setattr(machine.platform, "system", lambda: "Darwin")
    told = SimpleNamespace(stdout="Apple M2 Pro\n")
    monkeypatch.setattr(machine.subprocess, "run", lambda command, **_: told if "machdep" in command[-1] else None)
    assert machine.name_processor() == "Apple M2 Pro"
    path = tmp_path / "version"
    monkeypatch.setattr(machine, "_NVIDIA_DRIVER", path)
    line = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U16)"
    path.write_text(f"{line}\nGCC version:  gcc version 12.3.0\n")
    assert machine.read_driver() == "580.65.06"
