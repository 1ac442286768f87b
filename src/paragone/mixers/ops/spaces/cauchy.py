"""Cauchy sums over conjugate pairs of poles."""

from __future__ import annotations

from torch import Tensor

from paragone.mixers.ops.spaces import reference

__all__ = ["cauchy"]


def cauchy(values: Tensor, poles: Tensor, x: Tensor, y: Tensor, *, backend: str = "auto") -> Tensor:
    """(R, H, 2, n) values, (H, 2, n) poles, (L,) nodes to (R, H, 2, L)."""
    return reference.cauchy(values, poles, x, y)
