"""A report with really trained networks, each a second's work, as far as handing them over needs it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from small_project import STEPS
from tiny_study import TinyImages, make_images

from lesion_utils.config.schema import StudyParams
from lesion_utils.core.files import dump_json, write_atomic
from lesion_utils.core.paths import Study
from lesion_utils.core.seal import seal_record
from lesion_utils.evaluation.predictions import check_predictions
from lesion_utils.evaluation.tables import tabulate_results
from lesion_utils.training.train import train_network

DATA = make_images()


def use_machine(patch: pytest.MonkeyPatch, root: Path, **more: object) -> None:
    """Reports and caches in a folder of the test's own, one thread, no GPU."""
    patch.delenv("DATA_DIR", raising=False)
    settings = {"REPORTS_DIR": root / "reports", "LESION_CACHE": root / "cache", "THREADS": 1, "DEVICE": "cpu"}
    for name, value in (settings | more).items():
        patch.setenv(name, str(value))


def write_trained_report(study: Study, params: StudyParams) -> pd.DataFrame:
    """Train, and write what the training notebooks and 05_comparison leave of it.

    Args:
        study: a folder of `params/`; REPORTS_DIR says where its report goes.
        params: of the training; its resnet50 alone is trained.

    Returns:
        The predictions, as `train_network` returns them.
    """
    (step,) = (step for step in STEPS.values() if step.network == "resnet50")
    result = train_network(params, step.network, data=DATA, folder=study.runs / step.name)
    runs = [{k: v for k, v in run.items() if k not in ("identity", "seconds")} for run in result.runs]
    write_atomic(study.metrics / f"{step.name}.json", dump_json({"runs": runs}))
    write_record(study, step.name, DATA)
    everything = check_predictions(result.predictions.assign(model=params.models[step.network]))
    results = tabulate_results(everything, params.comparison).to_csv(index=False, float_format="%.9g")
    write_atomic(study.metrics / "05_comparison_results.csv", results)
    write_atomic(study.metrics / "05_comparison.json", dump_json({"images": 12, "malignant": 4}))
    return result.predictions


def write_record(study: Study, step: str, data: TinyImages) -> None:
    """The parts of a step's `run.json` that an export reads."""
    about = {"description": f"{len(data.images)} images of noise", "content_hash": "ab" * 32}
    record = {"commit": "c" * 40, "data": about}
    write_atomic(study.runs / step / "run.json", dump_json(seal_record(record)))
