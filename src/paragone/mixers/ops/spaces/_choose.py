"""What the operations of state spaces ask of a call before Numba may serve it."""

from __future__ import annotations

import torch
from torch import Tensor

from paragone.kernels.choice import choose, register

__all__ = ["declare", "serves"]


def _numba(device: str, dtype: torch.dtype) -> str | None:
    if device != "cpu":
        return f"its kernels run on the CPU, not on {device}"
    if dtype != torch.float32:
        return f"its kernels are of float32, not {str(dtype).removeprefix('torch.')}"
    return None


def declare(op: str) -> None:
    """Registers an operation's two back ends."""
    register(op, {"numba": _numba, "torch": lambda device, dtype: None})


def serves(op: str, asked: str, tensor: Tensor) -> str:
    """Returns the back end that serves a call on this tensor.

    Raises:
        ValueError: The one asked for cannot; the text says why.
    """
    return choose(op, asked, device=tensor.device.type, dtype=tensor.dtype)
