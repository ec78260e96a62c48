"""What the step "data" left for the others: tables, labels that changed, and the decoded images."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files

import numpy as np
import pandas as pd

from lesion_utils.core import paths
from lesion_utils.core.errors import DataError
from lesion_utils.data.box import open_box
from lesion_utils.data.cache import ImageCache, open_cache
from lesion_utils.data.challenge import FOLDERS, Folder

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class PreparedData:
    """What the step "data" left for the others.

    Attributes:
        table: one row per image: `image_id`, `split`, `target`, `subset` (train, val, test, left_out), `path`, the
            facts of `images.csv`, and in a study with several folds `fold` (see `split.make_split`).
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
    folder, suffix = source_folder(manifest["source"]), ".webp" if manifest["source"] == "embedded" else ".jpg"
    files_of = [folder / FOLDERS[s] / f"{i}{suffix}" for s, i in zip(images["split"], images["image_id"], strict=True)]
    table = images.assign(path=files_of, **split[split.columns.intersection(["subset", "fold"])])
    return PreparedData(table, duplicates, read_label_changes(), manifest)


def source_folder(source: str) -> Folder:
    """Where a source's files are: the archive of embedded images, or `DATA_DIR`."""
    return open_box() if source == "embedded" else paths.data_dir()


def read_label_changes() -> pd.DataFrame:
    """The images whose label is another today: `image_id`, `split`, `label_2016`, `label_today`, `seen_in`."""
    with files("lesion_utils.data").joinpath("label_changes.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def open_images(table: pd.DataFrame, size: int, aspect: str, *, verify: bool = False, on_progress=None) -> ImageCache:
    """The decoded images of a table, in the project's cache; see `cache.open_cache`."""
    return open_cache(
        table, size=size, aspect=aspect, folder=paths.cache_dir() / "images", workers=os.cpu_count() or 1,
        verify=verify, on_progress=on_progress,
    )  # fmt: skip
