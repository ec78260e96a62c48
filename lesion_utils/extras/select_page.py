"""The page of a study's trials, `selection.md`: each question, what was found, what was chosen, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

import pandas as pd

from lesion_utils.config.schema import StudyParams
from lesion_utils.config.selection import Question, Selection, combine
from lesion_utils.core.names import CLASSIFIER_NAMES, REGIME_NAMES, name_model
from lesion_utils.evaluation.intervals import format_value
from lesion_utils.training.classifiers import FOLDS


def write_text(
    selection: Selection, scores: pd.DataFrame, table: pd.DataFrame, *, params: StudyParams, study: str
) -> str:
    """The page as Markdown; every number in it comes from `table`."""
    images = scores["image_id"].nunique()
    parts = [
        f"# How the settings of `{study}` were chosen",
        f"By trials on the {images} images of training and validation. No test image was given to any trial. Brackets "
        f"hold {params.comparison.confidence * 100:g} % intervals from resampling the images; the difference is the "
        "candidate's AP minus that of the choice, on the same images. Where its interval holds zero, the evidence does "
        "not tell the two apart, and the sentence below the table says what decided.",
    ]
    for number, question in enumerate(selection.questions):
        parts += [f"## {question.question}", _describe_judge(question, name_model(params.models[question.network]))]
        rows = table[table["question"] == number]
        parts.append("\n".join(_write_table(rows, trains=question.trains)))
        parts += ["\n".join(_write_margin(key, aps)) for key, aps in group_margins(rows, question).items()]
        if question.grid:
            parts.append(f"![AP by each parameter of the grid](selection/{name_margins(number)}.svg)")
        parts.append(f"**Chosen: {question.choice}.** {question.because}")
    parts.append(
        f"The questions are in `params/{study}/selection.yaml`, every score in `selection/scores.csv`, every number "
        f"above in `selection/trials.csv`. `make select STUDY={study}` makes this page."
    )
    return "\n\n".join(parts) + "\n"


def _describe_judge(question: Question, network: str) -> str:
    seeds = "one seed" if len(question.seeds) == 1 else f"{len(question.seeds)} seeds, their probabilities averaged"
    if question.trains:
        regime = REGIME_NAMES[question.judge]
        how = f"{network}, {regime}, trained, and scored on the validation images at the epoch kept"
    else:
        classifier = CLASSIFIER_NAMES[question.judge]
        how = f"{classifier} on frozen features of {network}, {FOLDS}-fold cross-validation over all training images"
    asked = f" Asked {question.answered}, and kept as it stood." if question.answered else ""
    return f"Judged by: {how}; {seeds}.{asked}"


def name_margins(number: int) -> str:
    """The file, without its ending, of the figure of a grid: of question `number`, from 0."""
    return f"margins_{number}"


def group_margins(rows: pd.DataFrame, question: Question) -> dict[str, dict[str, list[float]]]:
    """Each parameter of a question's grid by itself: for each of its values, the AP of every combination that has it.

    Args:
        rows: of the question, from `select.tabulate_trials`.
        question: without a grid, nothing is returned.
    """
    scores, combinations = rows.set_index("candidate")["ap"], combine(question.grid)
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
    more = ["epoch kept", "AP of the last three epochs", "minutes"] if trains else []
    yield "| " + " | ".join(["candidate", "images", "AP", "AUC", "difference in AP", *more]) + " |"
    yield "|" + "---|" * (5 + len(more))
    for row in rows.to_dict("records"):
        cells = [f"**{row['candidate']}**" if row["chosen"] else row["candidate"], str(row["images"])]
        cells += [format_value(row[m], row[f"{m}_low"], row[f"{m}_high"]) for m in ("ap", "auc")]
        gap = format_value(row["difference"], row["difference_low"], row["difference_high"])
        cells.append("" if row["chosen"] else gap)
        if trains:
            cells += [f"{row['epoch']:.0f} of {row['epochs']:.0f}", f"{row['last_epochs_ap']:.3f}"]
            cells.append(f"{row['minutes']:.0f}")
        yield "| " + " | ".join(cells) + " |"
