"""Torch tensors as kernels take them: a flat array over the memory, and strides beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["dense", "flat", "team", "unit_stride"]

_WORTH = 200_000


def unit_stride(tensor: Tensor) -> Tensor:
    """The tensor itself if neighbours in its last axis are so in memory, else a copy."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def flat(tensor: Tensor) -> Any:
    """All memory from the tensor's first element on, as one NumPy array."""
    tensor = tensor.detach()
    first = tensor.storage_offset()
    size = tensor.untyped_storage().nbytes() // tensor.element_size() - first
    return tensor.as_strided((size,), (1,)).numpy()


def dense(tensor: Tensor | None, *shape: int) -> Any:
    """A contiguous float32 tensor as a flat NumPy array; zeros of that shape for None."""
    if tensor is None:
        return np.zeros(int(np.prod(shape)), np.float32)
    return tensor.detach().contiguous().view(-1).numpy()


def team(work: int) -> int:
    """Threads for `work` inner steps of a kernel: one where waking others takes longer."""
    return torch.get_num_threads() if work >= _WORTH else 1
