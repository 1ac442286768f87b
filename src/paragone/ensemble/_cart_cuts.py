r"""Kernels that find the best cut of one node in one column, by moments or by classes.

Two classes need no more than numbers do: with y in {0, 1} the fall of the Gini impurity is twice
the fall of the sum of squares. So there are two searches,

- moments: W times the fall of the sum of squares, from sums of w and w (y - center);
- classes (K > 2): the fall of the weighted Gini impurity, from the squares of class weights;
  the rows of a node stand by class, so that one pass adds one class after the other.

Small nodes compare all rows with all (`sums_below`), larger ones fill a histogram of 256 bins;
columns of more codes in nodes above 255 rows are the matter of `_cart_sorted`. Missing values are
tried on both sides. Equal cuts are decided by the lowest code, then missing on the right; a later
column must win by more than rounding.

Shapes: n rows of the node, m cuts.
"""

from __future__ import annotations

import numpy as np

from paragone.ensemble._cart_bins import (
    clear,
    close_sums,
    fill_sums,
    occupied,
    padded,
    take_bins,
)
from paragone.ensemble._cart_data import inner_jit
from paragone.ensemble._cart_rows import MISSING, fetch
from paragone.ensemble._cart_vectors import (
    LANES,
    add_class,
    add_pair,
    gains,
    gini_gains,
    sums_below,
)

__all__ = ["score_moments", "try_bins", "try_local"]

SMALL = 48
"""Rows up to which comparing all with all beats a histogram (measured)."""


@inner_jit
def _gather(desk, f, at, n):
    """Copies the node's codes, as cuts with padding too; returns the least and the greatest."""
    local = desk.local[f]
    low, high = np.uint8(255), np.uint8(0)
    for i in range(np.uint64(n)):
        code = local[np.uint64(desk.ids[np.uint64(at) + i])]
        desk.code[i] = desk.cuts[i] = code
        low = min(low, code)
        high = max(high, code)
    for i in range(np.uint64(LANES)):
        desk.cuts[np.uint64(n) + i] = MISSING
    return low, high


@inner_jit
def _list_cuts(desk, n, low, high):
    """Lists the cuts to compare all rows with; returns how many.

    They are the codes of the rows, or all from least to greatest if these fill fewer vectors.
    """
    span = np.int64(high) - np.int64(low) + 1
    if high < MISSING and padded(span) < padded(n):
        for i in range(padded(span)):
            desk.cuts[i] = min(low + i, MISSING)
        return span
    return np.int64(n)


@inner_jit
def _missing_part(rows, desk, start, n):
    """Weight, moment and number of the rows without a value."""
    weight, moment, count = 0.0, 0.0, 0
    for i in range(n):
        if desk.code[i] == MISSING:
            weight += rows.pairs[2 * (start + i)]
            moment += rows.pairs[2 * (start + i) + 1]
            count += 1
    return weight, moment, count


@inner_jit
def _count_local(desk, n, cuts, by_row):
    """Numbers of rows left of each cut, into `desk.count`."""
    if by_row:
        sums_below(desk.code, n, desk.ones, 0, desk.cuts, cuts, desk.count, desk.gain)
        return
    for b in range(256):
        desk.count[b] = 0.0
    for i in range(n):
        desk.count[desk.code[i]] += 1.0
    for b in range(1, cuts):
        desk.count[b] += desk.count[b - 1]


@inner_jit
def _choose(limits, desk, f, n, m, by_row, top, missing_left, missing_count):
    """Makes the best of the `m` cuts in `desk.gain` the best so far if it is better."""
    if limits.min_leaf > 1:
        top = -1.0
        for i in range(m):
            left = desk.count[i] + (missing_count if missing_left else 0)
            if left < limits.min_leaf or n - left < limits.min_leaf:
                desk.gain[i] = -1.0
            top = max(top, desk.gain[i])
    tolerance = desk.best[1]
    if top < 0.0 or top <= desk.best[0] + tolerance:
        return
    cut = np.int64(2**31)
    for i in range(np.uint64(m)):
        if desk.gain[i] >= top - tolerance:
            cut = min(cut, np.int64(desk.cuts[i]) if by_row else np.int64(i))
            if not by_row:
                break
    desk.best[0] = top
    desk.cut[0], desk.cut[1], desk.cut[2] = f, cut, missing_left


