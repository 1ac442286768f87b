"""What a tree takes: finite numbers of 32 or 64 bits, row after row.

NaN has no neighbour and no place in a tree: it is refused by name, at the door. Without that
a search never ends or quietly misses points.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["as_points", "as_queries", "checked_box", "checked_weights"]


def _floats(values: Any, dtype: np.dtype | None, name: str) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} are {array.dtype}, not real numbers: convert them")
    if dtype is None:
        small = array.dtype in (np.float16, np.float32)
        dtype = np.dtype(np.float32 if small else np.float64)
    if array.dtype == dtype and array.flags.c_contiguous:
        rows = array
    else:
        with np.errstate(over="ignore"):
            rows = np.ascontiguousarray(array, dtype)
    # Kernels are compiled for writeable arrays; a second kind would be compiled anew.
    return rows if rows.flags.writeable else rows.copy()


def _refuse_infinite(rows: np.ndarray, name: str) -> None:
    # The sum is finite if all are; only an overflow needs the second look.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(np.add.reduce(rows, axis=None)):
            return
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{name} {bad[0]} holds NaN or infinity ({len(bad)} of {len(rows)} do): drop these "
            "rows or fill them in"
        )


def as_points(data: Any, dtype: np.dtype | None = None, columns: int | None = None) -> np.ndarray:
    """Returns points (n, d) as C-contiguous float32 or float64, all finite."""
    points = _floats(data, dtype, "points")
    if points.ndim != 2 or points.shape[1] == 0:
        raise ValueError(f"points have shape {points.shape}: give (n, d) with at least one column")
    if columns is not None and points.shape[1] != columns:
        raise ValueError(f"points have {points.shape[1]} columns, the tree has {columns}")
    _refuse_infinite(points, "point")
    return points


def as_queries(
    x: Any, dtype: np.dtype, columns: int, boxsize: np.ndarray | None
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Returns queries (q, d) in the type of the tree, inside the box, and their leading shape."""
    array = _floats(x, dtype, "queries")
    if array.ndim == 0 or array.shape[-1] != columns:
        raise ValueError(f"queries have shape {array.shape}: give (..., {columns})")
    queries = array.reshape(-1, columns)
    _refuse_infinite(queries, "query")
    if boxsize is not None:
        periodic = np.isfinite(boxsize)
        side = boxsize[periodic]
        inside = queries[:, periodic]
        inside = inside - np.floor(inside / side) * side
        queries = queries.copy()
        queries[:, periodic] = np.where((inside >= 0) & (inside < side), inside, 0)
    return queries, array.shape[:-1]


def checked_box(boxsize: Any, points: np.ndarray) -> np.ndarray | None:
    """Returns the sides (d,), inf where a column is not periodic; None where none is."""
    if boxsize is None:
        return None
    side = np.broadcast_to(np.asarray(boxsize, np.float64), points.shape[1:]).copy()
    if not (side >= 0).all():
        raise ValueError(f"boxsize={boxsize} is negative or NaN: give lengths, or 0 for none")
    side[side == 0] = np.inf
    side = side.astype(points.dtype)
    periodic = np.isfinite(side)
    if not periodic.any():
        return None
    inside = points[:, periodic]
    if not ((inside >= 0) & (inside < side[periodic])).all():
        raise ValueError(f"a point lies outside the box [0, {boxsize}): take points modulo boxsize")
    return side


def checked_weights(weights: Any, points: np.ndarray) -> np.ndarray | None:
    """Returns the factors (d,) in the type of the points."""
    if weights is None:
        return None
    factors = np.asarray(weights, points.dtype)
    if factors.shape != points.shape[1:] or not ((factors >= 0) & np.isfinite(factors)).all():
        raise ValueError(
            f"weights={weights} are no factors for {points.shape[1]} columns: give one number "
            "from 0 for each"
        )
    return factors
