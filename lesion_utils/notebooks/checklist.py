"""Reporting checklists, answered from the study's own files.

`checklist.csv` holds every item of CLAIM (2024 update: Tejani et al., Radiology: Artificial Intelligence 6(4),
e240300), CLEAR Derm (Daneshjou et al. 2022, JAMA Dermatology 158(1), 90-96), TRIPOD+AI (Collins et al. 2024, BMJ 385,
e078378) and STARD-AI (Sounderajah et al. 2025, Nature Medicine 31(10), 3283-3289): its number, what it asks in our
words, whether it is met, and the answer. Settings and numbers of the study are filled in here. For own images,
`own_met` and `own_answer` replace the two columns where they are not empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import Markdown

from lesion_utils.config.schema import PRETRAINED_REGIMES, StudyParams
from lesion_utils.core.names import REGIME_NAMES, find_architecture, join_words, name_model
from lesion_utils.data.prepared import PreparedData
from lesion_utils.evaluation.evaluate import WITHOUT_INTERVAL, label_metric
from lesion_utils.evaluation.intervals import format_value

_SPLITS = {
    "grouped": "random within each class",
    "starting_project": "the split of the project that this one starts from",
}
_EPOCHS = {"best": "from the epoch with the highest validation AP", "last": "from the last epoch"}
_AVERAGES = {"none": "", "ema": "exponential moving average over steps, ", "swa": "mean over the last epochs (SWA), "}
_VIEWS = {
    "none": "",
    "flips": ", and eight flips and quarter turns of each image",
    "flips_and_middle": ", and sixteen views of each image (flips and quarter turns, whole and middle)",
}
_ASPECTS = {"squash": "squashed", "crop": "cropped", "pad": "padded"}


def answer_items(params: StudyParams, data: PreparedData, outcome: Mapping[str, Any]) -> pd.DataFrame:
    """The items with their answers.

    Args:
        params: of the study.
        data: its images and labels.
        outcome: from `headline.summarise`.

    Returns:
        `guideline`, `item` (such as "12" or "12a"), `asks`, `met` ("met", "partly", "not" or "not applicable") and
        `answer`, one row per item.
    """
    items = pd.read_csv(Path(__file__).with_name("checklist.csv"), dtype={"item": str}, keep_default_na=False)
    facts = _describe_data(params, data) | _describe_networks(params, outcome) | _describe_outcome(params, outcome)
    for column in ("met", "answer"):
        own = items.pop(f"own_{column}")
        items[column] = items[column].where(params.data.is_challenge | (own == ""), own)
        items[column] = items[column].map(lambda text: text.format_map(facts))
    return items


def show_items(answers: pd.DataFrame) -> Markdown:
    """The answers as a table that wraps its lines."""
    rows = (
        f"| {row.guideline.removesuffix(' 2024')} {row.item} | {row.asks} | {row.met} | "
        f"{row.answer.replace('|', chr(92) + '|')} |"
        for row in answers.itertuples()
    )
    return Markdown("\n".join(["| item | asks for | met | answer |", "|---|---|---|---|", *rows]))


def _describe_data(params: StudyParams, data: PreparedData) -> dict[str, object]:
    counts, folds = data.table["subset"].value_counts(), params.data.folds
    train, val, test = (f"{counts.get(subset, 0):,}" for subset in ("train", "val", "test"))
    how = _SPLITS[params.data.split]
    return {
        "data_summary": data.summary,
        "counts": f"{train} training, {test} test images"
        if folds > 1
        else f"{train} training, {val} validation, {test} test images",
        "held_out": f"{folds}-fold cross-validation within the training images ({how})"
        if folds > 1
        else f"{val} of the training images held out for validation ({how})",
        "external": _name_sets(data.external) or "None. Training and test images come from the same source.",
        "external_met": "not" if data.external.empty else "met",
        "patients_met": "met" if "patient" in data.table else "partly",
        "left_out": counts.get("left_out", 0),
        "label_changes": len(data.label_changes),
        "stored_size": params.data.stored_size,
        "aspect": _ASPECTS[params.data.aspect],
        "patients": "all images of a patient are in one partition."
        if "patient" in data.table
        else "the labels name no patients, so images of one patient may be in several partitions.",
        "together": "known duplicates are kept together"
        if params.data.split == "grouped"
        else "duplicates are not kept together",
    }


def _name_sets(others: pd.DataFrame) -> str:
    """The external test sets with their numbers of images; "" if there are none."""
    counts = others["set"].value_counts(sort=False)
    sets = ", ".join(f"{name} ({count:,} images)" for name, count in counts.items())
    return f"{sets}, scored after training; see notebook 05." if sets else ""


def _describe_networks(params: StudyParams, outcome: Mapping[str, Any]) -> dict[str, object]:
    """Settings of the networks; what differs between them is given for each."""
    networks = {name_model(model): params.network(slot) for slot, model in params.models.items()}
    pretrained = any(regime in PRETRAINED_REGIMES for regime in outcome["regimes"])
    return {
        "networks": join_words(networks),
        "architectures": join_words(find_architecture(network.backbone) for network in networks.values()),
        "image_size": _tell_apart({name: network.image_size for name, network in networks.items()}),
        "seeds": _tell_apart({name: ", ".join(map(str, network.seeds)) for name, network in networks.items()}),
        "kept_weights": _tell_apart(
            {name: _AVERAGES[own.averaging.method] + _EPOCHS[own.keep] for name, own in networks.items()}
        ),
        "members": f"{_count_runs(params)}{_tell_apart({name: _VIEWS[own.tta] for name, own in networks.items()})}",
        "imbalance": _tell_apart(
            {name: network.imbalance.method.replace("_", " ") for name, network in networks.items()}
        ),
        "regimes": ", ".join(REGIME_NAMES[name] for name in REGIME_NAMES if name in outcome["regimes"]),
        "weights_words": "Name, source and SHA-256 of the pretrained weights are in runs/*/run.json."
        if pretrained
        else "All weights start at random; no pretrained weights are used.",
    }


def _count_runs(params: StudyParams) -> str:
    """Seeds and folds whose networks are averaged."""
    seeds = _tell_apart({name: len(params.network(slot).seeds) for slot, name in params.models.items()})
    return f"seeds ({seeds}) and folds ({params.data.folds})" if params.data.folds > 1 else f"seeds ({seeds})"


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
        "sensitivity_target": f"{settings.sensitivity_target:g}",
        "without_interval": join_words(map(label_metric, WITHOUT_INTERVAL)),
        "best": "No model was selected, because there are no validation images."
        if best is None
        else f"Selected on validation images: {best['name']}.",
        "combinations": ", ".join(params.named_comparison.averages) or "none",
        "headline": "; ".join(scores) + ".",
    }
