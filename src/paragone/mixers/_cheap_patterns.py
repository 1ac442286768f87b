r"""Which keys a query sees, pair by pair, under the fixed patterns of sparse attention.

With stride l, c summary columns and offset $i - j \ge 0$ (its size, if not causal):

    local    $i - j < l$                      column   $(i - j) \bmod l = 0$
    block    same block of l                  summary  j among the last c columns of a block of l
    strided  local or column                  fixed    block, or summary of another block
    bigbird  same or next block, first block, or a few blocks drawn by a hash of i's block

References:
    Child et al. (2019), arXiv:1904.10509, section 4.3 (strided, fixed); Zaheer et al. (2020),
    arXiv:2007.14062, section 2 (BigBird).

Shapes: H heads, T time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from paragone.mixers.ops.attention.block_mask import BLOCK, EMPTY, FULL, BlockMask

__all__ = ["PARTS", "PATTERNS", "Pattern"]

PARTS = {"strided": ("local", "column"), "fixed": ("block", "summary")}
"""Patterns with a per-head form: what heads take in turn."""

PATTERNS = ("strided", "fixed", "local", "bigbird")
"""Names that `SparseAttention` takes."""


@dataclasses.dataclass(frozen=True, eq=False)
class Pattern:
    """A rule for pairs of places.

    Attributes:
        kind: A name of the table above, or "custom".
        causal: Whether a query sees keys j <= i only, on top of the rule.
        stride: l.
        summary: c.
        block: Side of the blocks of "bigbird", and of a custom mask of blocks.
        random: Drawn blocks for each block of "bigbird".
        kept: The masks made last.
        rule: Custom function of places i (…, T, 1) and j (…, 1, S), or mask of pairs or blocks.
    """

    kind: str
    causal: bool = True
    stride: int = 128
    summary: int = 8
    block: int | None = None
    random: int = 2
    rule: Callable[[Tensor, Tensor], Tensor] | Tensor | None = None
    kept: dict[Any, BlockMask] = dataclasses.field(default_factory=dict, repr=False)

    def sees(self, i: Tensor, j: Tensor) -> Tensor:
        """Returns which pairs count.

        Args:
            i: (…, T, 1) places of queries.
            j: (…, 1, S) places of keys.

        Returns:
            (…, T, S), or (H, T, S) for a custom mask of that many heads.

        Example:
            >>> i = torch.arange(6)
            >>> Pattern("strided", stride=2).sees(i[:, None], i)[5].int().tolist()
            [0, 1, 0, 1, 1, 1]
        """
        visible = self._rule(i, j)
        return visible & (j <= i) if self.causal else visible

    def block_mask(self, time: int, device: torch.device) -> BlockMask:
        """Returns the pattern for T queries and keys by blocks; kept, as it takes T^2 to make."""
        return self._keep((time, device), lambda: self._by_blocks(time, device))

    def summaries(self, queries: int, keys: int, device: torch.device) -> BlockMask:
        """Returns which summary columns, of earlier blocks, queries from place l on see."""
        side, tail = self.stride, self.summary

        def make() -> BlockMask:
            return BlockMask.from_rule(
                lambda row, head, i, j: j // tail <= i // side, queries, keys, device=device
            )

        return self._keep((queries, keys, device), make)

    def _keep(self, key: Any, make: Callable[[], BlockMask]) -> BlockMask:
        if key not in self.kept:
            while len(self.kept) > 3:
                self.kept.pop(next(iter(self.kept)))
            self.kept[key] = make()
        return self.kept[key]

    def _by_blocks(self, time: int, device: torch.device) -> BlockMask:
        of_blocks = self.kind == "bigbird" or (isinstance(self.rule, Tensor) and self.block)
        if of_blocks and self._side % BLOCK == 0:
            return self._from_blocks(time, device)
        mask = self.rule
        heads = mask.shape[0] if isinstance(mask, Tensor) and mask.ndim == 3 else 1

        def rule(row: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
            found = self.sees(i, j)
            return found[None] if found.ndim == 3 else found

        return BlockMask.from_rule(rule, time, time, heads=heads, device=device)

    def _from_blocks(self, time: int, device: torch.device) -> BlockMask:
        """A mask that is the same all over a block, but for the diagonal if causal."""
        starts = torch.arange(0, time, BLOCK, device=device)
        seen = self.sees(starts[:, None], starts[None])
        seen = seen[(None,) * (4 - seen.ndim)]
        table = torch.where(seen, FULL, EMPTY)
        if not self.causal:
            return BlockMask(table, torch.zeros(0, dtype=torch.uint8, device=device), time, time)
        diagonal = torch.diagonal(table, dim1=-2, dim2=-1)
        diagonal.copy_(torch.where(diagonal == FULL, 0, EMPTY))
        square = torch.ones(BLOCK, BLOCK, dtype=torch.uint8, device=device).tril()
        return BlockMask(table, square.flatten(), time, time)

    def _rule(self, i: Tensor, j: Tensor) -> Tensor:
        apart, side = (i - j).abs(), self.stride
        if self.kind == "local":
            return apart < side
        if self.kind == "column":
            return apart % side == 0
        if self.kind == "strided":
            return (apart < side) | (apart % side == 0)
        same = i // side == j // side
        tail = j % side >= side - self.summary
        if self.kind == "block":
            return same
        if self.kind == "summary":
            return tail.expand(torch.broadcast_shapes(i.shape, j.shape))
        if self.kind == "fixed":
            return same | tail & ~same
        if self.kind == "bigbird":
            return self._bigbird(i // self._side, j // self._side)
        return self._custom(i, j)

    @property
    def _side(self) -> int:
        return self.block or 64

    def _bigbird(self, i: Tensor, j: Tensor) -> Tensor:
        visible = ((i - j).abs() <= 1) | (j == 0)
        if not self.causal:
            visible = visible | (i == 0)
        for number in range(self.random):
            # The block drawn depends on i's block alone, so that a prefix stays what it was.
            word = (i * 2654435761 + (number + 1) * 40503) % 2**32
            word = ((word ^ (word >> 15)) * 2246822519) % 2**32
            visible = visible | (j == (word >> 7) % i.clamp(min=1))
        return visible

    def _custom(self, i: Tensor, j: Tensor) -> Tensor:
        if callable(self.rule) and not isinstance(self.rule, Tensor):
            return self.rule(i, j)
        mask = self.rule
        assert isinstance(mask, Tensor)
        if self.block is not None:
            i, j = i // self.block, j // self.block
        rows, columns = mask.shape[-2:]
        if i.numel() and j.numel() and (int(i.max()) >= rows or int(j.max()) >= columns):
            side = self.block or 1
            raise ValueError(
                f"the pattern's mask of shape {tuple(mask.shape)} covers {rows * side} x "
                f"{columns * side} places; place ({int(i.max()) * side}, {int(j.max()) * side}) "
                "lies beyond it: give a larger one, or a function of places"
            )
        mask = mask.to(i.device)
        if mask.ndim == 2:
            return mask[i, j]
        return mask[torch.arange(len(mask), device=i.device)[:, None, None], i, j]
