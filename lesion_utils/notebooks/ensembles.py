"""The study's models side by side, as 05_comparison draws them: each regime with its seeds averaged."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit

from lesion_utils.config.schema import Comparison
from lesion_utils.core.names import COMBINATION, SeriesName, name_series
from lesion_utils.evaluation.calibration import fit_recalibration
from lesion_utils.evaluation.candidates import CLASSICAL
from lesion_utils.evaluation.decisions import trace_decision_curves
from lesion_utils.evaluation.evaluate import Curve, band_precision_recall, band_roc
from lesion_utils.evaluation.intervals import draw_weights, format_value
from lesion_utils.evaluation.predictions import ENSEMBLE, iterate_runs, write_submission

#: Probabilities of malignancy from which one might act, for decision curves.
THRESHOLDS = np.linspace(0.01, 0.6, 60)


class Ensembles(NamedTuple):
    """The mean probability over seeds of each network and regime, on the same test images."""

    image_ids: list[str]
    targets: np.ndarray  # (N,) int, 0 benign, 1 malignant
    probs: dict[SeriesName, np.ndarray]  # name -> (N,) float in [0, 1]
    calibrated: dict[SeriesName, np.ndarray]  # the same, recalibrated on the validation images


def collect_ensembles(predictions: pd.DataFrame, *, runs: Collection[tuple[str, str]] | None = None) -> Ensembles:
    """Gather the networks' ensembles; classical classifiers have tables of their own.

    Args:
        predictions: from `add_ensembles`.
        runs: only these, as (model, regime); all by default.
    """
    probs, calibrated, test = {}, {}, pd.DataFrame()
    for (model, trained, seed), validation, rows in iterate_runs(predictions):
        network = model != COMBINATION and not trained.startswith(CLASSICAL)
        if seed == ENSEMBLE and network and (runs is None or (model, trained) in runs):
            name, test = name_series(model, trained), rows
            probs[name] = rows["probability"].to_numpy()
            line = fit_recalibration(validation["target"], validation["logit"])
            calibrated[name] = expit(line.apply(rows["logit"]))
    return Ensembles(test["image_id"].tolist(), test["target"].to_numpy(), probs, calibrated)


def draw_bands(models: Ensembles, params: Comparison) -> tuple[dict[str, Curve], dict[str, Curve]]:
    """Bootstrap bands of each model's ROC and precision-recall curve, by name."""
    weights = draw_weights(models.targets, draws=params.bootstrap_draws, seed=params.seed)
    settings = {"weights": weights, "confidence": params.confidence}
    roc = {name: band_roc(models.targets, scores, **settings) for name, scores in models.probs.items()}
    recall = {name: band_precision_recall(models.targets, scores, **settings) for name, scores in models.probs.items()}
    return roc, recall


def write_summaries(results: pd.DataFrame, metric: str) -> dict[str, str]:
    """Each ensemble's value with its interval, for legends: "AUC 0.821 (0.765 to 0.877)"."""
    rows = results[(results["seed"] == ENSEMBLE) & (results["metric"] == metric)]
    return {
        row.name: f"{metric.upper()} {format_value(row.value, row.low, row.high)}" for row in rows.itertuples(name="R")
    }


def pair_calibration(models: Ensembles) -> dict[str, np.ndarray]:
    """Probabilities as trained and recalibrated, by panel."""
    panels = {}
    for name, before in models.probs.items():
        panels |= {f"{name}, as trained": before, f"{name}, recalibrated": models.calibrated[name]}
    return panels


def trace_benefit(models: Ensembles, params: Comparison) -> pd.DataFrame:
    """Decision curves of the recalibrated models, with bootstrap bands."""
    weights = draw_weights(models.targets, draws=params.bootstrap_draws, seed=params.seed)
    curves = trace_decision_curves(
        models.targets, models.calibrated, thresholds=THRESHOLDS, weights=weights, confidence=params.confidence
    )
    keys = {str(name): (name.model, name.regime) for name in models.calibrated}
    of = [keys.get(name, ("", "")) for name in curves["name"]]
    return curves.assign(model=[model for model, _ in of], regime=[regime for _, regime in of])


def write_submissions(predictions: pd.DataFrame, *, folder: Path, prefix: str) -> pd.DataFrame:
    """Write each network's ensemble and each combination as an entry to the challenge, `<folder>/<prefix>_*.csv`.

    Returns:
        one row per entry: `name` and `file`.
    """
    rows = []
    for (model, regime, seed), _, test in iterate_runs(predictions):
        if seed == ENSEMBLE and (model == COMBINATION or not regime.startswith(CLASSICAL)):
            stem = re.sub(r"[^\w.-]+", "_", f"{prefix}_{model}_{regime}").strip("_")
            path = write_submission(test, folder / f"{stem}.csv")
            rows.append({"name": name_series(model, regime), "file": path.name})
    return pd.DataFrame(rows)


def list_exclusions(duplicates: pd.DataFrame, label_changes: pd.DataFrame) -> dict[str, list[str]]:
    """Doubtful images by what is wrong with them, for the question of what they are worth."""
    across = duplicates[duplicates["split_a"] != duplicates["split_b"]]
    return {
        "duplicates across the split": [*across["image_id_a"], *across["image_id_b"]],
        "all duplicates": [*duplicates["image_id_a"], *duplicates["image_id_b"]],
        "changed labels": label_changes["image_id"].tolist(),
    }
