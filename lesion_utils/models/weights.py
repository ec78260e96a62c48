"""Finds pretrained weights: in WEIGHTS_DIR, in the local Hugging Face cache, then on the hub.

Nothing here needs torch, so that the graph can ask whether the weights changed without loading it.
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from lesion_utils.config.schema import Network
from lesion_utils.core.errors import WeightsError
from lesion_utils.core.paths import weights_dir
from lesion_utils.provenance.outside import HUB_FILE, SUFFIXES, find_local_weights

#: Sizes of the downloads that the project's own studies need, MB.
SIZES = {"resnet50.tv_in1k": 102, "vgg19.tv_in1k": 575}

#: How long the hub may take to answer before it counts as out of reach, seconds.
HUB_PATIENCE = 0.8


@dataclass(frozen=True)
class WeightsSource:
    """A weights file on this machine.

    Attributes:
        name: the tag (`resnet50.tv_in1k`) or the file's name.
        path: the file.
        origin: where it was found.
        revision: commit of the hub's repository, if it came from there.
        sha256: of the file's bytes.
    """

    name: str
    path: Path
    origin: str
    revision: str | None
    sha256: str

    def to_dict(self) -> dict[str, str | int | None]:
        """What a report records; no machine's paths."""
        return {
            "name": self.name,
            "file": self.path.name,
            "origin": self.origin,
            "revision": self.revision,
            "sha256": self.sha256,
            "bytes": self.path.stat().st_size,
        }


def find_weights(params: Network) -> WeightsSource | None:
    """The pretrained weights that `params.weights` names, downloaded if need be.

    Args:
        params: `weights` is "none", "pretrained" (by the backbone's tag) or a file's name.

    Returns:
        The source, or None where `weights` is "none".

    Raises:
        WeightsError: they cannot be had; says what to fetch and where to put it, within about a second.
    """
    if params.weights == "none":
        return None
    if params.weights == "pretrained" and "." not in params.backbone:
        raise WeightsError(
            "the backbone has no tag, so which of its weights are meant is left to timm's release",
            where=params.backbone,
            expected="architecture.tag, for example resnet50.tv_in1k",
            do="add a tag that timm.list_pretrained() gives",
        )
    found = find_local_weights(params)
    if found is None and params.weights == "pretrained":
        _download(params.backbone)
        found = find_local_weights(params)
    if found is None:
        raise _missing_file(params.weights)
    path, origin, revision = found
    stat = path.stat()
    name = params.backbone if params.weights == "pretrained" else path.name
    return WeightsSource(name, path, origin, revision, _hash_file(path, stat.st_size, stat.st_mtime_ns))


def hub_address(tag: str) -> str:
    """Address of a timm tag's weights on the hub."""
    return f"{_endpoint()}/timm/{tag}/resolve/main/{HUB_FILE}"


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _download(tag: str) -> None:
    """Fetch a tag's weights into the Hugging Face cache."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise _missing_tag(tag, "HF_HUB_OFFLINE is set")
    if not _hub_answers():
        raise _missing_tag(tag, f"{urlsplit(_endpoint()).hostname} cannot be reached")
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(f"timm/{tag}", HUB_FILE)
    except Exception as error:  # the hub's client raises a dozen kinds; the remedy is the same
        raise _missing_tag(tag, str(error).splitlines()[0]) from error


def _hub_answers() -> bool:
    """Whether the hub, or the proxy to it, accepts a connection.

    huggingface_hub repeats a failed request for half a minute; and looking up a name can hang, hence the thread.
    """
    address = urlsplit(_endpoint())
    proxy = None if proxy_bypass(address.hostname) else getproxies().get(address.scheme)
    address = urlsplit(proxy or _endpoint())
    answered = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection(
                (address.hostname, address.port or (443 if address.scheme == "https" else 80)), timeout=HUB_PATIENCE
            ).close()
            answered.set()
        except OSError:
            pass

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(HUB_PATIENCE)
    return answered.is_set()


def _missing_tag(tag: str, reason: str) -> WeightsError:
    folder = weights_dir()
    size = f" ({SIZES[tag]} MB)" if tag in SIZES else ""
    return WeightsError(
        f"its pretrained weights are not on this machine, and {reason}",
        where=tag,
        expected=f"{tag}.safetensors{size} in {folder or 'the folder that WEIGHTS_DIR names'}, or a network",
        do=f"fetch {hub_address(tag)}, save it there under that name"
        + ("" if folder else " and set WEIGHTS_DIR")
        + "; or train from scratch only (weights: none, regimes: scratch)",
    )


def _missing_file(name: str) -> WeightsError:
    folder = weights_dir()
    there = sorted(p.name for p in folder.iterdir() if p.suffix in SUFFIXES) if folder and folder.is_dir() else []
    return WeightsError(
        "there is no such weights file",
        where=name,
        expected=f"one of {', '.join(there)} in {folder}" if there else "a file in the folder that WEIGHTS_DIR names",
        do="correct `weights`, or " + ("put the file there" if folder else "set WEIGHTS_DIR to its folder"),
    )


@lru_cache
def _hash_file(path: Path, size: int, mtime: int) -> str:
    """SHA-256 of a file; size and mtime make a changed file a new question."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
