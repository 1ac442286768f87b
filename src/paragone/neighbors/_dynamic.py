r"""Points that come and go: a few static trees of doubling size.

A k-d tree does not stay balanced under insertion, but a search decomposes: the neighbours in a
union are among the neighbours in its parts. So points are kept in parts whose sizes fall by at
least half from one to the next. New points form a part of their own; while the part before is
not at least twice as large, both are merged and rebuilt. Each point is rebuilt O(log n) times,
which makes insertion O(log^2 n) amortised, and a search visits O(log n) parts.

A removed point is struck out of its block (its coordinates become infinite), and its part is
rebuilt when half of it is gone. Indices never change and are never given out again.

References:
    Bentley and Saxe (1980), "Decomposable searching problems I: static-to-dynamic
        transformation", J. Algorithms 1, 301-358.

Shapes: n points, d columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from paragone.neighbors._simd import LANES
from paragone.neighbors._tree import Tree, build

__all__ = ["Forest", "Part"]


@dataclass(eq=False)
class Part:
    """One static tree.

    Attributes:
        tree: Its `ids` are indices of the whole.
        live: Points before each leaf (L + 1,), without removed ones.
        indices, lanes: Its indices ascending, and the lane of each; made at the first removal.
    """

    tree: Tree
    live: np.ndarray
    indices: np.ndarray | None = field(default=None)
    lanes: np.ndarray | None = field(default=None)

    @property
    def alive(self) -> int:
        return int(self.live[-1])

    @property
    def size(self) -> int:
        return int(self.tree.leaf_start[-1])

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the points that are there, and their indices, ascending."""
        d = len(self.tree.low)
        lanes = np.flatnonzero(self.tree.ids >= 0)
        indices = self.tree.ids[lanes]
        order = np.argsort(indices)
        rows = self.tree.blocks.reshape(-1, d, LANES)[lanes // LANES, :, lanes % LANES]
        return rows[order], indices[order].astype(np.int64)

    def strike(self, lanes: np.ndarray) -> None:
        """Takes the points of these lanes out."""
        tree, d = self.tree, len(self.tree.low)
        if not tree.blocks.flags.writeable:
            tree = self.tree = replace(tree, blocks=tree.blocks.copy(), ids=tree.ids.copy())
        tree.ids[lanes] = -1
        tree.blocks.reshape(-1, d, LANES)[lanes // LANES, :, lanes % LANES] = np.inf
        leaf = np.searchsorted(tree.leaf_block, lanes // LANES, side="right") - 1
        gone = np.bincount(leaf, minlength=tree.num_leaves)
        self.live = self.live - np.concatenate([[0], np.cumsum(gone)])


class Forest:
    """Static trees of falling size over one set of indices.

    Args:
        d: Columns.
        dtype: float32 or float64.
        leafsize: Most points of a leaf.
        midpoint: The midpoint rule in place of the median.
    """

    def __init__(self, d: int, dtype: np.dtype, leafsize: int, midpoint: bool) -> None:
        self.d, self.dtype = d, np.dtype(dtype)
        self.leafsize, self.midpoint = leafsize, midpoint
        self.parts: list[Part] = []
        self.total = 0

    @property
    def alive(self) -> int:
        return sum(part.alive for part in self.parts)

    def points(self) -> np.ndarray:
        """Returns all points by index (n, d); NaN where one was removed."""
        out = np.full((self.total, self.d), np.nan, self.dtype)
        for part in self.parts:
            rows, indices = part.points()
            out[indices] = rows
        return out

    def _build(self, rows: np.ndarray, indices: np.ndarray | None, workers: int) -> Part:
        tree = build(rows, self.leafsize, self.midpoint, workers)
        live = tree.leaf_start
        if indices is not None:
            kind = np.dtype(np.int32 if self.total < 2**31 - 1 else np.int64)
            # Ascending indices: the lowest row of a child has its lowest index.
            names = np.append(indices, -1).astype(kind)
            tree = replace(tree, ids=names[tree.ids], child_lowest=names[tree.child_lowest])
        return Part(tree, live)

    def insert(self, rows: np.ndarray, workers: int) -> None:
        """Adds points (m, d) of the right type under the next m indices."""
        if not len(rows):
            return
        first, self.total = self.total, self.total + len(rows)
        if not first:
            self.parts.append(self._build(rows, None, workers))
            return
        merged, names = [rows], [np.arange(first, self.total)]
        size = len(rows)
        while self.parts and self.parts[-1].alive < 2 * size:
            old, indices = self.parts.pop().points()
            merged.append(old)
            names.append(indices)
            size += len(old)
        self._append(np.concatenate(merged), np.concatenate(names), workers)

    def _append(self, rows: np.ndarray, indices: np.ndarray, workers: int) -> None:
        order = np.argsort(indices)
        self.parts.append(self._build(np.ascontiguousarray(rows[order]), indices[order], workers))
        self.parts.sort(key=lambda part: -part.alive)

    def remove(self, indices: np.ndarray) -> None:
        """Removes points by index."""
        if not indices.size:
            return
        if indices.dtype.kind not in "iu" or indices.ndim != 1:
            raise ValueError(
                f"indices are {indices.dtype} {indices.shape}: give whole numbers (m,)"
            )
        asked = np.sort(indices.astype(np.int64))
        if len(np.unique(asked)) < len(asked):
            raise ValueError("an index is given twice: give each point once")
        found = []
        for part in self.parts:
            if part.indices is None or part.lanes is None:
                lanes = np.flatnonzero(part.tree.ids >= 0)
                names = part.tree.ids[lanes]
                order = np.argsort(names)
                part.indices, part.lanes = names[order].astype(np.int64), lanes[order]
            at = np.minimum(np.searchsorted(part.indices, asked), len(part.indices) - 1)
            lanes = part.lanes[at[part.indices[at] == asked]]
            found.append(lanes[part.tree.ids[lanes] >= 0])
        if sum(map(len, found)) < len(asked):
            raise ValueError(
                f"{len(asked) - sum(map(len, found))} of the indices name no point: give indices "
                f"from 0 to {self.total - 1} that were not removed before"
            )
        kept: list[Part] = []
        thin: list[Part] = []
        for part, lanes in zip(self.parts, found, strict=True):
            if len(lanes):
                part.strike(lanes)
            if part.alive:
                (thin if 2 * part.alive < part.size else kept).append(part)
        self.parts = kept
        for part in thin:
            self._append(*part.points(), 1)
