"""What 05_comparison draws and writes: the study's models side by side, each with its seeds averaged."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from IPython.display import display
from scipy.special import expit
from sklearn.metrics import roc_curve

from lesion_utils.config.schema import Comparison, NamedComparison
from lesion_utils.core.names import COMBINATION, SeriesName
from lesion_utils.data.prepared import PreparedData
from lesion_utils.evaluation.blocks import audit_shortcuts, compare_blocks, tabulate_calls
from lesion_utils.evaluation.calibration import fit_recalibration, measure_reliability
from lesion_utils.evaluation.decisions import trace_decision_curves
from lesion_utils.evaluation.evaluate import Curve, band_curves
from lesion_utils.evaluation.external import EVERYONE, ExternalResults, examine_external, widen_measures
from lesion_utils.evaluation.intervals import draw_weights, format_value
from lesion_utils.evaluation.literature import spread_metrics
from lesion_utils.evaluation.predictions import (
    ENSEMBLE,
    add_ensembles,
    iterate_means,
    read_predictions,
    write_submission,
)
from lesion_utils.evaluation.ranking import CLASSICAL
from lesion_utils.evaluation.shortcuts import CONTROL
from lesion_utils.figures.comparison import plot_forest
from lesion_utils.notebooks.study import OpenStudy
from lesion_utils.provenance.steps import find_training_step

#: Thresholds of decision curves.
THRESHOLDS = np.linspace(0.01, 0.6, 60)


def load_training(study: OpenStudy, name: str = "training") -> pd.DataFrame:
    """A table of all networks, from the notebooks that trained them.

    Args:
        study: the open one.
        name: "training", how far each training came, or "single_scores", test scores of single networks.
    """
    steps = [find_training_step(network).name for network in study.params.named_comparison.models]
    return pd.concat([study.load_table(step, name) for step in steps], ignore_index=True)


class Models(NamedTuple):
    """The mean probability over seeds of each network and regime, on the same test images."""

    targets: np.ndarray  # (N,) int, 0 benign, 1 malignant
    probs: dict[SeriesName, np.ndarray]  # name -> (N,) float in [0, 1]
    calibrated: dict[SeriesName, np.ndarray]  # the same, recalibrated on the validation images


def collect_models(predictions: pd.DataFrame, *, runs: Collection[tuple[str, str]] | None = None) -> Models:
    """The test scores of all networks, or of the models `runs` (model, regime), as trained and recalibrated."""
    probs, calibrated, targets = {}, {}, np.empty(0, int)
    for name, validation, test in iterate_means(predictions):
        network = name.model != COMBINATION and not name.regime.startswith(CLASSICAL)
        if network if runs is None else (name.model, name.regime) in runs:
            probs[name], targets = test["probability"].to_numpy(), test["target"].to_numpy()
            line = fit_recalibration(validation["target"], validation["logit"])
            calibrated[name] = expit(line.apply(test["logit"]))
    return Models(targets, probs, calibrated)


class Sources(NamedTuple):
    """Models in each block of image numbers; the tables are named after their files."""

    block_interaction: pd.DataFrame  # from `blocks.compare_blocks`
    calls_by_block: pd.DataFrame  # from `blocks.tabulate_calls`
    shortcut_audit: pd.DataFrame  # from `blocks.audit_shortcuts`


def judge_sources(scores: pd.DataFrame, metadata: pd.DataFrame, params: Comparison) -> Sources:
    """Differences to the baselines, predictions and shortcuts in each block of image numbers."""
    return Sources(
        compare_blocks(scores, metadata),
        tabulate_calls(scores, params),
        audit_shortcuts(scores, confidence=params.confidence),
    )


def draw_bands(models: Models, params: Comparison) -> tuple[dict[str, Curve], dict[str, Curve]]:
    """Bootstrap bands of each model's ROC and precision-recall curve, by name."""
    weights = draw_weights(models.targets, draws=params.bootstrap_draws, seed=params.seed)
    bands = {
        name: band_curves(models.targets, scores, weights=weights, confidence=params.confidence)
        for name, scores in models.probs.items()
    }
    return {name: roc for name, (roc, _) in bands.items()}, {name: recall for name, (_, recall) in bands.items()}


def judge_external(
    data: PreparedData, scores: pd.DataFrame, results: pd.DataFrame, params: NamedComparison, *, folder: Path
) -> ExternalResults | None:
    """Evaluate the networks on the external test sets; None if the study names none.

    Args:
        scores: of the study's own images, from `add_ensembles`.
        folder: of the predictions; those of the external sets end in `_external.csv`.
    """
    if data.external.empty:
        return None
    parts = [
        read_predictions(folder / f"{network}_external.csv").assign(model=model)
        for network, model in params.models.items()
    ]
    away = add_ensembles(pd.concat(parts, ignore_index=True), params.averages)
    return examine_external(scores, away, results, params, images=data.table, others=data.external)


