"""The first step of every study, "data": from files to a table, a split and decoded images, all of it checked.

It writes `reports/<study>/data/`: `manifest.json` (what the data are), `images.csv` (facts of every image),
`duplicates.csv` and `split.csv`. A file is rewritten only when its content changes, and none holds an absolute path.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd

from lesion_utils.config.schema import Data, StudyParams
from lesion_utils.core import paths
from lesion_utils.core.errors import DataError
from lesion_utils.core.files import dump_json, write_if_changed
from lesion_utils.data.cache import ImageCache, open_cache
from lesion_utils.data.challenge import CHALLENGE_COUNTS, SPLITS, Counts, Scan, raise_problems, scan_dataset
from lesion_utils.data.duplicates import find_duplicates
from lesion_utils.data.fetch import ensure_dataset
from lesion_utils.data.images import ImageError, content_box, decode_square, inspect_images, run_parallel
from lesion_utils.data.pixels import measure_pixels
from lesion_utils.data.split import SUBSETS, make_split
from lesion_utils.provenance.outside import FOLDERS, MANIFEST, source_dir

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class PreparedData:
    """What the step "data" left for the others.

    Attributes:
        table: one row per image: `image_id`, `split`, `target`, `subset` (train, val, test, left_out), `path`, and the
            facts of `images.csv`.
        duplicates: pairs, see `duplicates.find_duplicates`.
        label_changes: images whose label is another today: `image_id`, `split`, `label_2016`, `label_today`, `seen_in`.
        manifest: counts, source and hashes.
    """

    table: pd.DataFrame
    duplicates: pd.DataFrame
    label_changes: pd.DataFrame
    manifest: dict

    @cached_property
    def cache(self) -> ImageCache:
        """The decoded images in the table's order; opened when first asked for, decoded again if they were deleted."""
        return open_images(self.table, self.manifest["stored_size"], self.manifest["aspect"])

    @property
    def images(self) -> np.ndarray:
        """(N, S, S, 3) uint8, RGB, in the table's order; a read-only memory map."""
        return self.cache.images

    def rows_of(self, image_ids: Iterable[str]) -> np.ndarray:
        """Where images stand in the table: (K,) int64."""
        places = {image_id: row for row, image_id in enumerate(self.table["image_id"])}
        return np.array([places[image_id] for image_id in image_ids], dtype=np.int64)

    def images_of(self, image_ids: Iterable[str]) -> np.ndarray:
        """The decoded images of these ids, (K, S, S, 3) uint8."""
        return self.images[self.rows_of(image_ids)]

    @property
    def summary(self) -> str:
        """The data in a phrase, such as "1,279 images (900 training, 379 test), long side up to 640 px"."""
        return self.manifest["summary"]


def prepare_study(study: paths.Study, params: StudyParams, *, on_progress: Progress | None = None) -> PreparedData:
    """Fetch or draw the images, check all of them, find duplicates, split, and decode.

    Args:
        study: whose `data` folder is written.
        params: of the study; only its section `data` is used.
        on_progress: called with (what is being done, how much is done, how much there is).

    Raises:
        DataError: lists everything that is wrong with the data, or says what cannot be fetched or written.
    """
    data = params.data
    root = obtain_images(data, on_progress=on_progress)
    table, notes = read_verified(root, counts=_expected_counts(data))
    cache = open_images(table, data.stored_size, data.aspect, verify=True, on_progress=on_progress)
    shapes = zip(table["width"], table["height"], strict=True)
    boxes = [content_box(width, height, size=data.stored_size, aspect=data.aspect) for width, height in shapes]
    table = table.join(measure_pixels(cache.images, boxes=boxes, workers=_workers()))
    duplicates = find_duplicates(table, cache.images, boxes=boxes, workers=_workers())
    split = make_split(table, data, duplicates=duplicates)
    manifest = describe_data(split, data, notes=notes)
    write_if_changed(study.data / "images.csv", _to_csv(table.drop(columns="path")))
    write_if_changed(study.data / "duplicates.csv", _to_csv(duplicates))
    write_if_changed(study.data / "split.csv", _to_csv(split[["image_id", "split", "target", "subset"]]))
    write_if_changed(study.data / "manifest.json", dump_json(manifest))
    return load_prepared(study)


def load_prepared(study: paths.Study) -> PreparedData:
    """Open what the step "data" of a study wrote.

    Raises:
        DataError: the step has not been run.
    """
    try:
        manifest = json.loads((study.data / "manifest.json").read_text("utf-8"))
        images, split, duplicates = (
            pd.read_csv(study.data / f"{name}.csv") for name in ("images", "split", "duplicates")
        )
    except FileNotFoundError as error:
        raise DataError(
            "the data of this study are not prepared",
            where=f"reports/{study.name}/data",
            do=f"run: make all STUDY={study.name}",
        ) from error
    root = paths.data_dir() if manifest["source"] == "isic2016" else paths.synthetic_dir() / manifest["folder"]
    files_of = [str(root / FOLDERS[s] / f"{i}.jpg") for s, i in zip(images["split"], images["image_id"], strict=True)]
    table = images.assign(path=files_of, subset=split["subset"])
    changes = read_label_changes()
    if manifest["source"] != "isic2016":  # drawn images have ids of their own, which mean nothing there
        changes = changes.iloc[:0]
    return PreparedData(table, duplicates, changes, manifest)


