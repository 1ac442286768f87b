"""Small calls that lead through every compiled kernel of this room, for `paragone warmup`."""

from __future__ import annotations

from collections.abc import Callable

import torch

from paragone.mixers.ops.linear.interface import linear_attention

__all__ = ["CALLS"]


def _chunks() -> None:
    x = torch.zeros(1, 1, 2, 2, requires_grad=True)
    linear_attention(x, x, x, backend="numba")[0].sum().backward()


def _token() -> None:
    x = torch.zeros(1, 1, 1, 2)
    linear_attention(x, x, x, backend="numba")


CALLS: tuple[Callable[[], None], ...] = (_chunks, _token)
"""Calls without arguments."""
