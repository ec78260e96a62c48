"""Is it skin that a network reads, or the clinic? Classifiers that see no pixel, and networks beside them.

Ids follow the clinic that contributed an image, sizes follow its camera, and the share of melanomas follows the clinic.
A classifier that knows nothing else is the floor that a network must beat before its score says anything about skin: a
model that recognises the clinic ranks well without reading a lesion. Within a block of ids it can do so still, for ids,
sizes and the share of melanomas also run in step there. So the networks are compared with the controls in blocks too.

That holds for ISIC 2016. The numbers of other images mean nothing that is known: their controls see sizes alone, and
only sites part them, where the file of labels names them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingClassifier

from lesion_utils.config.schema import Comparison
from lesion_utils.core.names import SeriesName
from lesion_utils.evaluation.intervals import (
    Interval,
    delong_interval,
    draw_weights,
    logit_interval,
    map_draws,
    percentile_interval,
    wilson_interval,
)
from lesion_utils.evaluation.metrics import auc_within, rank_scores
from lesion_utils.evaluation.predictions import iterate_means
from lesion_utils.evaluation.ranking import find_classical

#: What each control knows.
CONTROLS = {
    "archive order": ["number"],  # neighbouring ids often share a label: 86 % of them in the first block
    "size": ["native_width", "native_height"],
    "size and bytes": ["native_width", "native_height", "native_bytes"],
    "block, size and bytes": ["block", "native_width", "native_height", "native_bytes"],
    "archive order, size and bytes": ["number", "native_width", "native_height", "native_bytes"],
}
#: Ids from here on begin a block of their own; between the blocks lie gaps, other cameras and other prevalences.
BLOCKS = {0: "0000000 to 0000999", 1000: "0001000 to 0009859", 9860: "0009860 to 0011402"}

#: Rows that pool strata: pairs of a malignant and a benign image of one and the same stratum. Every pair counts the
#: same, so a block weighs as much as it has pairs, malignant times benign images.
WITHIN, QUARTERS = "within blocks", "within quarters of blocks"
ALL = "all images"

#: With fewer images of a class there is no interval: resampling five images says little about a sixth.
FEWEST = 10

#: The controls that stand beside the networks; the `model` of their rows is `CONTROL`, the `regime` what they know.
COMPARED = ("archive order", "block, size and bytes", "archive order, size and bytes")
#: Those where the numbers in ids mean nothing.
UNNUMBERED = ("size", "size and bytes")
CONTROL = "control"

DIFFERENCES = ["name", "model", "regime", "control", "block", "metric", "images", "malignant",
               "a", "b", "difference", "low", "high"]  # fmt: skip


def id_number(image_id: str) -> int:
    """The number in an id: 280 for ISIC_0000280."""
    return int(image_id.removeprefix("ISIC_"))


def id_block(image_id: str) -> str:
    """The block of ids that an image belongs to, as a label; the blocks follow the contributing clinics."""
    number = id_number(image_id)
    return BLOCKS[_block_start(number)]


def _block_start(number: int) -> int:
    return max(start for start in BLOCKS if start <= number)


def predict_from_metadata(images: pd.DataFrame, *, numbered: bool = True) -> pd.DataFrame:
    """Train classifiers on metadata alone, on the images that networks learn from, and score the test set.

    Gradient-boosted trees with scikit-learn's defaults: nothing is tuned, so nothing is fitted to the test set. With
    several folds, a training image is scored by the classifier that held its fold out, as it is by the networks.

    Args:
        images: columns `image_id`, `split`, `target`, `native_width`, `native_height` (px), `native_bytes`; and where
            they are known `subset`, of which "left_out" is not learnt from, and `fold`.

    Returns:
        one row per control and image: `control` (a key of `CONTROLS`), `split` ("test", or "val" for out-of-fold
        scores), `image_id`, `target`, `probability` of being malignant, in [0, 1].
    """
    if numbered:
        numbers = images["image_id"].map(id_number)
        images = images.assign(number=numbers, block=numbers.map(_block_start))
    parts = [
        scored.assign(control=control, split=split)
        for control, columns in CONTROLS.items()
        if set(columns) <= set(images)
        for split, scored in _score_splits(columns, images)
    ]
    return pd.concat(parts, ignore_index=True)[["control", "split", "image_id", "target", "probability"]]


def _score_splits(columns: list[str], images: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The test images, and with several folds the training images, each scored by what has not learnt from it."""
    yield "test", _score_control(columns, images, images[images["split"] == "test"])[0]
    learnt = _list_learnt(images)
    for fold in sorted(set(learnt["fold"]) - {0}) if "fold" in images else ():
        held_out = learnt["fold"] == fold
        yield "val", _score_control(columns, learnt[~held_out], learnt[held_out])[0]


