"""Training: each regime, seed and fold of a network in a folder of its own, killed and continued without a trace.

A run's folder holds `last.pt` (to go on from; removed at the end), `best.pt` (the selected weights), `history.jsonl`,
`predictions.csv` and, written last, `DONE` (a record in JSON with the hashes of these files; a run is reused only if
they hold). Random numbers are functions of (seed, epoch, sample), so that a run that goes on from `last.pt` ends with
the same bytes as one that was never stopped.

The test images are opened once, after the epoch is selected.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import expit

from lesion_utils.config.schema import PRETRAINED_REGIMES, StudyParams
from lesion_utils.core.errors import TrainingError
from lesion_utils.core.names import name_training
from lesion_utils.evaluation.predictions import check_predictions, join_folds, read_predictions, write_predictions
from lesion_utils.evaluation.trained import measure_run
from lesion_utils.models.checkpoint import load_checkpoint
from lesion_utils.models.compute import choose_compute, computing
from lesion_utils.models.weights import WeightsSource
from lesion_utils.provenance.run_files import check_run, read_done, write_done
from lesion_utils.training.loss import guess_loss
from lesion_utils.training.run import Run
from lesion_utils.training.task import (
    Images,
    TrainingTask,
    choose_regimes,
    identify,
    list_folds,
    name_run,
    name_subsets,
)

#: Takes one mapping per epoch: regime, seed, fold (where there are several), epoch (from 1), epochs, loss, val_ap,
#: val_auc, images_per_s, seconds_left; and, while features or final scores are computed, now and then: regime, seed,
#: fold, stage, done, total (images); and, if a damaged run is trained again: regime, seed, fold, remark (a sentence).
OnEvent = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class NetworkResult:
    """Everything that was trained of a network.

    Attributes:
        predictions: as `predictions.COLUMNS`, one score per image, regime and seed. Where there are several folds, a
            training image's (split val) is by the network that held it out, a test image's the mean probability of all.
        runs: the record of each run, with `model`, `folder` (its name), and what `trained.measure_run` finds.
        skipped: the regimes left out for want of weights, each with `regime` and `reason`.
    """

    predictions: pd.DataFrame
    runs: list[dict[str, Any]]
    skipped: list[dict[str, str]]


@dataclass(frozen=True)
class FitResult:
    """A finished run.

    Attributes:
        folder: where its files are.
        record: the content of `DONE`: the selected epoch, its validation figures, times, device, weights.
        predictions: of the validation and test images, as `predictions.COLUMNS`.
        history: one row per epoch.
    """

    folder: Path
    record: dict[str, Any]
    predictions: pd.DataFrame
    history: pd.DataFrame


def train_network(
    params: StudyParams, network: str, *, data: Images, folder: Path, on_progress: OnEvent | None = None
) -> NetworkResult:
    """Train every regime, seed and fold of a network, or go on with those that are not done.

    Args:
        params: of the study.
        network: "resnet50" or "vgg19".
        data: decoded images (`images`) and their table (`table`).
        folder: of all runs; each has `<regime>-seed<k>-<fingerprint>/`, or `<regime>-seed<k>-fold<j>-<fingerprint>/`.
        on_progress: called as `OnEvent` says, and once for a run that was done before.

    Raises:
        TrainingError: the loss is not finite any more, memory is short, or a subset lacks a class.
        WeightsError: weights are needed and cannot be had.
        KeyboardInterrupt: with a message that says how to go on.
    """
    settings = params.network(network)
    regimes, source, skipped = choose_regimes(settings)
    every = product(regimes, settings.seeds, list_folds(data.table))
    tasks = [TrainingTask(params, network, regime, seed, data, fold) for regime, seed, fold in every]
    results = [fit(task, folder=folder, source=source, on_event=on_progress) for task in tasks]
    table = check_predictions(join_folds([r.predictions for r in results]), where=network)
    runs = [
        {"model": settings.model, **r.record, "folder": r.folder.name}
        | measure_run(r.history, r.predictions, guess_loss=_guess(task))
        for task, r in zip(tasks, results, strict=True)
    ]
    return NetworkResult(table, runs, skipped)


def _guess(task: TrainingTask) -> float:
    return guess_loss(task.targets(task.rows("train")), params=task.settings)


def fit(
    task: TrainingTask, *, folder: Path, source: WeightsSource | None = None, on_event: OnEvent | None = None
) -> FitResult:
    """Train one run, go on with it, or read it if it is done and its files are unchanged.

    Args:
        task: what to train.
        folder: of all runs.
        source: the pretrained weights, as `choose_regimes` found them; None for scratch.
        on_event: called as `OnEvent` says, and once for a run that was done before.

    Raises:
        See `train_network`.
    """
    task.check()
    compute = choose_compute(task.settings)
    identity = identify(task, compute=compute, source=source)
    folder = folder / name_run(task, identity)
    done, remark = check_run(folder)
    if not done:
        with computing(compute) as nondeterministic, _explain_stops(task, folder):
            run = Run(task, compute=compute, source=source, identity=identity, folder=folder, on_event=on_event)
            if remark:
                run.discard(remark)
            run.resume()
            run.train()
            _finish(run, nondeterministic)
    elif on_event:
        on_event({**read_history(folder).iloc[-1].to_dict(), "seconds_left": 0.0})
    (folder / "last.pt").unlink(missing_ok=True)  # up to 1.7 GB that nobody goes on from any more
    record = read_done(folder)
    assert record is not None  # checked above, or written just now
    return FitResult(folder, record, read_predictions(folder / "predictions.csv"), read_history(folder))


def read_history(folder: Path) -> pd.DataFrame:
    """Learning curves of one run, or of all runs in a folder: one row per run and epoch.

    Returns:
        Columns `regime`, `seed`, `fold` (where there are several), `epoch` (from 1), `epochs`, `loss`, `val_loss`,
        `val_ap`, `val_auc`, `lr`, `seconds`, `seconds_validation`, `images_per_s`.
    """
    own = folder / "history.jsonl"
    files = [own] if own.is_file() else sorted(folder.glob("*/history.jsonl"))
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return pd.DataFrame([json.loads(line) for line in lines])


def _finish(run: Run, nondeterministic: set[str]) -> None:
    """Load the selected weights, open the test images, and write what is left to write."""
    task = run.task
    run.load_best()
    portions = (task.rows("val"), task.rows("test"))  # the test images are the same for every fold
    tables = [make_table(task, rows, run.predict(rows)) for rows in portions if len(rows)]
    write_predictions(pd.concat(tables, ignore_index=True), run.folder / "predictions.csv")
    best = run.best
    assert best is not None  # an epoch was trained, or read
    record = {
        "network": task.network,
        "backbone": task.settings.backbone,
        **task.key,
        "selected_epoch": best["epoch"],
        "val_ap": best["val_ap"],
        "val_auc": best["val_auc"],
        "val_loss": best["val_loss"],
        "epochs": len(run.history),
        "inert": task.inert_settings(),
        "stopped_early": len(run.history) < task.regime_params.epochs,
        "learnt_from": len(run.train_rows),
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "seconds": round(sum(h["seconds"] + h["seconds_validation"] for h in run.history), 3),
        "compute": run.compute.to_dict(),
        "nondeterministic": sorted(nondeterministic),
        "weights": run.source.to_dict() if run.source is not None and task.regime in PRETRAINED_REGIMES else None,
        "identity": run.identity,
    }
    write_done(run.folder, record)


def make_table(task: TrainingTask, rows: np.ndarray, logits: np.ndarray) -> pd.DataFrame:
    """Predictions of one run, as `predictions.COLUMNS` wants them."""
    table = task.data.table.iloc[rows]
    logits = logits.astype(np.float64)
    return pd.DataFrame(
        {
            "image_id": table["image_id"].to_numpy(),
            "split": name_subsets(table, task.fold).to_numpy(),
            "model": task.settings.model,
            "regime": task.regime,
            "seed": task.seed,
            "target": task.targets(rows),
            "logit": logits,
            "probability": expit(logits),
        }
    )


@contextmanager
def _explain_stops(task: TrainingTask, folder: Path) -> Iterator[None]:
    """Turn an interrupt and a lack of memory into words."""
    try:
        yield
    except KeyboardInterrupt:
        path = folder / "last.pt"
        kept = len(load_checkpoint(path)["history"]) if path.is_file() else 0
        raise KeyboardInterrupt(
            f"stopped while training {task.network} ({name_training(task.key)}); {kept} of "
            f"{task.regime_params.epochs} epochs are kept in {folder.name}. Run the same command again to go on."
        ) from None
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        settings = task.settings
        smaller, steps = max(2, settings.batch_size // 2), settings.accumulation * 2
        raise TrainingError(
            f"out of memory at batch_size {settings.batch_size}, {settings.image_size} px",
            where=f"{task.network}.yaml: batch_size",
            expected="a batch that fits the memory of the device",
            do=f"try batch_size: {smaller} and accumulation: {steps} (the same images per step) in {task.network}.yaml",
        ) from error


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        sign in text for sign in ("out of memory", "can't allocate memory", "not enough memory")
    )
