"""Training runs: which ones a study has, and what each depends on."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np
import pandas as pd
import timm

from lesion_utils.config.schema import PRETRAINED_REGIMES, Network, Regime, RegimeParams, StudyParams
from lesion_utils.core.definitions import fingerprint_definitions
from lesion_utils.core.errors import TrainingError, WeightsError
from lesion_utils.core.events import Event
from lesion_utils.models.compute import Compute
from lesion_utils.models.inference import hash_array
from lesion_utils.models.weights import WeightsSource, find_weights

#: Where a run's numbers come from.
_ENTRIES = ("training.train:train_run", "training.task:TrainingTask")
#: Definitions on the way whose edits change no number: what is recorded elsewhere, files, messages.
_CHANGE_NO_NUMBER = {
    *("StudyParams", "Network", "find_weights"),  # their values are part of the identity
    *("identify", "describe_task", "hash_identity", "name_run", "_fingerprint_models"),  # the identity itself
    *("choose_compute", "name_processor"),  # what they return is part of the identity
    *("write_atomic", "dump_json", "save_checkpoint", "load_checkpoint", "read_history", "cache_dir", "RUN_FILES"),
    *("check_run", "read_done", "write_done", "DONE", "KEPT", "digest_file", "read_predictions", "write_predictions"),
    *("ParamsError", "MetricError", "TrainingError", "WeightsError", "_explain_stops", "name_training"),
}


class Images(Protocol):
    """Decoded images and their table; row i of the table is image i.

    Attributes:
        images: (N, S, S, 3) uint8, RGB.
        table: columns `image_id`, `target` (0 or 1) and `subset` (train, val, test, left_out); with several folds also
            `fold`, the part with which an image of train is held out.
        duplicates: pairs `image_id_a`, `image_id_b`; only classical classifiers use them.
    """

    @property
    def images(self) -> np.ndarray: ...
    @property
    def table(self) -> pd.DataFrame: ...
    @property
    def duplicates(self) -> pd.DataFrame: ...


@dataclass(frozen=True, eq=False)
class TrainingTask:
    """One run: a network, a regime, a seed and a fold on given images.

    Attributes:
        params: of the whole study.
        network: "resnet50" or "vgg19": whose section of `params` is used.
        regime: one of that section's regimes.
        seed: of initialisation, order, augmentation, mixup and dropout.
        data: decoded images and their table.
        fold: which part of the training images is held out as this run's validation images; None: those of subset val.
    """

    params: StudyParams
    network: str
    regime: Regime
    seed: int
    data: Images
    fold: int | None = None

    @property
    def settings(self) -> Network:
        """The network's section of the parameters, as its regime has it."""
        return self.params.network(self.network).in_regime(self.regime)

    @property
    def regime_params(self) -> RegimeParams:
        """How its regime is trained."""
        return self.settings.regimes[self.regime]

    @property
    def key(self) -> Event:
        """What tells a network's runs apart: regime, seed and, if there are several, fold."""
        key: Event = {"regime": self.regime, "seed": self.seed}
        return key if self.fold is None else {**key, "fold": self.fold}

    def rows(self, *subsets: str) -> np.ndarray:
        """Numbers of the images in these subsets, as this run has them, in the table's order."""
        return np.flatnonzero(name_subsets(self.data.table, self.fold).isin(subsets))

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """(N,) int64, 0 benign or 1 malignant."""
        return self.data.table["target"].to_numpy(dtype=np.int64)[rows]

    def inert_settings(self) -> list[str]:
        """Settings that have no effect in this run, in sentences."""
        averaging, epochs = self.settings.averaging, self.regime_params.epochs
        steps = epochs * math.ceil(len(self.rows("train")) / self.settings.batch_size / self.settings.accumulation)
        left = averaging.decay**steps
        if averaging.method == "ema" and left > 0.05:
            return [
                f"averaging.decay {averaging.decay:g} is slow for {steps} steps: {left:.0%} of the moving average is "
                f"still the start; {0.05 ** (1 / steps):.2g} would leave 5 %"
            ]
        if averaging.method == "swa" and epochs - min(int(averaging.swa_start * epochs), epochs - 1) < 2:
            return [f"averaging.swa_start {averaging.swa_start:g} leaves one of {epochs} epochs: nothing is averaged"]
        return []

    def check(self) -> None:
        """Raise if there is nothing to train on or to choose by.

        Raises:
            TrainingError: a subset lacks a class, or images and table differ in length.
        """
        if len(self.data.images) != len(self.data.table):
            raise TrainingError(f"{len(self.data.images)} images, but {len(self.data.table)} rows in their table")
        for subset in ("train", "val"):
            if len(np.unique(self.targets(self.rows(subset)))) < 2:
                raise TrainingError(
                    "these images are not of both classes",
                    where=f"subset {subset}",
                    expected="benign and malignant images",
                    do="raise validation_fraction or lower folds in data.yaml, or give more images",
                )


