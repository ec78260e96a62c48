"""The variables that set up this machine, checked before the first step: threads, device, workers, folders.

Loads no torch, so that every command gives the same answer at once.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import platform
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from lesion_utils.core import paths
from lesion_utils.core.errors import LesionError, ParamsError, shorten
from lesion_utils.core.machine import read_driver

#: More threads or workers than this are a slip of the hand.
_MOST = 1024

#: What a run opens at once: images, logs, the kernel's sockets, the libraries' files.
OPEN_FILES = 256

_SCHEDULER = re.compile(r"(tcp|tls|ws|wss|ucx)://[^\s/]+:\d+")
_QUEUES = ("slurm", "pbs", "lsf")

#: Where Linux shows the driver of a GPU: NVIDIA's, the one under Windows (WSL), AMD's.
_DRIVERS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd", "/dev/nvhost-gpu")
_NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")
#: The oldest driver on which each CUDA runs (NVIDIA, "CUDA Compatibility", minor version compatibility).
_OLDEST_DRIVERS = {11: 450, 12: 525, 13: 580}


def check_settings() -> None:
    """Check every variable of the machine.

    Raises:
        ParamsError: one paragraph per variable that is not usable, each starting `NAME=value: `.
    """
    if problems := [str(problem) for problem in list_problems()]:
        raise ParamsError("\n".join(problems))


def list_problems() -> Iterator[LesionError]:
    """What is wrong with the variables of the machine."""
    checks: list[Callable[[], object]] = [
        lambda: read_count("THREADS"),
        lambda: read_count("JOBS", "workers"),
        read_omp_threads,
        find_device,
        check_cluster,
        lambda: check_folder("WEIGHTS_DIR", must_exist=True),
        lambda: check_folder("DATA_DIR", must_exist=True),
        lambda: check_folder("LESION_CACHE"),
        check_reports_folder,
        allow_open_files,
    ]
    for check in checks:
        try:
            check()
        except ParamsError as error:
            yield error


def read_setting(name: str) -> str:
    """A variable's value without blanks around it; empty if it is not set."""
    return os.environ.get(name, "").strip()


def _refuse(name: str, what: str, expected: str, do: str | None = None) -> ParamsError:
    where = f"{name}={shorten(read_setting(name), 200)}"
    return ParamsError(what, where=where, expected=expected, do=do or f"correct it, or unset {name}")


def read_count(name: str, what: str = "threads") -> int | None:
    """A number of threads or workers; None if the variable is not set.

    Raises:
        ParamsError: it is no whole number from 1 to 1024.
    """
    text = read_setting(name)
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= _MOST:
        raise _refuse(name, f"not a number of {what}", f"a whole number from 1 to {_MOST}")
    return int(text)


def read_omp_threads() -> int | None:
    """Threads by `OMP_NUM_THREADS`; None if it is not set.

    OpenMP allows a list, one number per level of nested parallel regions (OpenMP 5.2, section 21.2.1); torch uses one
    level, so the first number counts.

    Raises:
        ParamsError: it is no list of whole numbers.
    """
    text = read_setting("OMP_NUM_THREADS")
    if not text:
        return None
    if not re.fullmatch(r"\s*[0-9]{1,4}\s*(,\s*[0-9]{1,4}\s*)*", text) or not 1 <= int(text.split(",")[0]) <= _MOST:
        raise _refuse("OMP_NUM_THREADS", "not a number of threads", "a whole number from 1, or a list such as 4,2")
    return int(text.split(",")[0])


def find_device() -> str | None:
    """The device that `DEVICE` names ("cpu", "cuda", "cuda:1", "mps"), in small letters; None if torch may choose.

    Raises:
        ParamsError: it is no device, or this machine has none of its kind.
    """
    text = read_setting("DEVICE").lower()
    if text in ("", "auto"):
        return None
    kind, _, number = text.partition(":")
    if not re.fullmatch(r"cpu|mps|cuda(:[0-9]{1,3})?", text):
        close = ["cuda"] if "gpu" in text else difflib.get_close_matches(text, ["cpu", "cuda", "mps"], n=1)
        what = "not a device" + (f", did you mean {close[0]}?" if close else "")
        raise _refuse("DEVICE", what, "cpu, cuda, cuda:1 (the second GPU) or mps")
    if kind == "mps" and (platform.system(), platform.machine()) != ("Darwin", "arm64"):
        raise _refuse("DEVICE", "this device is not here", "mps on Apple silicon only; here cpu or cuda")
    if kind == "cuda" and (why := explain_no_cuda(int(number or 0))):
        raise _refuse("DEVICE", why, "cpu, or cuda on a machine with an NVIDIA GPU and its driver")
    return text


