"""What the training notebooks show: the network, how it is trained, its curves, its scores, and where it looked."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown
from scipy.special import expit
from torch import nn

from lesion_utils.config.schema import Network, StudyParams
from lesion_utils.core.files import digest_bytes, write_atomic
from lesion_utils.core.names import REGIMES, name_series
from lesion_utils.data.prepared import PreparedData
from lesion_utils.evaluation.evaluate import FirstLook
from lesion_utils.evaluation.metrics import average_precision, roc_auc
from lesion_utils.evaluation.predictions import COLUMNS, add_ensembles, join_folds, select_run, write_predictions
from lesion_utils.models.predict import load_network
from lesion_utils.training.classifiers import ClassifierResult
from lesion_utils.training.optim import find_warmup
from lesion_utils.training.task import Images, TrainingTask, choose_regimes, list_folds
from lesion_utils.training.train import NetworkResult, read_history


class Detail(NamedTuple):
    """The test scores that a notebook looks at closely: one regime, the mean probability over its seeds."""

    name: str
    regime: str
    image_ids: list[str]
    targets: np.ndarray  # (N,) int, 0 benign, 1 malignant
    probs: np.ndarray  # (N,) float in [0, 1]


@torch.no_grad()
def describe_parts(model: nn.Module, image_size: int) -> pd.DataFrame:
    """A network from top to bottom: what each part is, what an image has become behind it, and its weights.

    Args:
        model: of timm, in any mode; it is left in evaluation mode.
        image_size: side of the input, px; a network for one size only is shown at that size.
    """
    config: Any = model.pretrained_cfg
    sides = config["input_size"][1:] if config.get("fixed_input_size") else (image_size, image_size)
    rows: dict[str, dict[str, Any]] = {}

    def note(name: str, part: nn.Module, given: object, output: torch.Tensor) -> None:
        shape = " × ".join(str(size) for size in output.shape[1:])
        weights = sum(p.numel() for p in part.parameters())
        rows[name] = {"part": name, "module": type(part).__name__, "output": shape, "weights": f"{weights:,}"}

    hooks = [part.register_forward_hook(partial(note, name)) for name, part in model.named_children()]
    model.eval()(torch.zeros(1, 3, *sides, device=next(model.parameters()).device))
    for hook in hooks:
        hook.remove()
    total = f"{sum(p.numel() for p in model.parameters()):,}"
    size = f"3 × {sides[0]} × {sides[1]}"
    first = {"part": "(image)", "module": "", "output": size, "weights": ""}
    last = {"part": "(all)", "module": type(model).__name__, "output": "1", "weights": total}
    return pd.DataFrame([first, *rows.values(), last])


def choose_task(params: StudyParams, network: str, data: Images) -> TrainingTask:
    """The run that is taken apart: the most pretrained regime that can be trained here, its first seed and fold."""
    settings = params.network(network)
    regimes, _source, _skipped = choose_regimes(settings)
    return TrainingTask(params, network, regimes[-1], settings.seeds[0], data, list_folds(data.table)[0])


def describe_recipe(task: TrainingTask) -> pd.DataFrame:
    """How a run is trained: what is set, to what, and what for."""
    settings, regime = task.settings, task.regime_params
    optim, imbalance = settings.optim, settings.imbalance.method
    sgd = optim.name == "sgd"
    named = f"SGD, momentum {optim.momentum:g}" if sgd else f"AdamW, first beta {optim.momentum:g}"
    warmup = find_warmup(optim, regime.epochs)
    rise = f"rises over {warmup:g} {'epoch' if warmup == 1 else 'epochs'}, then " if warmup else ""
    batch = f"{settings.batch_size * settings.accumulation} images"
    batch += f", in {settings.accumulation} parts" if settings.accumulation > 1 else ""
    rows = [
        ("loss", "cross-entropy", "−[y log p + (1 − y) log(1 − p)]; a confident wrong prediction has the largest loss"),
        ("optimizer", named, _WHY_SGD if sgd else _WHY_ADAMW),
        ("learning rate", f"{regime.lr:g}", f"maximum, for the last layer; {rise}falls along half a cosine"),
        ("layer decay", f"{regime.layer_decay:g}", "factor on the learning rate from each layer to the one before it"),
        ("weight decay", f"{optim.weight_decay:g}", "pulls weights towards zero, except of norms and biases"),
        ("gradient clipping", f"{optim.clip_norm:g}", "largest norm of a gradient; 0: off"),
        ("dropout", f"{settings.drop_rate:g}", "share of features that are set to zero at random during training"),
        ("batch", batch, "images per step of the optimizer"),
        ("head", regime.head, "start of the last layer: new (random) or fitted to the features of the frozen network"),
        ("epochs", f"{regime.epochs}", "passes over the training images"),
        ("label smoothing", f"{settings.label_smoothing:g}", "share of each label given to the other class"),
        ("mixup", f"{settings.mixup:g}", "strength of blending pairs of images; 0: off"),
        ("imbalance", imbalance.replace("_", " "), "method against the imbalance of the classes"),
        ("averaging", settings.averaging.method, "of the weights over steps (ema) or epochs (swa)"),
    ]
    return pd.DataFrame(rows, columns=["setting", "value", "what for"])


_WHY_ADAMW = "divides the step of each weight by the size of its recent gradients"
_WHY_SGD = "follows a running mean of the gradients"


def write_layers(layers: pd.DataFrame) -> pd.DataFrame:
    """The table of `optim.describe_layers` as it is read: a dash where a layer is frozen."""
    columns = {"parameters": "{:,}", "learning_rate": "{:.1e}", "weight_decay": "{:g}"}
    written = {column: layers[column].map(form.format, na_action="ignore") for column, form in columns.items()}
    return layers.assign(**written).fillna("–").rename(columns=lambda name: name.replace("_", " "))


def show_source(function: Callable[..., Any]) -> Markdown:
    """The source of a function of the package."""
    return Markdown(f"```python\n{inspect.getsource(function)}```")


def describe_regimes(params: Network) -> pd.DataFrame:
    """The settings that differ between regimes, one column per regime."""
    regimes = {name: params.regimes[name].model_dump() for name in REGIMES if name in params.regimes}
    return pd.DataFrame(regimes).fillna("\u2013").rename_axis("setting").reset_index()


def join_predictions(trained: NetworkResult, classical: ClassifierResult) -> pd.DataFrame:
    """The predictions of training and of classical classifiers on frozen features, in one table."""
    parts = [part.predictions for part in (trained, classical) if len(part.predictions)]
    return pd.concat(parts, ignore_index=True)


def score_external(result: NetworkResult, data: PreparedData, *, folder: Path, path: Path) -> str:
    """Score the external test sets of `data.yaml`, if any, with every network, and write the predictions.

    Each run's folder keeps its scores, so that they are computed once; a file that is not as it was written is
    computed again. The predictions' `split` is "test".

    Returns:
        what was done, in sentences.
    """
    others = data.external
    if others.empty:
        return "`data.yaml` names no external test sets."
    (model,) = set(result.predictions["model"])
    keys, tables, damaged = others[["image_id", "target"]].assign(split="test", model=model), [], 0
    for run in result.runs:
        kept = folder / run["folder"] / f"external-{Path(str(data.external_images.filename)).stem}.f32"
        if (logits := _read_logits(kept, len(others))) is None:
            damaged += kept.is_file()
            logits = load_network(folder / run["folder"] / "best.pt").predict(data.external_images).astype("<f4")
            raw = logits.tobytes()
            write_atomic(kept, bytes.fromhex(digest_bytes(raw)) + raw)
        logits = logits.astype(np.float64)
        tables.append(
            keys.assign(regime=run["regime"], seed=run["seed"], logit=logits, probability=expit(logits))[COLUMNS]
        )
    write_predictions(join_folds(tables), path)
    sets = ", ".join(f"{name} ({count} images)" for name, count in others["set"].value_counts(sort=False).items())
    again = f" Damaged files of kept scores, computed again: {damaged}." if damaged else ""
    return f"{len(tables)} network{'' if len(tables) == 1 else 's'} scored {sets}.{again}"


def _read_logits(path: Path, count: int) -> np.ndarray | None:
    """Kept logits, which follow their SHA-256; None if there are none, or not so many, or the file was changed."""
    raw = path.read_bytes() if path.is_file() else b""
    intact = len(raw) == 32 + 4 * count and raw[:32].hex() == digest_bytes(raw[32:])
    return np.frombuffer(raw, "<f4", offset=32) if intact else None


def describe_outcome(result: NetworkResult) -> pd.DataFrame:
    """One row per run, with the epoch that was kept and its validation scores; then what was left out, and why."""
    rows = [
        {
            **{name: run[name] for name in ("regime", "seed", "fold") if name in run},
            "kept epoch": f"{run['selected_epoch']} of {run['epochs']}",
            "validation AP": round(run["val_ap"], 3),
            "validation AUC": round(run["val_auc"], 3),
            "minutes": round(run["seconds"] / 60, 1),
            "remark": "; ".join(["stopped early"] * run["stopped_early"] + run["inert"]),
        }
        for run in result.runs
    ]
    for skipped in result.skipped:
        rows.append({"regime": skipped["regime"], "remark": f"not trained: {skipped['reason'].splitlines()[0]}"})
    return pd.DataFrame(rows).fillna("")


def describe_spread(result: NetworkResult) -> pd.DataFrame:
    """How much of a regime's score is chance: the seeds' and the folds' standard deviations beside the mean.

    Returns:
        one row per regime and metric: `regime`, `metric`, `mean` (over the seeds; with several folds each seed's score
        is that of its held-out images together), `sd over seeds`, `sd over folds` (within a seed; each fold's own
        score). NaN where there is one of them.
    """
    rows = []
    runs = pd.DataFrame(result.runs)
    held_out = result.predictions[result.predictions["split"] == "val"]
    for regime, own in held_out.groupby("regime", sort=False):
        for metric, function in (("AP", average_precision), ("AUC", roc_auc)):
            seeds = [function(part["target"], part["probability"]) for _, part in own.groupby("seed")]
            singles = runs[runs["regime"] == regime].groupby("seed")[f"val_{metric.lower()}"]
            spread = np.std(seeds, ddof=1) if len(seeds) > 1 else np.nan
            row = {"regime": regime, "metric": metric, "mean": np.mean(seeds)}
            rows.append(row | {"sd over seeds": spread, "sd over folds": singles.std().mean()})
    order = {regime: place for place, regime in enumerate(REGIMES)}
    return pd.DataFrame(rows).sort_values("regime", key=lambda names: names.map(order), kind="stable").round(3)


def read_curves(result: NetworkResult, *, folder: Path) -> pd.DataFrame:
    """The runs' histories as `figures.training.plot_learning_curves` takes them."""
    histories = ((run, read_history(folder / run["folder"])) for run in result.runs)
    parts = [h.assign(train_loss=h["loss"], selected=h["epoch"] == run["selected_epoch"]) for run, h in histories]
    return pd.concat(parts, ignore_index=True)


