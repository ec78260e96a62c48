"""Which training images are held out, once or in turns, and which are left out because the test set shows them too."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

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
        params: `folds`, `split`, `validation_fraction`, `seed` and `drop_leaks` are used.
        duplicates: pairs as `duplicates.find_duplicates` returns them.

    Returns:
        the table with a column `subset`: train, val, test, or left_out (a training image that duplicates a test image).
        With several folds there is no val, and a column `fold` says which part an image of train is held out with,
        from 1; 0 for the others.

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
        if params.folds > 1:
            table = table.assign(fold=_number_folds(rest, groups, params).reindex(table.index, fill_value=0))
        else:
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
        DataError: a test image outside the test set; a subset or fold without one of the classes; with `drop_leaks`, a
            leak in training or validation; with the grouped split, duplicates in two parts, or a part whose share of a
            class is off by more than the largest group.
    """
    broken = []
    if not ((split["subset"] == "test") == (split["split"] == "test")).all():
        broken.append("the test set is not the challenge's")
    learnt = split["subset"].isin(["train", "val"])
    parts = split["fold"].map("fold {}".format) if params.folds > 1 else split["subset"]
    wanted = {f"fold {fold}": 1 / params.folds for fold in range(1, params.folds + 1)}
    wanted = (
        wanted if params.folds > 1 else {"train": 1 - params.validation_fraction, "val": params.validation_fraction}
    )
    for name in wanted:
        if split["target"][learnt & (parts == name)].nunique() < 2:
            broken.append(f"{name} lacks one of the classes")
    if params.drop_leaks and (leaks := set(split["image_id"][learnt]) & find_leaks(split, duplicates)):
        broken.append(f"training or validation holds duplicates of test images: {', '.join(sorted(leaks))}")
    if params.split == "grouped":
        groups = group_duplicates(split["image_id"], duplicates)[learnt]
        if (parts[learnt].groupby(groups).nunique() > 1).any():
            broken.append("duplicates lie in two of " + ", ".join(wanted))
        for target, chosen in parts[learnt].groupby(split["target"]):
            for name, share in wanted.items():
                count, due = (chosen == name).sum(), share * len(chosen)
                if abs(count - due) > max(1, groups.value_counts().max()):
                    broken.append(f"{count} images of class {target} in {name} instead of {due:.0f}")
    if broken:
        do = "change seed, folds, validation_fraction or split in data.yaml"
        raise DataError("the split is wrong: " + "; ".join(broken), do=do)


def _number_folds(rest: pd.DataFrame, groups: pd.Series, params: Data) -> pd.Series:
    """The fold of each row: both classes in proportion, groups together.

    Raises:
        DataError: there are fewer images of a class than folds.
    """
    fewest = int(rest["target"].value_counts().min())
    if fewest < params.folds:
        raise DataError(
            f"{fewest} images of one class cannot lie in {params.folds} folds", where="data.yaml: folds", do="lower it"
        )
    splitter = StratifiedGroupKFold(params.folds, shuffle=True, random_state=params.seed)
    fold = pd.Series(0, index=rest.index)
    for number, (_, held_out) in enumerate(splitter.split(rest, rest["target"], groups), start=1):
        fold.iloc[held_out] = number
    return fold


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
