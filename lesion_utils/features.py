"""Classical classifiers on the features of a frozen, pretrained network (after Benyahia, Meftah, Lezoray 2022)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import logit
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from lesion_utils.device import choose_compute, computing
from lesion_utils.errors import WeightsError
from lesion_utils.inference import frozen_features
from lesion_utils.inputs import Images
from lesion_utils.models import build_network
from lesion_utils.paths import cache_dir
from lesion_utils.predictions import COLUMNS
from lesion_utils.schema import Network
from lesion_utils.weights import find_weights

#: Probabilities are kept this far from 0 and 1, so that their logits are finite.
MARGIN = 1e-6

#: Each classifier with the hyper-parameters that cross-validation chooses from. Features are standardised first.
CANDIDATES: dict[str, tuple[ClassifierMixin, dict[str, list]]] = {
    "logistic": (LogisticRegression(max_iter=5000), {"C": [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]}),
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


def score_classifiers(params: Network, *, network: str, data: Images) -> pd.DataFrame:
    """Train the classifiers of `params.classifiers` on frozen features, and score validation and test images.

    The features are those of the regime `features`, read from its cache or computed once.

    Args:
        params: of the network.
        network: the `model` of the predictions.
        data: decoded images and their table.

    Returns:
        Predictions as `predictions.COLUMNS` has them, with regime `features:<classifier>` and the network's first seed;
        no rows where no classifier is named, or where the weights are missing and may be. `attrs["chosen"]` holds each
        classifier's hyper-parameters, and its AP in cross-validation as `cv_ap`.

    Raises:
        WeightsError: the weights cannot be had, and `without_weights` says to stop.
    """
    empty = pd.DataFrame(columns=COLUMNS)
    try:
        source = find_weights(params) if params.classifiers else None
    except WeightsError:
        if params.without_weights == "stop":
            raise
        return empty
    if source is None:
        return empty
    subset = data.table["subset"].to_numpy()
    known, scored = (np.flatnonzero(np.isin(subset, names)) for names in (("train", "val"), ("val", "test")))
    train_features, views = _read_features(params, data.images, known=known, scored=scored, weights=source.sha256)
    train_features = train_features[subset[known] == "train"]
    targets = data.table["target"].to_numpy(dtype=int)
    tables, chosen = [], {}
    for name in params.classifiers:
        model, chosen[name] = fit_classifier(name, train_features, targets[subset == "train"], seed=params.seeds[0])
        probs = predict_views(model, views)
        rows = data.table.iloc[scored]
        tables.append(
            pd.DataFrame(
                {
                    "image_id": rows["image_id"].to_numpy(),
                    "split": rows["subset"].to_numpy(),
                    "model": network,
                    "regime": f"features:{name}",
                    "seed": params.seeds[0],
                    "target": targets[scored],
                    "logit": logit(probs),
                    "probability": probs,
                }
            )
        )
    table = pd.concat(tables, ignore_index=True)
    table.attrs["chosen"] = chosen
    return table


def fit_classifier(
    name: str, features: np.ndarray, targets: np.ndarray, *, seed: int, folds: int = 5
) -> tuple[BaseEstimator, dict[str, float]]:
    """Choose a classifier's hyper-parameters by cross-validated AP, then fit it to all the training images.

    Support vector machines are given probabilities by Platt's method (Platt 1999), its sigmoid fitted to
    cross-validated decision values.

    Args:
        name: one of `CANDIDATES`.
        features: (N, D) float.
        targets: (N,) int, 0 or 1.
        seed: of the folds and of the classifier.
        folds: of the cross-validation, each with both classes in proportion.

    Returns:
        model: with `predict_proba`.
        chosen: hyper-parameters and `cv_ap`, the mean AP over the folds.
    """
    estimator, grid = CANDIDATES[name]
    estimator = clone(estimator)
    if "random_state" in estimator.get_params():
        estimator.set_params(random_state=seed)
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    prefix = type(estimator).__name__.lower()
    grid = {f"{prefix}__{key}": values for key, values in grid.items()}
    search = GridSearchCV(make_pipeline(StandardScaler(), estimator), grid, scoring="average_precision", cv=splitter)
    with threadpool_limits(1):  # many small problems: threads would only wait for each other, and change the last digit
        model = search.fit(features, targets).best_estimator_
        if not hasattr(model, "predict_proba"):
            model = CalibratedClassifierCV(clone(model), cv=splitter, ensemble=False).fit(features, targets)
    chosen = {key.removeprefix(f"{prefix}__"): value for key, value in search.best_params_.items()}
    return model, {**chosen, "cv_ap": float(search.best_score_)}


def predict_views(model: BaseEstimator, views: np.ndarray) -> np.ndarray:
    """Mean probability of malignant over the views of each image, (N,) float64 strictly between 0 and 1.

    Args:
        model: with `predict_proba`.
        views: (N, V, D) float.
    """
    count, number, _ = views.shape
    probs = model.predict_proba(views.reshape(count * number, -1))[:, 1].reshape(count, number)
    return probs.mean(axis=1).clip(MARGIN, 1 - MARGIN)


def _read_features(
    params: Network, images: np.ndarray, *, known: np.ndarray, scored: np.ndarray, weights: str
) -> tuple[np.ndarray, np.ndarray]:
    """Features of images to learn from, (M, D), and views of images to score, (K, V, D).

    Asked for in the same portions as the regime `features` asks, so that either finds what the other computed.
    """
    compute = choose_compute(params)
    settings = {"params": params, "compute": compute, "weights": weights, "folder": cache_dir() / "features"}
    with computing(compute):
        model = compute.place(build_network(params, pretrained=True, seed=params.seeds[0]))
        first = frozen_features(model, images, known, tta="none", **settings)
        return first[:, 0], frozen_features(model, images, scored, tta=params.tta, **settings)