@inner_jit
def score_moments(limits, desk, f, n, m, by_row, weight, moment, least, holes):
    """Scores the `m` cuts of the sums on the desk; `holes`: what the missing rows add."""
    missing_weight, missing_moment, missing_count = holes
    for missing_left in range(2 if missing_count else 1):
        if missing_left:
            for i in range(m):
                desk.weight[i] += missing_weight
                desk.left[i] += missing_moment
        top = gains(
            desk.weight, desk.left, desk.right, m, weight, moment, least, desk.gain
        )  # fmt: skip
        _choose(limits, desk, f, n, m, by_row, top, missing_left, missing_count)


@inner_jit
def _missing_by_class(rows, desk, start, n):
    for k in range(len(desk.part)):
        desk.part[k] = 0.0
    for i in range(n):
        if desk.code[i] == MISSING:
            desk.part[np.uint64(rows.y[start + i])] += rows.pairs[2 * (start + i)]


@inner_jit
def _sum_classes(rows, desk, start, n, cuts, missing_left):
    """Sums of all classes left of each cut, class after class."""
    m = np.int64(padded(cuts))
    for i in range(m):
        desk.weight[i] = desk.left[i] = desk.right[i] = 0.0
    first = 0
    while first < n:
        last, label = first + 1, rows.y[start + first]
        while last < n and rows.y[start + last] == label:
            last += 1
        total = desk.totals[np.uint64(label)]
        if missing_left:
            _add_shifted(rows, desk, start, first, last, m, total, desk.part[np.uint64(label)])
        else:
            add_class(
                desk.code, rows.pairs, start, first, last, desk.cuts, cuts, total,
                desk.weight, desk.left, desk.right,
            )  # fmt: skip
        first = last


@inner_jit
def _add_shifted(rows, desk, start, first, last, m, total, missing):
    """As `add_class` with the missing weight of the class on the left."""
    for i in range(m):
        mass = missing
        for j in range(first, last):
            if desk.code[j] <= desk.cuts[i]:
                mass += rows.pairs[2 * (start + j)]
        desk.weight[i] += mass
        desk.left[i] += mass * mass
        desk.right[i] += (total - mass) * (total - mass)


@inner_jit
def try_local(sheet, limits, rows, desk, f, first, size, start, n, weight, moment, least):
    """Searches column `f` of a node in a subtree of `size` rows; False if it is constant.

    `moment` is sum w (y - center), or for classes sum_k T_k^2 / W; `least` > 0 the least weight
    of a side.
    """
    fetch(sheet, rows, desk, f, first, size)
    low, high = _gather(desk, f, start - first, n)
    if low == high:
        return False
    holes = high == MISSING
    if limits.classes:
        cuts = _list_cuts(desk, n, low, high)
        if limits.min_leaf > 1:
            _count_local(desk, n, cuts, True)
        missing = _missing_part(rows, desk, start, n)[2] if holes else 0
        if holes:
            _missing_by_class(rows, desk, start, n)
        for missing_left in range(2 if holes else 1):
            _sum_classes(rows, desk, start, n, cuts, missing_left)
            top = gini_gains(
                desk.weight, desk.left, desk.right, cuts, weight, moment, least, desk.gain
            )
            _choose(limits, desk, f, n, cuts, True, top, missing_left, missing)
        return True
    part = (0.0, 0.0, 0)
    if holes:
        part = _missing_part(rows, desk, start, n)
    by_row = n <= SMALL
    base = np.uint8(0 if by_row or holes else low)
    if by_row:
        cuts = _list_cuts(desk, n, low, high)
        sums_below(desk.code, n, rows.pairs, start, desk.cuts, cuts, desk.weight, desk.left)
    else:
        # Codes count from the least, so that only the node's span is cleared and summed.
        span = np.int64(high) - np.int64(base) + 1
        clear(desk, span)
        for i in range(np.uint64(n)):
            desk.code[i] -= base
            add_pair(desk.sums, np.uint64(desk.code[i]), rows.pairs, np.uint64(start) + i)
        cuts = close_sums(desk, MISSING if holes else span)
    before = desk.best[0]
    if limits.min_leaf > 1:
        _count_local(desk, n, cuts, by_row)
    score_moments(limits, desk, f, n, cuts, by_row, weight, moment, least, part)
    if desk.best[0] != before:
        desk.cut[1] += base
    return True


