"""What 01_eda computes from the prepared data: samples, duplicates, the metadata control, and what they mean."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lesion_utils.config.data import Data
from lesion_utils.core.errors import DataError
from lesion_utils.core.markup import escape_markdown
from lesion_utils.data.images import ImageError, content_box, decode_square
from lesion_utils.data.prepared import PreparedData
from lesion_utils.evaluation import shortcuts
from lesion_utils.evaluation.evaluate import look_at
from lesion_utils.evaluation.intervals import ENDS, format_value

#: Side of a photograph on a page, px; the embedded ones have no more.
SHOWN = 256

#: Columns of the images' table that the colour figure shows, with their axes' labels.
COLOUR_STATISTICS = {
    "red_mean": "mean of red",
    "green_mean": "mean of green",
    "blue_mean": "mean of blue",
    "red_std": "spread of red",
    "blue_std": "spread of blue",
    "corner_mean": "mean of the corners",
}


class BlindScores(NamedTuple):
    """Classifiers that see no pixel, on the test images."""

    targets: np.ndarray  # (N,) int
    probs: dict[str, np.ndarray]  # what it knows -> (N,) float in [0, 1]
    scores: pd.DataFrame  # knows, ap, ap_low, ap_high, auc, auc_low, auc_high
    summaries: dict[str, str]  # what it knows -> "AUC 0.77 (0.71 to 0.83)"
    predicted: pd.DataFrame  # as `shortcuts.predict_from_metadata` returns it


def read_photographs(data: PreparedData, image_ids: Iterable[str]) -> np.ndarray:
    """Photographs in their own shape, each on a white square: (N, SHOWN, SHOWN, 3) uint8, decoded from their files.

    Raises:
        DataError: a file has gone since the data were prepared.
    """
    rows = data.table.iloc[data.rows_of(image_ids)]
    squares = np.full((len(rows), SHOWN, SHOWN, 3), 255, np.uint8)
    for square, row in zip(squares, rows.itertuples(), strict=True):
        place = content_box(row.width, row.height, size=SHOWN, aspect="pad")
        try:
            square[place] = decode_square(row.path, size=SHOWN, aspect="pad")[place]
        except ImageError as error:
            do = "put it back, or name the folder that has it: DATA_DIR=..."
            raise DataError(str(error), where=row.path, expected="the file that was prepared", do=do) from error
    return squares


def use_native_sizes(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the sizes that the cameras gave, where the files are resized copies."""
    return table.assign(width=table["native_width"], height=table["native_height"])


def describe_source(data: PreparedData, params: Data) -> list[str]:
    """Where the images come from, who divided them, and whether patients are known, in sentences."""
    if params.is_challenge:
        return [
            "The International Skin Imaging Collaboration (ISIC) published these images for a challenge in 2016, with "
            "a fixed split into training and test images (Gutman et al., 2016, arXiv:1605.01397). *Malignant* means "
            "melanoma. *Benign* lesions are mostly moles (*nevi*).",
            "The challenge publishes no patient numbers. It is not known which images show the same patient.",
        ]
    table, said = (
        data.table,
        ["The images and labels are the study's own.", *map(escape_markdown, data.manifest["notes"])],
    )
    if "patient" not in table:
        return [
            *said,
            "The labels name no patients, so images of one patient may be in both the training and the test set.",
        ]
    known = table["patient"][table["patient"] != ""]
    whose = f"The patient is known for {len(known)} of {len(table)} images ({known.nunique()} patients)"
    return [*said, f"{whose}. All images of a patient stay in one split and in one fold."]


def describe_duplicates(duplicates: pd.DataFrame) -> pd.DataFrame:
    """The pairs with what each means for the study."""
    across = duplicates["split_a"] != duplicates["split_b"]
    disagree = duplicates["target_a"] != duplicates["target_b"]
    meaning = np.select(
        [across, disagree], ["training image left out", "the labels contradict each other"], "kept together"
    )
    return duplicates.assign(consequence=meaning)


def score_controls(table: pd.DataFrame, *, numbered: bool = True) -> BlindScores:
    """Train classifiers on metadata alone, and score the test images; `numbered` as in `evaluation`."""
    predicted = shortcuts.predict_from_metadata(table, numbered=numbered)
    groups = dict(list(predicted[predicted["split"] == "test"].groupby("control", sort=False)))
    targets = next(iter(groups.values()))["target"].to_numpy()
    probs = {knows: group["probability"].to_numpy() for knows, group in groups.items()}
    looks = {knows: look_at(targets, scores) for knows, scores in probs.items()}
    rows = [{"knows": knows, **look.flatten("ap", "auc")} for knows, look in looks.items()]
    summaries = {knows: look.write("auc") for knows, look in looks.items()}
    return BlindScores(targets, probs, pd.DataFrame(rows), summaries, predicted)


def summarise_data(data: PreparedData, blind: BlindScores) -> dict[str, Any]:
    """The numbers of the exploration, and the sentences that they make (`text`)."""
    table, pairs = data.table, data.duplicates
    counts = pd.crosstab(table["split"], table["target"])
    best = blind.scores.loc[blind.scores["auc"].idxmax()]
    numbers = {
        "counts": {split: {"benign": int(row[0]), "malignant": int(row[1])} for split, row in counts.iterrows()},
        "subsets": data.manifest["subsets"],
        "always_benign_accuracy": counts.loc["test", 0] / counts.loc["test"].sum(),
        "duplicate_pairs": len(pairs),
        "duplicate_pairs_across": int((pairs["split_a"] != pairs["split_b"]).sum()),
        "contradicting_pairs": int((pairs["target_a"] != pairs["target_b"]).sum()),
        "left_out": int((table["subset"] == "left_out").sum()),
        "label_changes": len(data.label_changes),
        "numbered": "archive order" in blind.probs,
        "control": blind.scores.to_dict("records"),
        "best_control": best.to_dict(),
    }
    return {**numbers, "text": _write_text(numbers)}


def _write_text(numbers: dict[str, Any]) -> str:
    """What the numbers mean, a paragraph each; a finding is stated only where there is one."""
    test, best = numbers["counts"]["test"], numbers["best_control"]
    auc, ap = (format_value(*(best[metric + end] for end in ENDS)) for metric in ("auc", "ap"))
    twice = (
        "**Duplicates.** {duplicate_pairs} pairs show the same photograph. {duplicate_pairs_across} pairs consist of a "
        "training and a test image. In {contradicting_pairs} pairs the labels differ. {left_out} training images were "
        "removed for this reason."
        if numbers["duplicate_pairs"]
        else "**Duplicates.** No duplicate was found."
    )
    shortcut = (
        "This is better than guessing, so the metadata reveal something about the diagnosis"
        if best["auc_low"] > 0.5
        else "The interval includes guessing (0.5)"
    )
    said = (
        f"**Accuracy.** Predicting benign for all {test['benign'] + test['malignant']} test images is "
        f"{numbers['always_benign_accuracy']:.1%} accurate.",
        twice.format_map(numbers),
        *(
            [f"**Revised labels.** {numbers['label_changes']} images have another label today than in 2016."]
            if numbers["numbered"]
            else []
        ),
        f"**Shortcuts.** The best metadata-only baseline ({best['knows']}) has an AUC of {auc} and an average "
        f"precision of {ap} on the test images. {shortcut}. Notebook 05 compares the networks with this baseline.",
        f"**Size of the test set.** It has {test['malignant']} malignant images, which limits the precision of every "
        "score. It shows nothing about other clinics, cameras or skin types.",
    )
    return "\n\n".join(f"- {sentence}" for sentence in said)
