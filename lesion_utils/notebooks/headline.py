"""The headline rows of a study, in the order in which a reader should meet them, and what the study does not show."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lesion_utils.config.schema import NamedComparison
from lesion_utils.core.names import name_series
from lesion_utils.evaluation.evaluate import AT_TARGET, label_metric
from lesion_utils.evaluation.intervals import format_value
from lesion_utils.evaluation.predictions import ENSEMBLE
from lesion_utils.evaluation.ranking import find_power
from lesion_utils.evaluation.shortcuts import ALL, CONTROL, QUARTERS, WITHIN, Shortcuts

Run = tuple[str, str]


def list_headline(
    results: pd.DataFrame, primary: pd.DataFrame, seen: Shortcuts, shown: list[Run], lead: Run
) -> list[dict[str, object]]:
    """Networks, the control, the difference to it, the same within blocks, calls, and the difference that was tested.

    A number without an interval is no headline and is left out.

    Args:
        results: from `tables.tabulate_results`.
        primary: the tested row of `ranking.compare_networks`, or none.
        seen: from `shortcuts.examine`.
        shown: (model, regime) whose scores are given.
        lead: (model, regime) that is set against the control and whose calls are given.

    Returns:
        rows of `label`, `metric`, `value`, `low`, `high`, `n` (images that the number rests on: for a sensitivity the
        malignant, for a specificity the benign ones) and `difference` (bool).
    """
    own = results[results["seed"] == ENSEMBLE]
    rows = pd.concat(
        [
            _pick(own, shown, ("ap", "auc")),
            _pick_control(seen, ALL),
            _pick_difference(seen, lead, ALL),
            *_pick_within(seen, lead),
            _pick(own, [lead], ("sensitivity" + AT_TARGET, "specificity" + AT_TARGET)),
            primary.rename(columns={"difference": "value"}).assign(difference=True),
        ]
    )
    images, malignant = (int(seen.blocks.iloc[0][column]) for column in ("images", "malignant"))
    counts = {"sensitivity" + AT_TARGET: malignant, "specificity" + AT_TARGET: images - malignant}
    return [
        {
            "label": row["name"],
            "metric": label_metric(row["metric"]) + (f" {row['block']}" if row["block"] == WITHIN else ""),
            "value": row["value"],
            "low": row["low"],
            "high": row["high"],
            "n": counts.get(row["metric"], images),
            "difference": row["difference"] is True,
        }
        for row in rows[rows["low"].notna()].reindex(columns=[*KEYS, "block", "difference"]).to_dict("records")
    ]


#: What each part of the headline brings.
KEYS = ["name", "metric", "value", "low", "high"]


def _pick(results: pd.DataFrame, runs: list[Run], metrics: tuple[str, ...]) -> pd.DataFrame:
    own = pd.MultiIndex.from_frame(results[["model", "regime"]]).isin(runs)
    return results.loc[own & results["metric"].isin(metrics), KEYS]


def _pick_control(seen: Shortcuts, block: str) -> pd.DataFrame:
    blocks = seen.blocks
    rows = (blocks["model"] == CONTROL) & (blocks["regime"] == seen.harder) & (blocks["block"] == block)
    return blocks.loc[rows, [*KEYS, "block"]].sort_values("metric")


def _pick_difference(seen: Shortcuts, lead: Run, block: str) -> pd.DataFrame:
    rows = select_differences(seen, lead, block)
    names = rows["name"] + " \u2212 metadata alone: " + seen.harder
    rows = rows.assign(name=names, value=rows["difference"], difference=True)
    return rows[[*KEYS, "block", "difference"]].sort_values("metric")


def _pick_within(seen: Shortcuts, lead: Run) -> list[pd.DataFrame]:
    blocks = seen.blocks
    own = (blocks["model"] == lead[0]) & (blocks["regime"] == lead[1]) & (blocks["block"] == WITHIN)
    return [blocks.loc[own, [*KEYS, "block"]], _pick_control(seen, WITHIN), _pick_difference(seen, lead, WITHIN)]


def select_differences(seen: Shortcuts, lead: Run, block: str) -> pd.DataFrame:
    """A row's differences to the harder control, on all images or within strata."""
    table = seen.differences
    own = (table["model"] == lead[0]) & (table["regime"] == lead[1]) & (table["control"] == seen.harder)
    return table[own & (table["block"] == block)]


