"""One file over HTTP, however often the line breaks: resumed where it stopped, never mixed from two versions.

`ResumingDownloader` plugs into pooch, which checks the hash and moves the complete file into place.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import requests
from tqdm import tqdm
from urllib3.exceptions import HTTPError

#: Answers that another try may change: too early, too many requests, and the server's own failures.
_PASSING = {408, 425, 429, 500, 502, 503, 504}


class Refused(Exception):
    """The server answered, and will answer the same again: 403, 404 and their like."""


class Broken(Exception):
    """The line broke more often than was to be borne."""


@dataclass(frozen=True)
class ResumingDownloader:
    """Download to `<name>.part` beside the file and go on from there after a break, in this run or the next.

    A part is continued only if the server still has the version that it began with (`If-Range` with its ETag or date).

    Attributes:
        part: the file that grows; `<part>.version` beside it holds the version.
        tries: connections that may be opened.
        pause: seconds before the second connection; the pause doubles each time, up to a minute.
        patience: seconds to wait for an answer, and over which the speed is measured.
        slowest: bytes/s; a slower line is cut and opened anew.
    """

    part: Path
    tries: int = 10
    pause: float = 1.0
    patience: float = 30.0
    slowest: float = 1000.0

    def __call__(self, url: str, output_file: str, _pooch: object) -> None:
        """Download `url` to `output_file`, as pooch asks a downloader to.

        Raises:
            Refused: 403, 404 and other answers that are final.
            Broken: every try ended early; the part stays for the next run.
        """
        reasons = []
        for number in range(self.tries):
            if number:
                time.sleep(min(60.0, self.pause * 2 ** (number - 1)))
            try:
                self._continue(url)
            except (requests.RequestException, _Unfinished) as error:
                reasons.append(_name_reason(error))
                continue
            self._version.unlink(missing_ok=True)
            self.part.replace(output_file)
            return
        raise Broken(f"gave up after {self.tries} tries, {_size(self.part):,} bytes are kept; last: {reasons[-1]}")

    @property
    def _version(self) -> Path:
        return self.part.with_name(self.part.name + ".version")

    def _continue(self, url: str) -> None:
        """Open one connection and append what it gives until the file is complete."""
        have = _size(self.part) if self._version.is_file() else 0
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": self._version.read_text("utf-8")}
        with requests.get(url, headers=headers, stream=True, timeout=self.patience) as response:
            if response.status_code == 416:  # nothing beyond what we have: begin again
                self._version.unlink(missing_ok=True)
                raise _Unfinished("the server has no bytes after the ones that were kept")
            if response.status_code not in (200, 206):
                kind = _Unfinished if response.status_code in _PASSING else Refused
                raise kind(f"the server answered {response.status_code} {response.reason}")
            start = f"bytes {have}-"
            if response.status_code == 206 and not response.headers.get("Content-Range", "").startswith(start):
                raise Refused("the server sent another range of bytes than it was asked for")
            if response.status_code == 200:
                have = 0
                self._note_version(response)
            length = response.headers.get("Content-Length")
            total = have + int(length) if length else None
            with self.part.open("r+b" if have else "wb") as file:
                file.seek(have)
                self._pour(response, file, have, total)
        if total is not None and _size(self.part) != total:
            raise _Unfinished(f"the connection ended after {_size(self.part):,} of {total:,} bytes")

    def _note_version(self, response: requests.Response) -> None:
        """Keep what tells this version from others; a weak tag doesn't, and without one nothing is resumed."""
        tag = response.headers.get("ETag", "")
        version = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")
        self._version.unlink(missing_ok=True)
        if version:
            self._version.write_text(version, encoding="utf-8")

    def _pour(self, response: requests.Response, file, have: int, total: int | None) -> None:
        """Append the body to the file, watching its speed."""
        name = self.part.name.strip(".").removesuffix(".part")
        bar = tqdm(initial=have, total=total, unit="B", unit_scale=True, desc=name, disable=None)
        since, received = time.monotonic(), 0
        with bar:
            while chunk := _read_some(response):
                file.write(chunk)
                bar.update(len(chunk))
                received += len(chunk)
                elapsed = time.monotonic() - since
                if elapsed >= self.patience:
                    if received < self.slowest * elapsed:
                        raise _Unfinished(f"the line was slower than {self.slowest:g} bytes/s")
                    since, received = time.monotonic(), 0


class _Unfinished(Exception):
    """This connection did not bring the file to its end; another may."""


def _read_some(response: requests.Response) -> bytes:
    """What has arrived, at least one byte; empty at the end. Waiting for a full block would hide a trickle."""
    try:
        return response.raw.read1(1 << 18)
    except HTTPError as error:
        raise _Unfinished(str(error)) from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _name_reason(error: Exception) -> str:
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError):
        return "the connection failed"
    return str(error)
