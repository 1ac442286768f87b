"""The scan of diagonal modes: all states of s_t = e^z s_(t-1) + x_t."""

from __future__ import annotations

from torch import Tensor

from paragone.mixers.ops.spaces.chunked import doubling

__all__ = ["scan"]


def scan(x: Tensor, rate: Tensor, state: Tensor, *, backend: str = "auto") -> Tensor:
    """(B, T, 2, n) inputs, (2, n) rates, (B, 2, n) state to the states (B, T, 2, n)."""
    return doubling(x, rate, state)
