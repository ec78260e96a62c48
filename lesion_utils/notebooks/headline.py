"""The headline of 05_comparison: what the report, the README and the checklists take from its tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lesion_utils.core.names import REGIMES, name_series
from lesion_utils.evaluation.evaluate import label_metric
from lesion_utils.evaluation.intervals import format_value
from lesion_utils.evaluation.predictions import ENSEMBLE
from lesion_utils.evaluation.ranking import find_power, list_spoken
from lesion_utils.evaluation.sentences import state_calibration, state_looks, state_power, state_primary
from lesion_utils.evaluation.shortcuts import ALL, CONTROL, WITHIN
from lesion_utils.evaluation.tables import format_spread, name_single
from lesion_utils.notebooks.statements import (
    CALLS,
    Findings,
    Run,
    list_limits,
    select_differences,
    select_metrics,
    select_rows,
    state_added,
    state_calls,
    write_scores,
)

#: What each part of the headline brings.
KEYS = ["name", "metric", "value", "low", "high"]


def summarise(found: Findings, *, more: Sequence[str] = ()) -> dict[str, object]:
    """What the report, the README and the checklists take from 05_comparison; every number from its tables.

    Args:
        found: the tables.
        more: sentences that come first, such as which network is not trained.

    Returns:
        `images`, `malignant`, `prevalence`, `always_benign_accuracy`, `regimes` (trained), `power` (a sentence),
        `evaluation` (a sentence on how often the test set was used, or None),
        `primary` (the tested row or None), `detectable_auc_difference` (None where it cannot be had), `best` (the row
        that validation puts first, with its AP there, or None), `headline` (rows, see `list_headline`), `tiles` (see
        `list_tiles`), `limits`
        (sentences on what the study does not show) and `sentences`. `OpenStudy.save_metrics` makes JSON of it.
    """
    (images, malignant), power = found.counts, state_power(found.comparisons, found.params)
    smallest, first = find_power(found.comparisons, found.params), found.order.iloc[:1].to_dict("records")
    return {
        "images": images,
        "malignant": malignant,
        "prevalence": malignant / images,
        "always_benign_accuracy": (images - malignant) / images,
        "regimes": sorted(set(found.results["regime"]) & set(REGIMES)),
        "power": power,
        "evaluation": state_looks(found.looks, found.params) if found.looks else None,
        "primary": found.primary.iloc[0].to_dict() if len(found.primary) else None,
        "detectable_auc_difference": None if np.isnan(smallest) else smallest,
        "best": {"name": first[0]["name"], "validation_ap": first[0]["ap"]} if first else None,
        "headline": list_headline(found),
        "limits": list_limits(found),
        "tiles": list_tiles(found),
        "sentences": [*more, *_list_sentences(found)],
    }


def _list_sentences(found: Findings) -> list[str]:
    """The six main results: model, declared comparison, added value, threshold, calibration, size of the test set.

    If no network is trained, nothing is said about its use.
    """
    images, malignant = found.counts
    use = [
        state_added(found),
        state_calls(found.results, found.lead, found.params, malignant=malignant, folds=found.folds),
        *state_calibration(select_rows(found.calibrated, found.lead), found.folds),
    ]
    return [
        _describe_best(found),
        state_primary(found.comparisons, found.params, found.looks),
        *([] if found.only_untrained else use),
        f"The test set has {images} images, {malignant} of them malignant. Predicting benign for every image is "
        f"{100 * (images - malignant) / images:.1f} % accurate, so we do not report accuracy as a headline. "
        + state_power(found.comparisons, found.params),
    ]


def list_tiles(found: Findings) -> list[dict[str, str]]:
    """What a reader sees first of the report: the selected model, what it adds to metadata, its errors in use.

    Returns:
        rows of `title`, `value` and `detail`; none if no model was selected.
    """
    if found.order.empty:
        return []
    best, how = found.order.iloc[0], {True: "cross-validation", False: "validation"}[found.folds > 1]
    scores = select_metrics(found.results, (best["model"], best["regime"]))
    ap, auc = (format_value(*scores.loc[metric, KEYS[2:]]) for metric in ("ap", "auc"))
    tiles = [_make_tile(f"Best model by {how}", f"AUC {auc}", f"{best['name']}; average precision {ap}")]
    gain = select_rows(found.added, found.lead)
    for row in gain[(gain["control"] == found.seen.harder) & (gain["metric"] == "auc")].itertuples():
        value = f"AUC {format_value(row.increment, row.low, row.high, '+.3f')}"
        what = f"{row.name} averaged with the strongest metadata-only baseline ({row.control}), against it alone"
        tiles.append(_make_tile("Added to metadata alone", value, what))
    calls = select_metrics(found.results, found.lead)
    if set(CALLS) <= set(calls.index):
        images, malignant = found.counts
        missed = malignant - round(calls.loc[CALLS[0], "value"] * malignant)
        alarms = images - malignant - round(calls.loc[CALLS[1], "value"] * (images - malignant))
        lesions = "melanomas" if found.challenge else "malignant lesions"
        value = (
            f"{missed} of {malignant} {lesions} missed, false alarms on {alarms} of {images - malignant} benign lesions"
        )
        what = f"{name_series(*found.lead)}, at the threshold {calls.loc[CALLS[0], 'threshold']:.3f} from {how}, "
        what += f"chosen for a sensitivity of {found.params.sensitivity_target:.2f}"
        tiles.append(_make_tile("At the chosen threshold", value, what))
    return tiles


def _make_tile(title: str, value: str, detail: str) -> dict[str, str]:
    return {"title": title, "value": value, "detail": detail}


def list_headline(found: Findings) -> list[dict[str, object]]:
    """Networks, the control, the difference to it, the same within blocks, calls, and the difference that was tested.

    A number without an interval is no headline and is left out.

    Returns:
        rows of `label`, `metric`, `value`, `low`, `high`, `n` (images that the number rests on: for a sensitivity the
        malignant, for a specificity the benign ones) and `difference` (bool).
    """
    blocks, lead, control = found.seen.blocks, found.lead, (CONTROL, found.seen.harder)
    own = found.results[found.results["seed"] == ENSEMBLE]
    shown = list_spoken(found.results, found.params)
    shown += [(row["model"], row["regime"]) for _, row in found.order.iloc[:1].iterrows()]
    whole, within = blocks[blocks["block"] == ALL], blocks[blocks["block"] == WITHIN]
    rows = pd.concat(
        [
            _pick(own, shown, ["ap", "auc"]),
            _pick(whole, [control], ["ap", "auc"]).sort_values("metric"),
            _pick_difference(found, ALL),
            _pick(within, [lead], ["auc"]),
            _pick(within, [control], ["auc"]),
            _pick_difference(found, WITHIN),
            _pick(own, [lead], CALLS),
            found.primary.rename(columns={"difference": "value"}).assign(difference=True),
        ]
    )
    images, malignant = found.counts
    counts = dict(zip(CALLS, (malignant, images - malignant), strict=True))
    return [
        {
            "label": row["name"],
            "metric": label_metric(row["metric"]) + (f" {row['block']}" if row["block"] == WITHIN else ""),
            **{key: row[key] for key in ("value", "low", "high")},
            "n": counts.get(row["metric"], images),
            "difference": row["difference"] is True,
        }
        for row in rows[rows["low"].notna()].reindex(columns=[*KEYS, "block", "difference"]).to_dict("records")
    ]


def _pick(table: pd.DataFrame, runs: list[Run], metrics: list[str]) -> pd.DataFrame:
    own = pd.MultiIndex.from_frame(table[["model", "regime"]]).isin(runs)
    return table.loc[own & table["metric"].isin(metrics), [key for key in (*KEYS, "block") if key in table]]


def _pick_difference(found: Findings, block: str) -> pd.DataFrame:
    rows = select_differences(found, block)
    names = rows["name"] + " \u2212 metadata alone: " + found.seen.harder
    return rows.assign(name=names, value=rows["difference"], difference=True)


def describe_seeds(found: Findings) -> list[str]:
    """AP and AUC of each network that is discussed: of all its seeds together, and of a single seed."""
    return [_describe_model(found, run) for run in list_spoken(found.results, found.params)]


def _describe_model(found: Findings, run: Run) -> str:
    spread = select_rows(found.seeds, run).set_index("metric")
    count, of = int(spread.loc["ap", "seeds"]), ""
    single = "There is one seed, so the variation between training runs is not known"
    if count > 1:
        of = f" (mean probability of {count} seeds)"
        ap, auc = (f"{m.upper()} {format_spread(*spread.loc[m, ['mean', 'sd']])}" for m in ("ap", "auc"))
        single = f"{name_single(found.folds).capitalize()}: {ap}, {auc} (mean and standard deviation over seeds)"
    return f"{name_series(*run)}{of}: {write_scores(select_metrics(found.results, run))}. {single}."


def _describe_best(found: Findings) -> str:
    if found.order.empty:
        why = "no network is trained" if found.only_untrained else "there are no validation images"
        return f"No model was selected, because {why}."
    best, count = found.order.iloc[0], len(found.order)
    where = "cross-validated AP" if found.folds > 1 else "AP on the validation images"
    selected = (
        f"Of the {count} models, \u201c{best['name']}\u201d has the highest {where}"
        if count > 1
        else f"\u201c{best['name']}\u201d is the only trained model; {where}"
    )
    return (
        f"{selected} ({best['ap']:.3f}). On the test images it has "
        f"{write_scores(select_metrics(found.results, (best['model'], best['regime'])))} "
        f"({found.params.confidence * 100:g} % confidence intervals)."
    )