def list_tasks(params: StudyParams, network: str, regimes: list[Regime], data: Images) -> list[TrainingTask]:
    """The runs of a network: every fold of every seed of every regime.

    Args:
        params: of the study.
        network: the file of the network.
        regimes: those that can be trained, see `choose_regimes`.
        data: decoded images and their table.
    """
    settings, folds = params.network(network), list_folds(data.table)
    return [
        TrainingTask(params, network, regime, seed, data, fold)
        for regime in regimes
        for seed, fold in product(settings.in_regime(regime).seeds, folds)
    ]


def list_folds(table: pd.DataFrame) -> list[int] | list[None]:
    """The parts that are held out in turn; one None if the split has a single validation subset."""
    return sorted(set(table["fold"]) - {0}) if "fold" in table else [None]


def name_subsets(table: pd.DataFrame, fold: int | None) -> pd.Series:
    """The subset of each image (train, val, test, left_out) while this fold is held out."""
    return table["subset"] if fold is None else table["subset"].mask(table["fold"] == fold, "val")


def choose_regimes(params: Network) -> tuple[list[Regime], WeightsSource | None, list[dict[str, str]]]:
    """The regimes that can be trained here.

    Returns:
        regimes: in the order scratch, features, finetune.
        source: the pretrained weights, if a regime needs them.
        skipped: `regime` and `reason` of those left out because weights are missing, if `without_weights` is "skip".

    Raises:
        WeightsError: weights are missing, and the study says to stop, or no other regime is left.
    """
    wanted = [regime for regime in ("scratch", *PRETRAINED_REGIMES) if regime in params.regimes]
    if not set(wanted) & set(PRETRAINED_REGIMES):
        return wanted, None, []
    try:
        return wanted, find_weights(params), []
    except WeightsError as error:
        kept = [regime for regime in wanted if regime not in PRETRAINED_REGIMES]
        if params.without_weights == "stop" or not kept:
            raise
        reason = f"no pretrained weights: {error.where or params.backbone}: {error.what}"
        return kept, None, [{"regime": regime, "reason": reason} for regime in wanted if regime not in kept]


def identify(task: TrainingTask, *, compute: Compute, source: WeightsSource | None) -> dict[str, Any]:
    """Everything that a run's numbers depend on, by name; nested mappings of plain values.

    At level "fast" the machine is left out: such a run may continue on another one.
    """
    identity = describe_task(task, source=source)
    return identity if compute.level == "fast" else {**identity, "compute": compute.identity}


def describe_task(task: TrainingTask, *, source: WeightsSource | None) -> dict[str, Any]:
    """Everything that a run's numbers depend on, apart from the machine: settings, images, weights and code."""
    settings = task.settings.model_dump(mode="json")
    for other in ("seeds", "regimes", "classifiers", "without_weights", "weights"):
        del settings[other]
    columns = task.data.table[["image_id", "target"]].assign(subset=name_subsets(task.data.table, task.fold))
    identity = {
        task.network: settings,
        "regime": {"name": task.regime, **task.regime_params.model_dump(mode="json", exclude={"seeds"})},
        "seed": task.seed,
        "fold": task.fold,
        "images": hash_array(np.ascontiguousarray(task.data.images)),
        "table": hashlib.sha256(pd.util.hash_pandas_object(columns, index=False).to_numpy().tobytes()).hexdigest(),
        "weights": source.sha256 if source is not None and task.regime in PRETRAINED_REGIMES else None,
        "timm": timm.__version__,
        "code": fingerprint_definitions(_ENTRIES, without=_CHANGE_NO_NUMBER),
    }
    if task.regime != "features":
        identity["augmentation"] = task.params.augmentation.model_dump(mode="json")
    return identity


def name_run(task: TrainingTask, identity: dict[str, Any]) -> str:
    """Name of a run's folder: regime, seed, fold and a hash of everything it depends on."""
    fold = "" if task.fold is None else f"-fold{task.fold}"
    return f"{task.regime}-seed{task.seed}{fold}-{hash_identity(identity)}"


def hash_identity(identity: dict[str, Any]) -> str:
    """Twelve hexadecimal digits that stand for a mapping of plain values."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
