"""Reading the challenge's files: images and labels become one table, or every problem is named.

Labels are words in the training file, and `0.0` and `1.0` in the test file; `data/labels.py` reads both.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

import pandas as pd

from lesion_utils.core.errors import DataError
from lesion_utils.data.labels import read_labels

SPLITS = ("train", "test")
#: The challenge's own names: per split its folder of images and its file of labels.
FOLDERS = {"train": "ISBI2016_ISIC_Part3_Training_Data", "test": "ISBI2016_ISIC_Part3_Test_Data"}
LABEL_FILES = {split: folder.replace("_Data", "_GroundTruth.csv") for split, folder in FOLDERS.items()}
#: Optional, beside them: sizes and hashes of the originals, where the images are resized copies.
MANIFEST = "manifest.csv"
#: Images per split and class (benign, malignant) as the challenge states them.
CHALLENGE_COUNTS = {"train": (727, 173), "test": (304, 75)}

Counts = dict[str, tuple[int, int]]
Folder = Path | zipfile.Path

#: JPEG, as the challenge has them, or WebP, as the embedded copies are.
_SUFFIXES = {".jpg", ".webp"}


def scan_dataset(root: Folder, *, counts: Counts | None, problems: list[str], notes: list[str]) -> pd.DataFrame:
    """Read the table of images and labels from a folder in the challenge's layout.

    Args:
        root: folder that holds `ISBI2016_ISIC_Part3_{Training,Test}_Data/` and the two label files.
        counts: images per split and class (benign, malignant) to insist on; None accepts any.
        problems: receives a sentence for each: unreadable labels, ids twice, images without label, labels without
            image, wrong counts.
        notes: receives a sentence for each oddity that is tolerated.

    Returns:
        one row per sound image: `image_id` (ISIC_xxxxxxx), `split` (train, test), `target` (0 benign, 1 malignant),
        `path`; the training images first, then by id.
    """
    rows = [row for split in SPLITS for row in _scan_split(root, split, problems, notes)]
    table = pd.DataFrame(rows, columns=["image_id", "split", "target", "path"])
    twice = table.image_id[table.image_id.duplicated()]
    problems += [f"{image_id}: is in the training and in the test set" for image_id in twice]
    for split, expected in (counts or {}).items() if not problems else ():  # news only where all else is right
        targets = table.target[table.split == split]
        found = (int((targets == 0).sum()), int((targets == 1).sum()))
        if found != expected:
            problems.append(
                f"{LABEL_FILES[split]}: {found[0]} benign and {found[1]} malignant images with a label and a file, "
                f"expected {expected[0]} and {expected[1]}"
            )
    return table


def raise_problems(problems: list[str], root: Folder) -> None:
    """Raise one error that lists all problems of the challenge's files, if there are any."""
    if problems:
        some = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise DataError(
            f"{some} in the data:\n" + "\n".join(f"  - {problem}" for problem in problems),
            where=root,
            expected="the challenge's layout: "
            + ", ".join([*(f"{folder}/ISIC_xxxxxxx.jpg" for folder in FOLDERS.values()), *LABEL_FILES.values()]),
            do="put the challenge's own files in place, or set DATA_DIR to a folder that has them",
        )


def _scan_split(root: Folder, split: str, problems: list[str], notes: list[str]) -> list[tuple[str, str, int, Folder]]:
    """Match the labels of one split with its images."""
    labels = read_labels(root / LABEL_FILES[split], problems=problems, notes=notes, isic_ids=True)
    folder = root / FOLDERS[split]
    if not folder.is_dir():
        problems.append(f"{FOLDERS[split]}: this folder of images is missing")
        return []
    images = {path.stem: path for path in folder.iterdir() if path.suffix in _SUFFIXES}
    others = Counter(path.suffix or path.name for path in folder.iterdir() if path.suffix not in _SUFFIXES)
    if others:
        named = ", ".join(f"{count} x {suffix}" for suffix, count in sorted(others.items()))
        notes.append(f"{folder.name}: left aside what is neither .jpg nor .webp ({named})")
    for image_id in sorted(images.keys() - labels.keys()):
        problems.append(f"{folder.name}/{images[image_id].name}: image without a label in {LABEL_FILES[split]}")
    for image_id in sorted(labels.keys() - images.keys()):
        line = labels[image_id].line
        problems.append(f"{LABEL_FILES[split]}:{line}: {image_id} has no image in {folder.name}")
    both = [(image_id, labels[image_id].target) for image_id in sorted(labels.keys() & images.keys())]
    return [(image_id, split, target, images[image_id]) for image_id, target in both if target is not None]