def show_external(study: OpenStudy, results: pd.DataFrame, external: ExternalResults) -> pd.DataFrame:
    """Save the tables and the figure of the external test sets, show the figure, and return the table."""
    study.save_table(external.measures, "external")
    study.save_table(external.drops, "external_drops")
    forest = plot_forest(collect_external(results, external))
    caption = "AP and AUC on the internal and the external test sets: networks and a metadata-only baseline."
    display(study.save_figure(forest, "external", caption))
    return widen_measures(external.measures)


def collect_external(results: pd.DataFrame, external: ExternalResults) -> pd.DataFrame:
    """Rows of a forest plot: each network on the internal test set, then on each external one, and the baseline."""
    own = results[(results["seed"] == ENSEMBLE)].assign(set="internal")
    everyone = external.measures[external.measures["group"] == EVERYONE]
    known = everyone[["model", "regime"]].drop_duplicates()
    rows = pd.concat([own.merge(known), everyone], ignore_index=True)
    rows = rows[rows["metric"].isin(("ap", "auc"))]
    place = pd.factorize(rows["model"] + rows["regime"])[0]
    rows = rows.iloc[np.argsort(place, kind="stable")]  # internal beside external
    group = np.where(rows["model"] == CONTROL, "controls", "this study")
    rows = rows.assign(group=group, name=rows["name"].astype(str) + ": " + rows["set"])
    keys = ["name", "model", "regime", "group"]
    order = pd.MultiIndex.from_frame(rows[keys].drop_duplicates())
    return spread_metrics(rows, keys).reindex(order).reset_index()


def trace_curves(models: Models) -> pd.DataFrame:
    """The points of every ROC and precision-recall curve.

    Returns:
        one row per model and threshold (a lesion with a probability above or equal is predicted malignant): `name`,
        `model`, `regime`, `threshold`, `sensitivity` (recall), `specificity`, `precision` (NaN if nothing is
        predicted malignant).
    """
    parts = []
    for name, probs in models.probs.items():
        fpr, sensitivity, thresholds = roc_curve(models.targets, probs, drop_intermediate=False)
        malignant = models.targets.mean()
        called = sensitivity * malignant + fpr * (1 - malignant)
        precision = np.divide(sensitivity * malignant, called, out=np.full(called.shape, np.nan), where=called > 0)
        columns = {"threshold": thresholds, "sensitivity": sensitivity, "specificity": 1 - fpr, "precision": precision}
        parts.append(pd.DataFrame(name.columns | columns))
    return pd.concat(parts, ignore_index=True)


def trace_reliability(models: Models, params: Comparison) -> pd.DataFrame:
    """The points of every reliability diagram, before and after recalibration: see `measure_reliability`."""
    parts = [
        measure_reliability(models.targets, probs, confidence=params.confidence).assign(**name.columns, stage=stage)
        for stage, scores in (("before", models.probs), ("after", models.calibrated))
        for name, probs in scores.items()
    ]
    table = pd.concat(parts, ignore_index=True)
    first = ["name", "model", "regime", "stage"]
    return table[[*first, *table.columns.difference(first, sort=False)]]


def write_summaries(results: pd.DataFrame, metric: str) -> dict[str, str]:
    """Each model's value with its interval, for legends: "AUC 0.821 (0.765 to 0.877)"."""
    rows = results[(results["seed"] == ENSEMBLE) & (results["metric"] == metric)]
    return {
        row.name: f"{metric.upper()} {format_value(row.value, row.low, row.high)}" for row in rows.itertuples(name="R")
    }


def pair_calibration(models: Models) -> dict[str, np.ndarray]:
    """Probabilities as trained and recalibrated, by panel."""
    panels: dict[str, np.ndarray] = {}
    for name, before in models.probs.items():
        panels |= {f"{name}, as trained": before, f"{name}, recalibrated": models.calibrated[name]}
    return panels


def trace_benefit(models: Models, params: Comparison) -> pd.DataFrame:
    """Decision curves of the recalibrated models, with bootstrap bands."""
    weights = draw_weights(models.targets, draws=params.bootstrap_draws, seed=params.seed)
    settings: dict[str, Any] = {"thresholds": THRESHOLDS, "weights": weights, "confidence": params.confidence}
    curves = trace_decision_curves(models.targets, models.calibrated, **settings)
    keys = pd.DataFrame([name.columns for name in models.calibrated])
    return curves.merge(keys, on="name", how="left").fillna({"model": "", "regime": ""})


def write_submissions(predictions: pd.DataFrame, *, folder: Path, prefix: str) -> pd.DataFrame:
    """Write each network's mean and each combination as an entry to the challenge, `<folder>/<prefix>_*.csv`.

    Returns:
        one row per entry: `name` and `file`.
    """
    rows: list[dict[str, str]] = []
    for name, _, test in iterate_means(predictions):
        if name.model == COMBINATION or not name.regime.startswith(CLASSICAL):
            stem = re.sub(r"[^\w.-]+", "_", f"{prefix}_{name.model}_{name.regime}").strip("_")
            rows.append({"name": name, "file": write_submission(test, folder / f"{stem}.csv").name})
    return pd.DataFrame(rows, columns=["name", "file"])
