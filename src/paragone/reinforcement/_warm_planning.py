"""Warm-up of the planners; see `_warmup`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from paragone.reinforcement.dynamic_programming import (
    evaluate_policy,
    policy_iteration,
    value_iteration,
)
from paragone.reinforcement.grid_world import GridWorld

__all__ = ["CALLS"]

_LAYOUT = ["..#.", ".#.T", "...."]


def _grid() -> None:
    plan = value_iteration(GridWorld(_LAYOUT))
    assert len(plan.policy) == 12


def _general() -> None:
    slippery = GridWorld(_LAYOUT, slip=0.2)
    for method in ("modified", "jacobi", "gauss_seidel"):
        plan = value_iteration(slippery, method=method)
        assert len(plan.policy) == 12
    policy_iteration(slippery)
    evaluate_policy(slippery, np.full(12, 1), method="iterative")


CALLS: tuple[Callable[[], None], ...] = (_grid, _general)
