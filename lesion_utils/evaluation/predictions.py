"""The hand-over from training to evaluation: one CSV file of scores per network, checked when written and when read.

One row per image, run and split: `image_id,split,model,regime,seed,target,logit,probability`. A run is one (model,
regime, seed). Every figure and number of the comparison comes from these files; no network is loaded again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from lesion_utils.core.errors import DataError, MetricError
from lesion_utils.core.files import write_atomic
from lesion_utils.core.names import COMBINATION, SeriesName, name_series, name_training
from lesion_utils.data.tables import dump_csv, read_csv
from lesion_utils.evaluation.metrics import DEFAULT_THRESHOLD

COLUMNS = ["image_id", "split", "model", "regime", "seed", "target", "logit", "probability"]
RUN = ["model", "regime", "seed"]

#: What `trained.mark_training` adds.
MARKS = ["networks", "trained"]

#: The seed of the rows that hold the mean probability over all seeds.
ENSEMBLE = "ensemble"

#: Logits and probabilities are both written with nine digits: float32 survives, and they agree at least this well.
AGREEMENT = 1e-6


def check_predictions(table: pd.DataFrame, *, where: object = None) -> pd.DataFrame:
    """Predictions in their canonical order and types, or an error that says what is wrong.

    Args:
        table: the columns `COLUMNS`; seed int, target 0 or 1, probability in [0, 1] the logistic function of logit.
        where: the file, for the message.

    Raises:
        DataError: columns, splits, targets or images do not fit.
        MetricError: a score is NaN or infinite, or its logit and probability disagree.
    """
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise DataError(f"predictions lack {', '.join(missing)}", where=where, expected=",".join(COLUMNS))
    table = table[COLUMNS].sort_values([*RUN, "split", "image_id"], ignore_index=True)
    if table.empty:
        raise DataError("there is not one prediction", where=where, do="run the training notebooks first")
    if not set(table["split"]) <= {"val", "test"}:
        raise DataError(f"splits {sorted(set(table['split']))}", where=where, expected="val and test")
    if table.duplicated([*RUN, "split", "image_id"]).any():
        raise DataError("an image has two scores in one run", where=where, expected="one row per image, split and run")
    if not table["target"].isin((0, 1)).all() or (table.groupby("image_id")["target"].nunique() > 1).any():
        raise DataError("targets are not one 0 or 1 per image", where=where, expected="0 benign, 1 malignant")
    _check_same_images(table, where)
    _check_values(table, where)
    return table


def _check_same_images(table: pd.DataFrame, where: object) -> None:
    images = table.groupby([*RUN, "split"])["image_id"].agg(tuple)
    first = {key[-1]: ids for key, ids in reversed(list(images.items()))}
    odd = [key for key, ids in images.items() if ids != first[key[-1]]]
    if odd:
        raise DataError(
            f"run {odd[0][:3]} does not score the same {odd[0][3]} images as the others",
            where=where,
            expected="the same images in every run, so that runs can be compared pair by pair",
            do="run the notebook of that network again",
        )


def _check_values(table: pd.DataFrame, where: object) -> None:
    values = table[["logit", "probability"]].to_numpy(dtype=np.float64)
    if not np.isfinite(values).all():
        run = table.loc[~np.isfinite(values).all(axis=1), RUN].iloc[0].tolist()
        raise MetricError(f"run {run} has NaN or infinite scores", where=where, do="look at its learning curve")
    gap = np.abs(expit(values[:, 0]) - values[:, 1])
    if gap.max() > AGREEMENT:
        run = table.loc[gap.argmax(), RUN].tolist()
        raise MetricError(
            f"run {run}: probability differs from the logistic function of logit by up to {gap.max():.3g}",
            where=where,
            expected=f"at most {AGREEMENT:g}",
        )


def write_predictions(table: pd.DataFrame, path: Path) -> Path:
    """Check predictions and write them, sorted, nine significant digits; the file appears whole or not at all."""
    table = check_predictions(table, where=path)
    write_atomic(Path(path), dump_csv(table))
    return Path(path)


def read_predictions(paths: Path | Iterable[Path], *, models: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Read and check one file of predictions or several together.

    Args:
        paths: of the files.
        models: file's name without `.csv` -> the `model` of its rows, which tells it from those of the other files;
            as written by default.

    Raises:
        DataError: a file is missing, or as `check_predictions`.
    """
    paths = [Path(paths)] if isinstance(paths, str | Path) else [Path(p) for p in paths]
    for path in paths:
        if not path.is_file():
            raise DataError("no predictions here", where=path, do="run the training notebook of that network first")
    types = {"image_id": str, "split": str, "model": str, "regime": str, "seed": int, "target": int}
    tables = [read_csv(path, dtype=types) for path in paths]
    if models:
        tables = [table.assign(model=models[path.stem]) for path, table in zip(paths, tables, strict=True)]
    return check_predictions(pd.concat(tables, ignore_index=True), where=", ".join(p.name for p in paths))


