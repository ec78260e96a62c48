"""Duplicates: every planted copy is found, in every pose, and no two different photographs are called one.

The index finds the pairs that comparing every picture with every other one finds.
"""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pandas as pd
import pytest
from challenge import draw_picture, encode_jpeg, read_hashed
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from lesion_utils.data import duplicates
from lesion_utils.data.challenge import CHALLENGE_COUNTS
from lesion_utils.data.duplicates import (
    NEAR_BITS,
    POSES,
    find_duplicates,
    group_duplicates,
    hash_pictures,
    pose_picture,
)
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
        lambda picture: picture.resize((120, 160)),
    ],
    ids=["larger", "smaller", "brighter", "paler", "grey", "another shape"],
)
@pytest.mark.parametrize("aspect", ["squash", "pad"])
def test_copies_in_another_size_shape_or_colour_are_found(tmp_path, change, aspect):
    picture = draw_picture(3, width=160, height=120)
    found = find(tmp_path, [encode_jpeg(picture), *others(), encode_jpeg(change(picture))], aspect)
    assert list(found["kind"]) == ["near"] and found["distance"][0] <= 24 and found["pose"][0] == "upright"


def test_poses_are_the_eight_of_a_square():
    picture = np.arange(16.0).reshape(4, 4)
    assert len({pose_picture(picture, pose).tobytes() for pose in range(8)}) == 8
    np.testing.assert_array_equal(pose_picture(picture, 1), np.asarray(Image.fromarray(picture).rotate(90)))


def test_the_hash_ignores_brightness_and_contrast():
    picture = np.asarray(draw_picture(4, width=32, height=32).convert("L"), np.float32)[None]
    np.testing.assert_array_equal(hash_pictures(picture), hash_pictures(0.5 * picture + 40))


def compare_every_pair(thumbnails: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Pairs (a, b, pose, bits), from the distance of each picture to every other one in each pose."""
    hashes = hash_pictures(thumbnails.astype(np.float32))
    posed = [hash_pictures(pose_picture(thumbnails.astype(np.float32), pose)) for pose in range(len(POSES))]
    distances = np.stack([(hashes[:, None] != other).sum(axis=2) for other in posed])
    near = np.argwhere(np.triu(distances.min(axis=0) <= NEAR_BITS, k=1))
    return [(a, b, int(distances[:, a, b].argmin()), int(distances[:, a, b].min())) for a, b in near.tolist()]


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([1, 2, 256]), st.integers(1, 50))
def test_the_index_finds_what_comparing_every_pair_finds(seed, count, greys, block):
    """Copies that are turned, mirrored and spoilt, more and less than what is near; pictures with many equal values."""
    rng = np.random.default_rng(seed)
    pictures = rng.integers(0, greys, (count, 32, 32), dtype=np.uint8)
    for _ in range(count):
        a, b = rng.integers(count, size=2)
        copy = pose_picture(pictures[a], rng.integers(8)) + rng.normal(0, rng.uniform(0, greys / 3), (32, 32))
        pictures[b] = np.clip(copy, 0, 255)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_BLOCK", block)
        assert list(duplicates._near_pairs(pictures)) == compare_every_pair(pictures)


def test_hashes_that_differ_in_32_bits_are_found_wherever_these_lie():
    """Neighbours spread over the parts of the hash as evenly as can be: nowhere do fewer than two differ."""
    windows = [range(start, start + count) for start in range(0, 221, 7) for count in (0, 1, 31, 32, 33)]
    hashes = np.zeros((1 + len(windows), 256), bool)
    for row, window in enumerate(windows, start=1):
        hashes[row, window] = True
    posed = np.stack([np.packbits(hashes, axis=1).view(np.uint64)] * len(POSES))
    found = {b for a, b in duplicates._find_candidates(posed).tolist() if a == 0}
    assert found == {row for row, window in enumerate(windows, start=1) if len(window) <= NEAR_BITS}


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=15))
def test_groups_are_what_pairs_connect(count, pairs):
    pairs = [(a % count, b % count) for a, b in pairs]
    ids = pd.Series([f"ISIC_{i:07d}" for i in range(count)], index=range(5, 5 + count)[::-1])
    named = [(ids.iloc[a], ids.iloc[b]) for a, b in pairs]
    lowest = list(range(count))
    for _ in range(count):  # as far as the longest chain
        for a, b in pairs:
            lowest[a] = lowest[b] = min(lowest[a], lowest[b])
    expected = pd.Series([ids.iloc[number] for number in lowest], index=ids.index)
    groups = group_duplicates(ids, pd.DataFrame(named, columns=["image_id_a", "image_id_b"]))
    pd.testing.assert_series_equal(groups, expected, check_dtype=False)


@pytest.mark.real_data
@pytest.mark.slow
def test_the_challenge_has_its_known_pairs_and_one_more(real_data):
    """Byte-identical pairs as they are known, and one picture with other colours and another size."""
    table = read_hashed(real_data, CHALLENGE_COUNTS)
    numbers = (280, 279, 1184, 1484, 1385, 1685, 1442, 1742, 519, 11295)
    known = table["image_id"].isin([f"ISIC_{number:07d}" for number in numbers])
    table = table[known | (table.index % 4 == 0)].reset_index(drop=True)
    squares = np.stack([decode_square(path, size=SIZE, aspect="squash") for path in table["path"]])
    boxes = [(slice(None), slice(None))] * len(table)
    found = find_duplicates(table.assign(native_sha256=table["sha256"]), squares, boxes=boxes, workers=1)
    pairs = zip(found["image_id_a"].str[-7:], found["image_id_b"].str[-7:], found["kind"], strict=True)
    assert {(a, b): kind for a, b, kind in pairs} == {
        ("0000280", "0000279"): "same bytes",
        ("0001184", "0001484"): "same bytes",
        ("0001385", "0001685"): "same bytes",
        ("0001442", "0001742"): "same bytes",
        ("0000519", "0011295"): "near",
    }
