"""Single images under the magnifying glass: right and wrong answers, and where the network looked."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from lesion_utils.data.prepare import PreparedData
from lesion_utils.figures.cases import select_outcomes
from lesion_utils.models.gradcam import STAGES, explain_images, measure_attention
from lesion_utils.models.predict import load_network
from lesion_utils.notebooks.finetune import Detail


class Cases(NamedTuple):
    """Images of each outcome with their Grad-CAM maps."""

    images: np.ndarray  # (N, S, S, 3) uint8
    targets: np.ndarray  # (N,) int
    labels: list[str]  # "TP ISIC_0000001, p = 0.91", in lines
    maps: dict[str, np.ndarray]  # column title -> (N, h, w) float in [0, 1]
    attention: pd.DataFrame  # outcome, image_id, on_lesion, area
    agreement: pd.DataFrame  # layers randomised, correlation with the trained network's map


def explain_cases(
    predictions: pd.DataFrame, detail: Detail, data: PreparedData, *, folder: Path, per_outcome: int = 2
) -> Cases:
    """Grad-CAM of a few right and wrong answers, drawn at random, by the first seed of the regime shown in detail.

    Args:
        predictions: as `train.train_network` returns them.
        detail: the test scores that were looked at.
        data: the prepared images.
        folder: of all runs of the network.
        per_outcome: images of each of TP, FN, FP and TN, fewer where there are fewer.
    """
    run = next(run for run in predictions.attrs["runs"] if run["regime"] == detail.regime)
    network = load_network(folder / run["folder"] / "best.pt")
    chosen = select_outcomes(detail.targets, detail.probs, count=per_outcome)
    picked = [(outcome, int(place)) for outcome, places in chosen.items() for place in places]
    places = [place for _, place in picked]
    ids = [detail.image_ids[place] for place in places]
    images = np.array(data.images_of(ids))
    explanation = explain_images(network, images)
    attention = measure_attention(explanation.maps, images).round(3)
    attention.insert(0, "image_id", ids)
    attention.insert(0, "outcome", [outcome for outcome, _ in picked])
    correlation = explanation.agreement.groupby("stage")["correlation"].mean().reindex(STAGES)
    return Cases(
        images=images,
        targets=detail.targets[places],
        labels=[f"{outcome}\n{detail.image_ids[place]}\np = {detail.probs[place]:.2f}" for outcome, place in picked],
        maps={"Grad-CAM": explanation.maps, "random weights": explanation.randomised},
        attention=attention,
        agreement=correlation.rename_axis("layers replaced by random ones").reset_index(),
    )
