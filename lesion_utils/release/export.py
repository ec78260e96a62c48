"""Handing a trained network over: which one is meant, a folder that timm loads by itself, and its model card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import timm
import torch
from huggingface_hub import EvalResult, ModelCardData
from timm.models import save_for_hf

from lesion_utils.core import files
from lesion_utils.core.errors import CheckpointError, RunError, WeightsError
from lesion_utils.core.files import cannot_write, dump_json, write_atomic
from lesion_utils.core.names import REGIMES, find_architecture, list_models, name_model, name_training
from lesion_utils.core.paths import Study, project_root
from lesion_utils.evaluation.evaluate import evaluate, label_metric
from lesion_utils.evaluation.predictions import read_predictions
from lesion_utils.models import custom
from lesion_utils.models.compute import choose_compute
from lesion_utils.models.licences import Licence, find_licence
from lesion_utils.models.networks import data_config, multiply_full_windows
from lesion_utils.models.predict import TrainedNetwork, load_network, read_settings
from lesion_utils.models.weights import find_weights
from lesion_utils.provenance import steps
from lesion_utils.provenance.fingerprint import digest_file
from lesion_utils.provenance.steps import STEPS, Step
from lesion_utils.report.pages import format_number
from lesion_utils.training.loop import rank_epoch

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"

#: Where `config.json` keeps what timm does not ask for.
OWN = "lesion_utils"

#: What timm calls our ways of making a square, where its own transforms are used.
CROP_MODES = {"squash": "squash", "crop": "center", "pad": "border"}

#: Metrics of the card, in its order; each stands there with its interval.
METRICS = (
    *("ap", "auc", "balanced_accuracy", "sensitivity", "specificity", "precision", "brier", "ece"),
    *("sensitivity_at_target", "specificity_at_target"),
)

TRAINING = {
    "scratch": "random weights, every layer trained",
    "features": "pretrained weights, frozen; only the last layer was trained",
    "finetune": "pretrained weights, trained further on these images",
}


# --- which network -------------------------------------------------------------------------------


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
        if found.sha256 != trained_with["sha256"]:
            raise WeightsError(
                "these are not the weights that the last layer was trained on",
                where=found.path,
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
    for step in STEPS.values():
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
        study: whose.
        model: "" for each network of the study, or `network`, `network/regime`, `network/regime/seed`, and in a
            study with several folds `.../fold`. What is left open is chosen: the most pretrained regime, and of its
            seeds and folds the one with the highest validation AP, among
            equals the one with the lower validation loss. The test images play no part.

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


# --- the folder ----------------------------------------------------------------------------------


def export_study(study: Study, model: str = "", *, on_progress: Callable[[str, int, int], None]) -> list[Path]:
    """Export the networks of a study that are meant; see `choose_runs` and `export_run`.

    Args:
        study: with a report.
        model: as `choose_runs` takes it.
        on_progress: called with a network's name, how many are done, and of how many.
    """
    runs, folders = choose_runs(study, model), []
    asked_for = model.strip("/").count("/") >= 2  # down to the seed
    for done, run in enumerate(runs):
        on_progress(run.label, done, len(runs))
        folders.append(export_run(run, asked_for=asked_for))
    return folders


def export_run(run: TrainedRun, *, asked_for: bool = False) -> Path:
    """Write `reports/<study>/models/<network>_<regime>_seed<k>/`: weights, `config.json` and the card `README.md`.

    Args:
        run: of the study's report.
        asked_for: whether a person named exactly this run; otherwise it was chosen on validation, as the card says.

    Returns:
        the folder, which was written whole or not at all.

    Raises:
        CheckpointError: the run has no checkpoint here.
        WeightsError: a frozen backbone's weights cannot be had.
        DataError: the disk is full or the folder is not writable.
    """
    network = run.load()
    fold = f"_fold{run.record['fold']}" if "fold" in run.record else ""
    folder = run.study.report_dir / "models" / f"{run.network}_{run.regime}_seed{run.seed}{fold}"
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        config = _save_weights(network, partial, describe_run(run, network))
        card = write_card(run, network, folder=folder, config=config, asked_for=asked_for)
        write_atomic(partial / CARD, card)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def describe_run(run: TrainedRun, network: TrainedNetwork) -> dict[str, Any]:
    """What `config.json` says of a network beyond what timm needs: where it comes from, and how images reach it."""
    made = steps.load_record(run.study, run.step) or {}
    data = made.get("data") or {}
    return {
        "label": run.label,
        "study": run.study.name,
        "run": run.record["folder"],
        "commit": made.get("commit"),
        "data": data.get("description") or "unknown",
        "data_sha256": data.get("content_hash"),
        "regime": network.regime,
        "seed": network.seed,
        "selected": network.selected,
        "stored_size": network.stored_size,
        "aspect": network.aspect,
        "settings": network.settings.model_dump(mode="json"),
    }


def load_exported(folder: Path) -> tuple[TrainedNetwork, dict[str, Any]]:
    """Load what `export_run` wrote; the scores are those of the checkpoint.

    Returns:
        The network, and what `describe_run` says of it.

    Raises:
        CheckpointError: the folder is no export of this project, damaged, or of another version.
    """
    config = files.read_json(folder / CONFIG) or {}
    about, weights = config.get(OWN), folder / WEIGHTS
    if about is None or not weights.is_file():
        raise CheckpointError(
            "this folder is not an exported network",
            where=folder,
            expected=f"{WEIGHTS}, and a {CONFIG} with a section {OWN}, as `make export` writes them",
            do="export again: make export STUDY=...",
        )
    if digest_file(weights) != about["sha256"]:
        raise CheckpointError(
            "the weights are not those that were exported",
            where=weights,
            expected=f"SHA-256 {about['sha256']}",
            do=f"copy the folder again, or export again: make export STUDY={about['study']}",
        )
    settings = read_settings(about["settings"], where=folder / CONFIG)
    model = multiply_full_windows(timm.create_model(f"local-dir:{folder}", pretrained=True))
    compute = choose_compute(settings)
    model = compute.place(model).eval()
    rest = (about["regime"], about["seed"], about["selected"], about["stored_size"], about["aspect"])
    return TrainedNetwork(model, settings, compute, *rest), about


def _save_weights(network: TrainedNetwork, folder: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Write weights and configuration, as timm writes them; returns the configuration."""
    # A file of tensors has them in their plain order, whatever the order that the device computes fastest in.
    model = network.model.cpu().to(memory_format=torch.contiguous_format)
    model.num_classes = 1  # timm reads it, and a network of one's own need not have it
    size, data = network.settings.image_size, data_config(model)
    start_only = dict.fromkeys(("origin_url", "paper_ids", "paper_name", "description", "notes", "license"))
    origin = {"tag": f"{about['study']}-{about['regime']}-seed{about['seed']}", **start_only}
    save_for_hf(
        model,
        str(folder),
        model_config={"label_names": ["malignant"], "pretrained_cfg": origin},
        safe_serialization=True,
        data_config={
            "input_size": (3, size, size),
            **data._asdict(),
            "crop_pct": 1.0,
            "crop_mode": CROP_MODES[network.aspect],
        },
    )
    path = folder / CONFIG
    own = {**about, "sha256": digest_file(folder / WEIGHTS), "bytes": (folder / WEIGHTS).stat().st_size}
    config = json.loads(path.read_text(encoding="utf-8")) | {OWN: own}
    write_atomic(path, dump_json(config))
    return config


