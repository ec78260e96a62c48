"""What the arithmetic depends on, and that it is put back."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from tiny_study import make_params

from lesion_utils.core.errors import ParamsError
from lesion_utils.models.compute import choose_compute, computing, has_bfloat16
from lesion_utils.provenance import machine


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


def test_gpus_that_emulate_bfloat16_compute_in_float16(monkeypatch):
    monkeypatch.setenv("DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    for native in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native)
        compute = choose_compute(make_params(precision="auto").resnet50)
        assert compute.precision == ("bfloat16" if native else "float16")
    assert compute.make_scaler().is_enabled()
    assert not replace(compute, precision="float32").make_scaler().is_enabled()


def test_bfloat16_is_not_chosen_where_onednn_is_told_to_do_without(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    for allowed in (True, False):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda allowed=allowed: allowed)
        assert has_bfloat16("cpu") is allowed
