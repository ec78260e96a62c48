"""Every way in which memory runs out is recognised, and nothing else."""

from __future__ import annotations

import pytest

from lesion_utils.core.errors import is_out_of_memory

#: As CUDA, cuBLAS, cuDNN, cuSOLVER, MPS, torch on CPUs (Linux, Windows), numpy, C++, Linux and macOS write it.
MESSAGES = [
    "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB",
    "AcceleratorError: CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "RuntimeError: cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "RuntimeError: cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
    "RuntimeError: MPS backend out of memory (MPS allocated: 17.5 GiB, other allocations: 421 MiB, max: 18.1 GiB)",
    "RuntimeError: Invalid buffer size: 20.00 GiB",
    "RuntimeError: [enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to",
    "RuntimeError: [enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: not enough memory: you tried to allocate",
    "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 16.0 GiB for an array with shape (2147483648,)",
    "MemoryError: ",
    "RuntimeError: std::bad_alloc",
    "OSError: [Errno 12] Cannot allocate memory",
]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_lack_of_memory_is_recognised(message):
    assert is_out_of_memory(message)


@pytest.mark.parametrize(
    "message",
    ["RuntimeError: shapes do not match", "CUDA error: device-side assert triggered", "CUDNN_STATUS_NOT_SUPPORTED"],
)
def test_another_error_is_not_taken_for_it(message):
    assert not is_out_of_memory(message)
