"""Which steps of a study run at this moment. Standard library only: `make clean` asks without the environment."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lesion_utils.core import paths
from lesion_utils.core.paths import Study


def _lock_folder(study: Study) -> Path:
    """Beside the report and not in it: what removes the report must not remove the locks."""
    return paths.reports_root() / ".running" / study.name


@contextmanager
def mark_running(study: Study, step: str) -> Iterator[None]:
    """Hold the lock that says that a step of a study runs; the system frees it, however the process ends."""
    path = _lock_folder(study) / step
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def list_running(study: Study) -> list[str]:
    """Steps of a study that run now, in this or another process, sorted."""
    return [path.name for path in sorted(_lock_folder(study).glob("*")) if _is_locked(path)]


def _is_locked(path: Path) -> bool:
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
