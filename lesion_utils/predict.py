"""A trained network on images: the selected weights of a run, and a folder of photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit
from torch import nn

from lesion_utils.checkpoint import load_checkpoint
from lesion_utils.device import Compute, choose_compute, computing
from lesion_utils.errors import DataError
from lesion_utils.images import ImageError, decode_square
from lesion_utils.inference import predict_logits
from lesion_utils.models import build_network
from lesion_utils.schema import Network

#: Files that a folder of photographs is searched for.
SUFFIXES = (".jpg", ".jpeg", ".png")


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
    selected: dict
    stored_size: int
    aspect: str

    def predict(self, images: np.ndarray, rows: np.ndarray | None = None, *, tta: str | None = None) -> np.ndarray:
        """Logits of decoded images.

        Args:
            images: (N, S, S, 3) uint8, RGB.
            rows: which of them; all by default.
            tta: "none" or "flips"; as the run had it by default.

        Returns:
            (N,) float32.
        """
        rows = np.arange(len(images)) if rows is None else rows
        with computing(self.compute):
            return predict_logits(
                self.model, images, rows, params=self.settings, compute=self.compute, tta=tta or self.settings.tta
            )


def load_network(path: Path) -> TrainedNetwork:
    """Build the network of a run from its `best.pt`.

    A run of the regime `features` holds its last layer only: the frozen backbone comes from the same pretrained
    weights as in training.

    Raises:
        CheckpointError: the file is missing or damaged.
        WeightsError: the pretrained weights of a frozen backbone cannot be had.
    """
    content = load_checkpoint(Path(path))
    about = content["about"]
    settings = Network.model_validate(about["settings"])
    model = build_network(settings, pretrained=about["regime"] == "features", seed=about["seed"])
    model.load_state_dict(content["model"], strict=about["regime"] != "features")
    compute = choose_compute(settings)
    model = compute.place(model).eval()
    rest = (about["regime"], about["seed"], content["selected"], about["stored_size"], about["aspect"])
    return TrainedNetwork(model, settings, compute, *rest)


def predict_folder(folder: Path, network: TrainedNetwork) -> tuple[pd.DataFrame, list[str]]:
    """Scores for every photograph in a folder; a broken one is reported and the rest goes on.

    Args:
        folder: with JPEG or PNG files.
        network: as `load_network` returns it.

    Returns:
        scores: `file`, `logit` and `probability` (of malignant; above 0.5 means malignant), sorted by file.
        problems: one line per file that could not be read.

    Raises:
        DataError: there is no image in the folder, or none that can be read.
    """
    files = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in SUFFIXES) if Path(folder).is_dir() else []
    logits, names, problems = [], [], []
    for start in range(0, len(files), network.settings.batch_size):
        images, good, bad = _decode(files[start : start + network.settings.batch_size], network)
        problems += bad
        names += good
        if good:
            logits.append(network.predict(images))
    if not names:
        raise DataError(
            "no image here can be read" if files else "there are no images here",
            where=folder,
            expected=f"files ending in {', '.join(SUFFIXES)}",
            do="; ".join(problems[:3]) or "name another folder",
        )
    values = np.concatenate(logits).astype(np.float64)
    return pd.DataFrame({"file": names, "logit": values, "probability": expit(values)}), problems


def _decode(files: Sequence[Path], network: TrainedNetwork) -> tuple[np.ndarray, list[str], list[str]]:
    images, good, bad = [], [], []
    for file in files:
        try:
            images.append(decode_square(file, size=network.stored_size, aspect=network.aspect))
            good.append(file.name)
        except (ImageError, OSError) as error:
            bad.append(f"{file.name}: {error}")
    return np.stack(images) if images else np.empty(0), good, bad
