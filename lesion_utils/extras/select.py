"""Choosing settings on the training images, before a study fixes its own (`make select`), and the page `selection.md`.

A study's `selection.yaml` asks questions and names candidates, or a grid whose combinations are candidates. A
candidate changes some of the study's values. A trial is one candidate with one seed. It is judged either by a classical
classifier on frozen features, in cross-validation over all training images, or by training the network in one of its
regimes, fold by fold, and scoring the images held out. Trials are not given the test images. Trials that are done are
read, so an interrupted selection continues.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import cast

import numpy as np
import pandas as pd

from lesion_utils.config.data import Data
from lesion_utils.config.load import load_file
from lesion_utils.config.schema import Comparison, Regime, StudyParams
from lesion_utils.config.selection import Question, Selection, change_params, combine
from lesion_utils.core.console import Console
from lesion_utils.core.errors import ParamsError, RunError
from lesion_utils.core.events import Event, OnEvent
from lesion_utils.core.files import write_if_changed
from lesion_utils.core.names import CLASSIFIER_NAMES, REGIME_NAMES, name_model
from lesion_utils.core.paths import Study, docs_root
from lesion_utils.data.cache import open_cache
from lesion_utils.data.prepared import PreparedData, load_prepared
from lesion_utils.data.tables import dump_csv, read_csv
from lesion_utils.evaluation.evaluate import evaluate_with_intervals
from lesion_utils.evaluation.intervals import draw_weights, format_value
from lesion_utils.evaluation.metrics import average_precision, roc_auc
from lesion_utils.evaluation.paired_tests import compare_bootstrap
from lesion_utils.evaluation.predictions import join_folds
from lesion_utils.extras.ahead import train_ahead
from lesion_utils.extras.jobs import Job
from lesion_utils.figures.style import save
from lesion_utils.figures.training import plot_margins
from lesion_utils.provenance.record import write_selection_record
from lesion_utils.report.notebook_pages import write_document
from lesion_utils.training.classifiers import (
    CANDIDATES,
    FOLDS,
    fit_classifier,
    name_groups,
    predict_views,
    read_features,
    split_folds,
)
from lesion_utils.training.task import TrainingTask, choose_regimes, list_folds
from lesion_utils.training.train import train_run

FILE = "selection.yaml"

#: The stages of a question: all candidates in some of the folds, then the finalists, or all candidates, in all folds.
SCREENING, ALL = "screening", "all"

SCORES = ["question", "stage", "candidate", "seed", "image_id", "target", "probability"]


@dataclass(frozen=True)
class TrainingImages:
    """Decoded images and their table, without the test images."""

    images: np.ndarray
    table: pd.DataFrame
    duplicates: pd.DataFrame


@dataclass(frozen=True)
class Trial:
    """One candidate with one seed.

    Attributes:
        question: which settings it compares.
        candidate: its name.
        params: of the study, as the candidate changes them.
        known: the images of training and validation, stored as `params` says.
        seed: of the folds (classifiers) or of the runs (regimes).
    """

    question: Question
    candidate: str
    params: StudyParams
    known: TrainingImages
    seed: int

    def list_tasks(self, folds: Sequence[int] | None) -> list[TrainingTask]:
        """Its runs, one per fold; None: all folds."""
        network, regime = self.question.network, cast(Regime, self.question.judge)
        chosen: Sequence[int | None] = folds or list_folds(self.known.table)
        return [TrainingTask(self.params, network, regime, self.seed, self.known, fold) for fold in chosen]


@dataclass(frozen=True)
class TrialScores:
    """The results of the trials.

    Attributes:
        scores: one row per question, stage, candidate, seed and image: `question` (from 0), `stage` ("screening" or
            "all"), `candidate`, `seed`, `image_id`, `target`, `probability`; the image is never one that the scored
            model was trained on.
        remarks: by (question, stage, candidate, seed), further numbers of a training.
    """

    scores: pd.DataFrame
    remarks: dict[tuple[int, str, str, int], dict[str, float]]


def select_settings(study: Study, params: StudyParams, *, console: Console) -> str:
    """Run the trials of a study that have not been run, and write `selection.md`, its page and `selection/`.

    Args:
        study: with a `selection.yaml` among its parameters.
        params: of the study.
        console: shows how far the trials are.

    Returns:
        the text of `selection.md`.

    Raises:
        ParamsError: there is no selection.yaml, or it is wrong.
        DataError: the data are not prepared.
        RunError: the evidence of an answered question is missing.
    """
    selection, data = _read_questions(study), load_prepared(study, params.data)
    kept = read_answered(study, selection)
    folder = study.runs / "selection"

    def prepare(trials: Sequence[Trial], folds: Sequence[int] | None) -> None:
        train_ahead(list_trainings(study, trials, folds), console=console)

    trials = run_trials(selection, params, data, folder=folder, on_event=console.show, prepare=prepare)
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
            save(plot_margins(margins), folder / _name_margins(number), metadata=title, kinds=["svg"])
    document, page = study.report_dir / "selection.md", study.html / "selection.html"
    write_if_changed(document, text)
    write_document(document, page, study=study.name)
    names = [*(f"{name}.csv" for name in made), *(f"{_name_margins(i)}.svg" for i in range(len(selection.questions)))]
    write_selection_record(study, [document, page, *(folder / name for name in names if (folder / name).is_file())])
    return text


def run_trials(
    selection: Selection,
    params: StudyParams,
    data: PreparedData,
    *,
    folder: Path,
    on_event: OnEvent | None = None,
    prepare: Callable[[Sequence[Trial], Sequence[int] | None], None] | None = None,
) -> TrialScores:
    """Run every trial that has not been run.

    Args:
        selection: the questions.
        params: of the study; candidates change them.
        data: of the study.
        folder: of the trained networks; a trial that is there already is read.
        on_event: takes the events of training, with `question` and `candidate`.
        prepare: called with the trials and folds of each stage before they are run, to train them in other processes.

    Raises:
        ParamsError: a candidate changes something that does not exist, or to a value that is not allowed.
    """
    parts: list[pd.DataFrame] = []
    remarks: dict[tuple[int, str, str, int], dict[str, float]] = {}
    for number, question in selection.open.items():
        trials = list_trials(number, question, params, data)
        stages: list[tuple[str, Sequence[int] | None]] = [(ALL, question.folds)]
        if question.finalists:
            stages = [(SCREENING, question.folds), (ALL, None)]
        for stage, folds in stages:
            if stage == ALL and question.finalists:  # `parts` ends with the scores of the screening
                finalists = choose_finalists(parts[-len(trials) :], question.finalists)
                trials = [trial for trial in trials if trial.candidate in finalists]
            if question.trains and prepare:
                prepare(trials, folds)
            for trial in trials:
                tell = _add_to_events(on_event, {"question": question.question, "candidate": trial.candidate})
                if question.trains:
                    scores, remark = _train(trial, folds, folder=folder, on_event=tell)
                else:
                    scores, remark = _cross_validate(trial, on_event=tell), {}
                key = (number, stage, trial.candidate, trial.seed)
                parts.append(scores.assign(**dict(zip(SCORES, key, strict=False))))
                remarks[key] = remark
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=SCORES)
    return TrialScores(table[SCORES], remarks)


def list_trials(number: int, question: Question, params: StudyParams, data: PreparedData) -> list[Trial]:
    """The trials of a question: each candidate with each seed.

    Args:
        number: of the question, from 0; messages name it.
        question: names the candidates.
        params: of the study; candidates change them.
        data: of the study.
    """
    trials = []
    for name, changes in question.candidates.items():
        changed = change_params(params, changes, where=f"questions[{number}].candidates.{name}")
        known = without_test_images(changed.data, data)
        trials += [Trial(question, name, changed, known, seed) for seed in question.seeds]
    return trials


def choose_finalists(scores: Iterable[pd.DataFrame], count: int) -> set[str]:
    """The candidates of the highest AP, each by the mean probability over its seeds; ties go to the earlier one.

    Args:
        scores: of all candidates on the same images, with the columns of `SCORES`.
        count: how many.
    """
    table = pd.concat(scores)
    mean = table.groupby(["candidate", "image_id"], sort=False)[["target", "probability"]].mean()
    aps = {
        name: average_precision(rows["target"].to_numpy(dtype=int), rows["probability"].to_numpy())
        for name, rows in mean.groupby("candidate", sort=False)
    }
    return set(sorted(aps, key=lambda name: -aps[name])[:count])


def list_trainings(study: Study, trials: Sequence[Trial], folds: Sequence[int] | None) -> list[Job]:
    """The runs of trials, as `extras.ahead` trains them in other processes.

    Args:
        study: whose `runs/selection` takes them.
        trials: of a question that is judged by training.
        folds: in which they are trained; None: all.
    """
    folder = study.runs / "selection"
    tasks = [(trial.candidate, task) for trial in trials for task in trial.list_tasks(folds)]
    return [
        Job.of(task, study=study, folder=folder, number=number, title=name, load=open_training_images)
        for number, (name, task) in enumerate(tasks)
    ]


def open_training_images(study: Study, data: Data) -> TrainingImages:
    """The images of a study without the test images, as a worker opens them."""
    return without_test_images(data, load_prepared(study, data))


def without_test_images(params: Data, data: PreparedData) -> TrainingImages:
    """The images of training and validation, decoded as `params` says; no other image is even opened."""
    table = data.table[data.table["subset"].isin(("train", "val"))].reset_index(drop=True)
    return TrainingImages(open_cache(table, params.stored_size, params.aspect), table, data.duplicates)


def _train(
    trial: Trial, folds: Sequence[int] | None, *, folder: Path, on_event: OnEvent | None
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Train one network per fold.

    Returns:
        scores: of the images held out, at the selected epoch.
        remark: means over the folds; minutes are their sum.
    """
    source = choose_regimes(trial.params.network(trial.question.network))[1]
    results = [train_run(t, folder=folder, source=source, on_event=on_event) for t in trial.list_tasks(folds)]
    remark = {
        "epoch": fmean(r.record["selected_epoch"] for r in results),
        "epochs": fmean(r.record["epochs"] for r in results),
        "minutes": sum(r.record["seconds"] for r in results) / 60,
        "last_epochs_ap": fmean(r.history["val_ap"].tail(3).mean() for r in results),
        "loss": fmean(r.history["loss"].iloc[-1] for r in results),
    }
    return join_folds([r.predictions for r in results])[["image_id", "target", "probability"]], remark


