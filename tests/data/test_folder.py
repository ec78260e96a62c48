"""Images of one's own: found by whatever their labels call them, split by patient, refused with a reason."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from challenge import draw_picture, encode_jpeg
from PIL import Image
from sections import data_params

from lesion_utils.config.data import External
from lesion_utils.config.sources import fingerprint_source
from lesion_utils.core import paths
from lesion_utils.core.errors import DataError
from lesion_utils.data.folder import read_folder
from lesion_utils.data.prepare import prepare_study
from lesion_utils.data.prepared import load_prepared
from lesion_utils.data.split import group_images, make_split
from lesion_utils.evaluation.external import find_seen


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Forty pictures of twenty patients; the second picture of a patient lies in another folder."""
    for variable in ("LESION_CACHE", "REPORTS_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    lines = ["Image;Label;Patient;Site"]
    for number in range(40):
        name = f"{number // 20}/{number:03d}"
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        draw_picture(number).save(tmp_path / "images" / f"{name}{'.PNG' if number % 2 else '.jpg'}")
        label = "MALIGNANT" if number % 4 == 0 else "benign"
        lines.append(f"{number:03d}{'.jpg' * (number % 3 == 0)};{label};P{number % 20};S{number % 2}")
    (tmp_path / "labels.csv").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    return tmp_path


def own_params(folder, **changes):
    where = {"source": "folder", "images": str(folder / "images"), "labels": str(folder / "labels.csv")}
    return data_params(**where | {"stored_size": 48, "publish_ids": True} | changes)


def prepare(folder, **changes):
    return prepare_study(paths.Study("t"), SimpleNamespace(data=own_params(folder, **changes)))


def read(folder):
    return read_folder(str(folder / "images"), str(folder / "labels.csv"), keep_names=True)


def edit(folder, old: str, new: str) -> None:
    path = folder / "labels.csv"
    path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))


@pytest.mark.parametrize("folds", [1, 3])
def test_a_patient_is_on_one_side_and_in_one_fold_and_both_classes_are_in_proportion(own, folds):
    data = prepare(own, folds=folds, validation_fraction=0.25 if folds == 1 else None, test_fraction=0.25)
    table = data.table
    assert list(table["image_id"]) == [f"{number:03d}" for number in range(40)], "numbers stay text"
    part = table["subset"] + (table["fold"].astype(str) if folds > 1 else "")
    assert part.groupby(table["patient"]).nunique().max() == 1
    test = table[table["split"] == "test"]
    assert ((test["target"] == 0).sum(), (test["target"] == 1).sum()) == (8, 2)
    assert data.summary == f"40 images ({40 - len(test)} training, {len(test)} test), long side up to 96 px"
    assert data.label_changes.empty and data.images.shape == (40, 48, 48, 3)
    for path in (paths.reports_root() / "t" / "data").iterdir():
        assert str(own) not in path.read_text(), "an absolute path"


def test_duplicates_join_patients_and_stay_together(own):
    (own / "images" / "1" / "021.PNG").write_bytes((own / "images" / "0" / "004.jpg").read_bytes())  # P1's is P4's
    data = prepare(own)
    assert data.duplicates[["image_id_a", "image_id_b", "kind"]].to_numpy().tolist() == [["004", "021", "same bytes"]]
    pair = data.table.set_index("image_id").loc[["001", "004", "021", "024"]]
    assert pair["subset"].nunique() == 1
    assert (data.duplicates["split_a"] == pair["split"].iloc[0]).all()


def test_a_named_subset_is_kept_and_a_patient_in_both_is_refused(own):
    text = (own / "labels.csv").read_text("utf-8-sig").splitlines()
    named = [f"{line};{'test' if number % 20 < 6 else 'Training'}" for number, line in enumerate(text[1:])]
    (own / "labels.csv").write_text("\n".join([f"{text[0]};subset", *named]))
    table = prepare(own, validation_fraction=0.4).table
    assert set(table["patient"][table["split"] == "test"]) == {f"P{k}" for k in range(6)}
    edit(own, "P7;S1;Training", "P7;S1;test")
    edit(own, "007;benign;P7;S1;test", "007;benign;P7;S1;train")
    with pytest.raises(DataError, match=r"labels.csv:29: patient P7 is in test, and in train in line 9"):
        read(own)
    edit(own, "P8;S0;Training", "P8;S0;later")
    with pytest.raises(DataError, match=r"labels.csv:10: subset 'later' of 008, expected train, val or test"):
        read(own)


def test_every_problem_is_in_one_error(own):
    edit(own, "005;benign", "005;unsure")
    edit(own, "007;benign", "0070;benign")
    (own / "images" / "1" / "010.jpg").write_bytes(b"no image")
    (own / "images" / "0" / "011.PNG").write_bytes(b"no image")
    Image.fromarray(np.full((64, 64), 20_000, np.uint16)).save(own / "images" / "0" / "013.PNG")
    with pytest.raises(DataError) as caught:
        read(own)
    report = str(caught.value)
    for words in (
        "labels.csv: 5 problems in the data:",
        "labels.csv:7: unknown label 'unsure' of 005",
        "labels.csv:9: 0070 has no image",
        "labels.csv:12: 010 fits 0/010.jpg and 1/010.jpg, expected its path",
        "0/011.PNG: does not decode: not an image",
        "0/013.PNG: its grey values have more than 8 bits",
        "do next",
    ):
        assert words in report, report
    for name in ("1/010.jpg", "0/011.PNG"):
        (own / "images" / name).write_bytes((own / "images" / "0" / "001.PNG").read_bytes())
    edit(own, "005;unsure", "005;benign")
    edit(own, "0070;benign", "007;benign")
    edit(own, "010;benign", "1/010.jpg;benign")
    with pytest.raises(DataError, match=r"1 problem in the data:\n.*0/013.PNG: its grey values have more than 8 bits"):
        read(own)


