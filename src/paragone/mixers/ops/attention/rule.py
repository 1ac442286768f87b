r"""What a call of attention computes beside its tensors: the same rule for every back end.

Query i of a row with $T_q$ queries and $T_k$ keys stands at the place $p_i$, and sees key j where

$$ p_i = i + (T_k - T_q) \;\text{(bottom-right)} \quad\text{or}\quad p_i = i \;\text{(top-left)},
   \qquad p_i - \text{left} \le j \le p_i + \text{right} . $$

Causal attention is right = 0. Dropout draws nothing: whether a weight is kept is a hash of
(seed, row, head, i, j), so that any tile can be computed again, in any order.

References:
    Wellons (2018), "Prospecting for hash functions" (the constants of the mixer of 32 bits).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["GOLDEN", "Rule", "kept", "threshold"]

GOLDEN = 0x9E3779B9
_LOW = 0xFFFFFFFF


class Rule(NamedTuple):
    """Numbers of a call of attention.

    Attributes:
        scale: Factor of the scores.
        softcap: c in `c tanh(scores / c)`, 0 for none.
        left: Keys seen before a query's place, -1 for all.
        right: Keys seen behind it, -1 for all; causal attention has 0.
        bottom: Whether the last query stands at the last key (else the first at the first).
        dropout: Share of the weights that are dropped.
        seed: What dropout depends on.
    """

    scale: float
    softcap: float = 0.0
    left: int = -1
    right: int = -1
    bottom: bool = True
    dropout: float = 0.0
    seed: int = 0


def threshold(dropout: float) -> int:
    """A weight is dropped where its 32-bit word is below this."""
    return min(int(dropout * 2.0**32), _LOW)


def _mixed(x: Tensor) -> Tensor:
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _LOW
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _LOW
    return x ^ (x >> 16)


def kept(rule: Rule, rows: int, heads: int, queries: int, keys: int, device: object) -> Tensor:
    """(rows, heads, queries, keys) bool: the weights that dropout keeps.

    Each line (row, head, i) has a key of 32 bits, made of the seed's halves and the line's number
    among all of its row and head; the word of column j mixes j into it.
    """

    def count(n: int, shape: tuple[int, ...]) -> Tensor:
        return torch.arange(n, dtype=torch.int64, device=device).view(shape)  # type: ignore[arg-type]

    low, high = rule.seed & _LOW, (rule.seed >> 32) & _LOW
    plane = count(rows, (-1, 1, 1, 1)) * heads + count(heads, (-1, 1, 1))
    line = _mixed((plane * GOLDEN + low) & _LOW)
    line = _mixed(((line ^ high) + count(queries, (-1, 1)) * GOLDEN) & _LOW)
    return _mixed((line + count(keys, (-1,)) * GOLDEN) & _LOW) >= threshold(rule.dropout)
