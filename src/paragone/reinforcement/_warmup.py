"""Small calls that lead through every compiled kernel of the family, for `paragone warmup`."""

from __future__ import annotations

from collections.abc import Callable

from paragone.reinforcement import _warm_deep, _warm_planning, _warm_tables

__all__ = ["CALLS"]

CALLS: dict[str, tuple[Callable[[], None], ...]] = {
    "grid_world": _warm_planning.CALLS,
    "monte_carlo": (*_warm_tables.CALLS, *_warm_deep.CALLS),
}
