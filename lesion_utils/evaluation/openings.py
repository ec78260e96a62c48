"""The ledger of evaluations on the test set: when the test images were scored, by which networks, and what they gave.

A test set measures well once. Anyone who sees its scores and then changes a setting begins to tune on it; the ledger
shows how often that happened, and the level of the declared test is corrected for it. A run appends to
`reports/openings.csv`; `make publish` takes a study's lines over to `docs/openings.csv`, which is kept under version
control.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
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
#: `configuration` is a hash of all that the networks depend on, `settings` of all but the machine.
COLUMNS = [
    "date", "study", "model", "regime", "seeds", "folds", "configuration", "test_images", "malignant", "ap", "auc",
    "settings",
]  # fmt: skip
#: What tells one opening from another; the same configuration scores the same.
_KEY = ["study", "model", "regime", "configuration"]


def record_openings(
    study: str, predictions: pd.DataFrame, runs: Sequence[Mapping[str, Any]], *, now: datetime | None = None
) -> pd.DataFrame:
    """Append what was scored on the test images to the ledger of this machine, unless it has it already.

    Args:
        predictions: of one network, as `predictions.COLUMNS`.
        runs: the records of its trainings, as `train.NetworkResult.runs`.
        now: of the opening; the present by default.

    Returns:
        all openings of the study so far, see `list_openings`.
    """
    date = (now or datetime.now(UTC)).date().isoformat()
    test = add_ensembles(predictions[predictions["split"] == "test"])
    rows = []
    for (model, regime), own in test[test["seed"] == ENSEMBLE].groupby(["model", "regime"], sort=False):
        # a classical classifier learns the features of the frozen network: any change of a training is one of it too
        own_runs = [run for run in runs if run["regime"] == regime]
        settings = _hash(run["settings"] for run in own_runs) if own_runs else ""  # which leave a classifier's own out
        mine = own_runs or runs
        scores = own["target"].to_numpy(), own["probability"].to_numpy()
        rows.append({
            "date": date, "study": study, "model": model, "regime": regime,
            "seeds": test["seed"][(test["regime"] == regime) & (test["seed"] != ENSEMBLE)].nunique(),
            "folds": len({run.get("fold") for run in mine}),
            "configuration": _hash(run["folder"] for run in mine),
            "test_images": len(own), "malignant": int(own["target"].sum()),
            "ap": round(float(average_precision(*scores)), 4), "auc": round(float(roc_auc(*scores)), 4),
            "settings": settings,
        })  # fmt: skip
    append_openings(pd.DataFrame(rows, columns=COLUMNS), reports_root() / LEDGER)
    return list_openings(study)


def list_openings(study: str) -> pd.DataFrame:
    """Every known opening of a study's test images, published or made on this machine, the earliest first."""
    known = pd.concat([_read(folder / LEDGER) for folder in (docs_root(), reports_root())], ignore_index=True)
    return _order(known[known["study"] == study])


def number_evaluations(ledger: pd.DataFrame) -> pd.DataFrame:
    """The ledger of one study with the number of the evaluation that each line belongs to, from 1.

    A new evaluation begins when a network that the current one holds already comes with other scores, unless only the
    machine is another.

    Args:
        ledger: from `list_openings`.

    Returns:
        one row per evaluation, network, regime and scores: `evaluation`, `date`, `model`, `regime`, the columns
        `SCORES`, `malignant`, and `configuration`, all that gave these scores.
    """
    lines = _number_lines(ledger)
    keys = ["evaluation", "model", "regime", "result"]
    columns = ["date", *SCORES, "malignant"]
    groups = lines.groupby(keys, sort=False)
    rows = groups[columns].first().assign(configuration=groups["configuration"].agg(", ".join)).reset_index()
    rows = rows.sort_values("evaluation", kind="stable", ignore_index=True)
    return rows[["evaluation", "date", "model", "regime", *SCORES, "malignant", "configuration"]]


