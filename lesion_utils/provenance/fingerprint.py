"""Fingerprints of notebooks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lesion_utils.core.errors import RunError
from lesion_utils.core.files import digest_bytes


def fingerprint_notebook(path: Path) -> str:
    """Hash of a notebook's cells, words and code alike; outputs and the parameters cell do not count.

    Raises:
        RunError: the file cannot be read as a notebook.
    """
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in _read_cells(path)]
    return digest_bytes(json.dumps(cells).encode())[:16]


def read_code(path: Path) -> str:
    """The code of a notebook's cells; IPython's own commands (`%time`, `!ls`) are left out.

    Raises:
        RunError: the file cannot be read as a notebook.
    """
    sources = ("".join(cell["source"]) for cell in _read_cells(path) if cell["cell_type"] == "code")
    lines = (line for source in sources for line in source.splitlines())
    return "\n".join(line for line in lines if not line.startswith(("%", "!")))


def _read_cells(path: Path) -> list[dict[str, Any]]:
    """A notebook's cells except the one tagged `parameters`, which every run replaces."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (OSError, json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise RunError(
            f"cannot be read as a notebook ({type(error).__name__})",
            where=f"notebooks/{path.name}",
            do=f"restore it: git checkout -- notebooks/{path.name}",
        ) from None
    return [cell for cell in cells if "parameters" not in cell.get("metadata", {}).get("tags", [])]