def _cross_validate(trial: Trial, *, on_event: OnEvent | None) -> pd.DataFrame:
    """Scores of all training images by classifiers that were fitted without them; duplicates stay together."""
    table, network = trial.known.table, trial.params.network(trial.question.network).in_regime("features")
    rows = np.arange(len(table))

    def tell(event: Event) -> None:
        if on_event:
            on_event({"regime": "features", "stage": "frozen features", **event})

    features = read_features(network, trial.known.images, rows, tta="none", on_event=tell)
    targets = table["target"].to_numpy()
    groups = name_groups(table, trial.known.duplicates)
    probs = np.empty(len(rows))
    for train, held_out in split_folds(targets, groups, seed=trial.seed):
        known = {"groups": groups[train], "seed": trial.seed}
        model, _ = fit_classifier(CANDIDATES[trial.question.judge], features[train, 0], targets[train], **known)
        probs[held_out] = predict_views(model, features[held_out])
    return table[["image_id", "target"]].assign(probability=probs)


def _add_to_events(on_event: OnEvent | None, more: Event) -> OnEvent | None:
    return on_event and (lambda event: on_event({**event, **more}))


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
    """The evidence on answered questions, from the report or its published copy: `scores` and `trials`.

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
        if "stage" not in table:
            table.insert(1, "stage", ALL)  # files from before there was a screening
        kept[name] = table[table["question"].isin(answered)]
        if lost := sorted(answered - set(kept[name]["question"])):
            raise RunError(
                f"the evidence on {selection.questions[lost[0]].question!r}, which is answered, is missing",
                where=path,
                expected=f"rows with the question {lost[0]}",
                do="restore the file from version control, or remove `answered` from the question to run it again",
            )
    return kept or {"scores": pd.DataFrame(), "trials": pd.DataFrame()}


def tabulate_trials(selection: Selection, trials: TrialScores, params: Comparison) -> pd.DataFrame:
    """AP and AUC of every candidate, and its difference in AP to the chosen candidate, with intervals.

    Values are those of the mean probability over the seeds; `ap_single` and `auc_single` are means over single seeds.

    Args:
        selection: the questions.
        trials: the results of `run_trials`.
        params: of the bootstrap.

    Returns:
        One row per stage and candidate: `question` (from 0), `stage`, `candidate`, `images`, `seeds`, `ap`, `ap_low`,
        `ap_high`, `ap_single`, `auc`, `auc_low`, `auc_high`, `auc_single`, `difference`, `difference_low`,
        `difference_high` (AP minus that of the choice), `chosen`, and for trainings `epoch`, `epochs`,
        `last_epochs_ap`, `loss` (training loss of the last epoch), `minutes`.
    """
    rows = []
    for number, question in selection.open.items():
        own = trials.scores[trials.scores["question"] == number]
        choice = question.choice or next(iter(choose_finalists([own[own["stage"] == ALL]], 1)))
        for stage, scores in own.groupby("stage", sort=False):
            # without a row of the choice, of which the screening thought less, there is no difference to it
            mean = scores.pivot_table(index=["image_id", "target"], columns="candidate", values="probability")
            targets = mean.index.get_level_values("target").to_numpy()
            weights = draw_weights(targets, draws=params.bootstrap_draws, seed=params.seed)
            for name in question.candidates:
                if name not in mean:
                    continue
                probs = mean[name].to_numpy()
                row = {"question": number, "stage": stage, "candidate": name, "images": len(mean)}
                row["seeds"] = len(question.seeds)
                values = evaluate_with_intervals(targets, probs, weights=weights, confidence=params.confidence)
                values = values.set_index("metric")
                seeds = [part for _, part in scores[scores["candidate"] == name].groupby("seed")]
                for metric, function in (("ap", average_precision), ("auc", roc_auc)):
                    value, low, high = values.loc[metric, ["value", "low", "high"]]
                    single = fmean(function(part["target"], part["probability"]) for part in seeds)
                    row |= {metric: value, f"{metric}_low": low, f"{metric}_high": high, f"{metric}_single": single}
                if choice in mean:
                    gap = compare_bootstrap(
                        targets, probs, mean[choice], metric="ap", weights=weights, confidence=params.confidence
                    )
                    row |= {"difference": gap.difference, "difference_low": gap.low, "difference_high": gap.high}
                remarks = [trials.remarks[number, stage, name, seed] for seed in question.seeds]
                rows.append(row | {"chosen": name == choice} | pd.DataFrame(remarks).mean().to_dict())
    return pd.DataFrame(rows)


# The page


def write_text(
    selection: Selection, scores: pd.DataFrame, table: pd.DataFrame, *, params: StudyParams, study: str
) -> str:
    """The page as Markdown; every number in it comes from `table`.

    Args:
        selection: the questions.
        scores: of all questions, with the columns of `SCORES`.
        table: of `tabulate_trials`.
        params: of the study.
        study: its name.
    """
    images = scores["image_id"].nunique()
    parts = [
        f"# How the settings of `{study}` were chosen",
        f"By trials on the {images} images of training and validation. No trial was given a test image. Brackets "
        f"contain {params.comparison.confidence * 100:g} % intervals from resampling the images. The difference is "
        "the candidate's AP minus that of the chosen candidate, on the same images. If its interval contains zero, the "
        "data do not distinguish the two, and the sentence below the table says what decided.",
    ]
    for number, question in enumerate(selection.questions):
        parts += [f"## {question.question}", _describe_judge(question, name_model(params.models[question.network]))]
        rows = table[table["question"] == number]
        for stage, own in rows.groupby("stage", sort=False):
            if stage == SCREENING:
                parts.append(f"All candidates, trained in {_name_folds(question)}:")
            elif question.finalists:
                parts.append(f"The {question.finalists} candidates of the highest AP, trained in all folds:")
            parts.append("\n".join(_write_table(own, trains=question.trains)))
        parts += ["\n".join(_write_margin(key, aps)) for key, aps in group_margins(rows, question).items()]
        if question.grid:
            parts.append(f"![AP by each parameter of the grid](selection/{_name_margins(number)}.svg)")
        chosen = question.choice or rows[rows["chosen"]]["candidate"].iloc[0]
        parts.append(f"**Chosen: {chosen}.** {question.because or 'It has the highest AP.'}")
    parts.append(
        f"The questions are in `params/{study}/selection.yaml`, all scores in `selection/scores.csv`, all numbers "
        f"above in `selection/trials.csv`. `make select STUDY={study}` makes this page."
    )
    return "\n\n".join(parts) + "\n"


def _describe_judge(question: Question, network: str) -> str:
    seeds = "one seed" if len(question.seeds) == 1 else f"{len(question.seeds)} seeds, their probabilities averaged"
    if question.trains:
        folds = f", in {_name_folds(question)}" if question.folds and not question.finalists else ""
        how = f"{network}, {REGIME_NAMES[question.judge]}, scored on the images held out{folds}, at the selected epoch"
    else:
        classifier = CLASSIFIER_NAMES[question.judge]
        how = f"{classifier} on frozen features of {network}, {FOLDS}-fold cross-validation over all training images"
    asked = f" Run {question.answered}; the results are kept unchanged." if question.answered else ""
    return f"Judged by: {how}; {seeds}.{asked}"


def _name_folds(question: Question) -> str:
    folds = question.folds or []
    return f"fold{'s' * (len(folds) > 1)} {', '.join(map(str, folds))}"


def _name_margins(number: int) -> str:
    """The file, without its suffix, of the figure of a grid: of question `number`, from 0."""
    return f"margins_{number}"


def group_margins(rows: pd.DataFrame, question: Question) -> dict[str, dict[str, list[float]]]:
    """Each parameter of a question's grid by itself: for each of its values, the AP of every combination that has it.

    Args:
        rows: of the question, from `tabulate_trials`; its first stage, which has all candidates, is used.
        question: without a grid, nothing is returned.
    """
    first = rows[rows["stage"] == (SCREENING if question.finalists else ALL)]
    scores, combinations = first.set_index("candidate")["ap"], combine(question.grid)
    return {
        key: {
            str(value): scores.reindex([name for name, has in combinations.items() if has[key] == value]).tolist()
            for value in values
        }
        for key, values in question.grid.items()
    }


def _write_margin(key: str, aps: Mapping[str, Sequence[float]]) -> Iterator[str]:
    yield f"| `{key}` | mean AP of the combinations | lowest | highest |"
    yield "|---|---|---|---|"
    for value, own in aps.items():
        yield f"| {value} | {fmean(own):.3f} | {min(own):.3f} | {max(own):.3f} |"


def _write_table(rows: pd.DataFrame, *, trains: bool) -> Iterator[str]:
    more = ["selected epoch", "AP of the last three epochs", "minutes"] if trains else []
    yield "| " + " | ".join(["candidate", "images", "AP", "AUC", "difference in AP", *more]) + " |"
    yield "|" + "---|" * (5 + len(more))
    for row in rows.to_dict("records"):
        cells = [f"**{row['candidate']}**" if row["chosen"] else row["candidate"], str(row["images"])]
        cells += [format_value(row[m], row[f"{m}_low"], row[f"{m}_high"]) for m in ("ap", "auc")]
        compared = not row["chosen"] and pd.notna(row.get("difference"))
        gap = format_value(row["difference"], row["difference_low"], row["difference_high"]) if compared else ""
        cells.append(gap)
        if trains:
            cells += [f"{row['epoch']:.0f} of {row['epochs']:.0f}", f"{row['last_epochs_ap']:.3f}"]
            cells.append(f"{row['minutes']:.0f}")
        yield "| " + " | ".join(cells) + " |"
