"""Large pages under large states: a step reads them from end to end, page after page.

A moment of 15 million numbers lies on 15,000 pages of 4 KiB, and each begins with a walk through
the page table. Linux maps 2 MiB at once where a program says that it pays.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
from typing import Any

import torch

__all__ = ["on_large_pages"]

PAGE = 1 << 21
"""Bytes of a large page."""


@functools.cache
def _advise() -> Any:
    """The C library's `madvise`, or None where it or the advice does not exist."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    call = ctypes.CDLL(None).madvise
    call.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return call


def on_large_pages(tensor: torch.Tensor) -> torch.Tensor:
    """Asks for large pages under a fresh tensor that is not written yet; returns the tensor.

    Only whole large pages inside the tensor's memory are asked for; it changes no value, and
    where the system declines nothing changes at all.

    Example:
        >>> on_large_pages(torch.zeros(3)).tolist()
        [0.0, 0.0, 0.0]
    """
    size, advise = tensor.numel() * tensor.element_size(), _advise()
    plain = type(tensor) is torch.Tensor and tensor.device.type == "cpu"
    if plain and tensor.layout is torch.strided and size >= 2 * PAGE and advise is not None:
        first = -(-tensor.data_ptr() // PAGE) * PAGE
        last = (tensor.data_ptr() + size) // PAGE * PAGE
        advise(first, last - first, mmap.MADV_HUGEPAGE)
    return tensor
