"""Choosing settings: trials on the training images, before a study fixes its own, and their page, `selection.md`.

A study's `selection.yaml` asks questions and names candidates, or a grid whose combinations they are; each trial
changes some of the study's values and is judged either by a classical classifier on frozen features, in
cross-validation over all training images, or by training the network in one of its regimes and scoring the study's
validation images. The test images are not in any table that a trial is given. What was chosen, and why, stands beside
the evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from lesion_utils.config.data import Data
from lesion_utils.config.load import load_file
from lesion_utils.config.schema import Comparison, Regime, StudyParams
from lesion_utils.config.selection import Question, Selection, change_params
from lesion_utils.core.errors import ParamsError, RunError
from lesion_utils.core.events import Event, OnEvent
from lesion_utils.core.files import write_if_changed
from lesion_utils.core.paths import Study, docs_root
from lesion_utils.data.cache import open_cache
from lesion_utils.data.prepared import PreparedData, load_prepared
from lesion_utils.data.tables import dump_csv, read_csv
from lesion_utils.evaluation.evaluate import evaluate_with_intervals
from lesion_utils.evaluation.intervals import draw_weights
from lesion_utils.evaluation.metrics import average_precision, roc_auc
from lesion_utils.evaluation.paired_tests import compare_bootstrap
from lesion_utils.evaluation.predictions import join_folds
from lesion_utils.extras.jobs import Job
from lesion_utils.extras.select_page import group_margins, name_margins, write_text
from lesion_utils.figures.style import save
from lesion_utils.figures.training import plot_margins
from lesion_utils.training.classifiers import (
    fit_classifier,
    name_groups,
    predict_views,
    read_features,
    split_folds,
)
from lesion_utils.training.task import TrainingTask, choose_regimes, list_folds
from lesion_utils.training.train import train_run

FILE = "selection.yaml"
SCORES = ["question", "candidate", "seed", "image_id", "target", "probability"]


@dataclass(frozen=True)
class TrainingImages:
    """Decoded images and their table, without the test images."""

    images: np.ndarray
    table: pd.DataFrame
    duplicates: pd.DataFrame


@dataclass(frozen=True)
class Trial:
    """One candidate, judged once: `params` are the study's as it changes them."""

    question: Question
    params: StudyParams
    known: TrainingImages
    seed: int


@dataclass(frozen=True)
class TrialScores:
    """What the trials gave.

    Attributes:
        scores: one row per question, candidate, seed and image: `question` (from 0), `candidate`, `seed`, `image_id`,
            `target`, `probability`; the scores of images that the scored model has not learnt from.
        remarks: by (question, candidate, seed), what else there is to say of a training.
    """

    scores: pd.DataFrame
    remarks: dict[tuple[int, str, int], dict[str, Any]]


def run_trials(
    selection: Selection, params: StudyParams, data: PreparedData, *, folder: Path, on_event: OnEvent | None = None
) -> TrialScores:
    """Run every trial that has not been run.

    Args:
        selection: the questions.
        params: of the study; candidates change them.
        data: of the study.
        folder: of the trained networks; a trial that is there already is read.
        on_event: called as `events.Event` says, with `question` and `candidate` besides.

    Raises:
        ParamsError: a candidate changes something that is not there, or to a value that is not allowed.
    """
    parts, remarks = [], {}
    for number, question in selection.open.items():
        for name, changes in question.candidates.items():
            changed = change_params(params, changes, where=f"questions[{number}].candidates.{name}")
            known = without_test_images(changed.data, data)
            for seed in question.seeds:
                tell = _add_to_events(on_event, {"question": question.question, "candidate": name})
                trial = Trial(question, changed, known, seed)
                if question.trains:
                    scores, remark = _train(trial, folder=folder, on_event=tell)
                else:
                    scores, remark = _cross_validate(trial, on_event=tell), {}
                parts.append(scores.assign(question=number, candidate=name, seed=seed))
                remarks[number, name, seed] = remark
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=SCORES)
    return TrialScores(table[SCORES], remarks)


