r"""Places of Qwen2-VL: of words and pictures in the decoder, of patches in the tower.

M-RoPE gives each token three places, and each pair of a head's coordinates is turned by one of
them: the first 16 by time t, the next 24 by row r, the last 24 by column c. Of a text all three
are the same number. With s the first place that is free,

$$ \begin{array}{ll}
   \text{text, n-th word} & (s + n,\ s + n,\ s + n) \\
   \text{picture, frame } f \text{, row } i \text{, column } j
     & (s + \lfloor \tau f \rfloor,\ s + i,\ s + j) \\
   \text{what follows} & s' = 1 + \max \text{ of all before,}
   \end{array} $$

where $\tau$ is 1, and for films in Qwen2.5-VL the ticks of a second times the seconds of a frame.

The tower turns the first half of the pairs by row and the second by column,

$$ \alpha_i = r\, \theta^{-4i/D}, \qquad \alpha_{D/4 + i} = c\, \theta^{-4i/D},
   \qquad i < D / 4 , $$

pair i being the coordinates (i, i + D/2). Patches come in blocks of 2 x 2, those that become one
token side by side, so merging them is a reshape. The windows of Qwen2.5-VL are squares of tokens,
cut off at the right and lower edge; all tokens of a window are put one behind the other.

References:
    Wang et al. (2024), Qwen2-VL, arXiv:2409.12191, section 2.1 and figure 3 (M-RoPE).
    Bai et al. (2025), Qwen2.5-VL, arXiv:2502.13923, section 2.1.1 (windows), 2.1.2 (absolute time).

Shapes: B rows, T time, n pictures, L patches, D width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from paragone.mixers.rotary import Rotary
from paragone.multimodal._moonvit_grids import check_patches, read_grids

__all__ = ["Grid", "Grids", "checked_grids", "places", "sectioned", "turns", "windows"]

Grid = tuple[int, int, int]
"""Frames, rows and columns of patches of a picture."""

Grids = tuple[Grid, ...]


def checked_grids(
    grid_thw: Tensor | Sequence[Sequence[int]], merge: int, patches: int | None = None
) -> Grids:
    """Grids as numbers.

    Args:
        grid_thw: (n, 3) whole numbers: frames, rows and columns of patches of each picture.
        merge: Patches along a side that become one token.
        patches: How many patches there are (None: not asked).

    Raises:
        ValueError: Another shape or type, an empty picture, sides that are no multiples of
            `merge`, or another number of patches.
    """
    grids = read_grids("grid_thw", grid_thw, ("frames", "rows", "columns"))
    for number, (t, h, w) in enumerate(grids):
        if min(t, h, w) < 1 or h % merge or w % merge:
            raise ValueError(
                f"picture {number} has a grid of {t} x {h} x {w}; at least 1 x {merge} x {merge}, "
                f"rows and columns multiples of {merge}, are expected"
            )
    if patches is not None:
        check_patches("grid_thw", grids, patches)
    return tuple((t, h, w) for t, h, w in grids)


def places(
    there: Tensor,
    grids: Grids,
    merge: int,
    *,
    steps: Sequence[float] | None = None,
    start: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The three places of each token.

    Args:
        there: (B, T) whether a token stands for a part of a picture; of each picture in one piece.
        grids: Grids of the pictures, in the order of rows and places.
        merge: Patches along a side that become one token.
        steps: Places of time from a frame to the next, of each picture (None: 1).
        start: (B,) first place of each row (None: 0).
        lengths: (B,) tokens of each row that count (None: all); those behind them are at 0.

    Returns:
        (3, B, T) int64, and (B,) the place of the token that comes next, on the device of `there`.

    Example:
        >>> there = torch.tensor([[False, True, True, False]])
        >>> places(there, ((1, 2, 4),), 2)[0][:, 0].tolist()
        [[0, 1, 1, 3], [0, 1, 1, 3], [0, 1, 2, 3]]
    """
    rows, time = there.shape
    at = torch.zeros(3, rows, time, dtype=torch.int64)
    ends = [time] * rows if lengths is None else lengths.tolist()
    begins = [0] * rows if start is None else start.tolist()
    spots = [one.nonzero()[:, 0].tolist() for one in there.cpu()]
    following, number = [], 0
    for row in range(rows):
        place, done, seen = begins[row], 0, 0
        while seen < len(spots[row]):
            first = spots[row][seen]
            at[:, row, done:first] = torch.arange(place, place + first - done)
            place += first - done
            own = _grid_places(grids[number], merge, 1.0 if steps is None else steps[number])
            done, seen, number = first + own.shape[1], seen + own.shape[1], number + 1
            at[:, row, first:done] = place + own
            place += int(own.max()) + 1
        at[:, row, done : ends[row]] = torch.arange(place, place + ends[row] - done)
        following.append(place + ends[row] - done)
    return at.to(there.device), torch.tensor(following, device=there.device)


