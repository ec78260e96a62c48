"""Whether a network learnt anything: its training loss against guessing; and what its single networks score."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import pandas as pd

from lesion_utils.core.names import COMBINATION
from lesion_utils.evaluation.metrics import average_precision, roc_auc

#: A network counts as trained if its final training loss is at least this share below guessing. A network that gives
#: every image the share of malignant training images reaches the loss of guessing, the entropy of the class prior.
LEARNT = 0.05

#: (model, regime): a row of the study's tables.
Run = tuple[str, str]


def measure_run(history: pd.DataFrame, predictions: pd.DataFrame, *, guess_loss: float) -> dict[str, float]:
    """How far one network's training came, and what the network scores by itself on the test images.

    Args:
        history: one row per epoch, with `loss`, the mean training loss.
        predictions: of this network alone, as `predictions.COLUMNS`.
        guess_loss: from `loss.guess_loss`.

    Returns:
        `training_loss` of the last epoch, `guess_loss`, `test_ap`, `test_auc`.
    """
    test = predictions[predictions["split"] == "test"]
    scores = test["target"].to_numpy(), test["probability"].to_numpy()
    return {
        "training_loss": float(history["loss"].iloc[-1]),
        "guess_loss": guess_loss,
        "test_ap": average_precision(*scores),
        "test_auc": roc_auc(*scores),
    }


def tabulate_training(runs: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per model and regime, from the records of its networks.

    Args:
        runs: each with `model`, `regime`, and the values of `measure_run`.

    Returns:
        `model`, `regime`, `networks` (how many), `training_loss` and `guess_loss` (means), `below_guessing` (the mean
        share by which the training loss is lower than guessing), `trained` (whether that is at least `LEARNT`), and of
        the single networks' test scores `ap_mean`, `ap_min`, `ap_max`, `auc_mean`, `auc_min`, `auc_max`.
    """
    table = pd.DataFrame(list(runs)).assign(below_guessing=lambda t: 1 - t["training_loss"] / t["guess_loss"])
    spread = {f"{m}_{end}": (f"test_{m}", end) for m in ("ap", "auc") for end in ("mean", "min", "max")}
    means = {name: (name, "mean") for name in ("training_loss", "guess_loss", "below_guessing")}
    rows = table.groupby(["model", "regime"], sort=False).agg(networks=("regime", "size"), **means, **spread)
    rows.insert(4, "trained", rows["below_guessing"] >= LEARNT)
    return rows.reset_index()


def mark_training(predictions: pd.DataFrame, training: pd.DataFrame, *, folds: int = 1) -> pd.DataFrame:
    """Predictions that know how many networks each row averages, and whether they are trained.

    From here on every table names its rows accordingly (`predictions.name_rows`), and validation's order, combinations
    and verdicts leave out what is not trained.

    Args:
        predictions: as `predictions.read_predictions` returns them, before `predictions.add_ensembles`.
        training: from `tabulate_training`, of all networks.
        folds: so many classical classifiers a row averages; they are always trained.

    Returns:
        with the columns `networks` (int) and `trained` (bool).
    """
    about = training.set_index(["model", "regime"])[["networks", "trained"]]
    table = predictions.join(about, on=["model", "regime"])
    counts = table["networks"].fillna(folds).astype(int)
    return table.assign(networks=counts, trained=table["trained"].fillna(True).astype(bool))


def list_untrained(table: pd.DataFrame) -> list[Run]:
    """The (model, regime) that are not trained, from `tabulate_training` or from marked predictions."""
    if "trained" not in table:
        return []
    rows = table[~table["trained"].astype(bool) & (table["model"] != COMBINATION)]
    return list(dict.fromkeys(rows[["model", "regime"]].itertuples(index=False, name=None)))


def drop_untrained(table: pd.DataFrame, untrained: Collection[Run]) -> pd.DataFrame:
    """The rows of any table with `model` and `regime` that are not of an untrained network."""
    return table[~pd.MultiIndex.from_frame(table[["model", "regime"]]).isin(list(untrained))] if untrained else table