# --- the card ------------------------------------------------------------------------------------


def write_card(
    run: TrainedRun, network: TrainedNetwork, *, folder: Path, config: dict[str, Any], asked_for: bool
) -> str:
    """The card's Markdown, as the hub's model pages have it.

    Args:
        run: that is exported.
        network: as `run.load()` gives it.
        folder: of the export, for the code that loads it.
        config: the content of its `config.json`.
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
        about=config[OWN],
        settings=network.settings,
        data=data_config(network.model),
        own=type(network.model).__module__ == custom.__name__,
        folder=folder.relative_to(project_root()).as_posix() if inside else folder.name,
        start=start,
        chosen=_describe_choice(run, asked_for=asked_for),
        results=results,
        test=files.read_json(run.study.metrics / "05_comparison.json") or {},
    )
    return f"---\n{_front_matter(run, start, results, config[OWN]['data']).to_yaml()}\n---\n\n{text}"


def _front_matter(
    run: TrainedRun, start: dict[str, Any] | None, results: list[dict[str, Any]], data: str
) -> ModelCardData:
    """What the hub reads of a card."""
    licence: Licence | None = start and start["licence"]
    terms = {"license": licence.code} if licence else {}
    if licence and licence.code == "other":
        terms |= {"license_name": licence.name.lower().replace(" ", "-"), "license_link": licence.link}
    test = {"task_type": "image-classification", "dataset_type": "isic2016", "dataset_name": data}
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
    table = pd.read_csv(path, dtype={"seed": str})
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
