"""What the step "data" left for the others: tables, labels that changed, and the decoded images."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lesion_utils.config.data import Data
from lesion_utils.core import paths
from lesion_utils.core.errors import DataError
from lesion_utils.data.box import open_box
from lesion_utils.data.cache import open_cache
from lesion_utils.data.challenge import FOLDERS, Folder
from lesion_utils.data.folder import OPTIONAL
from lesion_utils.data.tables import read_csv


@dataclass(frozen=True)
class PreparedData:
    """What the step "data" left for the others.

    Attributes:
        table: one row per image: `image_id`, `split`, `target`, `subset` (train, val, test, left_out), `path`, the
            facts of `images.csv`, and in a study with several folds `fold` (see `split.make_split`). Of images of one's
            own also those of `folder.OPTIONAL` that the file of labels has.
        duplicates: pairs, see `duplicates.find_duplicates`.
        label_changes: images of the challenge whose label is another today: `image_id`, `split`, `label_2016`,
            `label_today`, `seen_in`.
        manifest: counts, source and hashes.
        external: one row per image of the external test sets: `image_id` (such as "PH2/IMD002"), `set`,
            `target`, `path`, facts as in `table`, `site` and `skin_type` where known; `seen_as`, `seen_in` and
            `seen_how`: the image of `table` that shows the same, its subset, and the kind of duplicate, or "".
    """

    table: pd.DataFrame
    duplicates: pd.DataFrame
    label_changes: pd.DataFrame
    manifest: dict[str, Any]
    external: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["image_id", "set", "seen_in"]))

    @cached_property
    def images(self) -> np.memmap:
        """(N, S, S, 3) uint8, RGB, in the table's order, read-only; opened when first asked for, decoded if need be."""
        return open_cache(self.table, self.manifest["stored_size"], self.manifest["aspect"])

    @cached_property
    def external_images(self) -> np.memmap:
        """The decoded external images, as those of the study."""
        return open_cache(self.external, self.manifest["stored_size"], self.manifest["aspect"])

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


def load_prepared(study: paths.Study, data: Data) -> PreparedData:
    """Open what the step "data" of a study wrote.

    Raises:
        DataError: the step has not been run.
    """
    try:
        manifest = json.loads((study.data / "manifest.json").read_text("utf-8"))
        images, split, duplicates = (_read_table(study.data / f"{n}.csv") for n in ("images", "split", "duplicates"))
    except FileNotFoundError as error:
        raise DataError(
            "the data of this study are not prepared",
            where=f"reports/{study.name}/data",
            do=f"run: make all STUDY={study.name}",
        ) from error
    folder, changes = source_folder(data), read_label_changes()
    if data.is_challenge:
        suffix = ".webp" if data.source == "embedded" else ".jpg"
        files_of = [f"{FOLDERS[s]}/{i}{suffix}" for s, i in zip(images["split"], images["image_id"], strict=True)]
    else:
        files_of, changes = images["file"], changes[:0]
    table = images.assign(
        path=[folder / file for file in files_of], **split[split.columns.intersection(["subset", "fold"])]
    )
    others = {"external": _load_external(study, data)} if data.external else {}
    return PreparedData(table, duplicates, changes, manifest, **others)


def _load_external(study: paths.Study, data: Data) -> pd.DataFrame:
    others = _read_table(study.data / "external.csv")
    folders = {name: paths.find_own(place.images) for name, place in data.external.items()}
    return others.assign(path=[folders[name] / file for name, file in zip(others["set"], others["file"], strict=True)])


def source_folder(data: Data) -> Folder:
    """Where a source's files are: the archive of embedded images, `DATA_DIR`, or a folder of one's own."""
    if data.source == "folder":
        return paths.find_own(str(data.images))
    return open_box() if data.source == "embedded" else paths.data_dir()


def _read_table(path: Path) -> pd.DataFrame:
    """A table whose ids and names stay text, whatever they look like."""
    text = dict.fromkeys(("image_id", "image_id_a", "image_id_b", "file", "set", "seen_as", *OPTIONAL), str)
    return read_csv(path, dtype=text, keep_default_na=False)


def read_label_changes() -> pd.DataFrame:
    """The images whose label is another today: `image_id`, `split`, `label_2016`, `label_today`, `seen_in`."""
    with files("lesion_utils.data").joinpath("label_changes.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)
