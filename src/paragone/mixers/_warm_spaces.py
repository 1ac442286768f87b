"""Small calls that lead through every compiled kernel of this room, for `paragone warmup`."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["CALLS"]


def _memory() -> None:
    from paragone.mixers.hippo import Projection

    Projection("legs", 2).push([1.0, 2.0])


def _layers() -> None:
    import torch

    from paragone.mixers import LRU, S4, S4D

    x = torch.ones(1, 3, 2)
    for layer in (S4D, S4, LRU):
        for form in ("scan", "convolution"):
            layer(2, state=2, form=form)(x)[0].sum().backward()


CALLS: tuple[Callable[[], None], ...] = (_memory, _layers)
