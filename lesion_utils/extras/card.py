"""The model card of an exported network, as the hub's pages have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from huggingface_hub import EvalResult, ModelCardData

from lesion_utils.core import files
from lesion_utils.core.names import list_models
from lesion_utils.core.paths import project_root
from lesion_utils.data.tables import read_csv
from lesion_utils.evaluation.evaluate import evaluate, label_metric
from lesion_utils.evaluation.predictions import read_predictions
from lesion_utils.extras.runs import TrainedRun, list_runs
from lesion_utils.models import custom
from lesion_utils.models.licences import Licence, find_licence
from lesion_utils.models.networks import data_config, leaves_out_wide_layers
from lesion_utils.models.predict import TrainedNetwork
from lesion_utils.report.pages import format_number

#: Metrics of the card, in its order; each with its interval.
METRICS = (
    *("ap", "auc", "balanced_accuracy", "sensitivity", "specificity", "precision", "brier", "ece"),
    *("sensitivity_at_target", "specificity_at_target"),
)

TRAINING = {
    "scratch": "random weights, every layer trained",
    "features": "pretrained weights, frozen; only the last layer was trained",
    "finetune": "pretrained weights, trained further on these images",
}


def write_card(
    run: TrainedRun, network: TrainedNetwork, *, folder: Path, about: dict[str, Any], asked_for: bool
) -> str:
    """The card's Markdown, as the hub's model pages have it.

    Args:
        folder: of the export, for the code that loads it.
        about: what its `config.json` says beyond what timm needs.
        asked_for: whether a person named exactly this run.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # Markdown; all its text is the package's own, or a name that a folder can have
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["number"] = lambda value: format_number(None if pd.isna(value) else value)
    inside, start, results = folder.is_relative_to(project_root()), describe_start(run), read_results(run)
    text = environment.get_template("model_card.md.j2").render(
        run=run,
        training=TRAINING[run.regime],
        about=about,
        settings=network.settings,
        without_wide_layers=leaves_out_wide_layers(network.settings),
        data=data_config(network.model),
        own=type(network.model).__module__ == custom.__name__,
        folder=folder.relative_to(project_root()).as_posix() if inside else folder.name,
        start=start,
        chosen=_describe_choice(run, asked_for=asked_for),
        results=results,
        test=files.read_json(run.study.metrics / "05_comparison.json") or {},
    )
    return f"---\n{_front_matter(run, start, results, about).to_yaml()}\n---\n\n{text}"


def _front_matter(
    run: TrainedRun, start: dict[str, Any] | None, results: list[dict[str, Any]], about: dict[str, Any]
) -> ModelCardData:
    """What the hub reads of a card."""
    licence: Licence | None = start["licence"] if start else None
    terms: dict[str, Any] = {"license": licence.code} if licence else {}
    if licence and licence.code == "other":
        terms |= {"license_name": licence.name.lower().replace(" ", "-"), "license_link": licence.link}
    kind = "imagefolder" if about["source"] == "folder" else "isic2016"
    test: dict[str, Any] = {"task_type": "image-classification", "dataset_type": kind, "dataset_name": about["data"]}
    return ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["timm", "dermoscopy", "research"],
        model_name=run.label,
        base_model=f"timm/{start['name']}" if start and start["origin"] != "file" else None,
        eval_results=[
            EvalResult(**test, metric_type=row["metric"], metric_name=row["label"], metric_value=round(row["value"], 4))
            for row in results
        ],
        **terms,
    )


def describe_start(run: TrainedRun) -> dict[str, Any] | None:
    """The weights that training started from, with their `licence` (None: not known); None for random ones."""
    weights = run.record["weights"]
    if weights is None:
        return None
    return {**weights, "licence": find_licence(weights["name"], weights["origin"], weights["sha256"])}


def read_results(run: TrainedRun) -> list[dict[str, Any]]:
    """The run's metrics on the test images, each with its interval, as 05_comparison saved them.

    Empty where the comparison has not run, or was made from other scores than this run's, such as the mean over several
    folds: each value is computed again from the run's own predictions, and must agree.
    """
    path, scores = run.study.metrics / "05_comparison_results.csv", run.folder / "predictions.csv"
    if not (path.is_file() and scores.is_file()):
        return []
    table = read_csv(path, dtype={"seed": str})
    model = table["model"].isin(list_models(run.network, run.record["backbone"]))
    own = table[model & (table["regime"] == run.regime) & (table["seed"] == str(run.seed))]
    rows = {row["metric"]: row for row in own.to_dict(orient="records") if row["metric"] in METRICS}
    test = read_predictions(scores).query("split == 'test'")
    again = evaluate(test["target"], test["probability"])
    if not rows or not all(np.isclose(rows[m]["value"], again[m], atol=1e-6) for m in ("ap", "auc", "brier")):
        return []
    return [{**rows[m], "label": label_metric(m)} for m in METRICS if m in rows and np.isfinite(rows[m]["value"])]


def _describe_choice(run: TrainedRun, *, asked_for: bool) -> str:
    """Why this run, in a sentence."""
    if asked_for:
        return "It was exported because a person asked for this run."
    others = [r for r in list_runs(run.study) if (r.network, r.regime) == (run.network, run.regime)]
    if len(others) == 1:
        return "It is the only run of its kind."
    what = "seeds and folds" if "fold" in run.record else "seeds"
    return f"Of {len(others)} {what} it is the one with the highest average precision on the validation images."
