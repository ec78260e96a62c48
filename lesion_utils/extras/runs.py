"""Which trained network of a study is meant, and its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesion_utils.core import files
from lesion_utils.core.errors import CheckpointError, RunError, WeightsError
from lesion_utils.core.names import REGIMES, find_architecture, name_model, name_training
from lesion_utils.core.paths import Study
from lesion_utils.models.predict import TrainedNetwork, load_network
from lesion_utils.models.weights import find_weights
from lesion_utils.provenance.steps import Step, list_steps
from lesion_utils.training.loop import rank_epoch


@dataclass(frozen=True)
class TrainedRun:
    """One network of a study's present report.

    Attributes:
        study: whose.
        step: that trained it.
        record: what its `DONE` says, as the report keeps it: network, backbone, regime, seed, the selected epoch and
            its validation figures, device, weights, and `folder`, the name of the run's folder.
    """

    study: Study
    step: Step
    record: dict[str, Any]

    @property
    def network(self) -> str:
        assert self.step.network is not None  # only steps that train have runs
        return self.step.network

    @property
    def regime(self) -> str:
        return self.record["regime"]

    @property
    def seed(self) -> int:
        return self.record["seed"]

    @property
    def label(self) -> str:
        """How a person names it: "ResNet50, fine-tuned, seed 1", and where there are several folds, "fold 2"."""
        return f"{name_model(find_architecture(self.record['backbone']))}, {name_training(self.record)}"

    @property
    def path(self) -> list[str]:
        """What `MODEL=` may name, from the left: network, regime, seed, and the fold where there are several."""
        return [self.network, self.regime, *(str(self.record[key]) for key in ("seed", "fold") if key in self.record)]

    @property
    def folder(self) -> Path:
        """Of the run's own files."""
        return self.study.runs / self.step.name / self.record["folder"]

    def load(self) -> TrainedNetwork:
        """The network with the selected weights.

        Raises:
            CheckpointError: its checkpoint is not on this machine, damaged, or of another version.
            WeightsError: a frozen backbone's weights cannot be had, or are not those that it was trained with.
        """
        path = self.folder / "best.pt"
        if not path.is_file():
            raise CheckpointError(
                f"the checkpoint of {self.label} is not on this machine",
                where=path,
                expected="the file that training leaves; a report that came with the project has none",
                do=f"train it here: make all STUDY={self.study.name}",
            )
        network = load_network(path)
        if self.regime == "features":
            self._check_backbone(network)
        return network

    def _check_backbone(self, network: TrainedNetwork) -> None:
        """The checkpoint has the last layer only; on another backbone it would give other scores, and no error."""
        trained_with, found = self.record["weights"], find_weights(network.settings)
        if found is None or found.sha256 != trained_with["sha256"]:
            raise WeightsError(
                "these are not the weights that the last layer was trained on",
                where=found and found.path,
                expected=f"{trained_with['file']} with the SHA-256 {trained_with['sha256']}",
                do=f"put that file there, or train again: make all STUDY={self.study.name}",
            )


def list_runs(study: Study) -> list[TrainedRun]:
    """Every run that the study's report is made of, in the order of the networks, regimes and seeds.

    Raises:
        ParamsError: there is no such study.
        RunError: it has no trained network yet.
    """
    _ = study.params_dir
    found = []
    for step in list_steps(study).values():
        metrics = files.read_json(study.metrics / f"{step.name}.json") if step.network else None
        found += [TrainedRun(study, step, record) for record in (metrics or {}).get("runs", [])]
    if not found:
        raise RunError(
            "the study has no report with a trained network yet",
            where=f"reports/{study.name}",
            do=f"run: make all STUDY={study.name}",
        )
    return sorted(found, key=lambda run: (run.network, REGIMES.index(run.regime), run.seed, run.record.get("fold")))


def choose_runs(study: Study, model: str = "") -> list[TrainedRun]:
    """The runs that are meant.

    Args:
        model: "" for each network of the study, or `network`, `network/regime`, `network/regime/seed`, and in a
            study with several folds `.../fold`. What is left open is chosen: the most pretrained regime, and of its
            seeds and folds the one with the highest validation AP, among equals the one with the lower validation
            loss. The test images play no part.

    Raises:
        ParamsError: there is no such study.
        RunError: it has no trained network yet, or none of that name.
    """
    runs = list_runs(study)
    named = [run for run in runs if _is_named(run, model)]
    if not named:
        raise RunError(
            f"there is no trained network {model!r}",
            where=f"reports/{study.name}",
            expected="network, network/regime or network/regime/seed; there are " + describe_runs(runs),
            do="name one of these with MODEL=",
        )
    networks = dict.fromkeys(run.network for run in named)
    return [_choose([run for run in named if run.network == network]) for network in networks]


def describe_runs(runs: Sequence[TrainedRun]) -> str:
    """What there is to choose from: "resnet50/scratch/1, resnet50/finetune/1 (or 2, 3)"."""
    ends: dict[str, list[str]] = {}
    for run in runs:
        ends.setdefault(f"{run.network}/{run.regime}", []).append("/".join(run.path[2:]))
    return ", ".join(f"{name}/{k[0]}" + (f" (or {', '.join(k[1:])})" if k[1:] else "") for name, k in ends.items())


def _is_named(run: TrainedRun, model: str) -> bool:
    wanted = model.strip("/").split("/") if model.strip("/") else []
    given = [part.removeprefix("seed").removeprefix("fold") for part in wanted]
    return given == run.path[: len(given)]


def _choose(runs: Sequence[TrainedRun]) -> TrainedRun:
    regime = max((run.regime for run in runs), key=REGIMES.index)
    return max((run for run in runs if run.regime == regime), key=lambda run: rank_epoch(run.record))
