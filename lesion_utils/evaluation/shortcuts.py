"""Is it skin that a network reads, or the clinic? Classifiers that see no pixel, and networks beside them.

Ids follow the clinic that contributed an image, sizes follow its camera, and the share of melanomas follows the clinic.
A classifier that knows nothing else is the floor that a network must beat before its score says anything about skin.

Blocks of ids follow the contributing clinics, and prevalence follows the clinic, so a model that recognises the clinic
ranks well without reading a lesion. Within a block it can do so still: ids, sizes and the share of melanomas also run
in step inside the blocks. So the networks are compared with the controls there too, image by image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingClassifier

from lesion_utils.config.schema import Comparison
from lesion_utils.core.names import name_series
from lesion_utils.evaluation.intervals import (
    Interval,
    delong_interval,
    draw_weights,
    map_draws,
    percentile_interval,
    wilson_interval,
)
from lesion_utils.evaluation.metrics import auc_within, average_precision, rank_scores, roc_auc
from lesion_utils.evaluation.paired_tests import compare_bootstrap, compare_delong
from lesion_utils.evaluation.predictions import iterate_means
from lesion_utils.evaluation.ranking import find_classical

#: What each control knows.
CONTROLS = {
    "id": ["number"],
    "size": ["native_width", "native_height"],
    "size and bytes": ["native_width", "native_height", "native_bytes"],
    "id, size and bytes": ["number", "native_width", "native_height", "native_bytes"],
}
#: Ids from here on begin a block of their own; between the blocks lie gaps, other cameras and other prevalences.
BLOCKS = {0: "0000000 to 0000999", 1000: "0001000 to 0009859", 9860: "0009860 to 0011402"}

#: Rows that pool strata: pairs of a malignant and a benign image of one and the same stratum.
WITHIN, QUARTERS = "within blocks", "within quarters of blocks"
ALL = "all images"

#: With fewer images of a class there is no interval: resampling five images says little about a sixth.
FEWEST = 10

#: The controls that stand beside the networks; the `model` of their rows is `CONTROL`, the `regime` what they know.
COMPARED = ("id", "id, size and bytes")
CONTROL = "control"

NO_INTERVAL = Interval(np.nan, np.nan)

#: What a paired difference tells.
FOUND = ("metric", "a", "b", "difference", "low", "high")


def id_number(image_id: str) -> int:
    """The number in an id: 280 for ISIC_0000280."""
    return int(image_id.removeprefix("ISIC_"))


def id_block(image_id: str) -> str:
    """The block of ids that an image belongs to, as a label; the blocks follow the contributing clinics."""
    number = id_number(image_id)
    return BLOCKS[max(start for start in BLOCKS if start <= number)]


def predict_from_metadata(images: pd.DataFrame) -> pd.DataFrame:
    """Train a classifier on metadata alone, on all training images, and score the test set.

    Gradient-boosted trees with scikit-learn's defaults: nothing is tuned, so nothing is fitted to the test set.

    Args:
        images: columns `image_id`, `split`, `target`, `native_width`, `native_height` (px), `native_bytes`.

    Returns:
        one row per control and test image: `control` (a key of `CONTROLS`), `image_id`, `target`, `probability`
        of being malignant, in [0, 1].
    """
    images = images.assign(number=images["image_id"].map(id_number))
    train, test = images[images["split"] == "train"], images[images["split"] == "test"]
    parts = []
    for control, columns in CONTROLS.items():
        classifier = GradientBoostingClassifier(random_state=0).fit(train[columns], train["target"])
        probability = classifier.predict_proba(test[columns])[:, 1]
        parts.append(test[["image_id", "target"]].assign(control=control, probability=probability))
    return pd.concat(parts, ignore_index=True)[["control", "image_id", "target", "probability"]]


def count_blocks(images: pd.DataFrame, *, confidence: float) -> pd.DataFrame:
    """Prevalence by block of ids.

    Args:
        images: columns `image_id`, `split`, `target`.

    Returns:
        one row per block and split, in order: `block`, `split`, `images`, `malignant` (counts), `prevalence` and its
        Wilson interval, `low` and `high`, all in [0, 1].
    """
    grouped = images.groupby([images["image_id"].map(id_block).rename("block"), "split"])["target"]
    counts = grouped.agg(images="size", malignant="sum", prevalence="mean").reset_index()
    spans = [wilson_interval(row.malignant, row.images, confidence=confidence) for row in counts.itertuples()]
    counts[["low", "high"]] = np.array(spans)
    return counts.sort_values(["block", "split"], ascending=[True, False], ignore_index=True)


class Shortcuts(NamedTuple):
    """What speaks for skin and what for the clinic."""

    blocks: pd.DataFrame  # from `tabulate_blocks`
    differences: pd.DataFrame  # from `compare_controls`

    @property
    def harder(self) -> str:
        """The control that ranks the test images better within blocks: the one that the headline sets networks against.

        Taken by its test score, which favours the control.
        """
        rows = self.blocks[self.blocks["model"] == CONTROL]
        within = rows[(rows["block"] == WITHIN) & rows["value"].notna()]
        rows = rows[(rows["block"] == ALL) & (rows["metric"] == "auc")] if within.empty else within
        return rows.loc[rows["value"].idxmax(), "regime"]


class _Scores(NamedTuple):
    """Everything that scored the test images, in one order of images."""

    targets: NDArray[np.int_]  # (N,)
    strata: dict[str, NDArray]  # block, and quarter of the block, of each image
    probs: dict[tuple[str, str], NDArray[np.float64]]  # (model, regime) -> (N,); controls come last


class _Within(NamedTuple):
    """An AUC over the pairs of one stratum, and its bootstrap draws; None with too few images of a class."""

    value: float
    draws: NDArray[np.float64] | None


def examine(predictions: pd.DataFrame, metadata: pd.DataFrame, params: Comparison) -> Shortcuts:
    """Networks, combinations and controls by block of ids, and the paired differences between them.

    Args:
        predictions: networks enter by their mean probability over seeds; classical classifiers are left out.
        metadata: columns `control`, `image_id`, `probability`, from `predict_from_metadata`.
    """
    scores = _collect(predictions[~find_classical(predictions)], metadata)
    within = _rank_within(scores, params)
    return Shortcuts(tabulate_blocks(scores, within, params), compare_controls(scores, within, params))


def _collect(predictions: pd.DataFrame, metadata: pd.DataFrame) -> _Scores:
    probs = {}
    for name, _, test in iterate_means(predictions):
        probs[name.model, name.regime] = test["probability"].to_numpy()
    for control in COMPARED:
        known = metadata[metadata["control"] == control].set_index("image_id")["probability"]
        probs[CONTROL, control] = known.loc[test["image_id"]].to_numpy()
    strata = {WITHIN: test["image_id"].map(id_block).to_numpy(), QUARTERS: quarter_blocks(test["image_id"])}
    return _Scores(test["target"].to_numpy(), strata, probs)


def quarter_blocks(image_ids: pd.Series) -> NDArray:
    """(N,) quarter of its block that each image belongs to, by the order of ids: nearer neighbours than a block's."""
    numbers, blocks = image_ids.map(id_number), image_ids.map(id_block)
    ranks = numbers.groupby(blocks).rank(method="first") - 1
    quarters = 4 * ranks // numbers.groupby(blocks).transform("size") + 1
    return (blocks + ", quarter " + quarters.astype(int).astype(str)).to_numpy()


