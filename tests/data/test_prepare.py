"""The step "data", from files to what every notebook opens."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from challenge import SMALL, draw_picture, encode_jpeg, read_dataset, write_challenge
from PIL import Image
from sections import data_params
from small_project import AWKWARD_NAME

from lesion_utils.core import paths
from lesion_utils.core.errors import DataError
from lesion_utils.data import challenge as isic
from lesion_utils.data import prepare
from lesion_utils.data.images import decode_square
from lesion_utils.data.prepare import prepare_study, read_verified
from lesion_utils.data.prepared import load_prepared, read_label_changes


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Folders of data, cache and reports of this test's own."""
    folder = tmp_path / AWKWARD_NAME
    folder.mkdir()
    for variable, name in {"DATA_DIR": "data", "LESION_CACHE": "cache", "REPORTS_DIR": "reports"}.items():
        monkeypatch.setenv(variable, str(folder / name))
    return folder


COUNTS = {"train": (12, 8), "test": (6, 4)}
LEAKS = {"ISIC_0000280", "ISIC_0001184", "ISIC_0001385"}
PAIRS = {
    ("ISIC_0000280", "ISIC_0000279"): "same bytes",
    ("ISIC_0000519", "ISIC_0011295"): "near",
    ("ISIC_0001184", "ISIC_0001484"): "same bytes",
    ("ISIC_0001385", "ISIC_0001685"): "same bytes",
    ("ISIC_0001442", "ISIC_0001742"): "same bytes",
}


def prepare_it(**changes):
    return prepare_study(paths.Study("t"), SimpleNamespace(data=data_params(stored_size=48, **changes)))


@pytest.fixture
def root(places, monkeypatch):
    """A small challenge."""
    monkeypatch.setattr(prepare, "CHALLENGE_COUNTS", COUNTS)
    return write_challenge(places / "data", COUNTS)


@pytest.fixture
def challenge(root):
    """It prepared: a train and a test image are one, two training images are one in another size."""
    train, test = (root / folder for folder in isic.FOLDERS.values())
    (train / "ISIC_0000002.jpg").write_bytes((test / "ISIC_0000021.jpg").read_bytes())
    Image.open(train / "ISIC_0000005.jpg").resize((240, 160)).save(train / "ISIC_0000006.jpg")
    return prepare_it()


def test_the_outputs_say_what_is_in_the_files(challenge, places):
    data = places / "reports" / "t" / "data"
    assert sorted(p.name for p in data.iterdir()) == ["duplicates.csv", "images.csv", "manifest.json", "split.csv"]
    manifest, images = json.loads((data / "manifest.json").read_text()), pd.read_csv(data / "images.csv")
    for row in images.itertuples():
        raw = (places / "data" / isic.FOLDERS[row.split] / f"{row.image_id}.jpg").read_bytes()
        assert manifest["images"][row.image_id] == row.sha256 == hashlib.sha256(raw).hexdigest()
        assert row.bytes == row.native_bytes == len(raw)
    assert manifest["subsets"]["test"] == {"benign": 6, "malignant": 4}
    assert manifest["subsets"]["left_out"] == {"benign": 1, "malignant": 0}
    assert manifest["summary"] == "30 images (20 training, 10 test), long side up to 240 px"
    for path in data.iterdir():
        assert str(places) not in path.read_text(), "an absolute path"


def test_later_steps_open_the_same_images(challenge):
    prepared = load_prepared(paths.Study("t"), data_params())
    table = prepared.table
    assert list(table["image_id"]) == list(challenge.table["image_id"])
    for row in (0, 17, 29):
        wanted = decode_square(table["path"][row], size=48, aspect="squash")
        np.testing.assert_array_equal(prepared.images[row], wanted)
    assert table["subset"].value_counts().to_dict() == {"train": 15, "test": 10, "val": 4, "left_out": 1}
    assert table["subset"][2] == "left_out" and table["subset"][5] == table["subset"][6]
    kinds = prepared.duplicates.set_index("image_id_a")["kind"].to_dict()
    assert kinds == {"ISIC_0000002": "same bytes", "ISIC_0000005": "near"}


def test_pixel_statistics_are_those_of_the_decoded_images(challenge):
    images = challenge.images.astype(float)
    table = challenge.table
    np.testing.assert_allclose(table[["red_mean", "green_mean", "blue_mean"]], images.mean(axis=(1, 2)), rtol=1e-8)
    np.testing.assert_allclose(table[["red_std", "green_std", "blue_std"]], images.std(axis=(1, 2)), rtol=1e-8)
    corners = np.stack([images[:, y : y + 4, x : x + 4] for y in (0, 44) for x in (0, 44)])
    np.testing.assert_allclose(table["corner_mean"], corners.mean(axis=(0, 2, 3, 4)), rtol=1e-8)


def test_padding_is_not_part_of_the_statistics(root):
    white = encode_jpeg(Image.new("RGB", (96, 64), "white"))
    (root / isic.FOLDERS["train"] / "ISIC_0000000.jpg").write_bytes(white)
    prepared = prepare_it(aspect="pad")
    first = prepared.table.iloc[0]
    assert prepared.images[0].min() == 0
    assert (first["red_mean"], first["red_std"], first["corner_mean"]) == (255, 0, 255)


def test_preparing_again_changes_no_file(challenge, places):
    data = places / "reports" / "t" / "data"
    for path in data.iterdir():
        os.utime(path, ns=(1, 1))
    prepare_it()
    assert {path.stat().st_mtime_ns for path in data.iterdir()} == {1}
    prepare_it(seed=2)
    assert {p.name for p in data.iterdir() if p.stat().st_mtime_ns != 1} == {"split.csv", "manifest.json"}