def join_folds(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """One score per image, model, regime and seed, from the runs of all folds.

    An image that a fold held out has one score. A test image has one of each fold: their mean probability represents
    them, as logit its own.

    Args:
        tables: predictions of single runs.

    Raises:
        DataError: two folds held out the same image.
    """
    scores = pd.concat(tables, ignore_index=True).groupby([*RUN, "split", "image_id", "target"], sort=False)
    mean = scores[["logit", "probability"]].mean().reset_index()
    several = scores.size().to_numpy() > 1
    if (twice := mean[several & mean["split"].ne("test")]).size:
        raise DataError(
            "two folds held this image out, and both scored it",
            where=f"{twice['image_id'].iloc[0]}, {name_training(twice.iloc[0])}",
            expected="each image held out once",
            do="delete data/ of this study's report, and run `make all` for it: the split is made anew",
        )
    mean.loc[several, "logit"] = logit(_keep_finite(mean["probability"][several]))
    return mean[COLUMNS]


def add_ensembles(
    table: pd.DataFrame, combinations: Mapping[str, Sequence[tuple[str, str]]] | None = None
) -> pd.DataFrame:
    """Predictions with, for each model and regime, the mean probability over its seeds as a run of its own.

    Args:
        table: as `read_predictions` returns it.
        combinations: name -> members (model, regime), as `NamedComparison.averages` has them; those whose members are
            all there, and trained, become runs of model "combination" and regime the name: the mean over their
            members, each of which is the mean over its own seeds first.

    Returns:
        the table with seed as text and the rows of seed "ensemble" after the others; their logit is that of the mean.
    """
    means = [_average(table)]
    missing = find_missing(table, combinations or {})
    for name, members in (combinations or {}).items():
        if name not in missing:
            chosen = means[0][pd.MultiIndex.from_frame(means[0][["model", "regime"]]).isin(members)]
            counts = chosen.drop_duplicates(["model", "regime"])[chosen.columns.intersection(["networks"])].sum()
            means.append(_average(chosen.assign(model=COMBINATION, regime=name, **counts)))
    return pd.concat([table.assign(seed=table["seed"].astype(str)), *means], ignore_index=True)


def find_missing(
    table: pd.DataFrame, combinations: Mapping[str, Sequence[tuple[str, str]]]
) -> dict[str, list[tuple[str, str]]]:
    """The members of each combination that have no predictions or are not trained; complete ones are left out."""
    usable = table[table["trained"]] if "trained" in table else table
    trained = set(usable[["model", "regime"]].drop_duplicates().itertuples(index=False, name=None))
    missing = {name: [m for m in members if m not in trained] for name, members in combinations.items()}
    return {name: members for name, members in missing.items() if members}


def _average(table: pd.DataFrame) -> pd.DataFrame:
    """The mean probability of each model and regime per image, as rows of seed "ensemble"."""
    marks = [mark for mark in MARKS if mark in table]
    keys = ["model", "regime", "split", "image_id", "target", *marks]
    mean = table.groupby(keys, sort=False, as_index=False)["probability"].mean()
    return mean.assign(seed=ENSEMBLE, logit=logit(_keep_finite(mean["probability"])))[[*COLUMNS, *marks]]


def _keep_finite(probability: pd.Series) -> pd.Series:
    """Probabilities whose logits are finite."""
    return probability.clip(np.finfo(float).tiny, 1 - np.finfo(float).epsneg)


def iterate_runs(table: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str], pd.DataFrame, pd.DataFrame]]:
    """Each run's key (model, regime, seed), its validation rows and its test rows, both in the order of image_id."""
    for key, rows in table.groupby(RUN, sort=False):
        rows = rows.sort_values("image_id", ignore_index=True)
        yield key, rows[rows["split"] == "val"], rows[rows["split"] == "test"]


