"""What the training notebooks show of where a network looked: single cases, and the mean over all test images."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from lesion_utils.data.prepared import PreparedData
from lesion_utils.evaluation.evaluate import CONFIDENCE, DRAWS, SEED
from lesion_utils.evaluation.intervals import format_value, percentile_interval
from lesion_utils.evaluation.predictions import select_outcomes
from lesion_utils.models.gradcam import STAGES, explain_images, map_images
from lesion_utils.models.predict import TrainedNetwork, load_network
from lesion_utils.notebooks.finetune import Detail
from lesion_utils.training.train import NetworkResult

#: Side to which maps are stretched before their middle is cut out, and what is cut off at each edge: half of the area.
SIDE, EDGE = 116, 17
#: Rows that a map needs to tell the middle from the edge: of two, the middle has the same share, whatever the heat.
ROWS = 3
#: Images that go through a network at once.
BATCH = 32


class Cases(NamedTuple):
    """Where a network looked.

    `images`, `targets`, `labels` and `maps` are of a few images of each outcome, `means` and `middle` of all.
    """

    images: np.ndarray  # (N, S, S, 3) uint8
    targets: np.ndarray  # (N,) int
    labels: list[str]  # "TP ISIC_0000001, p = 0.91", in lines
    maps: dict[str, np.ndarray]  # column title -> (N, h, w) float in [0, 1]
    agreement: pd.DataFrame  # layers randomised, correlation with the trained network's map
    means: dict[str, np.ndarray]  # outcome -> (h, w) float in [0, 1], the mean map; outcomes that occur
    middle: pd.DataFrame  # see `measure_middle`


def explain_cases(
    result: NetworkResult, detail: Detail, data: PreparedData, *, folder: Path, per_outcome: int = 2
) -> Cases:
    """Grad-CAM of every test image: the mean map of the networks whose mean probability is shown.

    Args:
        detail: the test scores that were looked at.
        per_outcome: images of each of TP, FN, FP and TN to show, drawn at random, fewer where there are fewer.
    """
    runs = [run for run in result.runs if run["regime"] == detail.regime]
    networks = (load_network(folder / run["folder"] / "best.pt") for run in runs)
    first, everything = next(networks), data.images_of(detail.image_ids)
    maps = np.mean([_map_all(network, everything) for network in chain((first,), networks)], axis=0)
    all_of = select_outcomes(detail.targets, detail.probs, count=len(detail.targets))
    chosen = select_outcomes(detail.targets, detail.probs, count=per_outcome)
    picked = [(outcome, int(place)) for outcome, places in chosen.items() for place in places]
    places = [place for _, place in picked]
    images = np.array(data.images_of([detail.image_ids[place] for place in places]))
    sanity = explain_images([first], images)
    correlation = sanity.agreement.groupby("stage")["correlation"].mean().reindex(STAGES)
    title = f"Grad-CAM, mean of {len(runs)} networks" if len(runs) > 1 else "Grad-CAM"
    return Cases(
        images=images,
        targets=detail.targets[places],
        labels=[f"{outcome}\n{detail.image_ids[place]}\np = {detail.probs[place]:.2f}" for outcome, place in picked],
        maps={title: maps[places], "random weights": sanity.randomised},
        agreement=correlation.rename_axis("layers replaced by random ones").reset_index(),
        means={outcome: maps[places].mean(axis=0) for outcome, places in all_of.items() if len(places)},
        middle=measure_middle(maps, all_of),
    )


def _map_all(network: TrainedNetwork, images: np.ndarray) -> np.ndarray:
    return np.concatenate([map_images(network, images[k : k + BATCH]) for k in range(0, len(images), BATCH)])


def measure_middle(maps: np.ndarray, outcomes: dict[str, np.ndarray]) -> pd.DataFrame:
    """How much of the heat lies in the middle of the image: the central square of half its area.

    Even heat has 0.5 there. Lesions are roughly centred, rulers, corners and the microscope's edge are not; but it is
    no outline of a lesion, of which the challenge's part 3 publishes none.

    Args:
        maps: (N, h, w) float in [0, 1].
        outcomes: name -> positions in `maps`.

    Returns:
        `outcome`, `images`, `without heat` (nothing raised their score; they count no further) and `share in the
        middle`, the images' mean with its bootstrap interval, as `evaluate.look_at` draws them; a dash where fewer than
        two images have heat, or the maps fewer than `ROWS` rows or columns.
    """
    stretched = F.interpolate(torch.from_numpy(maps)[:, None].double(), (SIDE, SIDE), mode="bilinear").numpy()[:, 0]
    whole, middle = (heat.sum(axis=(1, 2)) for heat in (stretched, stretched[:, EDGE:-EDGE, EDGE:-EDGE]))
    rows, random = [], np.random.default_rng(SEED)
    for outcome, places in outcomes.items():
        warm = places[whole[places] > 0]
        shares, said = middle[warm] / whole[warm], "–"
        if len(warm) > 1 and min(maps.shape[1:]) >= ROWS:
            resampled = random.choice(shares, (DRAWS, len(shares))).mean(axis=1)
            said = format_value(float(shares.mean()), *percentile_interval(resampled, confidence=CONFIDENCE))
        rows.append((outcome, len(places), len(places) - len(warm), said))
    return pd.DataFrame(rows, columns=["outcome", "images", "without heat", "share in the middle"])
