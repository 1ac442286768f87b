r"""How a measure grows along a sweep, and where one contestant overtakes another.

A sweep is a set of workloads that share an axis (`Workload.axis`), such as the number of rows.
Between two measured points a curve is taken as a straight line of logarithms,
$\log y = a + b \log x$, so that a crossing has a closed form and a growth is one exponent:

$$ x^* = x_1 \left( \frac{x_2}{x_1} \right)^{g_1 / (g_1 - g_2)}, \quad
   g_i = \log \frac{y_i^A}{y_i^B}, \qquad
   b = \frac{\sum (\log x - \overline{\log x}) \log y}{\sum (\log x - \overline{\log x})^2} . $$
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from paragone.lab.outcome import Summary

__all__ = ["along", "axis_range", "by_workload", "crossover", "exponent", "fastest"]

Curve = list[tuple[float, float]]


def along(summary: Summary, axis: str, contestant: str, measure: str) -> Curve:
    """Points (x, value) of a contestant along an axis, ascending; positive values only."""
    found = []
    for workload in summary.workloads:
        if axis not in workload.axis:
            continue
        for row in summary.tables.get(workload.id, ()):
            cell = row.cells.get(measure)
            if row.contestant == contestant and cell is not None and (cell.value or 0) > 0:
                found.append((float(workload.axis[axis]), float(cell.value or 0)))
    return sorted(found)


def by_workload(summary: Summary, contestant: str, measure: str) -> dict[str, float]:
    """Workload to a contestant's number, where it has one."""
    found = {}
    for place, rows in summary.tables.items():
        for row in rows:
            cell = row.cells.get(measure)
            if row.contestant == contestant and cell is not None and cell.value is not None:
                found[place] = float(cell.value)
    return found


def axis_range(summary: Summary, axis: str) -> tuple[float, float] | None:
    """The least and the largest point of an axis; None with fewer than two."""
    points = {w.axis[axis] for w in summary.workloads if axis in w.axis}
    return (min(points), max(points)) if len(points) > 1 else None


def fastest(curves: Sequence[Curve]) -> Curve:
    """The lowest of several curves at each point."""
    best: dict[float, float] = {}
    for x, y in (point for curve in curves for point in curve):
        best[x] = min(y, best.get(x, math.inf))
    return sorted(best.items())


def crossover(first: Curve, second: Curve) -> float | None:
    """The x from which on `second` stays below `first`.

    Returns:
        The crossing; the first x if `second` is below everywhere; None if it is not below at
        the end.

    Example:
        >>> round(crossover([(2, 1.0), (8, 16.0)], [(2, 4.0), (8, 4.0)]), 6)
        4.0
    """
    low, high = dict(first), dict(second)
    shared = sorted(low.keys() & high.keys())
    if not shared or high[shared[-1]] >= low[shared[-1]]:
        return None
    for left, right in zip(shared[-2::-1], shared[:0:-1], strict=True):
        if high[left] >= low[left]:
            before = math.log(low[left] / high[left])
            after = math.log(low[right] / high[right])
            return left * (right / left) ** (before / (before - after))
    return shared[0]


def exponent(curve: Curve) -> float | None:
    """Slope of log y over log x by least squares; None with fewer than two points.

    Example:
        >>> round(exponent([(1, 3.0), (10, 300.0), (100, 30000.0)]), 6)
        2.0
    """
    xs, ys = [math.log(x) for x, _ in curve], [math.log(y) for _, y in curve]
    if len(set(xs)) < 2:
        return None
    mean = sum(xs) / len(xs)
    spread = sum((x - mean) ** 2 for x in xs)
    return sum((x - mean) * y for x, y in zip(xs, ys, strict=True)) / spread
