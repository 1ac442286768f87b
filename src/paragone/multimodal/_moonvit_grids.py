r"""Where the patches of packed images are: grids, positions that are added, angles that turn.

The learned table $P$ of 64 x 64 places is resampled to each image's grid by cubic convolution
($a = -3/4$, half-pixel centres), and heads are turned by column and row,

$$ \alpha_{2i} = x\, \theta^{-4i/D}, \qquad \alpha_{2i+1} = y\, \theta^{-4i/D} ,
   \qquad i < D / 4 , $$

the pair (2j, 2j + 1) of coordinates by the angle $\alpha_j$.

References:
    Kimi Team (2025), Kimi-VL, arXiv:2504.07491, section 2.1 (both kinds of positions).
    Keys (1981), "Cubic convolution interpolation for digital image processing".

Shapes: n images, h rows and w columns of patches, L patches in all, M model width, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Grids", "checked_grids", "merged_order", "resampled", "turns"]

Grids = tuple[tuple[int, int], ...]
"""Rows and columns of patches of each image."""


def checked_grids(grid_hws: Tensor | Sequence[Sequence[int]], patches: int) -> Grids:
    """Grids as numbers.

    Args:
        grid_hws: (n, 2) whole numbers: rows and columns of each image.
        patches: How many patches there are.

    Raises:
        ValueError: Another shape or type, an empty image, or another number of patches.
    """
    if isinstance(grid_hws, Tensor):
        if grid_hws.ndim != 2 or grid_hws.shape[1] != 2 or grid_hws.is_floating_point():
            raise ValueError(
                f"grid_hws is {grid_hws.dtype} of shape {tuple(grid_hws.shape)}; whole numbers of "
                "shape (n, 2), rows and columns of patches of each image, are expected"
            )
        grid_hws = grid_hws.tolist()
    if any(len(one) != 2 for one in grid_hws):
        raise ValueError(f"grid_hws={grid_hws}: pairs of rows and columns are expected")
    grids = tuple((int(h), int(w)) for h, w in grid_hws)
    for number, (h, w) in enumerate(grids):
        if h < 1 or w < 1:
            raise ValueError(f"image {number} has a grid of {h} x {w} patches; at least 1 x 1")
    total = sum(h * w for h, w in grids)
    if total != patches:
        raise ValueError(
            f"grid_hws stands for {total} patches, and there are {patches}: one row of patches for "
            "each place of each grid, images one behind the other, is expected"
        )
    return grids


def resampled(table: Tensor, grids: Grids) -> Tensor:
    """The table (H, W, M) on each grid, (L, M); computed in float32 at least.

    A grid of H x W itself takes the table as it is.
    """
    h0, w0, width = table.shape
    wide = table.to(torch.promote_types(table.dtype, torch.float32))
    planes = wide.permute(2, 0, 1)[None]
    known: dict[tuple[int, int], Tensor] = {}
    for grid in grids:
        if grid in known:
            continue
        if grid == (h0, w0):
            known[grid] = wide.reshape(-1, width)
        else:
            plane = functional.interpolate(planes, grid, mode="bicubic", align_corners=False)
            known[grid] = plane[0].flatten(1).mT
    return torch.cat([known[grid] for grid in grids]) if grids else wide.new_zeros(0, width)


def turns(
    grids: Grids, head: int, theta: float, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosines and sines (L, D / 2) of all patches; angles are computed in float64."""
    at = torch.arange(0, head, 4, dtype=torch.float64)
    steps = theta ** (-at / head)
    longest = max((max(grid) for grid in grids), default=0)
    angles = torch.arange(longest, dtype=torch.float64)[:, None] * steps
    both = torch.stack([angles.cos(), angles.sin()]).to(dtype)
    tables: list[Tensor] = []
    for h, w in grids:
        columns = both[:, None, :w].expand(-1, h, -1, -1)
        rows = both[:, :h, None].expand(-1, -1, w, -1)
        tables.append(torch.stack([columns, rows], -1).flatten(1, 2).flatten(2))
    whole = torch.cat(tables, 1) if tables else both.new_zeros(2, 0, head // 2)
    cos, sin = whole.to(device).unbind()
    return cos, sin


def merged_order(grids: Grids, kernel: tuple[int, int]) -> Tensor:
    """For each merged place, then each of its patches, the number of the patch; 1-D int64.

    Raises:
        ValueError: A grid that is no multiple of the kernel.
    """
    (a, b), start, orders = kernel, 0, []
    for number, (h, w) in enumerate(grids):
        if h % a or w % b:
            raise ValueError(
                f"image {number} has a grid of {h} x {w} patches, no multiple of {a} x {b}; pad "
                "images on the right and at the bottom, as KimiImageProcessor does"
            )
        place = torch.arange(start, start + h * w).view(h // a, a, w // b, b)
        orders.append(place.transpose(1, 2).flatten())
        start += h * w
    return torch.cat(orders) if orders else torch.zeros(0, dtype=torch.int64)
