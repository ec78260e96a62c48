"""What tests of training in other processes share."""

from __future__ import annotations

import os

import pytest
from tiny_study import make_images, read_results
from worker_tasks import PARAMS

from lesion_utils.extras import ahead
from lesion_utils.training.train import train_network


@pytest.fixture
def two_workers(small_machine, tmp_path, monkeypatch):
    """Two workers with one thread each."""
    settings = {"REPORTS_DIR": tmp_path / "reports", "JOBS": 2, "FIRST_PROCESS": os.getpid()}
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("CLUSTER", raising=False)
    monkeypatch.setattr(ahead, "cpu_count", lambda **_: 2)
    (tmp_path / "reports").mkdir()


@pytest.fixture(scope="session")
def one_process(tmp_path_factory) -> dict[str, object]:
    """What one process leaves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THREADS", "1")
        patch.setenv("DEVICE", "cpu")
        folder = tmp_path_factory.mktemp("one process")
        train_network(PARAMS, "resnet50", data=make_images(16, 6, 6), folder=folder)
        return read_results(folder)
