"""What 05_comparison says at its end: the headline numbers, and sentences that are written from the tables."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from lesion_utils.config.schema import NamedComparison
from lesion_utils.core.names import COMBINATION, REGIME_NAMES, name_series
from lesion_utils.evaluation.candidates import CLASSICAL, describe_left_out, list_spoken, rank_on_validation
from lesion_utils.evaluation.decisions import state_predictive_values
from lesion_utils.evaluation.evaluate import label_metric
from lesion_utils.evaluation.intervals import format_value
from lesion_utils.evaluation.predictions import ENSEMBLE
from lesion_utils.evaluation.ranking import find_power, state_power, state_primary
from lesion_utils.evaluation.shortcuts import Shortcuts
from lesion_utils.evaluation.tables import format_spread
from lesion_utils.notebooks.headline import list_headline, list_limits, state_calls, state_controls


class Best(NamedTuple):
    """The study's best row by average precision on the validation images, chosen without the test images."""

    name: str
    model: str
    regime: str
    validation_ap: float
    images: int
    rivals: int


def find_best(predictions: pd.DataFrame, results: pd.DataFrame) -> Best | None:
    """The row that validation puts first among all networks, classifiers and combinations with test scores.

    None where there are no validation scores.
    """
    ranked = rank_on_validation(predictions).merge(results[["model", "regime"]].drop_duplicates())
    if ranked.empty:
        return None
    first = ranked.iloc[0]
    return Best(first["name"], first["model"], first["regime"], float(first["ap"]), int(first["images"]), len(ranked))


def summarise(
    predictions: pd.DataFrame,
    results: pd.DataFrame,
    seeds: pd.DataFrame,
    comparisons: pd.DataFrame,
    params: NamedComparison,
    *,
    seen: Shortcuts,
    standing: str = "",
) -> dict[str, object]:
    """What the prose of 05_comparison prints: every number formatted or ready to be, none typed by hand.

    Args:
        predictions: from `add_ensembles`.
        results: from `tables.tabulate_results`.
        seeds: from `tables.summarise_seeds`.
        comparisons: from `compare_networks`.
        params: the declared comparison, confidence, power and combinations.
        seen: from `shortcuts.examine`.
        standing: from `state_standing`, to be said with the rest.

    Returns:
        `images`, `malignant`, `prevalence`, `always_benign_accuracy`, `regimes` (trained), `power` (a sentence),
        `primary` (the tested row or None), `detectable_auc_difference` (None where it cannot be had), `best` (the row
        that validation puts first, with its AP there, or None), `headline` (rows, see `headline.list_headline`),
        `limits` (sentences on what the study does not show) and `sentences`. Ready for JSON.
    """
    test = predictions[predictions["split"] == "test"].drop_duplicates("image_id")
    images, malignant = len(test), int(test["target"].sum())
    smallest, best = find_power(comparisons, params), find_best(predictions, results)
    primary, lead = comparisons[comparisons["primary"]], _find_lead(best, results, params)
    shown = list_spoken(results, params) + ([] if best is None else [(best.model, best.regime)])
    baseline = (
        f"The test set holds {images} images, {malignant} of them malignant; calling every image benign is right in "
        f"{100 * (images - malignant) / images:.1f} %, so accuracy is no headline."
    )
    return {
        "images": images,
        "malignant": malignant,
        "prevalence": malignant / images,
        "always_benign_accuracy": (images - malignant) / images,
        "regimes": sorted({regime for regime in results["regime"] if regime in REGIME_NAMES}),
        "power": state_power(comparisons, params),
        "primary": None if primary.empty else _read_row(primary.iloc[0]),
        "detectable_auc_difference": None if np.isnan(smallest) else smallest,
        "best": None if best is None else {"name": best.name, "validation_ap": best.validation_ap},
        "headline": list_headline(results, primary, seen, shown, lead),
        "limits": list_limits(seen, results, comparisons, params, lead),
        "sentences": [
            state_primary(comparisons, params),
            state_power(comparisons, params),
            *_describe_models(results, seeds, params),
            *([] if best is None else [_describe_best(best, results)]),
            *([standing] if standing else []),
            *describe_left_out(predictions, params),
            baseline,
        ],
    }


def state_shortcuts(
    predictions: pd.DataFrame, results: pd.DataFrame, seen: Shortcuts, params: NamedComparison
) -> list[str]:
    """How the row that validation puts first stands to the harder control."""
    return [state_controls(seen, _find_lead(find_best(predictions, results), results, params))]