def test_the_content_hash_follows_bytes_labels_and_split(challenge, places):
    before = challenge.manifest["content"]
    labels = places / "data" / isic.LABEL_FILES["train"]
    text = labels.read_text()
    swapped = text.replace("0000000,benign", "0000000,malignant").replace("0000019,malignant", "0000019,benign")
    labels.write_text(swapped)
    relabelled = prepare_it().manifest["content"]
    labels.write_text(text)
    reseeded = prepare_it(seed=3).manifest["content"]
    assert len({before, relabelled, reseeded}) == 3 and prepare_it().manifest["content"] == before


def test_progress_is_reported_to_the_end(root):
    calls = []
    prepare_study(paths.Study("t"), SimpleNamespace(data=data_params()), on_event=calls.append)
    assert calls == [{"stage": "decode", "done": done, "total": 30} for done in range(1, 31)]


def test_every_problem_is_in_one_report(places):
    root = write_challenge(places / "data")
    train, test = (root / folder for folder in isic.FOLDERS.values())
    (train / "ISIC_0000000.jpg").write_bytes(b"no image")
    (train / "ISIC_0000001.jpg").write_bytes(encode_jpeg(draw_picture(0, width=900, height=40)))
    cut = (test / "ISIC_0000006.jpg").read_bytes()
    (test / "ISIC_0000006.jpg").write_bytes(cut[: len(cut) // 2])
    (test / "ISIC_0000007.jpg").unlink()
    with pytest.raises(DataError) as caught:
        read_verified(root, counts=SMALL)
    report = str(caught.value)
    assert "4 problems" in report
    for words in (
        "ISIC_0000000.jpg: does not decode: not an image",
        "ISIC_0000001.jpg: absurd size, 900 x 40 px",
        "ISIC_0000006.jpg: does not decode: image file is truncated",
        "ISIC_0000007 has no image",
    ):
        assert words in report


def test_grey_and_cmyk_images_are_converted_and_remarked(places):
    root = write_challenge(places / "data")
    folder = root / isic.FOLDERS["train"]
    (folder / "ISIC_0000000.jpg").write_bytes(encode_jpeg(draw_picture(0, mode="L")))
    (folder / "ISIC_0000001.jpg").write_bytes(encode_jpeg(draw_picture(0, mode="CMYK")))
    draw_picture(0).save(folder / "ISIC_0000002.jpg", "PNG")
    table, notes = read_verified(root, counts=SMALL)
    assert notes == [
        "ISIC_0000000: JPEG in mode L, converted to RGB",
        "ISIC_0000001: JPEG in mode CMYK, converted to RGB",
        "ISIC_0000002: PNG in mode RGB, converted to RGB",
    ]
    assert list(table["mode"][:3]) == ["L", "CMYK", "RGB"]


def test_native_sizes_come_from_the_folders_manifest_and_its_hashes_are_checked(places):
    root = write_challenge(places / "data")
    table, _ = read_verified(root, counts=SMALL)
    known = table[["image_id", "split", "sha256"]].assign(
        native_width=4000, native_height=3000, native_bytes=10**6, native_sha256="ab"
    )
    known.sample(frac=1, random_state=0).to_csv(root / isic.MANIFEST, index=False)
    again, _ = read_verified(root, counts=SMALL)
    assert set(again["native_width"]) == {4000} and set(again["width"]) == {96}
    (root / isic.FOLDERS["train"] / "ISIC_0000001.jpg").write_bytes(encode_jpeg(draw_picture(77)))
    with pytest.raises(DataError, match=r"1 problem in the data:\n.*0001.jpg: not the file that manifest"):
        read_verified(root, counts=SMALL)


def test_a_study_that_was_not_prepared_says_so(places):
    with pytest.raises(DataError, match="not prepared") as caught:
        load_prepared(paths.Study("mine"), data_params())
    assert "make all STUDY=mine" in str(caught.value)


def assert_whole_challenge(prepared):
    assert prepared.manifest["notes"] == []
    assert set(prepared.table["image_id"][prepared.table["subset"] == "left_out"]) == LEAKS
    assert prepared.duplicates.set_index(["image_id_a", "image_id_b"])["kind"].to_dict() == PAIRS


@pytest.mark.slow
def test_the_embedded_images_are_the_whole_challenge_with_its_native_sizes_and_duplicates(places):
    prepared = prepare_it(source="embedded")
    assert prepared.summary == "1,279 images (900 training, 379 test), resized to at most 256 px"
    assert len(prepared.label_changes) == 7
    assert_whole_challenge(prepared)
    native = prepared.table.set_index("image_id").loc["ISIC_0000000"]
    assert (native["native_width"], native["native_height"], native["native_bytes"]) == (1022, 767, 50993)


def test_the_table_of_label_changes_is_well_formed():
    changes = read_label_changes()
    assert len(changes) == 7 and changes["image_id"].is_unique
    assert set(changes["label_2016"]) == {"benign"} and set(changes["label_today"]) == {"melanoma", "indeterminate"}


@pytest.mark.real_data
def test_label_changes_agree_with_the_challenges_labels(real_data):
    merged = read_label_changes().merge(read_dataset(real_data, isic.CHALLENGE_COUNTS), on=["image_id", "split"])
    assert len(merged) == 7 and (merged["target"] == 0).all()


@pytest.mark.real_data
@pytest.mark.slow
def test_the_challenge_is_prepared(real_data, places, monkeypatch):
    monkeypatch.setenv("DATA_DIR", str(real_data))
    prepared = prepare_it()
    assert prepared.summary == "1,279 images (900 training, 379 test), resized to at most 640 px"
    assert_whole_challenge(prepared)
    assert Path(prepared.images.filename).parent == places / "cache" / "images"
