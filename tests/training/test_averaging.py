"""Averages of the weights, against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lesion_utils.config.schema import Averaging
from lesion_utils.training.averaging import WeightAverage


def train_a_little(method: str, steps: int = 12) -> tuple[dict, AveragedModel, torch.nn.Module]:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    average = WeightAverage(model.state_dict(), Averaging(method=method, decay=0.05, swa_start=0.5), epochs=steps)
    multi = get_ema_multi_avg_fn(0.05) if method == "ema" else None
    oracle = AveragedModel(model, multi_avg_fn=multi)
    if method == "ema":
        oracle.update_parameters(model)  # torch's first update copies; ours starts from the initial weights
    for epoch in range(steps):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        average.after_step()
        average.after_epoch(epoch)
        if method == "ema" or epoch >= steps // 2:
            oracle.update_parameters(model)
    own = {k: v.clone() for k, v in model.state_dict().items()}
    with average.applied():
        averaged = {k: v.clone() for k, v in model.state_dict().items()}
    assert all(torch.equal(own[k], v) for k, v in model.state_dict().items()), "the own weights come back"
    return averaged, oracle, own


@pytest.mark.parametrize("method", ["ema", "swa"])
def test_averages_are_torchs(method):
    averaged, oracle, own = train_a_little(method)  # decay 0.05 lies below the warm-up's (1 + n) / (10 + n)
    for name, tensor in oracle.module.state_dict().items():
        torch.testing.assert_close(averaged[name], tensor)
        assert not torch.equal(averaged[name], own[name])


def test_no_averaging_leaves_the_last_weights():
    averaged, _, own = train_a_little("none")
    assert all(torch.equal(averaged[k], own[k]) for k in own)


def test_the_moving_average_forgets_its_start_quickly():
    live = {"w": torch.zeros(1)}
    average = WeightAverage(live, Averaging(method="ema", decay=0.99, swa_start=0.5), epochs=1)
    expected = 0.0
    for n in range(3):
        live["w"] += 1
        average.after_step()
        decay = (1 + n) / (10 + n)
        expected = decay * expected + (1 - decay) * (n + 1)
        assert average.state_dict()["mean"]["w"].item() == pytest.approx(expected)
