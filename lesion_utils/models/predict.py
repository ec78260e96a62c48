"""A trained network on images: the selected weights of a run, ready to predict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from torch import nn

from lesion_utils.config.schema import Network
from lesion_utils.core.errors import CheckpointError
from lesion_utils.models.checkpoint import load_checkpoint
from lesion_utils.models.compute import Compute, choose_compute, computing
from lesion_utils.models.inference import Scorer
from lesion_utils.models.networks import build_network, restore_network


@dataclass(frozen=True)
class TrainedNetwork:
    """The selected weights of a run, ready to predict.

    Attributes:
        model: on its device.
        settings: of the network.
        compute: where and how.
        regime: it was trained in.
        seed: of the run.
        selected: the record of the selected epoch.
        stored_size: side to which photographs are decoded, px.
        aspect: how a rectangle becomes a square.
    """

    model: nn.Module
    settings: Network
    compute: Compute
    regime: str
    seed: int
    selected: dict[str, Any]
    stored_size: int
    aspect: str

    def predict(self, images: np.ndarray, rows: np.ndarray | None = None, *, tta: str | None = None) -> np.ndarray:
        """Logits of decoded images.

        Args:
            images: (N, S, S, 3) uint8, RGB.
            rows: which of them; all by default.
            tta: a key of `inference.VIEWS`; as the run had it by default.

        Returns:
            (N,) float32.
        """
        rows = np.arange(len(images)) if rows is None else rows
        scorer = Scorer(self.model, self.settings, self.compute)
        with computing(self.compute):
            return scorer.logits(images, rows, tta=tta or self.settings.tta)


def load_network(path: Path) -> TrainedNetwork:
    """Build the network of a run from its `best.pt`.

    A run of the regime `features` holds its last layer only: the frozen backbone comes from the same pretrained
    weights as in training.

    Raises:
        CheckpointError: the file is missing or damaged, or of a version with other parameters.
        WeightsError: the pretrained weights of a frozen backbone cannot be had.
    """
    content = load_checkpoint(Path(path))
    about = content["about"]
    settings = read_settings(about["settings"], where=path)
    if about["regime"] == "features":
        model = build_network(settings, pretrained=True, seed=about["seed"])
        model.load_state_dict(content["model"], strict=False)
    else:
        model = restore_network(settings, content["model"])
    return place_network(model, settings, {**about, "selected": content["selected"]})


def place_network(
    model: nn.Module, settings: Network, about: Mapping[str, Any], *, device: str | None = None
) -> TrainedNetwork:
    """A network with its weights, ready to predict.

    Args:
        model: with its weights.
        settings: of the network.
        about: what `TrainedNetwork` says of its run.
        device: by default that of `choose_device`.
    """
    compute = choose_compute(settings, device=device)
    rest = (about[name] for name in ("regime", "seed", "selected", "stored_size", "aspect"))
    return TrainedNetwork(compute.place(model).eval(), settings, compute, *rest)


def read_settings(settings: Mapping[str, Any], *, where: Path) -> Network:
    """The parameters that were kept with a network's weights.

    Raises:
        CheckpointError: this version has other parameters.
    """
    try:
        return Network.model_validate(settings)
    except ValidationError as error:
        keys = ", ".join(sorted({".".join(map(str, e["loc"])) for e in error.errors()}))
        raise CheckpointError(
            f"these weights were trained by another version, whose parameters differ in {keys}",
            where=where,
            do="check that version out (`commit` in the report's run.json), or train again with this one",
        ) from error