def explain_no_cuda(number: int = 0) -> str | None:
    """Why a CUDA device cannot be had here, as far as can be seen without loading torch; None if it may be there.

    Args:
        number: of the GPU, from 0.
    """
    if platform.system() == "Darwin" or not (shutil.which("nvidia-smi") or any(map(os.path.exists, _DRIVERS))):
        return "this device is not here: no driver of a GPU was found"
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        version = ""
    if version.endswith("+cpu"):
        return "the CPU build of PyTorch is installed, which uses no GPU (make env TORCH=gpu installs the other)"
    count = len(list(_NVIDIA_GPUS.iterdir())) if _NVIDIA_GPUS.is_dir() else None
    if count is not None and number >= count:
        return f"this machine has {count} NVIDIA GPUs, numbered from 0"
    return explain_old_driver()


def explain_old_driver() -> str | None:
    """That the NVIDIA driver is too old for the installed PyTorch; None if it is not, or if that cannot be seen."""
    spec = importlib.util.find_spec("torch")
    file = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    found = re.search(r"^cuda\b.*'((\d+)\.\d+)'", file.read_text(encoding="utf-8"), re.M) if file else None
    oldest = _OLDEST_DRIVERS.get(int(found[2]), 0) if found else 0
    driver = read_driver() if oldest else None
    if found is None or driver is None or int(driver.partition(".")[0]) >= oldest:
        return None
    return f"the NVIDIA driver {driver} is too old for PyTorch with CUDA {found[1]}, which needs {oldest} or newer"


def guess_device() -> str:
    """The device that training will take, guessed without loading torch: "cpu", "mps" or a GPU such as "cuda0"."""
    kind, _, number = (find_device() or "").partition(":")
    if not kind and explain_no_cuda() is None:
        kind = "cuda"
    if kind == "cuda":
        return f"cuda{number or read_setting('CUDA_VISIBLE_DEVICES').partition(',')[0] or 0}"
    return kind or ("mps" if (platform.system(), platform.machine()) == ("Darwin", "arm64") else "cpu")


def settle_device() -> None:
    """Write `DEVICE` as torch reads it: of `cuda:1` the number goes into `CUDA_VISIBLE_DEVICES`.

    CUDA then sees that one GPU and no other, and to everything else the device is called `cuda`.
    """
    device, _, number = (find_device() or "").partition(":")
    if not device:
        os.environ.pop("DEVICE", None)
        return
    os.environ["DEVICE"] = device
    if number:
        seen = dict(enumerate(filter(None, os.environ.get("CUDA_VISIBLE_DEVICES", "").split(","))))
        os.environ["CUDA_VISIBLE_DEVICES"] = seen.get(int(number), number)


def check_cluster() -> None:
    """Whether `CLUSTER` names a Dask scheduler's address or a queue.

    Raises:
        ParamsError: it does not.
    """
    text = read_setting("CLUSTER")
    if text and text not in _QUEUES and not _SCHEDULER.fullmatch(text):
        close = difflib.get_close_matches(text.lower(), _QUEUES, n=1)
        what = "no address of a scheduler and no queue" + (f", did you mean {close[0]}?" if close else "")
        raise _refuse("CLUSTER", what, "tcp://host:port of a Dask scheduler, slurm, pbs or lsf (docs/guide/cluster.md)")


def check_folder(name: str, *, must_exist: bool = False) -> None:
    """Whether a variable names a folder, if it is set.

    Args:
        name: of the variable.
        must_exist: whether files are read from it; one that is written to is made when it is needed.

    Raises:
        ParamsError: something else is there, or nothing.
    """
    text = read_setting(name)
    if not text:
        return
    try:
        folder = paths.expand(text)
        above = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        is_folder = above.is_dir()
    except OSError as error:
        raise _refuse(name, f"cannot be read ({error.strerror})", "the path of a folder") from None
    if must_exist and not (above == folder and is_folder):
        raise _refuse(name, "there is no such folder", "the path of a folder that exists")
    if not is_folder:
        raise _refuse(name, f"{shorten(above)} is no folder", "the path of a folder, which may be new")
    if not must_exist and not os.access(above, os.W_OK | os.X_OK):
        raise _refuse(name, f"nothing can be written to {shorten(above)}", "a place that may be written to")


def check_reports_folder() -> None:
    """Whether reports can be written where `REPORTS_DIR` says.

    Raises:
        ParamsError: it is no folder, or lies among the project's own files.
    """
    check_folder("REPORTS_DIR")
    paths.reports_root()


def allow_open_files() -> None:
    """Allow this process as many open files as a run needs.

    Raises:
        ParamsError: the system forbids it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= 4 * OPEN_FILES:
        return
    wanted = 4 * OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, 4 * OPEN_FILES)
    if wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < OPEN_FILES:
        raise ParamsError(
            f"a process may open {wanted} files here, and a run needs up to {OPEN_FILES}",
            where="ulimit -n",
            do=f"open another terminal, or raise the limit (ulimit -n {4 * OPEN_FILES}) and type the same again",
        )
