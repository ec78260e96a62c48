"""`make doctor`: what the study needs, whether it is there, and what to do where it is not."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from lesion_utils.config import sources
from lesion_utils.config.data import Data, External
from lesion_utils.config.load import load_study
from lesion_utils.config.schema import StudyParams
from lesion_utils.core import paths
from lesion_utils.core.errors import LesionError
from lesion_utils.core.git import run_git
from lesion_utils.core.machine import name_processor
from lesion_utils.core.paths import Study, project_root
from lesion_utils.core.settings import list_problems, settle_device
from lesion_utils.data.challenge import FOLDERS, LABEL_FILES
from lesion_utils.data.labels import GROUPS
from lesion_utils.pipeline.notebook import KERNEL
from lesion_utils.provenance.record import scrub_paths

GIB = 2**30
#: A checkpoint of VGG19 with its optimiser's state takes 1.7 GB, and two are kept while one is written.
DISK_NEEDED = 6 * GIB
MEMORY_NEEDED = 4 * GIB

#: How the names of packages begin that only a GPU uses.
FOR_GPUS = ("triton", "nvidia-", "cuda-")

#: Run apart: where torch and torchvision do not fit, the import itself fails.
_PROBE = """
import json, torch, torchvision, timm
from lesion_utils.models.compute import describe_gpu, explain_unusable_gpu
unusable = explain_unusable_gpu()
devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
if devices:
    gpu = "compute capability {capability}, {memory_gib} GiB, driver {driver}, CUDA {cuda}, cuDNN {cudnn}"
    devices.append(gpu.format(**describe_gpu()))
if torch.backends.mps.is_available():
    devices.append("Apple GPU (mps)")
print(json.dumps({"pair": [torch.__version__, torchvision.__version__], "devices": devices, "unusable": unusable}))
"""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report: `state` is "ok", "note" or "wrong"; `do` is the next action."""

    state: str
    topic: str
    what: str
    do: str = ""

    def __str__(self) -> str:
        line = f"{self.state:<6} {self.topic:<12} {self.what}"
        return f"{line}\n{'':<20}-> {self.do}" if self.do else line


def examine_study(study: Study) -> Iterator[Finding]:
    """Look at everything that a study needs, the quick questions first; changes nothing and downloads nothing."""
    yield from check_machine()
    try:
        params = load_study(study.params_dir)
    except LesionError as error:
        yield Finding("wrong", "params", str(error), "correct the lines named above")
    else:
        yield Finding("ok", "params", f"params/{study.name} is valid")
        yield check_data(params, study)
        yield from check_labels(params, study)
        yield from check_weights(params)
    yield from check_environment()
    yield from (check_kernel(), check_disk(), check_memory(), check_git())
    yield from check_torch()


def check_machine() -> Iterator[Finding]:
    """Whether the variables that set up this machine are usable, as every other command checks them."""
    problems = list(list_problems())
    for problem in problems:
        where, what = problem.where, f"{problem.where}: {problem.what}"
        expected = f"expected {problem.expected}; " if problem.expected else ""
        yield Finding("wrong", "settings", what if where else problem.what, f"{expected}{problem.do}")
    if not problems:
        yield Finding("ok", "settings", "the variables of this machine are usable")
        settle_device()


def check_environment() -> Iterator[Finding]:
    """Which Python runs this, and whether every package is the lock's."""
    yield Finding("ok", "python", f"{platform.python_version()} in {scrub_paths(sys.prefix)}")
    different = list(list_differences((project_root() / "requirements" / "run.lock").read_text(encoding="utf-8")))
    if different:
        shown = ", ".join(different[:4]) + (f" and {len(different) - 4} more" if len(different) > 4 else "")
        yield Finding("wrong", "packages", f"not those of requirements/run.lock: {shown}", "rm -rf .venv && make env")
    else:
        yield Finding("ok", "packages", "those of requirements/run.lock")


def list_differences(lock: str) -> Iterator[str]:
    """Packages whose installed version is not the lock's, such as "torch 2.13.0 (lock: 2.14.1)".

    What only a GPU uses may be missing: `make env` leaves it out where there is none. Whether torch loads without it is
    `check_torch`'s question.
    """
    for line in (line.rstrip("\\ ") for line in lock.splitlines()):
        if not line or line.startswith(("#", " ")):
            continue
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        try:
            found = metadata.version(wanted.name)
            same = wanted.specifier.contains(found.partition("+")[0], prereleases=True)  # 2.14.1+cpu is 2.14.1
        except metadata.PackageNotFoundError:
            found, same = "missing", wanted.name.startswith(FOR_GPUS)
        if not same:
            yield f"{wanted.name} {found} (lock: {str(wanted.specifier).removeprefix('==')})"


def check_kernel() -> Finding:
    """Whether the kernel that runs use by name belongs to this environment."""
    spec = Path(sys.prefix) / "share" / "jupyter" / "kernels" / KERNEL / "kernel.json"
    if not spec.is_file():
        return Finding("wrong", "kernel", f"no Jupyter kernel named {KERNEL}", "rm .venv/.installed-* && make env")
    python = Path(json.loads(spec.read_text(encoding="utf-8"))["argv"][0])
    if python.parent.resolve() != Path(sys.executable).parent.resolve():  # .venv may be a link
        return Finding("wrong", "kernel", f"{KERNEL} starts another Python", "rm .venv/.installed-* && make env")
    return Finding("ok", "kernel", KERNEL)


