"""Where and how exactly a network is computed: device, precision, threads, determinism."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import memory_format as MemoryFormat
from torch import nn
from torch.amp.grad_scaler import GradScaler

from lesion_utils.config.schema import Network
from lesion_utils.core.errors import ParamsError
from lesion_utils.core.machine import name_processor

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


def choose_compute(params: Network) -> Compute:
    """Choose the device (`DEVICE`, else CUDA, MPS or the processor), the precision and the threads (`THREADS`).

    Args:
        params: `determinism` and `precision` are used.

    Raises:
        ParamsError: `DEVICE` or `THREADS` is not usable here.
    """
    device = _choose_device()
    level = params.determinism
    if level == "exact" and device != "cpu":
        level = "device"  # no graphics library promises more
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
    )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    try:
        torch.set_num_threads(compute.threads)
        torch.use_deterministic_algorithms(compute.level != "fast", warn_only=True)
        deterministic.fill_uninitialized_memory = False  # costs a pass over memory, finds only bugs
        torch.backends.cudnn.benchmark = compute.level == "fast"
        with _fork_random(compute.device), _collect_nondeterministic() as operations:
            yield operations
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1], warn_only=before[2])
        deterministic.fill_uninitialized_memory = before[3]
        torch.backends.cudnn.benchmark = before[4]


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


def _choose_device() -> str:
    there = ["cpu"]
    if torch.backends.mps.is_available():
        there.insert(0, "mps")
    if torch.cuda.is_available():
        there.insert(0, "cuda")
    wanted = os.environ.get("DEVICE") or there[0]
    if wanted not in there:
        raise ParamsError(
            "this device is not here", where=f"DEVICE={wanted}", expected=" or ".join(there), do="unset DEVICE"
        )
    return wanted


def _choose_threads() -> int:
    """`THREADS`, or torch's own default: one per physical core, fewer where OMP_NUM_THREADS says so."""
    text = os.environ.get("THREADS") or str(torch.get_num_threads())
    if not text.isdigit() or int(text) < 1:
        raise ParamsError("not a number of threads", where=f"THREADS={text}", expected="a whole number from 1")
    return int(text)


def _name_processor(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{name_processor()}, {torch.backends.cpu.get_cpu_capability()}"
