"""Removing what a study generated, and nothing else. Standard library only: it works without the environment."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from lesion_utils.core import paths
from lesion_utils.core.errors import RunError
from lesion_utils.core.git import run_git
from lesion_utils.core.paths import Study, name_file, project_root
from lesion_utils.core.running import list_running


def clean_study(study: Study) -> list[str]:
    """Remove a study's report, and its decoded images, unless another study shares them: they are decoded again.

    Files under version control stay, and so do downloads (`data/isic2016`), the environment and folders outside the
    project. Where there is no git, a report that was never generated here (it came with the project) stays too.

    Returns:
        what was removed, relative to the project.

    Raises:
        RunError: a run holds the study, git does not say which files it has, or the report is another repository.
    """
    if running := list_running(study):
        what = f"a run holds the study {study.name}: {', '.join(running)}; nothing was removed"
        do = f"wait until it has ended, or stop it with Ctrl-C, and type make clean STUDY={study.name} again"
        raise RunError(what, do=do)
    tracked = _list_tracked()
    folder = study.report_dir.resolve()
    if repository := next(folder.rglob(".git"), None) if _is_report(study, folder) else None:
        do = "move it away, or remove by hand what you do not need"
        raise RunError("a git repository lies in the report; nothing was removed", where=name_file(repository), do=do)
    removed = _remove_cache(study, tracked)
    made_here = tracked or study.keys.is_dir()  # keys are written by the first run here
    if made_here and _is_report(study, folder) and _remove(folder, tracked):
        removed.insert(0, folder)
    return [path.relative_to(project_root()).as_posix() for path in removed]


def _is_report(study: Study, folder: Path) -> bool:
    """Whether a resolved folder is the study's own, directly below the reports, inside the project."""
    reports = paths.reports_root().resolve()
    return folder == reports / study.name and _is_inside(reports) and folder.is_dir()


def _is_inside(path: Path) -> bool:
    """Whether a resolved path lies below the project's folder."""
    return project_root() in path.parents


def _remove_cache(study: Study, tracked: set[Path]) -> list[Path]:
    """Remove the files of decoded images that this study alone uses."""
    notes = paths.reports_root().glob(f"*/{study.cache_note.relative_to(study.report_dir)}")
    used = {note: note.read_text(encoding="utf-8").strip() for note in notes}
    name = used.pop(study.cache_note, "")
    images = (paths.cache_dir() / "images").resolve()
    # The note is a file that anyone may have edited: only a plain name stands for files.
    if not re.fullmatch(r"\w[\w.-]*", name) or name in used.values() or not _is_inside(images):
        return []
    removed = [file for file in sorted(images.glob(f"{name}.*")) if file.is_file() and file not in tracked]
    for file in removed:
        file.unlink()
    return removed


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
