"""What every image of the embedded data set will show, decided before anything is drawn.

A sketch is an image's class, how malignant its lesion looks, its clinic, its artefacts and its size. Every image has
random numbers of its own, so that none depends on how many others there are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from lesion_utils.config.schema import Synthetic
from lesion_utils.core.errors import DataError
from lesion_utils.data.brush import draw_normal
from lesion_utils.data.drawing import ARTEFACTS


@dataclass(frozen=True)
class Clinic:
    """Where images come from; pairs are for (benign, malignant) lesions.

    Attributes:
        ids: the numbers of its images.
        share: of all images of a class, those from this clinic.
        formats: (width as a multiple of `image_width`, height as a multiple of the width), equally likely.
        cast: gain of its camera for red, green and blue.
        artefacts: probability of each; those left out do not occur.
    """

    ids: range
    share: tuple[float, float]
    formats: tuple[tuple[float, float], ...]
    cast: tuple[float, float, float]
    artefacts: dict[str, tuple[float, float]]


CLINICS = (
    Clinic(
        ids=range(1000),
        share=(0.25, 0.55),
        formats=((0.75, 0.75), (0.9, 0.875), (1.25, 0.7)),
        cast=(0.95, 0.97, 1.04),
        artefacts={"hair": (0.3, 0.3), "ink": (0.05, 0.12), "dark_corners": (0.3, 0.35), "gel_bubbles": (0.15, 0.15)},
    ),
    Clinic(
        ids=range(1000, 9860),
        share=(0.35, 0.08),
        formats=((1.25, 0.667), (1.0, 0.667)),
        cast=(1.03, 0.98, 0.96),
        artefacts={"hair": (0.2, 0.2), "patch": (0.35, 0.0), "gel_bubbles": (0.05, 0.05)},
    ),
    Clinic(
        ids=range(9860, 11403),
        share=(0.4, 0.37),
        formats=((1.0, 0.75),),
        cast=(1.01, 1.0, 0.95),
        artefacts={"hair": (0.35, 0.35), "ruler": (0.25, 0.25), "gel_bubbles": (0.1, 0.1)},
    ),
)


@dataclass(frozen=True)
class Sketch:
    """What an image will show, before it is drawn; `stream` names its random numbers."""

    split: str
    target: int
    latent: float
    clinic: int
    artefacts: tuple[str, ...]
    shape: tuple[int, int]
    stream: tuple[int, ...]
    image_id: str = ""


def plan_dataset(params: Synthetic, *, seed: int) -> tuple[list[Sketch], list[dict]]:
    """Decide what every image shows.

    Returns:
        the sketches, sorted by split (train first) and id, and the planted faults.
    """
    counts = {"train": params.train_images, "test": params.test_images}
    sketches = [
        plan_image(params, split=split, target=target, stream=(seed, number, index))
        for number, (split, count) in enumerate(counts.items())
        for index, target in enumerate(plan_targets(count, params.prevalence))
    ]
    planted = plant_faults(sketches)
    number_images(sketches, seed)
    faults = [
        {"kind": kind, "image_ids": [sketches[i].image_id, sketches[j].image_id], "meaning": meaning}
        for kind, i, j, meaning in planted
    ]
    return sorted(sketches, key=lambda sketch: (sketch.split == "test", sketch.image_id)), faults


def plan_targets(count: int, prevalence: float) -> list[int]:
    """Labels whose first n hold prevalence × n malignant ones, rounded, for every n."""
    edges = [round(prevalence * n) for n in range(count + 1)]
    return [after - before for before, after in pairwise(edges)]


def plan_image(params: Synthetic, *, split: str, target: int, stream: tuple[int, ...]) -> Sketch:
    """Draw clinic, latent malignancy, artefacts and size of one image."""
    rng = open_stream(*stream, 0)
    latent = (1.0 if target else -1.0) + params.overlap * draw_normal(rng)
    position, clinic = rng.random(), 0
    while clinic < 2 and position >= CLINICS[clinic].share[target]:
        position -= CLINICS[clinic].share[target]
        clinic += 1
    home = CLINICS[clinic]
    wide, tall = home.formats[int(rng.random() * len(home.formats))]
    width = int(params.image_width * wide + 0.5)
    chances = [rng.random() < home.artefacts.get(name, (0, 0))[target] for name in ARTEFACTS]
    return Sketch(
        split=split,
        target=target,
        latent=latent,
        clinic=clinic,
        artefacts=tuple(name for name, there in zip(ARTEFACTS, chances, strict=True) if there),
        shape=(int(width * tall + 0.5), width),
        stream=stream,
    )


def open_stream(*key: int) -> np.random.Generator:
    """Random numbers that depend on the key alone."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def plant_faults(sketches: list[Sketch]) -> list[tuple[str, int, int, str]]:
    """Replace three images by copies of others, in place.

    Returns:
        per fault its kind, the position of the image and of its copy, and what it means.
    """
    found = {(split, target): [] for split in ("train", "test") for target in (0, 1)}
    for position, sketch in enumerate(sketches):
        found[sketch.split, sketch.target].append(position)
    benign, malignant, elsewhere = found["train", 0], found["train", 1], found["test", 1]
    if len(benign) < 3 or len(malignant) < 2 or not elsewhere or not found["test", 0]:
        raise DataError(
            "too few images of one class",
            where="data.yaml: synthetic",
            expected="3 benign and 2 malignant training images, 1 and 1 test image, or more",
            do="move prevalence towards 0.5, or draw more images",
        )
    planted = [
        ("duplicate_across_split", malignant[0], elsewhere[0], "the same file in the training and in the test set"),
        ("duplicate_in_train", benign[0], benign[1], "the same file twice in the training set"),
        ("label_flip", benign[2], malignant[1], "the same file under both labels; the second label is wrong"),
    ]
    for _, original, copy in (fault[:3] for fault in planted):
        sketches[copy] = replace(sketches[original], split=sketches[copy].split, target=sketches[copy].target)
    return planted


def number_images(sketches: list[Sketch], seed: int) -> None:
    """Give every image an id of its clinic, drawn without replacement, in place."""
    for number, clinic in enumerate(CLINICS):
        order = np.argsort(open_stream(seed, 2, number).random(len(clinic.ids)), kind="stable").tolist()
        for position, sketch in enumerate(sketches):
            if sketch.clinic == number:
                sketches[position] = replace(sketch, image_id=f"ISIC_{clinic.ids[order.pop()]:07d}")
