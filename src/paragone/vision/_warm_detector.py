"""Small calls that lead through every compiled kernel of this room, for `paragone warmup`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

__all__ = ["CALLS"]


def _suppress() -> None:
    import torch

    from paragone.vision.boxes import nms, soft_nms

    boxes, scores = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 3]]), torch.tensor([0.9, 0.8])
    for dtype in (torch.float32, torch.float64):
        nms(boxes.to(dtype), scores, 0.5)
        soft_nms(boxes.to(dtype), scores)


def _pool(pool: str) -> None:
    import torch

    from paragone.vision.position_sensitive import ps_roi_align

    maps, region = torch.zeros(1, 4, 3, 3, requires_grad=True), torch.tensor([[0.0, 0, 0, 2, 2]])
    ps_roi_align(maps, region, 2, pool=pool).sum().backward()  # pyright: ignore


CALLS: tuple[Callable[[], None], ...] = (_suppress, partial(_pool, "mean"), partial(_pool, "max"))
"""Calls without arguments."""
