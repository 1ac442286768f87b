"""Which anchor learns from which object, and which of them are looked at in a step.

References:
    Ren et al. (2015), "Faster R-CNN", arXiv:1506.01497, section 3.1.2 (thresholds, low quality).
    Zhang et al. (2020), "ATSS", arXiv:1912.02424, algorithm 1 (selection).

Shapes: G objects, A anchors or regions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from paragone.vision.boxes import box_iou

__all__ = ["BACKGROUND", "BETWEEN", "match", "sample", "select"]

BACKGROUND, BETWEEN = -1, -2


def match(overlaps: Tensor, high: float, low: float, low_quality: bool) -> Tensor:
    """Returns for each anchor the row of its object, `BACKGROUND`, or `BETWEEN` the thresholds.

    Args:
        overlaps: (G, A) intersections over unions; G may be 0.
        high: Overlap from which an anchor belongs to an object.
        low: Overlap below which it is background.
        low_quality: Whether each object also gets the anchors that overlap it most, however
            little, unless they belong to another one; for proposals, not for the second stage.

    Example:
        >>> match(torch.tensor([[0.8, 0.5, 0.1]]), 0.7, 0.3, low_quality=True)
        tensor([ 0, -2, -1])
    """
    count = overlaps.shape[1]
    if overlaps.shape[0] == 0 or count == 0:
        return torch.full((count,), BACKGROUND, device=overlaps.device)
    best, rows = overlaps.max(0)
    found = torch.where(best >= low, BETWEEN, BACKGROUND)
    found = torch.where(best >= high, rows, found)
    if low_quality:
        most = overlaps.max(1, keepdim=True).values
        claims = torch.where((overlaps == most) & (most > 0), overlaps, -1.0)
        claim, rows = claims.max(0)
        found = torch.where((found < 0) & (claim > 0), rows, found)
    return found


def sample(
    matched: Tensor, count: int, share: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Returns rows of anchors with an object and of background, drawn at random.

    Args:
        matched: (A,) from `match`.
        count: Most rows in all.
        share: Most of them, as a share, that have an object.
        generator: Draws them; on the CPU.
    """
    drawn, left = [], count
    for rows, most in (((matched >= 0), int(count * share)), ((matched == BACKGROUND), count)):
        rows = rows.nonzero()[:, 0]
        most = min(most, left)
        if len(rows) > most:
            rows = rows[torch.randperm(len(rows), generator=generator)[:most].to(rows.device)]
        drawn.append(rows)
        left -= len(rows)
    return drawn[0], drawn[1]


def select(objects: Tensor, squares: Tensor, levels: Sequence[int], nearest: int = 9) -> Tensor:
    """Returns for each cell the row of the object that it learns, or `BACKGROUND`.

    Of each level the nearest cells are candidates; those that overlap the object by at least the
    mean plus one deviation of its candidates, and have their centre inside, are taken. A cell
    that several objects want goes to the one that it overlaps most.

    Args:
        objects: (G, 4).
        squares: (A, 4), the squares of all cells.
        levels: How many of them each level has.
        nearest: Candidates of each level.
    """
    found = torch.full((len(squares),), BACKGROUND, device=squares.device)
    if not len(objects):
        return found
    overlaps = box_iou(objects, squares)
    middle = (squares[:, :2] + squares[:, 2:]) / 2
    away = torch.cdist((objects[:, :2] + objects[:, 2:]) / 2, middle)
    candidates, start = [], 0
    for count in levels:
        rows = away[:, start : start + count].topk(min(nearest, count), largest=False).indices
        candidates.append(rows + start)
        start += count
    columns = torch.cat(candidates, 1)
    shared = overlaps.gather(1, columns)
    limit = shared.mean(1, keepdim=True) + shared.std(1, keepdim=True)
    inside = ((middle > objects[:, None, :2]) & (middle < objects[:, None, 2:])).all(-1)
    good = (shared >= limit) & inside.gather(1, columns)
    claims = torch.full_like(overlaps, -1.0)
    claims.scatter_(1, columns, torch.where(good, shared, -1.0))
    best, rows = claims.max(0)
    return torch.where(best >= 0, rows, found)
