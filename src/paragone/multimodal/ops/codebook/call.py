"""Nearest code: checks, and the choice of who computes it."""

from __future__ import annotations

from torch import Tensor

from paragone.multimodal.ops.codebook import reference

__all__ = ["nearest_code"]


def nearest_code(z: Tensor, codes: Tensor) -> Tensor:
    """Number of the nearest code, ties to the lowest.

    Args:
        z: (n, D).
        codes: (K, D).

    Returns:
        (n,) int64.
    """
    return reference.nearest_code(z, codes)
