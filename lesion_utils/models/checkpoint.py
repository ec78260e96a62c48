"""Checkpoints: written whole or not at all, read as tensors and plain values only, refused if another run's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lesion_utils.core.errors import CheckpointError
from lesion_utils.core.files import cannot_write, open_atomic

#: Raised when the same training gives a checkpoint of another layout.
FORMAT = 1


def save_checkpoint(path: Path, content: Mapping[str, Any], *, identity: Mapping[str, Any]) -> None:
    """Write a checkpoint in one step: a kill leaves the old file or the new one. Equal content gives equal bytes.

    Args:
        path: the file.
        content: tensors, numbers, text, and mappings and lists of them.
        identity: what the run depends on; `load_checkpoint` compares it.

    Raises:
        DataError: the disk is full or the folder is not writable.
    """
    try:
        with open_atomic(path) as file:
            torch.save({"format": FORMAT, "identity": dict(identity), **content}, file)
    except RuntimeError as error:  # torch's zip writer turns a full disk into one
        cause = error.__context__
        known = cause if isinstance(cause, OSError) else OSError(0, str(error).splitlines()[0])
        raise cannot_write(path, known) from error


def load_checkpoint(path: Path, *, identity: Mapping[str, Any] | None = None, device: str = "cpu") -> dict[str, Any]:
    """Read a checkpoint; no code in it is run.

    Args:
        path: the file.
        identity: of the run that wants to go on from it; None reads any.
        device: where its tensors go.

    Raises:
        CheckpointError: it is missing or damaged, or belongs to other parameters; then the first that differs is named.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError("there is no such checkpoint", where=path, do="train first") from error
    except Exception as error:  # a damaged archive raises a dozen kinds; the remedy is the same
        raise CheckpointError("the checkpoint is damaged", where=path, do="delete it and train again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError("this is not a checkpoint of this version", where=path, do="delete it and train again")
    if identity is not None:
        _check_identity(content["identity"], identity, path)
    return content


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping with one dotted key per value: {"optim": {"lr": 1}} is {"optim.lr": 1}."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _check_identity(saved: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    saved, wanted = flatten(saved), flatten(wanted)
    for key in sorted(saved.keys() | wanted.keys()):
        if saved.get(key) != wanted.get(key):
            raise CheckpointError(
                f"the checkpoint was made with {key} = {saved.get(key)!r}, this run has {wanted.get(key)!r}",
                where=path,
                expected="a checkpoint of the same parameters, data and weights",
                do="set it back, or delete the run's folder and train again",
            )
