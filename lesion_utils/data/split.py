"""Which images are test images, which of the others are held out, once or in turns, and which are left out.

Duplicates stay together, and so do the images of a patient where patients are known.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from lesion_utils.config.data import Data
from lesion_utils.core.errors import DataError
from lesion_utils.data.duplicates import group_duplicates

SUBSETS = ("train", "val", "test", "left_out")


def make_split(table: pd.DataFrame, params: Data, *, duplicates: pd.DataFrame) -> pd.DataFrame:
    """Say for each image which subset it belongs to.

    The split of the project that this one starts from is made over all 900 training images, as there; leaks are then
    taken out of both of its parts.

    Args:
        table: columns `image_id`, `split`, `target`, and `patient` where it is known.
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
        groups = group_images(table, duplicates)[rest.index]
        if params.folds > 1:
            table = table.assign(fold=_number_folds(rest, groups, params).reindex(table.index, fill_value=0))
        elif params.validation_fraction is not None:
            subset[_choose_grouped(rest, groups, fraction=params.validation_fraction, seed=params.seed)] = "val"
    else:
        rest = table[subset == "train"]
        _, validation = train_test_split(rest.index, test_size=0.2, stratify=rest["target"], random_state=42)
        subset[validation] = "val"
        subset[table["image_id"].isin(leaks)] = "left_out"
    split = table.assign(subset=subset)
    check_split(split, params, duplicates=duplicates)
    return split


def set_test_apart(table: pd.DataFrame, params: Data, *, duplicates: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Draw test images of both classes in proportion, whole groups at a time.

    Args:
        table: columns `image_id`, `target`, and `patient` where it is known.
        params: `test_fraction` and `seed` are used.
        duplicates: pairs, of images without a split.

    Returns:
        the table with a column `split` (train, test), and the pairs with those of their images.
    """
    groups = group_images(table, duplicates)
    test = _choose_grouped(table, groups, fraction=params.test_fraction, seed=params.seed)
    table = table.assign(split=np.where(table.index.isin(test), "test", "train"))
    if (table.groupby("split")["target"].nunique().reindex(["train", "test"]) != 2).any():
        do = "add images, or change test_fraction or seed in data.yaml, or name test images in a column subset"
        raise DataError("no test set of both classes can be drawn", where="data.yaml: test_fraction", do=do)
    of = table.set_index("image_id")["split"]
    sides = {side: duplicates[f"image_id_{side[-1]}"].map(of) for side in ("split_a", "split_b")}
    return table, duplicates.assign(**sides)


def group_images(table: pd.DataFrame, duplicates: pd.DataFrame) -> pd.Series:
    """Name the group of each image: the first id of all that duplicates and patients connect it with."""
    groups = group_duplicates(table["image_id"], duplicates)
    if "patient" not in table:
        return groups
    known = table["patient"] != ""
    patients = ("patient " + table["patient"]).where(known, groups)
    codes, names = pd.factorize(pd.concat([groups, patients]))
    edges = coo_array((np.ones(len(table)), (codes[: len(table)], codes[len(table) :])), shape=(len(names),) * 2)
    parts = pd.Series(connected_components(edges, directed=False)[1][codes[: len(table)]], table.index)
    return table["image_id"].groupby(parts).transform("min")


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
        broken.append("the test set is not the one that was given")
    learnt = split["subset"].isin(["train", "val"])
    parts = split["fold"].map("fold {}".format) if params.folds > 1 else split["subset"]
    if params.validation_fraction is None:
        wanted = {f"fold {fold}": 1 / params.folds for fold in range(1, params.folds + 1)}
    else:
        wanted = {"train": 1 - params.validation_fraction, "val": params.validation_fraction}
    for name in wanted:
        if split["target"][learnt & (parts == name)].nunique() < 2:
            broken.append(f"{name} lacks one of the classes")
    if params.drop_leaks and (leaks := set(split["image_id"][learnt]) & find_leaks(split, duplicates)):
        broken.append(f"training or validation holds duplicates of test images: {', '.join(sorted(leaks))}")
    if params.split == "grouped":
        groups = group_images(split, duplicates)[learnt]
        if (parts[learnt].groupby(groups).nunique() > 1).any():
            broken.append("duplicates or a patient's images lie in two of " + ", ".join(wanted))
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
    """Rows to hold out: of each class the wanted share, whole groups at a time, in a random order.

    Groups with malignant images come first: they are fewer, and the others fill up what is left.
    """
    rng = np.random.default_rng(seed)
    sizes = pd.crosstab(groups, rest["target"]).reindex(columns=[0, 1], fill_value=0)
    quota = (fraction * sizes.sum()).round().to_numpy(int)
    orders = [rng.permutation(np.sort(sizes.index[(sizes[1] > 0) == malignant])) for malignant in (False, True)]
    chosen, counts = [], dict(zip(sizes.index, sizes.to_numpy(), strict=True))
    for name in np.concatenate(orders[::-1]):
        if (counts[name] <= quota).all():
            quota = quota - counts[name]
            chosen.append(name)
    return rest.index[groups.isin(chosen)]
