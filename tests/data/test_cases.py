"""Label files and images as public data sets have them: each is read as its owner means it, or says what to set.

The files are of `shared/cases` beside the project, or of the folder that CASES_DIR names.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from challenge import draw_picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageCms
from sections import data_params

from lesion_utils.config.data import LabelRules
from lesion_utils.core import paths
from lesion_utils.core.errors import DataError
from lesion_utils.data.folder import FolderIndex, read_folder, walk_files
from lesion_utils.data.images import ImageError, decode_square, inspect_image
from lesion_utils.data.labels import normalise_group, read_labels
from lesion_utils.data.prepare import prepare_study
from lesion_utils.data.split import make_split

NO_DUPLICATES = pd.DataFrame(columns=["image_id_a", "image_id_b"])


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A hundred small pictures, im000 to im099."""
    for variable in ("LESION_CACHE", "REPORTS_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    (tmp_path / "images").mkdir()
    for number in range(100):
        draw_picture(number, width=64, height=48).save(tmp_path / "images" / f"im{number:03d}.jpg")
    return tmp_path


def write(folder: Path, text: str, name: str = "labels.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def read(path: Path, **rules):
    problems, notes = [], []
    return read_labels(path, LabelRules(**rules), problems=problems, notes=notes), problems, notes


def prepare(folder: Path, labels: str, **changes):
    where = {"source": "folder", "images": str(folder / "images"), "labels": labels, "publish_ids": True}
    where |= {"stored_size": 48}
    return prepare_study(paths.Study("t"), SimpleNamespace(data=data_params(**where | changes)))


def table_of(columns: str, rows: list[str]) -> str:
    return "\n".join([columns, *rows]) + "\n"


# --- columns and classes ----------------------------------------------------------------------------------------------

NUMBERS = range(40)
HAM = table_of("lesion_id,image_id,dx,age", [f"L{n // 2},im{n:03d},{'nv' if n % 4 else 'mel'},50" for n in NUMBERS])
ONE_HOT = table_of("image,MEL,NV,BCC", [f"im{n:03d},{'0.0,1.0' if n % 4 else '1.0,0.0'},0.0" for n in NUMBERS])
ISIC_2017 = table_of(
    "image_id,melanoma,seborrheic_keratosis", [f"im{n:03d},{'0.0' if n % 4 else '1.0'},0.0" for n in NUMBERS]
)
PAD = table_of(
    "patient_id,img_id,diagnostic", [f"P{n // 2},im{n:03d}.png,{'NEV' if n % 4 else 'MEL'}" for n in NUMBERS]
)


@pytest.mark.parametrize(
    ("text", "rules", "suggested"),
    [
        (HAM, {"columns": {"label": "dx"}, "malignant": ["mel"]}, ["label: dx", "malignant: [mel]"]),
        (HAM, {"malignant": ["MEL"], "benign": ["NV"]}, ["image: image_id"]),
        (ONE_HOT, {"malignant": ["MEL", "BCC"]}, ["malignant: [MEL, BCC]"]),
        (ISIC_2017, {"columns": {"label": "melanoma"}}, ["malignant: [melanoma]"]),
        (PAD, {"columns": {"image": "img_id", "label": "diagnostic"}, "malignant": ["mel"]}, ["label: diagnostic"]),
    ],
    ids=["HAM10000", "HAM10000, both classes", "one-hot", "ISIC 2017", "PAD-UFES-20"],
)
def test_a_foreign_table_says_what_to_set_and_is_read_once_that_is_set(tmp_path, text, rules, suggested):
    path = write(tmp_path, text)
    labels, (problem,), _ = read(path)
    assert not labels and "the columns and some of their values" in problem and "data.yaml" in problem
    assert all(words in problem for words in suggested), problem
    labels, problems, _ = read(path, **rules)
    assert problems == [] and len(labels) == 40
    assert [label.target for label in labels.values()] == [int(n % 4 == 0) for n in range(40)]


def test_columns_that_are_not_read_are_named_once(tmp_path):
    _, _, notes = read(write(tmp_path, HAM), malignant=["mel"])
    assert notes == ["labels.csv: columns not read: age"]


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"malignant": ["mell"]}, "no line has the label 'mell', did you mean 'mel'?"),
        ({"malignant": ["mel"], "benign": ["bkl"]}, "label 'nv' of im001 is neither in malignant nor in benign"),
        ({"columns": {"image": "imageid"}}, "no column 'imageid', did you mean 'image_id'?"),
    ],
)
def test_a_misspelt_class_or_column_is_refused(tmp_path, rules, words):
    _, problems, _ = read(write(tmp_path, HAM), **rules)
    assert any(words in problem for problem in problems), problems


