"""Removing what a study generated, and nothing else. Standard library only: it works without the environment."""

from __future__ import annotations

import shutil
from pathlib import Path

from lesion_utils.core import paths
from lesion_utils.core.git import run_git
from lesion_utils.core.paths import Study, project_root


def clean_study(study: Study) -> list[str]:
    """Remove a study's report, and the drawn and decoded images, which are made again from the same bytes.

    Files under version control stay, and so do downloads (`data/isic2016`), the environment and folders outside the
    project. Where there is no git, a report that was never generated here (it came with the project) stays too.

    Returns:
        what was removed, relative to the project.
    """
    tracked = _list_tracked()
    folders = [paths.cache_dir(), paths.synthetic_dir()]
    if tracked or study.keys.is_dir():  # keys are written by the first run here
        folders.insert(0, study.report_dir)
    inside = [p for p in folders if p.is_relative_to(project_root()) and p.is_dir() and not p.is_symlink()]
    return [folder.relative_to(project_root()).as_posix() for folder in inside if _remove(folder, tracked)]


def _list_tracked() -> set[Path]:
    """Every file under version control; empty where there is no git."""
    return {project_root() / name for name in (run_git("ls-files", "-z") or "").split("\0") if name}


def _remove(folder: Path, tracked: set[Path]) -> bool:
    """Remove a folder but for tracked files; whether anything went."""
    if not any(path.is_relative_to(folder) for path in tracked):
        shutil.rmtree(folder)
        return True
    removed = False
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path not in tracked:
            path.unlink()
            removed = True
    return removed
