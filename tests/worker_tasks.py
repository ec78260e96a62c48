"""Tasks for tests of other processes, and what these open: here, because a worker imports it by its name."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tiny_study import TinyImages, make_demanding_study, make_images

from lesion_utils.config.data import Data
from lesion_utils.core.errors import DataError
from lesion_utils.core.paths import Study
from lesion_utils.training.jobs import Job

PARAMS = make_demanding_study(epochs=12)


def open_tiny(study: Study, data: Data) -> TinyImages:
    """Few images."""
    return make_images(16, 6, 6)


def open_in_parent_only(study: Study, data: Data) -> TinyImages:
    """Few images; whoever opens them in another process than the first gets none."""
    if os.environ["FIRST_PROCESS"] != str(os.getpid()):
        raise DataError("these images cannot be read", where="here")
    return make_images(16, 6, 6)


def die_in_worker(study: Study, data: Data) -> TinyImages:
    """Few images, which no other process survives."""
    if os.environ["FIRST_PROCESS"] != str(os.getpid()):
        os.kill(os.getpid(), signal.SIGKILL)
    return make_images(16, 6, 6)


def note_device(study: Study, data: Data) -> TinyImages:
    """Few images; leaves a file named by the device that this process sees."""
    folder = Path(os.environ["REPORTS_DIR"])
    (folder / f"{os.environ.get('CUDA_VISIBLE_DEVICES')}-{os.getpid()}").touch()
    return make_images(16, 6, 6)


def make_jobs(tmp_path: Path, load=open_tiny) -> list[Job]:
    """A task for each of two seeds."""
    folder, logs = tmp_path / "runs", tmp_path / "logs"
    return [
        Job("tiny", PARAMS, "resnet50", "scratch", seed, None, folder, logs / f"{seed}.jsonl", "resnet50", load)
        for seed in (1, 2)
    ]
