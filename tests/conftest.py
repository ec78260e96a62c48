"""What every test may use."""

from __future__ import annotations

import os
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import settings

from lesion_utils.config.load import load_study
from lesion_utils.config.schema import StudyParams
from lesion_utils.core.paths import Study

pytest_plugins = ["drawn_predictions", "fault_table"]

ROOT = Path(__file__).resolve().parent.parent

# The same examples on every machine, however slow or busy it is.
settings.register_profile("reproducible", derandomize=True, deadline=None)
settings.load_profile("reproducible")

# jsonschema, by which nbformat checks notebooks, compiles a grammar of addresses that no notebook has: a second.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]


#: Of a module: every test in it is slow.
SLOW = re.compile(r"^pytestmark = .*\bmark\.slow\b", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where slow tests are left out, a module of nothing else is not imported: those load MLflow, Dask and the like."""
    if collection_path.suffix != ".py" or "not slow" not in config.option.markexpr:
        return None
    return bool(SLOW.search(collection_path.read_text(encoding="utf-8"))) or None


#: Modules with tests of minutes: they begin first, so that no worker waits at the end for another.
LONGEST = re.compile(r"test_(pipeline|privacy|jobs|cluster|execute|makefile|train)\.py$")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `--no-loadscope-reorder`, workers take the modules in this order."""
    items.sort(key=lambda item: LONGEST.search(item.path.name) is None)


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """The variables that the command line and workers set for processes of theirs end with the test."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """Unseeded draws are the same, whichever tests came before."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """The demo, whose report is an empty folder."""
    monkeypatch.setenv("REPORTS_DIR", str(tmp_path))
    return Study("demo")


@pytest.fixture(scope="session")
def params() -> StudyParams:
    """The demo's parameters."""
    return load_study(Study("demo").params_dir)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real ISIC 2016 images; the test is skipped, visibly, where there is none."""
    folder = Path(os.environ.get("DATA_DIR") or ROOT.parent / "shared" / "data" / "isic2016")
    if not (folder / "ISBI2016_ISIC_Part3_Training_GroundTruth.csv").is_file():
        pytest.skip("needs the real ISIC 2016 images: set DATA_DIR")
    return folder


@pytest.fixture(scope="session")
def real_weights() -> Path:
    """The folder of pretrained weights; the test is skipped, visibly, where there is none."""
    folder = Path(os.environ.get("WEIGHTS_DIR") or ROOT.parent / "shared" / "weights")
    if not list(folder.glob("*.safetensors")):
        pytest.skip("needs pretrained weights: set WEIGHTS_DIR")
    return folder


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory) -> Path:
    """A folder, awkwardly named, with weights of `small_cnn` that were not drawn with the seeds of the tests."""
    import timm
    import torch
    from safetensors.torch import save_file
    from small_project import AWKWARD_NAME

    folder = tmp_path_factory.mktemp(AWKWARD_NAME)
    torch.manual_seed(99)
    save_file(timm.create_model("small_cnn").state_dict(), folder / "small.safetensors")
    return folder


@pytest.fixture
def small_machine(tmp_path, small_weights, monkeypatch) -> None:
    """The processor, one thread, a cache of the test's own, and those weights."""
    settings = {"WEIGHTS_DIR": small_weights, "LESION_CACHE": tmp_path / "cache", "THREADS": 1, "DEVICE": "cpu"}
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))


@pytest.fixture
def few_fits(monkeypatch):
    """Classifiers are chosen from two candidates in two folds: for what is the same with more of both."""
    from lesion_utils.training import classifiers
    from lesion_utils.training.classifiers import CANDIDATES

    few = {name: (kind, {key: values[:2] for key, values in grid.items()}) for name, (kind, grid) in CANDIDATES.items()}
    monkeypatch.setattr(classifiers, "CANDIDATES", few)
    monkeypatch.setattr(classifiers, "FOLDS", 2)
