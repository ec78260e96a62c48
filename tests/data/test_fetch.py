"""Fetching from a real server that breaks, refuses, lies and dawdles."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import zipfile
from pathlib import Path

import numpy as np
import pytest
from challenge import SMALL, write_challenge
from loopback import Site, serve

from lesion_utils.core.errors import DataError
from lesion_utils.data import challenge
from lesion_utils.data.challenge import FOLDERS, LABEL_FILES
from lesion_utils.data.fetch import ADDRESSES, FILES, RemoteFile, ensure_dataset

QUICK = {"pause": 0.001, "patience": 2.0}
BODY = np.random.default_rng(0).bytes(300_000)


@pytest.fixture(autouse=True)
def _no_wishes(monkeypatch):
    for name in ("OFFLINE", "DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def file_of(body: bytes, *, known: bool = True, name: str = "labels.csv") -> RemoteFile:
    return RemoteFile(name, "300 kB", hashlib.sha256(body).hexdigest() if known else None)


def fetch(root, *sites: Site, file: RemoteFile | None = None, **settings):
    ensure_dataset(root, files=[file or file_of(BODY)], addresses=[s.address for s in sites], **(QUICK | settings))
    return (root / "labels.csv").read_bytes()


def test_the_four_files_become_a_data_set(tmp_path):
    source = write_challenge(tmp_path / "source")
    files = {name: (source / name).read_bytes() for name in LABEL_FILES.values()}
    for folder in FOLDERS.values():
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for image in sorted((source / folder).iterdir()):
                archive.write(image, f"{folder}/{image.name}")
        files[f"{folder}.zip"] = buffer.getvalue()
    wanted = [RemoteFile(name, "small", None) for name in files]
    with serve(Site(files)) as site:
        ensure_dataset(tmp_path / "data", files=wanted, addresses=[site.address], **QUICK)
        asked = len(site.asked)
        ensure_dataset(tmp_path / "data", files=wanted, addresses=[site.address], **QUICK)
        assert len(site.asked) == asked, "a complete data set was fetched again"
    table = challenge.read_dataset(tmp_path / "data", counts=SMALL)
    assert len(table) == 8
    recorded = json.loads((tmp_path / "data" / "manifest.json").read_text())["files"]
    assert {name: entry["sha256"] for name, entry in recorded.items()} == {
        name: hashlib.sha256(body).hexdigest() for name, body in files.items()
    }


def test_a_line_that_breaks_is_resumed(tmp_path):
    with serve(Site({"labels.csv": BODY}, drop_after=[100_000, 50_000, 0])) as site:
        assert fetch(tmp_path, site) == BODY
    assert [wanted for _, wanted in site.asked] == [None, "bytes=100000-", "bytes=150000-", "bytes=150000-"]
    assert site.sent == len(BODY), "bytes were sent twice"
    assert sorted(p.name for p in tmp_path.iterdir() if "part" in p.name) == []


def test_the_next_run_goes_on_where_this_one_gave_up(tmp_path):
    with serve(Site({"labels.csv": BODY}, drop_after=[120_000, 0, 0])) as site:
        with pytest.raises(DataError, match="gave up after 2 tries, 120,000 bytes are kept"):
            fetch(tmp_path, site, tries=2)
        assert not (tmp_path / "labels.csv").exists()
        assert fetch(tmp_path, site) == BODY
    assert site.asked[-1] == ("labels.csv", "bytes=120000-")


def test_a_part_of_another_version_is_not_continued(tmp_path):
    old, new = Site({"labels.csv": BODY[::-1]}, drop_after=[99_000]), Site({"labels.csv": BODY}, version='"two"')
    with serve(old), pytest.raises(DataError):
        fetch(tmp_path, old, tries=1)
    with serve(new):
        assert fetch(tmp_path, new, file=file_of(BODY, known=False)) == BODY


@pytest.mark.parametrize("changes", [{"ranges": False}, {"version": None}, {"version": 'W/"weak"'}])
def test_a_server_that_cannot_resume_is_asked_from_the_start(tmp_path, changes):
    with serve(Site({"labels.csv": BODY}, drop_after=[100_000], **changes)) as site:
        assert fetch(tmp_path, site) == BODY
    if "version" in changes:  # without a strong tag nothing says that a part belongs to the same file
        assert [wanted for _, wanted in site.asked] == [None, None]


def test_a_part_that_begins_elsewhere_is_refused(tmp_path):
    site = Site({"labels.csv": BODY}, drop_after=[100_000], shift=7)
    with serve(site), pytest.raises(DataError, match="another range of bytes"):
        fetch(tmp_path, site, file=file_of(BODY, known=False))


def test_a_part_that_is_longer_than_the_file_is_thrown_away(tmp_path):
    (tmp_path / ".labels.csv.part").write_bytes(BODY + b"more")
    (tmp_path / ".labels.csv.part.version").write_text('"one"')
    with serve(Site({"labels.csv": BODY})) as site:
        assert fetch(tmp_path, site) == BODY


def test_a_half_file_is_never_taken_for_the_whole(tmp_path):
    with serve(Site({"labels.csv": BODY}, drop_after=[150_000] + [0] * 20)) as site, pytest.raises(DataError):
        fetch(tmp_path, site, file=file_of(BODY, known=False), tries=3)
    assert not (tmp_path / "labels.csv").exists()


def test_wrong_bytes_are_refused_and_the_other_address_is_asked(tmp_path):
    with serve(Site({"labels.csv": BODY[::-1]})) as wrong, serve(Site({"labels.csv": BODY})) as right:
        assert fetch(tmp_path, wrong, right) == BODY
        with pytest.raises(DataError, match="other bytes than expected"):
            fetch(tmp_path / "second", wrong)
    assert not (tmp_path / "second" / "labels.csv").exists()


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_is_final_and_the_older_address_is_asked(tmp_path, status):
    with serve(Site({"labels.csv": BODY}, status={"labels.csv": [status] * 2})) as new, serve(
        Site({"labels.csv": BODY})
    ) as old:
        assert fetch(tmp_path, new, old) == BODY
        assert len(new.asked) == 1, "a final answer was asked for again"
        with pytest.raises(DataError, match=f"answered {status}"):
            fetch(tmp_path / "second", new)


def test_a_passing_failure_is_tried_again(tmp_path):
    with serve(Site({"labels.csv": BODY}, status={"labels.csv": [503, 500, 429]})) as site:
        assert fetch(tmp_path, site) == BODY


def test_a_trickle_is_cut_and_its_bytes_are_kept(tmp_path):
    with serve(Site({"labels.csv": BODY}, trickle=4000)) as site:
        with pytest.raises(DataError, match="slower than 100000 bytes/s"):
            fetch(tmp_path, site, tries=2, patience=0.3, slowest=100_000)
        assert (tmp_path / ".labels.csv.part").stat().st_size > 0
        site.trickle = 0
        assert fetch(tmp_path, site) == BODY


def test_silence_is_not_waited_out(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes the connection and never answers
        site = Site({}, address=f"http://127.0.0.1:{mute.getsockname()[1]}/")
        with pytest.raises(DataError, match="no answer in time"):
            fetch(tmp_path, site, tries=2, patience=0.2)


def test_where_no_hash_is_known_the_first_one_seen_counts(tmp_path):
    unknown = file_of(BODY, known=False)
    with serve(Site({"labels.csv": BODY})) as site:
        fetch(tmp_path / "first", site, file=unknown)
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "manifest.json").write_bytes((tmp_path / "first" / "manifest.json").read_bytes())
    with serve(Site({"labels.csv": BODY[::-1]})) as site, pytest.raises(DataError, match="other bytes than expected"):
        fetch(tmp_path / "second", site, file=unknown)


@pytest.mark.parametrize(("variable", "value"), [("OFFLINE", "1"), ("DATA_DIR", "/somewhere")])
def test_offline_and_own_folders_touch_no_network(tmp_path, monkeypatch, variable, value):
    def refuse(*_args, **_kwargs):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv(variable, value)
    with pytest.raises(DataError) as caught:
        ensure_dataset(tmp_path / "data")
    page = str(caught.value)
    for text in (*(f"{file.name} ({file.size})" for file in FILES), *ADDRESSES, str(tmp_path / "data"), variable):
        assert text in page
    assert not (tmp_path / "data").exists()


def test_archives_put_there_by_hand_are_unpacked_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("OFFLINE", "1")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("images/ISIC_0000000.jpg", b"picture")
    ensure_dataset(tmp_path, files=[RemoteFile("images.zip", "small", None)])
    assert (tmp_path / "images" / "ISIC_0000000.jpg").read_bytes() == b"picture"


def test_a_broken_archive_put_there_by_hand_is_named(tmp_path):
    (tmp_path / "images.zip").write_bytes(BODY)
    known = RemoteFile("images.zip", "small", "0" * 64)
    with pytest.raises(DataError, match="put there by hand, is not the challenge's") as caught:
        ensure_dataset(tmp_path, files=[known])
    assert str(tmp_path / "images.zip") in str(caught.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_named(tmp_path):
    (tmp_path / ".labels.csv.part").symlink_to("/dev/full")
    with serve(Site({"labels.csv": BODY})) as site, pytest.raises(DataError, match="No space left"):
        fetch(tmp_path, site)
    assert not (tmp_path / "labels.csv").exists()
