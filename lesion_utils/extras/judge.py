"""What a network's scores of a folder are worth, by a file of labels and the measures of 05_comparison."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lesion_utils.config.data import LabelRules
from lesion_utils.config.schema import Comparison
from lesion_utils.core.errors import DataError
from lesion_utils.core.names import list_models
from lesion_utils.core.paths import Study
from lesion_utils.data.folder import FolderIndex
from lesion_utils.data.labels import LISTED, read_labels
from lesion_utils.data.tables import read_csv
from lesion_utils.evaluation.external import GROUPS, judge_scores, widen_measures
from lesion_utils.evaluation.metrics import DEFAULT_THRESHOLD
from lesion_utils.evaluation.predictions import ENSEMBLE
from lesion_utils.extras.predict import ScoredFolder
from lesion_utils.models.predict import TrainedNetwork


def judge_folder(
    scored: ScoredFolder, labels: str, params: Comparison, *, threshold: float | None, rules: LabelRules | None = None
) -> tuple[pd.DataFrame, str]:
    """What the scores are worth by a file of labels.

    Args:
        labels: a label file, as `labels.read_labels` reads it; with site or skin_type these are judged apart.
        params: of the comparison.
        threshold: chosen on the validation images of the network's study; None to call above 0.5.
        rules: names of columns and classes, from the study's data.yaml.

    Returns:
        measures, as `external.judge_scores`; and how many images and labels belong together, in words.

    Raises:
        DataError: lists every line that is refused; or no scored image has a label.
    """
    path = Path(labels).expanduser()
    problems: list[str] = []
    known = read_labels(path, rules, problems=problems, notes=[], folder=scored.folder)
    if problems:
        raise _wrong_labels(path, "\n".join(f"  - {problem}" for problem in problems[:LISTED]))
    index, of = FolderIndex(scored.folder), {}
    for label in known.values():
        paths = index.find(label.name)
        if len(paths) == 1:
            of[paths[0].relative_to(scored.folder).as_posix()] = label
    own = scored.scores.assign(label=[of.get(file) for file in scored.scores["file"]])
    judged = own[own["label"].notna()]
    if judged.empty:
        raise _wrong_labels(path, f"  - none of its {len(known)} lines names an image that was scored")
    columns = {column: [label.more.get(column, "") for label in judged["label"]] for column in GROUPS}
    table = judged.assign(target=[label.target for label in judged["label"]], **columns)
    matched = f"{len(table)} of {len(own)} scored images and {len(known)} labels belong together"
    return judge_scores(table, params, threshold=threshold), matched


def find_threshold(network: TrainedNetwork, about: Mapping[str, Any]) -> float | None:
    """The threshold that the network's study chose on its validation images; None where no report here has it."""
    table = Study(about["study"]).metrics / "05_comparison_results.csv" if about.get("study") else None
    if table is None or not table.is_file():
        return None
    rows = read_csv(table, dtype={"seed": str})
    own = rows[(rows["regime"] == network.regime) & (rows["seed"] == str(network.seed)) & (rows["seed"] != ENSEMBLE)]
    own = own[own["model"].str.partition("@")[0].isin(list_models("", network.settings.backbone))]
    values = own["threshold"].dropna().unique()
    return float(values[0]) if len(values) == 1 else None


def describe_measures(measures: pd.DataFrame, *, threshold: float | None) -> str:
    """The measures as a terminal shows them."""
    called = f"{threshold:.3f}, as the study chose" if threshold is not None else f"{DEFAULT_THRESHOLD}"
    table = widen_measures(measures).set_index(["group", "images", "malignant"]).T
    return f"an image is predicted malignant above {called}\n{table.to_string()}"


def _wrong_labels(path: Path, problems: str) -> DataError:
    return DataError(
        f"these labels cannot be used:\n{problems}",
        where=path,
        expected="a label file with the columns image and label (benign, malignant, or 0, 1)",
        do="correct the lines that are named, set columns and malignant in the study's data.yaml, or leave LABELS out",
    )
