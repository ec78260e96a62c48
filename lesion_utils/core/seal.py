"""Sealed records: JSON files that hold a hash of their own content, so that an edit of the file shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lesion_utils.core.files import digest_bytes, dump_json


def seal_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Add the field `seal`, a hash of all other fields."""
    rest = {key: value for key, value in record.items() if key != "seal"}
    return {**rest, "seal": digest_bytes(dump_json(rest).encode())}


def read_sealed(path: Path) -> tuple[dict[str, Any] | None, str]:
    """Read a sealed record.

    Returns:
        record: None if the file is missing or holds no JSON mapping.
        problem: what is wrong with it, "" if it is as it was written.
    """
    try:
        text = path.read_text(encoding="utf-8")
        record = json.loads(text)
        if not isinstance(record, dict):
            return None, "the record cannot be read"
        intact = dump_json(seal_record(record)) == text
    except FileNotFoundError:
        return None, "there is no record"
    except (OSError, ValueError, RecursionError):
        return None, "the record cannot be read"
    return record, "" if intact else "the record is not as it was written"