@inner_jit
def _count_global(column, rows, desk, start, n, cuts):
    for b in range(256):
        desk.count[b] = 0.0
    for i in range(start, start + n):
        desk.count[column[rows.row[i]]] += 1.0
    missing = np.int64(desk.count[MISSING])
    for b in range(1, cuts):
        desk.count[b] += desk.count[b - 1]
    return missing


@inner_jit
def _sum_classes_global(column, rows, desk, start, n, cuts, missing_left):
    """Sums of all classes left of each bin, class after class; (known bins, missing)."""
    for b in range(cuts):
        desk.weight[b] = desk.left[b] = desk.right[b] = 0.0
    first, low, high, missing = 0, MISSING, -1, False
    while first < n:
        last, label = first + 1, rows.y[start + first]
        while last < n and rows.y[start + last] == label:
            last += 1
        fill_sums(column, rows, desk, start, cuts, first, last)
        total = desk.totals[np.uint64(label)]
        missing = missing or desk.sums[2 * MISSING] > 0.0
        mass = desk.sums[2 * MISSING] if missing_left else 0.0
        for b in range(np.uint64(cuts)):
            mass += desk.sums[2 * b] if b < MISSING else 0.0
            if desk.sums[2 * b] > 0.0 and b < MISSING:
                low, high = min(low, np.int64(b)), max(high, np.int64(b))
            desk.weight[b] += mass
            desk.left[b] += mass * mass
            desk.right[b] += (total - mass) * (total - mass)
        first = last
    return low, high, missing


@inner_jit
def try_bins(sheet, limits, rows, desk, f, start, n, weight, moment, least, place):
    """Searches column `f` of a node above 255 rows in byte codes; False if it is constant.

    Where `place` >= 0 the histogram is there in `desk.bins`.
    """
    column = sheet.narrow[f]
    cuts = np.int64(padded(np.int64(sheet.num_codes[f])))
    if limits.classes:
        low, high, missing = _sum_classes_global(column, rows, desk, start, n, cuts, 0)
        if high < 0 or (low == high and not missing):
            return False
        count = 0
        if limits.min_leaf > 1:
            count = _count_global(column, rows, desk, start, n, cuts)
        for missing_left in range(2 if missing else 1):
            if missing_left:
                _sum_classes_global(column, rows, desk, start, n, cuts, 1)
            top = gini_gains(
                desk.weight, desk.left, desk.right, cuts, weight, moment, least, desk.gain
            )
            _choose(limits, desk, f, n, cuts, False, top, missing_left, count)
        return True
    if place >= 0:
        take_bins(desk, place, f, cuts)
    else:
        fill_sums(column, rows, desk, start, cuts, 0, n)
    known, missing = occupied(desk, np.int64(sheet.num_codes[f]))
    if known == 0 or (known == 1 and not missing):
        return False
    part = (desk.sums[2 * MISSING], desk.sums[2 * MISSING + 1], 1 if missing else 0)
    close_sums(desk, np.int64(sheet.num_codes[f]))
    if limits.min_leaf > 1:
        count = _count_global(column, rows, desk, start, n, cuts)
        part = (part[0], part[1], count)
    score_moments(limits, desk, f, n, cuts, False, weight, moment, least, part)
    return True
