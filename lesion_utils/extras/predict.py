"""A trained network on a folder of photographs: which network is meant, the scores, and what could not be read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from scipy.special import expit

from lesion_utils.core.errors import DataError, ParamsError, RunError
from lesion_utils.core.events import OnEvent
from lesion_utils.core.files import write_atomic
from lesion_utils.core.paths import Study
from lesion_utils.core.seal import load_sealed
from lesion_utils.data.cache import WORKERS
from lesion_utils.data.folder import walk_files
from lesion_utils.data.images import Aspect, ImageError, decode_square, inspect_image, run_parallel
from lesion_utils.data.labels import SUFFIXES
from lesion_utils.data.tables import dump_csv
from lesion_utils.evaluation.metrics import DEFAULT_THRESHOLD
from lesion_utils.extras.export import describe_run, load_exported
from lesion_utils.extras.onnx import load_onnx
from lesion_utils.extras.runs import choose_runs, describe_runs, list_runs
from lesion_utils.figures.cases import plot_contact_sheet
from lesion_utils.figures.style import render_figure
from lesion_utils.models.gradcam import map_images
from lesion_utils.models.predict import TrainedNetwork, load_network

#: Photographs on the contact sheet, the highest probabilities first.
SHOWN = 30


@dataclass(frozen=True)
class ScoredFolder:
    """What a network says of a folder.

    Attributes:
        folder: of the photographs.
        scores: `file`, `probability` (of malignant), `malignant` (1 where the probability is above 0.5) and `logit`;
            the highest probability first, among equals by name.
        problems: `file` and `problem`, of those that could not be read, by name.
    """

    folder: Path
    scores: pd.DataFrame
    problems: pd.DataFrame


def open_model(model: str, study: Study) -> tuple[TrainedNetwork, dict[str, Any]]:
    """The network that a person means.

    Args:
        model: the folder of an export or its `model.onnx`, a run's `best.pt`, or `network`, `network/regime` or
            `network/regime/seed` of the study.

    Returns:
        The network, and what is known of its origin: `label`, `study` (None: not known) and `data`.

    Raises:
        RunError: it is none of these; the message lists what the study has.
        CheckpointError: it is damaged or of another version.
        WeightsError: a frozen backbone's weights cannot be had.
    """
    if not model:
        raise _no_such_model(model, study)
    path = Path(model).expanduser()
    if path.is_dir():
        return load_exported(path)
    if path.is_file():
        return load_onnx(path) if path.suffix == ".onnx" else _open_checkpoint(path)
    try:
        (run,) = choose_runs(study, model)
    except RunError as error:
        raise _no_such_model(model, study) from error
    network = run.load()
    return network, describe_run(run, network)


def find_folder(images: str) -> Path:
    """The folder of photographs that a person named.

    Raises:
        DataError: they named none, or it is not there.
    """
    folder = Path(images).expanduser()
    if not images or not folder.is_dir():
        raise DataError(
            f"there is no such folder: {images}" if images else "say which photographs",
            where="IMAGES",
            expected=f"a folder with files ending in {', '.join(SUFFIXES)}",
            do="for example: make predict IMAGES=photographs MODEL=resnet50",
        )
    return folder


def score_folder(folder: Path, network: TrainedNetwork, *, on_event: OnEvent | None = None) -> ScoredFolder:
    """Score every photograph in a folder and in the folders in it; a broken one is reported and the rest goes on.

    Hidden files and folders are left out; every other file that is not scored is named with its reason.

    Raises:
        DataError: there is no image in the folder, or none that can be read.
    """
    every, size = list(walk_files(folder)), network.settings.batch_size
    files = [file for file in every if file.suffix.lower() in SUFFIXES]
    names, logits = [], []
    others = [file for file in every if file.suffix.lower() not in SUFFIXES]
    problems = [(_name(file, folder), f"not an image file ({file.suffix or 'no ending'})") for file in others]
    for start in range(0, len(files), size):
        chunk = files[start : start + size]
        squares = list(run_parallel(lambda file: decode_image(file, network), chunk, workers=WORKERS))
        good = [i for i, square in enumerate(squares) if isinstance(square, np.ndarray)]
        read = zip(chunk, squares, strict=True)
        problems += [(_name(file, folder), why) for file, why in read if isinstance(why, str)]
        names += [_name(chunk[i], folder) for i in good]
        if good:
            logits.append(network.predict(np.stack([squares[i] for i in good])))
        if on_event:
            on_event({"stage": "scores", "done": min(start + size, len(files)), "total": len(files)})
    if not names:
        raise _nothing_to_score(folder, problems)
    left = pd.DataFrame(sorted(problems), columns=["file", "problem"])
    return ScoredFolder(folder, _tabulate(names, np.concatenate(logits)), left)


def _name(file: Path, folder: Path) -> str:
    """A file's path within the folder, with `/` between folders."""
    return file.relative_to(folder).as_posix()


def decode_image(file: Path, network: TrainedNetwork) -> np.ndarray | str:
    """One photograph as the network was trained on, (S, S, 3) uint8; or why it cannot be read."""
    try:
        inspect_image(file)
        return decode_square(file, size=network.stored_size, aspect=cast(Aspect, network.aspect))
    except (ImageError, OSError) as error:
        return str(error)


