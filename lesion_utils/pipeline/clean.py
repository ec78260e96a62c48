"""Removing what a study generated, and nothing else. Standard library only: it works without the environment."""

from __future__ import annotations

import shutil
from pathlib import Path

from lesion_utils.core import paths
from lesion_utils.core.errors import RunError
from lesion_utils.core.git import run_git
from lesion_utils.core.paths import Study, project_root


def clean_study(study: Study) -> list[str]:
    """Remove a study's report, and its decoded images, unless another study shares them: they are decoded again.

    Files under version control stay, and so do downloads (`data/isic2016`), the environment and folders outside the
    project. Where there is no git, a report that was never generated here (it came with the project) stays too.

    Returns:
        what was removed, relative to the project.
    """
    tracked = _list_tracked()
    removed = _remove_cache(study)
    folder = study.report_dir
    made_here = tracked or study.keys.is_dir()  # keys are written by the first run here
    if made_here and _is_ours(folder) and folder.is_dir() and _remove(folder, tracked):
        removed.insert(0, folder)
    return [path.relative_to(project_root()).as_posix() for path in removed]


def _remove_cache(study: Study) -> list[Path]:
    """Remove the files of decoded images that this study alone uses."""
    notes = paths.reports_root().glob(f"*/{study.cache_note.relative_to(study.report_dir)}")
    used = {note: note.read_text(encoding="utf-8").strip() for note in notes}
    name = used.pop(study.cache_note, "")
    files = sorted((paths.cache_dir() / "images").glob(f"{name}.*")) if name and name not in used.values() else []
    removed = [file for file in files if _is_ours(file)]
    for file in removed:
        file.unlink()
    return removed


def _is_ours(path: Path) -> bool:
    """Whether a path lies in the project, and not behind a link."""
    return path.is_relative_to(project_root()) and not path.is_symlink()


def _list_tracked() -> set[Path]:
    """Every file under version control; empty where the project is no clone.

    Raises:
        RunError: it is one, and git does not tell: it refuses another user's, or is not installed.
    """
    listed = run_git("ls-files", "-z")
    if listed is None and (project_root() / ".git").exists():
        do = "type `git status` and follow what it says, or remove by hand what you do not need"
        raise RunError("git does not say which files are under version control", where=project_root(), do=do)
    return {project_root() / name for name in (listed or "").split("\0") if name}


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