def _rank_within(scores: _Scores, params: Comparison) -> dict[tuple[str, str, str], _Within]:
    """(stratification, model, regime) -> its AUC. Draws keep each block's images of each class; quarters may vary."""
    targets, weights = scores.targets, None
    if _has_interval(targets):
        blocks = scores.strata[WITHIN]
        weights = draw_weights(targets, draws=params.bootstrap_draws, seed=params.seed, strata=blocks)
    found = {}
    for label, strata in scores.strata.items():
        for run, probs in scores.probs.items():
            value, draws = float(auc_within(targets, probs, strata=strata)), None
            if weights is not None and not np.isnan(value):
                draws = _draw(lambda w, p=probs, s=strata: auc_within(targets, p, strata=s, weights=w), weights)
            found[label, *run] = _Within(value, draws)
    return found


def _draw(compute: Callable[[NDArray], NDArray], weights: NDArray) -> NDArray[np.float64]:
    return map_draws(lambda part: {"": compute(part)}, weights)[""]


def _count(targets: NDArray[np.int_]) -> dict[str, int]:
    return {"images": len(targets), "malignant": int(targets.sum())}


def _has_interval(targets: NDArray[np.int_]) -> bool:
    return bool(min(targets.sum(), (1 - targets).sum()) >= FEWEST)


def _describe_run(model: str, regime: str) -> dict[str, str]:
    named = name_series(model, regime).columns
    return named | {"name": f"Metadata alone: {regime}"} if model == CONTROL else named


