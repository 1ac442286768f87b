r"""The norm of all gradients, with the same bits for every number of ranks.

Adding floats in another order changes the last bits, so a norm over shares depends on how they
were cut. Here each square $x$ is split against a power of two $M$ so large that all sums of the
parts are exact (no rounding happens, so no order matters):

$$ q = (M + x) - M, \qquad \sum_i q_i \text{ exact if } n \max x \le M / 2, \qquad
   x \gets x - q . $$

Three such levels leave less than $2^{-90}$ of the largest square a term out, relative to
$n \le 2^{30}$. Cost: about ten passes over a block that stays in the cache.

References:
    Demmel and Nguyen (2015), "Parallel reproducible summation", algorithm 3 with pre-rounding
    by a maximum known beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["LEVELS", "clip_factor", "largest", "level_sums", "norm_of"]

LEVELS = 3
_BLOCK = 1 << 16


def largest(tensors: Sequence[Tensor]) -> float:
    """Largest magnitude of all elements; NaN if one is NaN."""
    tops = [tensor.detach().abs().amax() for tensor in tensors if tensor.numel()]
    return float(torch.stack(tops).amax()) if tops else 0.0


def level_sums(tensors: Sequence[Tensor], biggest: float, count: int) -> list[float]:
    """Exact sums of the squares' parts, one a level.

    Args:
        tensors: This rank's gradients.
        biggest: Largest magnitude over all ranks, finite.
        count: Number of elements over all ranks, or more.
    """
    if biggest == 0:
        return [0.0] * LEVELS
    room = math.frexp(count)[1] + 1
    exponent = 2 * math.frexp(biggest)[1] + room
    totals = [0.0] * LEVELS
    for tensor in tensors:
        for block in tensor.detach().reshape(-1).split(_BLOCK):
            rest, top = block.double().square_(), exponent
            for level in range(LEVELS):
                anchor = 1.5 * math.ldexp(1.0, top)
                part = rest.add(anchor).sub_(anchor)
                totals[level] += float(part.sum())
                rest -= part
                top += room - 53
    return totals


def norm_of(sums: Sequence[Sequence[float]]) -> float:
    """The norm from the level sums of all ranks."""
    levels = [math.fsum(row[level] for row in sums) for level in range(LEVELS)]
    return math.sqrt(math.fsum(levels))


def clip_factor(norm: float, most: float) -> float:
    """What the gradients are multiplied by: min(1, most / (norm + 1e-6)), as torch has it."""
    return min(1.0, most / (norm + 1e-6))
