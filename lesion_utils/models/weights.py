"""Finds pretrained weights: in WEIGHTS_DIR, in the local Hugging Face cache, then on the hub.

Nothing here needs torch, so that the graph can ask whether the weights changed without loading it.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from lesion_utils.config.schema import Network
from lesion_utils.config.sources import (
    HUB_FILE,
    PINNED,
    SUFFIXES,
    Pin,
    find_local_weights,
    hub_cache,
    hub_folder,
    pin_path,
    read_pin,
)
from lesion_utils.core.errors import LesionError, WeightsError
from lesion_utils.core.files import digest_file, dump_json, write_atomic
from lesion_utils.core.paths import weights_dir
from lesion_utils.models.licences import find_licence

#: Sizes of the downloads that the project's own studies need, MB.
SIZES = {"resnet50.tv_in1k": 102, "vgg19.tv_in1k": 575}

#: How long the hub may take to answer, seconds. Generous: a slow network must not decide which regimes a study has.
HUB_PATIENCE = 30.0


@dataclass(frozen=True)
class WeightsSource:
    """A weights file on this machine.

    Attributes:
        name: the tag (`resnet50.tv_in1k`) or the file's name.
        path: the file.
        origin: where it was found: "WEIGHTS_DIR", "hub" (its client's cache), or "file" (named by a person).
        revision: commit of the hub's repository, if it came from there.
        sha256: of the file's bytes.
    """

    name: str
    path: Path
    origin: str
    revision: str | None
    sha256: str

    @property
    def pinned(self) -> str | None:
        """Who says that it is this file: "by the project", "at first use", or None where nothing is pinned."""
        if self.origin != "hub" or (pin := read_pin(self.name)) is None or pin.sha256 != self.sha256:
            return None
        return "by the project" if self.name in PINNED else "at first use"

    def to_dict(self) -> dict[str, str | int | None]:
        """What a report records; no machine's paths."""
        licence = find_licence(self.name, self.origin, self.sha256)
        return {
            "name": self.name,
            "file": self.path.name,
            "origin": self.origin,
            "revision": self.revision,
            "sha256": self.sha256,
            "bytes": self.path.stat().st_size,
            "pinned": self.pinned,
            "licence": licence.name if licence else None,
        }


def find_weights(params: Network) -> WeightsSource | None:
    """The pretrained weights that `params.weights` names, downloaded if need be.

    Weights of a tag are the same file for ever: the one that the project has pinned, or the one that was pinned when
    the tag was first used on this machine (`pin.json` beside it).

    Args:
        params: `weights` is "none", "pretrained" (by the backbone's tag) or a file's name.

    Returns:
        The source, or None where `weights` is "none".

    Raises:
        WeightsError: they cannot be had, or are not those that are pinned; says what to fetch and where to put it.
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
    name = params.backbone if params.weights == "pretrained" else path.name
    source = WeightsSource(name, path, origin, revision, _hash_file(path, path.stat().st_size, path.stat().st_mtime_ns))
    if revision is not None:
        _check_pin(source, revision)
    return source


def offline_variable() -> str | None:
    """The variable by which a person asked that the network be left alone; None where it may be used."""
    names = ("OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return next((name for name in names if os.environ.get(name, "").strip().upper() not in _NO), None)


_NO = {"", "0", "NO", "OFF", "FALSE"}


def hub_address(tag: str) -> str:
    """Address of a timm tag's weights on the hub."""
    pin = read_pin(tag)
    return f"{hub_endpoint()}/timm/{tag}/resolve/{pin.revision if pin else 'main'}/{HUB_FILE}"


def hub_endpoint() -> str:
    """Address of the hub, or of the mirror that HF_ENDPOINT names."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _download(tag: str) -> None:
    """Fetch a tag's weights into the Hugging Face cache, and pin them.

    The first question is asked once, so that a machine without a network hears of it at once; the client goes on by
    itself where the line breaks during the download.
    """
    if variable := offline_variable():
        raise _missing_tag(tag, f"{variable} is set")
    from huggingface_hub import get_hf_file_metadata, hf_hub_download

    try:
        facts = get_hf_file_metadata(hub_address(tag), timeout=HUB_PATIENCE, endpoint=hub_endpoint())
        path = Path(
            hf_hub_download(
                f"timm/{tag}", HUB_FILE, revision=facts.commit_hash, cache_dir=hub_cache(), endpoint=hub_endpoint(),
                etag_timeout=HUB_PATIENCE,
            )
        )  # fmt: skip
    except Exception as error:  # the hub's client raises a dozen kinds; the remedy is the same
        raise _missing_tag(tag, _explain(error)) from error
    found, announced = digest_file(path), facts.etag if len(facts.etag or "") == 64 else None
    assert facts.commit_hash is not None  # the client takes nothing from an address without one
    pin = read_pin(tag) or Pin(facts.commit_hash, announced or found)
    if found != pin.sha256 or announced not in (found, None):
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise _not_pinned(tag, found, pin.sha256, "try again; the file was removed")
    write_atomic(pin_path(tag), dump_json(asdict(pin)))


def _explain(error: Exception) -> str:
    """Why the hub gave nothing, in a phrase."""
    told = " ".join(str(error).split()).partition(" For more")[0][:300]
    slow = f", although it was given {HUB_PATIENCE:.0f} s" if "Timeout" in type(error).__name__ else ""
    return f"{hub_endpoint()} does not give them{slow} ({type(error).__name__}{': ' * bool(told)}{told})"


def _check_pin(source: WeightsSource, revision: str) -> None:
    """Compare a file of the hub with its pin; one that nobody has pinned is pinned now."""
    pin = read_pin(source.name)
    if pin is None:
        with contextlib.suppress(LesionError):  # a cache for reading only: the run's record holds both all the same
            write_atomic(pin_path(source.name), dump_json(asdict(Pin(revision, source.sha256))))
    elif pin.sha256 != source.sha256:
        folder = hub_folder(source.name)
        raise _not_pinned(source.name, source.sha256, pin.sha256, f"delete {folder}, and it is fetched again")


def _not_pinned(tag: str, found: str, expected: str, do: str) -> WeightsError:
    return WeightsError(
        f"the file is damaged, or not the one that this tag means: its SHA-256 is {found}",
        where=f"{tag}, {HUB_FILE}",
        expected=f"SHA-256 {expected}",
        do=do,
    )


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
    return digest_file(path)
