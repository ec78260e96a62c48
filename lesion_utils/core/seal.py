"""Sealed records: JSON files that hold a hash of their own content, so that an edit of the file shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lesion_utils.core.files import digest_bytes, dump_json


class Output(BaseModel, strict=True):
    """A file as a record lists it: its path in the report and its SHA-256."""

    path: str
    sha256: str


class Record(BaseModel, strict=True):
    """The shape of a sealed record, as far as readers depend on it: a `run.json`, a step's mark, a run's `DONE`.

    Each kind has some of these fields; a field that is there has this type.
    """

    run_id: str = ""
    step: str = ""
    title: str | None = None
    status: str = ""
    started: str = ""
    ended: str = ""
    wall_seconds: float = 0
    peak_memory_bytes: int = 0
    commit: str | None = None
    dirty_hash: str | None = None
    lock_hash: str = ""
    params: dict[str, dict[str, Any]] = {}
    code: dict[str, str] = {}
    notebook: str | None = None
    packages: dict[str, str] = {}
    inputs: dict[str, str] = {}
    data: dict[str, Any] | str | None = None  # facts in a `run.json`, a fingerprint in a mark
    weights: dict[str, Any] | None = None
    outputs: list[Output] = []
    runs: dict[str, str] = {}
    seeds: dict[str, Any] = {}
    device: dict[str, Any] = {}
    determinism: dict[str, Any] = {}
    files: dict[str, str] = {}


def seal_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Add the field `seal`, a hash of all other fields."""
    rest = {key: value for key, value in record.items() if key != "seal"}
    return {**rest, "seal": digest_bytes(dump_json(rest).encode())}


def read_sealed(path: Path) -> tuple[dict[str, Any] | None, str]:
    """Read a sealed record.

    Returns:
        record: None if the file is missing, or is not a record of the shape of `Record`.
        problem: what is wrong with it, "" if it is as it was written.
    """
    try:
        text = path.read_text(encoding="utf-8")
        record = json.loads(text)
        Record.model_validate(record)
        intact = dump_json(seal_record(record)) == text
    except FileNotFoundError:
        return None, "there is no record"
    except (OSError, ValueError, RecursionError):  # pydantic's error is a ValueError
        return None, "the record cannot be read"
    return record, "" if intact else "the record is not as it was written"


def load_sealed(path: Path) -> dict[str, Any] | None:
    """A sealed record that is as it was written; None otherwise."""
    record, problem = read_sealed(path)
    return None if problem else record
