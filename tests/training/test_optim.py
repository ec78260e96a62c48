"""Averages of the weights against torch's own, the schedule against torch's, and what the tables of layers say."""

from __future__ import annotations

from functools import partial

import pytest
import timm
import torch
from timm.models import group_parameters
from tiny_study import make_images, make_params, regimes
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lesion_utils.config.schema import Averaging
from lesion_utils.models.networks import build_network
from lesion_utils.notebooks.recipe import describe_layers, tabulate_learning_rates
from lesion_utils.training.optim import (
    WeightAverage,
    averages_epoch,
    learning_rate_factor,
    make_optimizer,
    make_schedule,
    step_in_memory_order,
)
from lesion_utils.training.task import TrainingTask


def make_task(**network) -> TrainingTask:
    return TrainingTask(make_params(**network), "resnet50", "scratch", 1, make_images())


@pytest.mark.parametrize("method", ["ema", "swa"])
def test_averages_are_torchs_and_take_in_batchnorm(method):
    torch.manual_seed(0)
    model = timm.create_model("small_cnn", num_classes=1)
    average = WeightAverage(model, Averaging(method=method, decay=0.7, swa_start=0.5))
    oracle = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.7) if method == "ema" else None)
    for _ in range(5):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        model(torch.randn(4, 3, 32, 32))
        average.update(model)
        oracle.update_parameters(model)
    for mine, theirs in zip(average.module.parameters(), oracle.module.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)
    mean, own = average.module.levels[0][1], model.levels[0][1]
    assert not torch.equal(mean.running_mean, own.running_mean)
    assert mean.num_batches_tracked == 5


def test_the_plain_mean_begins_where_it_should():
    mean = Averaging(method="swa", decay=0.9, swa_start=0.75)
    assert [epoch for epoch in range(8) if averages_epoch(mean, epoch, epochs=8)] == [6, 7]
    last = mean.model_copy(update={"swa_start": 1.0})
    assert averages_epoch(last, 7, epochs=8), "the last epoch is always one of them"
    assert not averages_epoch(mean.model_copy(update={"method": "none"}), 7, epochs=8)


@pytest.mark.parametrize("warmup", [0.0, 2.0])
def test_the_schedule_is_a_linear_rise_then_torchs_cosine(warmup):
    optim = make_params(optim={"warmup_epochs": warmup, "final_lr": 0.1}, regimes=regimes(epochs=10)).resnet50.optim
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    rising = round(warmup * 10)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100 - rising, eta_min=0.1)
    for step in range(1, 101):
        if step > rising:
            optimizer.step()
            cosine.step()
        expected = cosine.get_last_lr()[0] if step > rising else step / rising
        assert learning_rate_factor(step / 10, epochs=10, optim=optim) == pytest.approx(expected, abs=1e-6)


def test_a_single_epoch_trains_whatever_the_warm_up():
    optim = make_params(optim={"warmup_epochs": 1.0, "final_lr": 0.1}, regimes=regimes(epochs=1)).resnet50.optim
    rates = [learning_rate_factor(time, epochs=1, optim=optim) for time in (0.25, 0.5, 1.0)]
    assert rates == pytest.approx([0.5, 1.0, 0.1])


def test_tables_of_layers_and_learning_rates_say_what_the_optimiser_does():
    task = make_task(
        backbone="resnet18",
        regimes=regimes(layer_decay=0.5, frozen_layers=0, epochs=4),
        optim={"warmup_epochs": 1.0, "weight_decay": 0.05},
    )
    task.regime_params.__dict__["frozen_layers"] = 2
    model = build_network(task.settings, pretrained=False, seed=1)
    layers = describe_layers(model, task)
    assert layers["parameters"].sum() == sum(p.numel() for p in model.parameters())
    assert len(layers) == 1 + max(group_parameters(model, model.group_matcher(coarse=False), reverse=True).values())
    assert layers["layer"].tolist()[1:4] == ["layer1.0", "layer1.1", "layer2.0"]
    assert layers["learning_rate"].isna().tolist() == [True] * 2 + [False] * 8
    assert layers.iloc[-1][["layer", "learning_rate", "weight_decay"]].tolist() == ["fc", 1e-2, 0.05]
    assert layers["learning_rate"].iloc[-2] == pytest.approx(5e-3)

    rates = tabulate_learning_rates(model, task, steps=3)
    optimizer = make_optimizer(model, task.settings, task.regime)
    schedule = make_schedule(optimizer, task.settings.optim, epochs=4, steps=3)
    head = []
    for _ in range(12):
        head.append(max(group["lr"] for group in optimizer.param_groups))
        assert len({round(group["lr"] / group["initial_lr"], 9) for group in optimizer.param_groups}) == 1
        optimizer.step()
        schedule.step()
    assert rates.loc[rates["layers"] == "fc", "learning_rate"].tolist() == pytest.approx(head)
    assert rates["layers"].nunique() == 8


@pytest.mark.parametrize("kind", [torch.optim.AdamW, partial(torch.optim.SGD, momentum=0.9)])
def test_a_step_in_memory_order_changes_no_digit(kind):
    """Beside the same weights, optimiser and gradients as they are; the layout of all of them stays."""
    torch.manual_seed(0)
    channels_last = {"memory_format": torch.channels_last}
    start, plain = torch.randn(16, 8, 3, 3).contiguous(**channels_last), torch.randn(5, 7)
    gradients = [torch.randn(16, 8, 3, 3).contiguous(**channels_last) for _ in range(3)]
    results = []
    for ordered in (False, True):
        weights = [nn.Parameter(start.clone()), nn.Parameter(plain.clone())]
        optimizer = kind(weights, lr=0.1, weight_decay=0.1, fused=True)
        if ordered:
            step_in_memory_order(optimizer)
        for gradient in gradients:
            weights[0].grad, weights[1].grad = gradient.clone(), plain.clone()
            optimizer.step()
            assert torch.equal(weights[0].grad, gradient) and weights[0].is_contiguous(**channels_last)
            optimizer.zero_grad()
        results.append(weights)
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
    assert not torch.equal(results[0][0], start)
