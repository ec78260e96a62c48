"""Duplicates: every planted copy is found, in every pose, and no two different photographs are called one."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from challenge import draw_picture, encode_jpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from lesion_utils.data.challenge import read_dataset
from lesion_utils.data.duplicates import POSES, find_duplicates, group_duplicates, hash_pictures, pose_picture
from lesion_utils.data.images import content_box, decode_square

SIZE = 64


def find(tmp_path, files: list[bytes], aspect="squash"):
    """Duplicates among files, decoded as the study decodes them."""
    squares, boxes = [], []
    for number, raw in enumerate(files):
        (tmp_path / f"{number}.jpg").write_bytes(raw)
        squares.append(decode_square(tmp_path / f"{number}.jpg", size=SIZE, aspect=aspect))
        width, height = Image.open(io.BytesIO(raw)).size
        boxes.append(content_box(width, height, size=SIZE, aspect=aspect))
    table = pd.DataFrame(
        {
            "image_id": [f"ISIC_{number:07d}" for number in range(len(files))],
            "split": "train",
            "target": 0,
            "native_sha256": [hashlib.sha256(raw).hexdigest() for raw in files],
        }
    )
    return find_duplicates(table, np.stack(squares), boxes=boxes, workers=1)


def others(count=12, width=160):
    return [encode_jpeg(draw_picture(100 + i, width=width, height=120)) for i in range(count)]


@pytest.mark.parametrize("aspect", ["squash", "crop", "pad"])
def test_different_pictures_are_no_duplicates(tmp_path, aspect):
    assert find(tmp_path, others(40), aspect).empty
    assert find(tmp_path, others(40, width=470), aspect).empty  # black bars make up most of a padded square


def test_the_three_kinds_are_told_apart(tmp_path):
    original = encode_jpeg(draw_picture(1, width=160, height=120))
    commented = original[:2] + b"\xff\xfe\x00\x06note" + original[2:]  # a comment: other bytes, the same pixels
    again = encode_jpeg(Image.open(io.BytesIO(original)), quality=60)
    found = find(tmp_path, [original, *others(), original, commented, again])
    kinds = {(a, b): kind for a, b, kind in found[["image_id_a", "image_id_b", "kind"]].itertuples(index=False)}
    first, copy, comment, recoded = (f"ISIC_{i:07d}" for i in (0, 13, 14, 15))
    assert kinds == {
        (first, copy): "same bytes",
        (first, comment): "same pixels",
        (first, recoded): "near",
        (copy, comment): "same pixels",
        (copy, recoded): "near",
        (comment, recoded): "near",
    }
    assert set(found["pose"]) == {"upright"} and found["correlation"].min() > 0.99


@pytest.mark.parametrize("aspect", ["squash", "crop", "pad"])
@pytest.mark.parametrize("pose", range(8))
def test_turned_and_mirrored_copies_are_found_with_their_pose(tmp_path, pose, aspect):
    picture = draw_picture(2, width=160, height=120)
    mirrored, turns = divmod(pose, 4)
    copy = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else picture
    copy = copy.rotate(90 * turns, expand=True)  # Pillow's own rotation, counter-clockwise
    found = find(tmp_path, [encode_jpeg(copy), *others(), encode_jpeg(picture)], aspect)
    assert len(found) == 1 and found["pose"][0] == POSES[pose]


@pytest.mark.parametrize(
    "change",
    [
        lambda picture: picture.resize((400, 300), Image.Resampling.BICUBIC),
        lambda picture: picture.resize((90, 68), Image.Resampling.BICUBIC),
        lambda picture: ImageEnhance.Brightness(picture).enhance(1.25),
        lambda picture: ImageEnhance.Color(picture).enhance(0.5),
        lambda picture: picture.convert("L"),
    ],
    ids=["larger", "smaller", "brighter", "paler", "grey"],
)
def test_copies_in_another_size_or_colour_are_found(tmp_path, change):
    picture = draw_picture(3, width=160, height=120)
    found = find(tmp_path, [encode_jpeg(picture), *others(), encode_jpeg(change(picture))])
    assert list(found["kind"]) == ["near"] and found["distance"][0] <= 24


@pytest.mark.parametrize("aspect", ["squash", "pad"])
def test_a_copy_of_another_shape_is_found(tmp_path, aspect):
    picture = draw_picture(5, width=160, height=120)
    found = find(tmp_path, [encode_jpeg(picture), *others(), encode_jpeg(picture.resize((120, 160)))], aspect)
    assert list(found["kind"]) == ["near"] and found["pose"][0] == "upright"


def test_poses_are_the_eight_of_a_square():
    picture = np.arange(16.0).reshape(4, 4)
    assert len({pose_picture(picture, pose).tobytes() for pose in range(8)}) == 8
    np.testing.assert_array_equal(pose_picture(picture, 1), np.asarray(Image.fromarray(picture).rotate(90)))


def test_the_hash_ignores_brightness_and_contrast():
    picture = np.asarray(draw_picture(4, width=32, height=32).convert("L"), np.float32)[None]
    np.testing.assert_array_equal(hash_pictures(picture), hash_pictures(0.5 * picture + 40))


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=15))
def test_groups_are_the_connected_components(count, pairs):
    pairs = [(a % count, b % count) for a, b in pairs]
    ids = pd.Series([f"ISIC_{i:07d}" for i in range(count)])
    duplicates = pd.DataFrame({"image_id_a": [ids[a] for a, _ in pairs], "image_id_b": [ids[b] for _, b in pairs]})
    rows, columns = zip(*pairs, strict=True) if pairs else ((), ())
    graph = coo_matrix((np.ones(len(pairs)), (rows, columns)), shape=(count, count))
    _, component = connected_components(graph, directed=False)
    groups = group_duplicates(ids, duplicates)
    assert list(groups) == [ids[list(component).index(c)] for c in component]


@pytest.mark.real_data
@pytest.mark.slow
def test_the_challenge_has_its_known_pairs_and_one_more(real_data):
    """Byte-identical pairs as they are known, and one picture with other colours and another size."""
    table = read_dataset(real_data)
    numbers = (280, 279, 1184, 1484, 1385, 1685, 1442, 1742, 519, 11295)
    known = table["image_id"].isin([f"ISIC_{number:07d}" for number in numbers])
    table = table[known | (table.index % 4 == 0)].reset_index(drop=True)
    squares = np.stack([decode_square(path, size=SIZE, aspect="squash") for path in table["path"]])
    hashes = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in table["path"]]
    boxes = [(slice(None), slice(None))] * len(table)
    found = find_duplicates(table.assign(native_sha256=hashes), squares, boxes=boxes, workers=1)
    pairs = zip(found["image_id_a"].str[-7:], found["image_id_b"].str[-7:], found["kind"], strict=True)
    assert {(a, b): kind for a, b, kind in pairs} == {
        ("0000280", "0000279"): "same bytes",
        ("0001184", "0001484"): "same bytes",
        ("0001385", "0001685"): "same bytes",
        ("0001442", "0001742"): "same bytes",
        ("0000519", "0011295"): "near",
    }