def _grid_places(grid: Grid, merge: int, step: float) -> Tensor:
    t, h, w = grid
    frames = (torch.arange(t, dtype=torch.float64) * step).long()
    axes = (frames, torch.arange(h // merge), torch.arange(w // merge))
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)


def sectioned(
    rotary: Rotary, at: Tensor, sections: Sequence[int], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosines and sines that `rotary.turn` takes, each pair by the place of its section.

    Args:
        rotary: Its frequencies and amplitude count.
        at: (3, B, T) places.
        sections: Pairs that are turned by each of the three.
        dtype: Type of what comes back; angles are computed in float64.

    Returns:
        Two (B, 1, T, D / 2) tensors.
    """
    theta = torch.tensor(rotary.frequencies, dtype=torch.float64, device=at.device)
    axis = torch.repeat_interleave(torch.arange(3), torch.tensor(sections)).to(at.device)
    angles = at.movedim(0, -1).to(torch.float64)[..., axis] * theta
    cos, sin = angles.cos() * rotary.amplitude, angles.sin() * rotary.amplitude
    return cos.to(dtype)[:, None], sin.to(dtype)[:, None]


def turns(
    grids: Grids, merge: int, head: int, theta: float, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosines and sines (L, D / 2) of all patches of the tower, in blocks of merged ones."""
    steps = theta ** (-torch.arange(0, head, 4, dtype=torch.float64) / head)
    longest = max((max(h, w) for _, h, w in grids), default=0)
    angles = torch.arange(longest, dtype=torch.float64)[:, None] * steps
    both = torch.stack([angles.cos(), angles.sin()]).to(dtype)
    found: list[Tensor] = []
    for t, h, w in grids:
        r, c = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        r, c = (
            x.reshape(h // merge, merge, w // merge, merge).transpose(1, 2).flatten().repeat(t)
            for x in (r, c)
        )
        found.append(torch.cat([both[:, r], both[:, c]], -1))
    whole = torch.cat(found, 1) if found else both.new_zeros(2, 0, head // 2)
    cos, sin = whole.to(device).unbind()
    return cos, sin


def windows(grids: Grids, merge: int, side: int) -> tuple[Tensor, list[int]]:
    """Tokens sorted by windows.

    Args:
        grids: Grids of patches.
        merge: Patches along a side that become one token.
        side: Tokens along a window's side.

    Returns:
        (L / merge^2,) numbers of tokens, window by window; and how many tokens each window has.

    Example:
        >>> order, counts = windows(((1, 4, 6),), 2, 2)
        >>> order.tolist(), counts
        ([0, 1, 3, 4, 2, 5], [4, 2])
    """
    orders, counts, begun = [], [], 0
    for t, h, w in grids:
        rows, columns = h // merge, w // merge
        numbers = torch.arange(begun, begun + t * rows * columns).view(t, rows, columns)
        begun += t * rows * columns
        for frame in numbers:
            for band in frame.split(side, 0):
                for part in band.split(side, 1):
                    orders.append(part.flatten())
                    counts.append(part.numel())
    return (torch.cat(orders) if orders else torch.zeros(0, dtype=torch.int64)), counts
