"""A tensor's memory as an array of NumPy, for kernels."""

from __future__ import annotations

import ctypes

import numpy as np
from torch import Tensor

__all__ = ["floats"]


def floats(x: Tensor) -> np.ndarray:
    """The memory of a contiguous float32 tensor on the CPU, which must outlive it.

    `Tensor.numpy` would forbid for good that the storage is resized, as ZeRO-3 does with weights.
    """
    if not x.numel():
        return np.zeros(x.shape, np.float32)
    memory = (ctypes.c_float * x.numel()).from_address(x.data_ptr())
    return np.ctypeslib.as_array(memory).reshape(x.shape)
