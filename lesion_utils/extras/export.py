"""Handing a trained network over: a folder that timm loads by itself, with its model card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from timm.models import save_for_hf

from lesion_utils.config.load import load_study
from lesion_utils.core import files
from lesion_utils.core.errors import CheckpointError
from lesion_utils.core.events import OnEvent
from lesion_utils.core.files import cannot_write, digest_file, dump_json, write_atomic
from lesion_utils.core.paths import Study
from lesion_utils.data.prepared import load_prepared
from lesion_utils.extras.card import write_card
from lesion_utils.extras.onnx import write_onnx
from lesion_utils.extras.push import check_pushable, push_folder
from lesion_utils.extras.runs import TrainedRun, choose_runs
from lesion_utils.models.networks import data_config, restore_network
from lesion_utils.models.predict import TrainedNetwork, place_network, read_settings
from lesion_utils.provenance import steps

WEIGHTS, CONFIG, CARD, ONNX = "model.safetensors", "config.json", "README.md", "model.onnx"

#: Where `config.json` keeps what timm does not ask for.
OWN = "lesion_utils"

#: What timm calls our ways of making a square, where its own transforms are used.
CROP_MODES = {"squash": "squash", "crop": "center", "pad": "border"}


def export_study(study: Study, model: str = "", *, onnx: bool = False, push: str = "", on_event: OnEvent) -> list[Path]:
    """Export the networks of a study that are meant; see `choose_runs` and `export_run`.

    Args:
        model: as `choose_runs` takes it.
        onnx: whether each comes as an ONNX file as well, compared on some of the study's images.
        push: repository on the hub, `user/name`, that one network goes to; "" for none.
    """
    runs, folders = choose_runs(study, model), []
    if push:
        check_pushable(runs)
    images = _some_images(study) if onnx else None
    asked_for = model.strip("/").count("/") >= 2  # down to the seed
    for done, run in enumerate(runs):
        on_event({"stage": run.label, "done": done, "total": len(runs)})
        folders.append(export_run(run, asked_for=asked_for, images=images))
    if push:
        push_folder(folders[0], push)
    return folders


def _some_images(study: Study) -> np.ndarray:
    """Eight of the study's photographs, from its first to its last."""
    images = load_prepared(study, load_study(study.params_dir).data).images
    return images[np.linspace(0, len(images) - 1, 8).astype(int)]


def export_run(run: TrainedRun, *, asked_for: bool = False, images: np.ndarray | None = None) -> Path:
    """Write `reports/<study>/models/<network>_<regime>_seed<k>/`: weights, `config.json` and the card `README.md`.

    Args:
        asked_for: whether a person named exactly this run; otherwise it was chosen on validation, as the card says.
        images: with which `model.onnx` is compared; None writes none. See `onnx.write_onnx`.

    Returns:
        the folder, which was written whole or not at all.

    Raises:
        CheckpointError: the run has no checkpoint here.
        WeightsError: a frozen backbone's weights cannot be had.
        DataError: the disk is full or the folder is not writable.
    """
    network = run.load()
    # A file of tensors has them in their plain order, whatever the order that the device computes fastest in.
    network.model.cpu().to(memory_format=torch.contiguous_format)
    fold = f"_fold{run.record['fold']}" if "fold" in run.record else ""
    folder = run.study.report_dir / "models" / f"{run.network}_{run.regime}_seed{run.seed}{fold}"
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        about = describe_run(run, network)
        about["onnx"] = None if images is None else write_onnx(network, partial / ONNX, about, images)
        config = _save_weights(network, partial, about)
        card = write_card(run, network, folder=folder, about=config[OWN], asked_for=asked_for)
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
        "source": data.get("source"),
        "data_sha256": data.get("content_hash"),
        "regime": network.regime,
        "seed": network.seed,
        "selected": network.selected,
        "stored_size": network.stored_size,
        "aspect": network.aspect,
        "settings": network.settings.hide_places().model_dump(mode="json"),
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
    return place_network(restore_network(settings, load_file(weights)), settings, about), about


def _save_weights(network: TrainedNetwork, folder: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Write weights and configuration, as timm writes them; returns the configuration."""
    model: Any = network.model
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
    shutil.copymode(path, folder / WEIGHTS)  # safetensors lets nobody else read it, whatever the umask
    own = {**about, "sha256": digest_file(folder / WEIGHTS), "bytes": (folder / WEIGHTS).stat().st_size}
    config = json.loads(path.read_text(encoding="utf-8")) | {OWN: own}
    write_atomic(path, dump_json(config))
    return config