@pytest.mark.parametrize(
    "raw",
    [
        "sep=;\nimage;label\nim000;malignant\nim001;benign\n".encode("utf-8-sig"),
        "image\tlabel\nim000\tmalignant\nim001\tbenign\n".encode("utf-16"),
        b"image,label,,\nim000,malignant,,\nim001,benign,,\n",
        b"Labels of our clinic\n\nimage,label\nim000,malignant\nim001,benign\n",
        b"||   Name  ||  Label ||\n||  im000  ||  malignant ||\n||  im001  ||  benign  ||\n",
    ],
    ids=["sep=", "UTF-16", "empty columns", "a title", "PH2's table"],
)
def test_what_spreadsheets_export_is_read(tmp_path, raw):
    (tmp_path / "labels.csv").write_bytes(raw)
    labels, problems, _ = read(tmp_path / "labels.csv")
    assert problems == [] and {name: label.target for name, label in labels.items()} == {"im000": 1, "im001": 0}


def test_a_workbook_is_read_or_says_what_reads_it(tmp_path):
    try:
        import openpyxl
    except ModuleNotFoundError:
        (tmp_path / "labels.xlsx").write_bytes(b"PK")
        assert "needs the package openpyxl" in read(tmp_path / "labels.xlsx")[1][0]
        return
    book = openpyxl.Workbook()
    for row in (["PH2 Dataset"], [], ["Image Name", "Common Nevus", "Melanoma"], ["im000", None, "X"], ["im001", "X"]):
        book.active.append(row)
    book.save(tmp_path / "labels.xlsx")
    labels, problems, _ = read(tmp_path / "labels.xlsx", malignant=["Melanoma"])
    assert problems == [] and [label.target for label in labels.values()] == [1, 0]


# --- groups -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("0", "0"), ("0.0", "0"), ("00", "0"), ("7", "7"), ("7.00", "7"), ("007", "7"), ("1e1", "10"), ("P7", "P7"),
        ("NA", ""), ("-1", ""), ("unknown", ""), ("nan", ""), ("N/A", ""), ("", ""), ("?", ""), ("inf", ""),
    ],
)  # fmt: skip
def test_a_number_is_one_patient_however_it_is_written_and_a_missing_one_is_nobody(text, name):
    assert normalise_group(text) == name


@pytest.mark.parametrize("folds", [1, 4])
def test_images_of_a_lesion_stay_together(own, folds):
    write(own, HAM)
    data = prepare(
        own, str(own / "labels.csv"), malignant=["mel"], folds=folds, validation_fraction=0.25 if folds == 1 else None
    )
    part = data.table["subset"] + data.table.get("fold", pd.Series("", data.table.index)).astype(str)
    assert part.groupby(data.table["lesion"]).nunique().max() == 1
    assert any("columns not read: age" in note for note in data.manifest["notes"])


@settings(max_examples=25)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=12, max_size=40),
    seed=st.integers(0, 2**16),
    folds=st.sampled_from([1, 2, 5]),
)
def test_groups_of_any_shape_give_a_split_or_a_reason(sizes, seed, folds):
    """No group is ever divided, both classes are everywhere, and a share that could not be kept is said."""
    rng = np.random.default_rng(seed)
    patients = np.repeat([f"P{k}" for k in range(len(sizes))], sizes)
    table = pd.DataFrame(
        {"image_id": [f"im{k:03d}" for k in range(len(patients))], "split": "train", "patient": patients}
    )
    table["target"] = (rng.random(len(table)) < 0.4).astype(int)
    params = data_params(folds=folds, validation_fraction=0.2 if folds == 1 else None, seed=seed)
    notes = []
    try:
        split = make_split(table, params, duplicates=NO_DUPLICATES, notes=notes)
    except DataError as error:
        assert "do next" in str(error)
        return
    part = split["fold"] if folds > 1 else split["subset"]
    assert part.groupby(table["patient"]).nunique().max() == 1
    assert (table.groupby(part)["target"].nunique() == 2).all()
    for _, chosen in part.groupby(table["target"]):
        shares = dict.fromkeys(range(1, folds + 1), 1 / folds) if folds > 1 else {"train": 0.8, "val": 0.2}
        for name, share in shares.items():
            off = abs((chosen == name).sum() - share * len(chosen))
            assert off <= max(sizes) or any(note.startswith(f"{'fold ' * (folds > 1)}{name} has") for note in notes)


