"""Every sentence that is written from the tables of `evaluation`: verdicts, what a number means, what is missing.

Numbers are computed in the modules that sentences name; here they become words, so that all wording is in one place.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from lesion_utils.config.schema import NamedComparison, StudyParams
from lesion_utils.core.names import REGIME_NAMES, join_words, name_held_out, name_model, name_series
from lesion_utils.evaluation.evaluate import label_metric
from lesion_utils.evaluation.intervals import ENDS, format_value
from lesion_utils.evaluation.openings import Looks
from lesion_utils.evaluation.predictions import find_missing
from lesion_utils.evaluation.ranking import find_power
from lesion_utils.evaluation.trained import LEARNT, list_untrained


def state_validation(order: pd.DataFrame, subsets: pd.Series, params: StudyParams) -> str:
    """On what the rows are ordered, and whether that compares like with like.

    Args:
        subsets: train, val, test or left_out of each image.
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
    choosing = [name_model(model) for slot, model in params.models.items() if params.network(slot).keep == "best"]
    if choosing:
        said += f" {join_words(choosing)} kept the epoch that scored best on them, which flatters a little."
    return said


def describe_left_out(predictions: pd.DataFrame, params: NamedComparison) -> list[str]:
    """A sentence for each combination that lacks a member, or has one that is not trained."""
    missing, untrained = find_missing(predictions, params.averages), list_untrained(predictions)
    return [
        f"The combination \u201c{name}\u201d is left out: "
        + " and ".join(f"{name_series(*m)} {'is not trained' if m in untrained else 'has no scores'}" for m in members)
        + "."
        for name, members in missing.items()
    ]


def state_training(training: pd.DataFrame) -> list[str]:
    """A sentence for each network that is not trained; none where all are.

    Args:
        training: from `trained.tabulate_training`.
    """
    return [
        f"{name_series(row.model, row.regime)}, is not trained: its training loss ends at {row.training_loss:.3f}, "
        f"where giving every image the share of malignant training images reaches {row.guess_loss:.3f} (a trained "
        f"network must end at least {LEARNT:.0%} below that, this one ends {_write_gap(row.below_guessing)}). Its "
        "scores say nothing about the architecture; no verdict, ranking or combination uses them."
        for row in training[~training["trained"]].itertuples()
    ]


def _write_gap(below: float) -> str:
    return f"{abs(below):.1%} {'below' if below >= 0 else 'above'}"


_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def write_ordinal(number: int) -> str:
    """A position in words: "third", "12th"."""
    return _ORDINALS[number - 1] if number <= len(_ORDINALS) else f"{number}th"


def state_looks(looks: Looks, params: NamedComparison) -> str:
    """How often the declared comparison was evaluated on the test set, and what the earlier evaluations gave."""
    if looks.number == 1:
        return "This is the first evaluation of the declared comparison on the test set."
    a, b = map(name_model, params.pair)
    metric = label_metric(params.primary.metric)
    gave = join_words(
        f"{metric} {format_value(row.a)} ({a}) against {format_value(row.b)} ({b}) on {row.date}"
        for row in looks.earlier.astype({"a": float, "b": float}).itertuples()
    )
    before, alpha = "first" if looks.number == 2 else f"first {looks.number - 1}", params.primary.alpha
    return (
        f"This is the {write_ordinal(looks.number)} evaluation of the declared comparison on the test set; the "
        f"{before} gave {gave}. Settings were changed in between, so the level of the test is {alpha:g} / "
        f"{looks.number} = {looks.level:.2g} (Bonferroni)."
    )


