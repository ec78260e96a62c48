"""Reading label files as they exist in the wild: what is meant, or the line that is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lesion_utils.data.labels import read_labels


def read(path, *, isic_ids=True):
    """Line, target and other columns by id; problems and notes."""
    problems, notes = [], []
    labels = read_labels(path, problems=problems, notes=notes, isic_ids=isic_ids)
    return {image_id: label[:3] for image_id, label in labels.items()}, problems, notes


@given(
    targets=st.lists(st.sampled_from([0, 1]), min_size=1, max_size=8),
    spelling=st.sampled_from([
        ("benign", "malignant"), ("0", "1"), ("0.0", "1.0"), (" benign", "malignant "), ("FALSE", "True"),
        ("Benign", "MALIGNANT"), ("0,0", "1,0"),
    ]),
    header=st.sampled_from(["", "image,malignant", "image_id,label", "Image Name,Target", "ISIC-ID,anything"]),
    suffix=st.sampled_from(["", ".jpg", ".JPG", ".png", ".tiff"]),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    delimiter=st.sampled_from([",", ";", "\t"]),
    bom=st.booleans(),
    final=st.sampled_from([0, 1, 3]),
    quoted=st.booleans(),
)  # fmt: skip
def test_every_format_in_the_wild_is_read(
    tmp_path_factory, targets, spelling, header, suffix, newline, delimiter, bom, final, quoted
):
    mark = '"' if quoted or (delimiter == "," and spelling[1] == "1,0") else ""
    lines = [header.replace(",", delimiter)] if header else []
    lines += [
        f"{mark}ISIC_{i:07d}{suffix}{mark}{delimiter}{mark}{spelling[target]}{mark}" for i, target in enumerate(targets)
    ]
    text = newline.join(lines) + newline * final
    path = tmp_path_factory.mktemp("labels") / "labels.csv"
    path.write_bytes(text.encode("utf-8-sig" if bom else "utf-8"))
    labels, problems, notes = read(path)
    first = 2 if header else 1
    assert labels == {f"ISIC_{i:07d}": (i + first, target, {}) for i, target in enumerate(targets)}
    assert (problems, notes) == ([], [])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ISIC_0000001,melanoma", "unknown label 'melanoma' of ISIC_0000001"),
        ("ISIC_0000001,2", "unknown label '2'"),
        ("ISIC_0000001,0.5", "unknown label '0.5'"),
        ("ISIC_0000001,", "unknown label ''"),
        ("ISIC_0000001", "expected two columns, id and label, found 1"),
        ("ISIC_0000001,0,1", "found 3"),
        ("ISIC_1,0", "'ISIC_1' is not an image id"),
        ("image,label", "'image' is not an image id"),
        ("ISIC_0000000,malignant", "ISIC_0000000 is malignant here and benign in line 1"),
        ('"ISIC_0000001,malignant', "expected every quotation mark to be closed"),
    ],
)
@pytest.mark.fault("data", "malformed lines of labels", "refused with their numbers")
def test_every_other_line_is_refused_with_its_number(tmp_path, line, words):
    (tmp_path / "labels.csv").write_text(f"ISIC_0000000,benign\n{line}\n")
    _, problems, _ = read(tmp_path / "labels.csv")
    assert len(problems) == 1 and problems[0].startswith("labels.csv:2: ") and words in problems[0]


def test_an_id_twice_with_one_label_is_remarked(tmp_path):
    (tmp_path / "labels.csv").write_text("ISIC_0000000,benign\nISIC_0000000.jpg,0\n")
    labels, problems, notes = read(tmp_path / "labels.csv")
    assert labels == {"ISIC_0000000": (1, 0, {})} and problems == []
    assert notes == ["labels.csv: lines that repeat an earlier image with the same label: 1"]


@pytest.mark.fault("data", "labels that are not UTF-8", "refused")
def test_text_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "labels.csv").write_bytes(b"ISIC_0000000,b\xe9nin\n")
    assert "not a readable UTF-8 text" in read(tmp_path / "labels.csv")[1][0]


def test_other_columns_come_along_under_one_name_and_the_rest_is_left_aside(tmp_path):
    text = "isic_id;age;Patient-ID;benign_malignant;target;Fitzpatrick Skin Type;split\n"
    (tmp_path / "labels.csv").write_text(text + 'A/x.png;44;P1;benign;0;IV;train\n\n"B\\y";;P2;malignant;1;;TEST\n')
    labels, problems, notes = read(tmp_path / "labels.csv", isic_ids=False)
    assert (problems, notes) == ([], ["labels.csv: columns not read: age, benign_malignant"])
    assert labels["A/x"] == (2, 0, {"patient": "P1", "skin_type": "IV", "subset": "train"})
    assert labels["B/y"] == (4, 1, {"patient": "P2", "skin_type": "", "subset": "TEST"})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("image,age,sex\na,1,f\n", "labels.csv:1: no column of labels\n    the columns and"),
        ("image,label,site\na,0\n", "labels.csv:2: expected 3 columns, as the header has, found 2"),
        ("image,label\n,0\n", "labels.csv:2: '' is not an image id"),
        ("image,label,patient\na,0,P1\na,0,P2\n", "labels.csv:3: a is patient P2 here and patient P1 in line 2"),
    ],
)
@pytest.mark.fault("data", "malformed lines of labels", "refused with their numbers")
def test_a_table_that_says_too_little_or_two_things_is_refused(tmp_path, text, problem):
    (tmp_path / "labels.csv").write_text(text)
    _, (found,), _ = read(tmp_path / "labels.csv", isic_ids=False)
    assert found.startswith(problem)
