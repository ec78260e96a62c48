"""How networks, regimes and classifiers are written, in figures, tables and sentences alike.

A network is named after its backbone and never after the file that describes it: `resnet50.yaml` may hold any network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

#: The networks of notebooks 03 and 04. A study may have more, each with a YAML file of its own.
NETWORKS = ("resnet50", "vgg19")

#: The regimes in their order, from the least to the most pretrained, and how they are written.
REGIME_NAMES = {"scratch": "from scratch", "features": "frozen features", "finetune": "fine-tuned"}
REGIMES = tuple(REGIME_NAMES)
CLASSIFIER_NAMES = {
    "logistic": "logistic regression", "knn": "k nearest neighbours", "svm_linear": "linear SVM",
    "svm_rbf": "RBF SVM", "svm_cubic": "cubic SVM", "random_forest": "random forest",
    "gradient_boosting": "gradient boosting",
}  # fmt: skip

#: The `model` of rows that average several networks or classifiers; their `regime` is their name.
COMBINATION = "combination"

#: Families of networks as their authors write them; any other keeps timm's name.
_FAMILIES = {
    name.lower(): name
    for name in (
        "ResNet", "ResNetV2", "ResNeXt", "SEResNet", "VGG", "DenseNet", "ConvNeXt", "ConvNeXtV2", "EfficientNet",
        "EfficientNetV2", "MobileNetV2", "MobileNetV3", "RegNetX", "RegNetY", "Inception", "Xception", "ViT", "DeiT",
        "DeiT3", "Swin", "SwinV2", "MaxViT",
    )
}  # fmt: skip
_PREFIXES = {"tf_": "TF ", "wide_": "Wide "}


def name_data_set(source: str | None) -> str:
    """What pages call the images of a study, by the `source` of its data.yaml."""
    return "own images" if source == "folder" else "ISIC 2016 Part 3"


def name_held_out(folds: int) -> str:
    """What chooses thresholds, calibration and the first row: one part's images, or every part's scores in turn."""
    return "out-of-fold scores" if folds > 1 else "validation images"


def find_architecture(backbone: str) -> str:
    """What timm calls a backbone without the tag of its weights: the `model` of predictions, tables and figures.

    >>> find_architecture("vgg19.tv_in1k"), find_architecture("hf-hub:timm/convnext_tiny.in12k")
    ('vgg19', 'convnext_tiny')
    """
    return backbone.rpartition("/")[2].partition(".")[0]


def tell_models_apart(backbones: Mapping[str, str]) -> dict[str, str]:
    """The `model` of each network of a study: its architecture, and as much more as tells it from the others.

    Args:
        backbones: file of the network (without `.yaml`) -> timm's name, with its tag.

    >>> tell_models_apart({"resnet50": "resnet50.tv_in1k", "vgg19": "vgg19.tv_in1k"})
    {'resnet50': 'resnet50', 'vgg19': 'vgg19'}
    >>> tell_models_apart({"resnet50": "vit_tiny.a", "vgg19": "vit_tiny.b"})
    {'resnet50': 'vit_tiny.a', 'vgg19': 'vit_tiny.b'}
    >>> tell_models_apart({"resnet50": "vit_tiny.a", "vgg19": "vit_tiny.a"})
    {'resnet50': 'vit_tiny.a@resnet50', 'vgg19': 'vit_tiny.a@vgg19'}
    """
    ways = zip(*(list_models(slot, backbone) for slot, backbone in backbones.items()), strict=True)
    models = next(way for way in ways if len(set(way)) == len(way))
    return dict(zip(backbones, models, strict=True))


def list_models(slot: str, backbone: str) -> tuple[str, str, str]:
    """What a network's `model` can be, from the shortest to the one that is never another's."""
    full = backbone.rpartition("/")[2]
    return find_architecture(full), full, f"{full}@{slot}"


def name_model(model: str) -> str:
    """How a network is written.

    Args:
        model: timm's name, with or without a tag, or a name from `tell_models_apart`.

    >>> [name_model(m) for m in ("resnet50", "convnext_tiny.in12k", "efficientnet_b0", "vit_small_patch16_224")]
    ['ResNet50', 'ConvNeXt-Tiny (in12k)', 'EfficientNet-B0', 'ViT-Small/16']
    """
    backbone, _, slot = model.partition("@")
    architecture, _, tag = backbone.partition(".")
    remarks = ", ".join(part for part in (tag, slot and f"{slot}.yaml") if part)
    return _name_architecture(architecture) + (f" ({remarks})" if remarks else "")


def _name_architecture(architecture: str) -> str:
    prefix = next((prefix for prefix in _PREFIXES if architecture.startswith(prefix)), "")
    first, *words = architecture.removeprefix(prefix).split("_")
    family = max((name for name in _FAMILIES if re.match(rf"{name}(\d|$)", first)), key=len, default=None)
    if family is None:
        return architecture
    written = _PREFIXES.get(prefix, "") + _FAMILIES[family] + first.removeprefix(family)
    if words[-1:] == ["224"] and any(word.startswith("patch") for word in words):
        words.pop()  # the study sets its images' size
    for word in words:
        size = word.capitalize() if word.isalpha() and len(word) > 2 else word
        short = word.upper() if re.fullmatch(r"[a-z]{1,2}\d?", word) else size
        written += f"/{word.removeprefix('patch')}" if word.startswith("patch") else f"-{short}"
    return written


class SeriesName(str):
    """The name of a series, which knows whose it is: colours and marks go by `model` and `regime`, not by the name."""

    model: str
    regime: str

    def __new__(cls, text: str, model: str, regime: str) -> SeriesName:
        name = super().__new__(cls, text)
        name.model, name.regime = model, regime
        return name

    @property
    def columns(self) -> dict[str, str]:
        """`name`, `model` and `regime`, as tables have them."""
        return {"name": self, "model": self.model, "regime": self.regime}

    def __getnewargs__(self) -> tuple[str, str, str]:  # type: ignore[override]  # what `__new__` takes
        return str(self), self.model, self.regime


def name_series(model: str, regime: str) -> SeriesName:
    """How a (model, regime) of `predictions.csv` is written everywhere.

    >>> name_series("resnet50", "finetune"), name_series("vgg19", "features:svm_rbf")
    ('ResNet50, fine-tuned', 'VGG19 features, RBF SVM')
    """
    stage, _, classifier = regime.partition(":")
    if model == COMBINATION:
        text = regime
    elif classifier:
        text = f"{name_model(model)} features, {CLASSIFIER_NAMES.get(classifier, classifier)}"
    else:
        text = f"{name_model(model)}, {REGIME_NAMES.get(stage, stage)}"
    return SeriesName(text, model, regime)


def name_training(key: Mapping[str, Any]) -> str:
    """How one of a network's runs is written.

    >>> name_training({"regime": "scratch", "seed": 1}), name_training({"regime": "finetune", "seed": 1, "fold": 5})
    ('from scratch, seed 1', 'fine-tuned, seed 1, fold 5')
    """
    regime = REGIME_NAMES.get(key["regime"], key["regime"])
    return ", ".join([regime, *(f"{name} {key[name]}" for name in ("seed", "fold") if name in key)])


def name_combination(members: Sequence[tuple[str, str]]) -> str:
    """How the mean of several (model, regime) is written.

    >>> name_combination([("resnet50", "finetune"), ("vgg19", "finetune")])
    'ResNet50 + VGG19, fine-tuned'
    >>> name_combination([("resnet50", "finetune"), ("resnet50", "features:svm_rbf")])
    'ResNet50, fine-tuned + RBF SVM'
    """
    models, regimes = (list(dict.fromkeys(part)) for part in zip(*members, strict=True))
    if len(models) > 1 and len(regimes) > 1:
        return " + ".join(f"({name_series(*member)})" for member in members)
    stages = [
        CLASSIFIER_NAMES.get(classifier, classifier) if classifier else REGIME_NAMES.get(stage, stage)
        for stage, _, classifier in (regime.partition(":") for regime in regimes)
    ]
    joint = ", " if len(models) == 1 or ":" not in regimes[0] else " features, "
    return " + ".join(map(name_model, models)) + joint + " + ".join(stages)


def join_words(words: Iterable[str]) -> str:
    """A list as prose has it.

    >>> join_words(["ResNet50", "VGG19"]), join_words(["ResNet50", "VGG19", "ConvNeXt-Tiny"])
    ('ResNet50 and VGG19', 'ResNet50, VGG19 and ConvNeXt-Tiny')
    """
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
