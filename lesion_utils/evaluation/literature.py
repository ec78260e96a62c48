"""What others report on this task, with its source, and whether the figures can be true.

`published_results.csv` holds facts with citations. `certainty` says how each was had: "read" in the source, "computed"
from what the source gives, or "secondary", taken from another work and to be marked so wherever it is printed.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

#: Half a unit of the third decimal, the last that the published rows give, and room for rounding the other way.
TOLERANCE = 0.0005 + 1e-9

#: The columns that one confusion matrix determines.
CONFUSION_SCORES = ("accuracy", "sensitivity", "specificity", "precision")

#: Readers' averages come from many confusion matrices.
AVERAGED = ("Eight dermatologists",)

SECONDARY_MARK = "secondary source"
#: What is printed beside a figure for its certainty; one that was read in the source needs no mark.
MARKS = {"read": "", "computed": "recomputed", "secondary": SECONDARY_MARK}


class Counts(NamedTuple):
    """A confusion matrix that explains a row: malignant and benign images called rightly."""

    tp: int
    tn: int


def read_published() -> pd.DataFrame:
    """The published rows.

    Returns:
        columns `work`, `year`, `method`, `regime` (of Lopez et al., else empty), the scores (NaN where not given),
        `malignant`, `benign` (test images), `comparable` (bool: on the official 379), `why_not`, `certainty`,
        `citation`, `note`.
    """
    text = dict.fromkeys(("work", "method", "regime", "comparable", "certainty", "citation", "note"), str)
    table = pd.read_csv(Path(__file__).with_name("published_results.csv"), dtype=text).fillna(dict.fromkeys(text, ""))
    why_not = table["comparable"].str.removeprefix("no: ").where(table["comparable"] != "yes", "")
    return table.assign(comparable=table["comparable"] == "yes", why_not=why_not)


def find_confusions(scores: pd.Series | dict[str, float], *, malignant: int, benign: int) -> list[Counts]:
    """Every confusion matrix that gives the rounded scores, by trying them all.

    Args:
        scores: any of `CONFUSION_SCORES`, to three decimals; NaN and absent ones are not asked for.
        malignant: malignant test images.
        benign: benign test images.

    Returns:
        all (tp, tn) that fit; none means that the scores contradict each other or the test set.
    """
    tp, tn = np.meshgrid(np.arange(malignant + 1), np.arange(benign + 1), indexing="ij")
    called = tp + benign - tn
    implied = {
        "accuracy": (tp + tn) / (malignant + benign),
        "sensitivity": tp / malignant,
        "specificity": tn / benign,
        "precision": np.divide(tp, called, out=np.full(tp.shape, np.nan), where=called > 0),
    }
    fits = np.ones(tp.shape, dtype=bool)
    for name in CONFUSION_SCORES:
        if name in scores and not pd.isna(scores[name]):
            fits &= np.abs(implied[name] - scores[name]) <= TOLERANCE
    return [Counts(int(a), int(b)) for a, b in zip(tp[fits], tn[fits], strict=True)]


def check_published(table: pd.DataFrame) -> pd.DataFrame:
    """Which published rows can come from one confusion matrix on their test set.

    Two scores or more are needed for a check; one alone nearly always fits.

    Returns:
        the rows' `work` with `scores` (how many could be checked), `matrices` (how many fit), `tp`, `tn` (NaN unless
        exactly one fits), `verdict`: "consistent", "contradictory" or "not checkable", and the row's `note`.
    """
    rows = []
    for _, row in table.iterrows():
        given = int(row[list(CONFUSION_SCORES)].notna().sum())
        checkable = given >= 2 and row["work"] not in AVERAGED
        found = find_confusions(row, malignant=row["malignant"], benign=row["benign"]) if checkable else []
        only = found[0] if len(found) == 1 else Counts(np.nan, np.nan)
        verdict = "not checkable" if not checkable else "consistent" if found else "contradictory"
        rows.append((row["work"], given, len(found), only.tp, only.tn, verdict, row["note"]))
    return pd.DataFrame(rows, columns=["work", "scores", "matrices", "tp", "tn", "verdict", "note"])
