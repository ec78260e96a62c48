"""Images decoded once: a memory-mapped array, named after its content, that later runs open in milliseconds.

The array is written under a partial name and renamed when it is complete, so a killed run leaves nothing that could be
taken for it; a lock lets one of several runs build it while the others wait. A checksum per image tells a damaged file
from a sound one. It is compared when the file is not, to the file system, the very one that was written (size, times,
inode), and whenever `verify` asks for it: damaged pixels are decoded again, never used.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL
from PIL import features

from lesion_utils.core import paths
from lesion_utils.core.errors import DataError
from lesion_utils.core.events import OnEvent
from lesion_utils.core.files import cannot_write, dump_json, lock_file, write_atomic
from lesion_utils.data.images import DRAFT_MARGIN, Aspect, ImageError, decode_square, run_parallel

#: Images worked on at a time.
WORKERS = os.cpu_count() or 1

#: Raised when the same settings would give other pixels, or the files another layout.
FORMAT = 2


def open_cache(
    table: pd.DataFrame, size: int, aspect: Aspect, *, verify: bool = False, on_event: OnEvent | None = None
) -> np.memmap:
    """Open the decoded images of a table, decoding them first if that has not been done.

    Args:
        table: columns `image_id`, `path`, and `sha256` of the files' bytes.
        size: side of the stored squares, px.
        aspect: how a rectangle becomes a square, see `images.decode_square`.
        verify: compare every image's checksum, even if the file looks untouched.
        on_event: called after each image.

    Returns:
        (N, size, size, 3) uint8, RGB, in the table's order; read-only, `filename` being the file behind it.

    Raises:
        DataError: images that do not decode (all of them are named), a full disk, a folder that is not writable.
    """
    path = paths.cache_dir() / "images" / f"{cache_key(table, size=size, aspect=aspect)}.u8"
    shape = (len(table), size, size, 3)
    if not _is_sound(path, shape, verify=verify):
        with lock_file(path.with_suffix(".lock")):
            if not _is_sound(path, shape, verify=verify):  # another run may have built it meanwhile
                _build(path, table, size, aspect, on_event)
    return np.memmap(path, np.uint8, "r", shape=shape)


def cache_key(table: pd.DataFrame, *, size: int, aspect: Aspect) -> str:
    """Name of a cache: a hash of the images' bytes in the table's order, of the settings and of the decoder."""
    decoder = [PIL.__version__, features.version("jpg"), features.version("webp"), DRAFT_MARGIN]
    content = [FORMAT, size, aspect, decoder, list(table["sha256"])]
    return f"{aspect}{size}-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]}"


def _build(path: Path, table: pd.DataFrame, size: int, aspect: Aspect, on_event: OnEvent | None) -> None:
    """Decode all images into `path`, or leave nothing there."""
    partial = path.with_suffix(".partial")
    rows = list(zip(range(len(table)), table["path"], table["sha256"], strict=True))
    try:
        with partial.open("wb") as file:

            def store(row: tuple[int, Any, str]) -> int | str:
                index, image, sha256 = row
                try:
                    pixels = decode_square(image, size=size, aspect=aspect, sha256=sha256).tobytes()
                except ImageError as error:
                    return f"{image.parent.name}/{image.name}: {error}"
                _write_at(file.fileno(), pixels, index * len(pixels))
                return zlib.crc32(pixels)

            checksums = []
            for done, checksum in enumerate(run_parallel(store, rows, workers=WORKERS), start=1):
                checksums.append(checksum)
                if on_event:
                    on_event({"stage": "decode", "done": done, "total": len(rows)})
            if problems := [text for text in checksums if isinstance(text, str)]:
                raise _unusable(problems)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise cannot_write(partial, error) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    _write_seal(path, checksums)


def _write_at(descriptor: int, content: bytes, offset: int) -> None:
    """Write all of `content`; plain writes report a full disk, a memory map would kill the process."""
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _is_sound(path: Path, shape: tuple[int, ...], *, verify: bool) -> bool:
    """Whether the file is complete and undamaged: by its stamp, else by the checksum of every image."""
    try:
        seal = json.loads(path.with_suffix(".json").read_text("utf-8"))
        stamp, checksums = seal["stamp"], seal["checksums"]
        if path.stat().st_size != np.prod(shape, dtype=np.int64) or len(checksums) != shape[0]:
            return False
        if stamp == _stamp(path) and not verify:
            return True
        with path.open("rb") as file:
            sound = all(zlib.crc32(file.read(shape[1] * shape[2] * 3)) == checksum for checksum in checksums)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if sound and stamp != _stamp(path):
        with suppress(DataError):  # a folder that is only read from goes without the short way
            _write_seal(path, checksums)
    return sound


def _write_seal(path: Path, checksums: Sequence[int | str]) -> None:
    write_atomic(path.with_suffix(".json"), dump_json({"stamp": _stamp(path), "checksums": checksums}))


def _stamp(path: Path) -> list[int]:
    """What the file system knows of a file; any write changes it, and so does a copy."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _unusable(problems: list[str]) -> DataError:
    return DataError(
        f"{len(problems)} unusable image(s):\n" + "\n".join(f"  - {problem}" for problem in problems),
        expected="JPEG files that decode to their end",
        do="fetch these files again, or take them out together with their labels",
    )
