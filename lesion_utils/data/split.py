"""Which images are test images, which of the others are held out, once or in turns, and which are left out.

Duplicates stay together, and so do the images of a patient and of a lesion where these are known.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from lesion_utils.config.data import Data
from lesion_utils.core.errors import DataError
from lesion_utils.data.duplicates import group_duplicates
from lesion_utils.data.labels import CLASSES, GROUPS

SUBSETS = ("train", "val", "test", "left_out")
#: Draws of a split among which the one is chosen that keeps the shares of the classes best.
DRAWS = 50


def make_split(
    table: pd.DataFrame, params: Data, *, duplicates: pd.DataFrame, notes: list[str] | None = None
) -> pd.DataFrame:
    """Say for each image which subset it belongs to.

    The split of the project that this one starts from is made over all 900 training images, as there; leaks are then
    taken out of both of its parts.

    Args:
        table: columns `image_id`, `split`, `target`; `patient` and `lesion` where they are known, and `held_out` where
            the labels name validation images, which are those then unless there are several folds.
        params: `folds`, `split`, `validation_fraction`, `seed` and `drop_leaks` are used.
        duplicates: pairs as `duplicates.find_duplicates` returns them.
        notes: receives a sentence for each share of a class that groups did not allow.

    Returns:
        the table with a column `subset`: train, val, test, or left_out (a training image that duplicates a test image,
        or a validation image that the labels name).
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
        if "held_out" in table and params.folds == 1:
            subset = _take_held_out(table, subset, groups)
        elif params.folds > 1:
            table = table.assign(fold=_number_folds(rest, groups, params).reindex(table.index, fill_value=0))
        elif params.validation_fraction is not None:
            subset[_choose_validation(rest, groups, params)] = "val"
    else:
        rest = table[subset == "train"]
        _, validation = train_test_split(rest.index, test_size=0.2, stratify=rest["target"], random_state=42)
        subset[validation] = "val"
        subset[table["image_id"].isin(leaks)] = "left_out"
    split = table.assign(subset=subset)
    check_split(split, params, duplicates=duplicates)
    if notes is not None and params.split == "grouped":
        notes += _list_shortfalls(split, params, groups=group_images(split, duplicates))
    return split