def iterate_means(table: pd.DataFrame) -> Iterator[tuple[SeriesName, pd.DataFrame, pd.DataFrame]]:
    """Each row of the study, its seeds averaged: networks, classifiers, combinations; as `iterate_runs`."""
    for (_, _, seed), validation, test in iterate_runs(table):
        if seed == ENSEMBLE:
            yield name_rows(test if len(test) else validation), validation, test


def name_rows(rows: pd.DataFrame) -> SeriesName:
    """The name of a model and regime, from its predictions: with what it averages, and whether it is trained.

    Without the columns of `trained.mark_training` it is the plain name.
    """
    first = rows.iloc[0]
    model, regime = first["model"], first["regime"]
    name = name_series(model, regime)
    if "networks" not in rows:
        return name
    kind = "model" if model == COMBINATION else "classifier" if ":" in regime else "network"
    count = first["networks"]
    remark = f"one {kind}" if count == 1 else f"mean of {count} {kind}s"
    return SeriesName(f"{name} ({remark}{'' if first['trained'] else ', not trained'})", model, regime)


def select_run(
    table: pd.DataFrame, *, model: str, regime: str, seed: str = ENSEMBLE, split: str = "test"
) -> pd.DataFrame:
    """The rows of one run and split in the order of image_id; empty when there is no such run."""
    chosen = (table["model"] == model) & (table["regime"] == regime) & (table["split"] == split)
    return table[chosen & (table["seed"].astype(str) == str(seed))].sort_values("image_id", ignore_index=True)


def select_outcomes(targets: np.ndarray, probs: np.ndarray, *, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Pick cases of each outcome at 0.5, at random, so that a grid shows neither the best nor the worst.

    Args:
        count: at most so many of each.
        seed: of the choice.

    Returns:
        "TP", "FN", "FP", "TN" -> positions in the arrays, the highest probability first.
    """
    targets, probs = np.asarray(targets), np.asarray(probs)
    called = probs > DEFAULT_THRESHOLD
    masks = {"TP": (targets == 1) & called, "FN": (targets == 1) & ~called}
    masks |= {"FP": (targets == 0) & called, "TN": (targets == 0) & ~called}
    random = np.random.default_rng(seed)
    chosen = {name: random.permutation(np.flatnonzero(mask))[:count] for name, mask in masks.items()}
    return {name: picks[np.argsort(-probs[picks], kind="stable")] for name, picks in chosen.items()}


def write_submission(run: pd.DataFrame, path: Path) -> Path:
    """Write one run's test scores as an entry to ISIC 2016 Part 3, as today's official scorer reads it.

    The scorer (isic-challenge-scoring) wants the header `image,malignant` and takes scores for text unless they look
    like floats; in 2016 the same rows went in without the header.
    """
    if run["image_id"].duplicated().any():
        raise DataError("a submission holds one score per image", where=path, do="select one run with select_run")
    entry = pd.DataFrame({"image": run["image_id"], "malignant": run["probability"].astype(float)})
    write_atomic(Path(path), dump_csv(entry.sort_values("image"), digits=None))
    return Path(path)
