"""Images of one's own: a folder and a file of labels become one table, or every problem is named."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import pandas as pd

from lesion_utils.core.errors import DataError
from lesion_utils.core.paths import find_own
from lesion_utils.data.cache import WORKERS
from lesion_utils.data.images import inspect_images
from lesion_utils.data.labels import LISTED, SUFFIXES, Label, read_labels

#: Columns of a label file that may be missing, and are in the table where they are not.
OPTIONAL = ("patient", "site", "skin_type")
_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}


def read_folder(images: str, labels: str, *, where: str = "data.yaml") -> tuple[pd.DataFrame, list[str]]:
    """Read the labelled images of a folder with the facts of every file; images without a label are left aside.

    Args:
        images: folder of the images, searched with all folders in it; a relative path counts from the project's root.
        labels: the file of labels, likewise; see `labels.read_labels`.
        where: what named them, for messages.

    Returns:
        one row per image, by id: `image_id` (as the labels have it, without the file's ending), `target` (0 benign, 1
        malignant), `path`, `file` (the same within `images`); those of `OPTIONAL` and `split` (train, test) whose
        columns the file of labels has, "" where it says nothing; the facts of `images.FACTS`, and as `native_*` those
        that the challenge's copies have of their originals. And remarks about what was tolerated.

    Raises:
        DataError: lists every problem at once: unreadable labels or images, labels without image, ids that fit several
            images, patients in both splits.
    """
    folder, file = find_own(images), find_own(labels)
    for named, there, kind in ((images, folder.is_dir(), "folder"), (labels, file.is_file(), "file")):
        if not there:
            do = "correct the path, which counts from the project's folder unless it begins with /"
            raise DataError(f"there is no {kind} {named}", where=where, do=do)
    problems: list[str] = []
    notes: list[str] = []
    read = read_labels(file, problems=problems, notes=notes)
    found = index_images(folder)
    rows = [_find_row(image_id, label, found, folder, file.name, problems) for image_id, label in read.items()]
    rows = [row for row in rows if row]
    if not rows:
        raise _explain(problems or [f"{file.name}: no label in it"], labels)
    table = pd.DataFrame(rows).sort_values("image_id", ignore_index=True)
    problems += _find_shared(table, file.name)
    facts, unreadable = inspect_images(table, workers=WORKERS)
    if problems or unreadable:
        raise _explain(problems + unreadable, labels)
    aside = len({path for paths in found.values() for path in paths}) - len(table)
    notes += [f"{aside} images without a label were left aside"] if aside else []
    odd = Counter(f"{kind} in mode {mode}" for kind, mode in zip(facts["format"], facts["mode"], strict=True))
    notes += [f"{count} x {kind}, converted to RGB" for kind, count in sorted(odd.items()) if "mode RGB" not in kind]
    native = facts[["width", "height", "bytes", "sha256"]].add_prefix("native_")
    return table.drop(columns="line").join(facts).join(native), notes


def index_images(folder: Path) -> dict[str, list[Path]]:
    """The images in a folder, and in all folders in it, by whatever a file of labels may call them, in lower case."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            inside = path.relative_to(folder).with_suffix("").as_posix().lower()
            for name in {inside, path.stem.lower()}:
                found[name].append(path)
    return found


def _find_row(
    image_id: str, label: Label, found: dict[str, list[Path]], folder: Path, name: str, problems: list[str]
) -> dict[str, object] | None:
    """One row of the table; None, and a problem, where there is no such image or several, or an unknown subset."""
    if label.target is None:  # its line is named already
        return None
    paths = found.get(image_id.lower(), [])
    subset = label.more.get("subset")
    if len(paths) != 1:
        several = " and ".join(path.relative_to(folder).as_posix() for path in paths[:2])
        why = f"fits {several}, expected its path within the folder" if paths else f"has no image in {folder.name}"
        problems.append(f"{name}:{label.line}: {image_id} {why}")
        return None
    if subset is not None and subset.lower() not in _SPLITS:
        problems.append(f"{name}:{label.line}: subset {subset!r} of {image_id}, expected train or test")
        return None
    split = {} if subset is None else {"split": _SPLITS[subset.lower()]}
    facts = {"target": label.target, "path": paths[0], "file": paths[0].relative_to(folder).as_posix()}
    more = {column: value for column, value in label.more.items() if column in OPTIONAL}
    return {"image_id": image_id, **split, **facts, "line": label.line, **more}


def _find_shared(table: pd.DataFrame, name: str) -> list[str]:
    """Files with two labels, and patients on both sides of the split, in sentences."""
    twice = table[table["file"].duplicated(keep=False)].groupby("file")["line"].agg(sorted)
    found = [f"{name}:{lines[1]}: {file} has a label in line {lines[0]} already" for file, lines in twice.items()]
    if {"patient", "split"} <= set(table):
        known = table[table["patient"] != ""].groupby(["patient", "split"])["line"].min().unstack()
        both = known.reindex(columns=["train", "test"]).dropna().astype(int)
        found += [
            f"{name}:{row.test}: patient {row.Index} is in the test set, and in training in line {row.train}"
            for row in both.itertuples()
        ]
    return found


def _explain(problems: list[str], labels: str) -> DataError:
    some = "1 problem" if len(problems) == 1 else f"{len(problems):,} problems"
    more = [f"and {len(problems) - LISTED:,} more"] if len(problems) > LISTED else []
    return DataError(
        f"{some} in the data:\n" + "\n".join(f"  - {problem}" for problem in [*problems[:LISTED], *more]),
        where=labels,
        expected="a CSV file with the columns image and label, and an image for each of its lines",
        do="correct the lines and files that are named, and run the same command again",
    )