def state_operating_points(
    results: pd.DataFrame, values: pd.DataFrame, params: NamedComparison, *, targets: np.ndarray
) -> list[str]:
    """Of each model that is spoken of, what it calls at the threshold from validation, and what a call means there.

    Args:
        results: from `tables.tabulate_results`.
        values: from `decisions.tabulate_predictive_values`.
        params: the sensitivity asked for.
        targets: (N,) labels of the test images, 0 or 1.
    """
    said = []
    for model, regime in list_spoken(results, params):
        rows = values[(values["model"] == model) & (values["regime"] == regime)]
        worth = "" if rows.empty else f" {state_predictive_values(rows)}"
        said.append(state_calls(results, (model, regime), params, malignant=int(targets.sum())) + worth)
    return said


def _read_row(row: pd.Series) -> dict[str, object]:
    """A row for JSON, which knows no NaN."""
    values = {name: value.item() if isinstance(value, np.generic) else value for name, value in row.items()}
    return {name: None if isinstance(value, float) and np.isnan(value) else value for name, value in values.items()}


def _find_lead(best: Best | None, results: pd.DataFrame, params: NamedComparison) -> tuple[str, str]:
    """The row to set against the controls: what validation puts first, unless it is a classical classifier."""
    if best is not None and (best.model == COMBINATION or not best.regime.startswith(CLASSICAL)):
        return best.model, best.regime
    return list_spoken(results, params)[0]


def _describe_models(results: pd.DataFrame, seeds: pd.DataFrame, params: NamedComparison) -> list[str]:
    """One sentence per row: AP and AUC of the mean probability, and of a single network with its seeds' spread."""
    sentences = []
    for model, regime in list_spoken(results, params):
        rows = _select(results, model, regime)
        spread = seeds[(seeds["model"] == model) & (seeds["regime"] == regime)].set_index("metric")
        count = int(spread.loc["ap", "seeds"])
        of = "" if count == 1 else f" with the probabilities of its {count} seeds averaged"
        sentences.append(
            f"{name_series(model, regime)}, reaches {_write_scores(rows)}{of}, "
            f"{params.confidence * 100:g} % intervals; {_describe_spread(spread, count)}."
        )
    return sentences


def _select(results: pd.DataFrame, model: str, regime: str) -> pd.DataFrame:
    own = (results["model"] == model) & (results["regime"] == regime) & (results["seed"] == ENSEMBLE)
    return results[own].set_index("metric")


def _write_scores(rows: pd.DataFrame) -> str:
    ap, auc = (f"{label_metric(m)} {format_value(*rows.loc[m, ['value', 'low', 'high']])}" for m in ("ap", "auc"))
    return f"{ap} and {auc}"


def _describe_spread(spread: pd.DataFrame, count: int) -> str:
    if count == 1:
        return "one seed, so nothing is known about the spread between trainings"
    ap, auc = (f"{m.upper()} {format_spread(*spread.loc[m, ['mean', 'sd']])}" for m in ("ap", "auc"))
    return f"a single network (mean of {count} seeds): {ap}, {auc} (standard deviation over seeds)"


def _describe_best(best: Best, results: pd.DataFrame) -> str:
    return (
        f"Of the study's {best.rivals} rows, the {best.images} validation images put first \u201c{best.name}\u201d "
        f"(average precision there {best.validation_ap:.3f}); on the test images it reaches "
        f"{_write_scores(_select(results, best.model, best.regime))}."
    )


def state_standing(best: Best | None, results: pd.DataFrame, published: pd.DataFrame) -> str:
    """How the study's best row by validation stands to the best published average precision, in a sentence.

    Args:
        best: from `find_best`.
        results: from `tables.tabulate_results`.
        published: from `published.read_published`.
    """
    if best is None:
        return "Without validation images no row was chosen beforehand, so none is set against the published ones."
    row = _select(results, best.model, best.regime).loc["ap"]
    leader = published.loc[published["ap"].where(published["comparable"]).idxmax()]
    gap = row["value"] - leader["ap"]
    side = "above" if gap >= 0 else "below"
    inside = row["low"] <= leader["ap"] <= row["high"]
    return (
        f"\u201c{best.name}\u201d, first by validation, reaches an average precision of "
        f"{format_value(row['value'], row['low'], row['high'])}: {abs(gap):.3f} {side} the best published one, "
        f"{leader['ap']:.3f} ({leader['work']}), which lies {'within' if inside else 'outside'} this interval."
    )
