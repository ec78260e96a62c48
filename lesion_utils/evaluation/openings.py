"""The ledger of evaluations on the test set: when the test images were scored, by which networks, and what they gave.

A test set measures well once. Anyone who sees its scores and then changes a setting begins to tune on it; the ledger
shows how often that happened, and the level of the declared test is corrected for it. A run appends to
`reports/openings.csv`; `make publish` takes a study's lines over to `docs/openings.csv`, which is kept under version
control.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lesion_utils.config.schema import NamedComparison
from lesion_utils.core.files import write_if_changed
from lesion_utils.core.paths import docs_root, reports_root
from lesion_utils.data.tables import dump_csv, read_csv
from lesion_utils.evaluation.metrics import average_precision, roc_auc
from lesion_utils.evaluation.predictions import ENSEMBLE, add_ensembles, select_run

LEDGER = "openings.csv"
#: What tells one evaluation from another.
SCORES = ["seeds", "folds", "test_images", "ap", "auc"]
#: AP and AUC that differ by no more are the same: renamed code gives equal scores, another processor nearly equal ones.
SAME = 0.0005
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


def number_evaluations(ledger: pd.DataFrame) -> pd.DataFrame:
    """The ledger of one study with the number of the evaluation that each line belongs to, from 1.

    A new evaluation begins when a network that the current one holds already comes with other scores.

    Args:
        ledger: from `list_openings`.

    Returns:
        one row per evaluation, network and regime: `evaluation`, `date`, `model`, `regime`, the columns `SCORES`,
        `malignant`, and `configuration`, all that gave these scores.
    """
    number, numbers = 1, list[int]()
    current: set[tuple[str, str]] = set()
    last: dict[tuple[str, str], tuple[Any, int]] = {}
    for row in ledger.itertuples():
        run, scores = (row.model, row.regime), tuple(getattr(row, name) for name in SCORES)
        if run not in last or not np.allclose(scores, last[run][0], rtol=0, atol=SAME):
            if run in current:
                number, current = number + 1, set()
            current.add(run)
            last[run] = scores, number
        numbers.append(last[run][1])
    keys = ["evaluation", "model", "regime"]
    columns = ["date", *SCORES, "malignant"]
    groups = ledger.assign(evaluation=numbers).groupby(keys, sort=False)
    rows = groups[columns].first().assign(configuration=groups["configuration"].agg(", ".join)).reset_index()
    rows = rows.sort_values("evaluation", kind="stable", ignore_index=True)
    return rows[["evaluation", "date", "model", "regime", *SCORES, "malignant", "configuration"]]


class Looks(NamedTuple):
    """How often the declared comparison was evaluated on the test set.

    Attributes:
        number: of the present evaluation, from 1.
        earlier: one row per earlier evaluation: `date`, and the scores `a` and `b` of the two networks in the metric
            of the declared comparison.
        level: the significance level of the present one: the declared one divided by `number` (Bonferroni).
    """

    number: int
    earlier: pd.DataFrame
    level: float


def count_looks(ledger: pd.DataFrame, predictions: pd.DataFrame, params: NamedComparison) -> Looks:
    """Count the evaluations of the two networks of the declared comparison, the present one included.

    Args:
        ledger: of the study, from `list_openings`; whether it has the present evaluation makes no difference.
        predictions: the present ones, from `predictions.add_ensembles`.
    """
    regime, metric = params.primary.regime, params.primary.metric
    chosen = ledger["model"].isin(params.pair) & (ledger["regime"] == regime)
    history: list[dict[str, Any]] = []  # scores of the pair after each evaluation
    state: dict[str, Any] = {}
    for _, rows in number_evaluations(ledger[chosen]).groupby("evaluation"):
        state |= {row.model: getattr(row, metric) for row in rows.itertuples()}
        history.append({"date": rows["date"].iloc[0]} | dict(zip("ab", map(state.get, params.pair), strict=True)))
    earlier = pd.DataFrame(history, columns=["date", "a", "b"])
    runs = (select_run(predictions, model=model, regime=regime) for model in params.pair)
    compute = {"ap": average_precision, "auc": roc_auc}[metric]
    now = [round(float(compute(run["target"], run["probability"])), 4) if len(run) else None for run in runs]
    present = np.isclose(earlier[["a", "b"]].astype(float), np.array(now, float), rtol=0, atol=SAME).all(axis=1)
    earlier = earlier[~present].reset_index(drop=True)
    number = len(earlier) + 1
    return Looks(number, earlier, params.primary.alpha / number)


def publish_openings(study: str) -> Path:
    """Take a study's openings over to the ledger that is kept; returns it."""
    return append_openings(list_openings(study), docs_root() / LEDGER)


def append_openings(rows: pd.DataFrame, ledger: Path) -> Path:
    """Add the lines that a ledger does not have; those that it has stay as they are; none is begun for nothing."""
    if rows.empty:
        return ledger
    together = _order(pd.concat([_read(ledger), rows], ignore_index=True))
    write_if_changed(ledger, dump_csv(together))
    return ledger


def _read(ledger: Path) -> pd.DataFrame:
    return read_csv(ledger, dtype={"configuration": str}) if ledger.is_file() else pd.DataFrame(columns=COLUMNS)


def _order(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.drop_duplicates(_KEY).sort_values("date", kind="stable", ignore_index=True)
