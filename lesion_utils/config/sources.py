"""Files outside the project: where a study's images and weights are, and whether they changed.

Quick questions that need no heavy library.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lesion_utils.config.data import Data
from lesion_utils.config.schema import Network
from lesion_utils.core import paths

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


def fingerprint_source(params: Data) -> str | None:
    """A hash that changes when the study's images may have changed; takes milliseconds.

    Images and tables below `DATA_DIR`, or of one's own, are known by name, size and time of their last change; a folder
    that is not there yet has a fingerprint too. Embedded images need none: they count with the code that names them.
    """
    entries: list[str] = []
    if params.source == "isic2016":
        root = paths.data_dir()
        files = (path for pattern in ("*", "*/*") for path in root.glob(pattern) if path.suffix in (".jpg", ".csv"))
        entries += _stat_files(files, root)
    own = [(params.images, params.labels)] if params.images and params.labels else []
    for images, labels in (*own, *((place.images, place.labels) for place in params.external.values())):
        folder, table = paths.find_own(images), paths.find_own(labels)
        entries += [*_stat_files(folder.rglob("*"), folder), *_stat_files([table], table)]
    if params.source == "embedded" and not entries:
        return None
    return hashlib.sha256("\n".join(entries).encode()).hexdigest()[:16]


def _stat_files(files: Iterable[Path], folder: Path) -> list[str]:
    """One line for each file: its name within a folder, size, time of the last change."""
    stats = [(path.relative_to(folder).as_posix(), path.stat()) for path in sorted(files) if path.is_file()]
    return [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats]


def fingerprint_weights(params: Network) -> dict[str, str | int]:
    """A cheap sign of whether the weights are the same as before: no hashing, no network.

    Returns:
        `name` and `state` ("none", "not local" or "local"); where local also `size` (bytes) and `mtime` (ns).
    """
    if params.weights == "none":
        return {"name": "none", "state": "none"}
    name = params.backbone if params.weights == "pretrained" else Path(params.weights).name
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
    for path in [folder / f"{params.backbone}{suffix}" for suffix in SUFFIXES] if folder else []:
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


def hub_cache() -> Path:
    """Where huggingface_hub keeps its files; read from the same variables, without its second of import."""
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(home).expanduser() / "hub"
