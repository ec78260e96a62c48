"""What a report's folder holds, read into one object for the pages that show it."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lesion_utils.core.errors import RunError
from lesion_utils.core.names import NETWORKS
from lesion_utils.core.seal import read_sealed
from lesion_utils.provenance.steps import list_names


@dataclass(frozen=True)
class Figure:
    """One figure and its caption; `png` and `svg` are None where the file is absent."""

    step: str
    name: str
    place: int  # in its notebook, from 0
    caption: str
    alt: str
    shows_images: bool
    png: Path | None
    svg: Path | None

    @property
    def file(self) -> Path | None:
        """What a page shows: the PNG, or the SVG where a copy holds only that."""
        return self.png or self.svg


@dataclass(frozen=True)
class Report:
    """A study's report folder. Everything is read when it is first asked for."""

    folder: Path

    @property
    def study(self) -> str:
        return self.folder.name

    @property
    def title(self) -> str:
        """The study's title, from the record of its data."""
        return self.runs.get("data", {}).get("params", {}).get("data", {}).get("title") or self.study

    @property
    def source(self) -> str | None:
        """Where the images come from, as `source` of data.yaml."""
        return self.runs.get("data", {}).get("data", {}).get("source")

    @cached_property
    def runs(self) -> dict[str, dict[str, Any]]:
        """Each step's `run.json` by the step's name, in the order in which the steps run."""
        found = {path.parent.name: path for path in self.folder.glob("runs/*/run.json")}
        further = sorted(name.removeprefix("network_") for name in found if name.startswith("network_"))
        return {name: _read_record(found[name]) for name in list_names([*NETWORKS, *further]) if name in found}

    @cached_property
    def figures(self) -> list[Figure]:
        """Every figure that has a record, in the order of the steps and of their making."""
        found = [_read_figure(path) for path in self.folder.glob("figures/*.json")]
        return sorted(found, key=lambda figure: (list(self.runs).index(figure.step), figure.place, figure.name))

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Each step's `metrics/<step>.json`."""
        return {path.stem: read_json(path) for path in sorted(self.folder.glob("metrics/*.json"))}

    @cached_property
    def tables(self) -> list[Path]:
        """Each step's `metrics/<step>_<table>.csv`, in the order of the steps."""
        paths = sorted(self.folder.glob("metrics/*.csv"))
        return [path for step in self.runs for path in paths if path.name.startswith(f"{step}_")]

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The data's manifest; empty where the data step has not run."""
        path = self.folder / "data" / "manifest.json"
        return read_json(path) if path.is_file() else {}

    def count_seconds(self, step: str) -> float | None:
        """What a step has cost: the time of its last run or, where that found networks trained already, of training."""
        runs = self.metrics.get(step, {}).get("runs", [])
        histories = [self.folder / "runs" / step / run["folder"] / "history.jsonl" for run in runs]
        trained = sum(_sum_seconds(path) for path in histories if path.is_file())
        wall = self.runs.get(step, {}).get("wall_seconds")
        return max(wall or 0, trained) or wall

    @property
    def seconds(self) -> float:
        """What all steps but the index page have cost."""
        return sum(self.count_seconds(step) or 0 for step in self.runs if step != "index")

    @property
    def headline(self) -> list[dict[str, Any]]:
        """The study's main numbers: label, metric, value, low, high, n; None where a published row has none."""
        unknown = {"value": None, "low": None, "high": None, "n": None, "difference": False}
        return [unknown | item for item in self.metrics.get("05_comparison", {}).get("headline", [])]

    @property
    def evaluation(self) -> str | None:
        """A sentence on how often the test set was used before."""
        return self.metrics.get("05_comparison", {}).get("evaluation")

    @property
    def tiles(self) -> list[dict[str, str]]:
        """The first things to read, as `title`, `value` and `detail`; empty in reports of earlier versions."""
        return self.metrics.get("05_comparison", {}).get("tiles", [])

    @property
    def outdated(self) -> str:
        """What a reader must know of a report that an earlier version made; "" of others."""
        if not self.sentences or self.tiles:
            return ""
        return (
            "This report was made by an earlier version of the software. It does not account for untrained networks "
            "and for earlier evaluations on the test images."
        )

    @property
    def sentences(self) -> list[str]:
        """The study's conclusions, their numbers formatted by 05_comparison."""
        return self.metrics.get("05_comparison", {}).get("sentences", [])

    @property
    def limits(self) -> list[str]:
        """What the study does not show, in sentences of 05_comparison."""
        return self.metrics.get("05_comparison", {}).get("limits", [])


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        RunError: the file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RunError(
            f"not readable as JSON ({error})", where=path, do="delete it and run `make all` for this study"
        ) from None


def scores_images(path: Path) -> bool:
    """Whether a file is a table of the scores of single images."""
    if path.suffix != ".csv":
        return False
    with path.open(encoding="utf-8", newline="") as stream:
        header = set(next(csv.reader(stream), []))
    return bool(header & {"image_id", "image"}) and bool(header & {"probability", "logit", "malignant"})


def _read_record(path: Path) -> dict[str, Any]:
    record, problem = read_sealed(path)
    if record is None:
        raise RunError(problem, where=path, do="delete it and run `make all` for this study")
    return record


def _sum_seconds(history: Path) -> float:
    """The time of a run's epochs, from its history, s.

    Raises:
        RunError: a line does not say it.
    """
    total = 0.0
    for number, line in enumerate(history.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            epoch = json.loads(line)
            total += float(epoch["seconds"]) + float(epoch["seconds_validation"])
        except (ValueError, KeyError, TypeError):
            raise RunError(
                "this line does not say how long its epoch took",
                where=f"{history}:{number}",
                expected='"seconds" and "seconds_validation", as training writes them',
                do=f"restore the file, or delete the folder {history.parent.name} and run `make all` for this study",
            ) from None
    return total


def _read_figure(path: Path) -> Figure:
    record = read_json(path)
    files = (path.with_suffix(ending) for ending in (".png", ".svg"))
    png, svg = (file if file.is_file() else None for file in files)
    about = {key: record[key] for key in ("step", "name", "place", "caption")}
    alt = record.get("alt") or record["caption"]
    return Figure(**about, alt=alt, shows_images=record.get("shows_images", False), png=png, svg=svg)
