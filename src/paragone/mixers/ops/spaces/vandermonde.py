"""The kernel of diagonal modes."""

from __future__ import annotations

from torch import Tensor

from paragone.mixers.ops.spaces import reference

__all__ = ["vandermonde"]


def vandermonde(rate: Tensor, weight: Tensor, length: int, *, backend: str = "auto") -> Tensor:
    """(H, 2, n) rates and weights to the kernel (H, L)."""
    return reference.vandermonde(rate, weight, length)
