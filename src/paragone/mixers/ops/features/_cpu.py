"""Exponentials of a matrix relative to a maximum of the rows, in one pass over memory.

Shapes: N = B H rows of T times F numbers.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit
from paragone.kernels.simd import (
    WIDTH,
    exp,
    fill_some,
    largest,
    load,
    load_some,
    maximum,
    splat,
    store,
    store_some,
)  # fmt: skip
from paragone.kernels.teams import share

__all__ = ["exps"]

_NEVER = np.float32(-np.inf)


@njit(nogil=True, error_model="numpy")
def _highest(x, at, count):
    """Largest of `count` numbers."""
    whole = count - count % WIDTH
    high = splat(_NEVER)
    for f in range(0, whole, WIDTH):
        high = maximum(high, load(x, at + f))
    if whole < count:
        tail = fill_some(load_some(x, at + whole, count - whole), splat(_NEVER), count - whole)
        high = maximum(high, tail)
    return largest(high)


@njit(nogil=True, error_model="numpy")
def _exps(counter, units, reach, shift, start, found, level, time, features, running, lowest):
    whole = features - features % WIDTH
    floor = splat(lowest)
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        high = start[unit]
        for t in range(unit * time, unit * time + time):
            at = t * features
            own = _highest(reach, at, features) - shift[t]
            high = max(high, own) if running else own
            level[t] = high
            if shift[t] == np.inf:
                for f in range(features):
                    found[at + f] = np.float32(0)
                continue
            offset = splat(high + shift[t])
            for f in range(0, whole, WIDTH):
                store(found, at + f, exp(maximum(load(reach, at + f) - offset, floor)))
            if whole < features:
                rest = features - whole
                tail = exp(maximum(load_some(reach, at + whole, rest) - offset, floor))
                store_some(found, at + whole, tail, rest)
        unit = fetch_add(counter, 0, 1)


def exps(
    reach: Tensor, shift: Tensor, start: Tensor, running: bool, lowest: float
) -> tuple[Tensor, Tensor]:
    """As `exp_features`, for float32 on the CPU; start (B, H)."""
    reach, shift = reach.contiguous(), shift.contiguous()
    rows, heads, time, features = reach.shape
    found, level = reach.new_empty(reach.shape), shift.new_empty(shift.shape)
    if reach.numel():
        share(
            _exps, rows * heads, reach.view(-1).numpy(), shift.view(-1).numpy(),
            start.contiguous().view(-1).numpy(), found.view(-1).numpy(), level.view(-1).numpy(),
            time, features, running, np.float32(lowest),
            threads=torch.get_num_threads() if reach.numel() > 2**16 else 1,
        )  # fmt: skip
    return found, level
