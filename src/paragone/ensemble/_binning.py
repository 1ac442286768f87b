r"""Quantile bins: each column of floats becomes at most 255 small integers.

A histogram grower never looks at a value again, only at its bin. The edges are placed so that
bins hold equal mass: with the distinct values $v_1 < \dots < v_d$ of a column, their (weighted)
counts $c_i$ and $B$ bins,

$$ \operatorname{bin}(v_i) = \Big\lfloor \frac{B}{\sum_j \tilde c_j}
   \Big(\sum_{j<i} \tilde c_j + \tfrac12 \tilde c_i\Big) \Big\rfloor,
   \qquad \tilde c_i = \min(c_i, \text{cap}), $$

where the cap keeps one frequent value (zeros, say) from eating the resolution of the others.
With $d \le B$ each value has its own bin and the split candidates are those of exact search.

An edge is the midpoint of its neighbours, rounded in float32 to be >= the left and < the right
one, so `x <= edge` on raw values and `bin <= b` on bins agree for every training row.

Cost: a sort per column, then $\lceil \log_2 256 \rceil = 8$ branch-free steps per value.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numba import prange

from paragone.ensemble._threads import parallel_region, worth_threads
from paragone.kernels.jit import njit

__all__ = ["MISSING_BIN", "Binned", "bin_features", "bin_with_edges", "numeric_edges"]

MISSING_BIN = 255
"""The bin of NaN (and of categories too rare for a bin of their own) in every column."""

LAST_THRESHOLD = np.finfo(np.float32).max
"""Threshold of a split that parts all values from the missing ones."""


@dataclass(slots=True)
class Binned:
    """A table of n rows and p columns as bins, twice: for histograms and for partitions.

    Attributes:
        rows: uint8 (n, p), row-major.
        columns: uint8 (p, n), the same, column-major.
        edges: per numeric column float32 upper edges (a value <= edge is in or below the bin);
            per categorical column the empty array.
        num_bins: int32 (p,), bins in use, the missing bin not counted.
        categorical: bool (p,).
        codes: per categorical column int32, the category code of each bin; None otherwise.
        num_categories: int32 (p,), categories of the column, rare ones included; 0 if numeric.
    """

    rows: np.ndarray
    columns: np.ndarray
    edges: list[np.ndarray]
    num_bins: np.ndarray
    categorical: np.ndarray
    codes: list[np.ndarray | None]
    num_categories: np.ndarray

    def threshold(self, column: int, bin_index: int) -> np.float32:
        """Returns the float32 value whose comparison equals `bin <= bin_index`."""
        edges = self.edges[column]
        return np.float32(edges[bin_index]) if bin_index < len(edges) else LAST_THRESHOLD


def numeric_edges(
    values: np.ndarray, max_bins: int, weight: np.ndarray | None = None
) -> np.ndarray:
    """Returns the inner edges (float32, increasing) of one column; NaN and weight 0 are left out.

    Args:
        values: float32 (n,).
        max_bins: At most this many bins.
        weight: float64 (n,) or None for equal weights.
    """
    known = ~np.isnan(values)
    if weight is not None:
        known &= weight > 0
    values = values[known]
    if len(values) == 0:
        return np.zeros(0, np.float32)
    if weight is None:
        values = np.sort(values)
    else:
        order = np.argsort(values, kind="stable")
        values, weight = values[order], weight[known][order]
    starts = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
    distinct = values[starts]
    if len(distinct) > max_bins:
        if weight is None:
            mass = np.diff(np.append(starts, len(values))).astype(np.float64)
        else:
            mass = np.add.reduceat(weight, starts)
        for _ in range(3):
            mass = np.minimum(mass, mass.sum() / max_bins)
        centre = np.cumsum(mass) - 0.5 * mass
        bins = np.floor(centre * (max_bins / mass.sum())).astype(np.int64)
        cuts = np.flatnonzero(np.diff(np.minimum(bins, max_bins - 1)))
    else:
        cuts = np.arange(len(distinct) - 1)
    low, high = distinct[cuts], distinct[cuts + 1]
    middle = (low * np.float32(0.5) + high * np.float32(0.5)).astype(np.float32)
    return np.where((middle < low) | (middle >= high), low, middle)


def bin_features(
    values: np.ndarray,
    categorical: np.ndarray,
    max_bins: int = 255,
    weight: np.ndarray | None = None,
    threads: int = 1,
) -> Binned:
    """Bins a table by quantiles of each column.

    Args:
        values: float32 (n, p), C-contiguous; NaN is missing; categories are codes 0..c-1.
        categorical: bool (p,).
        max_bins: Bins of a numeric column, 2 to 255.
        weight: float64 (n,) masses of the rows for the quantiles, or None.
        threads: Threads for large tables.
    """
    if not 2 <= max_bins <= MISSING_BIN:
        raise ValueError(
            f"max_bins={max_bins} is out of range: bins are bytes, so use 2 to {MISSING_BIN}"
        )
    n, p = values.shape
    threads = threads if worth_threads(n * p) else 1

    def edges_of(j: int) -> np.ndarray:
        if categorical[j]:
            return np.zeros(0, np.float32)
        return numeric_edges(np.ascontiguousarray(values[:, j]), max_bins, weight)

    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            edges = list(pool.map(edges_of, range(p)))
    else:
        edges = [edges_of(j) for j in range(p)]
    return bin_with_edges(values, categorical, edges, weight, threads)


def bin_with_edges(
    values: np.ndarray,
    categorical: np.ndarray,
    edges: list[np.ndarray],
    weight: np.ndarray | None = None,
    threads: int = 1,
) -> Binned:
    """Bins a table by given edges, at most 254 a column; see `bin_features`."""
    n, p = values.shape
    threads = threads if worth_threads(n * p) else 1
    table = np.full((p, 256), np.inf, np.float32)
    for j, inner in enumerate(edges):
        table[j, : len(inner)] = inner
    rows, columns = np.empty((n, p), np.uint8), np.empty((p, n), np.uint8)
    values = values if values.flags.writeable else values.copy()
    with parallel_region(threads):
        (_assign_parallel if threads > 1 else _assign)(values, table, rows, columns)
    num_bins = np.array([len(inner) + 1 for inner in edges], np.int32)
    num_categories = np.zeros(p, np.int32)
    codes: list[np.ndarray | None] = [None] * p
    for j in np.flatnonzero(categorical):
        bins, own = _category_bins(values[:, j], weight)
        rows[:, j] = columns[j] = bins
        codes[j], num_bins[j] = own, max(len(own), 1)
        num_categories[j] = 0 if np.isnan(values[:, j]).all() else int(np.nanmax(values[:, j])) + 1
    return Binned(rows, columns, edges, num_bins, np.asarray(categorical), codes, num_categories)


def _category_bins(codes: np.ndarray, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    known = ~np.isnan(codes)
    whole = np.zeros(len(codes), np.int64)
    whole[known] = codes[known].astype(np.int64)
    mass = np.bincount(whole[known], None if weight is None else weight[known])
    own = np.flatnonzero(mass > 0)
    if len(own) > MISSING_BIN - 1:
        # The rare ones share the missing branch, as categories never seen do.
        own = np.sort(np.argsort(-mass, kind="stable")[: MISSING_BIN - 1])
    lookup = np.full(max(len(mass), 1), MISSING_BIN, np.uint8)
    lookup[own] = np.arange(len(own))
    return np.where(known, lookup[whole], np.uint8(MISSING_BIN)), own.astype(np.int32)


@njit(cache=True, nogil=True, error_model="numpy")
def _assign_range(values, table, rows, columns, begin, end):
    one = np.uint64(1)
    for i in range(np.uint64(begin), np.uint64(end)):
        for j in range(np.uint64(values.shape[1])):
            x = values[i, j]
            bin_index = np.uint64(0)
            step = np.uint64(128)
            while step > np.uint64(0):
                right = bin_index + step - one
                bin_index += step if table[j, right] < x else np.uint64(0)
                step >>= one
            code = np.uint8(255) if np.isnan(x) else np.uint8(bin_index)
            rows[i, j] = code
            columns[j, i] = code


@njit(cache=True, nogil=True, error_model="numpy")
def _assign(values, table, rows, columns):
    _assign_range(values, table, rows, columns, 0, len(values))


@njit(cache=True, nogil=True, error_model="numpy", parallel=True)
def _assign_parallel(values, table, rows, columns):
    n = len(values)
    blocks = (n + 4095) // 4096
    for block in prange(blocks):
        _assign_range(values, table, rows, columns, block * 4096, min(n, block * 4096 + 4096))
