"""Which of a study's rows to put forward, chosen without the test images."""

from __future__ import annotations

import pandas as pd

from lesion_utils.config.schema import NamedComparison, StudyParams
from lesion_utils.core.names import COMBINATION, REGIME_NAMES, name_model, name_series
from lesion_utils.evaluation.metrics import average_precision, roc_auc
from lesion_utils.evaluation.predictions import ENSEMBLE, find_missing, iterate_runs

#: How the regime of a classical classifier on frozen features begins.
CLASSICAL = "features:"


def find_classical(table: pd.DataFrame) -> pd.Series:
    """Which rows, of any table with `model` and `regime`, are of classical classifiers on frozen features."""
    return table["regime"].str.startswith(CLASSICAL) & (table["model"] != COMBINATION)


def rank_on_validation(predictions: pd.DataFrame) -> pd.DataFrame:
    """All rows of the study, seeds averaged, the highest average precision on the validation images first.

    With several folds these are all training images, each scored by what has not learnt from it.

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


def state_validation(order: pd.DataFrame, subsets: pd.Series, params: StudyParams) -> str:
    """On what the rows are ordered, and whether that compares like with like.

    Args:
        order: from `rank_on_validation`.
        subsets: train, val, test or left_out of each image.
        params: folds, and which epoch each network keeps.
    """
    if order.empty:
        return "Without validation images nothing orders the rows."
    count, folds = order["images"].iloc[0], params.data.folds
    said = (
        f"Each of the {count} training images is scored by networks and classifiers that learnt from the other parts "
        f"of {folds}, the same parts for both. A test image has the mean of all {folds}, so a threshold or a line of "
        "log odds that was fitted to single scores suits it only roughly."
        if folds > 1
        else f"Networks and classifiers learnt from the same {(subsets == 'train').sum()} images and are ordered on "
        f"{count} others."
    )
    choosing = [name_model(model) for slot, model in params.models.items() if getattr(params, slot).keep == "best"]
    if choosing:
        said += (
            f" {' and '.join(choosing)} kept the epoch that scored best on them, which flatters a little."
        )
    return said


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


def pick_classifiers(validation: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Each network's best classical classifier on the validation images.

    Args:
        validation: from `rank_on_validation`, the best first.

    Returns:
        (model, regime) -> how it was chosen, such as "best of 7 by validation".
    """
    rows = validation[find_classical(validation)]
    return {
        (model, part["regime"].iloc[0]): f"best of {len(part)} by validation"
        for model, part in rows.groupby("model", sort=False)
    }


def describe_left_out(predictions: pd.DataFrame, params: NamedComparison) -> list[str]:
    """A sentence for each combination that lacks a member."""
    missing = find_missing(predictions, params.averages)
    return [
        f"The combination \u201c{name}\u201d is left out: there are no scores of "
        f"{' and of '.join(name_series(*member) for member in members)}."
        for name, members in missing.items()
    ]
