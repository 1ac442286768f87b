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

Cost: a radix sort per column, then $\lceil \log_2 256 \rceil = 8$ branch-free steps per value.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numba import prange

from paragone.ensemble._threads import parallel_region, worth_threads
from paragone.kernels.jit import njit

__all__ = ["MISSING_BIN", "Binned", "bin_features", "bin_with_edges", "numeric_edges"]

MISSING_BIN = 255
"""The bin of NaN (and of categories too rare for a bin of their own) in every column."""

RADIX_ROWS = 4096
"""Length from which a radix sort is quicker than a comparison sort."""

COLUMNS_AT_ONCE = 8
"""Columns copied out of the table together, to have their edges placed."""

BLOCK = 1024
"""Rows that are binned together."""

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
    _table: np.ndarray | None = field(default=None, init=False, repr=False)

    def threshold(self, column: int, bin_index: int) -> np.float32:
        """Returns the float32 value whose comparison equals `bin <= bin_index`."""
        edges = self.edges[column]
        return np.float32(edges[bin_index]) if bin_index < len(edges) else LAST_THRESHOLD

    @property
    def threshold_table(self) -> np.ndarray:
        """`threshold` of every column and bin, float32 (p, 256)."""
        if self._table is None:
            self._table = np.full((len(self.edges), 256), LAST_THRESHOLD, np.float32)
            for j, inner in enumerate(self.edges):
                self._table[j, : len(inner)] = inner
        return self._table


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
    if not known.all():
        values, weight = values[known], None if weight is None else weight[known]
    if len(values) == 0:
        return np.zeros(0, np.float32)
    if weight is None:
        values = sort_floats(values)
        weight = np.zeros(0)
    else:
        order = np.argsort(values, kind="stable")
        values, weight = values[order], weight[order]
    cuts = np.empty(max_bins - 1, np.int64)
    cuts = cuts[: _cut_places(values, weight, max_bins, cuts)]
    low, high = values[cuts], values[cuts + 1]
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

    edges = [np.zeros(0, np.float32) for _ in range(p)]
    numeric = np.flatnonzero(~np.asarray(categorical, np.bool_))

    def edges_of(block: np.ndarray, k: int, j: int) -> None:
        edges[j] = numeric_edges(block[k], max_bins, weight)

    # A row's neighbouring values share a cache line: several columns are copied out at once.
    with ThreadPoolExecutor(threads) if threads > 1 else nullcontext() as pool:
        run = map if pool is None else pool.map
        for first in range(0, len(numeric), COLUMNS_AT_ONCE):
            chosen = numeric[first : first + COLUMNS_AT_ONCE]
            block = np.empty((len(chosen), n), np.float32)
            _copy_columns(_writeable(values), chosen, block)
            list(run(partial(edges_of, block), range(len(chosen)), chosen))
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
    values = _writeable(values)
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


def _writeable(values: np.ndarray) -> np.ndarray:
    """Read-only arrays would have every kernel compiled a second time."""
    return values if values.flags.writeable else values.copy()


def sort_floats(values: np.ndarray) -> np.ndarray:
    """Returns float32 values (n,) without NaN in increasing order; long ones by radix."""
    if len(values) < RADIX_ROWS:
        return np.sort(values)
    keys, spare = np.empty((2, len(values)), np.uint32)
    _sort_keys(np.ascontiguousarray(values).view(np.uint32), keys, spare)
    return keys.view(np.float32)


@njit(nogil=True, error_model="numpy")
def _sort_keys(bits, keys, spare):
    """Sorts float32 bit patterns byte by byte, lowest first, into `keys`.

    With the sign bit flipped, and for negative numbers all others too, the order of the patterns
    as whole numbers is that of the floats.
    """
    counts = np.zeros((4, 256), np.uint32)
    byte, sign = np.uint32(255), np.uint32(0x80000000)
    for i in range(np.uint64(len(bits))):
        b = bits[i]
        key = b ^ (sign | (np.uint32(0) - (b >> np.uint32(31))))
        keys[i] = key
        for d in range(np.uint32(4)):
            counts[d, (key >> (d << np.uint32(3))) & byte] += np.uint32(1)
    source, target = keys, spare
    for d in range(np.uint32(4)):
        place, running = counts[d], np.uint32(0)
        for c in range(256):
            here = place[c]
            place[c] = running
            running += here
        for i in range(np.uint64(len(bits))):
            key = source[i]
            c = (key >> (d << np.uint32(3))) & byte
            target[place[c]] = key
            place[c] += np.uint32(1)
        source, target = target, source
    for i in range(np.uint64(len(bits))):
        key = keys[i]
        keys[i] = key ^ (sign | ((key >> np.uint32(31)) - np.uint32(1)))


