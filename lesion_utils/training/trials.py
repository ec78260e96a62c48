"""Trials: settings compared on the training images, before a study fixes its own.

A study's `selection.yaml` asks questions and names candidates; each trial changes some of the study's values and is
judged either by a classical classifier on frozen features, in cross-validation over all training images, or by training
the network in one of its regimes and scoring the study's validation images. The test images are not in any table that a
trial is given. What was chosen, and why, stands beside the evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from pydantic import Field, ValidationError, model_validator
from sklearn.model_selection import StratifiedGroupKFold

from lesion_utils.config.schema import Classifier, Regime, Section, StudyParams
from lesion_utils.core.errors import ParamsError
from lesion_utils.data.duplicates import group_duplicates
from lesion_utils.data.prepare import PreparedData, open_images
from lesion_utils.training.classifiers import FOLDS, fit_classifier, predict_views, read_features
from lesion_utils.training.fit import fit, read_history
from lesion_utils.training.task import TrainingTask, choose_regimes

OnEvent = Callable[[dict[str, Any]], None]


class Question(Section):
    """One question of `selection.yaml`."""

    question: str = Field(min_length=1, description="what is to be decided")
    network: str = Field(pattern="^(resnet50|vgg19)$", description="whose settings the candidates change")
    judge: Classifier | Regime = Field(description="a classifier on frozen features, or the regime that is trained")
    seeds: list[int] = Field(min_length=1, description="of the folds, or of the trainings")
    candidates: dict[str, dict[str, Any]] = Field(
        min_length=2, description="name to changed values, such as resnet50.image_size: 288"
    )
    choice: str = Field(description="the candidate that the study takes")
    because: str = Field(min_length=1, description="why, in a sentence")

    @model_validator(mode="after")
    def _choice_is_a_candidate(self):
        if self.choice not in self.candidates:
            raise ValueError("choice: name one of the candidates")
        return self

    @property
    def trains(self) -> bool:
        """Whether candidates are judged by training."""
        return self.judge in get_args(Regime)


class Selection(Section):
    """selection.yaml: what was tried on the training images."""

    questions: list[Question] = Field(min_length=1)


@dataclass(frozen=True)
class TrainingImages:
    """Decoded images and their table, without the test images."""

    images: np.ndarray
    table: pd.DataFrame


@dataclass(frozen=True)
class Trial:
    """One candidate, judged once: `params` are the study's as it changes them."""

    question: Question
    params: StudyParams
    known: TrainingImages
    seed: int


def run_trials(
    selection: Selection, params: StudyParams, data: PreparedData, *, folder: Path, on_event: OnEvent | None = None
) -> pd.DataFrame:
    """Run every trial that has not been run.

    Args:
        selection: the questions.
        params: of the study; candidates change them.
        data: of the study.
        folder: of the trained networks; a trial that is there already is read.
        on_event: called as `train.OnEvent` says, with `question` and `candidate` besides.

    Returns:
        one row per question, candidate, seed and image: `question` (from 0), `candidate`, `seed`, `image_id`, `target`,
        `probability`; the scores of images that the scored model has not learnt from. `attrs["remarks"]` holds, by
        (question, candidate, seed), what else there is to say.

    Raises:
        ParamsError: a candidate changes something that is not there, or to a value that is not allowed.
    """
    parts, remarks = [], {}
    for number, question in enumerate(selection.questions):
        for name, changes in question.candidates.items():
            changed = change_params(params, changes, where=f"questions[{number}].candidates.{name}")
            known = without_test_images(changed, data)
            for seed in question.seeds:
                tell = _add_to_events(on_event, question=question.question, candidate=name)
                trial = Trial(question, changed, known, seed)
                if question.trains:
                    scores, remark = _train(trial, folder=folder, on_event=tell)
                else:
                    scores, remark = _cross_validate(trial, data.duplicates, on_event=tell), {}
                parts.append(scores.assign(question=number, candidate=name, seed=seed))
                remarks[number, name, seed] = remark
    table = pd.concat(parts, ignore_index=True)
    table = table[["question", "candidate", "seed", "image_id", "target", "probability"]]
    table.attrs["remarks"] = remarks
    return table


def change_params(params: StudyParams, changes: Mapping[str, Any], *, where: str) -> StudyParams:
    """The parameters with some values changed: `{"resnet50.regimes.finetune.lr": 1e-4}`.

    Raises:
        ParamsError: there is no such key, or the value is not allowed.
    """
    values = params.model_dump()
    for key, value in changes.items():
        *path, last = key.split(".")
        node = values
        for part in path:
            node = node.get(part) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last not in node:
            raise ParamsError(f"there is no parameter {key!r}", where=where, do="spell it as in params/README.md")
        node[last] = value
    try:
        return StudyParams.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise ParamsError(what, where=where, do="params/README.md lists the ranges") from None


def without_test_images(params: StudyParams, data: PreparedData) -> TrainingImages:
    """The images of training and validation, decoded as `params.data` says; no other image is even opened."""
    table = data.table[data.table["subset"].isin(("train", "val"))].reset_index(drop=True)
    cache = open_images(table, params.data.stored_size, params.data.aspect)
    return TrainingImages(cache.images, table)


def _train(trial: Trial, *, folder: Path, on_event: OnEvent | None) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Train one network; its scores of the validation images, at the selected epoch, and what there is to say."""
    task = TrainingTask(trial.params, trial.question.network, trial.question.judge, trial.seed, trial.known)
    source = choose_regimes(task.settings)[1]
    result = fit(task, folder=folder, source=source, on_event=on_event)
    history = read_history(result.folder)
    remark = {
        "epoch": result.record["selected_epoch"],
        "epochs": result.record["epochs"],
        "minutes": result.record["seconds"] / 60,
        "last_epochs_ap": float(history["val_ap"].tail(3).mean()),
    }
    return result.predictions[["image_id", "target", "probability"]], remark


def _cross_validate(trial: Trial, duplicates: pd.DataFrame, *, on_event: OnEvent | None) -> pd.DataFrame:
    """Scores of all training images by classifiers that were fitted without them; duplicates stay together."""
    table, network = trial.known.table, getattr(trial.params, trial.question.network).in_regime("features")
    rows = np.arange(len(table))
    tell = on_event and (
        lambda done, total: on_event({"regime": "features", "stage": "frozen features", "done": done, "total": total})
    )
    features = read_features(network, trial.known.images, rows, tta="none", on_batch=tell)
    targets = table["target"].to_numpy()
    both_known = duplicates[["image_id_a", "image_id_b"]].isin(set(table["image_id"])).all(axis=1)
    groups = group_duplicates(table["image_id"], duplicates[both_known])
    probs = np.empty(len(rows))
    for train, held_out in split_folds(targets, groups.to_numpy(), seed=trial.seed):
        model, _ = fit_classifier(trial.question.judge, features[train, 0], targets[train], seed=trial.seed)
        probs[held_out] = predict_views(model, features[held_out])
    return table[["image_id", "target"]].assign(probability=probs)


def split_folds(targets: np.ndarray, groups: np.ndarray, *, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows to learn from and rows to score, for each fold; both classes in proportion, groups together."""
    yield from StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(targets, targets, groups)


def _add_to_events(on_event: OnEvent | None, **more: str) -> OnEvent | None:
    return on_event and (lambda event: on_event({**event, **more}))
