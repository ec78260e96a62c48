"""Is it skin that a network reads? Ranking within blocks of ids, and with doubtful images left out."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm

from lesion_utils.config.schema import Comparison
from lesion_utils.core.names import name_series
from lesion_utils.evaluation.candidates import find_classical
from lesion_utils.evaluation.control import id_block
from lesion_utils.evaluation.intervals import (
    combine_placements,
    delong_interval,
    draw_weights,
    map_draws,
    percentile_interval,
    place_scores,
)
from lesion_utils.evaluation.metrics import average_precision, rank_scores, roc_auc
from lesion_utils.evaluation.predictions import ENSEMBLE, iterate_runs

#: The row that pools all blocks: pairs of a malignant and a benign image of one and the same block.
WITHIN = "within blocks"
ALL = "all images"


def tabulate_blocks(predictions: pd.DataFrame, params: Comparison) -> pd.DataFrame:
    """AUC and average precision within each block of ids, where the block itself cannot help.

    Blocks of ids follow the contributing clinics, and prevalence follows the clinic, so a model that recognises the
    clinic ranks well without reading the lesion. Within a block it cannot. The row "within blocks" is the share of
    malignant and benign pairs from one block that are ranked rightly.

    Returns:
        one row per block, model and metric ("auc", "ap"), and the rows of all images and (AUC only) within blocks:
        `block`, `model`, `regime`, `name`, `metric`, `images`, `malignant`, `value`, `low`, `high`; NaN where a block
        has fewer than two images of a class. Models enter by their mean probability over seeds, with the combinations.
    """
    rows, weights = [], {}
    for (model, regime, seed), _, test in iterate_runs(predictions):
        if seed != ENSEMBLE:
            continue
        run = {"model": model, "regime": regime, "name": name_series(model, regime)}
        blocks = dict(iter(test.groupby(test["image_id"].map(id_block), sort=True)))
        for label, part in ({ALL: test} | blocks).items():
            if label not in weights and _is_rankable(part):  # every run scores the same images in the same order
                weights[label] = draw_weights(part["target"], draws=params.bootstrap_draws, seed=params.seed)
            rows += [run | row for row in _evaluate_block(part, label, weights.get(label), params.confidence)]
        rows.append(run | _evaluate_within(list(blocks.values()), params.confidence))
    return pd.DataFrame(rows)


def _is_rankable(part: pd.DataFrame) -> bool:
    return min(part["target"].sum(), (1 - part["target"]).sum()) >= 2


def _evaluate_block(
    part: pd.DataFrame, label: str, weights: NDArray | None, confidence: float
) -> list[dict[str, object]]:
    targets, probs = part["target"], part["probability"]
    counts = {"block": label, "images": len(part), "malignant": int(targets.sum())}
    if weights is None:
        return [counts | {"metric": m, "value": np.nan, "low": np.nan, "high": np.nan} for m in ("auc", "ap")]
    draws = map_draws(lambda w: {"ap": rank_scores(targets, probs, weights=w).average_precision()}, weights)
    auc = delong_interval(targets, probs, confidence=confidence)
    ap = percentile_interval(draws["ap"], confidence=confidence)
    return [
        counts | {"metric": "auc", "value": roc_auc(targets, probs), "low": auc.low, "high": auc.high},
        counts | {"metric": "ap", "value": average_precision(targets, probs), "low": ap.low, "high": ap.high},
    ]


def _evaluate_within(blocks: list[pd.DataFrame], confidence: float) -> dict[str, object]:
    """The AUC over pairs of one block: the blocks' AUCs weighted by their pairs, DeLong's variances adding up."""
    usable = [part for part in blocks if _is_rankable(part)]
    row = {"block": WITHIN, "metric": "auc", "value": np.nan, "low": np.nan, "high": np.nan}
    row |= {"images": sum(map(len, usable)), "malignant": int(sum(part["target"].sum() for part in usable))}
    if not usable:
        return row
    estimates = [combine_placements(place_scores(part["target"], part["probability"])) for part in usable]
    pairs = np.array([part["target"].sum() * (1 - part["target"]).sum() for part in usable])
    shares = pairs / pairs.sum()
    value = float(shares @ [e.value for e in estimates])
    reach = norm.ppf((1 + confidence) / 2) * np.hypot.reduce(shares * [e.error for e in estimates])
    return row | {"value": value, "low": max(0.0, value - reach), "high": min(1.0, value + reach)}


def tabulate_exclusions(
    predictions: pd.DataFrame,
    params: Comparison,
    *,
    exclusions: Mapping[str, Collection[str]],
    splits: Collection[str] = ("test", "val"),
) -> pd.DataFrame:
    """AUC and average precision with and without doubtful images.

    Nothing is trained again: an excluded training image changes only what is measured on validation, if it is there.

    Args:
        predictions: as `read_predictions` returns them; networks enter by their mean probability over seeds.
        params: names the combinations.
        exclusions: what is wrong -> image ids, such as {"duplicate of a training image": [...]}.
        splits: which images to measure on.

    Returns:
        one row per model, split, exclusion and metric: `model`, `regime`, `name`, `split`, `exclusion`, `metric`,
        `removed` (images), `value_in`, `value_out` (with and without them), `change` (out minus in).
    """
    rows = []
    for (model, regime, seed), validation, test in iterate_runs(predictions):
        if seed != ENSEMBLE:
            continue
        run = {"model": model, "regime": regime, "name": name_series(model, regime)}
        for split, part in (("test", test), ("val", validation)):
            if split in splits and not part.empty:
                rows += [run | {"split": split} | row for row in _exclude(part, exclusions)]
    return pd.DataFrame(rows)


def widen_exclusions(exclusions: pd.DataFrame) -> pd.DataFrame:
    """How the test scores of networks and combinations change without doubtful images, as people read it.

    Args:
        exclusions: from `tabulate_exclusions`.

    Returns:
        `name`, and for each exclusion that removes a test image a column of changes: "AUC +0.012, AP −0.003".
    """
    rows = exclusions[(exclusions["split"] == "test") & (exclusions["removed"] > 0) & ~find_classical(exclusions)]
    cells = {}
    for row in rows.itertuples():
        column = f"without {row.exclusion} ({row.removed})"
        cells.setdefault(row.name, {}).setdefault(column, []).append(f"{row.metric.upper()} {row.change:+.3f}")
    wide = pd.DataFrame.from_dict(cells, orient="index").map(lambda parts: ", ".join(parts).replace("-", "−"))
    return wide.rename_axis("name").reset_index()


def _exclude(part: pd.DataFrame, exclusions: Mapping[str, Collection[str]]) -> list[dict[str, object]]:
    rows = []
    for exclusion, images in exclusions.items():
        kept = part[~part["image_id"].isin(set(images))]
        for metric, compute in (("auc", roc_auc), ("ap", average_precision)):
            before, after = (compute(images_["target"], images_["probability"]) for images_ in (part, kept))
            rows.append(
                {"exclusion": exclusion, "metric": metric, "removed": len(part) - len(kept)}
                | {"value_in": before, "value_out": after, "change": after - before}
            )
    return rows