def tabulate_blocks(
    scores: _Scores, within: Mapping[tuple[str, str, str], _Within], params: Comparison
) -> pd.DataFrame:
    """AUC and average precision on all images and within each block; AUC over the pairs of one stratum.

    Returns:
        one row per block, model and metric ("auc", "ap"), and the rows "within blocks" and "within quarters of blocks"
        (AUC only): `block`, `model`, `regime`, `name`, `metric`, `images`, `malignant`, `value`, `low`, `high`; the
        interval is NaN where there are fewer than `FEWEST` images of a class, the value where there is none.
    """
    blocks = scores.strata[WITHIN]
    members = {ALL: np.ones(len(blocks), bool)} | {label: blocks == label for label in np.unique(blocks)}
    rows = [row for label, member in members.items() for row in _evaluate_block(scores, label, member, params)]
    for (label, *run), (value, draws) in within.items():
        span = NO_INTERVAL if draws is None else percentile_interval(draws, confidence=params.confidence)
        rows.append(
            {"block": label} | _describe_run(*run) | {"metric": "auc"} | _count(scores.targets)
            | {"value": value} | span._asdict()
        )  # fmt: skip
    return pd.DataFrame(rows)


def _evaluate_block(
    scores: _Scores, label: str, member: NDArray[np.bool_], params: Comparison
) -> Iterator[dict[str, object]]:
    targets, confidence, weights = scores.targets[member], params.confidence, None
    if _has_interval(targets):
        weights = draw_weights(targets, draws=params.bootstrap_draws, seed=params.seed)
    for run, everywhere in scores.probs.items():
        probs = everywhere[member]
        auc = ap = (np.nan, NO_INTERVAL)
        if 0 < targets.sum() < len(targets):
            auc, ap = (roc_auc(targets, probs), NO_INTERVAL), (average_precision(targets, probs), NO_INTERVAL)
        if weights is not None:
            draws = _draw(lambda w, p=probs: rank_scores(targets, p, weights=w).average_precision(), weights)
            auc = auc[0], delong_interval(targets, probs, confidence=confidence)
            ap = ap[0], percentile_interval(draws, confidence=confidence)
        for metric, (value, span) in (("auc", auc), ("ap", ap)):
            counted = {"metric": metric} | _count(targets)
            yield {"block": label} | _describe_run(*run) | counted | {"value": value} | span._asdict()


def compare_controls(
    scores: _Scores, within: Mapping[tuple[str, str, str], _Within], params: Comparison
) -> pd.DataFrame:
    """Each network and combination minus each control, on the same images.

    On all images DeLong's interval of the AUC and a paired bootstrap of the average precision; within blocks and
    within their quarters a paired bootstrap of the AUC over pairs of one stratum. They describe: none was declared.

    Returns:
        one row per model, control, `block` ("all images", "within blocks", "within quarters of blocks") and metric:
        `model`, `regime`, `name`, `control`, `block`, `metric`, `images`, `malignant`, `a` (the model), `b` (the
        control), `difference`, `low`, `high`. Empty with fewer than `FEWEST` images of a class.
    """
    rows = []
    for run, probs in scores.probs.items():
        if run[0] == CONTROL or not _has_interval(scores.targets):
            continue
        for control in COMPARED:
            named = _describe_run(*run) | {"control": control} | _count(scores.targets)
            rows += [named | row for row in _compare_overall(scores, probs, control, params)]
            rows += [named | row for row in _compare_within(within, run, control, params)]
    columns = ["model", "regime", "name", "control", "block", "metric", "images", "malignant"]
    return pd.DataFrame(rows, columns=[*columns, *FOUND[1:]])


def _compare_overall(
    scores: _Scores, probs: NDArray[np.float64], control: str, params: Comparison
) -> Iterator[dict[str, object]]:
    images, confidence = (scores.targets, probs, scores.probs[CONTROL, control]), params.confidence
    weights = draw_weights(scores.targets, draws=params.bootstrap_draws, seed=params.seed)
    for test in (
        compare_delong(*images, confidence=confidence),
        compare_bootstrap(*images, metric="ap", weights=weights, confidence=confidence),
    ):
        yield {"block": ALL} | {name: getattr(test, name) for name in FOUND}


def _compare_within(
    within: Mapping[tuple[str, str, str], _Within], run: tuple[str, str], control: str, params: Comparison
) -> Iterator[dict[str, object]]:
    for label in (WITHIN, QUARTERS):
        (a, draws), (b, others) = within[label, *run], within[label, CONTROL, control]
        if draws is not None:
            low, high = percentile_interval(draws - others, confidence=params.confidence)
            yield {"block": label} | dict(zip(FOUND, ("auc", a, b, a - b, low, high), strict=True))
