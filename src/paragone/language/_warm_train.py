"""Small calls that lead through every compiled kernel of training, for `paragone warmup`."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["CALLS"]

CALLS: tuple[Callable[[], None], ...] = ()
