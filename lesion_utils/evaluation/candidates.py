"""Which of a study's rows to put forward, chosen without the test images: by validation, or by cross-validation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from lesion_utils.config.schema import NamedComparison
from lesion_utils.core.names import COMBINATION, REGIME_NAMES, name_series
from lesion_utils.evaluation.metrics import average_precision, roc_auc
from lesion_utils.evaluation.predictions import ENSEMBLE, find_missing, iterate_runs

#: How the regime of a classical classifier on frozen features begins.
CLASSICAL = "features:"


def find_classical(table: pd.DataFrame) -> pd.Series:
    """Which rows, of any table with `model` and `regime`, are of classical classifiers on frozen features."""
    return table["regime"].str.startswith(CLASSICAL) & (table["model"] != COMBINATION)


def rank_on_validation(predictions: pd.DataFrame) -> pd.DataFrame:
    """All rows of the study, seeds averaged, the highest average precision on the validation images first.

    A network's kept epoch was chosen on these images too, a classifier's settings were not, so the first are flattered
    a little; and validation sets are small. It is a choice that the test images had no part in, no more.

    Args:
        predictions: from `add_ensembles`.

    Returns:
        `name`, `model`, `regime`, `images`, `ap` and `auc` on the validation images; empty without any of these.
    """
    rows = [
        {
            "name": name_series(model, regime),
            "model": model,
            "regime": regime,
            "images": len(validation),
            "ap": average_precision(validation["target"], validation["probability"]),
            "auc": roc_auc(validation["target"], validation["probability"]),
        }
        for (model, regime, seed), validation, _ in iterate_runs(predictions)
        if seed == ENSEMBLE and not validation.empty
    ]
    table = pd.DataFrame(rows, columns=["name", "model", "regime", "images", "ap", "auc"])
    return table.sort_values("ap", ascending=False, kind="stable", ignore_index=True)


def list_spoken(table: pd.DataFrame, params: NamedComparison) -> list[tuple[str, str]]:
    """The rows that the prose speaks of, as (model, regime): of each network the declared regime, and the best taught.

    The declared regime is that of the primary comparison; where no network has it, the most pretrained that any has.

    Args:
        table: with `model` and `regime`: predictions or results.
        params: `primary.regime` and the two models are used.
    """
    trained = table[["model", "regime"]].drop_duplicates()
    trained = trained[trained["model"].isin(params.pair) & trained["regime"].isin(REGIME_NAMES)]
    by_teaching = sorted(set(trained["regime"]), key=list(REGIME_NAMES).index)
    declared = params.primary.regime if params.primary.regime in by_teaching else by_teaching[-1]
    spoken = []
    for model in params.pair:
        own = [regime for regime in by_teaching if regime in set(trained.loc[trained["model"] == model, "regime"])]
        spoken += [(model, regime) for regime in own if regime in (declared, own[-1])]
    return spoken


def read_choices(folder: Path, models: Mapping[str, str]) -> pd.DataFrame:
    """What cross-validation inside the training images said of each classical classifier, where the notebooks saved it.

    Args:
        folder: the report's `metrics/`, with `<number>_<file>_finetune_choices.csv`.
        models: file of each network -> the `model` of its rows.

    Returns:
        `model`, `regime` and `cv_ap`; empty where nothing is saved.
    """
    parts = [pd.DataFrame(columns=["model", "regime", "cv_ap"])]
    for path in sorted(folder.glob("*_finetune_choices.csv")):
        table = pd.read_csv(path)
        if len(table):
            named = {"model": models[path.name.split("_")[1]], "regime": CLASSICAL + table["classifier"]}
            parts.append(table.assign(**named)[["model", "regime", "cv_ap"]])
    return pd.concat(parts[1:] or parts, ignore_index=True)


def pick_classifiers(validation: pd.DataFrame, choices: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Each network's best classical classifier, by cross-validation or, where that is not saved, by validation.

    Args:
        validation: from `rank_on_validation`.
        choices: from `read_choices`.

    Returns:
        (model, regime) -> how it was chosen, such as "best of 7 by cross-validation".
    """
    rows = validation[find_classical(validation)].merge(choices, on=["model", "regime"], how="left")
    picked = {}
    for model, part in rows.groupby("model", sort=False):
        complete = part["cv_ap"].notna().all()
        best = part.loc[part["cv_ap" if complete else "ap"].astype(float).idxmax()]
        how = "cross-validation" if complete else "validation"
        picked[model, best["regime"]] = f"best of {len(part)} by {how}"
    return picked


def describe_left_out(predictions: pd.DataFrame, params: NamedComparison) -> list[str]:
    """A sentence for each combination that lacks a member."""
    missing = find_missing(predictions, params.averages)
    return [
        f"The combination \u201c{name}\u201d is left out: there are no scores of "
        f"{' and of '.join(name_series(*member) for member in members)}."
        for name, members in missing.items()
    ]
