"""Grad-CAM against two other ways of computing it, and whether the checks on it check anything."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import torch
from pytest import approx, fixture, mark, param
from sections import network_params
from torch import nn

from lesion_utils.models.compute import Compute
from lesion_utils.models.gradcam import (
    STAGES,
    compute_gradcam,
    correlate_maps,
    explain_images,
    map_images,
    randomise_stages,
)
from lesion_utils.models.networks import build_network

COMPUTE = Compute("cpu", "any", "float32", 1, "exact", torch.__version__)


def build(backbone: str, *, seed: int = 0) -> nn.Module:
    """A network whose running statistics fit its weights, so that its maps are not trivial."""
    model = build_network(network_params(backbone), pretrained=False, seed=seed)
    for p in model.parameters():
        if p.ndim == 1:
            nn.init.uniform_(p, 0.2, 1.0, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(4, 3, 96, 96, generator=generator))
    return model.eval()


@fixture
def x():
    return torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))


def scale(maps: torch.Tensor) -> np.ndarray:
    maps = maps.relu()
    return (maps / maps.amax(dim=(1, 2), keepdim=True)).numpy()


@mark.parametrize("backbone", ["resnet10t", "small_cnn"])
def test_before_a_mean_and_a_linear_layer_it_is_the_class_activation_map(backbone, x):
    """There Grad-CAM equals CAM (Zhou et al. 2016; Selvaraju et al. 2017, section 3.1)."""
    model = build(backbone)
    with torch.no_grad():
        maps = model.forward_features(x)
        oracle = torch.einsum("c,nchw->nhw", model.get_classifier().weight[0], maps)
    assert oracle.max() > 0
    assert compute_gradcam(model, x) == approx(scale(oracle), abs=1e-4)


@mark.slow
def test_vgg_is_explained_before_its_last_pooling_in_spite_of_in_place_relus(x):
    model = build("vgg11.tv_in1k")
    last = len(model.features) - 1
    maps = model.features[:last](x).detach().requires_grad_(True)
    model.forward_head(model.features[last](maps)).sum().backward()
    oracle = (maps.grad.mean((2, 3), keepdim=True) * maps.detach()).sum(1)
    ours = compute_gradcam(model, x)
    assert ours.shape == (2, 6, 6)
    assert ours == approx(scale(oracle), abs=1e-4)


@mark.parametrize(
    "backbone",
    [
        "resnet50.tv_in1k",
        param("vgg19.tv_in1k", marks=mark.slow),
        "convnext_atto",
        "efficientnet_b0",
        "mobilenetv2_100",
    ],
)
def test_every_convolutional_family_is_explained(backbone, x):
    model = build_network(network_params(backbone), pretrained=False, seed=0)
    model.requires_grad_(False)  # as a frozen backbone is
    maps = compute_gradcam(model, x)
    assert maps.dtype == np.float32 and maps.shape[0] == 2 and min(maps.shape[1:]) >= 3
    assert maps.min() >= 0 and set(maps.max((1, 2)).tolist()) <= {0.0, 1.0}
    assert all(not module._forward_hooks and not module._backward_hooks for module in model.modules())


def test_images_do_not_influence_each_other(x):
    model = build("small_cnn")
    assert compute_gradcam(model, x)[1] == approx(compute_gradcam(model, x[1:])[0], abs=1e-5)


@mark.parametrize("backbone", ["resnet10t", "small_cnn", "convnext_atto"])
def test_stages_replace_layers_from_the_last_to_the_first(backbone):
    model, fresh = (build_network(network_params(backbone), pretrained=False, seed=s) for s in (0, 1))
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    replaced = []
    for _, changed in randomise_stages(model, fresh):
        state = changed.state_dict()
        replaced.append({n for n, v in fresh.state_dict().items() if torch.equal(state[n], v)})
    head = {name for name, p in model.named_parameters() if p is model.get_classifier().weight}
    assert head <= replaced[0] and all(a < b for a, b in pairwise(replaced))
    first = next(name for name, p in model.named_parameters() if p.ndim == 4)
    assert first not in replaced[2]
    assert replaced[3] == set(kept)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in kept.items())  # the original is whole


def test_explanation_is_the_mean_over_networks_with_a_sanity_check_of_the_first():
    settings = network_params("small_cnn")
    networks = [SimpleNamespace(model=build("small_cnn", seed=k), settings=settings, compute=COMPUTE) for k in (0, 1)]
    images = np.random.default_rng(0).integers(0, 256, (3, 80, 80, 3), dtype=np.uint8)
    explanation, first = explain_images(iter(networks), images, seed=1), explain_images(networks[:1], images, seed=1)
    own = [map_images(network, images) for network in networks]
    assert first.maps == approx(own[0]) and explanation.maps == approx((own[0] + own[1]) / 2)
    assert not np.allclose(*own)
    assert explanation.maps.shape == explanation.randomised.shape == (3, 4, 4)
    assert list(explanation.agreement["stage"].unique()) == list(STAGES)
    assert len(explanation.agreement) == 3 * len(STAGES)
    assert not np.allclose(first.maps, explanation.randomised)
    assert (first.randomised == explanation.randomised).all() and first.agreement.equals(explanation.agreement)


def test_correlation_of_maps():
    a = np.arange(9.0).reshape(3, 3)
    assert correlate_maps(a, a**3) == approx(1)  # ranks only
    assert correlate_maps(a, -a) == approx(-1)
    assert np.isnan(correlate_maps(a, np.zeros((3, 3))))