def state_controls(seen: Shortcuts, lead: Run) -> str:
    """How a network stands to the control that sees no pixel: on all images, within blocks, within their quarters."""
    found = [select_differences(seen, lead, block) for block in (ALL, WITHIN, QUARTERS)]
    parts = [
        f"{label_metric(row.metric)} {format_value(row.difference, row.low, row.high, '+.3f')}"
        + f" {row.block}" * (row.block != ALL)
        for rows in found
        for row in rows.sort_values("metric").itertuples()
    ]
    if not parts:
        return "There are too few images of a class to set the networks against the controls that see no pixel."
    rows = pd.concat(found)
    unclear = rows[(rows["low"] <= 0) & (rows["high"] >= 0)]["block"].unique()
    verdict = (
        "Every one of these intervals lies on one side of zero."
        if not len(unclear)
        else f"An interval that holds zero ({', '.join(unclear)}) leaves open whether the pixels add anything there."
    )
    return (
        f"{name_series(*lead)}, minus the harder of the controls that see no pixel (metadata alone: {seen.harder}): "
        f"{'; '.join(parts)}. {verdict}"
    )


def state_calls(results: pd.DataFrame, lead: Run, params: NamedComparison, *, malignant: int) -> str:
    """Sensitivity and specificity at the threshold from validation; how many lesions are missed there and at 0.5."""
    own = (results["model"] == lead[0]) & (results["regime"] == lead[1]) & (results["seed"] == ENSEMBLE)
    rows = results[own].set_index("metric")
    at_half = malignant - round(rows.loc["sensitivity", "value"] * malignant)
    if "sensitivity" + AT_TARGET not in rows.index:
        return f"{name_series(*lead)}, misses {at_half} of {malignant} malignant lesions when it calls above 0.5."
    shares = [rows.loc[name + AT_TARGET, ["value", "low", "high"]] for name in ("sensitivity", "specificity")]
    missed = malignant - round(shares[0]["value"] * malignant)
    sensitivity, specificity = (format_value(*share) for share in shares)
    target = params.sensitivity_target
    inside = shares[0]["low"] <= target <= shares[0]["high"]
    return (
        f"{name_series(*lead)}, at the threshold {rows.loc['auc', 'threshold']:.3f}, chosen on the validation images "
        f"for a sensitivity of {target:.2f}, has a sensitivity of {sensitivity} and a specificity of {specificity} on "
        f"the test images: {missed} of {malignant} malignant lesions are missed there, {at_half} at 0.5. The "
        f"sensitivity asked for lies {'within' if inside else 'outside'} the interval."
    )


def list_limits(
    seen: Shortcuts, results: pd.DataFrame, comparisons: pd.DataFrame, params: NamedComparison, lead: Run
) -> list[str]:
    """What the study does not show, in sentences.

    Args:
        seen: from `shortcuts.examine`.
        results: from `tables.tabulate_results`.
        comparisons: from `ranking.compare_networks`.
        params: confidence, power and the target sensitivity.
        lead: (model, regime) that is spoken of.
    """
    images, malignant = (int(seen.blocks.iloc[0][column]) for column in ("images", "malignant"))
    smallest = find_power(comparisons, params)
    size = f"The test set holds {images} images, {malignant} of them malignant"
    if not np.isnan(smallest):
        size += f": a difference in AUC below {smallest:.3f} between two networks would as a rule go unseen"
    return [
        f"Shortcuts: {state_controls(seen, lead)}",
        f"Missed lesions: {state_calls(results, lead, params, malignant=malignant)}",
        f"Size: {size}. Intervals hold for other images from the same pool, and not for another training run.",
        "One source: training and test images come from one archive and the same clinics; nothing here is evidence for "
        "another clinic, another camera or skin other than light.",
        "Patients: the challenge publishes no patient numbers, so images of one patient may lie on both sides of the "
        "split, and the intervals take every image for a patient of its own.",
    ]
