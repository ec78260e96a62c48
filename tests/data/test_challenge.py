"""The challenge's folders and files: one table, or every problem at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from challenge import SMALL, read_dataset, write_challenge

from lesion_utils.core.errors import DataError
from lesion_utils.data.challenge import CHALLENGE_COUNTS, FOLDERS, LABEL_FILES, scan_dataset

TRAIN = LABEL_FILES["train"]


@pytest.fixture
def root(tmp_path):
    return write_challenge(tmp_path / "data")


def test_the_table_is_sorted_and_complete(root):
    lines = (root / TRAIN).read_text().splitlines()
    (root / TRAIN).write_text("\n".join(reversed(lines)))
    table = read_dataset(root)
    assert list(table.columns) == ["image_id", "split", "target", "path"]
    assert list(table["image_id"]) == [f"ISIC_{i:07d}" for i in range(8)]
    assert list(table["split"]) == ["train"] * 5 + ["test"] * 3
    assert list(table["target"]) == [0, 0, 0, 1, 1, 0, 0, 1]
    assert [Path(path).stem for path in table["path"]] == list(table["image_id"])


@pytest.mark.fault("data", "missing and surplus images, contradicting labels", "all in one error")
def test_all_problems_come_in_one_report(root):
    text = (root / TRAIN).read_text().replace("ISIC_0000001,benign", "ISIC_0000001,naevus")
    (root / TRAIN).write_text(text + "ISIC_0000099,benign\nISIC_0000003,benign\nISIC_0000006,benign\n")
    (root / FOLDERS["train"] / "ISIC_0000000.jpg").rename(root / FOLDERS["train"] / "ISIC_0000077.jpg")
    shutil.copy(root / FOLDERS["test"] / "ISIC_0000006.jpg", root / FOLDERS["train"])
    (root / LABEL_FILES["test"]).write_text("ISIC_0000005,0.0\nISIC_0000006,0.0\n")
    with pytest.raises(DataError) as caught:
        read_dataset(root)
    report = str(caught.value).splitlines()
    assert report[0].endswith("7 problems in the data:")
    for words in (
        f"{TRAIN}:2: unknown label 'naevus' of ISIC_0000001",
        f"{TRAIN}:6: ISIC_0000099 has no image",
        f"{TRAIN}:7: ISIC_0000003 is benign here and malignant in line 4",
        f"{TRAIN}:1: ISIC_0000000 has no image",
        "ISIC_0000077.jpg: image without a label",
        "ISIC_0000007.jpg: image without a label",
        "ISIC_0000006: is in the training and in the test set",
    ):
        assert sum(words in line for line in report) == 1, words


def test_wrong_counts_are_refused(root):
    with pytest.raises(DataError, match=r"3 benign and 2 malignant images with .* expected 727 and 173"):
        read_dataset(root, CHALLENGE_COUNTS)
    assert len(read_dataset(root, None)) == 8


def test_other_files_are_remarked(root):
    (root / FOLDERS["train"] / "Thumbs.db").touch()
    (root / FOLDERS["train"] / "ISIC_0000000_mask.png").touch()
    problems, notes = [], []
    scan_dataset(root, counts=SMALL, problems=problems, notes=notes)
    assert problems == []
    assert notes == [f"{FOLDERS['train']}: left aside what is neither .jpg nor .webp (1 x .db, 1 x .png)"]


def test_an_empty_folder_names_what_belongs_there(tmp_path):
    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path)
    for name in (*FOLDERS.values(), *LABEL_FILES.values()):
        assert f"{name}: this " in str(caught.value)


@pytest.mark.real_data
def test_the_challenge_has_its_counts_and_labels(real_data):
    table = read_dataset(real_data, CHALLENGE_COUNTS)
    for split, counts in CHALLENGE_COUNTS.items():
        assert tuple(table[table["split"] == split]["target"].value_counts().sort_index()) == counts
    # Counted from the raw text, without the reader: its test labels are numbers, the training labels words.
    raw = {split: (real_data / name).read_bytes() for split, name in LABEL_FILES.items()}
    assert raw["train"].count(b",malignant\r\n") == 173 and raw["test"].count(b",1.0\r\n") == 75