def test_two_lines_of_one_file_are_refused_and_a_long_list_is_cut(own):
    edit(own, "005;benign", "0/004;malignant")
    with pytest.raises(DataError, match=r"labels.csv:7: 0/004.jpg has a label in line 6 already"):
        read(own)
    edit(own, ";benign", ";benign;surplus")
    with pytest.raises(DataError, match=r"30 problems") as caught:
        read(own)
    assert "more" not in str(caught.value)
    edit(own, "MALIGNANT", "MALIGNANT;surplus")
    with pytest.raises(DataError, match=r"39 problems(.|\n)*  - and 9 more\n  expected"):
        read(own)


def test_images_without_a_label_are_left_aside_and_unusual_ones_remarked(own):
    draw_picture(50, mode="L").save(own / "images" / "0" / "001.PNG")
    draw_picture(51, mode="CMYK").save(own / "images" / "0" / "002.jpg")
    (own / "images" / "mask.bmp").write_bytes(b"never opened")
    (own / "images" / "notes.txt").touch()
    table, notes = read(own)
    assert len(table) == 40 and notes == [
        "1 images without a label were left aside", "1 x JPEG in mode CMYK, converted to RGB",
        "1 x PNG in mode L, converted to RGB",
    ]  # fmt: skip


def test_what_is_not_there_is_said_as_it_was_named(own):
    with pytest.raises(DataError, match=r"data.yaml: there is no folder data/nowhere"):
        read_folder("data/nowhere", "data/labels.csv", keep_names=True)
    with pytest.raises(DataError, match=r"data.yaml: there is no file data/nowhere.csv"):
        read_folder(str(own / "images"), "data/nowhere.csv", keep_names=True)
    (own / "labels.csv").write_text("image,label\n")
    with pytest.raises(DataError, match=r"labels.csv: no label in it"):
        read(own)


def test_a_changed_image_or_label_makes_the_step_run_again(own):
    params = own_params(own)
    before = fingerprint_source(params)
    assert before == fingerprint_source(params)
    (own / "images" / "0" / "001.PNG").write_bytes(encode_jpeg(draw_picture(1)))
    changed = fingerprint_source(params)
    edit(own, "P1;", "P2;")
    assert len({before, changed, fingerprint_source(params)}) == 3
    assert fingerprint_source(own_params(own / "nowhere")) is not None


def test_a_large_patient_goes_where_there_is_room_for_both_classes():
    """One patient with a malignant image and thirty benign ones counts as what it is, in both classes."""
    patients = ["P"] * 31 + [f"Q{k}" for k in range(169)]
    targets = [1] + [0] * 30 + [int(k % 8 == 0) for k in range(169)]
    ids = [f"{k:03d}" for k in range(200)]
    table = pd.DataFrame({"image_id": ids, "split": "train", "target": targets, "patient": patients})
    table.loc[195:, "split"] = "test"
    none = pd.DataFrame(columns=["image_id_a", "image_id_b"])
    assert group_images(table, none)[:31].nunique() == 1
    for seed in range(20):
        split = make_split(table, data_params(seed=seed), duplicates=none)
        learnt = split[split["subset"] != "test"]
        for target in (0, 1):
            own = learnt[learnt["target"] == target]
            assert abs((own["subset"] == "val").sum() - 0.2 * len(own)) < 2, (seed, target)


def test_an_external_set_that_training_has_seen_is_found_out(own):
    """The same bytes, and another size; images of one's own that are in test count as what they are."""
    away = own / "away"
    away.mkdir()
    table = prepare(own, validation_fraction=0.4).table.set_index("image_id")
    learnt, test = (table.index[table["subset"] == subset] for subset in ("train", "test"))
    (away / "a.png").write_bytes(table["path"][learnt[0]].read_bytes())
    Image.open(table["path"][learnt[1]]).resize((240, 160)).save(away / "b.png")
    (away / "c.png").write_bytes(table["path"][test[0]].read_bytes())
    draw_picture(200).save(away / "d.png")
    (own / "away.csv").write_text("image,label,skin_type,patient\na,0,I,x\nb,1,II,x\nc,0,,x\nd,1,II,x\n")
    place = External(images=str(away), labels=str(own / "away.csv"), licence="CC-BY", publish=True)
    data = prepare(own, validation_fraction=0.4, external={"P 1": place})
    others = load_prepared(paths.Study("t"), own_params(own, external={"P 1": place})).external
    assert others["image_id"].tolist() == ["P 1/a", "P 1/b", "P 1/c", "P 1/d"] and "patient" not in others
    assert others["seen_as"].tolist() == [learnt[0], learnt[1], test[0], ""]
    assert others["seen_in"].tolist() == ["train", "train", "test", ""]
    assert others["seen_how"].tolist() == ["same bytes", "near", "same bytes", ""]
    assert find_seen(others).tolist() == [True, True, False, False]
    assert data.external_images.shape == (4, 48, 48, 3) and len(data.table) == 40
    said = data.manifest["external"]["P 1"]
    assert said == {"images": 4, "malignant": 2, "seen": {"train": 2, "test": 1}, "licence": "CC-BY"}
    before = fingerprint_source(own_params(own, external={"P 1": place}))
    (own / "away.csv").write_text("image,label\na,0\n")
    assert fingerprint_source(own_params(own, external={"P 1": place})) != before
    (own / "away.csv").unlink()
    with pytest.raises(DataError, match=r"data.yaml: external.P 1: there is no file"):
        prepare(own, validation_fraction=0.4, external={"P 1": place})
