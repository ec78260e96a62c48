"""Losses, each against an independent implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight
from tiny_study import make_params
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from lesion_utils.training.loss import class_weights, guess_loss, mix, sample_losses, soften

RNG = np.random.default_rng(0)
LOGITS = torch.tensor(RNG.normal(0, 3, 40), dtype=torch.float32)
TARGETS = (np.arange(40) % 4 == 0).astype(int)
HARD = torch.tensor(TARGETS, dtype=torch.float32)


def losses_of(method: str, targets=HARD, gamma: float = 2.0) -> torch.Tensor:
    params = make_params(imbalance={"method": method, "focal_gamma": gamma}).resnet50
    return sample_losses(LOGITS, targets, params=params, weights=class_weights(TARGETS, method))


def test_plain_loss_is_cross_entropy():
    expected = F.binary_cross_entropy_with_logits(LOGITS, HARD, reduction="none")
    torch.testing.assert_close(losses_of("none"), expected)


def test_class_weights_are_scikit_learns_balanced_ones():
    weights = compute_class_weight("balanced", classes=np.array([0, 1]), y=TARGETS)
    assert class_weights(TARGETS, "class_weights") == pytest.approx(tuple(weights))
    probs = LOGITS.double().sigmoid().numpy()
    expected = log_loss(TARGETS, probs, sample_weight=weights[TARGETS], normalize=False)
    assert losses_of("class_weights").sum().item() == pytest.approx(expected, rel=1e-5)
    assert class_weights(TARGETS, "focal") == class_weights(TARGETS, "none") == (1, 1)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.5])
def test_focal_loss_is_torchvisions(gamma):
    torch.testing.assert_close(losses_of("focal", gamma=gamma), sigmoid_focal_loss(LOGITS, HARD, alpha=-1, gamma=gamma))


def test_smoothing_gives_a_share_to_the_other_class():
    torch.testing.assert_close(soften(torch.tensor([0.0, 1.0]), 0.1), torch.tensor([0.1, 0.9]))
    soft = losses_of("none", targets=soften(HARD, 0.1))
    both = 0.9 * losses_of("none") + 0.1 * losses_of("none", targets=1 - HARD)
    torch.testing.assert_close(soft, both)


def test_mixup_blends_images_as_it_blends_labels():
    x = torch.arange(24.0).reshape(6, 1, 2, 2)
    targets = torch.arange(6.0)
    mixed, labels = mix(x, targets, alpha=0.4, rng=np.random.default_rng(3))
    torch.testing.assert_close(mixed[:, 0, 0, 0] / 4, labels)  # pixel 0 of sample i is 4 i
    assert not torch.equal(mixed, x)
    assert (mixed >= 0).all()
    assert (mixed <= x.max()).all()


def test_guessing_costs_the_entropy_of_the_class_prior():
    network = make_params().resnet50
    assert guess_loss(TARGETS, params=network) == pytest.approx(entropy([0.25, 0.75]), abs=1e-7)
    smooth = network.model_copy(update={"label_smoothing": 0.1})
    assert guess_loss(TARGETS, params=smooth) == pytest.approx(entropy([0.3, 0.7]), abs=1e-7)  # 0.25 * 0.9 + 0.75 * 0.1


@pytest.mark.parametrize("method", ["class_weights", "balanced_sampling"])
def test_guessing_at_balanced_classes_costs_a_bit(method):
    params = make_params(imbalance={"method": method}).resnet50
    assert guess_loss(TARGETS, params=params) == pytest.approx(np.log(2), abs=1e-7)


def test_no_constant_is_better_than_the_guess_at_the_focal_loss():
    params = make_params(imbalance={"method": "focal", "focal_gamma": 2.0}).resnet50
    constants = torch.linspace(-4, 4, 801).tile(40, 1)
    costs = sigmoid_focal_loss(constants, HARD[:, None].expand_as(constants), alpha=-1, gamma=2.0).mean(0)
    assert guess_loss(TARGETS, params=params) == pytest.approx(costs.min().item(), abs=1e-5)
