"""Files of labels as they exist in the wild: one careful reader for all of them.

Commas, semicolons or tabs, a byte-order mark, any line ends, quotes, headers in any case or none, ids with or without
the image's ending, labels as words or numbers. Everything else is refused with its file and line.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CLASSES = ("benign", "malignant")
LABELS = {"benign": 0, "0": 0, "0.0": 0, "false": 0, "malignant": 1, "1": 1, "1.0": 1, "true": 1}

#: What each column is called in the wild; of several in one file the first counts.
COLUMNS = {
    "image": ("image", "image_id", "image_name", "isic_id", "id", "name", "file", "filename"),
    "label": ("label", "target", "malignant", "benign_malignant"),
    "patient": ("patient", "patient_id"),
    "site": ("site", "clinic", "hospital", "centre", "center"),
    "skin_type": ("skin_type", "fitzpatrick", "fitzpatrick_skin_type"),
    "subset": ("subset", "split"),
}
#: Lines of problems that one error lists.
LISTED = 30
#: Endings of image files, in lower case.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

_ISIC_ID = re.compile(r"ISIC_\d{7}")
_ENDING = re.compile(rf"({'|'.join(map(re.escape, SUFFIXES))})$", re.IGNORECASE)


class Label(NamedTuple):
    """One image's line: its number, its target (0 benign, 1 malignant; None where refused), and its other columns."""

    line: int
    target: int | None
    more: dict[str, str]


def read_labels(
    path: Path | zipfile.Path, *, problems: list[str], notes: list[str], isic_ids: bool = False
) -> dict[str, Label]:
    """Read one file of labels.

    Args:
        path: a CSV file with a header, of which the columns in `COLUMNS` are read; or without, of id and label.
        problems: receives a sentence for each line that is refused.
        notes: receives a sentence for each oddity that is tolerated.
        isic_ids: refuse an id that is not ISIC_ and seven digits.

    Returns:
        each image's label by its id, without the file's ending, in the order of the lines.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        problems.append(f"{path.name}: this file of labels is missing")
        return {}
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path.name}: not a readable UTF-8 text: {error}")
        return {}
    labels: dict[str, Label] = {}
    columns, width = {"image": 0, "label": 1}, 2
    for place, (line, fields) in enumerate(_read_rows(text, path.name, problems)):
        if place == 0 and (found := _read_header(fields)):
            columns, width = found, len(fields)
            if "label" not in columns:
                problems.append(f"{path.name}:{line}: no column of labels in {fields}, expected image and label")
                return {}
            continue
        image_id, label, problem = _parse_row(line, fields, columns, width, isic_ids)
        known = labels.setdefault(image_id, label) if image_id else label
        if problem:
            problems.append(f"{path.name}:{line}: {problem}")
        elif known.line != line and known[1:] == label[1:]:
            notes.append(f"{path.name}:{line}: {image_id} is listed again with the same label as in line {known.line}")
        elif known.line != line and known.target is not None:
            here, there = (_tell(one, classes=known.target != label.target) for one in (label, known))
            problems.append(f"{path.name}:{line}: {image_id} is {here} here and {there} in line {known.line}")
    return labels


def _tell(label: Label, *, classes: bool) -> str:
    return CLASSES[label.target or 0] if classes else ", ".join(f"{name} {value}" for name, value in label.more.items())


def _read_rows(text: str, name: str, problems: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Number of the first line and fields of each row that is not empty."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max("\t;,", key=lambda mark: len(next(csv.reader([first[:1000]], delimiter=mark))))
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    line = 1
    try:
        for row in rows:
            fields = [field.strip() for field in row]
            if any(fields):
                yield line, fields
            line = rows.line_num + 1
    except csv.Error as error:
        problems.append(f"{name}:{line}: {error}, expected every quotation mark to be closed")


def _read_header(fields: list[str]) -> dict[str, int]:
    """Where each known column stands; empty for a row that is no header."""
    names = [re.sub(r"[\s-]+", "_", field.lower()) for field in fields]
    found = {
        column: next(names.index(name) for name in known if name in names)
        for column, known in COLUMNS.items()
        if set(known) & set(names)
    }
    if "image" not in found:
        return {}
    return found if len(names) != 2 else {"image": found["image"], "label": 1 - found["image"]}


def _parse_row(
    line: int, fields: list[str], columns: dict[str, int], width: int, isic_ids: bool
) -> tuple[str | None, Label, str | None]:
    """Image id, label and, if something is wrong with the row, a sentence about it."""
    nothing = Label(line, None, {})
    if len(fields) != width:
        wanted = "two columns, id and label" if width == 2 else f"{width} columns, as the header has"
        return None, nothing, f"expected {wanted}, found {len(fields)}"
    image_id = _ENDING.sub("", fields[columns["image"]].replace("\\", "/"))
    if not image_id or (isic_ids and not _ISIC_ID.fullmatch(image_id)):
        wanted = " (ISIC_ and seven digits)" if isic_ids else ""
        return None, nothing, f"{fields[columns['image']]!r} is not an image id{wanted}"
    text = fields[columns["label"]]
    target = LABELS.get(text.lower().replace(",", "."))
    if target is None:
        return image_id, nothing, f"unknown label {text!r} of {image_id}, expected one of {', '.join(LABELS)}"
    more = {column: fields[at] for column, at in columns.items() if column not in ("image", "label")}
    return image_id, Label(line, target, more), None
