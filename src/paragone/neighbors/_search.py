"""From arrays to kernels: order the queries, share them among threads, join the parts.

Queries are sorted by the leaf in which they fall and handed out in runs of neighbours. A run
writes only the rows of its own queries, so the answer does not depend on the threads.

Shapes: q queries (q, d), k neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from paragone.neighbors._dynamic import Forest
from paragone.neighbors._grow import classify, count_sort
from paragone.neighbors._metric import Metric
from paragone.neighbors._query import nearest
from paragone.neighbors._radius import count_within, gather, within
from paragone.neighbors._threads import spread
from paragone.neighbors._tree import Tree

__all__ = ["Rows", "count", "nearest_in", "rows_within"]


def _least(d: int) -> int:
    """Fewest queries worth a thread of their own: they cost more in more columns."""
    return max(16, 8192 // (d * d))


def _placed(tree: Tree, queries: np.ndarray, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns each query's leaf and the order of the queries by leaf."""
    q, d = queries.shape
    target = np.empty(q, np.int32)

    def send(first: int, last: int) -> None:
        classify(
            queries.reshape(-1), d, tree.path_column, tree.threshold, tree.path_next, tree.right,
            first, last, target,
        )  # fmt: skip

    spread(send, q, threads, 1 << 15)
    order = np.empty(q, np.int32 if q < 2**31 else np.int64)
    if q == 1:
        order[0] = 0
    elif q < 32:
        order[:] = np.argsort(target, kind="stable")
    else:
        count_sort(target, tree.num_leaves, order, np.empty(tree.num_leaves + 1, np.int64))
    return target, order


