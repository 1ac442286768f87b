r"""Distances and the powers that are compared: where exactly a bound lies.

A search compares powers $D = \sum |a_j|^p$, a user gives and gets distances $D^{1/p}$. Squaring
a radius is not exact, so $D \le r^p$ and $D^{1/p} \le r$ differ for points at the edge. A
threshold here is the last power whose root, as it is returned, still obeys the bound; so the
k-th distance of `query`, given to `query_radius` as the radius, finds these k points.

Shapes: q queries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Metric", "metric_for"]

_STEPS = 64


@dataclass(frozen=True)
class Metric:
    """A Minkowski metric: `kind` of `_simd` and exponent p (1 and above, or infinity)."""

    kind: int
    p: float

    def root(self, power: np.ndarray) -> np.ndarray:
        """Turns powers into distances, of the same type."""
        if self.kind == 0:
            return np.sqrt(power)
        if self.kind == 3:
            return power ** power.dtype.type(1.0 / self.p)
        return power

    def power(self, distance: np.ndarray) -> np.ndarray:
        return distance if self.kind in (1, 2) else distance ** distance.dtype.type(self.p)

    def last_within(self, radius: np.ndarray, kind: np.dtype) -> np.ndarray:
        """Returns the largest power (q,) whose root is <= radius; -1 below 0."""
        return self._edge(radius, kind, np.less_equal)

    def first_beyond(self, radius: np.ndarray, kind: np.dtype) -> np.ndarray:
        """Returns the smallest power (q,) whose root is >= radius."""
        edge = self._edge(radius, kind, np.less)
        return np.where(np.isinf(radius), edge, np.nextafter(edge, edge.dtype.type(np.inf)))

    def _edge(self, radius: np.ndarray, kind: np.dtype, obeys: np.ufunc) -> np.ndarray:
        scalar = kind.type
        radius = np.asarray(radius, np.float64)
        with np.errstate(over="ignore", under="ignore"):
            edge = self.power(np.maximum(radius, 0).astype(kind))
            infinite = np.isinf(radius)
            for _ in range(_STEPS):
                wrong = ~obeys(self.root(edge), radius) & (edge > 0) & ~infinite
                if not wrong.any():
                    break
                edge = np.where(wrong, np.nextafter(edge, scalar(0)), edge)
            for _ in range(_STEPS):
                above = np.nextafter(edge, scalar(np.inf))
                right = obeys(self.root(above), radius) & ~infinite & (above < np.inf)
                if not right.any():
                    break
                edge = np.where(right, above, edge)
        return np.where(
            obeys(self.root(edge), radius) | (infinite & (radius > 0)), edge, scalar(-1)
        )


def metric_for(p: float) -> Metric:
    """Returns the metric of exponent p.

    Raises:
        ValueError: p is below 1, where the triangle inequality fails.
    """
    p = float(p)
    if not p >= 1.0:
        raise ValueError(f"p={p} gives no metric: use 1 (city block), 2, inf, or any p above 1")
    return Metric({2.0: 0, 1.0: 1, np.inf: 2}.get(p, 3), p)
