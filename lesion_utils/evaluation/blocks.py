"""Blocks of ids one by one: calls, whether a difference is the same in each, and how far scores tell them apart."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
from scipy.stats import binomtest, chi2

from lesion_utils.config.schema import Comparison
from lesion_utils.evaluation.evaluate import AT_TARGET
from lesion_utils.evaluation.intervals import Interval, combine_placements, delong_interval, place_scores
from lesion_utils.evaluation.metrics import choose_threshold
from lesion_utils.evaluation.paired_tests import compare_delong
from lesion_utils.evaluation.predictions import iterate_means
from lesion_utils.evaluation.ranking import find_classical
from lesion_utils.evaluation.shortcuts import COMPARED, FEWEST, id_block


def exact_interval(hits: int, trials: int, *, confidence: float) -> Interval:
    """Clopper and Pearson's interval of a proportion (1934): never too narrow, also for a handful of images."""
    if trials == 0:
        return Interval(np.nan, np.nan)
    return Interval(*binomtest(hits, trials).proportion_ci(confidence, method="exact"))


def tabulate_calls(predictions: pd.DataFrame, params: Comparison) -> pd.DataFrame:
    """Sensitivity and specificity in each block of ids, at the threshold that is chosen on all validation images.

    Returns:
        one row per model, block and metric: `name`, `model`, `regime`, `block`, `threshold`, `metric`
        ("sensitivity_at_target", "specificity_at_target"), `hits`, `images` (of the class), `value`, `low`, `high`.
    """
    rows = []
    for name, validation, test in iterate_means(predictions[~find_classical(predictions)]):
        if validation.empty:
            continue
        seen = validation["target"], validation["probability"]
        threshold = choose_threshold(*seen, sensitivity=params.sensitivity_target)
        right = (test["probability"] > threshold) == (test["target"] == 1)
        for (block, target), part in right.groupby([test["image_id"].map(id_block), test["target"]]):
            hits, images = int(part.sum()), len(part)
            low, high = exact_interval(hits, images, confidence=params.confidence)
            metric = ("specificity", "sensitivity")[target] + AT_TARGET
            about = name.columns | {"block": block, "threshold": threshold, "metric": metric}
            rows.append(about | {"hits": hits, "images": images, "value": hits / images, "low": low, "high": high})
    return pd.DataFrame(rows)


def compare_blocks(predictions: pd.DataFrame, metadata: pd.DataFrame) -> pd.DataFrame:
    """Whether a network is ahead of a metadata-only baseline by the same AUC in every block (Cochran's Q, 1954).

    Blocks hold different images, so their differences are independent, each with DeLong's standard error. Blocks with
    fewer than `shortcuts.FEWEST` images of a class are left out.

    Args:
        predictions: from `predictions.add_ensembles`.
        metadata: from `shortcuts.predict_from_metadata`.

    Returns:
        one row per model and baseline: `name`, `model`, `regime`, `control`, `blocks` (how many), `lowest` and
        `highest` (difference in a block), `q`, `p`.
    """
    tests, rows = metadata[metadata["split"] == "test"].set_index("image_id"), []
    networks = iterate_means(predictions[~find_classical(predictions)])
    for (name, _, test), control in product(networks, COMPARED):
        known = tests.loc[tests["control"] == control, "probability"].loc[test["image_id"]].to_numpy()
        parts = [
            compare_delong(part["target"], part["probability"], part["known"], confidence=0.95)
            for _, part in test.assign(known=known).groupby(test["image_id"].map(id_block))
            if part["target"].value_counts().reindex([0, 1], fill_value=0).min() >= FEWEST
        ]
        found = [(part.difference, part.error) for part in parts if part.error > 0]
        if len(found) > 1:
            values, errors = np.transpose(found)
            weights = errors**-2.0
            q = float(weights @ (values - weights @ values / weights.sum()) ** 2)
            about = name.columns | {"control": control, "blocks": len(found)}
            spread = {"lowest": values.min(), "highest": values.max()}
            rows.append(about | spread | {"q": q, "p": float(chi2.sf(q, len(found) - 1))})
    columns = ["name", "model", "regime", "control", "blocks", "lowest", "highest", "q", "p"]
    return pd.DataFrame(rows, columns=columns)


def audit_shortcuts(predictions: pd.DataFrame, *, confidence: float) -> pd.DataFrame:
    """How well a network's score tells each block of ids from the others among benign test images.

    None of these images is malignant, so a score that reads nothing but malignancy gives an AUC near 0.5. An AUC far
    from it, on either side, shows that the score also depends on what tells the blocks apart: clinic, camera or
    patients.

    Returns:
        one row per model and block: `name`, `model`, `regime`, `block`, `images` (benign ones of the block), `auc`
        (above 0.5: the block's images score higher than those of the others), `low`, `high` (DeLong).
    """
    rows = []
    for name, _, test in iterate_means(predictions[~find_classical(predictions)]):
        benign = test[test["target"] == 0]
        blocks, probs = benign["image_id"].map(id_block), benign["probability"]
        for block in sorted(set(blocks)):
            inside = blocks == block
            if min(inside.sum(), (~inside).sum()) < 2:
                continue
            low, high = delong_interval(inside, probs, confidence=confidence)
            auc = combine_placements(place_scores(inside, probs)).value
            rows.append(
                name.columns | {"block": block, "images": int(inside.sum())} | {"auc": auc, "low": low, "high": high}
            )
    return pd.DataFrame(rows, columns=["name", "model", "regime", "block", "images", "auc", "low", "high"])
