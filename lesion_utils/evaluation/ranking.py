"""Which model cross-validation selects, and which network is better by the one declared test."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pandas as pd

from lesion_utils.config.schema import NamedComparison
from lesion_utils.core.names import COMBINATION, REGIME_NAMES, REGIMES, join_words, name_model
from lesion_utils.evaluation.intervals import draw_weights
from lesion_utils.evaluation.metrics import average_precision, roc_auc
from lesion_utils.evaluation.paired_tests import (
    PairedTest,
    compare_bootstrap,
    compare_delong,
    compare_mcnemar,
    detectable_difference,
)
from lesion_utils.evaluation.predictions import ENSEMBLE, iterate_means, select_run
from lesion_utils.evaluation.trained import drop_untrained, list_untrained

#: How the regime of a classical classifier on frozen features begins.
CLASSICAL = "features:"

#: The test that speaks for each metric; the others stand beside it.
TEST_OF_RECORD = {"auc": "DeLong", "ap": "paired bootstrap", "accuracy": "McNemar, exact"}


def find_classical(table: pd.DataFrame) -> pd.Series:
    """Which rows, of any table with `model` and `regime`, are of classical classifiers on frozen features."""
    return table["regime"].str.startswith(CLASSICAL) & (table["model"] != COMBINATION)


def rank_on_validation(predictions: pd.DataFrame) -> pd.DataFrame:
    """All rows of the study, the highest average precision on the validation images first.

    With several folds these are all training images, each scored by what has not learnt from it. What is not trained
    (`trained.mark_training`) is not ranked.

    Returns:
        `name`, `model`, `regime`, `images`, `ap` and `auc` on the validation images; empty without any of these.
    """
    rows = [
        name.columns
        | {
            "images": len(validation),
            "ap": average_precision(validation["target"], validation["probability"]),
            "auc": roc_auc(validation["target"], validation["probability"]),
        }
        for name, validation, _ in iterate_means(drop_untrained(predictions, list_untrained(predictions)))
        if not validation.empty
    ]
    table = pd.DataFrame(rows, columns=["name", "model", "regime", "images", "ap", "auc"])
    return table.sort_values("ap", ascending=False, kind="stable", ignore_index=True)


def list_spoken(table: pd.DataFrame, params: NamedComparison) -> list[tuple[str, str]]:
    """The rows that the prose speaks of, as (model, regime): of each network the declared regime, and the best taught.

    The declared regime is that of the primary comparison; where no network has it, the most pretrained that any has.
    The table may be of predictions or of results.
    """
    trained = set(table[["model", "regime"]].itertuples(index=False, name=None))
    own = {model: [regime for regime in REGIMES if (model, regime) in trained] for model in params.models.values()}
    everywhere = [regime for regime in REGIMES if any(regime in regimes for regimes in own.values())]
    declared = params.primary.regime if params.primary.regime in everywhere else everywhere[-1]
    return [
        (model, regime) for model, regimes in own.items() for regime in regimes if regime in (declared, regimes[-1])
    ]


def pick_classifiers(order: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Each network's best classical classifier on the validation images.

    Returns:
        (model, regime) -> how it was chosen, such as "best of 7 by validation".
    """
    rows = order[find_classical(order)]
    return {
        (model, part["regime"].iloc[0]): f"best of {len(part)} by validation"
        for model, part in rows.groupby("model", sort=False)
    }


