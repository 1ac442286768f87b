"""Small calls that lead through every compiled kernel of this room, for `paragone warmup`."""

from __future__ import annotations

from collections.abc import Callable

import torch

from paragone.multimodal.ops.codebook.call import nearest_code

__all__ = ["CALLS"]


def _choice_of_codes() -> None:
    nearest_code(torch.zeros(7, 2), torch.zeros(3, 2), backend="numba")


CALLS: tuple[Callable[[], None], ...] = (_choice_of_codes,)
"""Calls without arguments."""
