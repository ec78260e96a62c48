"""Writing files so that a reader never sees half of one, and an unchanged one keeps its date."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock

from lesion_utils.core.errors import DataError


def write_atomic(path: Path, content: str | bytes, *, modified: float | None = None) -> None:
    """Write `content` to `path` in one step: a reader sees the old file or the new one, never a part.

    Args:
        modified: the time that the file gets, in seconds since 1970; None for now.

    Raises:
        DataError: the disk is full or the folder is not writable.
    """
    raw = content.encode() if isinstance(content, str) else content
    with open_atomic(path, modified=modified, size=len(raw)) as file:
        file.write(raw)


@contextmanager
def open_atomic(path: Path, *, modified: float | None = None, size: int | None = None) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` when the block ends well; see `write_atomic`.

    The file has the permissions that the umask gives to any new file.

    Args:
        path: the file.
        modified: as for `write_atomic`.
        size: bytes that will be written, if known beforehand, for the message.

    Raises:
        DataError: the disk is full or the folder is not writable.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if modified is not None:
            os.utime(temporary, (modified, modified))
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            size = size if size is not None else temporary.stat().st_size
            temporary.unlink()
        if isinstance(error, OSError):
            raise cannot_write(path, error, size=size) from error
        raise


def append_line(path: Path, line: str) -> None:
    """Add a line to a log.

    Raises:
        DataError: the disk is full or the folder is not writable.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise cannot_write(path, error, size=len(line)) from error


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


#: What to do if a file cannot be written, by the system's reason.
_WHAT_TO_DO = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "delete files of yours, or ask for a larger quota",
    errno.EFBIG: "raise the limit (ulimit -f unlimited), or use a disk that takes larger files",
    errno.EROFS: "make the disk writable",
}


DISK_ERRORS = frozenset(_WHAT_TO_DO)


def cannot_write(path: Path, error: OSError, *, size: int | None = None) -> DataError:
    """The error for a file that could not be written: the file, the space that it needs and what to do.

    Args:
        path: the file or folder.
        error: what the system said.
        size: bytes that were to be written, or had been written when it failed; None if unknown.
    """
    expected = "a folder that may be written to"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        expected = "space for the file" if size is None else f"space for a file of at least {size:,} bytes"
        with suppress(OSError):
            folder = next(folder for folder in path.absolute().parents if folder.is_dir())
            expected += f" (this disk has {shutil.disk_usage(folder).free:,} bytes left)"
    do = _WHAT_TO_DO.get(error.errno or 0, "change the folder's permissions")
    again = "or choose another place (REPORTS_DIR, LESION_CACHE), then give the same command again"
    return DataError(f"cannot write: {error.strerror or error}", where=path, expected=expected, do=f"{do}, {again}")