def compare_networks(predictions: pd.DataFrame, params: NamedComparison) -> pd.DataFrame:
    """All paired tests between two networks, regime by regime, on their mean probabilities over seeds.

    Only the row `primary` is a test in the strict sense; the p-values of the rest are not adjusted for their number.
    A pair with a network that is not trained is never primary: its difference says nothing about the architectures.

    Returns:
        one row per regime, pair of networks (the declared pair first) and test: `regime`, `name`, `images`, `declared`
        (bool: the declared pair in the declared regime), `seeds_a`, `seeds_b` (over how many each is a mean),
        `trained` (bool: both are), `test`, `metric`, `a`, `b` (the two networks), `difference`, `low`, `high`,
        `error`, `p`, `of_record` (bool: the test that speaks for its metric), `primary` (bool). Empty when no two
        networks share a regime.
    """
    rows, untrained = [], set(list_untrained(predictions))
    for regime, pair in product(REGIMES, _list_pairs(params)):
        first, second = (select_run(predictions, model=model, regime=regime) for model in pair)
        if first.empty or second.empty:
            continue
        tests = _run_tests(first["target"], first["probability"], second["probability"], params)
        name = f"{' − '.join(map(name_model, pair))}, {REGIME_NAMES[regime]}"
        declared = (pair, regime) == (params.pair, params.primary.regime)
        seeds = (_count_seeds(predictions, model, regime) for model in pair)
        about = (len(first), declared, *seeds)
        idle = [name_model(model) for model in pair if (model, regime) in untrained]
        name += f" (not trained: {join_words(idle)})" if idle else ""
        rows += [(regime, name, *about, not idle, *test) for test in tests]
    columns = ["regime", "name", "images", "declared", "seeds_a", "seeds_b", "trained"]
    table = pd.DataFrame(rows, columns=[*columns, *PairedTest._fields])
    of_record = table["test"] == table["metric"].map(TEST_OF_RECORD)
    primary = of_record & table["declared"].astype(bool) & (table["metric"] == params.primary.metric)
    return table.assign(of_record=of_record, primary=primary & table["trained"].astype(bool))


def _count_seeds(predictions: pd.DataFrame, model: str, regime: str) -> int:
    own = (predictions["model"] == model) & (predictions["regime"] == regime) & (predictions["seed"] != ENSEMBLE)
    return predictions.loc[own, "seed"].nunique()


def _list_pairs(params: NamedComparison) -> list[tuple[str, str]]:
    """Every two networks, in the order of their files; the declared pair first, in its own order."""
    others = [pair for pair in combinations(params.models.values(), 2) if set(pair) != set(params.pair)]
    return [params.pair, *others]


def _run_tests(targets: pd.Series, a: pd.Series, b: pd.Series, params: NamedComparison) -> list[PairedTest]:
    weights, confidence = draw_weights(targets, draws=params.bootstrap_draws, seed=params.seed), params.confidence
    return [
        compare_delong(targets, a, b, confidence=confidence),
        compare_bootstrap(targets, a, b, metric="auc", weights=weights, confidence=confidence),
        compare_bootstrap(targets, a, b, metric="ap", weights=weights, confidence=confidence),
        compare_mcnemar(targets, a, b),
    ]


def tabulate_detectable(predictions: pd.DataFrame, params: NamedComparison) -> pd.DataFrame:
    """The smallest AUC difference that DeLong's test can detect, for every two networks or combinations.

    It depends on the pair: similar models rank the images alike, so that their difference has a small standard error.
    What is not trained, and classical classifiers, are left out.

    Returns:
        one row per pair, the easiest first: `a`, `b` (names), `difference`, `low`, `high`, `error`, `detectable` (at
        the level and the power of `params`).
    """
    kept = drop_untrained(predictions[~find_classical(predictions)], list_untrained(predictions))
    rows = []
    for (first, _, a), (second, _, b) in combinations(iterate_means(kept), 2):
        found = compare_delong(a["target"], a["probability"], b["probability"], confidence=params.confidence)
        smallest = detectable_difference(found.error, alpha=params.primary.alpha, power=params.power)
        span = {"difference": found.difference, "low": found.low, "high": found.high, "error": found.error}
        rows.append({"a": first, "b": second} | span | {"detectable": smallest})
    table = pd.DataFrame(rows, columns=["a", "b", "difference", "low", "high", "error", "detectable"])
    return table.sort_values("detectable", kind="stable", ignore_index=True)


def find_power(comparisons: pd.DataFrame, params: NamedComparison) -> float:
    """The smallest true AUC difference that DeLong's test on this test set finds with the power asked for.

    Taken from the standard error in the primary regime; NaN when that regime cannot be compared.
    """
    rows = comparisons[comparisons["declared"].astype(bool) & (comparisons["test"] == "DeLong")]
    if rows.empty:
        return np.nan
    return detectable_difference(rows["error"].iloc[0], alpha=params.primary.alpha, power=params.power)
