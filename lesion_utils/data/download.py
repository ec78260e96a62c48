"""The challenge's four files: downloaded, checked and unpacked, or a page that says how to do that by hand.

A download that breaks goes on where it stopped, in this run or the next, if the server still has the same version. What
the files hashed to is kept in `manifest.json` beside them: where no hash is pinned, a copy of that file on the next
machine makes the next download comparable with this one.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pooch
import requests
from tqdm import tqdm
from urllib3.exceptions import HTTPError

from lesion_utils.core.errors import DataError
from lesion_utils.core.files import cannot_write, dump_json, lock_file, read_json, write_if_changed
from lesion_utils.data.challenge import FOLDERS, LABEL_FILES

#: The present address of the challenge's files, and the one before September 2025.
ADDRESSES = (
    "https://isic-archive.s3.amazonaws.com/challenges/2016/",
    "https://isic-challenge-data.s3.amazonaws.com/2016/",
)
#: Answers that another try may change: too early, too many requests, and the server's own failures.
_PASSING = {408, 416, 425, 429, 500, 502, 503, 504}
#: More than the challenge's archives unpack to (900 images, 0.6 GB): beyond it an archive is not believed.
MAX_UNPACKED_BYTES, MAX_FILES = 4 << 30, 100_000


@dataclass(frozen=True)
class RemoteFile:
    """One of the challenge's files: its name, its size in words, and its SHA-256 where one is known."""

    name: str
    size: str
    sha256: str | None

    @property
    def becomes(self) -> str:
        """What it is once it is in place: an archive becomes a folder."""
        return self.name.removesuffix(".zip")


FILES = (
    RemoteFile(LABEL_FILES["train"], "19 kB", "0ffadd63b7cec650cddfbe5df54d1d3167453fe6004c2bbf05824184b0c4d405"),
    RemoteFile(LABEL_FILES["test"], "7 kB", "8f7718bfe5ed110e0235b0d9afc40fe89e52610c5687cc9cd7dd0c23352b82ce"),
    RemoteFile(f"{FOLDERS['train']}.zip", "602 MB", "d78bd1de08511b514e58784c91fd2d8dab24e407cafd023a7debbceb9155ffb2"),
    RemoteFile(f"{FOLDERS['test']}.zip", "232 MB", None),
)


class _Refused(Exception):
    """The server's answer is final, or every try failed."""


def ensure_dataset(
    root: Path, *, files: Sequence[RemoteFile] = FILES, addresses: Sequence[str] = ADDRESSES, **line: Any
) -> None:
    """Make sure that `root` holds the challenge's labels and images.

    What is there is left alone. Archives that lie there are unpacked. The rest is downloaded, from the first address
    that gives the right bytes, unless the user set `OFFLINE` or named a `DATA_DIR` of their own.

    Args:
        line: `tries`, `pause` and `patience` of `download_file`.

    Raises:
        DataError: one page that says what is missing, why it could not be downloaded, its size, address and place.
    """
    missing = [file for file in files if not (root / file.becomes).exists()]
    to_download = [file for file in missing if not (root / file.name).exists()]
    if to_download and (refusal := _may_not_download()):
        raise _explain(root, to_download, addresses, [refusal])
    for file in missing:
        with lock_file(root / ".lock"):
            if not (root / file.becomes).exists():  # another run may have brought it meanwhile
                _obtain(root, file, addresses, line)


def download_file(url: str, part: Path, *, tries: int = 10, pause: float = 1.0, patience: float = 30.0) -> None:
    """Download to `part`, going on from what is there; waits `pause` seconds, then twice as long, between the tries.

    Raises:
        _Refused: the answer is final, or no try came to the end; `part` stays for the next run.
    """
    for number in range(tries):
        time.sleep(min(60.0, pause * 2 ** (number - 1)) if number else 0)
        try:
            return _continue(url, part, patience)
        except (requests.RequestException, HTTPError) as error:
            reason = "no answer in time" if isinstance(error, requests.Timeout) else str(error)
    size = part.stat().st_size if part.is_file() else 0
    raise _Refused(f"gave up after {tries} tries, {size:,} bytes are kept; last: {reason}")


def _continue(url: str, part: Path, patience: float) -> None:
    """Open one connection, and append what it gives until the file is complete."""
    version = part.with_name(f"{part.name}.version")
    have = part.stat().st_size if part.is_file() and version.is_file() else 0
    resume = {"Range": f"bytes={have}-", "If-Range": version.read_text("utf-8")} if have else {}
    headers = {"Accept-Encoding": "identity", **resume}
    with requests.get(url, headers=headers, stream=True, timeout=patience) as response:
        if response.status_code == 416:  # nothing lies beyond what is here: begin again
            version.unlink()
        if response.status_code in _PASSING:
            raise requests.RequestException(f"the server answered {response.status_code}")
        if response.status_code not in (200, 206):
            raise _Refused(f"the server answered {response.status_code} {response.reason}")
        if response.status_code == 200:
            have, tag = 0, response.headers.get("ETag", "W/")
            version.unlink(missing_ok=True)
            if not tag.startswith("W/"):  # a weak tag does not tell two versions apart
                version.write_text(tag, encoding="utf-8")
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise _Refused("the server sent another range of bytes than it was asked for")
        total = have + int(response.headers.get("Content-Length", 0))
        bar = tqdm(initial=have, total=total, unit="B", unit_scale=True, desc=part.name, disable=None)
        with part.open("ab" if have else "wb") as file, bar:
            while chunk := response.raw.read1(1 << 18):
                file.write(chunk)
                bar.update(len(chunk))
    version.unlink(missing_ok=True)


