"""Fingerprints of code: what a change has to touch before a step of the study runs again.

Comments, docstrings, blank lines and the way lines are wrapped change nothing.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from lesion_utils.core.errors import RunError

PACKAGE = "lesion_utils"
_FOLDER = Path(__file__).resolve().parents[1]
_parsing = Lock()  # Python 3.11 takes two threads' depths for one if a collection of garbage lets the other go on


def digest_bytes(raw: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(raw).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint_tree(tree: ast.Module) -> str:
    """Hash of what a piece of Python does, 16 hexadecimal digits; takes its docstrings away."""
    return digest_bytes(_spell(_drop_docstrings(tree)).encode())[:16]


def fingerprint_modules(entry: Iterable[str]) -> dict[str, str]:
    """Fingerprint of each module of this package that the given ones import, directly or not, with themselves.

    Files that are not Python (templates, tables) count where a module names them, or their folder, in a string.

    Args:
        entry: names such as "training.train" or "figures.style".

    Returns:
        path (`lesion_utils/training/fit.py`, `lesion_utils/templates/base.html.j2`) to fingerprint, in order.
    """
    found: dict[str, str] = {}
    waiting = ["", *entry]
    seen = set()
    while waiting:
        name = waiting.pop()
        path = _find_module(name)
        if name in seen or path is None:
            continue
        seen.add(name)
        fingerprint, imported, data_files = _read_module(path)
        found[f"{PACKAGE}/{path.relative_to(_FOLDER).as_posix()}"] = fingerprint
        found |= {f"{PACKAGE}/{file}": digest_file(_FOLDER / file)[:16] for file in data_files}
        waiting += [*imported, *_list_parents(name)]
    return dict(sorted(found.items()))


def fingerprint_notebook(path: Path) -> str:
    """Hash of a notebook's cells, words and code alike; outputs and the parameters cell do not count."""
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in _read_cells(path)]
    return digest_bytes(json.dumps(cells).encode())[:16]


def list_notebook_modules(path: Path) -> list[str]:
    """Modules of this package that a notebook's code cells import, sorted.

    Raises:
        RunError: the notebook is missing, or is not one.
    """
    sources = ("".join(cell["source"]) for cell in _read_cells(path) if cell["cell_type"] == "code")
    return sorted({name for source in sources for name in list_imports(source)})


def _read_cells(path: Path) -> list[dict[str, Any]]:
    """A notebook's cells but for the one tagged `parameters`, which every run replaces."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (OSError, json.JSONDecodeError, KeyError) as error:
        raise RunError(
            f"cannot be read as a notebook ({type(error).__name__})",
            where=f"notebooks/{path.name}",
            do=f"restore it: git checkout -- notebooks/{path.name}",
        ) from None
    return [cell for cell in cells if "parameters" not in cell.get("metadata", {}).get("tags", [])]


def list_imports(source: str) -> set[str]:
    """Names, inside this package, that a piece of Python imports anywhere; "" stands for the package itself."""
    try:
        return set(_walk_imports(parse(source)))
    except SyntaxError:
        return set()


@cache
def _read_module(path: Path) -> tuple[str, frozenset[str], frozenset[str]]:
    """A module's fingerprint, the modules of this package that it imports, and the data files that it names."""
    tree = parse(path.read_text(encoding="utf-8"))
    return fingerprint_tree(tree), frozenset(_walk_imports(tree)), frozenset(_walk_data_files(tree))


def _walk_imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name.removeprefix(PACKAGE).lstrip(".") for name in names if f"{name}.".startswith(f"{PACKAGE}."))


def _walk_data_files(tree: ast.AST) -> Iterator[str]:
    known = _list_data_files()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in known:
            yield from known[node.value]


@cache
def _list_data_files() -> dict[str, list[str]]:
    """Data files of the package by what a module may call them: path, plain name, or a folder that is no room."""
    names: dict[str, list[str]] = {}
    for path in sorted(_FOLDER.rglob("*.*")):
        if path.suffix in {".py", ".pyc"} or not path.is_file():
            continue
        relative = path.relative_to(_FOLDER)
        folders = {part.name for part in relative.parents if not (_FOLDER / part / "__init__.py").is_file()}
        for name in {relative.as_posix(), relative.name, *folders}:
            names.setdefault(name, []).append(relative.as_posix())
    return names


def _find_module(name: str) -> Path | None:
    """The file of a module of this package; None for a name that is a function or class of one."""
    base = _FOLDER.joinpath(*name.split(".")) if name else _FOLDER
    candidates = (base / "__init__.py", base.parent / f"{base.name}.py")
    return next((path for path in candidates if path.is_file() and path.is_relative_to(_FOLDER)), None)


def _list_parents(name: str) -> list[str]:
    """Importing `figures.style` runs `figures` first."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


def parse(source: str) -> ast.Module:
    """The syntax tree; several threads may ask at once.

    Raises:
        SyntaxError: it is no Python.
    """
    with _parsing:
        return ast.parse(source)


def _drop_docstrings(tree: ast.Module) -> ast.Module:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return tree


def _spell(node: object) -> str:
    """The tree as text, the same on every Python: empty fields are left out, since each release adds some."""
    if isinstance(node, ast.AST):
        fields = (f"{key}={_spell(value)}" for key, value in ast.iter_fields(node) if value is not None and value != [])
        return f"{type(node).__name__}({','.join(fields)})"
    if isinstance(node, list):
        return f"[{','.join(map(_spell, node))}]"
    return repr(node)
