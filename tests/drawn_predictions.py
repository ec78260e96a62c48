"""Predictions drawn for tests: two networks, several regimes and seeds, the same images in each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from lesion_utils.config.schema import NamedComparison
from lesion_utils.evaluation.added_value import measure_added_value
from lesion_utils.evaluation.predictions import ENSEMBLE, add_ensembles, select_run
from lesion_utils.evaluation.ranking import compare_networks, rank_on_validation
from lesion_utils.evaluation.shortcuts import Shortcuts, examine
from lesion_utils.evaluation.tables import summarise_seeds, tabulate_calibration, tabulate_controls, tabulate_results
from lesion_utils.notebooks.statements import Findings

#: How far each model and regime separates the classes, in standard deviations of its logits.
SKILL = {
    ("resnet50", "scratch"): 0.6,
    ("resnet50", "features"): 1.0,
    ("resnet50", "finetune"): 1.6,
    ("vgg19", "scratch"): 0.5,
    ("vgg19", "features"): 0.9,
    ("vgg19", "finetune"): 1.5,
}
CLASSICAL = {("resnet50", "features:svm_rbf"): 1.0, ("resnet50", "features:knn"): 0.2, ("vgg19", "features:knn"): 0.8}
COMBINED = {
    "both": [("resnet50", "finetune"), ("vgg19", "finetune")],
    "with an SVM": [("resnet50", "finetune"), ("resnet50", "features:svm_rbf")],
    "never": [("vgg19", "finetune"), ("vgg19", "features:logistic")],
}

COMPARISON = NamedComparison(
    primary={"networks": ["resnet50", "vgg19"], "metric": "auc", "regime": "finetune", "alpha": 0.05},
    bootstrap_draws=200,
    seed=2016,
    confidence=0.95,
    sensitivity_target=0.9,
    prevalences=[0.02, 0.1],
    power=0.8,
    balanced_subset=75,
    balanced_repeats=50,
    combinations=[],
    models={"resnet50": "resnet50", "vgg19": "vgg19"},
)


def draw_predictions(
    *,
    images: int = 120,
    validation: int = 60,
    prevalence: float = 0.2,
    seeds: int = 2,
    skill: Mapping[tuple[str, str], float] = SKILL,
    seed: int = 0,
) -> pd.DataFrame:
    """A table as `read_predictions` returns it; ids run through all three blocks of the challenge."""
    rng = np.random.default_rng(seed)
    total = images + validation
    targets = np.zeros(total, dtype=int)
    for members in (slice(0, images), slice(images, total)):
        size = len(range(total)[members])
        targets[members] = rng.permutation(np.arange(size) < round(prevalence * size))
    numbers = np.concatenate([np.linspace(0, 11402, images), np.linspace(1, 11401, validation)]).astype(int)
    numbers[images:] += 20_000  # validation images are other images
    base = pd.DataFrame(
        {
            "image_id": [f"ISIC_{number:07d}" for number in numbers],
            "split": np.repeat(["test", "val"], [images, validation]),
            "target": targets,
        }
    )
    shared, parts = rng.normal(size=total), []
    for (model, regime), separation in skill.items():
        for run in range(seeds):
            logits = np.round(shared + 0.7 * rng.normal(size=total) + separation * targets - 1.4, 6)
            scores = {"model": model, "regime": regime, "seed": run, "logit": logits, "probability": expit(logits)}
            parts.append(base.assign(**scores))
    return pd.concat(parts, ignore_index=True)


def draw_external() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Predictions on ninety images of a set "P", the study's own images, and those of the set, with their sizes."""
    rng, sizes = np.random.default_rng(0), ["native_width", "native_height", "native_bytes"]
    away = draw_predictions(images=90, validation=0, seed=5)
    away["image_id"] = "P/" + away["image_id"]
    others = away.drop_duplicates("image_id")[["image_id", "target"]].assign(set="P", seen_in="", seen_how="")
    own = pd.DataFrame({"image_id": [f"h{k}" for k in range(200)], "split": ["train"] * 100 + ["test"] * 100})
    own["target"] = np.arange(200) % 4 // 3
    for images in (own, others):
        images[sizes] = rng.integers(100, 900, (len(images), 3))
    return away, own, others.reset_index(drop=True)


@pytest.fixture(scope="session")
def predictions() -> pd.DataFrame:
    """All runs with their means over seeds."""
    return add_ensembles(draw_predictions(skill=SKILL | CLASSICAL))


@pytest.fixture(scope="session")
def scored() -> pd.DataFrame:
    """The same with combinations."""
    return add_ensembles(draw_predictions(skill=SKILL | CLASSICAL), COMBINED)


@pytest.fixture(scope="session")
def results(predictions) -> pd.DataFrame:
    return tabulate_results(predictions, COMPARISON)


@pytest.fixture(scope="session")
def combined(scored) -> pd.DataFrame:
    return tabulate_results(scored, COMPARISON)


@pytest.fixture(scope="session")
def comparisons(predictions) -> pd.DataFrame:
    return compare_networks(predictions, COMPARISON)


def draw_metadata(predictions: pd.DataFrame, *, model: str = "vgg19") -> pd.DataFrame:
    """Scores of the controls, as `shortcuts.predict_from_metadata` returns them."""
    run = select_run(predictions, model=model, regime="scratch", seed=0)
    by_id = run.assign(control="archive order", probability=np.where(run["target"] == 1, 0.4, 0.5))  # worse than chance
    by_block = by_id.assign(control="block, size and bytes")
    return pd.concat([by_id, by_block, run.assign(control="archive order, size and bytes")])


@pytest.fixture(scope="session")
def controls(predictions) -> pd.DataFrame:
    metadata = draw_metadata(predictions)
    return tabulate_controls(metadata[metadata["control"] != "archive order"], COMPARISON)


@pytest.fixture(scope="session")
def seen(scored) -> Shortcuts:
    return examine(scored, draw_metadata(scored), COMPARISON)


def collect_findings(predictions: pd.DataFrame, results: pd.DataFrame, seen: Shortcuts) -> Findings:
    """The tables of 05_comparison."""
    order, comparisons = rank_on_validation(predictions), compare_networks(predictions, COMPARISON)
    calibrated = tabulate_calibration(predictions, COMPARISON)
    added = measure_added_value(predictions, draw_metadata(predictions), COMPARISON)
    return Findings(results, summarise_seeds(results), order, comparisons, seen, COMPARISON, calibrated, added)


@pytest.fixture(scope="session")
def findings(predictions, results, seen) -> Findings:
    return collect_findings(predictions, results, seen)


def get_row(results: pd.DataFrame, model: str, regime: str, metric: str, seed: str = ENSEMBLE) -> pd.Series:
    """One run's row of a table of results."""
    keys = (results["model"] == model) & (results["regime"] == regime) & (results["seed"] == seed)
    return results[keys & (results["metric"] == metric)].iloc[0]
