"""Where a network looks: Grad-CAM, and whether its maps depend on what was learned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from captum.attr import LayerGradCam
from scipy.stats import spearmanr
from timm.models import group_parameters
from torch import Tensor, nn

from lesion_utils.models.compute import computing
from lesion_utils.models.networks import build_network, data_config, gradcam_layer
from lesion_utils.models.predict import TrainedNetwork
from lesion_utils.models.preprocess import resize_batch

#: How much of a network the sanity check replaces by random weights, from the last layer on.
STAGES = {"last layer": 0.0, "last third": 1 / 3, "last two thirds": 2 / 3, "all layers": 1.0}


class Explanation(NamedTuple):
    """Grad-CAM maps of some images and their sanity check.

    Attributes:
        maps: (N, h, w) float32 in [0, 1], mean over the networks of their maps, each scaled to its own maximum: it
            belongs to the networks' mean probability.
        randomised: (N, h, w) float32 in [0, 1], of the same architecture with random weights.
        agreement: columns `stage` (of `STAGES`), `image` (0 to N - 1) and `correlation`: Spearman's, between the map of
            the first network and that of the same partly randomised; NaN where a map is constant. Maps that depend on
            what was learned lose their correlation as the stages go on (Adebayo et al. 2018).
    """

    maps: np.ndarray
    randomised: np.ndarray
    agreement: pd.DataFrame


def explain_images(networks: Iterable[TrainedNetwork], images: np.ndarray, *, seed: int = 0) -> Explanation:
    """Grad-CAM maps of images, with the model-randomisation test of Adebayo et al. (2018) on the first network.

    Args:
        networks: one or more of the same architecture, trained with other seeds; one at a time is held.
        images: (N, S, S, 3) uint8, RGB.
        seed: of the random weights.

    Raises:
        ParamsError: the backbone has no map of features that Grad-CAM could show.
    """
    networks = iter(networks)
    first = next(networks)
    own = map_images(first, images)
    randomised, agreement = _randomise(first, images, own, seed=seed)
    maps = [own, *(map_images(network, images) for network in networks)]
    return Explanation(np.asarray(np.mean(maps, axis=0, dtype=np.float32)), randomised, agreement)


def map_images(network: TrainedNetwork, images: np.ndarray) -> np.ndarray:
    """Grad-CAM maps (N, h, w) float32 in [0, 1] of decoded images (N, S, S, 3) uint8, as `compute_gradcam` has them."""
    with computing(network.compute):
        return compute_gradcam(network.model, _prepare(network, images))


def _prepare(network: TrainedNetwork, images: np.ndarray) -> Tensor:
    config = data_config(network.model)
    pixels = torch.from_numpy(np.ascontiguousarray(images)).to(network.compute.device)
    return config.normalise(resize_batch(pixels, network.settings.image_size, interpolation=config.interpolation))


def _randomise(
    network: TrainedNetwork, images: np.ndarray, maps: np.ndarray, *, seed: int
) -> tuple[np.ndarray, pd.DataFrame]:
    """Maps of the network with random weights, and the correlations of `Explanation.agreement`."""
    agreement = []
    with computing(network.compute):
        x, fresh = _prepare(network, images), build_network(network.settings, pretrained=False, seed=seed)
        for stage, changed in randomise_stages(network.model, fresh):
            randomised = compute_gradcam(changed, x)
            for image, (a, b) in enumerate(zip(maps, randomised, strict=True)):
                agreement.append({"stage": stage, "image": image, "correlation": correlate_maps(a, b)})
    return randomised, pd.DataFrame(agreement)


def compute_gradcam(model: nn.Module, x: Tensor) -> np.ndarray:
    """Grad-CAM for the malignant logit (Selvaraju et al. 2017), computed in float32.

    Args:
        model: a convolutional network of `build_network`.
        x: (N, 3, H, W) float32, normalised.

    Returns:
        (N, h, w) float32 in [0, 1], at the resolution of the network's last map, each scaled to its own maximum; zero
        where nothing raises the logit.

    Raises:
        ParamsError: the backbone has no such map.
    """
    model.eval()
    with torch.enable_grad():
        attribute = LayerGradCam(model, gradcam_layer(model)).attribute
        inputs = x.detach().requires_grad_(True)  # frozen weights alone would leave no gradient to follow
        maps = attribute(inputs, target=0, relu_attributions=True)[:, 0].detach()
    highest = maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(highest > 0, maps / highest, 0).cpu().numpy()


def randomise_stages(model: nn.Module, fresh: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Copies of a network with more and more of its layers replaced by random ones, from the last to the first.

    Args:
        model: the trained network.
        fresh: the same architecture with random weights.

    Yields:
        Name out of `STAGES` and network; each network replaces the one before.
    """
    layers = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    first, last = min(layers.values()), max(layers.values())
    modules = {name.rpartition(".")[0]: layer for name, layer in layers.items()}
    random, changed = fresh.state_dict(), deepcopy(model)
    for stage, share in STAGES.items():
        start = last - share * (last - first)
        chosen = {name: value for name, value in random.items() if modules.get(name.rpartition(".")[0], first) >= start}
        changed.load_state_dict(chosen, strict=False)
        yield stage, changed


def correlate_maps(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation of two (h, w) maps; NaN where one is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a.ravel(), b.ravel()).statistic)
