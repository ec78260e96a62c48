"""What the training notebooks show of their runs: settings, curves, and the scores that they look at closely."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lesion_utils.config.schema import Network
from lesion_utils.core.names import name_series
from lesion_utils.evaluation.first_look import FirstLook
from lesion_utils.evaluation.predictions import add_ensembles, select_run
from lesion_utils.training.fit import read_history

#: From the least to the most pretrained.
REGIME_ORDER = ("scratch", "features", "finetune")


class Detail(NamedTuple):
    """The test scores that a notebook looks at closely: one regime, the mean probability over its seeds."""

    name: str
    regime: str
    image_ids: list[str]
    targets: np.ndarray  # (N,) int, 0 benign, 1 malignant
    probs: np.ndarray  # (N,) float in [0, 1]


def describe_network(params: Network) -> pd.DataFrame:
    """The settings that differ between regimes, one column per regime."""
    regimes = {name: params.regimes[name].model_dump() for name in REGIME_ORDER if name in params.regimes}
    return pd.DataFrame(regimes).rename_axis("setting").reset_index()


def join_predictions(trained: pd.DataFrame, classical: pd.DataFrame) -> pd.DataFrame:
    """The predictions of training and of classical classifiers on frozen features, in one table."""
    parts = [part for part in (trained, classical) if len(part)]
    return pd.concat(parts, ignore_index=True)


def describe_choices(classical: pd.DataFrame) -> pd.DataFrame:
    """What cross-validation inside the training images chose for each classical classifier; empty where none ran."""
    chosen = classical.attrs.get("chosen", {})
    rows = [{"classifier": name, **settings} for name, settings in chosen.items()]
    return pd.DataFrame(rows, columns=None if rows else ["classifier", "cv_ap"])


def describe_outcome(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row per run, with the epoch that was kept and its validation scores; then what was left out, and why.

    Args:
        predictions: as `train.train_network` returns them.
    """
    rows = [
        {
            "regime": run["regime"],
            "seed": run["seed"],
            "kept epoch": f"{run['selected_epoch']} of {run['epochs']}",
            "validation AP": round(run["val_ap"], 3),
            "validation AUC": round(run["val_auc"], 3),
            "minutes": round(run["seconds"] / 60, 1),
            "remark": "stopped early" if run["stopped_early"] else "",
        }
        for run in predictions.attrs["runs"]
    ]
    left_out = [
        {"regime": skipped["regime"], "remark": f"left out: {skipped['reason'].splitlines()[0]}"}
        for skipped in predictions.attrs["skipped"]
    ]
    return pd.DataFrame(rows + left_out).fillna("")


def read_curves(predictions: pd.DataFrame, params: Network, *, folder: Path) -> pd.DataFrame:
    """The runs' histories as `plots.plot_learning_curves` takes them.

    Args:
        predictions: as `train.train_network` returns them.
        params: of the network.
        folder: of all its runs.
    """
    parts = []
    for run in predictions.attrs["runs"]:
        history = read_history(folder / run["folder"])
        head_epochs = params.regimes[run["regime"]].head_epochs
        parts.append(
            history.assign(
                train_loss=history["loss"],
                selected=history["epoch"] == run["selected_epoch"],
                head_only=history["epoch"] <= head_epochs,
            )
        )
    return pd.concat(parts, ignore_index=True)


def select_detail(predictions: pd.DataFrame) -> Detail:
    """The most pretrained regime that was trained, its seeds averaged, on the test images."""
    regimes = set(predictions["regime"])
    regime = next(name for name in reversed(REGIME_ORDER) if name in regimes)
    (model,) = set(predictions["model"])
    run, name = select_run(add_ensembles(predictions), model=model, regime=regime), name_series(model, regime)
    return Detail(name, regime, run["image_id"].tolist(), run["target"].to_numpy(), run["probability"].to_numpy())


def summarise_network(predictions: pd.DataFrame, detail: Detail, look: FirstLook) -> dict[str, Any]:
    """The numbers of a training notebook, and the sentences that they make (`text`)."""
    chosen = [run for run in predictions.attrs["runs"] if run["regime"] == detail.regime]
    (_, fp), (fn, tp) = look.confusion
    numbers: dict[str, Any] = {
        "name": detail.name,
        "regime": detail.regime,
        "seeds": [run["seed"] for run in chosen],
        "metrics": look.metrics,
        "confusion": look.confusion,
        "missed": int(fn),
        "malignant": int(fn + tp),
        "false_alarms": int(fp),
        "benign": int((detail.targets == 0).sum()),
        "runs": [_without_identity(run) for run in predictions.attrs["runs"]],
        "left_out": predictions.attrs["skipped"],
        "parameters_millions": chosen[0]["parameters"] / 1e6,
    }
    return {**numbers, "text": _TEXT.format(**numbers, ap_text=look.write("ap"), auc_text=look.write("auc"))}


_TEXT = (
    "{name} ({parameters_millions:.0f} million weights) reaches {auc_text} and {ap_text} on the {malignant} malignant "
    "and {benign} benign test images. At the threshold of 0.5 it misses {missed} of the {malignant} malignant lesions "
    "and raises {false_alarms} false alarms among the {benign} benign ones. The brackets hold 95 % intervals."
)


def _without_identity(run: Mapping[str, Any]) -> dict[str, Any]:
    """A run's record without the long list of what it depends on, and without times, which differ between machines."""
    return {key: value for key, value in run.items() if key not in ("identity", "seconds")}
