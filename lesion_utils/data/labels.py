"""Label files as public data sets and spreadsheets have them: one reader for all of them.

Commas, semicolons, tabs or `||`, a byte-order mark, any line ends, quotes, headers in any case or none, ids with or
without the image's ending, labels as words, numbers, diagnoses or one column per class. Everything else is refused with
its file and line. Settings in data.yaml (`columns`, `malignant`, `benign`) say what a file does not say itself.
"""

from __future__ import annotations

import csv
import difflib
import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import NamedTuple

from lesion_utils.config.data import LabelRules

CLASSES = ("benign", "malignant")
LABELS = {"benign": 0, "0": 0, "false": 0, "no": 0, "malignant": 1, "1": 1, "true": 1, "yes": 1}
#: What a one-hot column may hold besides; PH2 marks with X.
_MARKS = {**LABELS, "x": 1, "": 0}
#: Spellings of a value that is not known, in lower case. An image with such a patient belongs to no group.
MISSING = {
    "", "-", "-1", "?", "na", "n/a", "#n/a", "nan", "nat", "none", "null", "unknown", "unk", "missing", "not available",
}  # fmt: skip

#: The names of each column in public data sets; if a file has several, the first counts.
COLUMNS = {
    "image": (
        "image", "image_id", "image_name", "isic_id", "img_id", "file", "filename", "file_name", "image_file",
        "image_path", "path", "ddi_file", "id", "name",
    ),
    "label": ("label", "target", "malignant", "benign_malignant", "is_malignant", "diagnosis_1"),
    "patient": ("patient", "patient_id", "patientid", "subject", "subject_id"),
    "lesion": ("lesion", "lesion_id", "lesionid"),
    "site": ("site", "clinic", "hospital", "centre", "center"),
    "skin_type": ("skin_type", "fitzpatrick", "fitzpatrick_skin_type", "skin_tone"),
    "subset": ("subset", "split"),
}  # fmt: skip
#: Columns of diagnoses: read if data.yaml says which diagnoses are malignant.
DIAGNOSES = ("dx", "diagnosis", "diagnostic", "disease", "class", "category", "diagnosis_3", "diagnosis_2")
#: Columns that name a group of images. Numbers in them are compared by value: 0 and 0.0 are one patient.
GROUPS = ("patient", "lesion")
#: Lines of problems that one error lists.
LISTED = 30
#: Endings of image files, in lower case.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".heic", ".heif")

#: Diagnoses that an error suggests as malignant; whoever edits data.yaml decides.
_OFTEN_MALIGNANT = ("mel", "bcc", "scc", "akiec", "melanoma", "basal cell", "squamous cell", "carcinoma", "malignant")
#: A header may follow so many lines of title and legend.
_PREAMBLE = 40
_ISIC_ID = re.compile(r"ISIC_\d{7}")
_ENDING = re.compile(rf"({'|'.join(map(re.escape, SUFFIXES))})$", re.IGNORECASE)


class Label(NamedTuple):
    """One image's line.

    Attributes:
        line: its number in the file, from 1.
        target: 0 benign, 1 malignant; None if the line was refused.
        more: its other known columns, by their names in `COLUMNS`; "" if the value is missing.
        name: of the image as the file has it, ending included, with `/` between folders.
    """

    line: int
    target: int | None
    more: dict[str, str]
    name: str = ""


class _Header(NamedTuple):
    """Where each known column is, and of one-hot columns those of the malignant and of the benign classes."""

    names: list[str]
    columns: dict[str, int]
    malignant: dict[str, int]
    benign: dict[str, int]


