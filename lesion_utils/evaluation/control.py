"""The metadata control: how well the challenge is solved without looking at a pixel.

Ids follow the clinic that contributed an image, sizes follow its camera, and the share of melanomas follows the
clinic. A classifier that knows nothing else is the floor that a network must beat before its score says anything
about skin.
"""

from __future__ import annotations

import pandas as pd
from scipy.stats import binomtest
from sklearn.ensemble import GradientBoostingClassifier

#: What each control knows.
CONTROLS = {
    "id": ["number"],
    "size": ["native_width", "native_height"],
    "size and bytes": ["native_width", "native_height", "native_bytes"],
    "id, size and bytes": ["number", "native_width", "native_height", "native_bytes"],
}
#: Ids from here on begin a block of their own; between the blocks lie gaps, other cameras and other prevalences.
BLOCKS = {0: "0000000 to 0000999", 1000: "0001000 to 0009859", 9860: "0009860 to 0011402"}


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
        confidence: coverage of the intervals, such as 0.95.

    Returns:
        one row per block and split, in order: `block`, `split`, `images`, `malignant` (counts), `prevalence` and its
        Wilson interval, `low` and `high`, all in [0, 1].
    """
    grouped = images.groupby([images["image_id"].map(id_block).rename("block"), "split"])["target"]
    counts = grouped.agg(images="size", malignant="sum", prevalence="mean").reset_index()
    intervals = [
        binomtest(int(row.malignant), int(row.images)).proportion_ci(confidence, method="wilson")
        for row in counts.itertuples()
    ]
    counts = counts.assign(low=[i.low for i in intervals], high=[i.high for i in intervals])
    return counts.sort_values(["block", "split"], ascending=[True, False], ignore_index=True)
