"""Two sets of points: all pairs within a distance, as pairs, lists, counts or a matrix.

The calls and their results are those of `scipy.spatial.KDTree`. All of them are one range
search of the points of one tree in the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from paragone.neighbors._search import Rows
    from paragone.neighbors.kd_tree import KDTree

__all__ = ["Pairs"]


class Pairs:
    """The methods of a tree that speak of pairs of points."""

    if TYPE_CHECKING:

        def _rows(
            self, x: Any, r: Any, p: float, workers: int, after: np.ndarray | None = None
        ) -> tuple[Rows, tuple[int, ...]]: ...

        def _alive(self) -> tuple[np.ndarray, np.ndarray]: ...

        def count(self, x: Any, r: Any, *, p: float = 2.0, workers: int = 1) -> Any: ...

    def query_pairs(
        self, r: float, p: float = 2.0, eps: float = 0.0, output_type: str = "set", *,
        workers: int = 1,
    ) -> Any:  # fmt: skip
        """Finds all pairs i < j of points at a distance of at most r.

        Args:
            r: Radius.
            p: Exponent of the metric.
            eps: Taken as in SciPy; the answer is exact all the same.
            output_type: "set" of tuples, or "ndarray" (m, 2), ascending, which is far quicker.
            workers: Threads; -1 is one for each processor.
        """
        if output_type not in ("set", "ndarray"):
            raise ValueError(f"output_type={output_type!r} is none of 'set', 'ndarray'")
        points, names = self._alive()
        rows, _ = self._rows(points, r, p, workers, names)
        pairs = np.stack([names[rows.owners], rows.indices], axis=1)
        return pairs if output_type == "ndarray" else set(map(tuple, pairs.tolist()))

    def query_ball_point(
        self, x: Any, r: Any, p: float = 2.0, eps: float = 0.0, workers: int = 1,
        return_sorted: bool | None = None, return_length: bool = False,
    ) -> Any:  # fmt: skip
        """Lists the points within r of each query, as SciPy has it: Python lists, ascending.

        Prefer `query_radius`, whose index arrays cost a fraction of the time, or `count`.
        """
        if return_length:
            return self.count(x, r, p=p, workers=workers)
        rows, shape = self._rows(x, r, p, workers)
        edges, numbers = rows.start.tolist(), rows.indices.tolist()
        out = np.empty(len(edges) - 1, object)
        for i in range(len(out)):
            out[i] = numbers[edges[i] : edges[i + 1]]
        return out.reshape(shape)[()]

    def query_ball_tree(
        self, other: KDTree, r: float, p: float = 2.0, eps: float = 0.0, *, workers: int = 1
    ) -> list[list[int]]:
        """Lists, for each index of this tree, the points of the other within r."""
        points, names = self._alive()
        out: list[list[int]] = [[] for _ in range(int(names[-1]) + 1 if len(names) else 0)]
        found_by_point = other.query_ball_point(points, r, p, workers=workers)
        for name, found in zip(names, found_by_point, strict=True):
            out[name] = found
        return out

    def count_neighbors(
        self, other: KDTree, r: Any, p: float = 2.0, *, cumulative: bool = True, workers: int = 1
    ) -> Any:
        """Counts the pairs of a point here and one there at a distance of at most r.

        Args:
            other: The other tree.
            r: Radius, or several.
            p: Exponent of the metric.
            cumulative: False counts pairs between one radius and the next; r must ascend.
            workers: Threads; -1 is one for each processor.

        Returns:
            int, or int64 of the shape of r.
        """
        radii = np.asarray(r, np.float64)
        if not cumulative and (np.diff(radii.reshape(-1)) < 0).any():
            raise ValueError("r does not ascend: sort it, or leave cumulative=True")
        points, _ = self._alive()
        totals = np.array(
            [other.count(points, one, p=p, workers=workers).sum() for one in radii.reshape(-1)],
            np.int64,
        )
        if not cumulative:
            totals = np.diff(totals, prepend=0)
        return totals.reshape(radii.shape)[()]

    def sparse_distance_matrix(
        self, other: KDTree, max_distance: float, p: float = 2.0, output_type: str = "dok_matrix",
        *, workers: int = 1,
    ) -> Any:  # fmt: skip
        """Returns the distances of at most `max_distance` between the points of two trees.

        Args:
            other: The other tree; its indices are the columns.
            max_distance: Largest distance kept.
            p: Exponent of the metric.
            output_type: "dok_matrix", "coo_matrix", "dict", or "ndarray": a record array with
                fields i, j and v.
            workers: Threads; -1 is one for each processor.
        """
        kinds = ("dok_matrix", "coo_matrix", "dict", "ndarray")
        if output_type not in kinds:
            raise ValueError(f"output_type={output_type!r} is none of {', '.join(kinds)}")
        points, names = self._alive()
        rows, _ = other._rows(points, max_distance, p, workers)
        i, j, v = names[rows.owners], rows.indices, rows.distances
        if output_type == "dict":
            return dict(zip(zip(i.tolist(), j.tolist(), strict=True), v.tolist(), strict=True))
        if output_type == "ndarray":
            out = np.empty(len(i), [("i", np.intp), ("j", np.intp), ("v", v.dtype)])
            out["i"], out["j"], out["v"] = i, j, v
            return out
        from scipy.sparse import coo_matrix

        rows_there = int(getattr(self, "n", 0))
        matrix = coo_matrix((v, (i, j)), shape=(rows_there, other.n))
        return matrix if output_type == "coo_matrix" else matrix.todok()