def set_test_apart(table: pd.DataFrame, params: Data, *, duplicates: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Draw test images of both classes in proportion, whole groups at a time.

    Args:
        table: columns `image_id`, `target`; `patient` and `lesion` where they are known.
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
    """Name the group of each image: the first id of all that duplicates, patients and lesions connect it with."""
    groups = group_duplicates(table["image_id"], duplicates)
    for column in set(GROUPS) & set(table):
        known = table[column] != ""
        named = (f"{column} " + table[column]).where(known, groups)
        codes, names = pd.factorize(pd.concat([groups, named]))
        edges = coo_array((np.ones(len(table)), (codes[: len(table)], codes[len(table) :])), shape=(len(names),) * 2)
        parts = pd.Series(connected_components(edges, directed=False)[1][codes[: len(table)]], table.index)
        groups = table["image_id"].groupby(parts).transform("min")
    return groups


def find_leaks(table: pd.DataFrame, duplicates: pd.DataFrame) -> set[str]:
    """Ids of the training images that duplicate a test image, directly or through another training image."""
    groups = group_duplicates(table["image_id"], duplicates)
    in_test = set(groups[table["split"] == "test"])
    return set(table["image_id"][(table["split"] == "train") & groups.isin(in_test)])


def check_split(split: pd.DataFrame, params: Data, *, duplicates: pd.DataFrame) -> None:
    """Hold a split to its promises.

    Raises:
        DataError: a test image outside the test set; a subset or fold without one of the classes; with `drop_leaks`, a
            leak in training or validation; with the grouped split, a group in two parts.
    """
    broken = []
    if not ((split["subset"] == "test") == (split["split"] == "test")).all():
        broken.append("the test set is not the one that was given")
    parts, wanted = _name_parts(split, params)
    learnt = parts != ""
    for name in wanted:
        if split["target"][parts == name].nunique() < 2:
            broken.append(f"{name} lacks one of the classes")
    if params.drop_leaks and (leaks := set(split["image_id"][learnt]) & find_leaks(split, duplicates)):
        broken.append(f"training or validation holds duplicates of test images: {', '.join(sorted(leaks))}")
    if params.split == "grouped":
        groups = group_images(split, duplicates)[learnt]
        if (parts[learnt].groupby(groups).nunique() > 1).any():
            broken.append("duplicates or images of a patient or lesion are in two of " + ", ".join(wanted))
    if broken:
        do = "change seed, folds, validation_fraction or split in data.yaml"
        raise DataError("the split is wrong: " + "; ".join(broken), do=do)


def _name_parts(split: pd.DataFrame, params: Data) -> tuple[pd.Series, dict[str, float]]:
    """The part of each image that is learnt from, "" for the others; and the share that each part should have."""
    learnt = split["subset"].isin(["train", "val"])
    if params.folds > 1:
        shares = {f"fold {fold}": 1 / params.folds for fold in range(1, params.folds + 1)}
        return split["fold"].map("fold {}".format).where(learnt, ""), shares
    held_out = params.validation_fraction or 0.0
    return split["subset"].where(learnt, ""), {"train": 1 - held_out, "val": held_out}


def _list_shortfalls(split: pd.DataFrame, params: Data, *, groups: pd.Series) -> list[str]:
    """Shares of a class that are off by more than the largest group, in sentences."""
    if "held_out" in split and params.folds == 1:
        return []  # the labels decided
    parts, wanted = _name_parts(split, params)
    found = []
    for target, chosen in parts[parts != ""].groupby(split["target"]):
        for name, share in wanted.items():
            count, due = int((chosen == name).sum()), share * len(chosen)
            if abs(count - due) > _allow(groups[parts != ""]):
                found.append(
                    f"{name} has {count} {CLASSES[int(target)]} images instead of {due:.0f}: groups stay together"
                )
    return found


def _allow(groups: pd.Series) -> int:
    """By how many images a part may miss its share of a class: as many as the largest group has."""
    return max(1, int(groups.value_counts().max()))


def _search(
    draw: Callable[[int], pd.Series], rest: pd.DataFrame, groups: pd.Series, *, shares: pd.Series, seed: int
) -> pd.Series:
    """The first of several draws whose shares of each class are right, or the one that misses them least.

    Args:
        draw: takes a seed, and returns the part of each row.
        rest: the rows to divide, with `target`.
        groups: of each row.
        shares: that each part should have.
        seed: of the first draw.
    """
    totals = rest["target"].value_counts()
    tried = []
    for number in range(seed, seed + DRAWS):
        part = draw(number)
        counts = pd.crosstab(part, rest["target"]).reindex(index=shares.index, columns=totals.index, fill_value=0)
        missed = float((counts - np.outer(shares, totals)).abs().to_numpy().max())
        tried.append((int((counts == 0).to_numpy().sum()), missed, part))
        if not tried[-1][0] and missed <= _allow(groups):
            return part
    return min(tried, key=lambda one: one[:2])[2]


def _number_folds(rest: pd.DataFrame, groups: pd.Series, params: Data) -> pd.Series:
    """The fold of each row: both classes in proportion, groups together.

    Raises:
        DataError: there are fewer images, or groups, of a class than folds.
    """
    for what, values in (("images", rest["target"]), ("groups", _count_groups(rest, groups))):
        if (fewest := int(values.value_counts().reindex([0, 1], fill_value=0).min())) < params.folds:
            raise DataError(
                f"{fewest} {what} of one class cannot be divided into {params.folds} folds",
                where="data.yaml: folds", do="lower it, or add images",
            )  # fmt: skip

    def draw(seed: int) -> pd.Series:
        splitter = StratifiedGroupKFold(params.folds, shuffle=True, random_state=seed)
        fold = pd.Series(0, index=rest.index)
        for number, (_, held_out) in enumerate(splitter.split(rest, rest["target"], groups), start=1):
            fold.iloc[held_out] = number
        return fold

    shares = pd.Series(1 / params.folds, index=range(1, params.folds + 1))
    return _search(draw, rest, groups, shares=shares, seed=params.seed)


def _count_groups(rest: pd.DataFrame, groups: pd.Series) -> pd.Series:
    """One target per group and class that it has."""
    return rest.assign(group=groups).drop_duplicates(["group", "target"])["target"]


def _choose_validation(rest: pd.DataFrame, groups: pd.Series, params: Data) -> pd.Index:
    """Rows to hold out once.

    Raises:
        DataError: a class is in one group, which cannot be on both sides.
    """
    if (_count_groups(rest, groups).value_counts().reindex([0, 1], fill_value=0) < 2).any():
        raise DataError(
            "all training images of one class belong to one patient, lesion or group of duplicates",
            where="data.yaml: validation_fraction", do="add images of other patients",
        )  # fmt: skip
    fraction = params.validation_fraction or 0.0

    def draw(seed: int) -> pd.Series:
        held_out = _choose_grouped(rest, groups, fraction=fraction, seed=seed)
        return pd.Series(np.where(rest.index.isin(held_out), "val", "train"), rest.index)

    shares = pd.Series({"train": 1 - fraction, "val": fraction})
    part = _search(draw, rest, groups, shares=shares, seed=params.seed)
    return part.index[part == "val"]


def _take_held_out(table: pd.DataFrame, subset: pd.Series, groups: pd.Series) -> pd.Series:
    """The validation images that the labels name; training images of their groups are left out."""
    named = table["held_out"] & (subset == "train")
    shared = groups.isin(set(groups[named[groups.index]])).reindex(subset.index, fill_value=False)
    return subset.mask(shared & ~named & (subset == "train"), "left_out").mask(named, "val")


def _choose_grouped(rest: pd.DataFrame, groups: pd.Series, *, fraction: float, seed: int) -> pd.Index:
    """Rows to hold out: of each class the wanted share, whole groups at a time, in a random order.

    Groups with malignant images come first: they are fewer, and the others fill up what is left. Where every group of
    a class is larger than its share, the smallest one is taken all the same.
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
    for target in (1, 0):
        groups_of = sizes.index[sizes[target] > 0]
        if len(groups_of) > 1 and not set(groups_of) & set(chosen):
            chosen.append(sizes.loc[groups_of].sum(axis=1).idxmin())
    return rest.index[groups.isin(chosen)]
