"""What 01_eda computes from the prepared data: samples, duplicates, the metadata control, and what they mean."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lesion_utils.config.data import Data
from lesion_utils.core.errors import DataError
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
            "The International Skin Imaging Collaboration (ISIC) published these images for a challenge in 2016, "
            "divided into training and test images (Gutman et al., 2016, arXiv:1605.01397); there malignant means a "
            "melanoma, and benign is most often a mole, a *nevus*.",
            "The challenge publishes no patient numbers: which images are of one patient, nobody can tell.",
        ]
    table, said = data.table, ["The images and their labels are the study's own.", *data.manifest["notes"]]
    if "patient" not in table:
        return [
            *said,
            "The file of labels names no patients: images of one patient may lie on both sides of the split.",
        ]
    known = table["patient"][table["patient"] != ""]
    whose = f"Of {len(known)} of {len(table)} images the patient is known, {known.nunique()} in all"
    return [*said, f"{whose}: no patient has images on both sides of the split, nor in two folds."]


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
    groups = dict(list(predicted.groupby("control", sort=False)))
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
        "numbered": "id" in blind.probs,
        "control": blind.scores.to_dict("records"),
        "best_control": best.to_dict(),
    }
    return {**numbers, "text": _write_text(numbers)}


def _write_text(numbers: dict[str, Any]) -> str:
    """What the numbers mean, a paragraph each; a finding is stated only where there is one."""
    test, best = numbers["counts"]["test"], numbers["best_control"]
    auc, ap = (format_value(*(best[metric + end] for end in ENDS)) for metric in ("auc", "ap"))
    twice = (
        "**Some images stand twice.** {duplicate_pairs} pairs show the same photograph, {duplicate_pairs_across} of "
        "them across training and test, and in {contradicting_pairs} the labels disagree. Training images left out for "
        "it: {left_out}."
        if numbers["duplicate_pairs"]
        else "**No image was found twice.**"
    )
    clinic = (
        "**The clinic shows.** Any network's score has to be read against that"
        if best["auc_low"] > 0.5
        else "**What metadata give away cannot be told from luck.** A network's score is read against it all the same"
    )
    said = (
        f"**What accuracy is worth.** Calling all {test['benign']} + {test['malignant']} test images benign is right "
        f"in {numbers['always_benign_accuracy']:.1%} of them.",
        twice.format_map(numbers),
        f"**Labels move.** {numbers['label_changes']} images are known to carry another label today."
        if numbers["numbered"]
        else "**Labels move.** Whether any of these has been revised since, nothing here can tell.",
        f"{clinic}: knowing only {best['knows']}, a classifier reaches an AUC of {auc} and an average precision of "
        f"{ap} on the test images. Notebook 05 sets the networks against it"
        f"{', also within each block of image numbers' if numbers['numbered'] else ''}.",
        f"**What the test cannot say.** Its {test['malignant']} malignant images set how wide every interval is, and "
        "it says nothing about other clinics, cameras or skins than those that the images came from.",
    )
    return "\n\n".join(f"- {sentence}" for sentence in said)
