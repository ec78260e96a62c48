"""Writing files so that a reader never sees half of one, and an unchanged one keeps its date."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from lesion_utils.core.errors import DataError


def write_atomic(path: Path, content: str | bytes, *, modified: float | None = None) -> None:
    """Write `content` to `path` in one step: whoever reads sees the old file or the new one, never a part.

    Args:
        modified: the time that the file gets, in seconds since 1970; None for now.

    Raises:
        DataError: the disk is full or the folder is not writable.
    """
    raw = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        if modified is not None:
            os.utime(temporary, (modified, modified))
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def remove_halves(folder: Path) -> None:
    """Remove, anywhere under a folder, what `write_atomic` had begun to write when its process was killed."""
    for path in folder.rglob(".*.*"):
        process = path.name.rpartition(".")[2]
        if process.isdigit() and not _is_alive(int(process)):
            path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return True


def digest_bytes(raw: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(raw).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_if_changed(path: Path, content: str | bytes) -> bool:
    """Write `content` to `path` unless it is there already, so that what depends on the file stays up to date.

    Returns:
        whether the file was written.
    """
    raw = content.encode() if isinstance(content, str) else content
    if path.is_file() and path.read_bytes() == raw:
        return False
    write_atomic(path, raw)
    return True


def dump_json(value: object) -> str:
    """JSON as every file of the project has it: indented, keys in order, one final line feed."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path) -> dict[str, Any] | None:
    """The mapping in a JSON file; None if the file is missing, cut short or holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Hold a lock that only one run has at a time; the others wait.

    Raises:
        DataError: the folder is not writable.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield
    finally:
        lock.release()


def cannot_write(path: Path, error: OSError) -> DataError:
    """The error for a file that could not be written: a full disk and a read-only folder say so."""
    return DataError(
        f"cannot write: {error.strerror or error}",
        where=path,
        expected="a folder that may be written to, with enough free space",
        do="free some space, change the folder's permissions, or choose another place (LESION_CACHE, REPORTS_DIR)",
    )