def list_trainings(study: Study, params: StudyParams) -> list[Job]:
    """The tasks of a study's open questions that are judged by training, as `training.ahead` takes them."""
    folder = study.runs / "selection"
    jobs: list[Job] = []
    for number, question in _read_questions(study).open.items():
        folds = list_folds(load_prepared(study, params.data).table)
        for (name, changes), seed, fold in product(question.candidates.items(), question.seeds, folds):
            if question.trains:
                changed = change_params(params, changes, where=f"questions[{number}].candidates.{name}")
                log = folder / "jobs" / f"{len(jobs)}.jsonl"
                given: tuple[Any, ...] = (question.judge, seed, fold, folder, log, name, open_training_images)
                jobs.append(Job(study.name, changed, question.network, *given))
    return jobs


def open_training_images(study: Study, data: Data) -> TrainingImages:
    """Those of a study, as a worker opens them."""
    return without_test_images(data, load_prepared(study, data))


def without_test_images(params: Data, data: PreparedData) -> TrainingImages:
    """The images of training and validation, decoded as `params` says; no other image is even opened."""
    table = data.table[data.table["subset"].isin(("train", "val"))].reset_index(drop=True)
    return TrainingImages(open_cache(table, params.stored_size, params.aspect), table, data.duplicates)


def _train(trial: Trial, *, folder: Path, on_event: OnEvent | None) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Train one network per fold; their scores of the images held out, at the selected epoch, and what to say of them.

    Figures are means over the folds, minutes their sum.
    """
    params, network = trial.params, trial.question.network
    source = choose_regimes(params.network(network))[1]
    results = []
    for fold in list_folds(trial.known.table):
        regime, known = cast(Regime, trial.question.judge), trial.known
        task = TrainingTask(params, network, regime, trial.seed, known, fold)  # type: ignore[arg-type]  # Images: could be set
        results.append(train_run(task, folder=folder, source=source, on_event=on_event))
    remark = {
        "epoch": np.mean([r.record["selected_epoch"] for r in results]),
        "epochs": np.mean([r.record["epochs"] for r in results]),
        "minutes": sum(r.record["seconds"] for r in results) / 60,
        "last_epochs_ap": np.mean([r.history["val_ap"].tail(3).mean() for r in results]),
    }
    return join_folds([r.predictions for r in results])[["image_id", "target", "probability"]], remark


def _cross_validate(trial: Trial, *, on_event: OnEvent | None) -> pd.DataFrame:
    """Scores of all training images by classifiers that were fitted without them; duplicates stay together."""
    table, network = trial.known.table, trial.params.network(trial.question.network).in_regime("features")
    rows = np.arange(len(table))

    def tell(done: int, total: int) -> None:
        if on_event:
            on_event({"regime": "features", "stage": "frozen features", "done": done, "total": total})

    features = read_features(network, trial.known.images, rows, tta="none", on_batch=tell)
    targets = table["target"].to_numpy()
    groups = name_groups(table, trial.known.duplicates)
    probs = np.empty(len(rows))
    for train, held_out in split_folds(targets, groups, seed=trial.seed):
        known = {"groups": groups[train], "seed": trial.seed}
        model, _ = fit_classifier(trial.question.judge, features[train, 0], targets[train], **known)
        probs[held_out] = predict_views(model, features[held_out])
    return table[["image_id", "target"]].assign(probability=probs)


def _add_to_events(on_event: OnEvent | None, more: Event) -> OnEvent | None:
    return on_event and (lambda event: on_event({**event, **more}))


def select_settings(study: Study, params: StudyParams, *, on_event: OnEvent | None = None) -> str:
    """Run a study's trials, as far as they have not been run, and write `selection.md` and `selection/`.

    Args:
        study: with a `selection.yaml` among its parameters.
        params: of the study.
        on_event: see `run_trials`.

    Returns:
        the text of `selection.md`.

    Raises:
        ParamsError: there is no selection.yaml, or it is wrong.
        DataError: the data are not prepared.
        RunError: the evidence of an answered question is gone.
    """
    selection, data = _read_questions(study), load_prepared(study, params.data)
    kept = read_answered(study, selection)
    trials = run_trials(selection, params, data, folder=study.runs / "selection", on_event=on_event)
    made = {"scores": trials.scores, "trials": tabulate_trials(selection, trials, params.comparison)}
    made = {
        name: pd.concat([kept[name], frame]).sort_values("question", kind="stable", ignore_index=True)
        for name, frame in made.items()
    }
    text = write_text(selection, made["scores"], made["trials"], params=params, study=study.name)
    folder = study.report_dir / "selection"
    for name, frame in made.items():
        write_if_changed(folder / f"{name}.csv", dump_csv(frame))
    for number, question in selection.open.items():
        rows = made["trials"][made["trials"]["question"] == number]
        if margins := group_margins(rows, question):
            title = {"Title": question.question}
            save(plot_margins(margins), folder / name_margins(number), metadata=title, kinds=["svg"])
    write_if_changed(study.report_dir / "selection.md", text)
    return text


def _read_questions(study: Study) -> Selection:
    path = study.params_dir / FILE
    if not path.is_file():
        raise ParamsError(
            "this study compares no settings",
            where=f"params/{study.name}/{FILE}",
            expected="questions and candidates",
            do=f"copy params/isic2016_640px/{FILE} there and edit it",
        )
    return load_file(path, Selection)


def read_answered(study: Study, selection: Selection) -> dict[str, pd.DataFrame]:
    """The evidence on answered questions, as it stands in the report, or in its published copy: `scores` and `trials`.

    Raises:
        RunError: it is in neither.
    """
    answered = set(range(len(selection.questions))) - set(selection.open)
    folders = [folder / "selection" for folder in (study.report_dir, docs_root() / study.name)]
    folder = next((folder for folder in folders if (folder / "trials.csv").is_file()), folders[0])
    kept = {}
    for name in ("scores", "trials") if answered else ():
        path = folder / f"{name}.csv"
        table = read_csv(path) if path.is_file() else pd.DataFrame(columns=["question"])
        kept[name] = table[table["question"].isin(answered)]
        if lost := sorted(answered - set(kept[name]["question"])):
            raise RunError(
                f"the evidence on {selection.questions[lost[0]].question!r}, which is answered, is gone",
                where=path,
                expected=f"rows with the question {lost[0]}",
                do="bring the file back from version control, or take `answered` out of the question, to ask it again",
            )
    return kept or {"scores": pd.DataFrame(), "trials": pd.DataFrame()}


def tabulate_trials(selection: Selection, trials: TrialScores, params: Comparison) -> pd.DataFrame:
    """AP and AUC of every candidate, and its difference in AP to the one that was chosen, with intervals.

    Values are those of the mean probability over the seeds, beside them the mean over single seeds.

    Returns:
        one row per candidate: `question` (from 0), `candidate`, `images`, `seeds`, `ap`, `ap_low`, `ap_high`,
        `ap_single`, `auc`, `auc_low`, `auc_high`, `auc_single`, `difference`, `difference_low`, `difference_high`
        (AP minus that of the choice), `chosen`, and for trainings `epoch`, `epochs`, `last_epochs_ap`, `minutes`.
    """
    rows = []
    for number, question in selection.open.items():
        asked = trials.scores[trials.scores["question"] == number]
        mean = asked.pivot_table(index=["image_id", "target"], columns="candidate", values="probability")
        targets = mean.index.get_level_values("target").to_numpy()
        weights = draw_weights(targets, draws=params.bootstrap_draws, seed=params.seed)
        settings: dict[str, Any] = {"weights": weights, "confidence": params.confidence}
        for name in question.candidates:
            row = {"question": number, "candidate": name, "images": len(mean), "seeds": len(question.seeds)}
            values = evaluate_with_intervals(targets, mean[name].to_numpy(), **settings).set_index("metric")
            seeds = [rows for _, rows in asked[asked["candidate"] == name].groupby("seed")]
            for metric, function in (("ap", average_precision), ("auc", roc_auc)):
                value, low, high = values.loc[metric, ["value", "low", "high"]]
                single = sum(function(rows["target"], rows["probability"]) for rows in seeds) / len(seeds)
                row |= {metric: value, f"{metric}_low": low, f"{metric}_high": high, f"{metric}_single": single}
            gap = compare_bootstrap(targets, mean[name], mean[question.choice], metric="ap", **settings)
            row |= {"difference": gap.difference, "difference_low": gap.low, "difference_high": gap.high}
            remarks = [trials.remarks[number, name, seed] for seed in question.seeds]
            rows.append(row | {"chosen": name == question.choice} | pd.DataFrame(remarks).mean().to_dict())
    return pd.DataFrame(rows)