def check_torch() -> Iterator[Finding]:
    """Whether torch, torchvision and timm load together, and which devices they see."""
    done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=False)
    if done.returncode:
        yield explain_torch(done.stderr)
        return
    facts = json.loads(done.stdout.splitlines()[-1])
    yield Finding("ok", "torch", "torch {} and torchvision {} fit".format(*facts["pair"]))
    if facts["unusable"]:
        yield Finding("note", "device", facts["unusable"], "until then the CPU is used")
    elif facts["devices"]:
        yield Finding("ok", "device", ", ".join(facts["devices"]))
    else:
        do = "fine for demo; for isic2016 use a machine with a GPU"
        yield Finding("note", "device", f"{name_processor()}, {os.cpu_count()} cores, no GPU", do)


def explain_torch(stderr: str) -> Finding:
    """Why torch, torchvision and timm do not load together."""
    last = scrub_paths(stderr.strip().splitlines()[-1]) if stderr.strip() else "no message"
    again = "rm -rf .venv && make env"
    if "torchvision::nms does not exist" in stderr:
        what = f"torch and torchvision are not a pair ({last}): one of them came from another index or release"
        return Finding("wrong", "torch", what, f"{again}, which installs both from the lock")
    if "No module named" in stderr:
        return Finding("wrong", "torch", last, "make env")
    return Finding("wrong", "torch", f"cannot be loaded: {last}", again)


def check_disk() -> Finding:
    """Whether checkpoints and decoded images find room."""
    free = min(_find_free(folder) for folder in (paths.reports_root(), paths.cache_dir()))
    if free < DISK_NEEDED:
        do = "free some, or set REPORTS_DIR and LESION_CACHE to folders on a larger disk"
        return Finding("note", "disk", f"{free / GIB:.1f} GiB free; checkpoints may need {DISK_NEEDED / GIB:.0f}", do)
    return Finding("ok", "disk", f"{free / GIB:.0f} GiB free")


def _find_free(folder: Path) -> int:
    """Free bytes where a folder is, or would be made."""
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    return shutil.disk_usage(existing).free


def check_memory() -> Finding:
    """Whether there is memory for VGG19 with its optimiser."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if total < MEMORY_NEEDED:
        do = "close other programs; lower batch_size and raise accumulation in params/"
        return Finding("note", "memory", f"{total / GIB:.1f} GiB; VGG19 wants {MEMORY_NEEDED / GIB:.0f}", do)
    return Finding("ok", "memory", f"{total / GIB:.0f} GiB")


def check_git() -> Finding:
    """Whether runs can record the commit that they were made from."""
    if shutil.which("git") is None:
        return Finding("note", "git", "not installed: runs cannot record their commit", "sudo apt-get install git")
    if not (project_root() / ".git").exists():
        return Finding("note", "git", "the project is not a clone: runs cannot record their commit", "git clone it")
    if run_git("rev-parse", "HEAD") is None:
        do = "type `git status` and follow what it says"
        return Finding("note", "git", "git does not answer: runs cannot record their commit", do)
    return Finding("ok", "git", "runs record their commit")


def check_data(params: StudyParams, study: Study) -> Finding:
    """Whether the images are on this machine."""
    places: list[Data | External] = [params.data, *params.data.external.values()]
    named = [path for place in places for path in (place.images, place.labels)]
    if own := [path for path in named if path and not paths.find_own(path).exists()]:
        do = f"correct the paths in params/{study.name}/data.yaml, or put the files there"
        return Finding("wrong", "data", f"not here: {', '.join(own)}", do)
    if params.data.source == "embedded":
        return Finding("ok", "data", "embedded, nothing to fetch")
    if not params.data.is_challenge:
        return Finding("ok", "data", "your own images are there")
    folder = paths.data_dir()
    missing = [n for n in (*FOLDERS.values(), *LABEL_FILES.values()) if not (folder / n).exists()]
    if not missing:
        return Finding("ok", "data", "the challenge's files are there")
    do = f"make data STUDY={study.name} fetches them (0.8 GB), or set DATA_DIR to a folder that has them"
    return Finding("note", "data", f"not here: {', '.join(missing)}", do)


def check_labels(params: StudyParams, study: Study) -> Iterator[Finding]:
    """What own and external labels and images are understood as; every file is read, as the data step does."""
    places: dict[str, Data | External] = {} if params.data.is_challenge else {"labels": params.data}
    for name, place in (places | params.data.external).items():
        from lesion_utils.data.folder import read_folder  # with pandas, which other studies do not need here

        try:
            table, notes = read_folder(str(place.images), str(place.labels), place, keep_names=True)
        except LesionError as error:
            yield Finding("wrong", name, str(error), f"correct them, or the lines of params/{study.name}/data.yaml")
            continue
        counts = {"benign": (table["target"] == 0).sum(), "malignant": (table["target"] == 1).sum()}
        counts |= {f"{group}s": table.loc[table[group] != "", group].nunique() for group in GROUPS if group in table}
        counts |= {f"{split} images": count for split, count in table.get("split", table[:0]).value_counts().items()}
        read = ", ".join(f"{count:,} {word}" for word, count in counts.items())
        yield Finding("ok", name, "; ".join([f"{len(table):,} images: {read}", *notes]))


def check_weights(params: StudyParams) -> Iterator[Finding]:
    """Whether each network's pretrained weights are on this machine."""
    for name, network in params.networks.items():
        state = sources.fingerprint_weights(network)
        if state["state"] == "not local":
            do = "the run fetches them from the hub; without a network, put the file into a folder and set WEIGHTS_DIR"
            if network.weights != "pretrained":  # a file's name, which no hub knows
                do = f"put the file {network.weights} into a folder, and set WEIGHTS_DIR to that folder"
            yield Finding("note", "weights", f"{name}: {state['name']} is not on this machine", do)
        else:
            what = "from scratch, none needed" if state["state"] == "none" else f"{state['name']} is there"
            yield Finding("ok", "weights", f"{name}: {what}")
