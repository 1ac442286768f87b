r"""The nearest code, by definition.

$$ j^* = \min \Big\{ j : \lVert z - e_j \rVert^2 = \min_i \lVert z - e_i \rVert^2 \Big\} , $$

with the squares added up in float64, so that numbers of 32 bits are told apart as they are.

References:
    van den Oord, Vinyals and Kavukcuoglu (2017), arXiv:1711.00937, eq. 1.

Shapes: n vectors, K codes, D numbers each.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["nearest_code"]

_NUMBERS = 1 << 22


def nearest_code(z: Tensor, codes: Tensor) -> Tensor:
    """Number of the nearest code, ties to the lowest.

    Args:
        z: (n, D).
        codes: (K, D).

    Returns:
        (n,) int64.

    Example:
        >>> nearest_code(torch.tensor([[1.0], [5.0]]), torch.tensor([[0.0], [2.0], [9.0]]))
        tensor([0, 1])
    """
    wide, books = z.double(), codes.double().nan_to_num(torch.inf, torch.inf, torch.inf)
    rows = max(1, _NUMBERS // max(1, codes.numel()))
    found = [
        (part[:, None] - books).square().sum(-1).nan_to_num(torch.inf).argmin(-1)
        for part in wide.split(rows)
        if len(z)
    ]
    return torch.cat(found) if found else torch.empty(0, dtype=torch.int64, device=z.device)
