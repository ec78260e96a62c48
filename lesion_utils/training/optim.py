"""Which layers learn and how fast: parameter groups, optimizer, learning-rate schedule, and averages of the weights.

The learning rate of a regime (`regimes.<regime>.lr`) enters here once, in `parameter_groups`.
"""

from __future__ import annotations

import copy
import math
from itertools import compress
from typing import Any

import torch
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from lesion_utils.config.schema import Averaging, Network, Optim, Regime
from lesion_utils.core.errors import ParamsError
from lesion_utils.models.networks import head_of, make_architecture

_BATCHNORM = nn.modules.batchnorm._NormBase


# Which layers learn


def freeze_layers(model: nn.Module, params: Network, regime: Regime) -> None:
    """Let the layers that a regime trains receive gradients, and no others.

    The regime `features` trains the last layer. The other regimes train all layers but the first
    `regimes.<regime>.frozen_layers`, which saves the time of the backward pass through them.

    Args:
        model: a network of `build_network`.
        params: of the network.
        regime: one of `params.regimes`.

    Raises:
        ParamsError: `frozen_layers` is not smaller than the number of layers, as timm counts them: ResNet50 has its
            stem, 16 blocks and the head, VGG19 its 16 convolutions and the rest.
    """
    model.requires_grad_(regime != "features")
    head_of(model).requires_grad_(True)
    count = params.regimes[regime].frozen_layers
    if regime == "features" or not count:
        return
    layer_of = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    total = 1 + max(layer_of.values())
    if count >= total:
        raise ParamsError(
            f"{count} layers cannot be frozen", where="frozen_layers", expected=f"fewer than the network's {total}"
        )
    for name, parameter in model.named_parameters():
        if layer_of[name] < count:
            parameter.requires_grad_(False)


