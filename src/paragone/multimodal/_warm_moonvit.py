"""Calls that lead through the compiled kernels of this part."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["CALLS"]

CALLS: tuple[Callable[[], None], ...] = ()
