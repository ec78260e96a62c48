"""Classical classifiers on the features of a frozen, pretrained network (after Benyahia, Meftah, Lezoray 2022)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import logit
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits
from torch import nn

from lesion_utils.config.schema import Network
from lesion_utils.core.errors import WeightsError
from lesion_utils.core.events import Event, OnEvent
from lesion_utils.core.names import CLASSIFIER_NAMES
from lesion_utils.data.duplicates import group_duplicates
from lesion_utils.evaluation.predictions import COLUMNS, join_folds
from lesion_utils.models.compute import Compute, choose_compute, computing
from lesion_utils.models.inference import Scorer
from lesion_utils.models.networks import build_network, head_of
from lesion_utils.models.weights import find_weights
from lesion_utils.training.task import Images, TrainingTask, list_folds, name_subsets

#: Of the cross-validations that choose hyper-parameters, inside the images that are learnt from.
FOLDS = 5

#: Probabilities are kept this far from 0 and 1, so that their logits are finite.
MARGIN = 1e-6

Candidate = tuple[ClassifierMixin, dict[str, list[Any]]]
#: The classifier whose weights the regime `finetune` may start its last layer with, and its grid.
LOGISTIC: Candidate = (LogisticRegression(max_iter=5000), {"C": [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]})
#: Each classifier with the hyper-parameters that cross-validation chooses from. Features are standardised first.
CANDIDATES: dict[str, Candidate] = {
    "logistic": LOGISTIC,
    "knn": (KNeighborsClassifier(weights="distance"), {"n_neighbors": [1, 5, 11, 21, 41, 81]}),
    "svm_linear": (SVC(kernel="linear"), {"C": [1e-5, 1e-4, 1e-3, 1e-2]}),
    "svm_rbf": (SVC(kernel="rbf"), {"C": [0.1, 1.0, 10.0, 100.0]}),
    "svm_cubic": (SVC(kernel="poly", degree=3, coef0=1.0), {"C": [0.01, 0.1, 1.0, 10.0]}),
    "random_forest": (RandomForestClassifier(200), {"min_samples_leaf": [3, 10]}),
    "gradient_boosting": (
        GradientBoostingClassifier(max_features="sqrt", subsample=0.5),  # a few dozen of thousands of features a split
        {"learning_rate": [0.03, 0.1]},
    ),
}


@dataclass(frozen=True)
class ClassifierResult:
    """What classical classifiers gave.

    Attributes:
        predictions: as `predictions.COLUMNS`, with regime `features:<classifier>` and the network's first seed.
        chosen: one row per classifier and fold: `classifier`, `fold` (where there are several), `cv_ap`, the mean AP
            over the inner folds, `learnt_from`, the number of images, and the hyper-parameters.
    """

    predictions: pd.DataFrame
    chosen: pd.DataFrame


def score_classifiers(params: Network, *, data: Images, on_event: OnEvent | None = None) -> ClassifierResult:
    """Train the classifiers of `params.classifiers` on frozen features, and score held-out and test images.

    They learn from the images that the network itself learns from, fold by fold, so that both can be compared.
    Duplicates stay in one fold of the inner cross-validations as well.

    Args:
        params: of the network.
        data: decoded images and their table.
        on_event: called while features are computed and before each classifier.

    Returns:
        empty tables where no classifier is named, or where the weights are missing and may be.

    Raises:
        WeightsError: the weights cannot be had, and `without_weights` says to stop.
    """
    empty = ClassifierResult(pd.DataFrame(columns=COLUMNS), pd.DataFrame(columns=["classifier", "cv_ap"]))
    params = params.in_regime("features")
    try:
        source = find_weights(params) if params.classifiers else None
    except WeightsError:
        if params.without_weights == "stop":
            raise
        return empty
    if source is None:
        return empty

    def tell(event: Event) -> None:
        if on_event:
            on_event({"regime": "classifiers", "stage": "features", **event})

    targets, seed = data.table["target"].to_numpy(dtype=int), params.seeds[0]
    read = partial(read_features, params, data.images, on_event=tell)
    known, test = (np.flatnonzero(data.table["subset"].isin(s)) for s in (("train", "val"), ("test",)))
    features, test_views = read(known, tta="none")[:, 0], read(test, tta=params.tta)
    groups = name_groups(data.table.iloc[known], data.duplicates)
    folds, tables = list_folds(data.table), []
    chosen: list[dict[str, Any]] = []
    for fold in folds:
        subset = name_subsets(data.table, fold).to_numpy()
        held_out, learnt = np.flatnonzero(subset == "val"), subset[known] == "train"
        scored = (("val", held_out, read(held_out, tta=params.tta)), ("test", test, test_views))
        for name in params.classifiers:
            done, total = len(chosen) + 1, len(folds) * len(params.classifiers)
            tell({"stage": CLASSIFIER_NAMES[name], "done": done, "total": total})
            model, settings = fit_classifier(
                CANDIDATES[name], features[learnt], targets[known[learnt]], groups=groups[learnt], seed=seed
            )
            chosen.append({"classifier": name, **({} if fold is None else {"fold": fold}), **settings})
            for split, rows, views in scored:
                probs = predict_views(model, views)
                scores = {"target": targets[rows], "logit": logit(probs), "probability": probs}
                run = {"split": split, "model": params.model, "regime": f"features:{name}", "seed": seed}
                tables.append(pd.DataFrame({"image_id": data.table["image_id"].to_numpy()[rows], **run, **scores}))
    return ClassifierResult(join_folds(tables), pd.DataFrame(chosen))


def fit_classifier(
    candidate: Candidate, features: np.ndarray, targets: np.ndarray, *, groups: np.ndarray, seed: int
) -> tuple[BaseEstimator, dict[str, float]]:
    """Choose a classifier's hyper-parameters by cross-validated AP, then fit it to all the training images.

    Support vector machines are given probabilities by Platt's method (Platt 1999), its sigmoid fitted to
    cross-validated decision values.

    Args:
        candidate: the classifier and its grid, one of `CANDIDATES`.
        features: (N, D) float.
        targets: (N,) int, 0 or 1.
        groups: (N,) images of one group stay in one fold.
        seed: of the folds and of the classifier.

    Returns:
        model: with `predict_proba`.
        chosen: `cv_ap`, the mean AP over the folds, `learnt_from`, the number of images, and the hyper-parameters.
    """
    estimator, grid = candidate
    estimator = clone(estimator)
    if "random_state" in estimator.get_params():
        estimator.set_params(random_state=seed)
    folds = list(split_folds(targets, groups, seed=seed))
    prefix = type(estimator).__name__.lower()
    grid = {f"{prefix}__{key}": values for key, values in grid.items()}
    search = GridSearchCV(make_pipeline(StandardScaler(), estimator), grid, scoring="average_precision", cv=folds)
    with threadpool_limits(1):  # many small problems: threads would only wait for each other, and change the last digit
        model = search.fit(features, targets).best_estimator_
        if not hasattr(model, "predict_proba"):
            model = CalibratedClassifierCV(clone(model), cv=folds, ensemble=False).fit(features, targets)
    chosen = {key.removeprefix(f"{prefix}__"): value for key, value in search.best_params_.items()}
    return model, {"cv_ap": float(search.best_score_), "learnt_from": len(targets), **chosen}


@torch.no_grad()
def fit_head(model: nn.Module, task: TrainingTask, *, compute: Compute, on_event: OnEvent | None = None) -> None:
    """Give the last layer the weights of the classifier "logistic", fitted to convergence on the training images.

    Before the rest learns: a random head would send large, aimless gradients through pretrained layers and bend their
    features (Kumar et al. 2022, "Fine-tuning can distort pretrained features").

    Args:
        model: a pretrained network of `build_network`, placed by `compute`.
        task: whose training images are used.
        compute: where and how.
        on_event: called while features are computed.
    """
    rows = task.rows("train", "val")  # asked for as the regime `features` asks, so that either finds the other's
    source = find_weights(task.settings)
    assert source is not None  # the network is a pretrained one
    scorer = Scorer(model, task.settings, compute, on_event)
    features = scorer.features(task.data.images, rows, tta="none", weights=source.sha256)[:, 0]
    learning = np.isin(rows, task.rows("train"))
    targets, table = task.targets(rows)[learning], task.data.table.iloc[rows[learning]]
    groups = name_groups(table, task.data.duplicates)
    scaler, logistic = fit_classifier(LOGISTIC, features[learning], targets, groups=groups, seed=task.seed)[0]
    weight = logistic.coef_ / scaler.scale_
    bias = logistic.intercept_ - weight @ scaler.mean_
    head: Any = head_of(model)
    for parameter, values in ((head.weight, weight), (head.bias, bias)):
        parameter.copy_(torch.as_tensor(values, dtype=parameter.dtype))


def name_groups(table: pd.DataFrame, duplicates: pd.DataFrame) -> np.ndarray:
    """(N,) the group of each image of a table: images that are duplicates of one another have the same."""
    known = duplicates[["image_id_a", "image_id_b"]].isin(set(table["image_id"])).all(axis=1)
    return group_duplicates(table["image_id"], duplicates[known]).to_numpy()


def split_folds(targets: np.ndarray, groups: np.ndarray, *, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows to learn from and rows to score, for each fold; both classes in proportion, groups together."""
    yield from StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(targets, targets, groups)


