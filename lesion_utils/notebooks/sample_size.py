"""A learning curve of notebook 03: the scores of a classifier on frozen features by the number of training images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from threadpoolctl import threadpool_limits

from lesion_utils.config.schema import Network
from lesion_utils.core.events import OnEvent
from lesion_utils.evaluation.intervals import format_value
from lesion_utils.evaluation.metrics import average_precision, roc_auc
from lesion_utils.training.classifiers import CANDIDATES, FOLDS, fit_classifier, name_groups, read_features
from lesion_utils.training.task import Images

#: Shares of the training images, and how often each is drawn.
SHARES, REPEATS = (0.1, 0.25, 0.5, 0.75, 1.0), 20


def trace_sample_size(
    params: Network, classified: pd.DataFrame, *, data: Images, on_event: OnEvent | None = None
) -> pd.DataFrame:
    """The scores of logistic regression on a network's frozen features, for each share of the training images.

    Args:
        params: of the network.
        classified: the predictions of the study's classical classifiers; without any, there are no features.
        data: decoded images and their table.
        on_event: called while features are computed.

    Returns:
        one row per share: `share`, `images`, `malignant`, `repeats`, and for "ap" and "auc" on the test images `_mean`,
        `_low`, `_high`: mean, lowest and highest of the draws. Empty without features.
    """
    if classified.empty:
        return pd.DataFrame(columns=["share", "images", "malignant", "repeats"])
    params, targets = params.in_regime("features"), data.table["target"].to_numpy(dtype=int)
    known, test = (np.flatnonzero(data.table["subset"].isin(s)) for s in (("train", "val"), ("test",)))
    read = partial(read_features, params, data.images, tta="none", on_event=on_event)
    groups = name_groups(data.table.iloc[known], data.duplicates)
    features, tested = read(known)[:, 0], read(test)[:, 0]
    draws = draw_subsets(features, tested, targets[known], targets[test], groups=groups, seed=params.seeds[0])
    return summarise_draws(draws)


def draw_subsets(
    features: np.ndarray,
    test_features: np.ndarray,
    targets: np.ndarray,
    test_targets: np.ndarray,
    *,
    groups: np.ndarray,
    seed: int,
    shares: Sequence[float] = SHARES,
    repeats: int = REPEATS,
) -> pd.DataFrame:
    """Fit logistic regression to random subsets of the training images.

    Each share is drawn several times, within each class, so that the spread shows the effect of the choice of images.
    The regularisation is chosen by cross-validation in the first draw of a share.

    Args:
        features: (N, D) float, of the training images.
        test_features: (M, D) float.
        targets: (N,) int, 0 or 1.
        test_targets: (M,) int.
        groups: (N,) as `fit_classifier`.
        seed: of the draws.
        shares: of the training images, in (0, 1].
        repeats: draws of each share below 1.

    Returns:
        one row per share and draw: `share`, `repeat`, `images`, `malignant`, `ap`, `auc` (on the test images).
    """
    rng, rows = np.random.default_rng(seed), []
    for share in shares:
        model: Any = None
        for repeat in range(repeats if share < 1 else 1):
            parts = (rng.permutation(np.flatnonzero(targets == target)) for target in (0, 1))
            own = np.sort(np.concatenate([part[: max(FOLDS, round(share * len(part)))] for part in parts]))
            known = (features[own], targets[own])
            if model is None:
                model, _ = fit_classifier(CANDIDATES["logistic"], *known, groups=groups[own], seed=seed)
            with threadpool_limits(1):
                probs = clone(model).fit(*known).predict_proba(test_features)[:, 1]
            counted = {"images": len(own), "malignant": int(targets[own].sum())}
            scores = {"ap": average_precision(test_targets, probs), "auc": roc_auc(test_targets, probs)}
            rows.append({"share": share, "repeat": repeat, **counted, **scores})
    return pd.DataFrame(rows)


def summarise_draws(draws: pd.DataFrame) -> pd.DataFrame:
    """Mean, lowest and highest score of each share of `draw_subsets`; the test images are the same throughout."""
    named = {f"{metric}_{kind}": (metric, kind) for metric in ("ap", "auc") for kind in ("mean", "min", "max")}
    rows = draws.groupby("share").agg(
        images=("images", "first"), malignant=("malignant", "first"), repeats=("repeat", "size"), **named
    )
    return rows.reset_index().rename(columns=lambda name: name.replace("_min", "_low").replace("_max", "_high"))


def state_sample_size(rows: pd.DataFrame) -> str:
    """Say how the scores change with the number of training images.

    Args:
        rows: of `trace_sample_size`.
    """
    if rows.empty:
        return "There is no curve over the number of training images, because this study has no frozen features."
    told = [
        f"{row.images:,} training images: AP {_write(row, 'ap')}, AUC {_write(row, 'auc')}" for row in rows.itertuples()
    ]
    half, whole = (rows.set_index("share")["ap_mean"].get(share) for share in (0.5, 1.0))
    return (
        f"Logistic regression on frozen features, on the test images (range of the draws): {'; '.join(told)}. "
        f"All images instead of half of them: AP {format_value(whole - half, form='+.3f')}."
    )


def _write(row: Any, metric: str) -> str:
    mean, low, high = (getattr(row, f"{metric}_{kind}") for kind in ("mean", "low", "high"))
    return format_value(mean, low, high) if row.repeats > 1 else f"{mean:.3f}"