def read_labels(
    path: Path | zipfile.Path,
    rules: LabelRules | None = None,
    *,
    problems: list[str],
    notes: list[str],
    isic_ids: bool = False,
    folder: Path | None = None,
) -> dict[str, Label]:
    """Read one label file.

    Args:
        path: a CSV or .xlsx file with a header, of which the columns in `COLUMNS` are read; or without a header, of
            two columns, id and label.
        rules: names of columns and of malignant and benign classes, from data.yaml.
        problems: receives a sentence for each line that is refused.
        notes: receives a sentence for each oddity that is tolerated, and one that names the columns not read.
        isic_ids: refuse an id that is not ISIC_ and seven digits.
        folder: of the images; absolute paths of images below it count as relative to it.

    Returns:
        each image's label by its id, in the order of the lines. An id is the image's name without the file's ending, or
        with it if two names differ in the ending alone.
    """
    rules = rules or LabelRules()
    rows = list(_read_rows(path, problems))
    if problems and not rows:
        return {}
    start, header = _find_header(rows, rules, path.name, problems)
    if header is None:
        return {}
    names = header.names
    used = {*header.columns.values(), *header.malignant.values(), *header.benign.values()}
    if unread := [name for at, name in enumerate(names) if at not in used and name]:
        notes.append(f"{path.name}: columns not read: {', '.join(unread)}")
    body = rows[start:]
    _check_classes(body, header, rules, path.name, problems)
    if not isic_ids and (unknown := _count_unknown(body, header, rules)):
        values = ", ".join(f"{text!r} ({count})" for text, count in unknown.most_common(LISTED))
        columns = _suggest(names, [fields for _, fields in body], label=header.columns["label"])
        problems.append(f"{path.name}: most labels are neither benign nor malignant: {values}\n{columns}")
        return {}
    parsed = [(line, _parse_row(line, fields, header, rules, isic_ids=isic_ids)) for line, fields in body]
    inside = {raw: _name_inside(raw, folder) for _, (raw, _, _) in parsed if raw}
    ids = choose_ids(inside.values())
    labels: dict[str, Label] = {}
    repeated = 0
    for line, (raw, label, problem) in parsed:
        image_id = ids[inside[raw]] if raw else ""
        label = label._replace(name=inside[raw]) if raw else label
        known = labels.setdefault(image_id, label) if raw else label
        if problem:
            problems.append(f"{path.name}:{line}: {problem}")
        elif known.line != line and known[1:3] == label[1:3]:
            repeated += 1
        elif known.line != line and known.target is not None:
            here, there = (_describe(one, classes=known.target != label.target) for one in (label, known))
            problems.append(f"{path.name}:{line}: {image_id} is {here} here and {there} in line {known.line}")
    if repeated:  # how many, not which: notes are published, and an image's name can be a patient's
        notes.append(f"{path.name}: lines that repeat an earlier image with the same label: {repeated}")
    return labels


def normalise_group(text: str) -> str:
    """The name of a patient or lesion: "" if it is missing; the same for the same number, however it is written."""
    if text.strip().lower() in MISSING:
        return ""
    try:
        number = Decimal(text.strip())
    except InvalidOperation:
        return text.strip()
    return format(number.normalize(), "f") if number.is_finite() else ""


# --- the table --------------------------------------------------------------------------------------------------------


def _read_rows(path: Path | zipfile.Path, problems: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Number of the first line and fields of each row that is not empty."""
    try:
        if Path(path.name).suffix.lower() in (".xlsx", ".xlsm"):
            yield from _read_spreadsheet(path.read_bytes())
            return
        text = _decode(path.read_bytes())
    except FileNotFoundError:
        problems.append(f"{path.name}: this file of labels is missing")
        return
    except ModuleNotFoundError:
        problems.append(
            f"{path.name}: reading a spreadsheet needs the package openpyxl. "
            "Save it as CSV, or install it: .venv/bin/uv pip install openpyxl"
        )
        return
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        kind = "not a readable spreadsheet" if path.name.lower().endswith("x") else "not a readable UTF-8 text"
        problems.append(f"{path.name}: {kind}: {error}")
        return
    yield from _split_rows(text, path.name, problems)


def _decode(raw: bytes) -> str:
    """Text in UTF-8, or in UTF-16 with its byte-order mark, as Excel's "Unicode text" is."""
    return raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")


def _read_spreadsheet(raw: bytes) -> Iterator[tuple[int, list[str]]]:
    """The rows of a workbook's first sheet; whole numbers are written without a decimal point."""
    import openpyxl  # optional

    sheet = openpyxl.load_workbook(io.BytesIO(raw), read_only=True, data_only=True).worksheets[0]
    for line, row in enumerate(sheet.iter_rows(values_only=True), start=1):
        fields = [
            "" if cell is None else str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)
            for cell in row
        ]
        if any(field.strip() for field in fields):
            yield line, [field.strip() for field in fields]