def set_train_mode(model: nn.Module, *, batchnorm: str) -> None:
    """Put a network in training mode.

    Args:
        model: the network; layers are frozen before.
        batchnorm: "train" updates the running statistics and normalises by the batch; "frozen" normalises by the
            running statistics of pretraining, as suits small batches and frozen backbones. BatchNorm's weight and bias
            are trained in both cases. Frozen layers keep their statistics in both cases.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, _BATCHNORM):
            layer_is_frozen = module.weight is not None and not module.weight.requires_grad
            module.train(batchnorm == "train" and not layer_is_frozen)


# How fast they learn


def parameter_groups(model: nn.Module, params: Network, regime: Regime) -> list[dict[str, Any]]:
    """Parameter groups of the optimizer: discriminative learning rates, and no weight decay of norms and biases.

    The learning rate falls by the factor `layer_decay` per layer, as timm counts layers, from the head to the input
    (ULMFiT, Howard and Ruder 2018; BEiT, Bao et al. 2022).

    Args:
        model: a network of `build_network`; all its parameters become trainable, so call `freeze_layers` afterwards.
        params: of the network.
        regime: one of `params.regimes`; `features` has the parameters of the last layer only.

    Returns:
        Dictionaries with `params`, `lr` (peak), `lr_scale` and `weight_decay`.
    """
    model.requires_grad_(True)
    groups = param_groups_layer_decay(
        model,
        weight_decay=params.optim.weight_decay,
        no_weight_decay_list=model.no_weight_decay() if hasattr(model, "no_weight_decay") else (),
        layer_decay=params.regimes[regime].layer_decay,
    )
    if regime == "features":
        head = {id(p) for p in head_of(model).parameters()}
        groups = [{**g, "params": [p for p in g["params"] if id(p) in head], "lr_scale": 1.0} for g in groups]
    return [{**g, "lr": params.regimes[regime].lr * g["lr_scale"]} for g in groups if g["params"]]


def make_optimizer(model: nn.Module, params: Network, regime: Regime) -> torch.optim.Optimizer:
    """SGD or AdamW over `parameter_groups`.

    Args:
        model: a network of `build_network`, on its device; all its parameters become trainable.
        params: of the network.
        regime: one of `params.regimes`.
    """
    groups, optim = parameter_groups(model, params, regime), params.optim
    # fused: a step over VGG19's 139.6 million weights is seven times faster
    if optim.name == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(groups, momentum=optim.momentum, fused=True)
    else:
        optimizer = torch.optim.AdamW(groups, betas=(optim.momentum, 0.999), fused=True)
    step_in_memory_order(optimizer)
    return optimizer


def step_in_memory_order(optimizer: torch.optim.Optimizer) -> None:
    """Make a step see convolution weights in the order in which they lie in memory (channels last).

    The fused step treats each weight by itself, so the order changes no digit. On CPUs it is four times faster to read
    memory in sequence (VGG19's first wide layer, 103 million weights: 82 ms instead of 354 ms per step).
    """
    turned: list[nn.Parameter] = []

    def turn(parameters: list[nn.Parameter], order: tuple[int, ...]) -> None:
        for parameter in parameters:
            gradient, parameter.grad = parameter.grad, None  # torch wants gradient and weight of one shape at all times
            assert gradient is not None  # `before` chose those that have one
            parameter.data = parameter.data.permute(order)
            parameter.grad = gradient.permute(order)

    def before(optimizer: torch.optim.Optimizer, *_: object) -> None:  # as an argument: a closure would be a cycle
        every = (parameter for group in optimizer.param_groups for parameter in group["params"])
        turned[:] = [p for p in every if p.grad is not None and _is_channels_last(p)]
        turn(turned, (0, 2, 3, 1))

    def after(*_: object) -> None:
        turn(turned, (0, 3, 1, 2))

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)


def _is_channels_last(weight: Tensor) -> bool:
    return weight.dim() == 4 and not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last)


def make_schedule(optimizer: torch.optim.Optimizer, optim: Optim, *, epochs: int, steps: int) -> LambdaLR:
    """The learning-rate schedule: `schedule.step()` after each optimizer step sets the rates of the next one.

    Args:
        optimizer: of `make_optimizer`.
        optim: `warmup_epochs` and `final_lr` are used.
        epochs: length of training.
        steps: optimizer steps per epoch.
    """
    return LambdaLR(optimizer, lambda step: learning_rate_factor((step + 1) / steps, epochs=epochs, optim=optim))


def learning_rate_factor(time: float, *, epochs: int, optim: Optim) -> float:
    """Share of the peak learning rate: linear warm-up to 1, then half a cosine down to `optim.final_lr`.

    Args:
        time: epochs since training began, at the end of the step.
        epochs: length of training.
        optim: `warmup_epochs` and `final_lr` are used.
    """
    warmup = find_warmup(optim, epochs)
    if time < warmup:
        return time / warmup
    passed = min(1.0, (time - warmup) / (epochs - warmup))
    return optim.final_lr + (1 - optim.final_lr) * 0.5 * (1 + math.cos(math.pi * passed))


def find_warmup(optim: Optim, epochs: int) -> float:
    """Epochs of warm-up: a warm-up that is as long as the training, as with a single epoch, is cut to half of it."""
    return optim.warmup_epochs if optim.warmup_epochs < epochs else epochs / 2


# Averages of the weights


def measure_state(network: Network) -> int:
    """Bytes that training takes whatever the batch: weights, gradients, the optimizer's moments, averaged weights."""
    weights = sum(parameter.numel() for parameter in make_architecture(network, device="meta").parameters())
    copies = 2 + (1 if network.optim.name == "sgd" else 2) + (network.averaging.method != "none")
    return weights * copies * torch.float32.itemsize


class WeightAverage:
    """The average of a module's weights and BatchNorm statistics over training.

    "ema" starts with the weights after the first step and moves towards those after each later step by 1 - decay.
    "swa" is the plain mean over the ends of the epochs from `swa_start` on (Izmailov et al. 2018).
    torch's `AveragedModel` gives the same numbers, but waits for a GPU twice per update to read its counter.

    Args:
        module: what is averaged.
        params: `method` ("ema" or "swa") and `decay` are used.

    Attributes:
        module: a copy of the module that holds the averages.
        count: updates so far.
    """

    def __init__(self, module: nn.Module, params: Averaging):
        self.module, self.count, self._params = copy.deepcopy(module), 0, params

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take the module's present weights into the average."""
        averages, values = ([*each.parameters(), *each.buffers()] for each in (self.module, module))
        share = 1 - self._params.decay if self._params.method == "ema" else 1 / (1 + self.count)
        # BatchNorm's numbers of batches are whole numbers, which are taken over; so is everything in the first update
        floats = [average.is_floating_point() and self.count > 0 for average in averages]
        for average, value, is_float in zip(averages, values, floats, strict=True):
            if not is_float:
                average.copy_(value)
        if any(floats):  # all of them by one kernel on a GPU
            torch._foreach_lerp_(list(compress(averages, floats)), list(compress(values, floats)), share)
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"module": self.module.state_dict(), "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.module.load_state_dict(state["module"])
        self.count = state["count"]


def averages_epoch(params: Averaging, epoch: int, *, epochs: int) -> bool:
    """Whether the plain mean ("swa") takes in the weights at the end of an epoch.

    Args:
        params: `method` and `swa_start` are used.
        epoch: from 0.
        epochs: length of training.
    """
    return params.method == "swa" and epoch >= min(int(params.swa_start * epochs), epochs - 1)
