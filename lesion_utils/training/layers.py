"""Which layers of a network learn, how fast, and which mode they are in."""

from __future__ import annotations

from typing import Any

from timm.models import group_parameters
from timm.optim import param_groups_layer_decay
from torch import nn

from lesion_utils.config.schema import Network, Regime
from lesion_utils.core.errors import ParamsError
from lesion_utils.models.networks import head_of

_BATCHNORM = nn.modules.batchnorm._NormBase


def freeze_backbone(model: nn.Module, *, frozen: bool) -> None:
    """Stop, or let, gradients reach anything but the last layer."""
    model.requires_grad_(not frozen)
    head_of(model).requires_grad_(True)


def freeze_layers(model: nn.Module, count: int) -> None:
    """Stop gradients at the first layers, which saves the time of going back through them.

    Args:
        model: a network of `build_network`.
        count: layers from the input on, as timm counts them: ResNet50 has its stem, 16 blocks and the head, VGG19 its
            16 convolutions and the rest.

    Raises:
        ParamsError: the network has no more layers than that.
    """
    if not count:
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
        model: the network.
        batchnorm: "train" updates running statistics and normalises by the batch; "frozen" normalises by the running
            statistics of pretraining, as suits small batches and frozen backbones. Its weight and bias learn in both.
            In frozen layers the statistics stay as well.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, _BATCHNORM):
            layer_is_frozen = module.weight is not None and not module.weight.requires_grad
            module.train(batchnorm == "train" and not layer_is_frozen)


def parameter_groups(model: nn.Module, params: Network, regime: Regime) -> list[dict[str, Any]]:
    """Groups for the optimiser: discriminative learning rates, and no decay of norms and biases.

    The learning rate falls by `layer_decay` per layer, as timm counts the network's layers, from the head to the input
    (ULMFiT, Howard and Ruder 2018; BEiT, Bao et al. 2022). The regime `features` has the last layer's parameters only.

    Args:
        model: a network of `build_network`; all its parameters are made trainable, so freeze afterwards.
        params: `optim.weight_decay` and the regime's `lr` and `layer_decay` are used.
        regime: one of `params.regimes`.

    Returns:
        Dictionaries with `params`, `lr`, `lr_scale` and `weight_decay`.
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