@pytest.mark.parametrize("seed", range(8))
def test_pairs_with_both_labels_are_divided_into_folds(seed):
    table = pd.DataFrame({
        "image_id": [f"im{k:03d}" for k in range(100)], "split": "train",
        "patient": [f"P{k // 2}" for k in range(100)], "target": [int(k % 2 == 1 and k % 25 < 18) for k in range(100)],
    })  # fmt: skip
    split = make_split(
        table, data_params(folds=5, validation_fraction=None, seed=seed), duplicates=NO_DUPLICATES, notes=[]
    )
    assert (split.groupby("fold")["target"].nunique() == 2).all()


def test_a_class_in_one_group_is_refused_before_training():
    table = pd.DataFrame({
        "image_id": [f"im{k:03d}" for k in range(40)], "split": "train",
        "patient": ["P"] * 10 + [f"Q{k}" for k in range(30)], "target": [1] * 10 + [0] * 30,
    })  # fmt: skip
    for changes in ({}, {"folds": 4, "validation_fraction": None}):
        with pytest.raises(DataError, match=r"belong to one patient|1 groups of one class"):
            make_split(table, data_params(**changes), duplicates=NO_DUPLICATES)


# --- files and folders ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "{subset}/"])
def test_folders_named_after_their_classes_are_labels(own, below):
    for number, path in enumerate(sorted((own / "images").iterdir())):
        subset = ("train", "val", "test")[number % 3]
        folder = own / "images" / below.format(subset=subset) / ("Malignant" if number % 4 == 0 else "benign")
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / path.name)
    data = prepare(own, "folders")
    assert len(data.table) == 100 and data.table["target"].sum() == 25
    if below:
        named = data.table["image_id"].str.split("/").str[0]
        assert (data.table["subset"] == named).all()


def test_folders_of_other_classes_are_read_once_data_yaml_names_them(own):
    for number, path in enumerate(sorted((own / "images").iterdir())):
        folder = own / "images" / ("melanoma" if number % 4 == 0 else "nevus")
        folder.mkdir(exist_ok=True)
        path.rename(folder / path.name)
    with pytest.raises(DataError, match=r"no class in the names of these folders: melanoma \(25 images\), nevus \(75"):
        read_folder(str(own / "images"), "folders", keep_names=True)
    table, _ = read_folder(
        str(own / "images"), "folders", LabelRules(malignant=["melanoma"], benign=["nevus"]), keep_names=True
    )
    assert table["target"].sum() == 25