def nearest_in(
    forest: Forest, queries: np.ndarray, k: int, metric: Metric, side: np.ndarray | None,
    weight: np.ndarray | None, eps: float, limit: np.ndarray | None, threads: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Returns distances and indices (q, k), ascending; inf and `forest.total` fill up."""
    q, d, dtype = len(queries), forest.d, forest.dtype
    if limit is None or np.isinf(limit).all():
        edge = np.full(q, np.inf, dtype)
    else:
        edge = metric.first_beyond(limit, dtype)
    shrink = dtype.type((1.0 + eps) ** -(1.0 if metric.kind == 2 else metric.p))
    found = []
    for part in forest.parts:
        tree, most = part.tree, min(k, part.alive)
        target, order = _placed(tree, queries, threads)
        power, index = np.empty((q, most), dtype), np.empty((q, most), np.int64)

        def run(
            first: int, last: int, tree: Tree = tree, most: int = most,
            target: np.ndarray = target, order: np.ndarray = order, power: np.ndarray = power,
            index: np.ndarray = index,
        ) -> None:  # fmt: skip
            nearest(
                metric.kind, dtype.type(metric.p), side, weight, shrink, d, most, tree.blocks,
                tree.ids, tree.leaf_block, tree.child, tree.child_lowest, tree.arity, tree.boxes,
                tree.levels, tree.cells, tree.parent, queries.reshape(-1), order, target, edge,
                first, last, power, index,
            )  # fmt: skip

        spread(run, q, threads, _least(d))
        found.append((power, index))
    return _join(found, q, k, metric, forest)


def _join(
    found: list[tuple[np.ndarray, np.ndarray]], q: int, k: int, metric: Metric, forest: Forest
) -> tuple[np.ndarray, np.ndarray]:
    if len(found) == 1 and found[0][0].shape[1] == k:
        power, index = found[0]
    else:
        power = np.full((q, k), np.inf, forest.dtype)
        index = np.full((q, k), -1, np.int64)
        if found:
            powers = np.concatenate([one[0] for one in found], axis=1)
            indices = np.concatenate([one[1] for one in found], axis=1)
            first = np.where(indices < 0, np.iinfo(np.int64).max, indices)
            powers = np.where(indices < 0, forest.dtype.type(np.inf), powers)
            width = min(k, powers.shape[1])
            order = np.lexsort((first, powers), axis=1)[:, :width]
            power[:, :width] = np.take_along_axis(powers, order, 1)
            index[:, :width] = np.take_along_axis(indices, order, 1)
    # What is missing stands last.
    if (index[:, -1] < 0).any():
        missing = index < 0
        power[missing], index[missing] = np.inf, forest.total
    return np.sqrt(power, out=power) if metric.kind == 0 else metric.root(power), index


def count(
    forest: Forest, queries: np.ndarray, radius: np.ndarray, metric: Metric,
    side: np.ndarray | None, weight: np.ndarray | None, threads: int,
) -> np.ndarray:  # fmt: skip
    """Returns how many points lie within the radius of each query (q,)."""
    edge = metric.last_within(radius, forest.dtype)
    total, d = np.zeros(len(queries), np.int64), forest.d
    for part in forest.parts:
        tree = part.tree
        _, order = _placed(tree, queries, threads)
        found = np.empty(len(queries), np.int64)

        def run(
            first: int, last: int, tree: Tree = tree, live: np.ndarray = part.live,
            order: np.ndarray = order, found: np.ndarray = found,
        ) -> None:  # fmt: skip
            count_within(
                metric.kind, forest.dtype.type(metric.p), side, weight, d, tree.blocks,
                tree.leaf_block, live, tree.child, tree.child_leaf, tree.arity, tree.boxes,
                tree.levels, queries.reshape(-1), order, edge, first, last, found,
            )  # fmt: skip

        spread(run, len(queries), threads, _least(d))
        total += found
    return total


@dataclass(frozen=True, eq=False)
class Rows:
    """Neighbours of each query, one row after the other.

    Attributes:
        start: (q + 1,) where the rows begin.
        indices: Ascending within a row.
        distances: Of the same length.
    """

    start: np.ndarray
    indices: np.ndarray
    distances: np.ndarray

    @property
    def owners(self) -> np.ndarray:
        """The query of each entry."""
        return np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))

    def by_distance(self) -> Rows:
        """Returns the rows nearest first, ties by index."""
        order = np.lexsort((self.distances, self.owners))
        return Rows(self.start, self.indices[order], self.distances[order])

    def split(self, values: np.ndarray, shape: tuple[int, ...]) -> Any:
        """Returns an array (...) with the part of `values` of each query."""
        edges = self.start.tolist()
        out = np.empty(len(edges) - 1, object)
        for i in range(len(out)):
            out[i] = values[edges[i] : edges[i + 1]]
        return out.reshape(shape)[()]


def rows_within(
    forest: Forest, queries: np.ndarray, radius: np.ndarray, metric: Metric,
    side: np.ndarray | None, weight: np.ndarray | None, after: np.ndarray | None, threads: int,
) -> Rows:  # fmt: skip
    """Returns the points within the radius of each query, those with index > `after` (q,)."""
    q = len(queries)
    edge = metric.last_within(radius, forest.dtype)
    least = np.full(q, -1, np.int64) if after is None else after
    found = []
    for part in forest.parts:
        tree = part.tree
        _, order = _placed(tree, queries, threads)
        size = np.zeros(q, np.int64)

        def run(
            first: int, last: int, tree: Tree = tree, order: np.ndarray = order,
            size: np.ndarray = size,
        ) -> tuple[int, int, np.ndarray, np.ndarray]:  # fmt: skip
            numbers, powers = within(
                metric.kind, forest.dtype.type(metric.p), side, weight, forest.d, tree.blocks,
                tree.ids, tree.leaf_block, tree.child, tree.arity, tree.boxes, tree.levels,
                queries.reshape(-1), order, edge, least, first, last, size,
            )  # fmt: skip
            return first, last, numbers, powers

        runs = spread(run, q, threads, _least(forest.d))
        start = np.concatenate([[0], np.cumsum(size)])
        indices, powers = np.empty(start[-1], np.int64), np.empty(start[-1], forest.dtype)
        for first, last, numbers, values in runs:
            gather(numbers, values, order, first, last, start, indices, powers)
        found.append(Rows(start, indices, powers))
    rows = _join_rows(found, q, forest.dtype)
    return Rows(rows.start, rows.indices, metric.root(rows.distances))


def _join_rows(found: list[Rows], q: int, dtype: np.dtype) -> Rows:
    if len(found) == 1:
        return found[0]
    if not found:
        return Rows(np.zeros(q + 1, np.int64), np.empty(0, np.int64), np.empty(0, dtype))
    owners = np.concatenate([rows.owners for rows in found])
    indices = np.concatenate([rows.indices for rows in found])
    distances = np.concatenate([rows.distances for rows in found])
    order = np.lexsort((indices, owners))
    return Rows(np.sum([rows.start for rows in found], axis=0), indices[order], distances[order])
