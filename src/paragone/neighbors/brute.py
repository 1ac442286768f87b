r"""Brute force by matrix product: every distance, at the speed of a matrix product, exact.

$$ \lVert x - y \rVert^2 = \lVert x \rVert^2 + \lVert y \rVert^2 - 2\, x^\top y $$

turns all distances into one product $X Y^\top$, which runs at the machine's peak, while a tree
in high dimension visits nearly all points one by one. But the right side cancels: near
neighbours come out with an error of order $\varepsilon\,(\lVert x \rVert^2 + \lVert y \rVert^2)$,
which is often larger than the gap between them. So the product only *excludes*. With
$\hat s = \lVert y \rVert^2 - 2\, x^\top y$ computed in float32, unit roundoff $u$, a point can be
left out for certain if

$$ \hat s - c\,u\,\lVert y \rVert^2 > D_k - (1 - c\,u)\,\lVert x \rVert^2,
   \qquad c \approx d + 16, $$

where $D_k$ is the k-th smallest squared distance so far (Higham's bound $\gamma_d$ on the product,
whatever its order of summation, and the rounding of the data to float32). The few points that
remain, about $k \ln(n/k)$ a query, get their distance as a sum of squared differences in float64,
in the order of the columns.
The answer is that of the direct definition, ties by lowest index, on any BLAS and any number of
threads. Points are centred and scaled first where their common offset would widen the bound.

The product is cut into tiles that stay in the cache and is read once, by the selection. For
$p \ne 2$ there is no product: the distances are summed directly, many points at a time.

Cost: $O(m\,n\,d)$ for m queries and n points, no build; memory for one float32 copy and the tiles.

References:
    Higham (2002), "Accuracy and stability of numerical algorithms", 2nd ed., section 3.1, eq. 3.5.
    Garcia, Debreuve, Barlaud (2008), "Fast k nearest neighbor search using GPU", section 2.

n points, m queries, d dimensions, k neighbours.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from paragone.kernels.jit import njit
from paragone.neighbors._nearest_so_far import distances_in_order, offer, out_of_power, sort_heap
from paragone.neighbors._parallel import in_runs, one_blas_thread
from paragone.neighbors._threads import num_workers

__all__ = ["BruteForce"]

_QUERIES, _POINTS = 256, 2048  # a tile of scores: 2 MB of float32, half of a core's cache or so
_GROUP = 64
_SPARE = 64
_UNIT = 2.0**-24
_FAR = 2.0**40  # beyond, squares of float32 may overflow: such queries are summed directly

_named = {"cache": True, "nogil": True, "error_model": "numpy"}


@njit(**_named)
def _settle(points, x, waiting, count, exact, distance, index):
    """Offers the `count` waiting points at their exact distance."""
    if count == 0:
        return
    distances_in_order(points, waiting, count, x, exact)
    for at in range(count):
        offer(distance, index, exact[at], waiting[at])


@njit(**_named)
def _select(scores, bias, first, points, queries, base, slack, scale, distance, index):
    """Offers to each query the points of one tile that its bound cannot exclude.

    Args:
        scores: -2 x.y, (m, w) float32.
        bias: (1 - c u) |y|^2 of the tile's points, (w,) float32.
        first: Index of the tile's first point.
        points: All points (n, d), exact.
        queries: The tile's queries (m, d), exact.
        base: (1 - c u) |x|^2, (m,) float64.
        slack: Absolute allowance for underflow.
        scale: Square of the factor between exact and scaled coordinates.
        distance: Heaps of squared distances (m, k).
        index: Heaps of indices (m, k).
    """
    width = scores.shape[1]
    waiting, exact = np.empty(_SPARE + _GROUP, np.int64), np.empty(_SPARE + _GROUP + 4)
    for q in range(scores.shape[0]):
        best, name, x = distance[q], index[q], queries[q]
        limit = np.float32(_up(best[0] * scale - base[q] + slack))
        count = 0
        for begin in range(0, width, _GROUP):
            end = min(begin + _GROUP, width)
            row, own = scores[q, begin:end], bias[begin:end]
            hits = np.int32(0)
            for j in range(end - begin):
                hits += np.int32(row[j] + own[j] <= limit)
            if hits == 0:
                continue
            for j in range(end - begin):
                if row[j] + own[j] <= limit:
                    waiting[count] = first + begin + j
                    count += 1
            if count >= _SPARE or best[0] == np.inf:
                _settle(points, x, waiting, count, exact, best, name)
                count = 0
                limit = np.float32(_up(best[0] * scale - base[q] + slack))
        _settle(points, x, waiting, count, exact, best, name)


@njit(**_named)
def _up(value):
    """A value that float32 rounding cannot push below `value`."""
    return value + abs(value) * 1.2e-7


@njit(**_named)
def _finish(distance, index):
    for q in range(distance.shape[0]):
        sort_heap(distance[q], index[q])


@njit(**_named)
def _add_power(total, column, value, p):
    """Adds |column - value| ** p to `total`, many points at a time; takes the maximum for inf."""
    if p == 1.0:
        for j in range(len(total)):
            total[j] += abs(column[j] - value)
    elif p == 2.0:
        for j in range(len(total)):
            gap = column[j] - value
            total[j] += gap * gap
    elif p == np.inf:
        for j in range(len(total)):
            gap = abs(column[j] - value)
            total[j] = gap if gap > total[j] else total[j]
    else:
        for j in range(len(total)):
            total[j] += abs(column[j] - value) ** p


@njit(**_named)
def _direct(columns, queries, p, distance, index):
    """Finds the k nearest by the definition; `columns` is the transpose (d, n) in float64."""
    d, n = columns.shape
    total = np.empty(512)
    for q in range(queries.shape[0]):
        best, name = distance[q], index[q]
        for begin in range(0, n, 512):
            width = min(512, n - begin)
            part = total[:width]
            part[:] = 0.0
            for j in range(d):
                _add_power(part, columns[j, begin : begin + width], queries[q, j], p)
            for i in range(width):
                if part[i] < best[0]:
                    offer(best, name, part[i], begin + i)
        sort_heap(best, name)


class BruteForce:
    """Exact k nearest neighbours by computing every distance, quickly.

    Prefer it to a tree above some fifteen dimensions, for few points, and for few queries of a
    set that is searched once: there is nothing to build.

    Args:
        points: (n, d) of any real type; uint8 and float32 are exact as they are.

    Example:
        >>> distances, indices = BruteForce(np.eye(3)).query(np.eye(3), k=1)
        >>> indices.ravel().tolist()
        [0, 1, 2]
    """

    def __init__(self, points: np.ndarray) -> None:
        self.points = points
        self.exact = points if points.dtype == np.float64 else points.astype(np.float32, copy=False)
        self.exact = np.ascontiguousarray(self.exact)
        self._product: tuple[Any, ...] | None = None
        self._columns: np.ndarray | None = None

    def _prepared(self) -> tuple[Any, ...]:
        """The float32 points, their bias, the centre and the scale; made at the first query."""
        if self._product is None:
            self._product = _prepare(self.exact)
        return self._product

    def _transposed(self) -> np.ndarray:
        if self._columns is None:
            self._columns = np.ascontiguousarray(self.exact.T, np.float64)
        return self._columns

    def _directly(
        self, x: np.ndarray, distance: np.ndarray, index: np.ndarray, p: float = 2.0
    ) -> None:
        _direct(self._transposed(), x.astype(np.float64), p, distance, index)

    def query(
        self, x: np.ndarray, k: int = 1, p: float = 2.0, workers: int | None = -1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the k nearest points of each query, nearest first.

        Args:
            x: Queries (m, d), finite.
            k: Neighbours; with k > n the rest is padded with distance inf and index n.
            p: 1, 2, inf, or any exponent >= 1 of a Minkowski distance.
            workers: Threads, -1 for all cores; the answer does not depend on it.

        Returns:
            Distances (m, k) float64 and indices (m, k) int64.
        """
        n = len(self.exact)
        kind = np.result_type(self.exact, x.dtype if x.dtype.kind == "f" else np.float32)
        exact = self.exact.astype(kind, copy=False)
        x = np.ascontiguousarray(x, kind)
        found = np.full((len(x), k), np.inf), np.full((len(x), k), n, np.int64)
        if n and len(x) and k:
            threads = num_workers(workers)
            if p == 2.0:
                self._by_product(exact, x, found, threads)
            else:

                def run(start: int, stop: int) -> None:
                    part = slice(start, stop)
                    self._directly(x[part], found[0][part], found[1][part], float(p))

                in_runs(run, len(x), threads, _run(len(x), threads))
        return out_of_power(found[0], p), found[1]

    def _by_product(
        self, exact: np.ndarray, x: np.ndarray, found: tuple[np.ndarray, np.ndarray], workers: int
    ) -> None:
        scaled, bias, centre, factor, loss = self._prepared()
        n, d = scaled.shape

        def run(start: int, stop: int) -> None:
            own, distance, index = x[start:stop], found[0][start:stop], found[1][start:stop]
            moved = (own.astype(np.float64) - centre) * factor
            if np.abs(moved).max() > _FAR:
                self._directly(own, distance, index)
                return
            base = np.einsum("ij,ij->i", moved, moved) * (1.0 - loss)
            left = (-2.0 * moved).astype(np.float32)
            tile = np.empty((len(own), min(_POINTS, n)), np.float32)
            for first in range(0, n, _POINTS):
                right = scaled[first : first + _POINTS]
                scores = tile[:, : len(right)]
                if len(right) < tile.shape[1]:
                    scores = np.empty((len(own), len(right)), np.float32)
                np.matmul(left, right.T, out=scores)
                _select(
                    scores, bias[first : first + _POINTS], first, exact, own, base,
                    d * 2.0**-120, factor * factor, distance, index,
                )  # fmt: skip
            _finish(distance, index)

        with one_blas_thread(), np.errstate(over="ignore", invalid="ignore"):
            in_runs(run, len(x), workers, _run(len(x), workers))


