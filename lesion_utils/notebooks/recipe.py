"""How a network is trained, shown before it is: learning rates by layer and step, and eight images learnt by heart."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import takewhile
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from timm.models import group_parameters
from torch import Tensor, nn
from torch.optim.lr_scheduler import ConstantLR

from lesion_utils.config.schema import PRETRAINED_REGIMES
from lesion_utils.models.compute import choose_compute, computing
from lesion_utils.models.inference import forward_logits, read_rows
from lesion_utils.models.networks import build_network, data_config, head_of
from lesion_utils.models.preprocess import resize_batch
from lesion_utils.training.inputs import TrainingBatch
from lesion_utils.training.loop import train_epoch
from lesion_utils.training.optim import freeze_layers, learning_rate_factor, make_optimizer, set_train_mode
from lesion_utils.training.task import TrainingTask


def describe_layers(model: nn.Module, task: TrainingTask) -> pd.DataFrame:
    """What training does with each layer, from the input to the head.

    Args:
        model: a network of `build_network`; afterwards all its layers are trainable, so describe it before training.
        task: how it is trained.

    Returns:
        One row per layer as timm counts them: `layer` (the module), `parameters` (how many numbers), `learning_rate`
        (peak), `weight_decay` (of its weights; norms and biases are never decayed). The last two are missing if the
        layer is frozen.
    """
    optimizer = make_optimizer(model, task.settings, task.regime)
    freeze_layers(model, task.settings, task.regime)
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    layer_of = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    head = {id(p) for p in head_of(model).parameters()}
    layers: dict[tuple[int, bool], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        layers.setdefault((layer_of[name], id(parameter) in head), []).append((name, parameter))
    rows = []
    for key in sorted(layers):
        names, parameters = [name for name, _ in layers[key]], [parameter for _, parameter in layers[key]]
        row: dict[str, Any] = {"layer": _common_module(names), "parameters": sum(p.numel() for p in parameters)}
        if groups := [group_of[id(p)] for p in parameters if id(p) in group_of and p.requires_grad]:
            row |= {"learning_rate": groups[0]["lr"], "weight_decay": max(g["weight_decay"] for g in groups)}
        rows.append(row)
    model.requires_grad_(True)
    return pd.DataFrame(rows)


def tabulate_learning_rates(model: nn.Module, task: TrainingTask, *, steps: int) -> pd.DataFrame:
    """The learning rates of a run, step by step, as its optimizer and schedule set them.

    Args:
        model: as for `describe_layers`.
        task: how it is trained.
        steps: optimizer steps per epoch.

    Returns:
        One row per step and distinct learning-rate curve: `time` (epochs, at the end of the step), `layers` (the
        modules that have this curve), `learning_rate`.
    """
    layers = describe_layers(model, task).dropna(subset="learning_rate")
    epochs, rows = task.regime_params.epochs, []
    for peak, names in layers.groupby("learning_rate", sort=False)["layer"].agg(list).items():
        label = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        for step in range(epochs * steps):
            time = (step + 1) / steps
            rate = peak * learning_rate_factor(time, epochs=epochs, optim=task.settings.optim)
            rows.append({"time": time, "layers": label, "learning_rate": rate})
    return pd.DataFrame(rows)


def state_overfitting(losses: Sequence[float], *, images: int) -> str:
    """Whether a network learned a few images by heart: its loss fell below half of that of guessing.

    Args:
        losses: from `overfit`.
        images: how many, half of each class.
    """
    guessing, last = float(np.log(2)), losses[-1]
    said = f"After {len(losses) - 1} steps the loss is {last:.2f}; guessing has a loss of {guessing:.2f}."
    if last < guessing / 2:
        return f"{said} The network learned the {images} images by heart: the training loop works."
    return (
        f"{said} The network did not learn the {images} images by heart. Increase `steps`, or the learning rate, and "
        "run the cell again. If the loss still does not fall, this network will hardly learn from all images either."
    )


def overfit(task: TrainingTask, *, images: int = 8, steps: int = 40) -> list[float]:
    """Overfit a network on a few images with the study's own `train_epoch`: a loop that cannot do that is broken.

    Args:
        task: its network, regime and images are used; augmentation and dropout are off, the learning rate is constant.
        images: how many, half of each class.
        steps: optimizer steps at most, each on all of them; it ends when the loss is a tenth of that of guessing.

    Returns:
        The loss before each step.
    """
    settings, regime = task.settings.model_copy(update={"drop_rate": 0.0}), task.regime
    compute = choose_compute(settings)
    rows = task.rows("train")
    rows = np.concatenate([rows[task.targets(rows) == target][: images // 2] for target in (0, 1)])
    with computing(compute):
        model = compute.place(build_network(settings, pretrained=regime in PRETRAINED_REGIMES, seed=task.seed))
        config, optimizer = data_config(model), make_optimizer(model, settings, regime)
        schedule = ConstantLR(optimizer, factor=1.0)
        set_train_mode(model, batchnorm=task.regime_params.batchnorm)
        pixels = read_rows(task.data.images, rows, compute.device)
        x = config.normalise(resize_batch(pixels, settings.image_size, interpolation=config.interpolation))
        targets = torch.from_numpy(task.targets(rows)).float().to(compute.device)
        batch = TrainingBatch(x.contiguous(memory_format=compute.memory_format), targets, len(rows), ends_step=True)
        loss_fn = partial(F.binary_cross_entropy_with_logits, reduction="none")

        def logits(x: Tensor) -> Tensor:
            return forward_logits(model, x, compute=compute).squeeze(1)

        losses: list[float] = []
        while len(losses) < steps and (not losses or losses[-1] > np.log(2) / 10):
            losses.append(train_epoch(logits, [batch], optimizer, schedule, loss_fn))
        return losses


def _common_module(names: list[str]) -> str:
    """The module that contains all these parameters: "layer1.0" for layer1.0.conv1.weight and layer1.0.bn1.weight."""
    modules = [name.split(".")[:-1] for name in names]
    common = [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, zip(*modules, strict=False))]
    return ".".join(common) if common else ", ".join(dict.fromkeys(parts[0] for parts in modules))
