"""Sentences of 05_comparison, each written from its tables: how a network stands, and what the study does not show."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from lesion_utils.config.schema import NamedComparison
from lesion_utils.core.names import COMBINATION, name_held_out, name_series
from lesion_utils.evaluation.elsewhere import EVERYONE, Abroad, find_seen
from lesion_utils.evaluation.evaluate import AT_TARGET, label_metric
from lesion_utils.evaluation.intervals import format_value
from lesion_utils.evaluation.openings import Looks
from lesion_utils.evaluation.predictions import ENSEMBLE
from lesion_utils.evaluation.ranking import CLASSICAL, find_power, list_spoken
from lesion_utils.evaluation.sentences import state_predictive_values
from lesion_utils.evaluation.shortcuts import ALL, CONTROL, QUARTERS, WITHIN, Shortcuts

Run = tuple[str, str]  # model, regime

#: What is said of a model's calls.
CALLS = ["sensitivity" + AT_TARGET, "specificity" + AT_TARGET]


@dataclass(frozen=True)
class Findings:
    """The tables of 05_comparison that its sentences are written from."""

    results: pd.DataFrame
    seeds: pd.DataFrame  # from `tables.summarise_seeds`
    order: pd.DataFrame
    comparisons: pd.DataFrame  # from `ranking.compare_networks`
    seen: Shortcuts
    params: NamedComparison
    folds: int = 1  # a seed's test score is the mean of as many networks
    challenge: bool = True  # whether the images are those of ISIC 2016
    patients: bool = False  # whether it is known of which patient the images are
    looks: Looks | None = None  # earlier evaluations of the declared comparison
    sets: tuple[str, ...] = ()  # names of the test sets from elsewhere

    @property
    def primary(self) -> pd.DataFrame:
        """The tested row of the comparisons, or none."""
        return self.comparisons[self.comparisons["primary"]]

    @cached_property
    def lead(self) -> Run:
        """The row to set against the controls: what validation puts first, unless it is a classical classifier."""
        for _, best in self.order.iloc[:1].iterrows():
            if best["model"] == COMBINATION or not best["regime"].startswith(CLASSICAL):
                return best["model"], best["regime"]
        return list_spoken(self.results, self.params)[0]

    @cached_property
    def counts(self) -> tuple[int, int]:
        """Test images, and malignant ones among them."""
        everything = self.seen.blocks.iloc[0]
        return int(everything["images"]), int(everything["malignant"])


def state_controls(found: Findings) -> str:
    """How a network stands to the control that sees no pixel: on all images, within blocks, within their quarters."""
    rows = pd.concat([select_differences(found, block) for block in (ALL, WITHIN, QUARTERS)])
    if rows.empty:
        return "There are too few images of a class to set the networks against the controls that see no pixel."
    parts = [
        f"{label_metric(row.metric)} {format_value(row.difference, row.low, row.high, '+.3f')}"
        + f" {row.block}" * (row.block != ALL)
        for row in rows.itertuples()
    ]
    unclear = rows[(rows["low"] <= 0) & (rows["high"] >= 0)]["block"].unique()
    verdict = (
        f"An interval that holds zero ({', '.join(unclear)}) leaves open whether the pixels add anything there."
        if len(unclear)
        else "Every one of these intervals lies on one side of zero."
    )
    return (
        f"{name_series(*found.lead)}, minus the harder of the controls that see no pixel (metadata alone: "
        f"{found.seen.harder}): {'; '.join(parts)}. {verdict}"
    )


def state_operating_points(
    results: pd.DataFrame, values: pd.DataFrame, params: NamedComparison, *, targets: np.ndarray, folds: int = 1
) -> list[str]:
    """Of each model that is spoken of, what it calls at the threshold from validation, and what a call means there.

    Sentences from `results` and from the `values` of `decisions.tabulate_predictive_values`.
    """
    said = []
    for run in list_spoken(results, params):
        rows = select_rows(values, run)
        worth = "" if rows.empty else f" {state_predictive_values(rows)}"
        said.append(state_calls(results, run, params, malignant=int(np.sum(targets)), folds=folds) + worth)
    return said


def state_calls(results: pd.DataFrame, run: Run, params: NamedComparison, *, malignant: int, folds: int) -> str:
    """Sensitivity and specificity at the threshold from validation; how many lesions are missed there and at 0.5."""
    rows = select_metrics(results, run)
    at_half = malignant - round(rows.loc["sensitivity", "value"] * malignant)
    if CALLS[0] not in rows.index:
        return f"{name_series(*run)}, misses {at_half} of {malignant} malignant lesions when it calls above 0.5."
    reached, target = rows.loc[CALLS[0]], params.sensitivity_target
    missed = malignant - round(reached["value"] * malignant)
    sensitivity, specificity = (format_value(*rows.loc[name, ["value", "low", "high"]]) for name in CALLS)
    inside = "within" if reached["low"] <= target <= reached["high"] else "outside"
    return (
        f"{name_series(*run)}, at the threshold {reached['threshold']:.3f}, chosen on the {name_held_out(folds)} "
        f"for a sensitivity of {target:.2f}, has a sensitivity of {sensitivity} and a specificity of {specificity} on "
        f"the test images: {missed} of {malignant} malignant lesions are missed there, {at_half} at 0.5. The "
        f"sensitivity asked for lies {inside} the interval."
    )


def state_standing(order: pd.DataFrame, results: pd.DataFrame, published: pd.DataFrame) -> str:
    """How the row that validation puts first stands to the best published average precision, in a sentence."""
    if order.empty:
        return "Without validation images no row was chosen beforehand, so none is set against the published ones."
    if published.empty:
        return "No published result was measured on these images, so none is set beside them."
    best = order.iloc[0]
    row = select_metrics(results, (best["model"], best["regime"])).loc["ap"]
    leader = published.loc[published["ap"].where(published["comparable"]).idxmax()]
    gap = row["value"] - leader["ap"]
    inside = row["low"] <= leader["ap"] <= row["high"]
    return (
        f"\u201c{best['name']}\u201d, first by validation, reaches an average precision of "
        f"{format_value(row['value'], row['low'], row['high'])}: {abs(gap):.3f} {'above' if gap >= 0 else 'below'} the "
        f"best published one, {leader['ap']:.3f} ({leader['work']}), which lies {'within' if inside else 'outside'} "
        "this interval."
    )


def list_limits(found: Findings) -> list[str]:
    """What the study does not show, in sentences."""
    (images, malignant), smallest = found.counts, find_power(found.comparisons, found.params)
    size = f"The test set holds {images} images, {malignant} of them malignant"
    if not np.isnan(smallest):
        size += f": a difference in AUC below {smallest:.3f} between two networks would as a rule go unseen"
    calls = state_calls(found.results, found.lead, found.params, malignant=malignant, folds=found.folds)
    return [
        f"Shortcuts: {state_controls(found)}",
        f"Missed lesions: {calls}",
        f"Size: {size}. Intervals hold for other images from the same pool, and not for another training run.",
        f"One source: training and test images come from {_SOURCES[found.challenge]}"
        + (f" than those of {' and '.join(found.sets)}." if found.sets else "."),
        f"Patients: {_PATIENTS[found.challenge, found.patients]}",
    ]


_SOURCES = {
    True: "one archive and the same clinics; nothing here is evidence for another clinic, another camera or skin other "
    "than light",
    False: "one collection; nothing here is evidence for another clinic, another camera or another kind of skin",
}
_APART = (
    "so images of one patient may lie on both sides of the split, and the intervals take every image for a patient of "
    "its own."
)
#: (whether the challenge's, whether patients are known) -> what follows from it.
_PATIENTS = {
    (True, False): f"the challenge publishes no patient numbers, {_APART}",
    (False, False): f"the file of labels names none, {_APART}",
    (False, True): "no patient lies on both sides of the split; but the intervals take every image for a patient of "
    "its own, and are too narrow where patients have several.",
}


def state_elsewhere(abroad: Abroad | None, others: pd.DataFrame, found: Findings) -> list[str]:
    """Of each test set from elsewhere, what the leading row reaches there, what it loses, and what the control does.

    Args:
        abroad: from `comparison.judge_elsewhere`.
        others: the images from elsewhere, see `PreparedData`.
    """
    if abroad is None:
        return ["This study names no test sets from elsewhere, so how its networks fare there is not known."]
    runs = set(abroad.measures[["model", "regime"]].itertuples(index=False, name=None))
    lead = next(run for run in (found.lead, *list_spoken(found.results, found.params)) if run in runs)
    said = []
    for place, images in others.groupby("set", sort=False):
        whole = abroad.measures[(abroad.measures["set"] == place) & (abroad.measures["group"] == EVERYONE)]
        drops = abroad.drops[abroad.drops["set"] == place]
        said.append(
            f"{place} ({_count_images(images)}): {name_series(*lead)}, has {_list_values(whole, lead)}. "
            f"{_state_drop(drops, lead)}"
        )
    images, malignant = found.counts
    share = f"{100 * malignant / images:.1f} %"
    return [*said, f"Average precision hangs on the share of malignant images, {share} at home; AUC does not."]


def _count_images(images: pd.DataFrame) -> str:
    """How many images of a set are judged, and which are not."""
    seen = find_seen(images)
    kinds = ", ".join(f"{count} x {kind}" for kind, count in images[seen]["seen_how"].value_counts().items())
    out = f"; {seen.sum()} left out, since training has the same photograph ({kinds})" if seen.any() else ""
    return f"{(~seen).sum()} images, {images[~seen]['target'].sum()} of them malignant{out}"


def _list_values(rows: pd.DataFrame, run: Run) -> str:
    own = select_rows(rows, run).itertuples()
    return "; ".join(f"{label_metric(r.metric)} {format_value(r.value, r.low, r.high)}" for r in own) or "no scores"


def _state_drop(drops: pd.DataFrame, run: Run) -> str:
    """What is lost from home to elsewhere, by the network and by the control."""
    parts, drops = [], drops[drops["metric"].isin(("ap", "auc"))]
    control = (CONTROL, "size and bytes"), "The control that knows sizes and bytes loses"
    for of, who in ((run, "From home it loses"), control):
        spans = select_rows(drops, of)[["metric", "drop", "low", "high"]].itertuples(index=False, name=None)
        lost = [f"{label_metric(metric)} {format_value(drop, low, high, '+.3f')}" for metric, drop, low, high in spans]
        parts += [f"{who} {', '.join(lost)}."] if lost else []
    return " ".join(parts) or "There are too few images of a class to say what was lost from home."


def select_differences(found: Findings, block: str) -> pd.DataFrame:
    """The leading row's differences to the harder control, on all images or within strata, AP before AUC."""
    rows = select_rows(found.seen.differences, found.lead)
    return rows[(rows["control"] == found.seen.harder) & (rows["block"] == block)].sort_values("metric")


def select_rows(table: pd.DataFrame, run: Run) -> pd.DataFrame:
    """The rows of one (model, regime)."""
    return table[(table["model"] == run[0]) & (table["regime"] == run[1])]


def select_metrics(results: pd.DataFrame, run: Run) -> pd.DataFrame:
    return select_rows(results[results["seed"] == ENSEMBLE], run).set_index("metric")


def write_scores(rows: pd.DataFrame) -> str:
    ap, auc = (f"{label_metric(m)} {format_value(*rows.loc[m, ['value', 'low', 'high']])}" for m in ("ap", "auc"))
    return f"{ap} and {auc}"