def read_label_changes() -> pd.DataFrame:
    """The images whose label is another today: `image_id`, `split`, `label_2016`, `label_today`, `seen_in`."""
    with files("lesion_utils.data").joinpath("label_changes.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def obtain_images(data: Data, *, on_progress: Progress | None = None) -> Path:
    """The folder of the study's images, fetched or drawn first if need be.

    Raises:
        DataError: says what is missing and where to put it.
    """
    root = source_dir(data)
    if data.source == "isic2016":
        ensure_dataset(root)
    else:
        from lesion_utils.data.synthetic import draw_dataset  # a study on photographs does not need it

        report = on_progress and partial(on_progress, "draw")
        draw_dataset(data.synthetic, seed=data.seed, folder=root, on_progress=report)
    return root


def read_verified(root: Path, *, counts: Counts) -> tuple[pd.DataFrame, list[str]]:
    """Read the table of images with the facts of every file.

    Args:
        root: folder in the challenge's layout. Where it holds a `manifest.csv`, the files must have the hashes in it,
            and the native sizes in it are those of the originals, of which the files are resized copies.
        counts: images per split and class to insist on.

    Returns:
        the table of `isic.read_dataset` with `width`, `height` (px), `bytes`, `sha256`, `mode`, `format`,
        `native_width`, `native_height` and `native_bytes`; and remarks about what was tolerated.

    Raises:
        DataError: lists every problem of labels and images at once.
    """
    scan = scan_dataset(root, counts=counts)
    facts, problems = inspect_images(scan.table, workers=_workers())
    if not problems:
        scan.table = scan.table.join(facts)
        problems = _add_native_facts(root, scan)
    if scan.problems or problems:
        raise_problems(scan.problems + _complete(problems, scan.table), root)
    odd = scan.table[(scan.table["mode"] != "RGB") | (scan.table["format"] != "JPEG")]
    scan.notes += [f"{row.image_id}: {row.format} in mode {row.mode}, converted to RGB" for row in odd.itertuples()]
    return scan.table, scan.notes


def describe_data(split: pd.DataFrame, data: Data, *, notes: list[str]) -> dict:
    """What the data are: source, counts, hash of every image and of the whole."""
    counts = {name: split["target"][split["subset"] == name] for name in SUBSETS}
    long_side = int(split[["width", "height"]].max(axis=None))
    resized = bool((split["width"] != split["native_width"]).any())
    sides = f"resized to at most {long_side} px" if resized else f"long side up to {long_side} px"
    per_split = split["split"].value_counts()
    rows = split[["image_id", "split", "target", "subset", "sha256"]].to_csv(index=False, lineterminator="\n")
    return {
        "source": data.source,
        "folder": source_dir(data).name if data.source == "synthetic" else None,
        "summary": f"{len(split):,} images ({per_split['train']} training, {per_split['test']} test), {sides}",
        "resized": resized,
        "stored_size": data.stored_size,
        "aspect": data.aspect,
        "subsets": {n: {"benign": int((t == 0).sum()), "malignant": int((t == 1).sum())} for n, t in counts.items()},
        "notes": notes,
        "content": hashlib.sha256(rows.encode()).hexdigest(),
        "images": dict(zip(split["image_id"], split["sha256"], strict=True)),
    }


def _expected_counts(data: Data) -> Counts:
    if data.source == "isic2016":
        return CHALLENGE_COUNTS
    drawn = {"train": data.synthetic.train_images, "test": data.synthetic.test_images}
    malignant = {split: round(data.synthetic.prevalence * number) for split, number in drawn.items()}
    return {split: (drawn[split] - malignant[split], malignant[split]) for split in SPLITS}


def _add_native_facts(root: Path, scan: Scan) -> list[str]:
    """Join the originals' sizes to the table; returns what does not agree with the folder's manifest."""
    columns = ["native_width", "native_height", "native_bytes"]
    if not (root / MANIFEST).is_file():
        scan.table[columns] = scan.table[["width", "height", "bytes"]]
        return []
    known = pd.read_csv(root / MANIFEST, usecols=["image_id", "sha256", *columns]).drop_duplicates("image_id")
    joined = scan.table.merge(known, "left", on="image_id", suffixes=("", "_known"))
    scan.table[columns] = joined[columns]
    wrong = joined[joined["sha256"] != joined["sha256_known"]]
    return [f"{FOLDERS[w.split]}/{w.image_id}.jpg: not the file that {MANIFEST} lists" for w in wrong.itertuples()]


def _complete(problems: list[str], table: pd.DataFrame) -> list[str]:
    """Add the images that do not decode: where something is wrong already, the report names everything."""

    def try_decoding(path: str) -> str | None:
        try:
            decode_square(path, size=32, aspect="squash")
        except ImageError as error:
            return f"{Path(path).parent.name}/{Path(path).name}: {error}"
        return None

    undecodable = filter(None, run_parallel(try_decoding, table["path"], workers=_workers()))
    return problems + [problem for problem in undecodable if problem not in problems]


def open_images(table: pd.DataFrame, size: int, aspect: str, *, verify: bool = False, on_progress=None) -> ImageCache:
    """The decoded images of a table, in the project's cache; see `cache.open_cache`."""
    return open_cache(
        table, size=size, aspect=aspect, folder=paths.cache_dir() / "images", workers=_workers(), verify=verify,
        on_progress=on_progress,
    )  # fmt: skip


def _workers() -> int:
    return os.cpu_count() or 1


def _to_csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, float_format="%.9g", lineterminator="\n")
