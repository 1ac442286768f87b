"""What a user says about columns (order, togetherness) as arrays, and the repair of leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from paragone.ensemble._tree import LEAF, Tree

__all__ = ["read_interactions", "read_monotone", "settle_leaves"]


def _position(column: Any, names: Sequence[str], width: int, option: str) -> int:
    if isinstance(column, str):
        if column not in names:
            raise ValueError(f"{option} names {column!r}, which is no column of X")
        return list(names).index(column)
    if not -width <= int(column) < width:
        raise ValueError(f"{option} names column {column}, but X has {width} columns")
    return int(column) % width


def read_monotone(
    constraints: Sequence[int] | Mapping[Any, int] | str | None,
    names: Sequence[str],
    categorical: np.ndarray,
    option: str = "monotone_constraints",
) -> np.ndarray | None:
    """Returns int8 (p,) of -1, 0, +1, or None where there is no constraint.

    Args:
        constraints: One number a column, or "(1,-1,0)", or {name or index: number}.
        names: Names of the columns, or nothing.
        categorical: bool (p,): these have no order and may not be constrained.
        option: The argument's name, for messages.
    """
    if constraints is None:
        return None
    width = len(categorical)
    signs = np.zeros(width, np.int8)
    if isinstance(constraints, str):
        constraints = [int(part) for part in constraints.strip("() ").split(",") if part.strip()]
    if isinstance(constraints, Mapping):
        for column, sign in constraints.items():
            signs[_position(column, names, width, option)] = sign
    else:
        if len(constraints) != width:
            raise ValueError(
                f"{option} has {len(constraints)} entries for {width} columns; "
                "give one each, or a mapping from column to sign"
            )
        signs[:] = constraints
    if not np.isin(signs, (-1, 0, 1)).all():
        raise ValueError(f"{option}={constraints!r} may hold only -1, 0 and 1")
    if (signs[categorical] != 0).any():
        raise ValueError(f"{option}: a categorical column has no order; use 0 there")
    return signs if signs.any() else None


def read_interactions(
    constraints: Sequence[Sequence[Any]] | None,
    names: Sequence[str],
    width: int,
    option: str = "interaction_constraints",
) -> list[list[int]] | None:
    """Returns the sets as column numbers; columns in no set interact with none."""
    if constraints is None:
        return None
    return [
        [_position(column, names, width, option) for column in members] for members in constraints
    ]


def settle_leaves(tree: Tree, monotone: np.ndarray | None) -> None:
    """Makes a tree whole after its leaves were refitted, in place.

    An inner node's value becomes the mean of its leaves by cover. At a constrained split the
    midpoint of the children's values then bounds all leaves on either side, as in growing.
    """
    value = tree.value[:, 0]
    inner = np.flatnonzero(tree.feature != LEAF)
    # Plain numbers: on three values NumPy's averages take a hundred times as long.
    numbers, covers, left_of = value.tolist(), tree.cover.tolist(), tree.left.tolist()
    for node in inner[::-1].tolist():
        left = left_of[node]
        one, two = covers[left], covers[left + 1]
        if one + two <= 0.0:
            one = two = 1.0
        numbers[node] = (numbers[left] * one + numbers[left + 1] * two) / (one + two)
    value[inner] = np.array(numbers)[inner]
    if monotone is None:
        return
    low, high = np.full(len(value), -np.inf), np.full(len(value), np.inf)
    for node in inner:
        left = tree.left[node]
        right = left + 1
        low[left] = low[right] = low[node]
        high[left] = high[right] = high[node]
        sign = monotone[tree.feature[node]]
        if sign != 0:
            ends = np.clip(value[left : right + 1], low[node], high[node])
            middle = 0.5 * ends.sum()
            below, above = (left, right) if sign > 0 else (right, left)
            high[below], low[above] = middle, middle
    np.clip(value, low, high, out=value)
