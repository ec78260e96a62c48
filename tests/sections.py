"""Sections of a study's parameters, small, with whatever a test wants to change."""

from __future__ import annotations

from lesion_utils.config.data import Data
from lesion_utils.config.schema import Network, StudyParams

REGIME = {
    "epochs": 1, "lr": 0.1, "image_size": None, "head": "new", "frozen_layers": 0,
    "layer_decay": 0.8, "batchnorm": "train",
}  # fmt: skip


def data_params(**changes) -> Data:
    values = {
        "title": "t", "remarks": [], "source": "isic2016", "publish_photographs": True, "seed": 1,
        "stored_size": 64, "aspect": "squash", "folds": 1, "validation_fraction": 0.2,
        "split": "grouped", "drop_leaks": True,
    }  # fmt: skip
    return Data(**(values | changes))


def network_params(backbone: str, **changes) -> Network:
    values = {
        "backbone": backbone, "weights": "any.pth", "without_weights": "stop", "image_size": 64, "drop_rate": 0.0,
        "regimes": dict.fromkeys(("scratch", "features", "finetune"), REGIME), "seeds": [0], "batch_size": 4,
        "accumulation": 1, "label_smoothing": 0.0, "mixup": 0.0, "keep": "best", "early_stopping": 0,
        "tta": "none", "classifiers": [], "classifier_features": {"stages": 1, "image_sizes": [32]},
        "optim": {"name": "sgd", "momentum": 0.9, "weight_decay": 0.01, "clip_norm": 0.0, "warmup_epochs": 0.0,
                  "final_lr": 0.0},
        "imbalance": {"method": "none", "focal_gamma": 2.0}, "determinism": "exact", "precision": "float32",
        "compile": False,
        "averaging": {"method": "none", "decay": 0.9, "swa_start": 0.5},
    }  # fmt: skip
    return Network(**{**values, **changes})


def change_data(params: StudyParams, **changes) -> StudyParams:
    """A study with other parameters of its data."""
    return params.model_copy(update={"data": params.data.model_copy(update=changes)})