def predict_views(model: BaseEstimator, views: np.ndarray) -> np.ndarray:
    """Mean probability of malignant over the views of each image, (N,) float64 strictly between 0 and 1.

    Args:
        model: with `predict_proba`.
        views: (N, V, D) float.
    """
    count, number, _ = views.shape
    probs = model.predict_proba(views.reshape(count * number, -1))[:, 1].reshape(count, number)
    return probs.mean(axis=1).clip(MARGIN, 1 - MARGIN)


def read_features(
    params: Network, images: np.ndarray, rows: np.ndarray, *, tta: str, on_event: OnEvent | None = None
) -> np.ndarray:
    """Features of images under the pretrained, frozen network, as `classifier_features` says: (M, V, D) float32.

    V is the number of views of each image, D that of the features of all sizes together. Asked for in the portions in
    which the regime `features` asks, either finds what the other computed.

    Args:
        params: of the network, in the regime `features`.
        images: (N, S, S, 3) uint8, RGB.
        rows: (M,) which of them.
        tta: a key of `inference.VIEWS`.
        on_event: called while they are computed.

    Raises:
        WeightsError: the weights cannot be had.
    """
    compute, seen, parts = choose_compute(params), params.classifier_features, []
    with computing(compute):
        for size in seen.image_sizes:
            sized = params.model_copy(update={"image_size": size})
            model = compute.place(build_network(sized, pretrained=True, seed=params.seeds[0]))
            source = find_weights(params)
            assert source is not None  # the network is a pretrained one
            scorer = Scorer(model, sized, compute, on_event)
            parts.append(scorer.features(images, rows, tta=tta, weights=source.sha256, stages=seen.stages))
    return np.concatenate(parts, axis=2)