def _split_rows(text: str, name: str, problems: list[str]) -> Iterator[tuple[int, list[str]]]:
    first = next((line for line in text.splitlines() if line.strip()), "")
    if first.count("||") > 1:  # PH2
        text = "\n".join("\t".join(re.split(r"\s*\|\|\s*", line.strip().strip("|"))) for line in text.splitlines())
        first = next(line for line in text.splitlines() if line.strip())
    first = next((line for line in text.splitlines() if re.search("[\t;,]", line)), first)
    declared = re.fullmatch(r"sep=(.)", first.strip())  # Excel's first line
    delimiter = (
        declared[1] if declared else max("\t;,", key=lambda mark: len(next(csv.reader([first[:1000]], delimiter=mark))))
    )
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    line = 1
    try:
        for row in rows:
            fields = [field.strip() for field in row]
            if any(fields) and not (declared and line == 1):
                yield line, fields
            line = rows.line_num + 1
    except csv.Error as error:
        problems.append(f"{name}:{line}: {error}, expected every quotation mark to be closed")


# --- the header -------------------------------------------------------------------------------------------------------


def _normalise(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _find_header(
    rows: Sequence[tuple[int, list[str]]], rules: LabelRules, name: str, problems: list[str]
) -> tuple[int, _Header | None]:
    """The place of the first row after the header, and the header; None if the file says too little."""
    asked = bool(rules.columns or rules.malignant)
    for place, (line, fields) in enumerate(rows[:_PREAMBLE]):
        header = _read_header(fields, rules)
        if header and (header.malignant or "label" in header.columns):
            return place + 1, header
        if header:
            body = [more for _, more in rows[place + 1 :]]
            problems.append(f"{name}:{line}: no column of labels\n{_suggest(fields, body)}")
            return 0, None
        if not asked and len([field for field in fields if field]) != 1:
            break
    if rows and not rules.columns and len(rows[0][1]) == 2:
        return 0, _Header(["", ""], {"image": 0, "label": 1}, {}, {})
    if rows:
        line, fields = rows[0]
        absent = [column for column in rules.columns.values() if _normalise(column) not in map(_normalise, fields)]
        close = [difflib.get_close_matches(column, fields, 1) for column in absent]
        hints = [f", did you mean {found[0]!r}?" if found else "" for found in close]
        what = "; ".join(f"no column {c!r}{hint}" for c, hint in zip(absent, hints, strict=True))
        body = [more for _, more in rows[1:]]
        problems.append(f"{name}:{line}: {what or 'no column that names the images'}\n{_suggest(fields, body)}")
    return 0, None


def _read_header(fields: list[str], rules: LabelRules) -> _Header | None:
    """The header that a row is; None if it names no images, or lacks a column that data.yaml names."""
    names = [_normalise(field) for field in fields]
    given: dict[str, str] = {column: _normalise(name) for column, name in rules.columns.items()}
    if any(name not in names for name in given.values()):
        return None
    found = {column: names.index(name) for column, name in given.items()}
    for column, known in COLUMNS.items():
        wanted = (*DIAGNOSES, *known) if column == "label" and rules.malignant else known
        here = [name for name in wanted if name in names and names.index(name) not in found.values()]
        if column not in found and here:
            found[column] = names.index(here[0])
    if "image" not in found:
        return None
    groups = [list(map(str, group)) for group in (rules.malignant, rules.benign)]
    classes = [{name: names.index(_normalise(name)) for name in group if _normalise(name) in names} for group in groups]
    if "label" not in given and len(classes[0]) == len(rules.malignant) > 0:
        return _Header(fields, {c: at for c, at in found.items() if c != "label"}, *classes)
    if len(names) == 2:
        found = {"image": found["image"], "label": 1 - found["image"]}
    return _Header(fields, found, {}, {})


def _check_classes(
    rows: Sequence[tuple[int, list[str]]], header: _Header, rules: LabelRules, name: str, problems: list[str]
) -> None:
    """A class in data.yaml that no line has is a misspelling: its images would silently count as benign."""
    if header.malignant or not rules.malignant:
        return
    at = header.columns["label"]
    there = {_normalise_class(fields[at]): fields[at] for _, fields in rows if len(fields) > at}
    for setting, group in (("malignant", rules.malignant), ("benign", rules.benign)):
        for label in group:
            if _normalise_class(label) not in there:
                close = difflib.get_close_matches(str(label), list(there.values()), 1)
                hint = f", did you mean {close[0]!r}?" if close else ""
                found = ", ".join(sorted(there.values())[:LISTED])
                problems.append(f"{name}: {setting}: no line has the label {str(label)!r}{hint} Labels here: {found}")


def _count_unknown(rows: Sequence[tuple[int, list[str]]], header: _Header, rules: LabelRules) -> Counter[str]:
    """The labels that are no class, with their numbers, if most are so: data.yaml has to say what they mean."""
    if header.malignant or rules.malignant:
        return Counter()
    texts = [fields[header.columns["label"]] for _, fields in rows if len(fields) == len(header.names)]
    unknown = Counter(text for text in texts if _number(text) not in LABELS)
    return unknown if 2 * unknown.total() > len(texts) else Counter()


def _suggest(names: Sequence[str], rows: Sequence[list[str]], *, label: int | None = None) -> str:
    """The columns, three values of each, and the lines that data.yaml may need."""
    rows = [fields for fields in rows if len(fields) == len(names)]
    values = {at: Counter(fields[at] for fields in rows if fields[at]) for at in range(len(names))}
    shown = [
        f"    {name or f'column {at + 1}'}: {', '.join(list(values[at])[:3])}{', ...' if len(values[at]) > 3 else ''}"
        for at, name in enumerate(names)
    ]
    plain = [_normalise(name) for name in names]
    image = next((name for name in COLUMNS["image"] if name in plain), None)
    image_at = plain.index(image) if image else max(values, key=lambda at: len(values[at]), default=0)
    marks = [at for at, found in values.items() if found and {_number(v) for v in found} <= {"0", "1", "x"}]
    at = label if label is not None else next((plain.index(name) for name in DIAGNOSES if name in plain), None)
    lines = [] if image else [f"    columns: {{image: {names[image_at]}}}"]
    if at is None and marks:
        bad = [names[mark] for mark in marks if _is_often_malignant(names[mark])] or [names[marks[0]]]
        lines += [f"    malignant: [{', '.join(bad)}]"]
    else:
        at = at if at is not None else min(
            (a for a in values if a != image_at and len(values[a]) > 1), key=lambda a: len(values[a]), default=image_at
        )  # fmt: skip
        bad = [value for value in values[at] if _is_often_malignant(value)] or list(values[at])[:1]
        if names[at]:
            lines = [f"    columns: {{image: {names[image_at]}, label: {names[at]}}}"]
        lines += [f"    malignant: [{', '.join(bad[:8])}]"]
    return "\n".join(["    the columns and some of their values are", *shown,
                      "    name the column and the malignant classes in data.yaml, for example", *lines])  # fmt: skip


def _is_often_malignant(label: str) -> bool:
    words = label.strip().lower().replace("_", " ")
    return any(words == sign or (len(sign) > 5 and sign in words) for sign in _OFTEN_MALIGNANT)


# --- a row ------------------------------------------------------------------------------------------------------------


def _parse_row(
    line: int, fields: list[str], header: _Header, rules: LabelRules, *, isic_ids: bool
) -> tuple[str | None, Label, str | None]:
    """The image's name as it is written, its label and, if something is wrong with the row, a sentence about it."""
    nothing, columns, width = Label(line, None, {}), header.columns, len(header.names)
    while len(fields) > width and not fields[-1]:  # spreadsheets export empty columns
        fields = fields[:-1]
    if len(fields) != width:
        wanted = "two columns, id and label" if width == 2 else f"{width} columns, as the header has"
        return None, nothing, f"expected {wanted}, found {len(fields)}"
    raw = fields[columns["image"]]
    image_id = strip_ending(raw)
    if not image_id or (isic_ids and not _ISIC_ID.fullmatch(image_id)):
        wanted = " (ISIC_ and seven digits)" if isic_ids else ""
        return None, nothing, f"{raw!r} is not an image id{wanted}"
    target, problem = (_read_marks if header.malignant else _read_label)(image_id, fields, header, rules)
    if problem:
        return raw, nothing, problem
    others = {column: fields[at] for column, at in columns.items() if column not in ("image", "label")}
    more = {column: _read_other(column, text) for column, text in others.items()}
    return raw, Label(line, target, more), None


def _number(text: str) -> str:
    """0.0, 0,0 and 0 as "0"; other text in lower case."""
    text = text.strip().lower()
    return normalise_group(text.replace(",", ".")) if re.fullmatch(r"\d+([.,]0*)?", text) else text


def _normalise_class(label: object) -> str:
    return _number(str(label))


def _read_label(image: str, fields: list[str], header: _Header, rules: LabelRules) -> tuple[int | None, str | None]:
    text = fields[header.columns["label"]]
    name = _normalise_class(text)
    if not rules.malignant:
        target = LABELS.get(name)
        wrong = f"unknown label {text!r} of {image}, expected one of {', '.join(LABELS)}"
        return target, wrong if target is None else None
    if name in map(_normalise_class, rules.malignant):
        return 1, None
    if rules.benign and name not in map(_normalise_class, rules.benign):
        return None, f"label {text!r} of {image} is neither in malignant nor in benign of data.yaml"
    if name in MISSING - {"unknown", "unk"} and not rules.benign:
        return None, f"{image} has no label"
    return 0, None


def _read_marks(image: str, fields: list[str], header: _Header, rules: LabelRules) -> tuple[int | None, str | None]:
    """The target of an image in one-hot columns."""
    classes = header.malignant | header.benign
    marks = {name: _MARKS.get(_number(fields[at])) for name, at in classes.items()}
    if odd := [name for name, mark in marks.items() if mark is None]:
        return None, f"column {odd[0]} of {image} holds {fields[classes[odd[0]]]!r}, expected 0 or 1"
    malignant = any(marks[name] for name in header.malignant)
    if rules.benign and not malignant and not any(marks[name] for name in header.benign):
        return None, f"{image} is marked in no column that malignant or benign of data.yaml name"
    return int(malignant), None


def _read_other(column: str, text: str) -> str:
    if column in GROUPS:
        return normalise_group(text)
    return "" if text.lower() in MISSING else text


def _describe(label: Label, *, classes: bool) -> str:
    return CLASSES[label.target or 0] if classes else ", ".join(f"{name} {value}" for name, value in label.more.items())


def _name_inside(raw: str, folder: Path | None) -> str:
    """The image's name with `/` between folders, relative to the folder of images where it is below that."""
    name = re.sub(r"^(\./)+", "", re.sub(r"/(\./)+", "/", raw.replace("\\", "/")))
    for root in (folder, folder.resolve()) if folder else ():
        if Path(name).is_absolute() and Path(name).is_relative_to(root):
            return Path(name).relative_to(root).as_posix()
    return name


def strip_ending(name: str) -> str:
    """An image's name without `.jpg` and the like, in any case."""
    return _ENDING.sub("", name)


def choose_ids(names: Iterable[str]) -> dict[str, str]:
    """Ids of images by their names: without their endings, but for those that would be the same (x.jpg and x.png)."""
    distinct = dict.fromkeys(names)
    shared = Counter(strip_ending(name) for name in distinct if _ENDING.search(name))
    return {name: name if shared[strip_ending(name)] > 1 and _ENDING.search(name) else strip_ending(name)
            for name in distinct}  # fmt: skip
