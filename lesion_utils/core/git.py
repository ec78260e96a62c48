"""Asking git about the project, where there is one."""

from __future__ import annotations

import subprocess

from lesion_utils.core.paths import project_root


def run_git(*arguments: str) -> str | None:
    """Output of a git command in the project; None where there is no git, no clone or no commit."""
    command = ["git", "-C", str(project_root()), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None
