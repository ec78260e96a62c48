"""Machines as nobody wishes them: folders that may not be written, a disk that fills up, no network."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache

import pytest

#: Root may write anywhere; without these it may not, as everyone else.
_OVERRIDE = "-dac_override,-dac_read_search,-fowner"


def as_everyone() -> list[str]:
    """What a command begins with so that permissions hold, for root too.

    Skips the test where that cannot be had.
    """
    if os.geteuid():
        return []
    if not shutil.which("setpriv"):
        pytest.skip("permissions do not bind root, and there is no setpriv")
    return ["setpriv", f"--inh-caps={_OVERRIDE}", f"--bounding-set={_OVERRIDE}"]


def with_own_mounts() -> list[str]:
    """What a command begins with that may mount disks which nobody else sees.

    Skips the test where the system does not allow it.
    """
    if not _allows("unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"):
        pytest.skip("this system lets no process mount a disk of its own")
    return ["unshare", "--map-root-user", "--mount"]


@cache
def _allows(*command: str) -> bool:
    if not shutil.which(command[0]):
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