def select_detail(predictions: pd.DataFrame) -> Detail:
    """The most pretrained regime that was trained, its seeds averaged, on the test images."""
    regimes = set(predictions["regime"])
    regime = next(name for name in reversed(REGIMES) if name in regimes)
    (model,) = set(predictions["model"])
    run, name = select_run(add_ensembles(predictions), model=model, regime=regime), name_series(model, regime)
    return Detail(name, regime, run["image_id"].tolist(), run["target"].to_numpy(), run["probability"].to_numpy())


def summarise_network(result: NetworkResult, detail: Detail, look: FirstLook) -> dict[str, Any]:
    """The numbers of a training notebook, and the sentences that they make (`text`)."""
    chosen = [run for run in result.runs if run["regime"] == detail.regime]
    unlike = ("identity", "seconds")  # a long list of what a run depends on, and what differs between machines
    (_, fp), (fn, tp) = look.confusion
    numbers: dict[str, Any] = {
        "name": detail.name,
        "regime": detail.regime,
        "seeds": sorted({run["seed"] for run in chosen}),
        "folds": len({run.get("fold") for run in chosen}),
        "metrics": look.metrics,
        "confusion": look.confusion,
        "missed": int(fn),
        "malignant": int(fn + tp),
        "false_alarms": int(fp),
        "benign": int((detail.targets == 0).sum()),
        "runs": [{key: value for key, value in run.items() if key not in unlike} for run in result.runs],
        "left_out": result.skipped,
        "parameters_millions": chosen[0]["parameters"] / 1e6,
    }
    return {**numbers, "text": _TEXT.format(**numbers, ap_text=look.write("ap"), auc_text=look.write("auc"))}


_TEXT = (
    "{name} ({parameters_millions:.0f} million weights) has {auc_text} and {ap_text} on {malignant} malignant and "
    "{benign} benign test images (95 % confidence intervals in brackets). At the threshold 0.5 it misses {missed} of "
    "{malignant} malignant lesions, and {false_alarms} of {benign} benign lesions are false alarms."
)
