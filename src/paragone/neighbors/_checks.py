"""What the searches of this family take: points, queries, counts; refused with the remedy."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["read_count", "read_points", "read_power", "read_queries"]


def read_points(points: Any, name: str = "points") -> np.ndarray:
    """Returns C-contiguous (n, d) uint8, float32 or float64; refuses NaN, infinity and text.

    Bytes and float32 stay what they are, float16 and small integers become float32, the rest
    float64.
    """
    array = np.asarray(points)
    if array.ndim != 2:
        raise ValueError(f"{name} has shape {array.shape}; give a table of shape (n, d)")
    if array.shape[1] == 0:
        raise ValueError(f"{name} has no columns, shape {array.shape}; give at least one dimension")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} holds {array.dtype}; give numbers")
    kind: Any = array.dtype
    if kind not in (np.uint8, np.float32, np.float64):
        narrow = kind.itemsize < 4 and kind.kind in "iuf"
        kind = np.float32 if narrow or kind == np.bool_ else np.float64
    array = np.ascontiguousarray(array, kind)
    if kind != np.uint8 and not np.isfinite(array).all():
        raise ValueError(f"{name} contains NaN or infinity; drop or impute these rows first")
    return array


def read_queries(x: Any, d: int) -> tuple[np.ndarray, bool]:
    """Returns checked queries (m, d), and whether x was one point of shape (d,)."""
    array = np.asarray(x)
    single = array.ndim == 1
    if array.ndim not in (1, 2) or array.shape[-1] != d:
        raise ValueError(f"x has shape {array.shape}; give (m, {d}), or ({d},) for one query")
    return read_points(array[None] if single else array, "x"), single


def read_count(value: Any, name: str, least: int = 1) -> int:
    """Returns a whole number, at least `least`."""
    number = isinstance(value, int | float | np.integer | np.floating)
    if isinstance(value, bool) or not number or not value >= least or value != value // 1:
        raise ValueError(f"{name}={value!r} must be a whole number >= {least}")
    return int(value)


def read_power(p: Any) -> float:
    """Returns the exponent of a Minkowski distance, 1 <= p <= inf."""
    if not p >= 1:
        raise ValueError(f"p={p!r} is no distance's exponent: use 1, 2, inf, or a number above 1")
    return float(p)
