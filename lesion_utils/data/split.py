"""Which training images are held out for validation, and which are left out because the test set shows them too."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from lesion_utils.config.schema import Data
from lesion_utils.core.errors import DataError
from lesion_utils.data.duplicates import group_duplicates

SUBSETS = ("train", "val", "test", "left_out")


def make_split(table: pd.DataFrame, params: Data, *, duplicates: pd.DataFrame) -> pd.DataFrame:
    """Say for each image which subset it belongs to.

    The split of the project that this one starts from is made over all 900 training images, as there; leaks are then
    taken out of both of its parts.

    Args:
        table: columns `image_id`, `split`, `target`.
        params: `split`, `validation_fraction`, `seed` and `drop_leaks` are used.
        duplicates: pairs as `duplicates.find_duplicates` returns them.

    Returns:
        the table with a column `subset`: train, val, test, or left_out (a training image that duplicates a test image).

    Raises:
        DataError: the split breaks its own promises, see `check_split`.
    """
    leaks = find_leaks(table, duplicates) if params.drop_leaks else set()
    subset = pd.Series("train", index=table.index)
    subset[table["split"] == "test"] = "test"
    if params.split == "grouped":
        subset[table["image_id"].isin(leaks)] = "left_out"
        rest = table[subset == "train"]
        groups = group_duplicates(table["image_id"], duplicates)[rest.index]
        subset[_choose_grouped(rest, groups, fraction=params.validation_fraction, seed=params.seed)] = "val"
    else:
        rest = table[subset == "train"]
        subset[_choose_like_starting_project(rest)] = "val"
        subset[table["image_id"].isin(leaks)] = "left_out"
    split = table.assign(subset=subset)
    check_split(split, params, duplicates=duplicates)
    return split


def find_leaks(table: pd.DataFrame, duplicates: pd.DataFrame) -> set[str]:
    """Ids of the training images that duplicate a test image, directly or through another training image."""
    groups = group_duplicates(table["image_id"], duplicates)
    in_test = set(groups[table["split"] == "test"])
    return set(table["image_id"][(table["split"] == "train") & groups.isin(in_test)])


def check_split(split: pd.DataFrame, params: Data, *, duplicates: pd.DataFrame) -> None:
    """Hold a split to its promises.

    Raises:
        DataError: a test image outside the test set; a subset without one of the classes; with `drop_leaks`, a leak in
            training or validation; with the grouped split, duplicates on both sides, or a validation share that is
            off by more than the largest group.
    """
    broken = []
    if not ((split["subset"] == "test") == (split["split"] == "test")).all():
        broken.append("the test set is not the challenge's")
    for name in ("train", "val"):
        if split["target"][split["subset"] == name].nunique() < 2:
            broken.append(f"{name} lacks one of the classes")
    learnt = split["subset"].isin(["train", "val"])
    if params.drop_leaks and (leaks := set(split["image_id"][learnt]) & find_leaks(split, duplicates)):
        broken.append(f"training or validation holds duplicates of test images: {', '.join(sorted(leaks))}")
    if params.split == "grouped":
        groups = group_duplicates(split["image_id"], duplicates)[learnt]
        if (split["subset"][learnt].groupby(groups).nunique() > 1).any():
            broken.append("duplicates lie on both sides of training and validation")
        for target, chosen in split[learnt].groupby("target"):
            wanted = params.validation_fraction * len(chosen)
            held_out = (chosen["subset"] == "val").sum()
            if abs(held_out - wanted) > groups.value_counts().max():
                broken.append(f"{held_out} validation images of class {target} instead of {wanted:.0f}")
    if broken:
        raise DataError("the split is wrong: " + "; ".join(broken), do="change seed, validation_fraction or split")


def _choose_grouped(rest: pd.DataFrame, groups: pd.Series, *, fraction: float, seed: int) -> pd.Index:
    """Rows to validate on: of each class the wanted share, whole groups at a time, in a random order."""
    rng = np.random.default_rng(seed)
    chosen = []
    # A group whose labels disagree counts as malignant, so that it is drawn once.
    group_target = rest["target"].groupby(groups).max()
    sizes = groups.value_counts()
    for target in (0, 1):
        names = np.sort(group_target.index[group_target == target])
        quota = round(fraction * int((rest["target"] == target).sum()))
        for name in rng.permutation(names):
            if sizes[name] <= quota:
                quota -= sizes[name]
                chosen.append(name)
    return rest.index[groups.isin(chosen)]


def _choose_like_starting_project(rest: pd.DataFrame) -> pd.Index:
    _, validation = train_test_split(rest.index, test_size=0.2, stratify=rest["target"], random_state=42)
    return validation
