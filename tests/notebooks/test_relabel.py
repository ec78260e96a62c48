"""Training labels of today: which change, and that the sentence has the numbers of a classifier that learnt them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import save_file
from sklearn.metrics import average_precision_score, roc_auc_score
from tiny_study import COMPARISON, REGIME, make_images, make_params

from lesion_utils.config.schema import Comparison
from lesion_utils.notebooks.relabel import compare_labels, relabel
from lesion_utils.training.classifiers import score_classifiers

#: By the image's number: 0 and 30 are malignant in 2016, 1 and 31 are benign, 43 is a test image.
CHANGES = {0: "benign", 1: "melanoma", 2: "indeterminate", 30: "benign", 31: "melanoma", 33: "melanoma", 43: "melanoma"}


@dataclass(frozen=True)
class Labelled:
    images: np.ndarray
    table: pd.DataFrame
    duplicates: pd.DataFrame
    label_changes: pd.DataFrame


@pytest.fixture
def data():
    made = make_images()
    changes = pd.DataFrame(
        {"image_id": made.table["image_id"].loc[list(CHANGES)], "label_today": list(CHANGES.values())}
    )
    return Labelled(made.images, made.table, made.duplicates, changes)


def test_only_training_images_whose_label_is_known_today_change(data):
    changed, count = relabel(data)
    differs = changed.table["target"] != data.table["target"]
    assert np.flatnonzero(differs).tolist() == [0, 1, 30, 31] and count == 4, "33 was malignant already"
    assert changed.table["target"].dtype == data.table["target"].dtype


def test_the_sentence_has_the_numbers_of_a_classifier_that_learnt_todays_labels(data, tmp_path, monkeypatch):
    for name, value in {"WEIGHTS_DIR": tmp_path, "LESION_CACHE": tmp_path, "THREADS": 1, "DEVICE": "cpu"}.items():
        monkeypatch.setenv(name, str(value))
    torch.manual_seed(0)
    save_file(timm.create_model("small_cnn", num_classes=0).state_dict(), tmp_path / "small.safetensors")
    pretrained = {"backbone": "small_cnn", "weights": "small.safetensors", "regimes": {"features": REGIME}}
    params = make_params(**pretrained, classifiers=["svm_linear", "logistic"]).resnet50
    stats, classical = Comparison(**COMPARISON), score_classifiers(params, data=data)
    said = compare_labels(params, classical, data, stats)
    again = score_classifiers(params, data=relabel(data)[0]).predictions
    for run, word in ((again, "{} instead of"), (classical.predictions, "instead of {},")):
        own = run[(run["split"] == "test") & (run["regime"] == "features:logistic")]
        for metric in (average_precision_score, roc_auc_score):
            assert word.format(f"{metric(own['target'], own['probability']):.3f}") in said
    unchanged = replace(data, label_changes=data.label_changes.iloc[:0])
    assert compare_labels(params, classical, unchanged, stats).endswith("no training image has another label today.")
    without = replace(classical, predictions=classical.predictions.iloc[:0])
    assert compare_labels(params, without, data, stats).endswith("there is no logistic regression on frozen features.")
