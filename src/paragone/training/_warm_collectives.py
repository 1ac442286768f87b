"""Small calls that lead through every compiled kernel of this room, for `paragone warmup`."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["CALLS"]


def _simulator() -> None:
    from paragone.training.collectives import Machine, simulate

    simulate("tree", ranks=4, bytes=64, machine=Machine(alpha=1e-5, beta=1e-9))


CALLS: tuple[Callable[[], None], ...] = (_simulator,)