def _number_lines(ledger: pd.DataFrame) -> pd.DataFrame:
    """The ledger's lines with `evaluation` and `result`: a number of their scores within evaluation and network."""
    number, current = 1, set[tuple[str, str]]()
    results: dict[tuple[str, str], list[Any]] = {}  # lines of a network's latest evaluation that differ in scores
    numbers: list[tuple[int, int]] = []
    latest: dict[tuple[str, str], int] = {}
    for row in ledger.itertuples():
        run, known = (row.model, row.regime), results.get((row.model, row.regime), [])
        place = next((place for place, line in enumerate(known) if _same_scores(line, row)), len(known))
        if place == len(known):
            if not (row.settings and row.settings in {line.settings for line in known}):  # other than the machine
                if run in current:
                    number, current = number + 1, set()
                current.add(run)
                place, results[run], latest[run] = 0, [], number
            results[run].append(row)
        numbers.append((latest[run], place))
    return ledger.assign(**pd.DataFrame(numbers, columns=["evaluation", "result"], index=ledger.index))


def _same_scores(a: Any, b: Any) -> bool:
    return bool(_are_close(*([getattr(row, name) for name in SCORES] for row in (a, b))).all())


class Looks(NamedTuple):
    """How often the declared comparison was evaluated on the test set.

    Attributes:
        number: of the present evaluation, from 1.
        earlier: one row per earlier evaluation: `date`, and the scores `a` and `b` of the two networks in the metric
            of the declared comparison.
        machines: one row per other machine on which the present settings and code gave other scores: `a` and `b`.
        level: the significance level of the present one: the declared one divided by `number` (Bonferroni).
    """

    number: int
    earlier: pd.DataFrame
    machines: pd.DataFrame
    level: float


def count_looks(ledger: pd.DataFrame, predictions: pd.DataFrame, params: NamedComparison) -> Looks:
    """Count the evaluations of the two networks of the declared comparison, the present one included.

    Args:
        ledger: of the study, from `list_openings`; whether it has the present evaluation makes no difference.
        predictions: the present ones, from `predictions.add_ensembles`.
    """
    regime, metric = params.primary.regime, params.primary.metric
    compute = {"ap": average_precision, "auc": roc_auc}[metric]
    runs = [select_run(predictions, model=model, regime=regime) for model in params.pair]
    now = [round(float(compute(run["target"], run["probability"])), 4) if len(run) else np.nan for run in runs]
    chosen = ledger["model"].isin(params.pair) & (ledger["regime"] == regime)
    history: list[dict[str, Any]] = []  # first scores of the pair in each evaluation but the present one
    machines: list[tuple[float, float]] = []  # scores of the pair in the present one on other machines
    state: dict[str, pd.Series] = {}  # scores of each network in its latest evaluation, one per machine
    lines = _number_lines(ledger[chosen]).drop_duplicates(["evaluation", "model", "result"])
    for _, rows in lines.groupby("evaluation"):
        state |= dict(list(rows.groupby("model")[metric]))
        pair = [state.get(model, pd.Series(dtype=float)) for model in params.pair]
        if all(_are_close(known, value).any() for known, value in zip(pair, now, strict=True)):
            machines += [both for both in zip(*pair, strict=False) if not _are_close(both, now).all()]
        else:
            first = (known.iloc[0] if len(known) else None for known in pair)
            history.append({"date": rows["date"].iloc[0]} | dict(zip("ab", first, strict=True)))
    earlier = pd.DataFrame(history, columns=["date", "a", "b"])
    number = len(earlier) + 1
    return Looks(number, earlier, pd.DataFrame(machines, columns=["a", "b"]), params.primary.alpha / number)


def _are_close(scores: Any, others: Any) -> np.ndarray:
    return np.isclose(scores, others, rtol=0, atol=SAME)


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
    names = {"configuration": str, "settings": str}
    rows = read_csv(ledger, dtype=names) if ledger.is_file() else pd.DataFrame(columns=COLUMNS)
    known = rows["settings"].fillna("") if "settings" in rows else ""  # earlier versions did not write it
    return rows.assign(settings=known)[COLUMNS]


def _hash(names: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:12]


def _order(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.drop_duplicates(_KEY).sort_values("date", kind="stable", ignore_index=True)
