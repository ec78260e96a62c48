"""Images of one's own: a folder and its labels become one table, or every problem is named."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pandas as pd

from lesion_utils.config.data import LabelRules
from lesion_utils.core.errors import DataError
from lesion_utils.core.paths import find_own
from lesion_utils.data.cache import WORKERS
from lesion_utils.data.images import inspect_images
from lesion_utils.data.labels import CLASSES, GROUPS, LISTED, SUFFIXES, Label, choose_ids, read_labels, strip_ending

#: Columns of a label file that may be missing, and are in the table where they are not.
OPTIONAL = (*GROUPS, "site", "skin_type")
#: In data.yaml instead of a label file: the images are in folders named after their classes.
FOLDERS = "folders"
_SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


def read_folder(
    images: str, labels: str, rules: LabelRules | None = None, *, keep_names: bool, where: str = "data.yaml"
) -> tuple[pd.DataFrame, list[str]]:
    """Read the labelled images of a folder with the facts of every file; images without a label are left aside.

    Args:
        images: folder of the images, searched with all folders in it; a relative path counts from the project's root.
        labels: the label file, likewise, see `labels.read_labels`; or "folders" for folders named after the classes.
        rules: names of columns and classes, from data.yaml.
        keep_names: whether images are called what the labels call them, without the file's ending. Otherwise they are
            image_0001 and so on, in the order of the SHA-256 of their files, which says nothing about their names: a
            file's name can be a patient's.
        where: what named them, for messages.

    Returns:
        one row per image, by id: `image_id`, `target` (0 benign, 1 malignant), `path`, `file` (the same within
        `images`); those of `OPTIONAL` whose columns the label file has, "" where it says nothing; `split` (train, test)
        and `held_out` (validation images) if it names subsets; the facts of `images.FACTS`, and as `native_*` those
        that the challenge's copies have of their originals. And remarks about what was tolerated, without names.

    Raises:
        DataError: lists every problem at once: unreadable labels or images, labels without image, ids that fit several
            images, patients or lesions in both splits.
    """
    folder, file = find_own(images), find_own(labels)
    by_folders = labels == FOLDERS and not file.is_file()
    expected = [(images, folder.is_dir(), "folder")] + [(labels, file.is_file(), "file")] * (not by_folders)
    for named, there, kind in expected:
        if not there:
            do = "correct the path, which counts from the project's folder unless it begins with /"
            raise DataError(f"there is no {kind} {named}", where=where, do=do)
    problems: list[str] = []
    notes: list[str] = []
    found = FolderIndex(folder)
    if by_folders:
        read = label_by_folders(found, rules or LabelRules(), problems=problems)
    else:
        read = read_labels(file, rules, problems=problems, notes=notes, folder=folder)
    rows = [_find_row(image_id, label, found, file.name, problems) for image_id, label in read.items()]
    rows = [row for row in rows if row]
    if not rows:
        raise _explain(problems or [f"{file.name}: no label in it"], labels)
    table = pd.DataFrame(rows).sort_values("image_id", ignore_index=True)
    problems += _find_shared(table, file.name)
    facts, unreadable = inspect_images(table, workers=WORKERS)
    if problems or unreadable:
        raise _explain(problems + unreadable, labels)
    table = _set_held_out(table, notes)
    notes = [note.removeprefix(f"{file.name}: ") for note in notes]
    aside = len(found.paths) - len(table)
    notes += [f"{aside} images without a label were left aside"] if aside else []
    odd = Counter(f"{kind} in mode {mode}" for kind, mode in zip(facts["format"], facts["mode"], strict=True))
    notes += [f"{count} x {kind}, converted to RGB" for kind, count in sorted(odd.items()) if "mode RGB" not in kind]
    native = facts[["width", "height", "bytes", "sha256"]].add_prefix("native_")
    table = table.drop(columns="line").join(facts).join(native)
    return (table if keep_names else _number_images(table)), notes


def _number_images(table: pd.DataFrame) -> pd.DataFrame:
    """The table with numbers for ids, and in their order."""
    width = max(4, len(str(len(table))))
    table = table.sort_values(["sha256", "file"], ignore_index=True)
    return table.assign(image_id=[f"image_{number:0{width}d}" for number in range(1, len(table) + 1)])


def walk_files(folder: Path) -> Iterator[Path]:
    """Every file in a folder and in the folders in it, by name; hidden ones are left out, links are followed once."""
    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(parent, name) for name in sorted(files) if not name.startswith("."))


class FolderIndex:
    """The images of a folder, found by whatever a label file may call them.

    Args:
        folder: of the images.

    Attributes:
        folder: as given.
        paths: of its images, in the order of their names.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.paths = [path for path in walk_files(folder) if path.suffix.lower() in SUFFIXES]
        #: From the strictest reading of a name to the loosest; the first that fits decides.
        self._readings: list[dict[str, list[Path]]] = [defaultdict(list) for _ in range(8)]
        for path in self.paths:
            inside = path.relative_to(folder)
            exact = [inside.as_posix(), inside.with_suffix("").as_posix(), path.name, path.stem]
            spellings = [spelling for name in exact for spelling in (name, name.lower())]
            for reading, name in zip(self._readings, spellings, strict=True):
                reading[name].append(path)

    def find(self, name: str) -> list[Path]:
        """The images that a name may mean.

        An exact path comes before one without its ending, that before the plain name; the case of letters counts first
        and then does not; an ending that no such file has is ignored at last.
        """
        for spelling in dict.fromkeys((name, strip_ending(name))):
            for number, reading in enumerate(self._readings):
                if paths := reading.get(spelling.lower() if number % 2 else spelling):
                    return paths
        return []


