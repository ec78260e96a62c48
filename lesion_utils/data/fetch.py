"""The challenge's four files: fetched, checked and unpacked, or a page that says how to do that by hand.

What the files hashed to is kept in `manifest.json` beside them. The challenge publishes no hashes: where none is known
from elsewhere, a copy of that file on the next machine makes the next download comparable with this one.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pooch

from lesion_utils.core.errors import DataError
from lesion_utils.core.files import cannot_write, dump_json, lock_file, write_if_changed
from lesion_utils.data.challenge import FOLDERS, LABEL_FILES
from lesion_utils.data.download import Broken, Refused, ResumingDownloader
from lesion_utils.data.unpack import unpack_images

#: The present address of the challenge's files, and the one before September 2025.
ADDRESSES = (
    "https://isic-archive.s3.amazonaws.com/challenges/2016/",
    "https://isic-challenge-data.s3.amazonaws.com/2016/",
)


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
    RemoteFile(
        f"{FOLDERS['train']}.zip", "602 MB", "d78bd1de08511b514e58784c91fd2d8dab24e407cafd023a7debbceb9155ffb2"
    ),
    RemoteFile(f"{FOLDERS['test']}.zip", "232 MB", None),
)


def ensure_dataset(
    root: Path,
    *,
    files: Sequence[RemoteFile] = FILES,
    addresses: Sequence[str] = ADDRESSES,
    **patience: float,
) -> None:
    """Make sure that `root` holds the challenge's labels and images.

    What is there is left alone. Archives that lie there are unpacked. The rest is downloaded, unless the user set
    `OFFLINE` or named a `DATA_DIR` of their own.

    Args:
        root: folder of the data.
        files: what belongs there.
        addresses: where to fetch from, in the order of trying.
        patience: settings of `download.ResumingDownloader`.

    Raises:
        DataError: one page that says what is missing, why it could not be fetched, its size, address and place.
    """
    missing = [file for file in files if not (root / file.becomes).exists()]
    to_fetch = [file for file in missing if not (root / file.name).exists()]
    if to_fetch and (refusal := _may_not_download()):
        raise _explain(root, to_fetch, addresses, [refusal])
    if missing:
        with lock_file(root / ".lock"):
            for file in missing:
                if not (root / file.becomes).exists():  # another run may have brought it meanwhile
                    _obtain(root, file, addresses, patience)


def _obtain(root: Path, file: RemoteFile, addresses: Sequence[str], patience: dict) -> None:
    """Bring one file to its place, from the first address that gives the right bytes, and note its hash."""
    known = _read_known(root)
    path, sha256 = root / file.name, file.sha256 or known.get(file.name, {}).get("sha256")
    logging.getLogger("pooch").setLevel(logging.WARNING)  # it would tell the user to edit code
    reasons, came_from = [], "put there by hand"
    if path.exists():
        _check_by_hand(path, sha256)
    for address in () if path.exists() else addresses:
        downloader = ResumingDownloader(root / f".{file.name}.part", **patience)
        came_from = address + file.name
        try:
            pooch.retrieve(came_from, sha256 and f"sha256:{sha256}", file.name, root, downloader=downloader)
            break
        except (Refused, Broken) as error:
            reasons.append(f"{came_from}: {error}")
        except ValueError:
            reasons.append(f"{came_from}: other bytes than expected (SHA-256 {sha256})")
        except OSError as error:
            raise cannot_write(path, error) from error
    else:
        if not path.exists():
            raise _explain(root, [file], addresses, reasons)
    known[file.name] = {"sha256": pooch.file_hash(str(path)), "bytes": path.stat().st_size, "from": came_from}
    write_if_changed(root / "manifest.json", dump_json({"files": known}))
    if file.becomes != file.name:
        unpack_images(path, root / file.becomes)


def _check_by_hand(path: Path, sha256: str | None) -> None:
    if sha256 and pooch.file_hash(str(path)) != sha256:
        raise DataError(
            "this file, put there by hand, is not the challenge's: perhaps its download broke off",
            where=path,
            expected=f"SHA-256 {sha256}",
            do="delete it and fetch it again",
        )


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


def _read_known(root: Path) -> dict:
    with suppress(FileNotFoundError, ValueError, KeyError):
        return dict(json.loads((root / "manifest.json").read_text("utf-8"))["files"])
    return {}
