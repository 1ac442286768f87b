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

from paragone.mixers.ops.attention.block_mask import BlockMask

__all__ = ["Call", "Extras", "Rule", "kept", "key_of", "threshold"]

_LOW = 0xFFFFFFFF
_ALL = 0xFFFFFFFFFFFFFFFF


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


class Extras(NamedTuple):
    """What a call may have beside q, k, v and the rule.

    Attributes:
        lengths: (N,) queries and (N,) keys of each row, int64 (None: all of them).
        packed: Whether the rows stand one behind the other in a single one.
        mask: Bool (N or 1, H or 1, Tq or 1, Tk or 1), or by blocks.
        bias: Float, broadcast alike.
        slopes: (N or 1, H) float32 of ALiBi.
    """

    lengths: tuple[Tensor, Tensor] | None = None
    packed: bool = False
    mask: Tensor | BlockMask | None = None
    bias: Tensor | None = None
    slopes: Tensor | None = None


class Call(NamedTuple):
    """All that a back end is given.

    Attributes:
        q: (B, H, Tq, D), any strides.
        k: (B, G, Tk, D).
        v: (B, G, Tk, E).
        rule: The numbers.
        lengths: (N,) queries and (N,) keys of each row, int64 (None: all of them).
        packed: Whether the rows stand one behind the other in a single one (B = 1).
        mask: Bool (N or 1, H or 1, Tq or 1, Tk or 1), True where a query may see a key.
        table: Its blocks as in `BlockMask`, with places in the memory of `mask`; or, without
            `mask`, in `elements`.
        elements: Of a `BlockMask`.
        bias: Float, of a shape like the mask's.
        slopes: (N or 1, H) float of ALiBi.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    rule: Rule
    lengths: tuple[Tensor, Tensor] | None = None
    packed: bool = False
    mask: Tensor | None = None
    table: Tensor | None = None
    elements: Tensor | None = None
    bias: Tensor | None = None
    slopes: Tensor | None = None


def threshold(dropout: float) -> int:
    """A weight is dropped where its 32-bit word is below this."""
    return min(int(dropout * 2.0**32), _LOW)


def _mixed(x: Tensor) -> Tensor:
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _LOW
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _LOW
    return x ^ (x >> 16)


def key_of(seed: int) -> int:
    """The 64 bits that stand for a seed: `kernels.narrow.random_key(seed, 0)`."""
    x = (seed + 0x9E3779B97F4A7C15) & _ALL
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _ALL
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _ALL
    return x ^ (x >> 31)


def kept(
    rule: Rule, shape: tuple[int, int, int, int], sizes: tuple[int, int], device: torch.device
) -> Tensor:
    """(rows, heads, queries, keys) bool: the weights that dropout keeps.

    Each has the word `kernels.narrow.random_word(key, index)` with the index
    ((row H + head) Sq + i) Sk + j; (Sq, Sk) = `sizes` are those of the tensors that the caller
    gave, so for packed rows the sums of their lengths.
    """
    rows, heads, queries, keys = (
        torch.arange(n, dtype=torch.int64, device=device).view([-1] + [1] * (3 - at))
        for at, n in enumerate(shape)
    )
    index = ((rows * shape[1] + heads) * sizes[0] + queries) * sizes[1] + keys
    key = key_of(rule.seed)
    word = _mixed((index & _LOW) ^ (key & _LOW))
    far = ((index >> 32) * 0x9E3779B9) & _LOW
    return _mixed((word + (far ^ (key >> 32))) & _LOW) >= threshold(rule.dropout)