def test_an_exact_path_wins_over_its_namesakes(tmp_path):
    for name in ("im000.jpg", "thumbnails/im000.jpg", "IM001.jpg", "im001.jpg", "im002.jpg", ".hidden/im002.jpg"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        draw_picture(len(name), width=64, height=48).save(tmp_path / "images" / name)
    folder = tmp_path / "images"
    lines = ["im000.jpg,0", "thumbnails/im000.jpg,1", "IM001.jpg,0", "im001.jpg,1", f"{folder / 'im002.jpg'},0"]
    table, _ = read_folder(str(folder), str(write(tmp_path, table_of("image,label", lines))), keep_names=True)
    files = dict(zip(table["image_id"], table["file"], strict=True))
    assert files == {
        "im000": "im000.jpg", "thumbnails/im000": "thumbnails/im000.jpg", "IM001": "IM001.jpg", "im001": "im001.jpg",
        "im002": "im002.jpg",
    }  # fmt: skip


def test_links_to_folders_are_followed_once(tmp_path):
    (tmp_path / "a").mkdir()
    draw_picture(0).save(tmp_path / "a" / "x.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    draw_picture(1).save(tmp_path / "elsewhere" / "y.png")
    (tmp_path / "a" / "linked").symlink_to(tmp_path / "elsewhere")
    assert sorted(path.name for path in walk_files(tmp_path / "a")) == ["x.png", "y.png"]
    assert len(FolderIndex(tmp_path / "a").find("linked/y.png")) == 1


@pytest.mark.parametrize("kind", [2, 3, 4, 5, 7, 1], ids=["ascii", "short", "long", "rational", "undefined", "byte"])
@pytest.mark.parametrize("value", [0, 1, 3, 6, 8, 9, 250])
def test_an_orientation_of_any_type_or_value_is_read_or_ignored(tmp_path, kind, value):
    path = tmp_path / "x.jpg"
    draw_picture(0, width=96, height=48).save(path, exif=_exif(kind, value))
    width, height = inspect_image(path)[:2]
    square = decode_square(path, size=48, aspect="pad")
    assert (width, height) in {(96, 48), (48, 96)}
    rows_are_dark = square[2].max() == 0
    assert rows_are_dark == (width > height), "pixels and size disagree about the orientation"
    if value in (0, 9, 250):
        assert (width, height) == (96, 48)


def _exif(kind: int, value: int) -> bytes:
    """EXIF with one tag, the orientation, of a TIFF type: 1 byte, 2 ASCII, 3 short, 4 long, 5 rational, 7 undefined."""
    place, extra = {
        1: (bytes([value, 0, 0, 0]), b""), 2: (str(value)[:3].encode().ljust(4, b"\0"), b""),
        3: (value.to_bytes(2, "little") + b"\0\0", b""), 4: (value.to_bytes(4, "little"), b""),
        5: ((26).to_bytes(4, "little"), value.to_bytes(4, "little") + (1).to_bytes(4, "little")),
        7: (bytes([value, 0, 0, 0]), b""),
    }[kind]  # fmt: skip
    entry = (274).to_bytes(2, "little") + kind.to_bytes(2, "little") + (1).to_bytes(4, "little") + place
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0" + entry + b"\0\0\0\0" + extra


def test_colours_of_another_profile_are_brought_to_srgb(tmp_path):
    """A profile with other primaries changes the colours, sRGB's own does not, a damaged one is ignored."""
    picture = draw_picture(3, width=96, height=96)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, profile in (("none", None), ("srgb", srgb), ("damaged", b"no profile")):
        picture.save(tmp_path / f"{name}.png", icc_profile=profile)
    squares = [decode_square(tmp_path / f"{n}.png", size=48, aspect="squash") for n in ("none", "srgb", "damaged")]
    np.testing.assert_array_equal(squares[0], squares[1])
    np.testing.assert_array_equal(squares[0], squares[2])


def test_a_palette_with_transparency_and_a_huge_image_print_nothing(tmp_path):
    picture = draw_picture(4, width=96, height=96).convert("P")
    picture.save(tmp_path / "p.png", transparency=bytes(range(256)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", module=r"PIL\.")
        decode_square(tmp_path / "p.png", size=48, aspect="squash")
    assert caught == []


# --- the files beside the project -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cases() -> Path:
    folder = Path(os.environ.get("CASES_DIR") or Path(__file__).parents[3] / "shared" / "cases")
    if not folder.is_dir():
        pytest.skip("needs the folder of cases: set CASES_DIR")
    return folder


def test_every_odd_image_is_read_or_named(cases):
    for path in sorted((cases / "images").iterdir()):
        if path.name == "heic.jpg":
            with pytest.raises(ImageError, match=r"HEIC|does not decode"):
                inspect_image(path)
            continue
        size = inspect_image(path)[:2]
        assert size in {(200, 150), (150, 200)}
        assert decode_square(path, size=64, aspect="pad").any()
    assert inspect_image(cases / "images" / "p7839.jpg")[:2] == (150, 200)
    assert inspect_image(cases / "images" / "o9.jpg")[:2] == (200, 150)


@pytest.mark.parametrize(
    ("name", "rules", "malignant"),
    [
        ("lesion_id", {}, 12), ("dx", {"malignant": ["bcc", "akiec", "mel"]}, 10),
        ("one_hot", {"malignant": ["MEL", "BCC", "AKIEC"]}, 10),
        ("three_columns", {"columns": {"label": "melanoma"}}, 8),
        ("foreign_image_column", {"malignant": ["MEL", "BCC"]}, 20),
        ("foreign_boolean", {"columns": {"image": "file", "label": "malignant"}}, 8), ("isic_2020_style", {}, 7),
        ("patients_partly_NA", {}, 10), ("patients_0_and_0.0", {}, 10), ("pairs_mixed_labels", {}, 36),
    ],
)  # fmt: skip
def test_every_label_file_trains_and_no_group_is_divided(cases, own, name, rules, malignant):
    changes = (
        {"folds": 5, "validation_fraction": None} if name == "pairs_mixed_labels" else {"validation_fraction": 0.3}
    )
    data = prepare(own, str(cases / "labels" / f"{name}.csv"), **rules, **changes)
    assert data.table["target"].sum() == malignant
    part = data.table["subset"] + data.table.get("fold", pd.Series("", data.table.index)).astype(str)
    for group in {"patient", "lesion"} & set(data.table):
        known = data.table[group] != ""
        assert part[known].groupby(data.table[group][known]).nunique().max() == 1
