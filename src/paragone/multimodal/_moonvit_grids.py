r"""Where the patches of packed images are: grids, positions that are added, angles that turn.

The learned table $P$ of 64 x 64 places is resampled to each image's grid by cubic convolution
(half-pixel centres, the border repeated, $a = -3/4$), 16 places for each patch,

$$ k(t) = \begin{cases} (a + 2) t^3 - (a + 3) t^2 + 1 & t \le 1 \\
   a t^3 - 5 a t^2 + 8 a t - 4 a & 1 < t < 2 , \end{cases} $$

and heads are turned by column and row,

$$ \alpha_{2i} = x\, \theta^{-4i/D}, \qquad \alpha_{2i+1} = y\, \theta^{-4i/D} ,
   \qquad i < D / 4 , $$

the pair (2j, 2j + 1) of coordinates by the angle $\alpha_j$.

References:
    Kimi Team (2025), Kimi-VL, arXiv:2504.07491, section 2.1 (both kinds of positions).
    Keys (1981), "Cubic convolution interpolation for digital image processing".

Shapes: n images, h rows and w columns of patches, L patches in all, M model width, D head width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "Grids", "check_patches", "checked_grids", "merged_order", "read_grids", "resampled", "turns",
]  # fmt: skip

_A = -0.75

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
    grids = read_grids("grid_hws", grid_hws, ("rows", "columns"))
    for number, (h, w) in enumerate(grids):
        if h < 1 or w < 1:
            raise ValueError(f"image {number} has a grid of {h} x {w} patches; at least 1 x 1")
    check_patches("grid_hws", grids, patches)
    return tuple((h, w) for h, w in grids)


def read_grids(
    name: str, given: Tensor | Sequence[Sequence[int]], axes: Sequence[str]
) -> tuple[tuple[int, ...], ...]:
    """Grids of any number of axes as numbers.

    Args:
        name: Of the argument, for messages.
        given: (n, axes) whole numbers.
        axes: What they count, such as ("rows", "columns").

    Raises:
        ValueError: Another shape or type.
    """
    told = f"{', '.join(axes[:-1])} and {axes[-1]}"
    if isinstance(given, Tensor):
        if given.ndim != 2 or given.shape[1] != len(axes) or given.is_floating_point():
            raise ValueError(
                f"{name} is {given.dtype} of shape {tuple(given.shape)}; whole numbers of "
                f"shape (n, {len(axes)}), {told} of patches of each picture, are expected"
            )
        given = given.tolist()
    if any(len(one) != len(axes) for one in given):
        raise ValueError(f"{name}={given}: {told} of each picture are expected")
    return tuple(tuple(int(side) for side in one) for one in given)


def check_patches(name: str, grids: Sequence[Sequence[int]], patches: int) -> None:
    """Refuses grids that stand for another number of patches.

    Args:
        name: Of the argument, for the message.
        grids: Sides of each grid.
        patches: How many patches there are.

    Raises:
        ValueError: Another number.
    """
    total = sum(math.prod(one) for one in grids)
    if total != patches:
        raise ValueError(
            f"{name} stands for {total} patches, and there are {patches}: one row of patches for "
            "each place of each grid, pictures one behind the other, is expected"
        )


def resampled(table: Tensor, grids: Grids) -> Tensor:
    """The table (H, W, M) on each grid, (L, M); computed in float32 at least.

    A grid of H x W itself takes the table as it is: its weights are 0, 1, 0, 0.
    """
    rows, columns, width = table.shape
    wide = table.to(torch.promote_types(table.dtype, torch.float32))
    known: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
    for h, w in grids:
        if (h, w) in known:
            continue
        (y, a), (x, b) = _cubic(h, rows), _cubic(w, columns)
        places = (y[:, None, :, None] * columns + x[:, None, :]).reshape(-1, 16)
        known[h, w] = places, (a[:, None, :, None] * b[:, None, :]).reshape(-1, 16)
    if not grids:
        return wide.new_zeros(0, width)
    places, weights = (torch.cat([known[grid][at] for grid in grids]) for at in (0, 1))
    return functional.embedding_bag(
        places.to(wide.device), wide.reshape(-1, width), mode="sum",
        per_sample_weights=weights.to(wide.device, wide.dtype),
    )  # fmt: skip


def _cubic(wanted: int, given: int) -> tuple[Tensor, Tensor]:
    """For each of `wanted` points the four of `given` that it is made of, and their weights."""
    at = (torch.arange(wanted, dtype=torch.float64) + 0.5) * (given / wanted) - 0.5
    first = at.floor()
    t = at - first
    far, near = torch.stack([t + 1, 2 - t], -1), torch.stack([t, 1 - t], -1)
    outer = ((_A * far - 5 * _A) * far + 8 * _A) * far - 4 * _A
    inner = ((_A + 2) * near - (_A + 3)) * near.square() + 1
    weights = torch.stack([outer[:, 0], inner[:, 0], inner[:, 1], outer[:, 1]], -1)
    places = first.long()[:, None] + torch.arange(-1, 3)
    return places.clamp(0, given - 1), weights


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