def _list_learnt(images: pd.DataFrame) -> pd.DataFrame:
    """The training images without those that networks leave out, such as duplicates of test images."""
    train = images[images["split"] == "train"]
    return train[train["subset"] != "left_out"] if "subset" in train else train


def _score_control(columns: list[str], images: pd.DataFrame, *parts: pd.DataFrame) -> list[pd.DataFrame]:
    """`image_id`, `target` and `probability` in each part, by a classifier that knows some columns."""
    train = _list_learnt(images)
    classifier = GradientBoostingClassifier(random_state=0).fit(train[columns], train["target"])
    scores = (classifier.predict_proba(part[columns])[:, 1] for part in parts)
    return [part[["image_id", "target"]].assign(probability=p) for part, p in zip(parts, scores, strict=True)]


def predict_external(images: pd.DataFrame, others: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores of the baseline that knows sizes and bytes, on the test images and on external images.

    Args:
        images: as `predict_from_metadata`.
        others: columns `image_id`, `target`, and the same three of size.

    Returns:
        of both: `image_id`, `target`, `probability`, and `logit`, which is NaN.
    """
    internal, external = _score_control(CONTROLS["size and bytes"], images, images[images["split"] == "test"], others)
    return internal.assign(logit=np.nan), external.assign(logit=np.nan)


def count_blocks(images: pd.DataFrame, *, confidence: float, numbered: bool = True) -> pd.DataFrame:
    """Prevalence by block of ids, or by site.

    Args:
        images: columns `image_id`, `split`, `target`, and `site` where it is known.

    Returns:
        one row per block and split, in order: `block`, `split`, `images`, `malignant` (counts), `prevalence` and its
        Wilson interval, `low` and `high`, all in [0, 1]; empty without blocks and sites.
    """
    if numbered:
        images = images.assign(block=images["image_id"].map(id_block))
    else:
        images = images.assign(block=images.get("site", "")).query("block != ''")
    grouped = images.groupby(["block", "split"])["target"]
    counts = grouped.agg(images="size", malignant="sum", prevalence="mean").reset_index()
    spans = [wilson_interval(row.malignant, row.images, confidence=confidence) for row in counts.itertuples()]
    counts[["low", "high"]] = np.array(spans).reshape(-1, 2)
    return counts.sort_values(["block", "split"], ascending=[True, False], ignore_index=True)


class Shortcuts(NamedTuple):
    """What speaks for skin and what for the clinic; nothing here was declared as a test.

    Attributes:
        blocks: one row per `block` (the whole, each block of ids, and those that pool strata), row and `metric` ("auc",
            "ap"; over strata the AUC alone): `name`, `model`, `regime`, `images`, `malignant`, `value`, `low`, `high`.
            The interval is NaN with fewer than `FEWEST` images of a class, the value where there is none.
        differences: each network and combination minus each control, on the same images, with paired bootstrap
            intervals, in every block; the columns `DIFFERENCES`, where `a` is the network's
            score and `b` the control's. Empty with fewer than `FEWEST` images of a class.
    """

    blocks: pd.DataFrame
    differences: pd.DataFrame

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
    strata: dict[str, NDArray[Any]]  # block, and quarter of the block, of each image; empty where ids tell of none
    probs: dict[SeriesName, NDArray[np.float64]]  # name -> (N,); controls come last


class _Cell(NamedTuple):
    """A score with its interval and its bootstrap draws, which are missing where a class has too few images."""

    value: float
    span: Interval = Interval(np.nan, np.nan)
    draws: NDArray[np.float64] = np.empty(0)


def examine(predictions: pd.DataFrame, metadata: pd.DataFrame, params: Comparison) -> Shortcuts:
    """Networks, combinations and controls by block of ids, and the paired differences between them.

    Args:
        predictions: networks enter by their mean probability over seeds; classical classifiers are left out.
        metadata: columns `control`, `split`, `image_id`, `probability`, from `predict_from_metadata`.
    """
    scores = _collect(predictions[~find_classical(predictions)], metadata)
    controls, rows, differences = [name for name in scores.probs if name.model == CONTROL], [], []
    for block, (member, strata) in _list_views(scores).items():
        cells = _evaluate_block(scores, member, strata, params)
        counted = {"images": int(member.sum()), "malignant": int(scores.targets[member].sum())}
        for (name, metric), cell in cells.items():
            about = name.columns | {"block": block, "metric": metric} | counted
            rows.append(about | {"value": cell.value} | cell.span._asdict())
            for control in controls if name.model != CONTROL else ():
                if cell.draws.size:  # all scores of a block have draws, or none
                    other = cells[control, metric]
                    found = {"a": cell.value, "b": other.value, "difference": cell.value - other.value}
                    span = percentile_interval(cell.draws - other.draws, confidence=params.confidence)
                    differences.append(about | {"control": control.regime} | found | span._asdict())
    return Shortcuts(pd.DataFrame(rows), pd.DataFrame(differences, columns=DIFFERENCES))


def _collect(predictions: pd.DataFrame, metadata: pd.DataFrame) -> _Scores:
    probs = {}
    for name, _, test in iterate_means(predictions):
        probs[name] = test["probability"].to_numpy()
    tests = metadata[metadata["split"] == "test"]
    numbered = set(COMPARED) <= set(metadata["control"])
    for control in COMPARED if numbered else UNNUMBERED:
        known = tests[tests["control"] == control].set_index("image_id")["probability"]
        probs[SeriesName(f"Metadata alone: {control}", CONTROL, control)] = known.loc[test["image_id"]].to_numpy()
    strata = {}
    if numbered:
        strata = {WITHIN: test["image_id"].map(id_block).to_numpy(), QUARTERS: quarter_blocks(test["image_id"])}
    return _Scores(test["target"].to_numpy(), strata, probs)


def quarter_blocks(image_ids: pd.Series) -> NDArray[Any]:
    """(N,) quarter of its block that each image belongs to, by the order of ids: nearer neighbours than a block's."""
    numbers, blocks = image_ids.map(id_number), image_ids.map(id_block)
    ranks = numbers.groupby(blocks).rank(method="first") - 1
    quarters = 4 * ranks // numbers.groupby(blocks).transform("size") + 1
    return (blocks + ", quarter " + quarters.astype(int).astype(str)).to_numpy()


def _list_views(scores: _Scores) -> dict[str, tuple[NDArray[np.bool_], NDArray[Any] | None]]:
    """Label -> which images, and the strata whose pairs count; all pairs by default."""
    everyone, blocks = np.ones(len(scores.targets), bool), scores.strata.get(WITHIN, np.array([]))
    whole = {ALL: everyone} | {block: blocks == block for block in np.unique(blocks)}
    views = {label: (member, None) for label, member in whole.items()}
    return views | {label: (everyone, strata) for label, strata in scores.strata.items()}


def _evaluate_block(
    scores: _Scores, member: NDArray[np.bool_], strata: NDArray[Any] | None, params: Comparison
) -> dict[tuple[SeriesName, str], _Cell]:
    """(name, metric) -> its score. Over strata, draws keep each block's images of each class."""
    targets, weights = scores.targets[member], None
    if min(targets.sum(), (1 - targets).sum()) >= FEWEST:
        kept = None if strata is None else scores.strata[WITHIN]
        weights = draw_weights(targets, draws=params.bootstrap_draws, seed=params.seed, strata=kept)
    return {
        (name, metric): cell
        for name, probs in scores.probs.items()
        for metric, cell in _evaluate(targets, probs[member], strata, weights, params.confidence).items()
    }


def _evaluate(
    targets: NDArray[np.int_],
    probs: NDArray[np.float64],
    strata: NDArray[Any] | None,
    weights: NDArray[Any] | None,
    confidence: float,
) -> dict[str, _Cell]:
    """AUC and average precision; over the pairs of one stratum the AUC alone."""

    def compute(weights: NDArray[Any] | None = None) -> dict[str, NDArray[np.float64]]:
        if strata is not None:
            return {"auc": auc_within(targets, probs, strata=strata, weights=weights)}
        ranking = rank_scores(targets, probs, weights=weights)
        return {"auc": ranking.roc_auc(), "ap": ranking.average_precision()}

    if not 0 < targets.sum() < len(targets):
        return {"auc": _Cell(np.nan), "ap": _Cell(np.nan)}
    values = {metric: float(value) for metric, value in compute().items()}
    if weights is None or np.isnan(values["auc"]):
        return {metric: _Cell(value) for metric, value in values.items()}
    draws = map_draws(compute, weights)
    if strata is None:
        of_ap = logit_interval(values["ap"], draws["ap"], confidence=confidence)
        spans = {"auc": delong_interval(targets, probs, confidence=confidence), "ap": of_ap}
    else:
        spans = {"auc": percentile_interval(draws["auc"], confidence=confidence)}
    return {metric: _Cell(value, spans[metric], draws[metric]) for metric, value in values.items()}
