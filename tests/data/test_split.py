"""The split keeps its promises for any data, and the starting project's is the starting project's."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sections import data_params
from sklearn.model_selection import train_test_split

from lesion_utils.core.errors import DataError
from lesion_utils.data.split import SUBSETS, check_split, find_leaks, make_split


def make_table(train=(80, 20), test=(20, 5)) -> pd.DataFrame:
    targets = [0] * train[0] + [1] * train[1] + [0] * test[0] + [1] * test[1]
    splits = ["train"] * sum(train) + ["test"] * sum(test)
    ids = [f"ISIC_{i:07d}" for i in range(len(targets))]
    return pd.DataFrame({"image_id": ids, "split": splits, "target": targets})


def pair_up(*pairs) -> pd.DataFrame:
    return pd.DataFrame([(f"ISIC_{a:07d}", f"ISIC_{b:07d}") for a, b in pairs], columns=["image_id_a", "image_id_b"])


COUNTS, SEED = st.tuples(st.integers(30, 90), st.integers(12, 40)), st.integers(0, 2**32 - 1)
PAIRS = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), max_size=6)


@settings(max_examples=60)
@given(counts=COUNTS, fraction=st.floats(0.1, 0.5), seed=SEED, pairs=PAIRS)
def test_every_promise_is_kept(counts, fraction, seed, pairs):
    table = make_table(train=counts)
    pairs = [(a % len(table), b % len(table)) for a, b in pairs]
    duplicates = pair_up(*pairs)
    split = make_split(table, data_params(validation_fraction=fraction, seed=seed), duplicates=duplicates)
    subset = split["subset"]
    assert ((subset == "test") == (table["split"] == "test")).all() and set(subset) <= set(SUBSETS)
    for a, b in pairs:  # no photograph in two subsets, but for the copies that were left out
        assert subset[a] == subset[b] or {subset[a], subset[b]} == {"test", "left_out"}
    for target in (0, 1):
        rest = split[(split["target"] == target) & subset.isin(["train", "val"])]
        assert abs((rest["subset"] == "val").sum() - fraction * len(rest)) <= 8  # the largest possible group


@settings(max_examples=60)
@given(counts=COUNTS, folds=st.integers(2, 6), seed=SEED, pairs=PAIRS)
def test_each_image_is_in_one_fold_and_duplicates_share_it(counts, folds, seed, pairs):
    table = make_table(train=counts)
    pairs = [(a % len(table), b % len(table)) for a, b in pairs]
    params = data_params(folds=folds, validation_fraction=None, seed=seed)
    split = make_split(table, params, duplicates=pair_up(*pairs))
    subset, fold = split["subset"], split["fold"]
    assert set(subset) <= {"train", "test", "left_out"}
    assert ((fold > 0) == (subset == "train")).all() and set(fold) - {0} == set(range(1, folds + 1))
    for a, b in pairs:
        assert fold[a] == fold[b] or {subset[a], subset[b]} == {"test", "left_out"}


def test_folds_hold_each_class_in_proportion():
    params = data_params(folds=5, validation_fraction=None)
    split = make_split(make_table(), params, duplicates=pair_up((0, 1)))
    learnt = split[split["subset"] == "train"]
    assert (learnt.groupby("fold")["target"].sum() == 4).all()
    assert learnt.groupby("fold").size().between(19, 21).all()


def test_more_folds_than_images_of_a_class_are_refused():
    params = data_params(folds=6, validation_fraction=None)
    with pytest.raises(DataError, match="5 images of one class cannot be divided into 6 folds"):
        make_split(make_table(train=(40, 5)), params, duplicates=pair_up())


def test_without_duplicates_the_shares_are_exact():
    split = make_split(make_table(), data_params(), duplicates=pair_up())
    assert split.groupby(["subset", "target"]).size().to_dict() == {
        ("test", 0): 20, ("test", 1): 5, ("train", 0): 64, ("train", 1): 16, ("val", 0): 16, ("val", 1): 4,
    }  # fmt: skip


def test_the_seed_decides_alone():
    table = make_table()
    first, again, other = (make_split(table, data_params(seed=s), duplicates=pair_up())["subset"] for s in (1, 1, 2))
    assert first.equals(again) and not first.equals(other)


def test_leaks_are_found_through_other_images_and_left_out():
    table, duplicates = make_table(), pair_up((3, 4), (4, 105), (10, 11))
    assert find_leaks(table, duplicates) == {"ISIC_0000003", "ISIC_0000004"}
    dropped = make_split(table, data_params(), duplicates=duplicates)
    assert list(dropped["image_id"][dropped["subset"] == "left_out"]) == ["ISIC_0000003", "ISIC_0000004"]
    kept = make_split(table, data_params(drop_leaks=False), duplicates=duplicates)
    assert "left_out" not in set(kept["subset"]) and kept["subset"][3] == kept["subset"][4]


def test_the_starting_projects_split_is_its_own():
    table = make_table(train=(727, 173), test=(304, 75))
    split = make_split(table, data_params(split="starting_project", drop_leaks=False), duplicates=pair_up())
    train = table[table["split"] == "train"]
    _, held_out = train_test_split(
        train["image_id"].tolist(), test_size=0.2, stratify=train["target"].tolist(), random_state=42
    )
    assert set(split["image_id"][split["subset"] == "val"]) == set(held_out) and len(held_out) == 180
    leak = int(held_out[0].removeprefix("ISIC_"))
    without = make_split(table, data_params(split="starting_project"), duplicates=pair_up((leak, 950)))
    assert without["subset"][leak] == "left_out" and (without["subset"] != split["subset"]).sum() == 1


@pytest.mark.parametrize(
    ("breakage", "words"),
    [
        (lambda s: s.replace({"test": "val"}), "the test set is not the one that was given"),
        (lambda s: s.where((s != "val") | (np.arange(len(s)) < 80), "train"), "val lacks one of the classes"),
        (lambda s: s.mask(s == "left_out", "train"), "duplicates of test images: ISIC_0000003"),
        (
            lambda s: s.mask(np.arange(len(s)) == 10, "train").mask(np.arange(len(s)) == 11, "val"),
            "duplicates or images of a patient or lesion are in two of",
        ),
    ],
    ids=["test", "class", "leak", "group"],
)
def test_a_wrong_split_is_refused(breakage, words):
    table, duplicates = make_table(), pair_up((3, 105), (10, 11))
    split = make_split(table, data_params(), duplicates=duplicates)
    check_split(split, data_params(), duplicates=duplicates)
    with pytest.raises(DataError, match=words):
        check_split(split.assign(subset=breakage(split["subset"])), data_params(), duplicates=duplicates)
