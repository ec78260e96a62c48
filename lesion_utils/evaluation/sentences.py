"""Every sentence that is written from the tables of `evaluation`: verdicts, what a number means, what is missing.

Numbers are computed in the modules that sentences name; here they become words, so that all wording is in one place.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from lesion_utils.config.schema import NamedComparison, StudyParams
from lesion_utils.core.names import REGIME_NAMES, join_words, name_held_out, name_model, name_series
from lesion_utils.evaluation.evaluate import AT_TARGET, label_metric
from lesion_utils.evaluation.intervals import ENDS, format_value
from lesion_utils.evaluation.openings import Looks
from lesion_utils.evaluation.predictions import find_missing
from lesion_utils.evaluation.ranking import find_power
from lesion_utils.evaluation.shortcuts import ALL, QUARTERS, WITHIN
from lesion_utils.evaluation.trained import LEARNT, list_untrained


def state_validation(order: pd.DataFrame, subsets: pd.Series, params: StudyParams) -> str:
    """On what the rows are ordered, and whether that compares like with like.

    Args:
        subsets: train, val, test or left_out of each image.
    """
    if order.empty:
        has_validation = params.data.folds > 1 or (subsets == "val").any()
        why = "no network is trained" if has_validation else "there are no validation images"
        return f"The models are not ranked, because {why}."
    count, folds = order["images"].iloc[0], params.data.folds
    said = (
        f"Each of the {count} training images is scored by models that were not trained on it ({folds} folds, "
        f"the same for networks and classifiers). A test image has the mean score of all {folds} folds, "
        "so a threshold or a recalibration that was fitted to out-of-fold scores fits only approximately."
        if folds > 1
        else f"All models are trained on the same {(subsets == 'train').sum()} images and ranked on {count} other "
        "images."
    )
    choosing = [name_model(model) for slot, model in params.models.items() if params.network(slot).keep == "best"]
    if choosing:
        said += (
            f" {join_words(choosing)}: the epoch with the best score on these images was kept, so this score is "
            "slightly too high."
        )
    return said


def describe_left_out(predictions: pd.DataFrame, params: NamedComparison) -> list[str]:
    """A sentence for each combination that lacks a member, or has one that is not trained."""
    missing, untrained = find_missing(predictions, params.averages), list_untrained(predictions)
    return [
        f"The combination \u201c{name}\u201d is omitted: "
        + " and ".join(f"{name_series(*m)}, {'is not trained' if m in untrained else 'has no scores'}" for m in members)
        + "."
        for name, members in missing.items()
    ]


def state_training(training: pd.DataFrame) -> list[str]:
    """A sentence for each network that is not trained; none where all are.

    Args:
        training: from `trained.tabulate_training`.
    """
    return [
        f"{name_series(row.model, row.regime)}, is not trained: its final training loss is {row.training_loss:.3f}. "
        f"Guessing, with the share of malignant training images as the probability, has {row.guess_loss:.3f}. "
        f"A trained network must be at least {LEARNT:.0%} below guessing; this network is "
        f"{_write_gap(row.below_guessing)}. Its scores say nothing about the architecture and are not used in any "
        "ranking, combination or verdict."
        for row in training[~training["trained"]].itertuples()
    ]


def _write_gap(below: float) -> str:
    return f"{abs(below):.1%} {'below' if below >= 0 else 'above'}"


_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def write_ordinal(number: int) -> str:
    """A position in words: "third", "12th"."""
    return _ORDINALS[number - 1] if number <= len(_ORDINALS) else f"{number}th"


def state_looks(looks: Looks, params: NamedComparison) -> str:
    """How often the declared comparison was evaluated on the test set, and what the other evaluations gave."""
    a, b = map(name_model, params.pair)
    metric = label_metric(params.primary.metric)

    def give(rows: pd.DataFrame) -> list[str]:
        pairs = rows[["a", "b"]].astype(float).itertuples(index=False)
        return [f"{metric} {format_value(first)} ({a}) against {format_value(second)} ({b})" for first, second in pairs]

    more = ""
    if len(looks.machines):
        where = "another machine" if len(looks.machines) == 1 else "other machines"
        more = f" On {where}, the same settings gave {join_words(give(looks.machines))}."
    if looks.number == 1:
        return f"This is the first evaluation of the declared comparison on the test set.{more}"
    dated = zip(give(looks.earlier), looks.earlier["date"], strict=True)
    gave = join_words(f"{scores} on {date}" for scores, date in dated)
    before, alpha = "first" if looks.number == 2 else f"first {looks.number - 1}", params.primary.alpha
    return (
        f"This is the {write_ordinal(looks.number)} evaluation of the declared comparison on the test set; the "
        f"{before} gave {gave}. Settings, code or hardware changed in between, so the level of the test is {alpha:g} / "
        f"{looks.number} = {looks.level:.2g} (Bonferroni).{more}"
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
    p = _write_p(row["p"])
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


def state_added_value(rows: pd.DataFrame, *, alpha: float = 0.05) -> str:
    """What one network adds to one metadata-only baseline; the sentence follows the increment.

    Args:
        rows: of `added_value.measure_added_value`, of one model and one baseline, "ap" and "auc".
        alpha: level of the likelihood ratio test.
    """
    first = rows.iloc[0]
    gains = join_words(
        f"{label_metric(row.metric)} from {format_value(row.alone)} to {format_value(row.together)} "
        f"({format_value(row.increment, row.low, row.high, '+.3f')})"
        for row in rows.sort_values("metric", ascending=False).itertuples()
    )
    source = "out-of-fold scores of the training images" if first["lr_split"] == "val" else "test images"
    significant = first["lr_p"] < alpha
    if significant and (rows["low"] > 0).all():
        verdict = "The network adds information that the metadata lack"
    elif (rows["high"] < 0).any():
        verdict = "Averaged with the network, the baseline ranks the test images worse"
    elif significant or (rows["low"] > 0).any():
        verdict = "Whether the network adds information to the metadata is not settled: the tests disagree"
    else:
        verdict = "No added value over the metadata was shown"
    return (
        f"{verdict}. Averaging {first['name']} with the metadata-only baseline ({first['control']}) changes {gains}; "
        f"likelihood ratio {first['lr']:.1f} ({_write_p(first['lr_p'])}) on the {first['lr_images']} {source}."
    )


def _write_p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def state_blocks(differences: pd.DataFrame, interaction: pd.DataFrame, *, alpha: float = 0.05) -> str:
    """Whether a network is ahead of a metadata-only baseline by the same AUC in every block of ids.

    Args:
        differences: of `shortcuts.Shortcuts.differences`, the AUC of one model and one baseline.
        interaction: the row of `blocks.compare_blocks` of the same.
        alpha: level of the test.
    """
    pooled = (ALL, WITHIN, QUARTERS)
    single = differences[~differences["block"].isin(pooled) & (differences["metric"] == "auc")]
    if single.empty or interaction.empty:
        return "There are too few images of a class in the blocks to compare them."
    parts = join_words(
        f"{format_value(row.difference, row.low, row.high, '+.3f')} in {row.block} ({row.images} images; network "
        f"{format_value(row.a)}, baseline {format_value(row.b)})"
        for row in single.itertuples()
    )
    test = interaction.iloc[0]
    verdict = "The difference depends on the block" if test["p"] < alpha else "The blocks do not differ significantly"
    within = differences[(differences["block"] == WITHIN) & (differences["metric"] == "auc")]
    mean = "".join(
        f" The pooled value within blocks, {format_value(row.difference, row.low, row.high, '+.3f')}, weighs each "
        "block by its pairs of a malignant and a benign image."
        for row in within.itertuples()
    )
    return (
        f"AUC of {single['name'].iloc[0]} minus the metadata-only baseline ({test['control']}): {parts}. {verdict} "
        f"(test of interaction, {_write_p(test['p'])}).{mean}"
    )


def state_audit(audit: pd.DataFrame, *, alarm: float = 0.7) -> str:
    """How far a network's score tells a block of ids apart among benign images.

    Args:
        audit: of `blocks.audit_shortcuts`, the rows of one model.
        alarm: AUC, on either side of 0.5, from which a shortcut is called likely.
    """
    if audit.empty:
        return "Without blocks of ids there is no shortcut audit."
    worst = audit.loc[(audit["auc"] - 0.5).abs().idxmax()]
    apart = max(worst["auc"], 1 - worst["auc"])
    side = "higher" if worst["auc"] > 0.5 else "lower"
    verdict = (
        "The score depends on what tells the blocks apart, such as clinic, camera or patients."
        if apart >= alarm
        else f"No block is told apart with an AUC of {alarm:g} or more."
    )
    low, high = (worst["low"], worst["high"]) if worst["auc"] > 0.5 else (1 - worst["high"], 1 - worst["low"])
    return (
        f"Among benign test images, the score of {worst['name']} tells the block {worst['block']} from the others with "
        f"an AUC of {format_value(apart, low, high)}: it scores its {worst['images']} images {side}. {verdict}"
    )


def state_calls_by_block(calls: pd.DataFrame) -> str:
    """Sensitivity and specificity in each block, in counts: rows of `blocks.tabulate_calls` of one model."""
    parts = []
    for block, rows in calls.groupby("block"):
        found = rows.set_index(rows["metric"].str.removesuffix(AT_TARGET))
        both = (
            f"{metric} {found.loc[metric, 'hits']}/{found.loc[metric, 'images']} "
            f"({found.loc[metric, 'low']:.2f} to {found.loc[metric, 'high']:.2f})"
            for metric in ("sensitivity", "specificity")
            if metric in found.index
        )
        parts.append(f"{block}: {', '.join(both)}")
    first = calls.iloc[0]
    return f"{first['name']}, at the threshold {first['threshold']:.3f}, by block of ids: {'; '.join(parts)}."


def state_detectable(pairs: pd.DataFrame, params: NamedComparison) -> str:
    """Which AUC differences the test set can show, from the easiest pair to the hardest.

    Args:
        pairs: from `ranking.tabulate_detectable`.
        params: of the comparison.
    """
    if pairs.empty:
        return "There are not two trained networks whose difference could be detected."
    ends = pairs.iloc[[0, -1]] if len(pairs) > 1 else pairs.iloc[:1]
    parts = " to ".join(f"{row.detectable:.3f} ({row.a} against {row.b})" for row in ends.itertuples())
    return (
        f"The smallest AUC difference that this test set can detect ({params.power * 100:g} % power, level "
        f"{params.primary.alpha:g}) depends on the pair: {parts}."
    )


def state_single(training: pd.DataFrame, seeds: int) -> list[str]:
    """What single networks score on the test images, without any averaging: mean and range.

    Args:
        training: from `trained.tabulate_training`.
        seeds: so many each network has; folds make up the rest.
    """
    said = []
    for row in training.itertuples():
        both = (
            f"{metric.upper()} {format_value(getattr(row, metric + '_mean'))} "
            f"({format_value(getattr(row, metric + '_min'))} to {format_value(getattr(row, metric + '_max'))})"
            for metric in ("auc", "ap")
        )
        if row.networks == 1:
            continue  # its scores are in the tables
        kind = f"{row.networks} single networks, mean (range)"
        note = "" if row.trained else ", not trained"
        said.append(f"{name_series(row.model, row.regime)}{note}, {kind}: {', '.join(both)}.")
    if seeds > 1 and (training["networks"] > seeds).any():
        said.append(
            f"A \u201c\u00b1\u201d in the tables compares {seeds} seeds on the same folds, each already a mean over "
            "the folds. It is smaller than the spread between single networks and says nothing about other images."
        )
    return said


def state_calibration_size(images: int, malignant: int) -> str:
    """Whether the test set is large enough to judge calibration (Collins et al. 2016; Van Calster et al. 2016)."""
    fewest = min(malignant, images - malignant)
    enough = "meets" if fewest >= 100 else "does not meet"
    curves = "meets" if fewest >= 200 else "does not meet"
    return (
        f"Sample size: the rarer class has {fewest} test images. This {enough} the 100 that are recommended for "
        f"external validation and {curves} the 200 for calibration curves; read slopes and curves with their intervals."
    )


def state_shift(rows: pd.DataFrame) -> list[str]:
    """How averaging over folds moves the operating point: rows of `decisions.measure_shift`."""
    return [
        f"{row.name}: its threshold was chosen on scores of the networks of one fold, and is used on the mean of "
        f"{row.folds} folds. On the test images this moves sensitivity by "
        f"{format_value(row.sensitivity_shift, form='+.3f')} "
        f"(from {row.sensitivity_single:.3f} to {row.sensitivity_mean:.3f}) and specificity by "
        f"{format_value(row.specificity_shift, form='+.3f')} (from {row.specificity_single:.3f} to "
        f"{row.specificity_mean:.3f})."
        for row in rows.itertuples(index=False)
    ]


def state_power(comparisons: pd.DataFrame, params: NamedComparison) -> str:
    """What the declared comparison could have shown."""
    smallest = find_power(comparisons, params)
    if np.isnan(smallest):
        return "The power of the declared comparison is not known, because a network has no scores."
    return (
        f"For the declared pair, this test set can detect AUC differences of {smallest:.3f} or more "
        f"({params.power * 100:g} % power)."
    )


def state_calibration(rows: pd.DataFrame, folds: int = 1) -> list[str]:
    """What rows of `tables.tabulate_calibration` say of each model, as trained and recalibrated, in a sentence."""
    return [_state_model(part.set_index("stage"), folds) for _, part in rows.groupby("name", sort=False)]


def _state_model(stages: pd.DataFrame, folds: int) -> str:
    before, after = stages.loc["before"], stages.loc["after"]
    line = f"intercept {format_value(before['intercept'], form='+.2f')}, slope {before['recalibration_slope']:.2f}"
    return (
        f"Calibration of {before['name']}: {_state_stage(before)} After recalibration on {before['validation_images']} "
        f"{name_held_out(folds)} ({line}): {_state_stage(after)}"
    )


def _state_stage(row: pd.Series) -> str:
    def write(name: str, form: str) -> str:
        value, low, high = (row[name + end] for end in ENDS)
        return format_value(value, low, high, form)

    level = _read_interval(
        row, "in_the_large", 0, "are too high", "are too low", "are not shown to be too high or too low"
    )
    reach = _read_interval(
        row, "slope", 1, "over-confident", "under-confident", "not shown to be over- or under-confident"
    )
    return (
        f"observed/expected {write('observed_expected', '.2f')}, calibration-in-the-large "
        f"{write('in_the_large', '+.2f')}, slope {write('slope', '.2f')}. The probabilities {level}; the model is "
        f"{reach}."
    )


def _read_interval(row: pd.Series, name: str, perfect: float, under: str, over: str, within: str) -> str:
    """What an interval says of a perfect value: that the measured one lies under or over it, or nothing."""
    if np.isnan(row[name]):
        return "of unknown confidence, because its scores separate the classes"
    if row[f"{name}_low"] <= perfect <= row[f"{name}_high"]:
        return within
    return under if row[name] < perfect else over


def state_predictive_values(rows: pd.DataFrame) -> str:
    """Predictive values in a sentence: rows of `tabulate_predictive_values` of one model, the test images' first."""
    (share, positive, negative), *others = (
        (f"{100 * row['prevalence']:.3g} %", _write_share(row, "ppv"), _write_share(row, "npv"))
        for _, row in rows.iterrows()
    )
    first = (
        f"Predictive values: with {share} malignant lesions, as in the test images, PPV {positive} and NPV {negative}"
    )
    return "; ".join([first, *(f"with {share}, PPV {ppv} and NPV {npv}" for share, ppv, npv in others)]) + "."


def _write_share(row: pd.Series, name: str) -> str:
    value, *span = (f"{100 * row[name + end]:.1f}" for end in ENDS)
    return f"{value} % ({' to '.join(span)})"
