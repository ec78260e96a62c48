"""The two networks against each other: one comparison tested, the others described."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pandas as pd

from lesion_utils.config.schema import NamedComparison
from lesion_utils.core.names import REGIME_NAMES, name_model
from lesion_utils.evaluation.evaluate import label_metric
from lesion_utils.evaluation.intervals import draw_weights
from lesion_utils.evaluation.paired_tests import (
    PairedTest,
    compare_bootstrap,
    compare_delong,
    compare_mcnemar,
    detectable_difference,
)
from lesion_utils.evaluation.predictions import select_run

#: The test that speaks for each metric; the others stand beside it.
TEST_OF_RECORD = {"auc": "DeLong", "ap": "paired bootstrap", "accuracy": "McNemar, exact"}


def compare_networks(predictions: pd.DataFrame, params: NamedComparison) -> pd.DataFrame:
    """All paired tests between the two networks, regime by regime, on their mean probabilities over seeds.

    Only the row `primary` is a test in the strict sense; the p-values of the rest are not adjusted for their number.

    Returns:
        one row per regime and test: `regime`, `name`, `images`, `test`, `metric`, `a`, `b` (the two networks),
        `difference`, `low`, `high`, `error`, `p`, `of_record` (bool: the test that speaks for its metric), `primary`
        (bool). Empty when the networks share no regime.
    """
    rows = []
    for regime in REGIME_NAMES:
        first, second = (select_run(predictions, model=model, regime=regime) for model in params.pair)
        if first.empty or second.empty:
            continue
        tests = _run_tests(first["target"], first["probability"], second["probability"], params)
        name = f"{' − '.join(map(name_model, params.pair))}, {REGIME_NAMES[regime]}"
        rows += [{"regime": regime, "name": name, "images": len(first)} | asdict(test) for test in tests]
    table = pd.DataFrame(rows, columns=["regime", "name", "images", *PairedTest.__dataclass_fields__])
    of_record = table["test"] == table["metric"].map(TEST_OF_RECORD)
    primary = of_record & (table["regime"] == params.primary.regime) & (table["metric"] == params.primary.metric)
    return table.assign(of_record=of_record, primary=primary)


def _run_tests(targets: pd.Series, a: pd.Series, b: pd.Series, params: NamedComparison) -> list[PairedTest]:
    weights = draw_weights(targets, draws=params.bootstrap_draws, seed=params.seed)
    bootstrap = [
        compare_bootstrap(targets, a, b, metric=metric, weights=weights, confidence=params.confidence)
        for metric in ("auc", "ap")
    ]
    return [compare_delong(targets, a, b, confidence=params.confidence), *bootstrap, compare_mcnemar(targets, a, b)]


def find_power(comparisons: pd.DataFrame, params: NamedComparison) -> float:
    """The smallest true AUC difference that DeLong's test on this test set finds with the power asked for.

    Taken from the standard error in the primary regime; NaN when that regime cannot be compared.
    """
    rows = comparisons[(comparisons["regime"] == params.primary.regime) & (comparisons["test"] == "DeLong")]
    if rows.empty:
        return np.nan
    return detectable_difference(rows["error"].iloc[0], alpha=params.primary.alpha, power=params.power)


def format_p(p: float) -> str:
    """A p-value as prose prints it: `p = 0.034`, `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def format_difference(row: pd.Series, confidence: float) -> str:
    """A signed difference with its interval: `+0.012 (95 % interval −0.040 to +0.064)`."""
    span = f" ({confidence * 100:g} % interval {row['low']:+.3f} to {row['high']:+.3f})"
    return f"{row['difference']:+.3f}{span}".replace("-", "−")


def state_primary(comparisons: pd.DataFrame, params: NamedComparison) -> str:
    """The verdict of the one declared comparison, in a sentence that says no more than its numbers."""
    primary, regime = params.primary, REGIME_NAMES[params.primary.regime]
    rows = comparisons[comparisons["primary"]]
    first, second = map(name_model, params.pair)
    if rows.empty:
        return (
            f"The declared comparison ({first} against {second}, {regime}) could not be made: a network has no scores."
        )
    row, metric = rows.iloc[0], label_metric(primary.metric)
    numbers = (
        f"{metric} {row['a']:.3f} against {row['b']:.3f}, difference {format_difference(row, params.confidence)}, "
        f"{format_p(row['p'])}, {row['test']}"
    )
    if row["p"] >= primary.alpha:
        verdict = f"No significant difference between {first} and {second}"
    else:
        better, worse = (first, second) if row["difference"] > 0 else (second, first)
        verdict = f"{better} ranks the test images better than {worse}"
    return f"{verdict}, {regime}, at the level {primary.alpha:g}: {numbers}."


def state_power(comparisons: pd.DataFrame, params: NamedComparison) -> str:
    """What the declared comparison could have shown."""
    smallest = find_power(comparisons, params)
    if np.isnan(smallest):
        return "Without both networks nothing can be said about the power of their comparison."
    return (
        f"With a power of {params.power * 100:g} %, this test set shows AUC differences from {smallest:.3f} upwards; "
        "a smaller one may exist and go unseen."
    )
