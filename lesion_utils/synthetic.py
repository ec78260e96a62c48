"""The embedded data set: drawn dermoscopy in the challenge's own layout, with a known truth.

What is built in on purpose, and written to `synthetic.json` for whoever wants to check:

- a latent malignancy per image, which decides how the lesion looks. Within a class it is normal with standard deviation
  `overlap`, the classes' means lie 2 apart, so that no reader of the images can be perfect;
- three clinics with their own image ids, formats, colour casts, artefacts and share of melanomas, as in ISIC 2016:
  the id alone predicts the class, and coloured patches are seen on benign lesions only;
- faults: an image in both splits, an image twice in the training set, an image under both labels.

Every image has random numbers of its own, so its pixels do not depend on how many others are drawn; and every byte is
the same on every machine with the locked Pillow (see `lesion_utils.brush`).
"""

from __future__ import annotations

import io
import shutil
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image

from lesion_utils.brush import draw_normal
from lesion_utils.drawing import ARTEFACTS, draw_photograph
from lesion_utils.errors import DataError
from lesion_utils.files import cannot_write, dump_json
from lesion_utils.schema import Synthetic
from lesion_utils.sources import FOLDERS, LABEL_FILES

TRUTH = "synthetic.json"
#: How the challenge writes the classes benign and malignant: words in one file, numbers in the other.
LABELS = {"train": ("benign", "malignant"), "test": ("0.0", "1.0")}


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


def draw_dataset(params: Synthetic, *, seed: int, folder: Path, on_progress=None) -> dict:
    """Draw the embedded data set, unless it is there already.

    The files appear all at once: they are drawn into a folder beside it, which is renamed when it is complete.

    Args:
        params: how many images, of what size, how hard.
        seed: any other gives other images.
        folder: where `ISBI2016_ISIC_Part3_*` and `synthetic.json` will lie.
        on_progress: called with (images drawn, images in all) after each image.

    Returns:
        The content of `synthetic.json`: `params`, `seed`, `images` (per image its id, split, target, latent, clinic and
        artefacts), `faults` (kind, image ids, meaning) and `latent_auc` per split: the area under the curve of
        the latent malignancy itself, which is about the best that can be expected of a network.

    Raises:
        DataError: there are too few images of a class for the planted faults, the folder holds something else, or it
            cannot be written.
    """
    sketches, faults = plan_dataset(params, seed=seed)
    truth = describe_truth(sketches, faults, params=params, seed=seed)
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{partial}.lock"):
            if not is_drawn(folder, truth):
                shutil.rmtree(partial, ignore_errors=True)
                write_dataset(sketches, truth, folder=partial, on_progress=on_progress)
                shutil.rmtree(folder, ignore_errors=True)
                partial.rename(folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return truth


def is_drawn(folder: Path, truth: dict) -> bool:
    """Whether the folder holds this data set, complete.

    Raises:
        DataError: it holds something that this module did not write, and must not replace.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return False
    if not (folder / TRUTH).is_file():
        raise DataError(
            f"the folder is not empty and has no {TRUTH}, so it is not a drawn data set",
            where=folder,
            do="move it away, and the images will be drawn there",
        )
    names = {path.stem for path in folder.glob("ISBI2016_ISIC_Part3_*/*.jpg")}
    same = (folder / TRUTH).read_bytes() == dump_json(truth).encode()
    return same and names == {image["image_id"] for image in truth["images"]}


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
    edges = [int(prevalence * n + 0.5) for n in range(count + 1)]
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
    found = {(split, target): [] for split in LABELS for target in (0, 1)}
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


def describe_truth(sketches: list[Sketch], faults: list[dict], *, params: Synthetic, seed: int) -> dict:
    """What `synthetic.json` says."""
    images = [
        {
            "image_id": sketch.image_id,
            "split": sketch.split,
            "target": sketch.target,
            "latent": sketch.latent,
            "clinic": sketch.clinic,
            "artefacts": list(sketch.artefacts),
        }
        for sketch in sketches
    ]
    auc = {split: compute_latent_auc([s for s in sketches if s.split == split]) for split in LABELS}
    return {"params": params.model_dump(), "seed": seed, "latent_auc": auc, "faults": faults, "images": images}


def compute_latent_auc(sketches: list[Sketch]) -> float:
    """Share of (benign, malignant) pairs that the latent malignancy ranks rightly; a tie counts half."""
    benign, malignant = (np.array([s.latent for s in sketches if s.target == target]) for target in (0, 1))
    right = np.count_nonzero(malignant[:, None] > benign) * 2 + np.count_nonzero(malignant[:, None] == benign)
    return int(right) / (2 * len(benign) * len(malignant))


def encode_image(sketch: Sketch) -> bytes:
    """Draw the photograph and encode it as JPEG."""
    pixels = draw_photograph(
        open_stream(*sketch.stream, 1),
        min(1.0, max(0.0, 0.5 + sketch.latent / 4.4)),
        artefacts=sketch.artefacts,
        cast=CLINICS[sketch.clinic].cast,
        shape=sketch.shape,
    )
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90, subsampling=0)
    return file.getvalue()


def write_dataset(sketches: list[Sketch], truth: dict, *, folder: Path, on_progress=None) -> None:
    """Write images and labels in the challenge's layout (label files: no header, CRLF), and the truth last."""
    for name in FOLDERS.values():
        (folder / name).mkdir(parents=True)
    for done, sketch in enumerate(sketches, start=1):
        (folder / FOLDERS[sketch.split] / f"{sketch.image_id}.jpg").write_bytes(encode_image(sketch))
        if on_progress:
            on_progress(done, len(sketches))
    for split, words in LABELS.items():
        lines = [f"{s.image_id},{words[s.target]}\r\n" for s in sketches if s.split == split]
        (folder / LABEL_FILES[split]).write_bytes("".join(lines).encode())
    (folder / TRUTH).write_text(dump_json(truth), "utf-8", newline="\n")
