"""Git and notebooks: diffs and merges that people can read, and commits without outputs, for one clone only."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from lesion_utils.errors import RunError
from lesion_utils.paths import project_root


def list_settings() -> dict[str, str]:
    """What the names in `.gitattributes` mean, as git settings; programs by their full path, as PATH may lack them."""
    programs = Path(sys.executable).parent
    nbdime = {name: shlex.quote(str(programs / f"git-nb{name}driver")) for name in ("diff", "merge")}
    return {
        "diff.jupyternotebook.command": f"{nbdime['diff']} diff",
        "merge.jupyternotebook.name": "nbdime, notebook by notebook",
        "merge.jupyternotebook.driver": f"{nbdime['merge']} merge %O %A %B %L %P",
        "filter.nbstripout.clean": f"{shlex.quote(str(programs / 'nbstripout'))} --keep-id",
        "filter.nbstripout.smudge": "cat",
        # A clone without the program, or with one that fails, must not commit outputs in silence.
        "filter.nbstripout.required": "true",
    }


def setup_git(repository: Path | None = None) -> list[str]:
    """Write the settings into this clone's `.git/config`; nothing outside it changes.

    Returns:
        what was set, a line each.

    Raises:
        RunError: it is not a git clone, or a program is missing.
    """
    folder = repository or project_root()
    programs = Path(sys.executable).parent
    missing = [n for n in ("git-nbdiffdriver", "git-nbmergedriver", "nbstripout") if not (programs / n).is_file()]
    if missing:
        raise RunError(f"not installed: {', '.join(missing)}", where=programs, do="run: make env")
    for name, value in list_settings().items():
        _run_git(folder, "config", "--local", name, value)
    return [f"{name} = {value}" for name, value in list_settings().items()]


def diff_notebooks(revision: str = "HEAD", *, web: bool = False, repository: Path | None = None) -> int:
    """Show how the notebooks differ from a revision, by nbdime, in the terminal or in the browser.

    Args:
        revision: anything that git takes for a commit.
        web: open the browser instead; the command ends when its page is closed.
        repository: of this project unless named.

    Returns:
        nbdime's exit status.

    Raises:
        RunError: there is no such revision.
    """
    folder = repository or project_root()
    _run_git(folder, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    program = Path(sys.executable).parent / ("nbdiff-web" if web else "nbdiff")
    sources = [] if web else ["--ignore-outputs", "--ignore-metadata", "--ignore-details"]
    return subprocess.run([program, *sources, revision, "--", "notebooks"], cwd=folder, check=False).returncode


def _run_git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(
            done.stderr.strip() or f"git {arguments[0]} found nothing",
            where=" ".join(arguments[-1:]),
            do="run this inside a clone of the repository, with a revision that `git log` shows",
        )
    return done.stdout
