"""Warm-up of one room of the family; see `_warmup`."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["CALLS"]

CALLS: tuple[Callable[[], None], ...] = ()
