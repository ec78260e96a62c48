"""Where and how exactly a network is computed: device, precision, threads, determinism."""

from __future__ import annotations

import os
import platform
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import memory_format as MemoryFormat
from torch import nn
from torch.amp.grad_scaler import GradScaler

from lesion_utils.config.schema import Network
from lesion_utils.core.errors import ParamsError
from lesion_utils.core.machine import name_processor, read_driver
from lesion_utils.core.settings import read_count, read_setting, settle_device

_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}

_NONDETERMINISTIC = "does not have a deterministic implementation"


@dataclass(frozen=True)
class Compute:
    """What the arithmetic of a run depends on besides its parameters.

    Attributes:
        device: "cpu", "cuda" or "mps".
        processor: its name or kind.
        precision: "float32", "bfloat16" or "float16" in the forward and backward pass; weights are float32 in all.
        threads: of the processor, for each operation.
        level: what is promised: "exact" (same processor and lock: the same bytes), "device" (likewise on a graphics
            device, except for the operations that the run lists), "fast" (nothing).
        torch: its version.
    """

    device: str
    processor: str
    precision: str
    threads: int
    level: str
    torch: str

    @property
    def memory_format(self) -> MemoryFormat:
        """Channels last where convolutions gain from it (all but MPS)."""
        return torch.contiguous_format if self.device == "mps" else torch.channels_last

    def autocast(self) -> AbstractContextManager[object]:
        """The arithmetic of the forward pass."""
        return torch.autocast(self.device, dtype=_AUTOCAST.get(self.precision), enabled=self.precision in _AUTOCAST)

    def make_scaler(self) -> GradScaler:
        """What keeps small gradients from vanishing in float16; it does nothing in the other precisions."""
        return GradScaler(self.device, enabled=self.precision == "float16")

    def place(self, model: nn.Module) -> nn.Module:
        """Move a network to the device, in its memory format."""
        return model.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload]  # torch's stubs lack it

    def to_dict(self) -> dict[str, str | int]:
        """What a report records."""
        return asdict(self)

    @property
    def identity(self) -> dict[str, str | int]:
        """What the numbers depend on. The CPU's threads play no part on a GPU."""
        return {name: value for name, value in asdict(self).items() if name != "threads" or self.device == "cpu"}

    def describe(self) -> dict[str, str | int | float | None]:
        """What a report records after a run: also the GPU's driver, libraries and largest use of memory so far."""
        return {**self.to_dict(), **(describe_gpu() if self.device == "cuda" else {})}


