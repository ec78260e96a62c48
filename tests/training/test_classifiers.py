"""Classical classifiers: they learn, on training images only, and their scores keep the contract of predictions."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import timm
import torch
from pytest import approx, fixture, mark, param, raises
from safetensors.torch import save_file
from sections import network_params
from sklearn.dummy import DummyClassifier
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from tiny_study import make_images

from lesion_utils.config.schema import Network
from lesion_utils.core.errors import ParamsError, WeightsError
from lesion_utils.evaluation.predictions import COLUMNS, check_predictions
from lesion_utils.models.custom import SmallCNN
from lesion_utils.models.networks import data_config
from lesion_utils.training import classifiers
from lesion_utils.training.classifiers import (
    CANDIDATES,
    MARGIN,
    fit_classifier,
    predict_views,
    read_features,
    score_classifiers,
    split_folds,
)

#: Ensembles of trees take seconds.
NAMES = [param(n, marks=mark.slow) if n in ("random_forest", "gradient_boosting") else n for n in CANDIDATES]


def make_params(**changes) -> Network:
    own = {"backbone": "small_cnn", "weights": "small.safetensors", "image_size": 32, "seeds": [3, 4]}
    return network_params(**(own | {"classifiers": ["logistic", "svm_rbf"]} | changes))


@fixture
def data(small_machine, few_fits):
    """Images whose class is their redness, which an untrained network sees."""
    rng = np.random.default_rng(0)
    targets = np.tile([0, 0, 0, 1], 25)
    images = rng.integers(0, 120, (100, 32, 32, 3), dtype=np.uint8)
    images[targets == 1, :, :, 0] += 80
    subset = ["train"] * 60 + ["val"] * 20 + ["left_out"] * 4 + ["test"] * 16
    made = make_images(60, 20, 20)
    table = made.table.assign(target=targets, subset=subset)
    return SimpleNamespace(images=images, table=table, duplicates=made.duplicates)


def make_features(seed: int, *, gap: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = (np.arange(160) % 4 == 0).astype(int)
    features = rng.normal(size=(160, 12)).astype(np.float32) * np.linspace(0.1, 10, 12, dtype=np.float32)
    features[targets == 1, 2] += gap * 2
    features[targets == 1, 5] -= gap * 4
    return features, targets


def fit(name, features, targets, *, seed):
    return fit_classifier(CANDIDATES[name], features, targets, groups=np.arange(len(targets)), seed=seed)


@mark.parametrize("name", NAMES)
def test_each_classifier_learns_what_is_there_and_nothing_else(name):
    features, targets = make_features(0)
    model, chosen = fit(name, features, targets, seed=1)
    unseen, truth = make_features(1)
    probs = predict_views(model, unseen[:, None])
    assert average_precision_score(truth, probs) > 0.8
    assert chosen["cv_ap"] > 0.7 and set(chosen) == {*CANDIDATES[name][1], "cv_ap", "learnt_from"}
    noise, _ = make_features(2, gap=0.0)
    assert fit(name, noise, targets, seed=1)[1]["cv_ap"] < 0.55  # a quarter is malignant


@mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_scores(few_fits, name):
    features, targets = (part[:80] for part in make_features(0, gap=0.7))
    a, b = (predict_views(fit(name, features, targets, seed=5)[0], features[:, None]) for _ in range(2))
    assert (a == b).all()


def test_hyper_parameters_are_those_of_the_best_cross_validated_ap():
    features, targets = make_features(0, gap=0.7)
    _, chosen = fit("svm_rbf", features, targets, seed=1)
    folds = list(split_folds(targets, np.arange(160), seed=1))
    oracle = {
        c: cross_val_score(
            make_pipeline(StandardScaler(), SVC(C=c)), features, targets, cv=folds, scoring="average_precision"
        ).mean()
        for c in CANDIDATES["svm_rbf"][1]["C"]
    }
    assert chosen["C"] == max(oracle, key=oracle.get)
    assert chosen["cv_ap"] == approx(max(oracle.values()))


def test_probabilities_of_support_vectors_are_calibrated():
    features, targets = make_features(0, gap=0.7)
    probs = predict_views(fit("svm_cubic", features, targets, seed=1)[0], make_features(1, gap=0.7)[0][:, None])
    assert probs.mean() == approx(0.25, abs=0.08)


def test_views_are_averaged_and_kept_off_the_ends():
    model = DummyClassifier(strategy="constant", constant=1).fit([[0], [1]], [0, 1])
    assert predict_views(model, np.zeros((3, 8, 1))).tolist() == [1 - MARGIN] * 3
    features, targets = make_features(0)
    model, _ = fit("logistic", features, targets, seed=0)
    pairs = features.reshape(80, 2, 12)
    expected = model.predict_proba(features)[:, 1].reshape(80, 2).mean(1)
    assert predict_views(model, pairs) == approx(expected.clip(MARGIN, 1 - MARGIN))


def test_scores_keep_the_contract_of_predictions(data):
    result = score_classifiers(make_params(tta="flips"), data=data)
    table = result.predictions
    assert list(table.columns) == COLUMNS
    check_predictions(table)
    assert set(table["regime"]) == {"features:logistic", "features:svm_rbf"} and set(table["seed"]) == {3}
    assert len(table) == 2 * (20 + 16)
    logistic = table[table["regime"] == "features:logistic"]
    assert average_precision_score(logistic["target"], logistic["probability"]) > 0.95
    assert result.chosen["classifier"].tolist() == ["logistic", "svm_rbf"]
    assert result.chosen["learnt_from"].tolist() == [60, 60], "as many as the network"


def test_labels_of_the_test_images_and_of_those_left_out_play_no_part(data):
    before = score_classifiers(make_params(), data=data).predictions
    outside = data.table["subset"].isin(["test", "left_out"])
    data.table.loc[outside, "target"] = 1 - data.table.loc[outside, "target"]
    after = score_classifiers(make_params(), data=data).predictions
    assert (before["probability"] == after["probability"]).all()
    test = before["split"] == "test"
    assert (before["target"] != after["target"])[test].all() and (before["target"] == after["target"])[~test].all()


def test_labels_of_the_images_held_out_play_no_part_in_their_scores(data):
    def score(fold: int) -> pd.DataFrame:
        table = score_classifiers(make_params(), data=data).predictions
        held_out = data.table["image_id"][data.table["fold"] == fold]
        return table[table["image_id"].isin(held_out)].set_index(["regime", "image_id"])["probability"]

    known = data.table["subset"].isin(["train", "val"])
    data.table["subset"] = data.table["subset"].mask(known, "train")
    data.table["fold"] = np.where(known, np.arange(len(known)) // 7 % 2 + 1, 0)
    before = score(2)
    assert len(before) == 2 * (data.table["fold"] == 2).sum()
    data.table.loc[data.table["fold"] == 2, "target"] = np.tile([0, 1], 50)[: (data.table["fold"] == 2).sum()]
    assert score(2).equals(before)


def test_the_test_images_are_scored_by_the_classifiers_of_all_folds(data):
    known = data.table["subset"].isin(["train", "val"])
    folds = np.where(known, np.arange(len(known)) // 4 % 2 + 1, 0)
    one_by_one = []
    for fold in (1, 2):
        data.table["subset"] = np.where(known, np.where(folds == fold, "val", "train"), data.table["subset"])
        one_by_one.append(score_classifiers(make_params(), data=data).predictions)
    data.table["subset"] = data.table["subset"].mask(known, "train")
    data.table["fold"] = folds
    result = score_classifiers(make_params(), data=data)
    assert result.chosen["fold"].tolist() == [1, 1, 2, 2] and set(result.chosen["learnt_from"]) == {40}
    joined = result.predictions.set_index(["regime", "split", "image_id"])["probability"].sort_index()
    expected = pd.concat(one_by_one).groupby(["regime", "split", "image_id"])["probability"].mean().sort_index()
    assert joined.to_numpy() == approx(expected.to_numpy(), abs=1e-12) and joined.index.equals(expected.index)


def test_no_fold_knows_the_duplicate_of_an_image_that_another_is_asked_about(data, monkeypatch):
    """Labels are chance, and every image has a twin: who has seen it, knows."""
    monkeypatch.setattr(classifiers, "FOLDS", 5)
    data.table["subset"] = ["train"] * 80 + ["val", "test"] * 10
    ids = data.table["image_id"].to_numpy()
    pairs = pd.DataFrame({"image_id_a": ids[::2], "image_id_b": ids[1::2]})
    alone, together = [], []
    for draw in range(2):
        rng = np.random.default_rng(draw)
        data.images[:] = rng.integers(0, 255, (50, 32, 32, 3), dtype=np.uint8).repeat(2, axis=0)
        data.table["target"] = np.concatenate([rng.permutation(np.tile([0, 1], 20)), np.tile([0, 1], 5)]).repeat(2)
        for duplicates, found in ((pairs[:0], alone), (pairs, together)):
            data.duplicates = duplicates
            found.append(score_classifiers(make_params(classifiers=["knn"]), data=data).chosen["cv_ap"][0])
    assert min(alone) > 0.85
    assert np.mean(together) < 0.75 and max(together) < min(alone)


def test_features_are_computed_once(data, monkeypatch):
    first = score_classifiers(make_params(), data=data).predictions
    monkeypatch.setattr(SmallCNN, "forward_features", lambda self, x: 1 / 0)
    assert score_classifiers(make_params(), data=data).predictions.equals(first)
    data.images[0] = 0
    with raises(ZeroDivisionError):  # other pixels are other features
        score_classifiers(make_params(), data=data)


def test_features_of_several_stages_and_sizes_stand_side_by_side(tmp_path, monkeypatch):
    """Against the maps that hooks catch in the network itself."""
    for variable in ("LESION_CACHE", "WEIGHTS_DIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    model = timm.create_model("resnet10t", num_classes=1).eval()
    save_file({k: v for k, v in model.state_dict().items() if "fc" not in k}, tmp_path / "r.safetensors")
    stages = {"stages": 2, "image_sizes": [32, 64]}
    params = make_params(backbone="resnet10t", weights="r.safetensors", classifier_features=stages)
    images = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)
    features = read_features(params, images, np.arange(3), tta="none")
    assert features.shape == (3, 1, 2 * (256 + 512))
    caught = []
    for stage in (model.layer3, model.layer4):
        stage.register_forward_hook(lambda *given: caught.append(given[2].mean(dim=(2, 3))))
    with torch.no_grad():
        model(data_config(model).normalise(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255))
    np.testing.assert_allclose(features[:, 0, 768:], torch.cat(caught, 1), rtol=1e-3, atol=1e-4)


def test_a_network_with_fewer_stages_is_named(data):
    with raises(ParamsError, match="SmallCNN gives no maps of 2 stages"):
        score_classifiers(make_params(classifier_features={"stages": 2, "image_sizes": [32]}), data=data)


def test_missing_weights_stop_or_are_skipped(data):
    with raises(WeightsError):
        score_classifiers(make_params(weights="external.safetensors"), data=data)
    skipping = make_params(weights="external.safetensors", without_weights="skip")
    assert score_classifiers(skipping, data=data).predictions.empty
    assert score_classifiers(make_params(classifiers=[]), data=data).predictions.empty
