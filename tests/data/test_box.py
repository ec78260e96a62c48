"""The embedded images: made byte for byte from the challenge's files, and read only as they were made."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import zipfile

import pytest
from challenge import SMALL, write_challenge

from lesion_utils.core.errors import DataError
from lesion_utils.data import box, make_box
from lesion_utils.data.challenge import FOLDERS, LABEL_FILES, MANIFEST


def test_it_is_what_is_committed_and_small():
    assert hashlib.sha256(box.BOX.read_bytes()).hexdigest() == box.SHA256
    assert box.BOX.stat().st_size < 6e6
    about = json.loads((box.open_box() / "about.json").read_text(encoding="utf-8"))
    assert "CC0" in about["licence"] and "1605.01397" in about["citation"] and "640 px" in about["made_from"]


def test_the_labels_are_the_challenges_own_and_every_image_is_as_its_manifest_says():
    labels = [hashlib.sha256((box.open_box() / file).read_bytes()).hexdigest()[:8] for file in LABEL_FILES.values()]
    assert labels == ["0ffadd63", "8f7718bf"]
    rows = list(csv.DictReader(io.StringIO((box.open_box() / MANIFEST).read_text(encoding="utf-8"))))
    assert len(rows) == 1279 and max(int(row["width"]) for row in rows) == 256
    for row in rows[::100]:
        raw = (box.open_box() / FOLDERS[row["split"]] / f"{row['image_id']}.webp").read_bytes()
        assert hashlib.sha256(raw).hexdigest() == row["sha256"] and len(row["native_sha256"]) == 64


def test_another_archive_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(box, "BOX", tmp_path / "isic2016_256px.zip")
    box.open_box.cache_clear()
    for content in (None, b"other"):
        if content:
            box.BOX.write_bytes(content)
        with pytest.raises(DataError, match="git checkout"):
            box.open_box()
    monkeypatch.undo()
    assert box.open_box() is box.open_box()


def test_made_twice_it_is_the_same_and_says_what_it_was_made_from(tmp_path, monkeypatch):
    monkeypatch.setattr(make_box, "CHALLENGE_COUNTS", SMALL)
    root = write_challenge(tmp_path / "data")
    first, second = (make_box.make_box(root, tmp_path / f"{name}.zip") for name in "ab")
    assert first == second == hashlib.sha256((tmp_path / "a.zip").read_bytes()).hexdigest()
    archive = zipfile.ZipFile(tmp_path / "a.zip")
    assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
    assert json.loads(archive.read("about.json"))["made_from"] == "the challenge's own photographs"
    (row, *_) = csv.DictReader(io.StringIO(archive.read(MANIFEST).decode()))
    original = (root / FOLDERS["train"] / "ISIC_0000000.jpg").read_bytes()
    assert row["native_sha256"] == hashlib.sha256(original).hexdigest() and row["width"] == "256"


@pytest.mark.real_data
def test_images_of_the_committed_archive_are_what_the_script_makes(real_data):
    for path in sorted((real_data / FOLDERS["train"]).glob("*.jpg"))[::100]:
        assert make_box.shrink_image(path)[0] == (box.open_box() / FOLDERS["train"] / f"{path.stem}.webp").read_bytes()


@pytest.mark.real_data
@pytest.mark.long
def test_the_committed_archive_is_what_the_script_makes(real_data, tmp_path):
    assert make_box.make_box(real_data, tmp_path / "box.zip") == box.SHA256
