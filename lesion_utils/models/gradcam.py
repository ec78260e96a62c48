"""Where a network looks: Grad-CAM, whether its maps depend on what was learned, and how much falls on the lesion."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from scipy.stats import spearmanr
from timm.models import group_parameters
from torch import Tensor, nn

from lesion_utils.models.compute import computing
from lesion_utils.models.networks import build_network, data_config, gradcam_layer
from lesion_utils.models.predict import TrainedNetwork
from lesion_utils.models.preprocess import resize_batch
from lesion_utils.models.segment import segment_lesion

#: How much of a network the sanity check replaces by random weights, from the last layer on.
STAGES = {"last layer": 0.0, "last third": 1 / 3, "last two thirds": 2 / 3, "all layers": 1.0}


class Explanation(NamedTuple):
    """Grad-CAM maps of some images and their sanity check.

    Attributes:
        maps: (N, h, w) float32 in [0, 1], of the trained network.
        randomised: (N, h, w) float32 in [0, 1], of the same architecture with random weights.
        agreement: columns `stage` (of `STAGES`), `image` (0 to N - 1) and `correlation`: Spearman's, between the map of
            the trained network and that of the partly randomised one; NaN where a map is constant. Maps that depend on
            what was learned lose their correlation as the stages go on (Adebayo et al. 2018).
    """

    maps: np.ndarray
    randomised: np.ndarray
    agreement: pd.DataFrame


def explain_images(network: TrainedNetwork, images: np.ndarray, *, seed: int = 0) -> Explanation:
    """Grad-CAM maps of images, with the model-randomisation test of Adebayo et al. (2018).

    Args:
        network: trained.
        images: (N, S, S, 3) uint8, RGB.
        seed: of the random weights.

    Raises:
        ParamsError: the backbone has no map of features that Grad-CAM could show.
    """
    model, settings = network.model, network.settings
    config = data_config(model)
    with computing(network.compute):
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(network.compute.device)
        x = config.normalise(resize_batch(pixels, settings.image_size, interpolation=config.interpolation))
        maps, agreement = compute_gradcam(model, x), []
        fresh = build_network(settings, pretrained=False, seed=seed)
        for stage, changed in randomise_stages(model, fresh):
            randomised = compute_gradcam(changed, x)
            for image, (a, b) in enumerate(zip(maps, randomised, strict=True)):
                agreement.append({"stage": stage, "image": image, "correlation": correlate_maps(a, b)})
    return Explanation(maps, randomised, pd.DataFrame(agreement))


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


def measure_attention(maps: np.ndarray, images: np.ndarray) -> pd.DataFrame:
    """How much of each map lies on the lesion, where `segment_lesion` finds one.

    Args:
        maps: (N, h, w) float >= 0.
        images: (N, S, S, 3) uint8, RGB.

    Returns:
        N rows: `on_lesion`, the share of the map's sum on the lesion, and `area`, the lesion's share of the image,
        which is what an even map would score. Both are NaN where no lesion was found, `on_lesion` also where the map
        is zero.
    """
    maps = torch.from_numpy(np.asarray(maps, dtype=np.float32))[:, None]
    large = F.interpolate(maps, size=images.shape[1:3], mode="bilinear", align_corners=False)[:, 0].numpy()
    rows = []
    for heat, image in zip(large, images, strict=True):
        mask = segment_lesion(np.asarray(image))
        area = float("nan") if mask is None else float(mask.mean())
        known = mask is not None and heat.sum() > 0
        rows.append({"on_lesion": float(heat[mask].sum() / heat.sum()) if known else float("nan"), "area": area})
    return pd.DataFrame(rows)
