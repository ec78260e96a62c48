"""Archives that lie, overflow or lead elsewhere, and runs that are killed while unpacking."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lesion_utils.core.errors import DataError
from lesion_utils.data import unpack
from lesion_utils.data.unpack import unpack_images


def write_zip(path: Path, members: dict[str, bytes], **kwargs) -> Path:
    with zipfile.ZipFile(path, "w", **kwargs) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def refused(tmp_path: Path, archive: Path, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        unpack_images(archive, tmp_path / "out" / "images")
    assert str(archive) in str(caught.value)
    assert not list((tmp_path / "out").rglob("*.jpg")), "a refused archive left files behind"
    assert not (tmp_path / "out" / "images").exists()


def test_images_land_in_the_folder_and_litter_does_not(tmp_path):
    members = {"Data/ISIC_1.jpg": b"1", "ISIC_2.jpg": b"2", "__MACOSX/Data/._ISIC_1.jpg": b"x", "Data/.DS_Store": b"x"}
    unpack_images(write_zip(tmp_path / "a.zip", members), tmp_path / "out")
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == {"ISIC_1.jpg": b"1", "ISIC_2.jpg": b"2"}


@pytest.mark.parametrize("name", ["../evil.jpg", "A/../../evil.jpg", "/tmp/evil.jpg", "..\\evil.jpg", "C:\\evil.jpg"])
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    refused(tmp_path, write_zip(tmp_path / "a.zip", {"Data/fine.jpg": b"1", name: b"2"}), "leads elsewhere")
    assert not list(tmp_path.rglob("evil*"))


def test_links_are_refused(tmp_path):
    link = zipfile.ZipInfo("Data/link.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    refused(tmp_path, tmp_path / "a.zip", "is a link")


def test_a_file_that_unpacks_to_very_much_is_refused(tmp_path):
    bomb = {"Data/bomb.jpg": bytes(unpack.MAX_FILE_BYTES + 1)}
    archive = write_zip(tmp_path / "a.zip", bomb, compression=zipfile.ZIP_DEFLATED)
    assert archive.stat().st_size < 100_000
    refused(tmp_path, archive, "would unpack to")


def test_a_file_that_unpacks_to_more_than_it_says_is_refused(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {"Data/liar.jpg": bytes(50_000)}, compression=zipfile.ZIP_DEFLATED)
    raw = archive.read_bytes()
    archive.write_bytes(raw.replace((50_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    refused(tmp_path, archive, "damaged")


@pytest.mark.parametrize(("bound", "value"), [("MAX_FILES", 2), ("MAX_TOTAL_BYTES", 25)])
def test_numbers_and_sums_are_bounded(tmp_path, monkeypatch, bound, value):
    monkeypatch.setattr(unpack, bound, value)
    refused(tmp_path, write_zip(tmp_path / "a.zip", {f"{i}.jpg": bytes(10) for i in range(3)}), "are believed")


def test_a_cut_or_damaged_archive_is_refused(tmp_path):
    whole = write_zip(tmp_path / "a.zip", {f"{i}.jpg": os.urandom(5000) for i in range(20)}).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path, tmp_path / "cut.zip", "damaged")
    (tmp_path / "bad.zip").write_bytes(whole[:40_000] + bytes(100) + whole[40_100:])
    refused(tmp_path, tmp_path / "bad.zip", "damaged")


def test_the_same_name_twice_is_refused(tmp_path):
    refused(tmp_path, write_zip(tmp_path / "a.zip", {"A/1.jpg": b"1", "B/1.jpg": b"2"}), "the same name")


DIES_AFTER_THREE_FILES = """
import os, shutil, signal, sys
from pathlib import Path
from lesion_utils.data.unpack import unpack_images

copy, done = shutil.copyfileobj, []
def copy_or_die(*args):
    done.append(copy(*args))
    if len(done) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
shutil.copyfileobj = copy_or_die
unpack_images(*map(Path, sys.argv[1:]))
"""


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
