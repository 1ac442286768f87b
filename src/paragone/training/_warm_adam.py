"""Small calls that lead through every compiled kernel of this room, for `paragone warmup`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["CALLS"]


def _stepped(kind: str, **options: Any) -> None:
    """One step of a parameter with that many elements and that type."""
    import torch

    from paragone.training import AdamW

    p = torch.nn.Parameter(torch.ones(4096, dtype=getattr(torch, kind)))
    p.grad = torch.ones_like(p)
    AdamW([p], weight_decay=0.1, **options).step()


def _singles() -> None:
    _stepped("float32", max_norm=1.0)


def _halves() -> None:
    _stepped("bfloat16", rounding="stochastic")


def _mixed() -> None:
    _stepped("float32", amsgrad=True, states="bfloat16")


def _blocks() -> None:
    _stepped("float32", states="8bit")


CALLS: tuple[Callable[[], None], ...] = (_singles, _halves, _mixed, _blocks)
