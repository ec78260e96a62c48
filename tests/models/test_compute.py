"""What the arithmetic depends on, and that it is put back."""

from __future__ import annotations

import warnings

import pytest
import torch
from tiny_study import make_params

from lesion_utils.core.errors import ParamsError
from lesion_utils.models.compute import choose_compute, computing


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
