"""Is it skin that a network reads, or the clinic? Classifiers that see no pixel, and networks beside them.

Ids follow the clinic that contributed an image, sizes follow its camera, and the share of melanomas follows the clinic.
A classifier that knows nothing else is the floor that a network must beat before its score says anything about skin.

Blocks of ids follow the contributing clinics, and prevalence follows the clinic, so a model that recognises the clinic
ranks well without reading a lesion. Within a block it can do so still: ids, sizes and the share of melanomas also run
in step inside the blocks. So the networks are compared with the controls there too, image by image.

That holds for ISIC 2016. The numbers of other images mean nothing that is known: their controls see sizes alone, and
only sites part them, where the file of labels names them.
"""

from __future__ import annotations

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
    map_draws,
    percentile_interval,
    wilson_interval,
)
from lesion_utils.evaluation.metrics import auc_within, rank_scores
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
    return BLOCKS[max(start for start in BLOCKS if start <= number)]


def predict_from_metadata(images: pd.DataFrame, *, numbered: bool = True) -> pd.DataFrame:
    """Train a classifier on metadata alone, on all training images, and score the test set.

    Gradient-boosted trees with scikit-learn's defaults: nothing is tuned, so nothing is fitted to the test set.

    Args:
        images: columns `image_id`, `split`, `target`, `native_width`, `native_height` (px), `native_bytes`.
        numbered: whether ids are the challenge's, whose numbers the first control knows.

    Returns:
        one row per control and test image: `control` (a key of `CONTROLS`), `image_id`, `target`, `probability`
        of being malignant, in [0, 1].
    """
    images = images.assign(number=images["image_id"].map(id_number)) if numbered else images
    train, test = images[images["split"] == "train"], images[images["split"] == "test"]
    parts = []
    for control, columns in CONTROLS.items():
        if not set(columns) <= set(images):
            continue
        classifier = GradientBoostingClassifier(random_state=0).fit(train[columns], train["target"])
        probability = classifier.predict_proba(test[columns])[:, 1]
        parts.append(test[["image_id", "target"]].assign(control=control, probability=probability))
    return pd.concat(parts, ignore_index=True)[["control", "image_id", "target", "probability"]]


def predict_elsewhere(images: pd.DataFrame, others: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The control that knows sizes and bytes, trained as at home, on the test images and on those from elsewhere.

    Args:
        images: as `predict_from_metadata`.
        others: columns `image_id`, `target`, and the same three of size.

    Returns:
        of both: `image_id`, `target`, `probability`, and `logit`, which is NaN.
    """
    columns = CONTROLS["size and bytes"]
    train, test = images[images["split"] == "train"], images[images["split"] == "test"]
    classifier = GradientBoostingClassifier(random_state=0).fit(train[columns], train["target"])
    home, away = (
        part[["image_id", "target"]].assign(probability=classifier.predict_proba(part[columns])[:, 1], logit=np.nan)
        for part in (test, others)
    )
    return home, away


def count_blocks(images: pd.DataFrame, *, confidence: float, numbered: bool = True) -> pd.DataFrame:
    """Prevalence by block of ids, or by site.

    Args:
        images: columns `image_id`, `split`, `target`, and `site` where it is known.
        numbered: whether ids are the challenge's; the blocks of other images are their sites.

    Returns:
        empty where there is neither;
        one row per block and split, in order: `block`, `split`, `images`, `malignant` (counts), `prevalence` and its
        Wilson interval, `low` and `high`, all in [0, 1].
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
            intervals, for the blocks that hold every image; the columns `DIFFERENCES`, where `a` is the network's
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
    draws: NDArray[np.float64] | None = None


def examine(predictions: pd.DataFrame, metadata: pd.DataFrame, params: Comparison) -> Shortcuts:
    """Networks, combinations and controls by block of ids, and the paired differences between them.

    Args:
        predictions: networks enter by their mean probability over seeds; classical classifiers are left out.
        metadata: columns `control`, `image_id`, `probability`, from `predict_from_metadata`.
    """
    scores = _collect(predictions[~find_classical(predictions)], metadata)
    cells, rows, differences = _evaluate_blocks(scores, params), [], []
    for (block, metric, name), cell in cells.items():
        targets = scores.targets[_list_views(scores)[block][0]]
        counted = {"block": block, "metric": metric, "images": len(targets), "malignant": int(targets.sum())}
        rows.append(name.columns | counted | {"value": cell.value} | cell.span._asdict())
        if name.model != CONTROL and block in (ALL, WITHIN, QUARTERS) and cell.draws is not None:
            for control in [other for other in scores.probs if other.model == CONTROL]:
                other = cells[block, metric, control]
                assert other.draws is not None  # there are draws for all scores of a block, or for none
                span = percentile_interval(cell.draws - other.draws, confidence=params.confidence)
                found = {"a": cell.value, "b": other.value, "difference": cell.value - other.value} | span._asdict()
                differences.append(name.columns | {"control": control.regime} | counted | found)
    return Shortcuts(pd.DataFrame(rows), pd.DataFrame(differences, columns=DIFFERENCES))


def _collect(predictions: pd.DataFrame, metadata: pd.DataFrame) -> _Scores:
    probs = {}
    for name, _, test in iterate_means(predictions):
        probs[name] = test["probability"].to_numpy()
    numbered = set(COMPARED) <= set(metadata["control"])
    for control in COMPARED if numbered else UNNUMBERED:
        known = metadata[metadata["control"] == control].set_index("image_id")["probability"]
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


def _evaluate_blocks(scores: _Scores, params: Comparison) -> dict[tuple[str, str, SeriesName], _Cell]:
    """(block, metric, name) -> its score. Over strata, draws keep each block's images of each class."""
    cells: dict[tuple[str, str, SeriesName], _Cell] = {}
    for block, (member, strata) in _list_views(scores).items():
        targets, weights = scores.targets[member], None
        if min(targets.sum(), (1 - targets).sum()) >= FEWEST:
            kept = None if strata is None else scores.strata[WITHIN]
            weights = draw_weights(targets, draws=params.bootstrap_draws, seed=params.seed, strata=kept)
        for name, probs in scores.probs.items():
            found = _evaluate(targets, probs[member], strata, weights, params.confidence)
            cells |= {(block, metric, name): cell for metric, cell in found.items()}
    return cells


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
    spans = {metric: percentile_interval(drawn, confidence=confidence) for metric, drawn in draws.items()}
    if strata is None:
        spans["auc"] = delong_interval(targets, probs, confidence=confidence)
    return {metric: _Cell(value, spans[metric], draws[metric]) for metric, value in values.items()}
