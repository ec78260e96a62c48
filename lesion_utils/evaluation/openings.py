"""The ledger of test openings: when the test images were scored, with which networks, and what came out.

A test set measures well once. Whoever sees its scores and then changes a setting has begun to tune on it, and the
ledger is how a reader can tell. A run appends to `reports/openings.csv`; `make publish` takes a study's lines over to
`docs/openings.csv`, which is kept under version control.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from lesion_utils.core.files import write_if_changed
from lesion_utils.core.paths import docs_root, reports_root
from lesion_utils.evaluation.metrics import average_precision, roc_auc
from lesion_utils.evaluation.predictions import ENSEMBLE, add_ensembles

LEDGER = "openings.csv"
COLUMNS = [
    "date", "study", "model", "regime", "seeds", "folds", "configuration", "test_images", "malignant", "ap", "auc",
]  # fmt: skip
#: What tells one opening from another; the same configuration scores the same.
_KEY = ["study", "model", "regime", "configuration"]


def record_openings(
    study: str, predictions: pd.DataFrame, runs: Sequence[Mapping[str, Any]], *, now: datetime | None = None
) -> pd.DataFrame:
    """Append what was scored on the test images to the ledger of this machine, unless it stands there already.

    Args:
        predictions: of one network, as `predictions.COLUMNS`.
        runs: the records of its trainings, with `regime`, `seed` and `folder` (which names everything they depend on).
        now: of the opening; the present by default.

    Returns:
        all openings of the study so far, see `list_openings`.
    """
    date = (now or datetime.now(UTC)).date().isoformat()
    test = add_ensembles(predictions[predictions["split"] == "test"])
    rows = []
    for (model, regime), own in test[test["seed"] == ENSEMBLE].groupby(["model", "regime"], sort=False):
        # a classical classifier learns the features of the frozen network: any change of a training is one of it too
        mine = [run for run in runs if run["regime"] == regime] or runs
        names = "\n".join(sorted(run["folder"] for run in mine))
        scores = own["target"].to_numpy(), own["probability"].to_numpy()
        rows.append({
            "date": date, "study": study, "model": model, "regime": regime,
            "seeds": test["seed"][(test["regime"] == regime) & (test["seed"] != ENSEMBLE)].nunique(),
            "folds": len({run.get("fold") for run in mine}),
            "configuration": hashlib.sha256(names.encode()).hexdigest()[:12],
            "test_images": len(own), "malignant": int(own["target"].sum()),
            "ap": round(float(average_precision(*scores)), 4), "auc": round(float(roc_auc(*scores)), 4),
        })  # fmt: skip
    append_openings(pd.DataFrame(rows, columns=COLUMNS), reports_root() / LEDGER)
    return list_openings(study)


def list_openings(study: str) -> pd.DataFrame:
    """Every known opening of a study's test images, published or made on this machine, the earliest first."""
    known = pd.concat([_read(folder / LEDGER) for folder in (docs_root(), reports_root())], ignore_index=True)
    return _order(known[known["study"] == study])


def publish_openings(study: str) -> Path:
    """Take a study's openings over to the ledger that is kept; returns it."""
    return append_openings(list_openings(study), docs_root() / LEDGER)


def append_openings(rows: pd.DataFrame, ledger: Path) -> Path:
    """Add the lines that a ledger does not have; those that it has stay as they are; none is begun for nothing."""
    if rows.empty:
        return ledger
    together = _order(pd.concat([_read(ledger), rows], ignore_index=True))
    write_if_changed(ledger, together.to_csv(index=False, lineterminator="\n"))
    return ledger


def _read(ledger: Path) -> pd.DataFrame:
    return pd.read_csv(ledger, dtype={"configuration": str}) if ledger.is_file() else pd.DataFrame(columns=COLUMNS)


def _order(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.drop_duplicates(_KEY).sort_values("date", kind="stable", ignore_index=True)
