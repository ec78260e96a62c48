"""What reviewers ask of a report on an image classifier, answered from the study's own files.

`checklist.csv` holds the items of CLAIM (2024 update: Tejani et al., Radiology: Artificial Intelligence 6(4), e240300),
CLEAR Derm (Daneshjou et al. 2022, JAMA Dermatology 158(1), 90-96) and TRIPOD+AI (Collins et al. 2024, BMJ 385, e078378)
that apply to a study like this one: the item's number, what it asks, in our words, and our answer, whose numbers are
filled in here; with images of one's own, `own_images` stands in its place where there is something else to say. Items
about writing a paper are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import Markdown

from lesion_utils.config.schema import PRETRAINED_REGIMES, StudyParams
from lesion_utils.core.names import REGIME_NAMES, join_words, name_model
from lesion_utils.data.prepared import PreparedData
from lesion_utils.evaluation.evaluate import label_metric
from lesion_utils.evaluation.intervals import format_value

_SPLITS = {
    "grouped": "a draw within each class",
    "starting_project": "the draw of the project that this one starts from",
}
_EPOCHS = {"best": "Of each training the epoch that ranks the images held out from it best", "last": "The last epoch"}
_ASPECTS = {"squash": "squashed", "crop": "cropped", "pad": "padded"}


def answer_items(params: StudyParams, data: PreparedData, outcome: Mapping[str, Any]) -> pd.DataFrame:
    """The items with their answers.

    Args:
        outcome: from `headline.summarise`.

    Returns:
        `guideline`, `item` (such as "12" or "12a"), `asks` and `answer`, one row per item.
    """
    items = pd.read_csv(Path(__file__).with_name("checklist.csv"), dtype={"item": str}, keep_default_na=False)
    facts = _describe_data(params, data) | _describe_networks(params, outcome) | _describe_outcome(params, outcome)
    own = items.pop("own_images")
    answers = items["answer"].where(params.data.is_challenge | (own == ""), own)
    return items.assign(answer=answers.map(lambda text: text.format_map(facts)))


def show_items(answers: pd.DataFrame) -> Markdown:
    """The answers as a table that wraps its lines."""
    rows = (
        f"| {row.guideline.removesuffix(' 2024')} {row.item} | {row.asks} | {row.answer.replace('|', chr(92) + '|')} |"
        for row in answers.itertuples()
    )
    return Markdown("\n".join(["| item | asks for | answer |", "|---|---|---|", *rows]))


def _describe_data(params: StudyParams, data: PreparedData) -> dict[str, object]:
    counts, folds = data.table["subset"].value_counts(), params.data.folds
    train, val, test = (f"{counts.get(subset, 0):,}" for subset in ("train", "val", "test"))
    how = _SPLITS[params.data.split]
    return {
        "data_summary": data.summary,
        "counts": f"{train} training, {test} test images"
        if folds > 1
        else f"{train} training, {val} validation, {test} test images",
        "held_out": f"the training images dealt into {folds} parts by {how}, each held out in turn"
        if folds > 1
        else f"{val} of the training images held out for validation by {how}",
        "external": _name_sets(data.elsewhere)
        or "None: the test images come from the same place as the training images.",
        "left_out": counts.get("left_out", 0),
        "label_changes": len(data.label_changes),
        "stored_size": params.data.stored_size,
        "aspect": _ASPECTS[params.data.aspect],
        "patients": "no patient stands in two partitions where patients are known."
        if "patient" in data.table
        else "the file of labels names no patients, so one patient may stand in two partitions.",
        "together": "known duplicates kept together"
        if params.data.split == "grouped"
        else "duplicates not kept together",
    }


def _name_sets(others: pd.DataFrame) -> str:
    """The test sets from elsewhere with their numbers of images; "" where there are none."""
    counts = others["set"].value_counts(sort=False)
    sets = ", ".join(f"{name} ({count:,} images)" for name, count in counts.items())
    return f"{sets}: scored after training; the section Elsewhere of notebook 05." if sets else ""


def _describe_networks(params: StudyParams, outcome: Mapping[str, Any]) -> dict[str, object]:
    """Settings of the networks; what differs between them is given for each."""
    networks = {name_model(model): params.network(slot) for slot, model in params.models.items()}
    pretrained = any(regime in PRETRAINED_REGIMES for regime in outcome["regimes"])
    return {
        "networks": join_words(networks),
        "backbones": _tell_apart({name: network.backbone for name, network in networks.items()}),
        "image_size": _tell_apart({name: network.image_size for name, network in networks.items()}),
        "seeds": _tell_apart({name: ", ".join(map(str, network.seeds)) for name, network in networks.items()}),
        "kept_epoch": _tell_apart({name: _EPOCHS[network.keep] for name, network in networks.items()}),
        "imbalance": _tell_apart(
            {name: network.imbalance.method.replace("_", " ") for name, network in networks.items()}
        ),
        "regimes": ", ".join(REGIME_NAMES[name] for name in REGIME_NAMES if name in outcome["regimes"]),
        "weights_words": "from scratch means random ones." if pretrained else "here all weights start at random.",
    }


def _tell_apart(values: Mapping[str, object]) -> str:
    """One value where all agree, else each with its network: "64" or "64 (ResNet50), 48 (VGG19)"."""
    if len(set(values.values())) == 1:
        return str(next(iter(values.values())))
    return ", ".join(f"{value} ({name})" for name, value in values.items())


def _describe_outcome(params: StudyParams, outcome: Mapping[str, Any]) -> dict[str, object]:
    settings = params.comparison
    scores = (
        f"{row['label']}: {row['metric']} {format_value(row['value'], row['low'], row['high'])}"
        for row in outcome["headline"]
    )
    best = outcome["best"]
    return {
        "metric": label_metric(settings.primary.metric),
        "regime": REGIME_NAMES[settings.primary.regime],
        "alpha": f"{settings.primary.alpha:g}",
        "confidence": f"{100 * settings.confidence:g} %",
        "draws": f"{settings.bootstrap_draws:,}",
        "balanced_repeats": f"{settings.balanced_repeats:,}",
        "test_images": f"{outcome['images']:,}",
        "test_malignant": outcome["malignant"],
        "prevalence": f"{100 * outcome['prevalence']:.1f} %",
        "power": outcome["power"],
        "best": "No validation images, so no row was chosen."
        if best is None
        else f"First on validation: {best['name']}.",
        "combinations": ", ".join(params.named_comparison.averages) or "none",
        "headline": "; ".join(scores) + ".",
    }
