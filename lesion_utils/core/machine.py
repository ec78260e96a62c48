"""What this machine is, as records and pages name it."""

from __future__ import annotations

import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def name_processor() -> str:
    """The processor's name and, where the system tells them, its family, model and stepping.

    A name such as "AMD EPYC" covers generations whose arithmetic differs in the last digit.
    """
    try:
        lines = [line.partition(":") for line in _CPUINFO.read_text(encoding="utf-8").splitlines()]
    except OSError:
        lines = []
    facts = {key.strip(): value.strip() for key, _, value in reversed(lines)}  # of the first core
    name = facts.get("model name") or platform.processor() or platform.machine()
    keys = {"family": "cpu family", "model": "model", "stepping": "stepping"}
    kind = ", ".join(f"{label} {facts[key]}" for label, key in keys.items() if key in facts)
    return f"{name} ({kind})" if kind else name
