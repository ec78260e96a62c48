"""The embedded data set: drawn dermoscopy in the challenge's own layout, with a known truth.

What is built in on purpose, and written to `synthetic.json` for whoever wants to check:

- a latent malignancy per image, which decides how the lesion looks. Within a class it is normal with standard deviation
  `overlap`, the classes' means lie 2 apart, so that no reader of the images can be perfect;
- three clinics with their own image ids, formats, colour casts, artefacts and share of melanomas, as in ISIC 2016:
  the id alone predicts the class, and coloured patches are seen on benign lesions only;
- faults: an image in both splits, an image twice in the training set, an image under both labels.

Every image has random numbers of its own, so its pixels do not depend on how many others are drawn; and every byte is
the same on every machine with the locked Pillow (see `lesion_utils.data.brush`).
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image

from lesion_utils.config.schema import Synthetic
from lesion_utils.core.errors import DataError
from lesion_utils.core.files import cannot_write, dump_json
from lesion_utils.data.drawing import draw_photograph
from lesion_utils.data.sketch import CLINICS, Sketch, open_stream, plan_dataset
from lesion_utils.provenance.outside import FOLDERS, LABEL_FILES

TRUTH = "synthetic.json"
#: How the challenge writes the classes benign and malignant: words in one file, numbers in the other.
LABELS = {"train": ("benign", "malignant"), "test": ("0.0", "1.0")}


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
