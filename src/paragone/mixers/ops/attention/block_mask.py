r"""A mask kept by blocks: only blocks that are partly masked store their elements.

Attention with a mask costs what its unmasked blocks cost, if it knows which they are. A table
holds for each block of 64 x 64 scores that it is empty, that it is full, or where its elements
stand, so memory grows with the boundary of the pattern and not with its area.

References:
    Dong et al. (2024), "Flex Attention", arXiv:2412.05496, section 3 (masks by blocks).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["BLOCK", "EMPTY", "FULL", "BlockMask"]

BLOCK = 64
EMPTY, FULL = -1, -2


class BlockMask:
    """Which keys a query may see, by blocks; `attention(mask=…)` skips the empty ones.

    Make it once for a shape and use it in every layer. Prefer it to a bool tensor when the
    pattern is sparse (local, strided, global tokens) or the sequence long.

    Args:
        table: (B or 1, H or 1, blocks of queries, blocks of keys) int64: `EMPTY`, `FULL`, or the
            place of the block's first element.
        elements: uint8, `BLOCK` x `BLOCK` for each partial block.
        queries: Queries Tq.
        keys: Keys Tk.

    Example:
        >>> near = BlockMask.from_rule(lambda b, h, i, j: (i - j).abs() < 9, 512, 512)
        >>> near.density, near.shape
        (0.34375, (1, 1, 512, 512))
    """

    def __init__(self, table: Tensor, elements: Tensor, queries: int, keys: int):
        self.table, self.elements = table, elements
        self.shape = (*table.shape[:2], queries, keys)

    @property
    def density(self) -> float:
        """Share of the blocks that are not empty: the share of a full attention's time."""
        return float((self.table != EMPTY).float().mean()) if self.table.numel() else 0.0

    @classmethod
    def from_rule(
        cls,
        rule: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
        queries: int,
        keys: int,
        *,
        rows: int = 1,
        heads: int = 1,
        blocks: Tensor | None = None,
        device: torch.device | str | None = None,
    ) -> BlockMask:
        """Makes a mask from a rule, without ever holding more than 64 lines of it.

        Args:
            rule: Called with integer tensors row, head, i, j that broadcast to
                (B, H, queries, keys); returns True where query i may see key j. Both count from 0.
            queries: Queries Tq.
            keys: Keys Tk.
            rows: B if the rule looks at the row, else 1.
            heads: H if the rule looks at the head, else 1.
            blocks: (…, blocks of queries, blocks of keys) bool: blocks that are not True are empty,
                whatever the rule says.
            device: Where the mask is to be.
        """
        row = torch.arange(rows, device=device).view(-1, 1, 1, 1)
        head = torch.arange(heads, device=device).view(-1, 1, 1)
        j = torch.arange(keys, device=device)
        many, wide = -(-queries // BLOCK), -(-keys // BLOCK)
        table = torch.full((rows, heads, many, wide), EMPTY, dtype=torch.int64, device=device)
        allowed = None if blocks is None else blocks.to(device).expand(rows, heads, many, wide)
        stored: list[Tensor] = []
        count = 0
        for at in range(many):
            i = torch.arange(at * BLOCK, min((at + 1) * BLOCK, queries), device=device)[:, None]
            seen = rule(row, head, i, j).expand(rows, heads, len(i), keys)
            size = torch.zeros(rows, heads, BLOCK, wide * BLOCK, dtype=torch.bool, device=device)
            size[:, :, : len(i), :keys] = seen
            tiles = size.unflatten(-1, (wide, BLOCK)).transpose(2, 3)
            inside = torch.full((wide,), BLOCK, device=device)
            if wide:
                inside[-1] = keys - (wide - 1) * BLOCK
            found = tiles.sum((-2, -1))
            full = found == inside * len(i)
            some = (found > 0) & ~full
            if allowed is not None:
                full, some = full & allowed[:, :, at], some & allowed[:, :, at]
            part = table[:, :, at]
            part[full] = FULL
            places = torch.arange(int(some.sum()), device=device) + count
            part[some] = places * BLOCK * BLOCK
            count += len(places)
            stored.append(tiles[some].to(torch.uint8).flatten())
        elements = torch.cat(stored) if stored else torch.zeros(0, dtype=torch.uint8, device=device)
        return cls(table, elements, queries, keys)

    @classmethod
    def from_mask(cls, mask: Tensor) -> BlockMask:
        """Makes it from a bool tensor (B or 1, H or 1, Tq, Tk), or (Tq, Tk)."""
        whole = mask[(None,) * (4 - mask.ndim)]
        rows, heads, queries, keys = whole.shape
        return cls.from_rule(
            lambda b, h, i, j: whole[b, h, i, j],
            queries, keys, rows=rows, heads=heads, device=mask.device,
        )  # fmt: skip

    def dense(self) -> Tensor:
        """Returns the bool tensor (B or 1, H or 1, Tq, Tk)."""
        rows, heads, queries, keys = self.shape
        many, wide = self.table.shape[2:]
        tiles = (self.table == FULL)[..., None, None].expand(-1, -1, -1, -1, BLOCK, BLOCK).clone()
        some = self.table >= 0
        tiles[some] = self.elements.view(-1, BLOCK, BLOCK)[self.table[some] // BLOCK**2].bool()
        whole = tiles.transpose(3, 4).reshape(rows, heads, many * BLOCK, wide * BLOCK)
        return whole[:, :, :queries, :keys]

    def to(self, device: torch.device | str) -> BlockMask:
        """Returns it on another device."""
        return BlockMask(self.table.to(device), self.elements.to(device), *self.shape[2:])
