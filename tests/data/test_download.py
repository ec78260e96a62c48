"""Fetching from a real server that breaks, refuses, lies and dawdles."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from challenge import read_dataset, write_challenge
from loopback import Site, serve

from lesion_utils.core.errors import DataError
from lesion_utils.data import download
from lesion_utils.data.challenge import FOLDERS, LABEL_FILES
from lesion_utils.data.download import ADDRESSES, FILES, RemoteFile, ensure_dataset, unpack_images

QUICK = {"pause": 0.001, "patience": 2.0}
BODY = np.random.default_rng(0).bytes(300_000)


@pytest.fixture(autouse=True)
def _no_wishes(monkeypatch):
    for name in ("OFFLINE", "DATA_DIR", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
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
        images = {f"{folder}/{image.name}": image.read_bytes() for image in (source / folder).iterdir()}
        files[f"{folder}.zip"] = write_zip(tmp_path / "a.zip", images).read_bytes()
    wanted = [RemoteFile(name, "small", None) for name in files]
    with serve(Site(files)) as site:
        ensure_dataset(tmp_path / "data", files=wanted, addresses=[site.address], **QUICK)
        asked = len(site.asked)
        ensure_dataset(tmp_path / "data", files=wanted, addresses=[site.address], **QUICK)
        assert len(site.asked) == asked, "a complete data set was fetched again"
    assert len(read_dataset(tmp_path / "data")) == 8
    recorded = json.loads((tmp_path / "data" / "manifest.json").read_text())["files"]
    assert {name: entry["sha256"] for name, entry in recorded.items()} == {
        name: hashlib.sha256(body).hexdigest() for name, body in files.items()
    }


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ({"drop_after": [100_000, 50_000, 0]}, [None, "bytes=100000-", "bytes=150000-", "bytes=150000-"]),
        ({"drop_after": [100_000], "ranges": False}, [None, "bytes=100000-"]),
        # Without a strong tag nothing says that a part belongs to the same file.
        ({"drop_after": [100_000], "version": None}, [None, None]),
        ({"drop_after": [100_000], "version": 'W/"weak"'}, [None, None]),
        ({"status": {"labels.csv": [503, 500, 429]}}, [None] * 4),
    ],
)
@pytest.mark.fault("kills", "a download", "goes on where it broke")
def test_what_breaks_is_tried_again_and_resumed_where_the_server_can(tmp_path, line, asked):
    with serve(Site({"labels.csv": BODY}, **line)) as site:
        assert fetch(tmp_path, site) == BODY
    assert [wanted for _, wanted in site.asked] == asked
    assert site.sent == len(BODY) or asked[-1] is None or "ranges" in line, "bytes were sent twice"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "labels.csv", "manifest.json"]


def test_the_next_run_goes_on_where_this_one_gave_up(tmp_path):
    with serve(Site({"labels.csv": BODY}, drop_after=[120_000, 0, 0])) as site:
        with pytest.raises(DataError, match="gave up after 2 tries, 120,000 bytes are kept"):
            fetch(tmp_path, site, tries=2)
        assert not (tmp_path / "labels.csv").exists(), "half a file was taken for the whole"
        assert fetch(tmp_path, site) == BODY
    assert site.asked[-1] == ("labels.csv", "bytes=120000-")


def test_a_part_of_another_version_is_not_continued(tmp_path):
    old, new = Site({"labels.csv": BODY[::-1]}, drop_after=[99_000]), Site({"labels.csv": BODY}, version='"two"')
    with serve(old), pytest.raises(DataError):
        fetch(tmp_path, old, tries=1)
    with serve(new):
        assert fetch(tmp_path, new, file=file_of(BODY, known=False)) == BODY


def test_a_part_that_begins_elsewhere_is_refused(tmp_path):
    site = Site({"labels.csv": BODY}, drop_after=[100_000], shift=7)
    with serve(site), pytest.raises(DataError, match="another range of bytes"):
        fetch(tmp_path, site, file=file_of(BODY, known=False))


def test_a_part_that_is_longer_than_the_file_is_thrown_away(tmp_path):
    (tmp_path / ".labels.csv.part").write_bytes(BODY + b"more")
    (tmp_path / ".labels.csv.part.version").write_text('"one"')
    with serve(Site({"labels.csv": BODY})) as site:
        assert fetch(tmp_path, site) == BODY


OTHER_BYTES = pytest.mark.fault("data", "other bytes from the server", "refused; the other address is asked")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        pytest.param({"files": {"labels.csv": BODY[::-1]}}, "other bytes than expected", marks=OTHER_BYTES),
        ({"status": {"labels.csv": [403] * 2}}, "answered 403"),
        ({"status": {"labels.csv": [404] * 2}}, "answered 404"),
    ],
)
def test_a_final_answer_is_not_asked_for_again_but_the_other_address(tmp_path, answer, words):
    good = {"files": {"labels.csv": BODY}}
    with serve(Site(**good | answer)) as one, serve(Site(**good)) as other:
        assert fetch(tmp_path, one, other) == BODY and len(one.asked) == 1
        with pytest.raises(DataError, match=words):
            fetch(tmp_path / "second", one)
    assert not (tmp_path / "second" / "labels.csv").exists()


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
@pytest.mark.fault("security", "OFFLINE=1 or a DATA_DIR of one's own", "nothing is fetched")
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
    write_zip(tmp_path / "images.zip", {"images/ISIC_0000000.jpg": b"picture"})
    ensure_dataset(tmp_path, files=[RemoteFile("images.zip", "small", None)])
    assert (tmp_path / "images" / "ISIC_0000000.jpg").read_bytes() == b"picture"


def test_a_broken_archive_put_there_by_hand_is_named(tmp_path):
    (tmp_path / "images.zip").write_bytes(BODY)
    known = RemoteFile("images.zip", "small", "0" * 64)
    with pytest.raises(DataError, match="put there by hand, is not the challenge's") as caught:
        ensure_dataset(tmp_path, files=[known])
    assert str(tmp_path / "images.zip") in str(caught.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.fault("disk", "full, while data are fetched", "named; nothing half is taken for whole")
def test_a_full_disk_is_named(tmp_path):
    (tmp_path / ".labels.csv.part").symlink_to("/dev/full")
    with serve(Site({"labels.csv": BODY})) as site, pytest.raises(DataError, match="No space left"):
        fetch(tmp_path, site)
    assert not (tmp_path / "labels.csv").exists()


def write_zip(path: Path, members: dict[str, bytes], **kwargs) -> Path:
    with zipfile.ZipFile(path, "w", **kwargs) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_images_land_in_the_folder_and_litter_does_not(tmp_path):
    members = {"Data/ISIC_1.jpg": b"1", "ISIC_2.jpg": b"2", "__MACOSX/Data/._ISIC_1.jpg": b"x", "Data/.DS_Store": b"x"}
    unpack_images(write_zip(tmp_path / "a.zip", members), tmp_path / "out")
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == {"ISIC_1.jpg": b"1", "ISIC_2.jpg": b"2"}


@pytest.mark.parametrize("name", ["../evil.jpg", "A/../../evil.jpg", "/tmp/evil.jpg", "..\\evil.jpg", "C:\\evil.jpg"])
@pytest.mark.fault("data", "`..` and absolute names in an archive", "stay in the folder")
def test_names_that_lead_elsewhere_stay_in_the_folder(tmp_path, name):
    unpack_images(write_zip(tmp_path / "a.zip", {name: b"2"}), tmp_path / "out" / "images")
    assert [path.parent for path in tmp_path.rglob("*evil*")] == [tmp_path / "out" / "images"]


@pytest.mark.fault("data", "links in an archive", "come out as plain files")
def test_a_link_comes_out_as_a_plain_file(tmp_path):
    link = zipfile.ZipInfo("Data/link.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    unpack_images(tmp_path / "a.zip", tmp_path / "out")
    assert not (tmp_path / "out" / "link.jpg").is_symlink()


def write_liar(path: Path) -> Path:
    """An archive of a file that unpacks to more than it says."""
    raw = write_zip(path, {"Data/liar.jpg": bytes(50_000)}, compression=zipfile.ZIP_DEFLATED).read_bytes()
    path.write_bytes(raw.replace((50_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    return path


def damage(path: Path, start: int, end: int, new: bytes = b"") -> Path:
    """An archive of twenty files, some bytes of which are others."""
    whole = write_zip(path, {f"{i}.jpg": os.urandom(5000) for i in range(20)}).read_bytes()
    path.write_bytes(whole[:start] + new + whole[end:])
    return path


def refused(what: str, make, words: str, outcome: str = "refused"):
    return pytest.param(make, words, id=what, marks=pytest.mark.fault("data", what, outcome))


GONE = "refused; nothing of it stays"
MUCH, TWICE = {f"{i}.jpg": bytes(30_000) for i in range(4)}, {"A/1.jpg": b"1", "B/1.jpg": b"2"}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        refused("an archive that unpacks to very much", lambda path: write_zip(path, MUCH), "would unpack to"),
        refused("an archive that lies about sizes", write_liar, "damaged"),
        refused("one name twice in an archive", lambda path: write_zip(path, TWICE), "exists"),
        refused("a cut or damaged archive", lambda path: damage(path, 50_000, 200_000), "damaged", GONE),
        refused("a cut or damaged archive", lambda path: damage(path, 40_000, 40_100, bytes(100)), "damaged", GONE),
    ],
)
def test_an_archive_that_is_not_believed_leaves_nothing_behind(tmp_path, monkeypatch, make, words):
    monkeypatch.setattr(download, "MAX_UNPACKED_BYTES", 110_000)
    archive = make(tmp_path / "a.zip")
    with pytest.raises(DataError, match=words) as caught:
        unpack_images(archive, tmp_path / "out" / "images")
    assert str(archive) in str(caught.value)
    assert not list((tmp_path / "out").rglob("*.jpg")) and not (tmp_path / "out" / "images").exists()


DIES_AFTER_THREE_FILES = """
import os, shutil, signal, sys
from pathlib import Path
from lesion_utils.data.download import unpack_images

copy, done = shutil.copyfileobj, []
def copy_or_die(*args):
    done.append(copy(*args))
    if len(done) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
shutil.copyfileobj = copy_or_die
unpack_images(*map(Path, sys.argv[1:]))
"""


@pytest.mark.fault("kills", "unpacking an archive", "unpacked again")
def test_a_killed_unpacking_is_never_taken_for_complete(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {f"{i}.jpg": bytes(1000) for i in range(20)})
    child = subprocess.run([sys.executable, "-c", DIES_AFTER_THREE_FILES, archive, tmp_path / "out"], check=False)
    assert child.returncode == -signal.SIGKILL
    assert len(list((tmp_path / ".out.partial").iterdir())) == 3 and not (tmp_path / "out").exists()
    unpack_images(archive, tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 20 and not (tmp_path / ".out.partial").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot write"):
        unpack_images(write_zip(tmp_path / "a.zip", {"1.jpg": b"1"}), tmp_path / "file" / "out")
