"""A study small enough to train in a second: random images whose malignant ones have a red square."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lesion_utils.config.schema import StudyParams

AUGMENTATION = {
    "rotation": 90.0, "horizontal_flip": 0.5, "vertical_flip": 0.5, "scale": [0.9, 1.1], "translation": 0.05,
    "shear": 0.0, "brightness": 0.1, "contrast": 0.1, "saturation": 0.1, "hue": 0.01, "fill": "reflect",
}  # fmt: skip
NO_AUGMENTATION = AUGMENTATION | {
    "rotation": 0.0, "horizontal_flip": 0.0, "vertical_flip": 0.0, "scale": [1.0, 1.0], "translation": 0.0,
    "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0,
}  # fmt: skip
REGIME = {
    "epochs": 3, "lr": 1e-2, "image_size": None, "head": "new", "frozen_layers": 0,
    "layer_decay": 1.0, "batchnorm": "train",
}  # fmt: skip
NETWORK = {
    "backbone": "small_cnn.untrained", "head": "original", "weights": "none", "without_weights": "stop",
    "image_size": 32, "drop_rate": 0.0, "regimes": {"scratch": REGIME}, "seeds": [1], "batch_size": 8,
    "accumulation": 1,
    "optim": {"name": "adamw", "momentum": 0.9, "weight_decay": 0.01, "clip_norm": 0.0, "warmup_epochs": 0.0,
              "final_lr": 1.0},
    "label_smoothing": 0.0, "mixup": 0.0, "imbalance": {"method": "none", "focal_gamma": 2.0},
    "averaging": {"method": "none", "decay": 0.9, "swa_start": 0.5}, "keep": "best",
    "early_stopping": 0, "tta": "none",
    "classifiers": [], "classifier_features": {"stages": 1, "image_sizes": [32]},
    "determinism": "exact", "precision": "float32", "compile": False,
}  # fmt: skip
DATA = {
    "title": "tiny", "remarks": [], "source": "isic2016", "publish_photographs": True, "seed": 1,
    "stored_size": 40, "aspect": "squash", "folds": 1, "validation_fraction": 0.25,
    "split": "grouped", "drop_leaks": False,
}  # fmt: skip
COMPARISON = {
    "primary": {"networks": ["resnet50", "vgg19"], "metric": "auc", "regime": "scratch", "alpha": 0.05},
    "bootstrap_draws": 100, "seed": 1,
    "confidence": 0.95, "sensitivity_target": 0.9, "prevalences": [0.1], "power": 0.8,
    "balanced_subset": 4, "balanced_repeats": 10, "combinations": [],
}  # fmt: skip


@dataclass(frozen=True)
class TinyImages:
    """What training needs of a data set."""

    images: np.ndarray
    table: pd.DataFrame
    duplicates: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["image_id_a", "image_id_b"]))


def make_params(augmentation: dict[str, Any] | None = None, **network: Any) -> StudyParams:
    """A whole study; keyword arguments change the network's section, mappings key by key (but `regimes` as a whole)."""
    section = dict(NETWORK)
    for key, value in network.items():
        merge = isinstance(value, dict) and key != "regimes"
        section[key] = {**section[key], **value} if merge else value
    return StudyParams.model_validate(
        {
            "data": DATA,
            "augmentation": AUGMENTATION if augmentation is None else augmentation,
            "resnet50": section,
            "vgg19": section,
            "comparison": COMPARISON,
        }
    )


def regimes(*names: str, **changes: Any) -> dict[str, dict[str, Any]]:
    """Regimes that are changed alike; `scratch` alone where none is named."""
    return dict.fromkeys(names or ("scratch",), REGIME | changes)


def make_images(train: int = 30, val: int = 12, test: int = 12, *, seed: int = 0, size: int = 40) -> TinyImages:
    """Noise; every third image is malignant and has a faint red square."""
    rng = np.random.default_rng(seed)
    count = train + val + test
    targets = (np.arange(count) % 3 == 0).astype(int)
    images = rng.integers(0, 200, (count, size, size, 3), dtype=np.uint8)
    images[targets == 1, 10:26, 10:26, 0] += 40
    subset = ["train"] * train + ["val"] * val + ["test"] * test
    ids = [f"ISIC_{i:07d}" for i in range(count)]
    return TinyImages(images, pd.DataFrame({"image_id": ids, "target": targets, "subset": subset}))


def read_results(folder: Path) -> dict[str, object]:
    """Everything that must not differ: all files, without the times in history and record."""
    from lesion_utils.training.loop import deterministic_part  # and torch, which tests of data do without

    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name == "history.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [deterministic_part(line) for line in lines]
        elif path.name == "DONE":
            record = json.loads(path.read_text())
            del record["seconds"], record["seal"], record["files"]["history.jsonl"]
            found[name] = record
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def make_demanding_study(epochs: int = 4) -> StudyParams:
    """Two seeds, with everything that has a state or draws random numbers."""
    return make_params(
        regimes=regimes(epochs=epochs),
        seeds=[1, 2],
        averaging={"method": "ema"},
        optim={"warmup_epochs": 1.0, "final_lr": 0.0, "clip_norm": 1.0},
        mixup=0.3,
        drop_rate=0.3,
        tta="flips",
        precision="auto",
    )
