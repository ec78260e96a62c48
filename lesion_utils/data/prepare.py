"""The first step of every study, "data": from files to a table, a split and decoded images, all of it checked.

It writes `reports/<study>/data/`: `manifest.json` (what the data are), `images.csv` (facts of every image),
`duplicates.csv` and `split.csv`; and `external.csv` where there are
external test sets. A file is rewritten only when its content changes, and none holds an absolute path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lesion_utils.config.data import Data, External
from lesion_utils.config.schema import StudyParams
from lesion_utils.core import paths
from lesion_utils.core.events import OnEvent
from lesion_utils.core.files import digest_bytes, dump_json, write_if_changed
from lesion_utils.data.cache import WORKERS, open_cache
from lesion_utils.data.challenge import (
    CHALLENGE_COUNTS,
    FOLDERS,
    MANIFEST,
    Counts,
    Folder,
    raise_problems,
    scan_dataset,
)
from lesion_utils.data.download import ensure_dataset
from lesion_utils.data.duplicates import KINDS, POSSIBLE, find_duplicates
from lesion_utils.data.folder import OPTIONAL, read_folder
from lesion_utils.data.images import Aspect, ImageError, content_box, decode_square, inspect_images, run_parallel
from lesion_utils.data.labels import GROUPS
from lesion_utils.data.pixels import measure_pixels
from lesion_utils.data.prepared import PreparedData, load_prepared, source_folder
from lesion_utils.data.split import SUBSETS, make_split, set_test_apart
from lesion_utils.data.tables import dump_csv

SPLIT_COLUMNS = ["image_id", "split", "target", "subset", "fold"]


def prepare_study(study: paths.Study, params: StudyParams, *, on_event: OnEvent | None = None) -> PreparedData:
    """Fetch the challenge's images where need be, check all of them, find duplicates, split, and decode.

    Raises:
        DataError: lists everything that is wrong with the data, or says what cannot be fetched or written.
    """
    data = params.data
    if data.source == "folder":
        table, notes = read_folder(str(data.images), str(data.labels), data, keep_names=data.publish_ids)
    else:
        if data.source == "isic2016":
            ensure_dataset(paths.data_dir())
        counts = CHALLENGE_COUNTS if data.source == "isic2016" else None  # the embedded images are pinned by a hash
        table, notes = read_verified(source_folder(data), counts=counts)
    images, boxes = _decode(table, data, on_event)
    table = table.join(measure_pixels(images, boxes=boxes))
    unsplit = table if "split" in table else table.assign(split="")
    duplicates = find_duplicates(unsplit, images, boxes=boxes, aspect=data.aspect, workers=WORKERS)
    if "split" not in table:
        table, duplicates = set_test_apart(table, data, duplicates=duplicates)
        notes.append(f"{data.test_fraction:.0%} of each class were drawn as test images, seed {data.seed}")
    split = make_split(table, data, duplicates=duplicates, notes=notes)
    manifest = describe_data(split, data, notes=notes)
    if data.external:
        others = read_external(data.external)
        away, away_boxes = _decode(others, data, on_event)
        others = find_seen(others, split, [*images, *away], boxes=[*boxes, *away_boxes], aspect=data.aspect)
        text = dump_csv(others.drop(columns="path"))
        write_if_changed(study.data / "external.csv", text)
        manifest |= {"external": describe_external(others, data), "external_content": digest_bytes(text.encode())}
    write_if_changed(study.cache_note, f"{Path(str(images.filename)).stem}\n")
    write_if_changed(study.data / "images.csv", dump_csv(table.drop(columns="path")))
    write_if_changed(study.data / "duplicates.csv", dump_csv(duplicates))
    write_if_changed(study.data / "split.csv", dump_csv(split[split.columns.intersection(SPLIT_COLUMNS)]))
    write_if_changed(study.data / "manifest.json", dump_json(manifest))
    return load_prepared(study, data)


def read_verified(root: Folder, *, counts: Counts | None) -> tuple[pd.DataFrame, list[str]]:
    """Read the table of images with the facts of every file.

    Args:
        root: folder in the challenge's layout. Where it holds a `manifest.csv`, the files must have the hashes in it,
            and the native sizes in it are those of the originals, of which the files are resized copies.
        counts: images per split and class to insist on; None accepts any.

    Returns:
        the table of `challenge.scan_dataset` with `width`, `height` (px), `bytes`, `sha256`, `mode`, `format`,
        `native_width`, `native_height`, `native_bytes` and `native_sha256`; and remarks about what was tolerated.

    Raises:
        DataError: lists every problem of labels and images at once.
    """
    problems: list[str] = []
    notes: list[str] = []
    table = scan_dataset(root, counts=counts, problems=problems, notes=notes)
    facts, unreadable = inspect_images(table, workers=WORKERS)
    if not unreadable:
        table, unreadable = _add_native_facts(root, table.join(facts))
    if problems or unreadable:
        raise_problems(problems + _complete(unreadable, table), root)
    odd = table[(table["mode"] != "RGB") | ~table["format"].isin(["JPEG", "WEBP"])]
    notes += [f"{row.image_id}: {row.format} in mode {row.mode}, converted to RGB" for row in odd.itertuples()]
    return table, notes


def _decode(table: pd.DataFrame, data: Data, on_event: OnEvent | None) -> tuple[np.memmap, list[tuple[slice, slice]]]:
    """The decoded images, and of each the rows and columns that show it."""
    images = open_cache(table, data.stored_size, data.aspect, verify=True, on_event=on_event)
    shapes = zip(table["width"], table["height"], strict=True)
    return images, [content_box(*shape, size=data.stored_size, aspect=data.aspect) for shape in shapes]


def read_external(external: Mapping[str, External]) -> pd.DataFrame:
    """The images of all external test sets, as `folder.read_folder`, with `set`; ids begin with its name.

    Raises:
        DataError: a set is missing or wrong; it is named.
    """
    parts = []
    for name, place in external.items():
        where = f"data.yaml: external.{name}"
        table, _ = read_folder(place.images, place.labels, place, keep_names=place.publish, where=where)
        table = table.drop(columns=["split", "held_out", *GROUPS], errors="ignore")
        parts.append(table.assign(set=name, image_id=f"{name}/" + table["image_id"]))
    table = pd.concat(parts, ignore_index=True)
    return table.fillna({column: "" for column in OPTIONAL if column in table})


def find_seen(
    others: pd.DataFrame, own: pd.DataFrame, images: Any, *, boxes: list[tuple[slice, slice]], aspect: Aspect
) -> pd.DataFrame:
    """Which external images show the same photograph as one of the study's own, by every hash there is.

    Args:
        others: N of them, from `read_external`.
        own: M of the study, with `subset`.
        images: M + N decoded images.
        boxes: M + N, see `images.content_box`.
        aspect: how the photographs became squares.

    Returns:
        `others` with `seen_as`, `seen_in` and `seen_how`, see `PreparedData`; of several the one that was learnt from.
    """
    columns = ["image_id", "split", "target", "native_sha256", "width", "height", "path"]
    table = pd.concat([own[columns], others.assign(split="")[columns]], ignore_index=True)
    pairs = find_duplicates(table, images, boxes=boxes, aspect=aspect, workers=WORKERS, threshold=POSSIBLE)
    pairs = pairs[(pairs["split_a"] != "") & (pairs["split_b"] == "")]
    pairs = pairs.assign(subset=pairs["image_id_a"].map(own.set_index("image_id")["subset"]))
    order = [pairs["subset"].map(SUBSETS.index), pairs["kind"].map(KINDS.index)]
    first = pairs.iloc[np.lexsort(order[::-1])].drop_duplicates("image_id_b").set_index("image_id_b")
    found = {"seen_as": "image_id_a", "seen_in": "subset", "seen_how": "kind"}
    return others.assign(**{new: others["image_id"].map(first[old]).fillna("") for new, old in found.items()})


def describe_external(others: pd.DataFrame, data: Data) -> dict[str, Any]:
    """Of each external test set: images, malignant ones, those that the study has too, and its licence."""
    return {
        name: {
            "images": len(part),
            "malignant": int(part["target"].sum()),
            "seen": part["seen_in"][part["seen_in"] != ""].value_counts().to_dict(),
            "licence": data.external[name].licence,
        }
        for name, part in others.groupby("set")
    }


def describe_data(split: pd.DataFrame, data: Data, *, notes: list[str]) -> dict[str, Any]:
    """What the data are: source, counts, hash of every image and of the whole."""
    counts = {name: split["target"][split["subset"] == name] for name in SUBSETS}
    long_side = int(split[["width", "height"]].max(axis=None))
    resized = bool((split["width"] != split["native_width"]).any())
    sides = f"resized to at most {long_side} px" if resized else f"long side up to {long_side} px"
    per_split = split["split"].value_counts()
    rows = split[split.columns.intersection([*SPLIT_COLUMNS, "sha256"])].to_csv(index=False, lineterminator="\n")
    return {
        "source": data.source,
        "summary": f"{len(split):,} images ({per_split['train']} training, {per_split['test']} test), {sides}",
        "resized": resized,
        "stored_size": data.stored_size,
        "aspect": data.aspect,
        "folds": data.folds,
        "subsets": {
            n: {"benign": int((t == 0).sum()), "malignant": int((t == 1).sum())} for n, t in counts.items() if len(t)
        },
        "notes": notes,
        "content": hashlib.sha256(rows.encode()).hexdigest(),
        "images": dict(zip(split["image_id"], split["sha256"], strict=True)),
    }


def _add_native_facts(root: Folder, table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The table with the originals' facts, and what does not agree with the folder's manifest."""
    facts = ["width", "height", "bytes", "sha256"]
    if not (root / MANIFEST).is_file():
        return table.join(table[facts].add_prefix("native_")), []
    columns = [f"native_{fact}" for fact in facts]
    with (root / MANIFEST).open(encoding="utf-8") as file:
        known = pd.read_csv(file, usecols=["image_id", "sha256", *columns]).drop_duplicates("image_id")
    joined = table.merge(known, "left", on="image_id", suffixes=("", "_known"))
    wrong = joined[joined["sha256"] != joined["sha256_known"]]
    problems = [f"{FOLDERS[w.split]}/{w.path.name}: not the file that {MANIFEST} lists" for w in wrong.itertuples()]
    return table.join(joined[columns]), problems


def _complete(problems: list[str], table: pd.DataFrame) -> list[str]:
    """Add the images that do not decode: where something is wrong already, the report names everything."""

    def try_decoding(path: Any) -> str | None:
        try:
            decode_square(path, size=32, aspect="squash")
        except ImageError as error:
            return f"{path.parent.name}/{path.name}: {error}"
        return None

    undecodable = filter(None, run_parallel(try_decoding, table["path"], workers=WORKERS))
    return problems + [problem for problem in undecodable if problem not in problems]