def _run(m: int, workers: int) -> int:
    """Queries of one run: full tiles, but one run a thread where there are few."""
    return min(_QUERIES, -(-m // max(1, workers)))


def _prepare(exact: np.ndarray) -> tuple[Any, ...]:
    """Centres and scales the points to float32 where that tightens the bound.

    The factor is a power of two, so scaling loses nothing; it keeps squares in float32's range.
    """
    d = exact.shape[1]
    centre = exact.mean(axis=0, dtype=np.float64)
    most = float(max(abs(exact.max(initial=0.0)), abs(exact.min(initial=0.0))))
    spread = float(exact.var(axis=0, dtype=np.float64).sum())
    plain = exact.dtype == np.float32 and 2.0**-20 < most < 2.0**20
    if plain and float(centre @ centre) <= 8.0 * spread:
        centre, factor, scaled = np.zeros(d), 1.0, exact
    else:
        moved = exact - centre
        widest = float(np.abs(moved).max(initial=0.0))
        factor = 2.0 ** -np.round(np.log2(widest)) if widest > 0.0 else 1.0
        scaled = (moved * factor).astype(np.float32)
    loss = (1.1 * d + 16.0) * _UNIT
    norms = np.einsum("ij,ij->i", scaled, scaled, dtype=np.float64)
    return scaled, (norms * (1.0 - loss)).astype(np.float32), centre, float(factor), loss