def describe_gpu() -> dict[str, str | int | float | None]:
    """The current CUDA device: its memory and the largest part that PyTorch held (GiB), its driver and libraries."""
    properties = torch.cuda.get_device_properties()
    return {
        "capability": f"{properties.major}.{properties.minor}",
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "peak_memory_gib": round(torch.cuda.max_memory_reserved() / 2**30, 2),
        "driver": read_driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def choose_compute(params: Network, *, device: str | None = None) -> Compute:
    """Choose the device, the precision and the threads (`THREADS`).

    Args:
        params: `determinism` and `precision` are used.
        device: "cpu", "cuda" or "mps"; by default that of `choose_device`.

    Raises:
        ParamsError: `DEVICE` or `THREADS` is not usable here.
    """
    device = device or choose_device()
    level = params.determinism
    if level != "fast" and device != "cpu":
        # no library for GPUs promises more; on MPS nothing was measured, and torch names no operation that varies
        level = "fast" if device == "mps" else "device"
    precision: str = params.precision
    if precision == "auto":
        # CUDA emulates bfloat16 on older GPUs (T4, RTX 20); these compute in float16
        slow = "float16" if device == "cuda" else "float32"
        precision = "bfloat16" if has_bfloat16(device) else slow
    return Compute(device, _name_processor(device), precision, _choose_threads(), level, str(torch.__version__))


def has_bfloat16(device: str) -> bool:
    """Whether the device multiplies bfloat16 in hardware; emulation is slower than float32."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "mps":
        return False  # it has them from macOS 14 on; whether it gains, we have not measured
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():  # ONEDNN_MAX_CPU_ISA may forbid what the processor has
        return False
    if platform.machine().lower() in ("arm64", "aarch64"):
        return True
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@contextmanager
def computing(compute: Compute) -> Iterator[set[str]]:
    """Fix threads and determinism inside, and leave everything as it was outside, random states included.

    Yields:
        A set that collects the operations that are not deterministic on this device.
    """
    deterministic: Any = torch.utils.deterministic  # whose setting torch's stubs lack
    before = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        deterministic.fill_uninitialized_memory,
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
    )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    try:
        torch.set_num_threads(compute.threads)
        torch.use_deterministic_algorithms(compute.level != "fast", warn_only=True)
        deterministic.fill_uninitialized_memory = False  # costs a pass over memory, finds only bugs
        torch.backends.cudnn.benchmark = compute.level == "fast"
        # Torch's default for convolutions is TF32, which has 10 bits of mantissa; float32 has 23.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        with _fork_random(compute.device), _collect_nondeterministic() as operations:
            yield operations
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1], warn_only=before[2])
        deterministic.fill_uninitialized_memory = before[3]
        torch.backends.cudnn.benchmark = before[4]
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before[5:]


@contextmanager
def _fork_random(device: str) -> Iterator[None]:
    """Put the random states of the CPU and of this device back afterwards; other devices are not touched."""
    with torch.random.fork_rng([torch.cuda.current_device()] if device == "cuda" else [], device_type="cuda"):
        state = torch.mps.get_rng_state() if device == "mps" else None  # which `fork_rng` cannot fork
        try:
            yield
        finally:
            if state is not None:
                torch.mps.set_rng_state(state)


@contextmanager
def _collect_nondeterministic() -> Iterator[set[str]]:
    operations: set[str] = set()
    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=f".*{_NONDETERMINISTIC}.*")
        show = warnings.showwarning

        def note(message: Warning | str, *args: Any, **kwargs: Any) -> None:
            text = str(message)
            if _NONDETERMINISTIC in text:
                operations.add(text.split(_NONDETERMINISTIC)[0].strip())
            else:
                show(message, *args, **kwargs)

        warnings.showwarning = note
        yield operations


def choose_device() -> str:
    """The device that `DEVICE` names, else CUDA, else MPS, else the CPU.

    Warns if there is a GPU that cannot be used, and takes the CPU.

    Raises:
        ParamsError: the device that `DEVICE` names cannot be used.
    """
    settle_device()
    asked = read_setting("DEVICE")
    problem = None if asked in ("cpu", "mps") else explain_unusable_gpu()
    usable = ["cuda"] if problem is None and torch.cuda.is_available() else []
    usable += ["mps"] if torch.backends.mps.is_available() else []
    usable += ["cpu"]
    if asked and asked not in usable:
        what, expected = problem or "this device is not here", " or ".join(usable)
        raise ParamsError(what, where=f"DEVICE={asked}", expected=expected, do="unset DEVICE")
    if problem and not asked:
        warnings.warn(f"{problem}. Computing on the {usable[0].upper()} instead.", stacklevel=3)
    return asked or usable[0]


def explain_unusable_gpu() -> str | None:
    """Why PyTorch cannot use the NVIDIA GPU of this machine; None if it can, or if there is none."""
    with warnings.catch_warnings(record=True) as caught:  # torch warns here of a driver that is too old
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if available:
        major, minor = torch.cuda.get_device_capability()
        architectures = torch.cuda.get_arch_list()
        if not is_built_for((major, minor), architectures):
            return (
                f"this PyTorch has no code for {torch.cuda.get_device_name()} (compute capability {major}.{minor}), "
                f"only for {', '.join(architectures)}; try the build for an older CUDA: make env TORCH=cu126"
            )
        return None
    driver = read_driver()
    if driver is None or torch.version.cuda is None or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return None
    reason = next((str(warning.message).partition(" Please")[0] for warning in caught), "no GPU answered")
    return f"PyTorch for CUDA {torch.version.cuda} cannot use the NVIDIA driver {driver}: {reason}; update the driver"


def is_built_for(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Whether a build of PyTorch runs on a GPU.

    Code for sm_XY runs on all capabilities X.Z with Z >= Y; PTX code (compute_XY) on all from X.Y on (CUDA C++
    Programming Guide, "Compute capabilities" and "PTX compatibility").

    Args:
        capability: of the GPU, such as (8, 6).
        architectures: as `torch.cuda.get_arch_list()` names them, such as ["sm_75", "sm_90a", "compute_120"].
    """
    major, minor = capability
    for kind, _, number in (name.partition("_") for name in architectures):
        built = divmod(int(re.sub(r"\D", "", number)), 10)
        if (kind == "sm" and built[0] == major and built[1] <= minor) or (kind == "compute" and built <= capability):
            return True
    return False


def _choose_threads() -> int:
    """`THREADS`, or torch's own default: one per physical core, fewer if OMP_NUM_THREADS says so."""
    return read_count("THREADS") or torch.get_num_threads()


def _name_processor(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{name_processor()}, {torch.backends.cpu.get_cpu_capability()}"
