"""A notebook's prose: whatever its code does not depend on, headings, paragraphs and comments.

A change of it needs no new run: the executed notebook takes the new words, and keeps every output.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from lesion_utils.fingerprint import digest_bytes, fingerprint_code


def fingerprint_prose(path: Path) -> str:
    """Hash of every cell's words, in order, 16 hexadecimal digits; outputs and the parameters cell do not count.

    Args:
        path: a notebook that `fingerprint.fingerprint_notebook` can read.
    """
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    words = [[cell["cell_type"], _read_source(cell)] for cell in cells if not _has_tag(cell, "parameters")]
    return digest_bytes(json.dumps(words).encode())[:16]


def splice_prose(written: dict[str, Any], executed: dict[str, Any]) -> dict[str, Any] | None:
    """An executed notebook with the words of the one it was made from, as that one stands now.

    Args:
        written: the notebook under `notebooks/`, as JSON.
        executed: what came out of it, as JSON; stays as it is.

    Returns:
        the executed notebook with every cell's text from `written`, and its own outputs, counts and parameters; None
        where their code differs, so that no output stands under code that did not make it.
    """
    ran = [cell for cell in executed["cells"] if _is_own_code(cell)]
    asked = [cell for cell in written["cells"] if _is_own_code(cell)]
    if [_fingerprint(cell) for cell in asked] != [_fingerprint(cell) for cell in ran]:
        return None
    given = [cell for cell in executed["cells"] if _has_tag(cell, "parameters", "injected-parameters")]
    outcomes, known = iter(ran), {cell.get("id"): cell for cell in executed["cells"]}
    cells: list[dict[str, Any]] = []
    for cell in written["cells"]:
        if _is_own_code(cell):
            cells.append({**next(outcomes), **{name: cell[name] for name in ("source", "id") if name in cell}})
        elif _has_tag(cell, "parameters"):
            cells += given
        else:
            notes = known.get(cell.get("id"), {}).get("metadata", {})
            cells.append({**cell, "metadata": {**notes, **cell.get("metadata", {})}})
    return copy.deepcopy({**executed, "cells": cells})


def _is_own_code(cell: dict[str, Any]) -> bool:
    return cell["cell_type"] == "code" and not _has_tag(cell, "parameters", "injected-parameters")


def _has_tag(cell: dict[str, Any], *tags: str) -> bool:
    return not set(tags).isdisjoint(cell.get("metadata", {}).get("tags", []))


def _fingerprint(cell: dict[str, Any]) -> str:
    return fingerprint_code(_read_source(cell))


def _read_source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])
