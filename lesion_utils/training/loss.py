"""The loss of a batch, and what is done about benign images outnumbering malignant ones."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from lesion_utils.config.schema import Network
from lesion_utils.models.inference import copy_to


def class_weights(targets: np.ndarray, method: str) -> tuple[float, float]:
    """Weights of benign and malignant images in the loss.

    Args:
        targets: (N,) int, 0 or 1: the training images.
        method: of `Imbalance`; all but "class_weights" weigh both classes with 1.

    Returns:
        Weights inverse to the classes' frequencies, so that both weigh the same and the mean over images is 1.
    """
    if method != "class_weights":
        return 1.0, 1.0
    malignant = float(np.mean(targets))
    return 0.5 / (1 - malignant), 0.5 / malignant


def sample_losses(logits: Tensor, targets: Tensor, *, params: Network, weights: tuple[float, float]) -> Tensor:
    """Binary cross-entropy of each image, weighted by class; focal where `params` says so.

    The focal loss multiplies by |target - probability| ** gamma, which for hard labels is Lin et al. 2017 and carries
    over to soft ones (Li et al. 2020, generalised focal loss).

    Args:
        logits: (N,) float32.
        targets: (N,) float32 in [0, 1], as `soften` and `mix` leave them.
        params: `imbalance` is used.
        weights: of benign and malignant.

    Returns:
        (N,) float32.
    """
    losses = weights[1] * targets * F.softplus(-logits) + weights[0] * (1 - targets) * F.softplus(logits)
    if params.imbalance.method == "focal":
        losses = losses * (targets - logits.sigmoid()).abs() ** params.imbalance.focal_gamma
    return losses


def soften(targets: Tensor, label_smoothing: float) -> Tensor:
    """Give a share of each label to the other class (Szegedy et al. 2016)."""
    return targets * (1 - 2 * label_smoothing) + label_smoothing


def mix(x: Tensor, targets: Tensor, *, alpha: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Blend every sample with another one of the batch (mixup, Zhang et al. 2018).

    Args:
        x: (N, ...) float32.
        targets: (N,) float32.
        alpha: both parameters of the Beta distribution of the shares.
        rng: the random numbers.

    Returns:
        Blended samples and targets, each with its own share.
    """
    partner = copy_to(x.device.type, torch.from_numpy(rng.permutation(len(x))))
    share = copy_to(x.device.type, torch.from_numpy(rng.beta(alpha, alpha, len(x))).to(x.dtype))
    wide = share.view(-1, *[1] * (x.dim() - 1))
    return torch.lerp(x[partner], x, wide), torch.lerp(targets[partner], targets, share)


def guess_loss(targets: np.ndarray, *, params: Network) -> float:
    """The least mean training loss that one and the same probability for every image reaches.

    For cross-entropy it is the entropy of the class prior. Weights, balanced sampling, label smoothing and the focal
    loss change what guessing costs, so the loss itself is minimised over a constant. Mixup keeps the mean label and
    with it the cross-entropy of guessing; of the focal loss, the value without mixup is returned.

    Args:
        targets: (N,) int, 0 or 1: the training images.
        params: `imbalance` and `label_smoothing` are used.
    """
    method = params.imbalance.method
    malignant = 0.5 if method == "balanced_sampling" else float(np.mean(targets))
    labels = soften(torch.tensor([0.0, 1.0], dtype=torch.float64), params.label_smoothing)
    shares, weights = torch.tensor([1 - malignant, malignant], dtype=torch.float64), class_weights(targets, method)

    def cost(logit: float) -> float:
        return float(shares @ sample_losses(torch.full_like(labels, logit), labels, params=params, weights=weights))

    return float(minimize_scalar(cost, bounds=(-20, 20), method="bounded", options={"xatol": 1e-8}).fun)
