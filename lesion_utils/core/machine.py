"""What this machine is, as records and pages name it."""

from __future__ import annotations

import platform
import re
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def name_processor() -> str:
    """The processor's name and, where the system tells them, its family, model and stepping.

    A name such as "AMD EPYC" covers generations whose arithmetic differs in the last digit.
    """
    try:
        lines = [line.partition(":") for line in _CPUINFO.read_text(encoding="utf-8").splitlines()]
    except OSError:
        lines = []
    facts = {key.strip(): value.strip() for key, _, value in reversed(lines)}  # of the first core
    name = facts.get("model name") or _ask_mac() or platform.processor() or platform.machine()
    keys = {"family": "cpu family", "model": "model", "stepping": "stepping"}
    kind = ", ".join(f"{label} {facts[key]}" for label, key in keys.items() if key in facts)
    return f"{name} ({kind})" if kind else name


def _ask_mac() -> str:
    """A Mac's chip, such as "Apple M2 Pro": Python calls them all "arm". Empty on other systems."""
    if platform.system() != "Darwin":
        return ""
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def describe_gpus() -> str:
    """The NVIDIA GPUs, their driver and the cuDNN of the installed PyTorch, without loading it; empty without GPUs."""
    command = ["nvidia-smi", "--query-gpu=name,compute_cap,memory.total,driver_version", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return ""
    sentence = "{} (compute capability {}, {}, driver {})"
    facts = [sentence.format(*parts) for line in lines if len(parts := line.split(", ")) == 4]
    with suppress(metadata.PackageNotFoundError):
        cudnn = re.search(r"nvidia-cudnn-cu\d+==([\d.]+)", "\n".join(metadata.requires("torch") or []))
        facts += [f"cuDNN {cudnn[1]}"] if cudnn and facts else []
    return ", ".join(facts)


def read_driver() -> str | None:
    """The version of the NVIDIA driver, such as "535.104.05"; None if there is none."""
    with suppress(OSError):
        found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", _NVIDIA_DRIVER.read_text(encoding="utf-8"))
        return found[0] if found else None
    with suppress(OSError, subprocess.SubprocessError):  # under Windows (WSL) there is no such file
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.split()
        return told[0] if told else None
    return None
