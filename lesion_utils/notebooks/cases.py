"""Single images under the magnifying glass: right and wrong answers, and where the network looked."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from lesion_utils.data.prepared import PreparedData
from lesion_utils.evaluation.predictions import select_outcomes
from lesion_utils.models.gradcam import STAGES, explain_images
from lesion_utils.models.predict import load_network
from lesion_utils.notebooks.finetune import Detail
from lesion_utils.training.fit import NetworkResult


class Cases(NamedTuple):
    """Images of each outcome with their Grad-CAM maps."""

    images: np.ndarray  # (N, S, S, 3) uint8
    targets: np.ndarray  # (N,) int
    labels: list[str]  # "TP ISIC_0000001, p = 0.91", in lines
    maps: dict[str, np.ndarray]  # column title -> (N, h, w) float in [0, 1]
    agreement: pd.DataFrame  # layers randomised, correlation with the trained network's map


def explain_cases(
    result: NetworkResult, detail: Detail, data: PreparedData, *, folder: Path, per_outcome: int = 2
) -> Cases:
    """Grad-CAM of a few right and wrong answers, drawn at random: the mean map of the networks whose mean is shown.

    Args:
        result: of training.
        detail: the test scores that were looked at.
        data: the prepared images.
        folder: of all runs of the network.
        per_outcome: images of each of TP, FN, FP and TN, fewer where there are fewer.
    """
    runs = [run for run in result.runs if run["regime"] == detail.regime]
    networks = (load_network(folder / run["folder"] / "best.pt") for run in runs)
    chosen = select_outcomes(detail.targets, detail.probs, count=per_outcome)
    picked = [(outcome, int(place)) for outcome, places in chosen.items() for place in places]
    places = [place for _, place in picked]
    images = np.array(data.images_of([detail.image_ids[place] for place in places]))
    explanation = explain_images(networks, images)
    correlation = explanation.agreement.groupby("stage")["correlation"].mean().reindex(STAGES)
    title = f"Grad-CAM, mean of {len(runs)} networks" if len(runs) > 1 else "Grad-CAM"
    return Cases(
        images=images,
        targets=detail.targets[places],
        labels=[f"{outcome}\n{detail.image_ids[place]}\np = {detail.probs[place]:.2f}" for outcome, place in picked],
        maps={title: explanation.maps, "random weights": explanation.randomised},
        agreement=correlation.rename_axis("layers replaced by random ones").reset_index(),
    )