def write_scores(scored: ScoredFolder, out: Path) -> Path:
    """Write `scores.csv`, and `problems.csv` where there are any; returns the first.

    Raises:
        DataError: the disk is full or the folder is not writable.
    """
    path, problems = out / "scores.csv", out / "problems.csv"
    write_atomic(path, _to_csv(scored.scores))
    if len(scored.problems):
        write_atomic(problems, _to_csv(scored.problems))
    else:
        problems.unlink(missing_ok=True)
    return path


def write_contact_sheet(
    scored: ScoredFolder, network: TrainedNetwork, about: Mapping[str, Any], out: Path, *, shown: int = SHOWN
) -> Path:
    """Write `contact_sheet.png`: the highest scores, the photographs as the network saw them, and where it looked.

    A photograph that has gone since it was scored is left out. No metadata of the files comes along.

    Raises:
        DataError: the disk is full or the folder is not writable.
    """
    rows = scored.scores.head(shown)
    squares = [decode_image(scored.folder / file, network) for file in rows["file"]]
    there = [isinstance(square, np.ndarray) for square in squares]
    images = np.array([square for square in squares if isinstance(square, np.ndarray)])
    maps = _explain(network, images)
    sheet = plot_contact_sheet(
        images.reshape(-1, network.stored_size, network.stored_size, 3),
        [readable_name(file) for file in rows["file"][there]],
        rows["probability"].to_numpy()[there],
        maps,
        call=DEFAULT_THRESHOLD,
        note=f"Not a medical device: these scores diagnose no one. {about['label']}; the {len(images)} highest of "
        f"{len(scored.scores)}; red frame: above {DEFAULT_THRESHOLD}, a call of malignant"
        + ("" if maps is None else "; right tile: Grad-CAM"),
    )
    path = out / "contact_sheet.png"
    write_atomic(path, render_figure(sheet, "png"))
    return path


def _explain(network: TrainedNetwork, images: np.ndarray) -> np.ndarray | None:
    """Maps of the images; None where the network has none to show."""
    if not len(images):
        return None
    try:
        return np.concatenate([map_images(network, images[k : k + 8]) for k in range(0, len(images), 8)])
    except ParamsError:
        return None


def describe_scores(scored: ScoredFolder, about: Mapping[str, Any]) -> str:
    """What was done, in a line."""
    above, count = int(scored.scores["malignant"].sum()), len(scored.scores)
    return f"{about['label']}: {count:,} image{'s' * (count != 1)} scored, {above:,} above {DEFAULT_THRESHOLD}"


def describe_problems(scored: ScoredFolder) -> str:
    """A line for each of the first ten files that could not be read; "" where all could."""
    rows = [f"not read: {readable_name(row.file)}: {row.problem}\n" for row in scored.problems.head(10).itertuples()]
    more = len(scored.problems) - len(rows)
    return "".join(rows) + (f"not read: {more:,} more, see problems.csv\n" if more else "")


def readable_name(name: str) -> str:
    """A file's name as text; bytes that are no UTF-8, which Linux allows in names, become question marks."""
    return os.fsencode(name).decode("utf-8", "replace")


def _tabulate(names: Sequence[str], logits: np.ndarray) -> pd.DataFrame:
    logits = logits.astype(np.float64)
    probability = expit(logits)
    columns = {"file": names, "probability": probability, "malignant": (probability > DEFAULT_THRESHOLD).astype(int)}
    table = pd.DataFrame({**columns, "logit": logits})
    return table.sort_values(["logit", "file"], ascending=[False, True], ignore_index=True)


def _to_csv(table: pd.DataFrame) -> str:
    return dump_csv(table.assign(file=table["file"].map(readable_name)))


def _open_checkpoint(path: Path) -> tuple[TrainedNetwork, dict[str, Any]]:
    """A run's `best.pt`; what is known of its data is in the record of the step, two folders up."""
    network = load_network(path)
    record = load_sealed(path.resolve().parent.parent / "run.json") or {}
    data = record.get("data") or {}
    return network, {
        "label": f"{network.settings.backbone}, {network.regime}, seed {network.seed}",
        "study": record.get("study"),
        "data": data.get("description") or "unknown",
    }


def _no_such_model(model: str, study: Study) -> RunError:
    try:
        there = f"study {study.name}: {describe_runs(list_runs(study))}"
    except RunError:
        there = f"study {study.name} has none yet"
    return RunError(
        f"there is no such network: {model}" if model else "say which network",
        where="MODEL",
        expected="network/regime/seed, network/regime or network of STUDY, the folder of a `make export` or its "
        f"model.onnx, or a run's best.pt. {there[0].upper()}{there[1:]}",
        do=f"for example: make predict STUDY={study.name} IMAGES=folder MODEL=resnet50",
    )


def _nothing_to_score(folder: Path, problems: Sequence[tuple[str, str]]) -> DataError:
    return DataError(
        "no image here can be read" if problems else "there are no images here",
        where=folder,
        expected=f"files ending in {', '.join(SUFFIXES)}, in this folder or the folders in it",
        do="; ".join(f"{readable_name(name)}: {why}" for name, why in problems[:3]) or "name another: IMAGES=folder",
    )
