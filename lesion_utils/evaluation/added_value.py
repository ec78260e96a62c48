"""What a network adds to a metadata-only baseline: both together against the baseline alone.

The difference of two AUCs does not answer this. A network that ranks no better than a baseline still adds to it if it
is wrong on other images (Pencina et al. 2008; Demler et al. 2012).
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_expit, logit
from scipy.stats import chi2
from sklearn.linear_model import LogisticRegression

from lesion_utils.config.schema import Comparison
from lesion_utils.evaluation.intervals import draw_weights
from lesion_utils.evaluation.paired_tests import compare_bootstrap
from lesion_utils.evaluation.predictions import iterate_means
from lesion_utils.evaluation.ranking import find_classical

#: Probabilities are kept this far from 0 and 1 before they become log odds.
MARGIN = 1e-6


class LikelihoodRatio(NamedTuple):
    """Twice the gain in log likelihood by one more variable, and its p-value (chi-squared, one degree of freedom)."""

    statistic: float
    p: float


def likelihood_ratio(targets: ArrayLike, baseline: ArrayLike, network: ArrayLike) -> LikelihoodRatio:
    """Likelihood ratio test of a network's log odds added to a baseline's in a logistic model of the labels.

    Args:
        targets: (N,) labels, 0 or 1.
        baseline: (N,) probabilities of the metadata-only baseline.
        network: (N,) probabilities of the network, on the same images.
    """
    labels = np.asarray(targets)
    alone, added = (logit(np.clip(np.asarray(p, dtype=float), MARGIN, 1 - MARGIN)) for p in (baseline, network))
    gain = 2 * (_fit(labels, np.column_stack([alone, added])) - _fit(labels, alone[:, None]))
    return LikelihoodRatio(gain, float(chi2.sf(gain, 1)))


def _fit(labels: NDArray[np.int_], design: NDArray[np.float64]) -> float:
    """The greatest log likelihood of a logistic model."""
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10).fit(design, labels)
    return float(log_expit(np.where(labels == 1, 1, -1) * model.decision_function(design)).sum())


def measure_added_value(predictions: pd.DataFrame, metadata: pd.DataFrame, params: Comparison) -> pd.DataFrame:
    """Each network and combination added to each metadata-only baseline.

    On the test images, nothing is fitted: the plain mean of both probabilities represents both together, against the
    baseline alone, with paired bootstrap intervals. The likelihood ratio test is made on out-of-fold scores, where the
    study has several folds and the baselines were scored alike; otherwise on the test images.

    Args:
        predictions: from `predictions.add_ensembles`.
        metadata: from `shortcuts.predict_from_metadata`.
        params: of the comparison.

    Returns:
        one row per model, baseline and metric ("ap", "auc"): `name`, `model`, `regime`, `control`, `metric`,
        `together`, `alone`, `increment`, `low`, `high`, `p` (of the increment), `lr`, `lr_p`, `lr_images`, `lr_split`
        ("val" or "test").
    """
    rows, weights = [], None
    known = {key: part.set_index("image_id")["probability"] for key, part in metadata.groupby(["control", "split"])}
    controls = list(metadata["control"].unique())
    networks = iterate_means(predictions[~find_classical(predictions)])
    for (name, validation, test), control in product(networks, controls):
        if weights is None:
            weights = draw_weights(test["target"], draws=params.bootstrap_draws, seed=params.seed)
        alone = known[control, "test"].loc[test["image_id"]].to_numpy()
        out_of_fold = known.get((control, "val"), pd.Series(dtype=float))
        split = "val" if len(validation) and validation["image_id"].isin(out_of_fold.index).all() else "test"
        images = validation if split == "val" else test
        ratio = likelihood_ratio(images["target"], known[control, split].loc[images["image_id"]], images["probability"])
        about = name.columns | {"control": control}
        tested = {"lr": ratio.statistic, "lr_p": ratio.p, "lr_images": len(images), "lr_split": split}
        together = (alone + test["probability"].to_numpy()) / 2
        for metric in ("ap", "auc"):
            found = compare_bootstrap(
                test["target"], together, alone, metric=metric, weights=weights, confidence=params.confidence
            )
            span = {"increment": found.difference, "low": found.low, "high": found.high, "p": found.p}
            rows.append(about | {"metric": metric, "together": found.a, "alone": found.b} | span | tested)
    return pd.DataFrame(rows)