def label_by_folders(found: FolderIndex, rules: LabelRules, *, problems: list[str]) -> dict[str, Label]:
    """Labels from the names of folders: benign/ and malignant/, or the classes of data.yaml; also below train/, test/.

    Args:
        found: the images.
        rules: `malignant` and `benign` are used.
        problems: receives a sentence for each folder that names no class.
    """
    known = {str(name).lower(): CLASSES.index("malignant") for name in rules.malignant or ["malignant"]}
    known |= {str(name).lower(): CLASSES.index("benign") for name in rules.benign or ["benign"]}
    labels: dict[str, Label] = {}
    unknown: Counter[str] = Counter()
    for number, path in enumerate(found.paths, start=1):
        inside = path.relative_to(found.folder)
        parts = [part.lower() for part in inside.parts[:-1]]
        classes = [part for part in parts if part in known]
        subset = [part for part in parts if part in _SPLITS]
        if not classes:
            unknown[inside.parent.as_posix()] += 1
            continue
        more = {"subset": subset[0]} if subset else {}
        labels[inside.as_posix()] = Label(number, known[classes[-1]], more, inside.as_posix())
    if any(label.more for label in labels.values()) and not all(label.more for label in labels.values()):
        problems.append("some images are below train/, val/ or test/ and others are not")
    if (unknown and rules.benign) or not labels:
        names = ", ".join(f"{folder} ({count} images)" for folder, count in list(unknown.items())[:LISTED])
        problems.append(f"no class in the names of these folders: {names}. Name them malignant/ and benign/, or set "
                        "malignant and benign in data.yaml to the folders' names")  # fmt: skip
    ids = choose_ids(labels)
    return {ids[name]: label for name, label in labels.items()}


def _find_row(
    image_id: str, label: Label, found: FolderIndex, name: str, problems: list[str]
) -> dict[str, object] | None:
    """One row of the table; None, and a problem, where there is no such image or several, or an unknown subset."""
    if label.target is None:  # its line is named already
        return None
    paths = found.find(label.name or image_id)
    subset = label.more.get("subset")
    if len(paths) != 1:
        why = f"has no image in {found.folder.name}"
        if paths:
            several = " and ".join(path.relative_to(found.folder).as_posix() for path in paths[:2])
            why = f"fits {several}, expected its path within the folder"
        problems.append(f"{name}:{label.line}: {image_id} {why}")
        return None
    if subset is not None and subset.lower() not in _SPLITS:
        problems.append(f"{name}:{label.line}: subset {subset!r} of {image_id}, expected train, val or test")
        return None
    split = {} if subset is None else {"split": _SPLITS[subset.lower()]}
    facts = {"target": label.target, "path": paths[0], "file": paths[0].relative_to(found.folder).as_posix()}
    more = {column: value for column, value in label.more.items() if column in OPTIONAL}
    return {"image_id": image_id, **split, **facts, "line": label.line, **more}


def _find_shared(table: pd.DataFrame, name: str) -> list[str]:
    """Files with two labels, and patients or lesions on both sides of the split, in sentences."""
    twice = table[table["file"].duplicated(keep=False)].groupby("file")["line"].agg(sorted)
    found = [f"{name}:{lines[1]}: {file} has a label in line {lines[0]} already" for file, lines in twice.items()]
    for group in GROUPS:
        if not {group, "split"} <= set(table):
            continue
        known = table[table[group] != ""].groupby([group, "split"])["line"].min().unstack()
        for first, second in combinations(("train", "val", "test"), 2):
            both = known.reindex(columns=[first, second]).dropna().astype(int)
            found += [
                f"{name}:{row[second]}: {group} {value} is in {second}, and in {first} in line {row[first]}"
                for value, row in both.iterrows()
            ]
    return found


def _set_held_out(table: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Turn the subsets train, val, test into `split` (train, test) and `held_out`."""
    if "split" not in table:
        return table
    if not (table["split"] == "test").any():
        notes.append("the labels name no test images, so that test images are drawn")
        return table.drop(columns="split")
    if not (table["split"] == "val").any():
        return table
    return table.assign(held_out=table["split"] == "val", split=table["split"].replace("val", "train"))


def _explain(problems: list[str], labels: str) -> DataError:
    some = "1 problem" if len(problems) == 1 else f"{len(problems):,} problems"
    more = [f"and {len(problems) - LISTED:,} more"] if len(problems) > LISTED else []
    return DataError(
        f"{some} in the data:\n" + "\n".join(f"  - {problem}" for problem in [*problems[:LISTED], *more]),
        where=labels,
        expected="a label file with the columns image and label, and an image for each of its lines",
        do="correct the lines and files that are named, and run the same command again",
    )
