"""The tables of the papers that this study reproduces: Lopez et al. (2017) and Benyahia et al. (2022)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from lesion_utils.config.schema import Comparison
from lesion_utils.core.names import COMBINATION, name_model
from lesion_utils.evaluation.candidates import CLASSICAL, find_classical
from lesion_utils.evaluation.evaluate import evaluate
from lesion_utils.evaluation.intervals import map_draws, percentile_interval
from lesion_utils.evaluation.literature import MARKS, SECONDARY_MARK
from lesion_utils.evaluation.predictions import ENSEMBLE, select_run

#: What Lopez et al. print for each regime, and the specificity that the imbalance of the official test set calls for.
LOPEZ_METRICS = ("accuracy", "sensitivity", "specificity", "precision", "log_loss")

LOPEZ_REGIMES = ("scratch", "features", "finetune")


def draw_balanced(targets: ArrayLike, *, per_class: int, repeats: int, seed: int) -> NDArray[np.uint8]:
    """Subsets with as many malignant as benign images, drawn without replacement.

    Args:
        targets: (N,) labels, 0 or 1.
        per_class: images of each class; a smaller class bounds it.
        repeats: how many subsets.
        seed: of the random stream.

    Returns:
        (repeats, N) weights, 1 for the images of a subset and 0 for the rest.
    """
    labels = np.asarray(targets).astype(bool)
    size = min(per_class, int(labels.sum()), int((~labels).sum()))
    keys = np.random.default_rng(seed).random((repeats, labels.size))
    weights = np.zeros(keys.shape, dtype=np.uint8)
    for member in (labels, ~labels):
        ranks = keys[:, member].argsort(axis=1).argsort(axis=1)
        weights[:, member] = ranks < size
    return weights


def tabulate_regimes(
    predictions: pd.DataFrame, results: pd.DataFrame, published: pd.DataFrame, params: Comparison
) -> pd.DataFrame:
    """Lopez's table: three regimes, on the official test images and on balanced subsets of them.

    Lopez et al. tested on 75 + 75 images, where accuracy is another quantity than on the official 75 + 304; so theirs
    is set beside the mean over many such subsets, whose spread says what one subset is worth.

    Args:
        predictions: from `add_ensembles`; networks enter by their mean probability over seeds.
        results: from `tabulate_results`.
        published: from `read_published`.
        params: size and number of the balanced subsets, seed, confidence.

    Returns:
        one row per regime, source and metric: `regime`, `model` ("" of published rows), `source`, `balanced` (bool),
        `metric`, `value`, `low`, `high` (the interval, or the middle share of subsets; NaN in published rows), `sd`
        (over subsets; NaN elsewhere), `mark`.
    """
    own = results[(results["seed"] == ENSEMBLE) & results["regime"].isin(LOPEZ_REGIMES)]
    own = own[own["model"] != COMBINATION]
    official = own[own["metric"].isin(LOPEZ_METRICS)].assign(balanced=False, sd=np.nan, mark="")
    parts = [official.assign(source=official["model"].map(name_model))]
    for (model, regime), _ in own.groupby(["model", "regime"], sort=False):
        run = select_run(predictions, model=model, regime=regime)
        parts.append(_evaluate_balanced(run, params).assign(regime=regime, model=model, source=name_model(model)))
    parts.append(_list_lopez(published))
    table = pd.concat(parts, ignore_index=True)
    columns = ["regime", "model", "source", "balanced", "metric", "value", "low", "high", "sd", "mark"]
    order = [table["regime"].map(LOPEZ_REGIMES.index), table["metric"].map(LOPEZ_METRICS.index)]
    return table.iloc[np.lexsort(order[::-1])][columns].reset_index(drop=True)


def _evaluate_balanced(run: pd.DataFrame, params: Comparison) -> pd.DataFrame:
    targets, probs = run["target"], run["probability"]
    weights = draw_balanced(
        targets, per_class=params.balanced_subset, repeats=params.balanced_repeats, seed=params.seed
    )
    draws = map_draws(lambda part: evaluate(targets, probs, weights=part), weights)
    rows = []
    for metric in LOPEZ_METRICS:
        spread = percentile_interval(draws[metric], confidence=params.confidence)
        values = draws[metric][~np.isnan(draws[metric])]
        mean, sd = (values.mean(), values.std(ddof=min(1, values.size - 1))) if values.size else (np.nan, np.nan)
        rows.append({"metric": metric, "value": mean, "low": spread.low, "high": spread.high, "sd": sd})
    return pd.DataFrame(rows).assign(balanced=True, mark=f"mean of {params.balanced_repeats} subsets")


def _list_lopez(published: pd.DataFrame) -> pd.DataFrame:
    rows = published[published["regime"] != ""].melt(
        id_vars=["regime", "certainty"], value_vars=list(LOPEZ_METRICS), var_name="metric"
    )
    recalled = (rows["certainty"] == "secondary") | (rows["metric"] == "log_loss")  # a loss follows from no counts
    marks = rows["certainty"].map(MARKS).mask(recalled, SECONDARY_MARK)
    return (
        rows.dropna(subset="value")
        .assign(model="", source="VGG16, Lopez et al. 2017", balanced=True, mark=marks)
        .assign(low=np.nan, high=np.nan, sd=np.nan)
    )


def tabulate_classifiers(results: pd.DataFrame, *, metric: str) -> pd.DataFrame:
    """Benyahia's table: classical classifiers on the frozen features of each backbone.

    Returns:
        one row per backbone and classifier: `backbone`, `classifier`, `value`, `low`, `high`.
    """
    chosen = find_classical(results) & (results["metric"] == metric)
    rows = results[chosen & (results["seed"] == ENSEMBLE)]
    named = rows.assign(backbone=rows["model"], classifier=rows["regime"].str.removeprefix(CLASSICAL))
    return named[["backbone", "classifier", "value", "low", "high"]].reset_index(drop=True)
