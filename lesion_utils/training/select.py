"""`selection.md`: what was tried on the training images, what came out, and what was chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd

from lesion_utils.config.load import load_file
from lesion_utils.config.schema import Comparison, StudyParams
from lesion_utils.core.errors import ParamsError
from lesion_utils.core.files import write_if_changed
from lesion_utils.core.names import CLASSIFIER_NAMES, MODEL_NAMES, REGIME_NAMES
from lesion_utils.core.paths import Study
from lesion_utils.data.prepare import load_prepared
from lesion_utils.evaluation.evaluate import evaluate_with_intervals
from lesion_utils.evaluation.intervals import draw_weights
from lesion_utils.evaluation.paired_tests import compare_bootstrap
from lesion_utils.evaluation.tables import format_value
from lesion_utils.training.trials import FOLDS, Question, Selection, run_trials

FILE = "selection.yaml"


def select_settings(
    study: Study, params: StudyParams, *, on_event: Callable[[dict[str, Any]], None] | None = None
) -> str:
    """Run a study's trials, as far as they have not been run, and write `selection.md` and `selection/`.

    Args:
        study: with a `selection.yaml` among its parameters.
        params: of the study.
        on_event: see `trials.run_trials`.

    Returns:
        the text of `selection.md`.

    Raises:
        ParamsError: there is no selection.yaml, or it is wrong.
        DataError: the data are not prepared.
    """
    path = study.params_dir / FILE
    if not path.is_file():
        raise ParamsError(
            "this study compares no settings",
            where=f"params/{study.name}/{FILE}",
            expected="questions and candidates",
            do=f"copy params/isic2016_640px/{FILE} there and edit it",
        )
    selection, data = load_file(path, Selection), load_prepared(study)
    scores = run_trials(selection, params, data, folder=study.runs / "selection", on_event=on_event)
    table = tabulate_trials(selection, scores, params.comparison)
    text = write_text(selection, scores, table, study=study.name, confidence=params.comparison.confidence)
    folder = study.report_dir / "selection"
    for name, frame in (("scores", scores), ("trials", table)):
        write_if_changed(folder / f"{name}.csv", frame.to_csv(index=False, float_format="%.9g", lineterminator="\n"))
    write_if_changed(study.report_dir / "selection.md", text)
    return text


def tabulate_trials(selection: Selection, scores: pd.DataFrame, params: Comparison) -> pd.DataFrame:
    """AP and AUC of every candidate, and its difference in AP to the one that was chosen, with intervals.

    Values are those of the mean probability over the seeds, beside them the mean over single seeds.

    Returns:
        one row per candidate: `question` (from 0), `candidate`, `images`, `seeds`, `ap`, `ap_low`, `ap_high`,
        `ap_single`, `auc`, `auc_low`, `auc_high`, `auc_single`, `difference`, `difference_low`, `difference_high`
        (AP minus that of the choice), `chosen`, and for trainings `epoch`, `epochs`, `last_epochs_ap`, `minutes`.
    """
    rows = []
    for number, question in enumerate(selection.questions):
        asked = scores[scores["question"] == number]
        mean = asked.pivot_table(index=["image_id", "target"], columns="candidate", values="probability")
        targets = mean.index.get_level_values("target").to_numpy()
        weights = draw_weights(targets, draws=params.bootstrap_draws, seed=params.seed)
        settings = {"weights": weights, "confidence": params.confidence}
        for name in question.candidates:
            row = {"question": number, "candidate": name, "images": len(mean), "seeds": len(question.seeds)}
            values = evaluate_with_intervals(targets, mean[name].to_numpy(), **settings).set_index("metric")
            single = _evaluate_seeds(asked[asked["candidate"] == name])
            for metric in ("ap", "auc"):
                value, low, high = values.loc[metric, ["value", "low", "high"]]
                row |= {metric: value, f"{metric}_low": low, f"{metric}_high": high, f"{metric}_single": single[metric]}
            gap = compare_bootstrap(targets, mean[name], mean[question.choice], metric="ap", **settings)
            row |= {"difference": gap.difference, "difference_low": gap.low, "difference_high": gap.high}
            remarks = [scores.attrs["remarks"][number, name, seed] for seed in question.seeds]
            rows.append(row | {"chosen": name == question.choice} | pd.DataFrame(remarks).mean().to_dict())
    return pd.DataFrame(rows)


def _evaluate_seeds(scores: pd.DataFrame) -> dict[str, float]:
    """Mean over the seeds of AP and AUC."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    seeds = [(rows["target"], rows["probability"]) for _, rows in scores.groupby("seed")]
    functions = {"ap": average_precision_score, "auc": roc_auc_score}
    return {name: sum(function(*pair) for pair in seeds) / len(seeds) for name, function in functions.items()}


def write_text(
    selection: Selection, scores: pd.DataFrame, table: pd.DataFrame, *, study: str, confidence: float
) -> str:
    """The page as Markdown; every number in it comes from `table`."""
    images = scores["image_id"].nunique()
    parts = [
        f"# How the settings of `{study}` were chosen",
        f"By trials on the {images} images of training and validation. No test image was given to any trial. Brackets "
        f"hold {confidence * 100:g} % intervals from resampling the images; the difference is the candidate's AP minus "
        "that of the choice, on the same images. Where its interval holds zero, the evidence does not tell the two "
        "apart, and the sentence below the table says what decided.",
    ]
    for number, question in enumerate(selection.questions):
        parts += [f"## {question.question}", _describe_judge(question)]
        parts.append("\n".join(_write_table(table[table["question"] == number], trains=question.trains)))
        parts.append(f"**Chosen: {question.choice}.** {question.because}")
    parts.append(
        f"The questions are in `params/{study}/{FILE}`, every score in `selection/scores.csv`, every number above in "
        f"`selection/trials.csv`. `make select STUDY={study}` makes this page."
    )
    return "\n\n".join(parts) + "\n"


def _describe_judge(question: Question) -> str:
    network = MODEL_NAMES[question.network]
    seeds = "one seed" if len(question.seeds) == 1 else f"{len(question.seeds)} seeds, their probabilities averaged"
    if question.trains:
        regime = REGIME_NAMES[question.judge]
        how = f"{network}, {regime}, trained, and scored on the validation images at the epoch kept"
    else:
        classifier = CLASSIFIER_NAMES[question.judge]
        how = f"{classifier} on frozen features of {network}, {FOLDS}-fold cross-validation over all training images"
    return f"Judged by: {how}; {seeds}."


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