def state_primary(comparisons: pd.DataFrame, params: NamedComparison, looks: Looks | None = None) -> str:
    """The verdict of the one declared comparison, in a sentence that says no more than its numbers.

    Args:
        comparisons: from `ranking.compare_networks`.
        params: of the comparison.
        looks: from `openings.count_looks`; without it this counts as the first evaluation.
    """
    level = looks.level if looks else params.primary.alpha
    primary, regime = params.primary, REGIME_NAMES[params.primary.regime]
    rows = comparisons[comparisons["primary"]]
    first, second = map(name_model, params.pair)
    declared = comparisons[comparisons["declared"].astype(bool)]
    if rows.empty and len(declared):
        return f"The declared comparison gives no verdict: {declared['name'].iloc[0]}."
    if rows.empty:
        return (
            f"The declared comparison ({first} against {second}, {regime}) could not be made: a network has no scores."
        )
    row, metric = rows.iloc[0], label_metric(primary.metric)
    gap = format_value(row["difference"], row["low"], row["high"], "+.3f")
    gap = gap.replace("(", f"({params.confidence * 100:g} % interval ")
    p = "p < 0.001" if row["p"] < 0.001 else f"p = {row['p']:.3f}"
    numbers = f"{metric} {row['a']:.3f} against {row['b']:.3f}, difference {gap}, {p}, {row['test']}"
    if row["p"] >= level:
        verdict = f"No significant difference between {first} and {second}"
    else:
        better, worse = (first, second) if row["difference"] > 0 else (second, first)
        verdict = f"{better} ranks the test images better than {worse}"
    unlike = (
        f" {first} is a mean over {row['seeds_a']} seeds and {second} over {row['seeds_b']}: averaging alone can raise "
        "a score."
        if row["seeds_a"] != row["seeds_b"]
        else ""
    )
    verdict = f"{verdict}, {regime}, at the level {level:.2g}: {numbers}.{unlike}"
    return f"{verdict} {state_looks(looks, params)}" if looks and looks.number > 1 else verdict


def state_power(comparisons: pd.DataFrame, params: NamedComparison) -> str:
    """What the declared comparison could have shown."""
    smallest = find_power(comparisons, params)
    if np.isnan(smallest):
        return "Without both networks nothing can be said about the power of their comparison."
    return (
        f"With a power of {params.power * 100:g} %, this test set shows AUC differences from {smallest:.3f} upwards; "
        "a smaller one may exist and go unseen."
    )


def state_calibration(rows: pd.DataFrame, folds: int = 1) -> list[str]:
    """What rows of `tables.tabulate_calibration` say of each model, as trained and recalibrated, in a sentence."""
    return [_state_model(part.set_index("stage"), folds) for _, part in rows.groupby("name", sort=False)]


def _state_model(stages: pd.DataFrame, folds: int) -> str:
    before, after = stages.loc["before"], stages.loc["after"]
    line = f"intercept {format_value(before['intercept'], form='+.2f')}, slope {before['recalibration_slope']:.2f}"
    return (
        f"{before['name']}, as trained: {_state_stage(before)}. Recalibrated on {before['validation_images']} "
        f"{name_held_out(folds)} ({line}): {_state_stage(after)}."
    )


def _state_stage(row: pd.Series) -> str:
    def write(name: str, form: str) -> str:
        value, low, high = (row[name + end] for end in ENDS)
        return format_value(value, low, high, form)

    level = _read_interval(row, "in_the_large", 0, "too high", "too low", "neither shown too high nor too low")
    reach = _read_interval(row, "slope", 1, "too extreme", "too cautious", "neither shown too extreme nor too cautious")
    return (
        f"observed over expected {write('observed_expected', '.2f')}, in the large {write('in_the_large', '+.2f')}, "
        f"slope {write('slope', '.2f')}: on the whole its probabilities are {level}, and {reach}"
    )


def _read_interval(row: pd.Series, name: str, perfect: float, under: str, over: str, within: str) -> str:
    """What an interval says of a perfect value: that the measured one lies under or over it, or nothing."""
    if np.isnan(row[name]):
        return "in a spread that cannot be told"
    if row[f"{name}_low"] <= perfect <= row[f"{name}_high"]:
        return within
    return under if row[name] < perfect else over


def state_predictive_values(rows: pd.DataFrame) -> str:
    """What a call means, in a sentence: rows of `tabulate_predictive_values` of one model, the test images' first."""
    (share, positive, negative), *others = (
        (f"{100 * row['prevalence']:.3g} %", _write_share(row, "ppv"), _write_share(row, "npv"))
        for _, row in rows.iterrows()
    )
    first = (
        f"Where {share} of lesions are malignant, as in the test images, a call of malignant is right in {positive}, "
        f"one of benign in {negative}"
    )
    return "; ".join([first, *(f"where {share} are, in {ppv} and {npv}" for share, ppv, npv in others)]) + "."


def _write_share(row: pd.Series, name: str) -> str:
    value, *span = (f"{100 * row[name + end]:.1f}" for end in ENDS)
    return f"{value} % ({' to '.join(span)})"
