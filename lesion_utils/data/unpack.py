"""Unpacking an archive that nobody vouches for: nothing leaves the folder, nothing grows without bound.

The archive is unpacked beside its place and renamed when it is complete, so a killed run is never taken for one.
"""

from __future__ import annotations

import shutil
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from lesion_utils.core.errors import DataError
from lesion_utils.core.files import cannot_write

#: Bounds with room above the challenge's archives (900 images, 0.6 GB, the largest 1.2 MB).
MAX_FILES, MAX_FILE_BYTES, MAX_TOTAL_BYTES = 2_000, 64 << 20, 4 << 30


def unpack_images(archive: Path, folder: Path) -> None:
    """Unpack the images of a zip archive into `folder`, which is complete as soon as it exists.

    Folders around the images are left out, as is what macOS adds.

    Raises:
        DataError: the archive is damaged, holds names that lead elsewhere, links, or more than the bounds above; the
            disk is full or the folder is not writable.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with zipfile.ZipFile(archive) as source:
            for member, name in _list_members(source, archive):
                with source.open(member) as packed, (partial / name).open("xb") as file:
                    shutil.copyfileobj(packed, file, 1 << 20)
        partial.rename(folder)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise _refuse(archive, f"the archive is damaged: {error}") from error
    except FileExistsError as error:
        raise _refuse(archive, f"two files have the same name: {error.filename}") from error
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _list_members(source: zipfile.ZipFile, archive: Path) -> Iterator[tuple[zipfile.ZipInfo, str]]:
    """The files to unpack with the names they get, after everything was checked."""
    members = [member for member in source.infolist() if not member.is_dir() and not _is_litter(member.filename)]
    if len(members) > MAX_FILES:
        raise _refuse(archive, f"{len(members):,} files, at most {MAX_FILES:,} are believed")
    if (total := sum(member.file_size for member in members)) > MAX_TOTAL_BYTES:
        raise _refuse(archive, f"{total:,} bytes unpacked, at most {MAX_TOTAL_BYTES:,} are believed")
    for member in members:
        parts = PurePosixPath(member.filename.replace("\\", "/")).parts
        if ".." in parts or parts[0] == "/" or ":" in member.filename:
            raise _refuse(archive, f"the name {member.filename!r} leads elsewhere")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise _refuse(archive, f"{member.filename!r} is a link")
        if member.file_size > MAX_FILE_BYTES:
            raise _refuse(archive, f"{member.filename!r} would unpack to {member.file_size:,} bytes")
    return ((member, Path(member.filename.replace("\\", "/")).name) for member in members)


def _is_litter(name: str) -> bool:
    return name.startswith("__MACOSX/") or name.rpartition("/")[2] in {".DS_Store", "Thumbs.db"}


def _refuse(archive: Path, what: str) -> DataError:
    return DataError(what, where=archive, expected="the challenge's own archive", do="delete it and fetch it again")
