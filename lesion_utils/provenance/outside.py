"""Files outside the project: where a study's images and weights are, and whether they changed.

Quick questions that need no heavy library.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from lesion_utils.config.schema import Data, Network
from lesion_utils.core import paths
from lesion_utils.provenance.fingerprint import PACKAGE, fingerprint_modules

#: The challenge's own names: per split its folder of images and its file of labels.
FOLDERS = {"train": "ISBI2016_ISIC_Part3_Training_Data", "test": "ISBI2016_ISIC_Part3_Test_Data"}
LABEL_FILES = {split: folder.replace("_Data", "_GroundTruth.csv") for split, folder in FOLDERS.items()}
#: Optional, beside them: sizes and hashes of the originals, where the images are resized copies.
MANIFEST = "manifest.csv"

#: What a weights file may be called, and its name on the hub.
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
HUB_FILE = "model.safetensors"


@dataclass(frozen=True)
class Pin:
    """The one file that a tag means: the commit of its repository on the hub, and the SHA-256 of its bytes."""

    revision: str
    sha256: str


#: Tags whose file is known beforehand. Any other is pinned when it is first used, in `pin_path`.
PINNED = {
    "resnet50.tv_in1k": Pin(
        "78f3ecfdb38e06d9b8397f662e7ab8fee96026fa", "5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888"
    ),
}

#: Rooms whose modules the drawing imports and which draw nothing.
_DRAW_NOTHING = tuple(f"{PACKAGE}/{room}/" for room in ("core", "config", "provenance"))


def source_dir(params: Data) -> Path:
    """The folder of the study's images: the challenge's, or a drawn one named after what decides its content."""
    if params.source == "isic2016":
        return paths.data_dir()
    return paths.synthetic_dir() / drawing_key(params)


def drawing_key(params: Data) -> str:
    """Name of a drawn data set: a hash of its settings, its seed and the code that draws it."""
    modules = fingerprint_modules(["data.synthetic"])
    code = {name: key for name, key in modules.items() if not name.startswith(_DRAW_NOTHING)}
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


def fingerprint_weights(params: Network) -> dict[str, str | int]:
    """A cheap sign of whether the weights are the same as before: no hashing, no network.

    Returns:
        `name` and `state` ("none", "not local" or "local"); where local also `size` (bytes) and `mtime` (ns).
    """
    if params.weights == "none":
        return {"name": "none", "state": "none"}
    name = params.backbone if params.weights == "pretrained" else params.weights
    found = find_local_weights(params)
    if found is None:
        return {"name": name, "state": "not local"}
    stat = found[0].stat()
    return {"name": name, "state": "local", "size": stat.st_size, "mtime": stat.st_mtime_ns}


def find_local_weights(params: Network) -> tuple[Path, str, str | None] | None:
    """File, origin and revision of the weights that a network asks for; None where they are not on this machine."""
    folder = paths.weights_dir()
    if params.weights != "pretrained":
        path = Path(params.weights).expanduser()
        path = folder / path if folder and not path.is_absolute() else path
        return (path.resolve(), "file", None) if path.is_file() else None
    for suffix in SUFFIXES if folder else ():
        path = folder / f"{params.backbone}{suffix}"
        if path.is_file():
            return path, "WEIGHTS_DIR", None
    repository, pin = hub_folder(params.backbone), read_pin(params.backbone)
    reference = repository / "refs" / "main"
    revisions = [pin.revision] if pin else []
    revisions += [reference.read_text().strip()] if reference.is_file() else []
    for revision in revisions:  # another commit may hold the very same file: what counts is its hash
        path = repository / "snapshots" / revision / HUB_FILE
        if path.is_file():
            return path, "hub", revision
    return None


def read_pin(tag: str) -> Pin | None:
    """The file that a tag means on this machine; None before its first use."""
    if tag in PINNED:
        return PINNED[tag]
    try:
        return Pin(**json.loads(pin_path(tag).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def pin_path(tag: str) -> Path:
    """Where a tag is pinned at its first use: beside the weights."""
    return hub_folder(tag) / "pin.json"


def hub_folder(tag: str) -> Path:
    """Where huggingface_hub keeps a tag's repository."""
    return hub_cache() / f"models--timm--{tag}"


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


def hub_cache() -> Path:
    """Where huggingface_hub keeps its files; read from the same variables, without its second of import."""
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(home).expanduser() / "hub"
