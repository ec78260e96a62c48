"""Where a study's images come from, and whether they changed: quick questions that need no heavy library."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from lesion_utils import paths
from lesion_utils.fingerprint import PACKAGE, fingerprint_modules
from lesion_utils.schema import Data

#: The challenge's own names: per split its folder of images and its file of labels.
FOLDERS = {"train": "ISBI2016_ISIC_Part3_Training_Data", "test": "ISBI2016_ISIC_Part3_Test_Data"}
LABEL_FILES = {split: folder.replace("_Data", "_GroundTruth.csv") for split, folder in FOLDERS.items()}
#: Optional, beside them: sizes and hashes of the originals, where the images are resized copies.
MANIFEST = "manifest.csv"

#: Modules that describe the project but draw nothing.
_DRAW_NOTHING = {f"{PACKAGE}/{name}.py" for name in ("__init__", "errors", "files", "paths", "schema", "sources")}


def source_dir(params: Data) -> Path:
    """The folder of the study's images: the challenge's, or a drawn one named after what decides its content."""
    if params.source == "isic2016":
        return paths.data_dir()
    return paths.synthetic_dir() / drawing_key(params)


def drawing_key(params: Data) -> str:
    """Name of a drawn data set: a hash of its settings, its seed and the code that draws it."""
    code = {name: key for name, key in fingerprint_modules(["synthetic"]).items() if name not in _DRAW_NOTHING}
    settings = [params.synthetic.model_dump(mode="json"), params.seed, code]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def fingerprint_source(params: Data) -> str:
    """A hash that changes when the study's images may have changed; takes milliseconds.

    A drawn data set is its settings and its code. The challenge's files are known by name, size and time of their
    last change; a folder that is not there yet has a fingerprint too.
    """
    if params.source == "synthetic":
        return drawing_key(params)
    folder = paths.data_dir()
    names = sorted([*FOLDERS.values(), *LABEL_FILES.values(), MANIFEST])
    entries = [line for name in names for line in _stat_lines(folder / name)]
    return hashlib.sha256("\n".join(entries).encode()).hexdigest()[:16]


def _stat_lines(path: Path) -> list[str]:
    """One line per file in a folder, or for the file itself: name, size, time of the last change."""
    if not path.exists():
        return [f"{path.name} absent"]
    if not path.is_dir():
        return [f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}"]
    with os.scandir(path) as files:
        return sorted(
            f"{path.name}/{f.name} {(s := f.stat()).st_size} {s.st_mtime_ns}" for f in files if f.name.endswith(".jpg")
        )