def unpack_images(archive: Path, folder: Path) -> None:
    """Unpack the .jpg files of a zip archive into `folder`, which is complete as soon as it exists.

    Only the names of the files count: no folder inside the archive, no link and no other file comes out of it.

    Raises:
        DataError: the archive is damaged, too large, or holds a name twice; the disk is full.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        with zipfile.ZipFile(archive) as source:
            if len(source.infolist()) > MAX_FILES:
                raise zipfile.BadZipFile(f"it holds {len(source.infolist()):,} files")
            members = [(m, PurePosixPath(m.filename.replace("\\", "/"))) for m in source.infolist()]
            wanted = [(m, path.name) for m, path in members if path.suffix == ".jpg" and "__MACOSX" not in path.parts]
            if sum(member.file_size for member, _ in wanted) > MAX_UNPACKED_BYTES:
                raise zipfile.BadZipFile(f"it would unpack to more than {MAX_UNPACKED_BYTES:,} bytes")
            for member, name in wanted:
                with source.open(member) as packed, (partial / name).open("xb") as file:
                    shutil.copyfileobj(packed, file, 1 << 20)
        partial.rename(folder)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, FileExistsError) as error:
        raise DataError(
            f"the archive is damaged: {error}", where=archive, expected="the challenge's own archive",
            do="delete it and run the same command again",
        ) from error  # fmt: skip
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _obtain(root: Path, file: RemoteFile, addresses: Sequence[str], line: dict[str, Any]) -> None:
    """Bring one file to its place, and note its hash."""
    manifest = root / "manifest.json"
    known = (read_json(manifest) or {}).get("files", {})
    path, sha256 = root / file.name, file.sha256 or known.get(file.name, {}).get("sha256")
    logging.getLogger("pooch").setLevel(logging.WARNING)  # it would tell the user to edit code
    reasons, came_from = [], "put there by hand"
    if path.exists() and sha256 and pooch.file_hash(str(path)) != sha256:
        raise DataError(
            "this file, put there by hand, is not the challenge's: perhaps its download broke off", where=path,
            expected=f"SHA-256 {sha256}", do="delete it and fetch it again",
        )  # fmt: skip
    for address in () if path.exists() else addresses:
        came_from, part = address + file.name, root / f".{file.name}.part"
        try:
            download_file(came_from, part, **line)
        except _Refused as error:
            reasons.append(f"{came_from}: {error}")
            continue
        except OSError as error:
            raise cannot_write(path, error) from error
        if sha256 and pooch.file_hash(str(part)) != sha256:
            part.unlink()
            reasons.append(f"{came_from}: other bytes than expected (SHA-256 {sha256})")
            continue
        part.replace(path)
        break
    if not path.exists():
        raise _explain(root, [file], addresses, reasons)
    known[file.name] = {"sha256": pooch.file_hash(str(path)), "bytes": path.stat().st_size, "from": came_from}
    write_if_changed(manifest, dump_json({"files": known}))
    if file.becomes != file.name:
        unpack_images(path, root / file.becomes)


def _may_not_download() -> str | None:
    """Why nothing may be downloaded; None if it may."""
    if os.environ.get("OFFLINE", "").strip() not in ("", "0"):
        return "OFFLINE is set, so the network was not touched"
    if os.environ.get("DATA_DIR", "").strip():
        return "DATA_DIR names a folder of your own, into which nothing is downloaded"
    return None


def _explain(root: Path, missing: Sequence[RemoteFile], addresses: Sequence[str], reasons: Sequence[str]) -> DataError:
    """The page for someone who has to fetch the files by hand."""
    listing = "\n".join(
        f"  - {file.name} ({file.size})" + (f", SHA-256 {file.sha256}" if file.sha256 else "") for file in missing
    )
    return DataError(
        f"files of ISIC 2016 Part 3 are missing:\n{listing}\n" + "\n".join(f"  {reason}" for reason in reasons),
        where=root,
        expected="each from " + ", or ".join(addresses) + " followed by its name",
        do=f"put the files into {root} (archives are unpacked by the next run), or set DATA_DIR to a folder "
        "that has them, unpacked or not; then run the same command again",
    )