@njit(nogil=True, error_model="numpy")
def _cut_places(values, weight, max_bins, cuts):
    """Notes the last place of each bin but the last one in the sorted values.

    The mass of a distinct value is its count, or the sum of its weights; what exceeds the share
    of one bin is cut off, three times, since each time the share shrinks.

    Returns:
        The number of cuts.
    """
    n, weighted = len(values), len(weight) > 0
    distinct = 1
    for i in range(np.uint64(1), np.uint64(n)):
        distinct += np.int64(values[i] != values[i - np.uint64(1)])
    if distinct <= max_bins:
        size = 0
        for i in range(n - 1):
            if values[i] != values[i + 1]:
                cuts[size] = i
                size += 1
        return size
    total = weight.sum() if weighted else np.float64(n)
    cap = np.inf
    for _ in range(3):
        # The first cap needs no look at the masses; without a larger one it is the last.
        cap, capped, running, most = total / max_bins, 0.0, 0.0, 0.0
        for i in range(n):
            running += weight[i] if weighted else 1.0
            if i + 1 == n or values[i] != values[i + 1]:
                capped += min(running, cap)
                most, running = max(most, running), 0.0
        if most <= cap:
            break
        total = capped
    factor, below, running, size, bin_index, last = max_bins / total, 0.0, 0.0, 0, -1, 0
    for i in range(n):
        running += weight[i] if weighted else 1.0
        if i + 1 == n or values[i] != values[i + 1]:
            mass = min(running, cap)
            here = min(np.int64((below + 0.5 * mass) * factor), max_bins - 1)
            if bin_index >= 0 and here != bin_index:
                cuts[size] = last
                size += 1
            below, running, bin_index, last = below + mass, 0.0, here, i
    return size


@njit(nogil=True, error_model="numpy")
def _copy_columns(values, columns, block):
    for i in range(np.uint64(len(values))):
        for k in range(np.uint64(len(columns))):
            block[k, i] = values[i, np.uint64(columns[k])]


@njit(nogil=True, error_model="numpy", inline="always")
def _halve(table, place, step, x):
    """One step of the search for the first edge >= x: `step` places on if it lies beyond."""
    return place + (step if table[place + step - np.uint64(1)] < x else np.uint64(0))


@njit(nogil=True, error_model="numpy")
def _assign_range(values, table, rows, columns, begin, end):
    edges = table.ravel()
    for j in range(np.uint64(values.shape[1])):
        first = j << np.uint64(8)
        for i in range(np.uint64(begin), np.uint64(end)):
            x = values[i, j]
            place = _halve(edges, first, np.uint64(128), x)
            place = _halve(edges, place, np.uint64(64), x)
            place = _halve(edges, place, np.uint64(32), x)
            place = _halve(edges, place, np.uint64(16), x)
            place = _halve(edges, place, np.uint64(8), x)
            place = _halve(edges, place, np.uint64(4), x)
            place = _halve(edges, place, np.uint64(2), x)
            place = _halve(edges, place, np.uint64(1), x)
            code = np.uint8(255) if np.isnan(x) else np.uint8(place - first)
            rows[i, j] = code
            columns[j, i] = code


@njit(nogil=True, error_model="numpy")
def _assign(values, table, rows, columns):
    # A block of rows stays in the cache while its columns are looked up one by one.
    for begin in range(0, len(values), BLOCK):
        _assign_range(values, table, rows, columns, begin, min(len(values), begin + BLOCK))


@njit(nogil=True, error_model="numpy", parallel=True)
def _assign_parallel(values, table, rows, columns):
    n = len(values)
    for block in prange((n + BLOCK - 1) // BLOCK):
        begin = block * BLOCK
        _assign_range(values, table, rows, columns, begin, min(n, begin + BLOCK))
