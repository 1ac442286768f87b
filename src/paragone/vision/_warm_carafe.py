"""Small calls that lead through every compiled kernel of this room, for `paragone warmup`."""

from __future__ import annotations

from collections.abc import Callable

import torch

from paragone.vision.ops.carafe.call import carafe

__all__ = ["CALLS"]


def _forward_and_backward() -> None:
    x = torch.zeros(1, 1, 2, 2, requires_grad=True)
    kernels = torch.zeros(1, 1, 2, 2, requires_grad=True)
    carafe(x, kernels, 1, backend="numba").sum().backward()


CALLS: tuple[Callable[[], None], ...] = (_forward_and_backward,)
"""Calls without arguments."""
