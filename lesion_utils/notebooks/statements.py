"""Sentences of 05_comparison, written from its tables: baselines, thresholds, published results, limits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from lesion_utils.config.schema import NamedComparison
from lesion_utils.core.names import COMBINATION, name_held_out, name_series
from lesion_utils.evaluation.evaluate import AT_TARGET, label_metric
from lesion_utils.evaluation.external import EVERYONE, ExternalResults, find_seen
from lesion_utils.evaluation.intervals import format_value
from lesion_utils.evaluation.metrics import DEFAULT_THRESHOLD
from lesion_utils.evaluation.openings import Looks
from lesion_utils.evaluation.predictions import ENSEMBLE
from lesion_utils.evaluation.ranking import CLASSICAL, find_power, list_spoken
from lesion_utils.evaluation.sentences import (
    state_added_value,
    state_audit,
    state_blocks,
    state_calls_by_block,
    state_predictive_values,
)
from lesion_utils.evaluation.shortcuts import ALL, CONTROL, QUARTERS, WITHIN, Shortcuts

Run = tuple[str, str]  # model, regime

#: Metrics at the threshold from validation.
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
    calibrated: pd.DataFrame  # from `tables.tabulate_calibration`
    added: pd.DataFrame  # from `added_value.measure_added_value`
    folds: int = 1  # a seed's test score is the mean of as many networks
    challenge: bool = True  # whether the images are those of ISIC 2016
    patients: bool = False  # whether the labels name patients
    looks: Looks | None = None  # earlier evaluations of the declared comparison
    sets: tuple[str, ...] = ()  # names of the external test sets

    @property
    def primary(self) -> pd.DataFrame:
        """The tested row of the comparisons, or none."""
        return self.comparisons[self.comparisons["primary"]]

    @cached_property
    def lead(self) -> Run:
        """The model to compare with the baselines: the selected one, unless it is a classical classifier."""
        for _, best in self.order.iloc[:1].iterrows():
            if best["model"] == COMBINATION or not best["regime"].startswith(CLASSICAL):
                return best["model"], best["regime"]
        return list_spoken(self.results, self.params)[0]

    @property
    def only_untrained(self) -> bool:
        """Whether there are validation images, and no model that they could rank."""
        return self.order.empty and not self.calibrated.empty

    @property
    def discussed(self) -> list[Run]:
        """The models whose calibration and use are shown: the leading one, and those of the declared comparison."""
        return list(dict.fromkeys([self.lead, *list_spoken(self.results, self.params)]))[:3]

    @cached_property
    def counts(self) -> tuple[int, int]:
        """Test images, and malignant ones among them."""
        everything = self.seen.blocks.iloc[0]
        return int(everything["images"]), int(everything["malignant"])


def state_controls(found: Findings) -> str:
    """Difference to the strongest metadata-only baseline: on all images, within blocks, within their quarters."""
    rows = pd.concat([select_differences(found, block) for block in (ALL, WITHIN, QUARTERS)])
    if rows.empty:
        return "There are too few images of a class to compare the networks with the metadata-only baselines."
    parts = [
        f"{label_metric(row.metric)} {format_value(row.difference, row.low, row.high, '+.3f')}"
        + ("" if row.block == ALL else f" {row.block}")
        for row in rows.itertuples()
    ]
    unclear = rows[(rows["low"] <= 0) & (rows["high"] >= 0)]["block"].unique()
    verdict = f"The interval includes zero: {', '.join(unclear)}." if len(unclear) else "No interval includes zero."
    return (
        f"Difference between {name_series(*found.lead)}, and the strongest metadata-only baseline "
        f"({found.seen.harder}): {'; '.join(parts)}. {verdict}"
    )


def state_added(found: Findings) -> str:
    """What the leading model adds to the strongest metadata-only baseline."""
    if found.only_untrained:
        return "No network is trained, so what the pixels add to the metadata was not measured."
    rows = select_rows(found.added, found.lead)
    rows = rows[rows["control"] == found.seen.harder]
    return state_added_value(rows, alpha=found.params.primary.alpha)


def state_sources(found: Findings, interaction: pd.DataFrame, calls: pd.DataFrame, audit: pd.DataFrame) -> list[str]:
    """The leading model in each block of image numbers.

    Args:
        found: the tables.
        interaction: from `blocks.compare_blocks`.
        calls: from `blocks.tabulate_calls`; empty without validation images.
        audit: from `blocks.audit_shortcuts`.
    """
    differences, test = (select_rows(table, found.lead) for table in (found.seen.differences, interaction))
    differences, test = (table[table["control"] == found.seen.harder] for table in (differences, test))
    own = select_rows(calls, found.lead) if len(calls) else calls
    said = [state_blocks(differences, test, alpha=found.params.primary.alpha)]
    said += [state_calls_by_block(own)] if len(own) else []
    return [*said, state_audit(select_rows(audit, found.lead))]


def state_operating_points(
    results: pd.DataFrame, values: pd.DataFrame, params: NamedComparison, *, targets: np.ndarray, folds: int = 1
) -> list[str]:
    """For each model that is discussed: predictions at the threshold from validation, and their predictive values.

    Sentences from `results` and from the `values` of `decisions.tabulate_predictive_values`.
    """
    said = []
    for run in list_spoken(results, params):
        rows = select_rows(values, run)
        worth = "" if rows.empty else f" {state_predictive_values(rows)}"
        said.append(state_calls(results, run, params, malignant=int(np.sum(targets)), folds=folds) + worth)
    return said


def state_calls(results: pd.DataFrame, run: Run, params: NamedComparison, *, malignant: int, folds: int) -> str:
    """Sensitivity and specificity at the threshold from validation; lesions missed there and at the default one."""
    rows = select_metrics(results, run)
    at_half = malignant - round(rows.loc["sensitivity", "value"] * malignant)
    if CALLS[0] not in rows.index:
        missed = f"{at_half} of {malignant} malignant lesions at the threshold {DEFAULT_THRESHOLD}"
        return f"{name_series(*run)}, misses {missed}."
    reached, target = rows.loc[CALLS[0]], params.sensitivity_target
    missed = malignant - round(reached["value"] * malignant)
    sensitivity, specificity = (format_value(*rows.loc[name, ["value", "low", "high"]]) for name in CALLS)
    inside = "inside" if reached["low"] <= target <= reached["high"] else "outside"
    return (
        f"At the threshold {reached['threshold']:.3f}, {name_series(*run)}, has a sensitivity of {sensitivity} and a "
        f"specificity of {specificity} on the test images; it misses {missed} of {malignant} malignant lesions. The "
        f"threshold was chosen on the {name_held_out(folds)} for a sensitivity of {target:.2f}, which is {inside} the "
        f"interval. At the threshold {DEFAULT_THRESHOLD} it misses {at_half}."
    )


def state_standing(order: pd.DataFrame, results: pd.DataFrame, published: pd.DataFrame) -> str:
    """The selected model against the best published average precision, in a sentence."""
    if order.empty:
        return "No model was selected, so none is compared with the published results."
    if published.empty:
        return "No published result was measured on these images."
    best = order.iloc[0]
    row = select_metrics(results, (best["model"], best["regime"])).loc["ap"]
    leader = published.loc[published["ap"].where(published["comparable"]).idxmax()]
    gap = row["value"] - leader["ap"]
    inside = row["low"] <= leader["ap"] <= row["high"]
    return (
        f"The selected model, \u201c{best['name']}\u201d, has an average precision of "
        f"{format_value(row['value'], row['low'], row['high'])}. This is {abs(gap):.3f} "
        f"{'above' if gap >= 0 else 'below'} the best published result, {leader['ap']:.3f} ({leader['work']}). That "
        f"result is {'inside' if inside else 'outside'} the interval."
    )


def list_limits(found: Findings) -> list[str]:
    """What the study does not show, in sentences."""
    (images, malignant), smallest = found.counts, find_power(found.comparisons, found.params)
    size = f"The test set has {images} images, {malignant} of them malignant"
    if not np.isnan(smallest):
        size += f"; the declared comparison can detect differences in AUC of {smallest:.3f} or more"
    calls = state_calls(found.results, found.lead, found.params, malignant=malignant, folds=found.folds)
    return [
        f"Shortcuts: {state_added(found)}",
        *([] if found.only_untrained else [f"Missed lesions: {calls}"]),
        f"Size: {size}. The intervals describe the limited number of test images, not the variation between runs.",
        f"One source: training and test images come from {_SOURCES[found.challenge]}"
        + (f", except for the external test sets ({', '.join(found.sets)})." if found.sets else "."),
        f"Patients: {_PATIENTS[found.challenge, found.patients]}",
    ]


_SOURCES = {
    True: "one archive and the same clinics. The results show nothing about other clinics, other cameras or dark skin",
    False: "one collection. The results show nothing about other clinics, other cameras or other skin types",
}
_APART = (
    "so images of one patient may be in both the training and the test set. The intervals treat each image as a "
    "separate patient."
)
#: (whether the challenge's, whether patients are known) -> what follows from it.
_PATIENTS = {
    (True, False): f"the challenge publishes no patient numbers, {_APART}",
    (False, False): f"the labels name no patients, {_APART}",
    (False, True): "all images of a patient are in one split. The intervals treat each image as a separate patient and "
    "are too narrow if patients have several images.",
}


def state_external(external: ExternalResults | None, others: pd.DataFrame, found: Findings) -> list[str]:
    """For each external test set: scores of the leading model, their change, and that of the baseline.

    Args:
        external: from `comparison.judge_external`.
        others: the external images, see `PreparedData`.
    """
    if external is None:
        return ["This study has no external test set."]
    runs = set(external.measures[["model", "regime"]].itertuples(index=False, name=None))
    lead = next(run for run in (found.lead, *list_spoken(found.results, found.params)) if run in runs)
    said = []
    for place, images in others.groupby("set", sort=False):
        whole = external.measures[(external.measures["set"] == place) & (external.measures["group"] == EVERYONE)]
        drops = external.drops[external.drops["set"] == place]
        said.append(
            f"{place} ({_count_images(images)}): {name_series(*lead)}: {_list_values(whole, lead)}. "
            f"{_state_drop(drops, lead)}"
        )
    images, malignant = found.counts
    share = f"{100 * malignant / images:.1f} %"
    return [
        *said,
        f"Average precision depends on the share of malignant images ({share} in the internal test set); AUC does not.",
    ]


def _count_images(images: pd.DataFrame) -> str:
    """How many images of a set are evaluated, and which are excluded."""
    seen = find_seen(images)
    kinds = ", ".join(f"{count} x {kind}" for kind, count in images[seen]["seen_how"].value_counts().items())
    out = f"; {seen.sum()} excluded as duplicates of training images ({kinds})" if seen.any() else ""
    return f"{(~seen).sum()} images, {images[~seen]['target'].sum()} of them malignant{out}"


def _list_values(rows: pd.DataFrame, run: Run) -> str:
    own = select_rows(rows, run).itertuples()
    return "; ".join(f"{label_metric(r.metric)} {format_value(r.value, r.low, r.high)}" for r in own) or "no scores"


def _state_drop(drops: pd.DataFrame, run: Run) -> str:
    """How scores change from the internal to an external test set, for the network and for the baseline."""
    parts, drops = [], drops[drops["metric"].isin(("ap", "auc"))]
    baseline = (CONTROL, "size and bytes"), "Change for the metadata-only baseline (size and bytes)"
    for of, who in ((run, "Change against the internal test set"), baseline):
        rows = select_rows(drops, of)[["metric", "drop", "low", "high"]].itertuples(index=False, name=None)
        changes = [  # a drop of -0.1 is a gain
            f"{label_metric(metric)} {format_value(-drop, -high, -low, '+.3f')}" for metric, drop, low, high in rows
        ]
        parts += [f"{who}: {', '.join(changes)}."] if changes else []
    return " ".join(parts) or "This or the internal test set has too few images of a class for a comparison."


def select_differences(found: Findings, block: str) -> pd.DataFrame:
    """Differences of the leading model to the strongest baseline, on all images or within strata, AP before AUC."""
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
