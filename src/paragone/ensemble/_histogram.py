r"""Gradient histograms over bins, in integers: exact, subtractable, the same for any threads.

Gradients and second derivatives are rounded once per tree to fixed point and packed into one
64-bit word, $w_i = 2^{32} \lfloor s_g g_i \rceil + \lfloor s_h h_i \rceil$, with powers of two
$s_g \le 2^{30} / \sum |g|$ and $s_h \le 2^{30} / \sum h$. No sum over any subset overflows, so

- a histogram cell $\sum_{i: \operatorname{bin}(i) = b} w_i$ costs one load, add and store;
- the larger child is parent minus smaller child, exactly, with no drift to negative sums;
- addition is associative: the tree does not depend on how rows were shared among threads.

The rounding error of a sum over m rows is at most $m / (2 s)$, about $2^{-31}$ of the total
even when every row errs the same way; leaf values are taken from sums on a far finer grid. Both
are made in `_fixed_point`. The words of a node stand in the order of its row numbers: the partition
moves both, and only the bins are gathered.

Cost: rows of the smaller child x columns per split. Row-major bins serve the histogram, where a
row's bins share cache lines, and column-major bins the partition, which reads one column.
Indices are unsigned because Numba checks signed ones for wrap-around.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from paragone.kernels.intrinsics import prefetch
from paragone.kernels.jit import njit

__all__ = ["accumulate", "partition", "subtract", "unpack_gradient", "unpack_hessian"]

SERIAL_UPDATES = 1 << 18
"""Histogram updates below which a node is done by one thread."""


@njit(nogil=True, error_model="numpy", inline="always")
def unpack_hessian(word):
    return word & np.int64(0xFFFFFFFF)


@njit(nogil=True, error_model="numpy", inline="always")
def unpack_gradient(word):
    return word >> np.int64(32)


# Numba fills and assigns slices element by element, at two to three nanoseconds each; the loops
# below are vector code.


@njit(nogil=True, error_model="numpy")
def _clear(cells):
    for k in range(np.uint64(len(cells))):
        cells[k] = 0


@njit(nogil=True, error_model="numpy")
def subtract(cells, others):
    """Takes `others` from `cells`, both (p * 256)."""
    for k in range(np.uint64(len(cells))):
        cells[k] -= others[k]


@njit(nogil=True, error_model="numpy")
def _copy(source, first, last, target, begin):
    begin, first = np.uint64(begin), np.uint64(first)
    for k in range(np.uint64(last) - first):
        target[begin + k] = source[first + k]


@njit(nogil=True, error_model="numpy")
def _accumulate_range(rows, words, index, begin, end, features, cells):
    width = np.uint64(rows.shape[1])
    bins = rows.ravel()
    used = np.uint64(len(features))
    i, last = np.uint64(begin), np.uint64(end)
    dense = used == width
    ahead = np.uint64(32)
    one, two = np.uint64(1), np.uint64(2)
    while i + one < last:
        if i + ahead + one < last:
            # A row of bins may straddle two cache lines: both its ends are asked for.
            far = np.uint64(index[i + ahead]) * width
            prefetch(bins, far)
            prefetch(bins, far + width - one)
            far = np.uint64(index[i + ahead + one]) * width
            prefetch(bins, far)
            prefetch(bins, far + width - one)
        a, b = np.uint64(index[i]) * width, np.uint64(index[i + one]) * width
        word_a, word_b = words[i], words[i + one]
        if dense:
            for u in range(used):
                cells[(u << np.uint64(8)) + np.uint64(bins[a + u])] += word_a
                cells[(u << np.uint64(8)) + np.uint64(bins[b + u])] += word_b
        else:
            for k in range(used):
                u = np.uint64(features[k])
                cells[(u << np.uint64(8)) + np.uint64(bins[a + u])] += word_a
                cells[(u << np.uint64(8)) + np.uint64(bins[b + u])] += word_b
        i += two
    if i < last:
        a = np.uint64(index[i]) * width
        for k in range(used):
            u = np.uint64(features[k])
            cells[(u << np.uint64(8)) + np.uint64(bins[a + u])] += words[i]


@njit(nogil=True, error_model="numpy", parallel=True)
def _accumulate_parallel(rows, words, index, begin, end, features, cells, part):
    threads = len(part)
    size = (end - begin + threads - 1) // threads
    for t in prange(threads):
        part[t, :] = 0
        low = begin + t * size
        if low < end:
            _accumulate_range(
                rows, words, index, low, min(end, low + size), features, part[t]
            )  # fmt: skip
    for t in range(threads):
        cells += part[t]


@njit(nogil=True, error_model="numpy")
def accumulate(rows, words, index, begin, end, features, cells, part):
    """Fills `cells` (p * 256 words) with the rows `index[begin:end]`.

    `part` (threads, p * 256) is scratch; None for one thread, and no parallel kernel is compiled.
    """
    _clear(cells)
    if part is not None and (end - begin) * len(features) >= SERIAL_UPDATES:
        _accumulate_parallel(rows, words, index, begin, end, features, cells, part)
    else:
        _accumulate_range(rows, words, index, begin, end, features, cells)


@njit(nogil=True, error_model="numpy")
def _part_range(column, goes_left, index, words, spare, spare_words, begin, end):
    # Both ends are written and one advances: no branch to mispredict, and the order is kept.
    one = np.uint64(1)
    left, right = np.uint64(begin), np.uint64(begin)
    for i in range(np.uint64(begin), np.uint64(end)):
        row, word = index[i], words[i]
        go = np.uint64(goes_left[np.uint64(column[np.uint64(row)])])
        index[left], words[left] = row, word
        spare[right], spare_words[right] = row, word
        left += go
        right += one - go
    return np.int64(left) - begin


@njit(nogil=True, error_model="numpy", parallel=True)
def _partition_parallel(column, goes_left, index, words, spare, spare_words, begin, end, lefts):
    chunks = len(lefts)
    size = (end - begin + chunks - 1) // chunks
    for c in prange(chunks):
        low = min(end, begin + c * size)
        lefts[c] = _part_range(
            column, goes_left, index, words, spare, spare_words, low, min(end, low + size)
        )
    total = lefts.sum()
    # Left parts move down in order, each after the one before it; right parts wait in `spare`.
    place = begin
    for c in range(chunks):
        low, moved = min(end, begin + c * size), lefts[c]
        if c > 0:
            for k in range(moved):
                index[place + k] = index[low + k]
                words[place + k] = words[low + k]
        place += moved
    for c in prange(chunks):
        low = min(end, begin + c * size)
        put = begin + total
        for d in range(c):
            first = min(end, begin + d * size)
            put += min(end, first + size) - first - lefts[d]
        moved = min(end, low + size) - low - lefts[c]
        _copy(spare, low, low + moved, index, put)
        _copy(spare_words, low, low + moved, words, put)
    return total


@njit(nogil=True, error_model="numpy")
def partition(column, goes_left, index, words, spare, spare_words, begin, end, threads):
    """Parts `index[begin:end]` and its words stably by `goes_left[column[row]]`.

    Returns:
        The number of rows on the left.
    """
    if threads is not None and end - begin >= 65536:
        return _partition_parallel(
            column, goes_left, index, words, spare, spare_words, begin, end,
            np.zeros(threads, np.int64),
        )  # fmt: skip
    left = _part_range(column, goes_left, index, words, spare, spare_words, begin, end)
    _copy(spare, begin, end - left, index, begin + left)
    _copy(spare_words, begin, end - left, words, begin + left)
    return left
