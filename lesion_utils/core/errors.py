"""Errors that a user of the study can act on.

Every error says what is wrong, where, what was expected, and what to do next.
"""

from __future__ import annotations

import re

#: How CUDA, cuBLAS, cuDNN, cuSOLVER, Apple's MPS, torch on CPUs, numpy, C++ and the system say that memory ran out.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|cudaErrorMemoryAllocation|_ALLOC_FAILED|_ALLOCATION_FAILED|invalid buffer size|bad_alloc|"
    r"not enough memory|(can't|cannot|unable to) allocate|MemoryError",
    re.IGNORECASE,
)


def is_out_of_memory(text: object) -> bool:
    """Whether an error's name or message says that memory ran out.

    >>> is_out_of_memory("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    True
    """
    return _OUT_OF_MEMORY.search(str(text)) is not None


def shorten(text: object, limit: int = 80) -> str:
    """A value as a message shows it: on one line, no longer than `limit`, and without what no terminal can print."""
    shown = "".join(c if c.isprintable() else "?" for c in str(text)[: limit + 1])
    return f"{shown[: limit - 3]}..." if len(shown) > limit else shown


class LesionError(Exception):
    """Base of every error that this package raises on purpose.

    Args:
        what: one sentence, what is wrong.
        where: file, `file:line`, step or key that it concerns.
        expected: what would have been right.
        do: the next action of the user.
    """

    def __init__(self, what: str, *, where: object = None, expected: str | None = None, do: str | None = None):
        self.what, self.where, self.expected, self.do = what, where, expected, do
        lines = [f"{where}: {what}" if where is not None else what]
        if expected:
            lines.append(f"  expected  {expected}")
        if do:
            lines.append(f"  do next   {do}")
        super().__init__("\n".join(lines))


class ParamsError(LesionError):
    """A file in `params/` is wrong."""


class DataError(LesionError):
    """Images, labels, downloads or the cache are wrong or missing."""


class WeightsError(LesionError):
    """Pretrained weights are missing or do not fit."""


class TrainingError(LesionError):
    """Training cannot start or go on."""


class CheckpointError(LesionError):
    """A checkpoint is damaged or belongs to other parameters."""


class MetricError(LesionError):
    """A metric was asked of labels or scores it is not defined for."""


class RunError(LesionError):
    """A step of the study failed."""
