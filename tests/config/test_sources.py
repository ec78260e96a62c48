"""The fingerprint of a source changes with what it stands for, quickly, without heavy libraries."""

from __future__ import annotations

import os

import pytest
from challenge import write_challenge
from sections import data_params

from lesion_utils.config import sources
from lesion_utils.core.definitions import fingerprint_definitions
from lesion_utils.data.challenge import FOLDERS, LABEL_FILES, MANIFEST


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    return tmp_path


def test_the_challenges_files_count_by_name_size_and_date(root):
    seen = [sources.fingerprint_source(data_params())]
    write_challenge(root)
    image = root / FOLDERS["train"] / "ISIC_0000000.jpg"
    for change in (
        lambda: None,
        lambda: os.utime(image, ns=(1, 1)),
        lambda: image.write_bytes(b"other"),
        lambda: image.rename(image.with_name("ISIC_0000077.jpg")),
        lambda: (root / LABEL_FILES["test"]).write_text("other"),
        lambda: (root / MANIFEST).write_text("native sizes"),
    ):
        change()
        seen.append(sources.fingerprint_source(data_params()))
    assert len(set(seen)) == len(seen)
    (root / "notes.txt").touch()
    assert sources.fingerprint_source(data_params(seed=7, stored_size=99)) == seen[-1]


def test_embedded_images_count_with_the_code_that_names_them():
    assert sources.fingerprint_source(data_params(source="embedded")) is None
    assert "isic2016_256px.zip" in fingerprint_definitions(["data.prepare:prepare_study"])
