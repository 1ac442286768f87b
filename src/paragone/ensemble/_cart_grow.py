r"""The kernel that grows a full CART by moments or class weights, depth first, in the caches.

A node whose rows do not yet fit a local copy is searched on the whole columns; the first one
below that size on each path begins a local subtree (`_cart_rows`). The smaller child goes first,
so that at most $\log_2 n$ nodes wait. Each node draws from a stream of its own, seeded by its
parent's and its side: what it tries depends neither on the order of growth nor on how rows of
weight 2 are written down.

Cost: $O(m \log m)$ row visits for each column tried, one byte each; no sort below 255 rows.
"""

from __future__ import annotations

import numpy as np

from paragone.ensemble._cart_bins import fill_bins, subtract_bins
from paragone.ensemble._cart_cuts import try_bins, try_local
from paragone.ensemble._cart_data import inner_jit
from paragone.ensemble._cart_rows import (
    LOCAL,
    MISSING,
    class_totals,
    enter,
    moments,
    next_code,
    open_local,
    part_global,
    part_local,
)
from paragone.ensemble._cart_sorted import try_sorted
from paragone.kernels.jit import njit

__all__ = ["WAITING", "grow_fast"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
WAITING = 80
"""Places of the stack: one for each halving of at most 2^63 rows, and some."""

NODE, START, SIZE, DEPTH = range(4)
WEIGHT, SECOND, PERFECT, MARGIN = range(4)


@inner_jit
def _copy(target, source):
    # An assignment of slices would bring the formatting of its error message with it.
    for i in range(len(target)):
        target[i] = source[i]


@inner_jit
def _mix(z):
    """A bijection of 64-bit words in which every bit depends on all (splitmix64)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@inner_jit
def _below(stream, bound):
    """A whole number in [0, bound) from the stream."""
    stream[0] += _GOLDEN
    return np.int64(((_mix(stream[0]) >> np.uint64(32)) * np.uint64(bound)) >> np.uint64(32))


@inner_jit
def _describe(limits, center, rows, nodes, node, start, n, depth, facts):
    """Fills the node's entries and `facts`; returns whether it may be split."""
    nodes.feature[node], nodes.left[node], nodes.count[node] = -1, 0, n
    nodes.low[node] = nodes.high[node] = -1
    nodes.missing_left[node] = False
    if limits.classes:
        totals = nodes.value[node]
        weight = class_totals(rows, start, n, totals)
        squares = 0.0
        for k in range(len(totals)):
            squares += totals[k] * totals[k]
        pure = rows.y[start] == rows.y[start + n - 1]
        facts[SECOND] = squares / weight
        facts[PERFECT] = weight - squares / weight
        facts[MARGIN] = 1e-13 * weight
    else:
        weight, moment, square, low, high = moments(rows, start, n, center)
        pure = low == high
        nodes.value[node, 0] = low if pure else center + moment / weight
        facts[SECOND] = moment
        facts[PERFECT] = max(0.0, weight * square - moment * moment)
        # What rounding may add to a gain: differences of large sums where the targets of the
        # node lie close together and far from the center.
        large = weight * square + abs(moment) * np.sqrt(facts[PERFECT])
        facts[MARGIN] = 1e-13 * facts[PERFECT] + 1e-15 * large
    facts[WEIGHT] = nodes.cover[node] = weight
    nodes.impurity[node] = 0.0 if pure else max(0.0, facts[PERFECT] / weight)
    return not (
        pure
        or depth >= limits.max_depth
        or n < limits.min_split
        or n < 2 * limits.min_leaf
        or weight < 2.0 * limits.min_weight
    )


@inner_jit
def _search(sheet, limits, rows, desk, constant, first, size, start, n, facts, place):
    """Tries columns until `max_features` that vary in the node were looked at."""
    p = len(desk.order)
    order = desk.order
    weight, second = facts[WEIGHT], facts[SECOND]
    # Sums of weights that are not whole numbers may miss an empty side by rounding.
    least = max(limits.min_weight, 1e-12 * weight)
    tolerance = facts[MARGIN]
    perfect = facts[PERFECT] - tolerance
    desk.best[0], desk.best[1] = -0.5 - tolerance, tolerance
    desk.cut[0] = -1
    looked, drawn = 0, 0
    for j in range(p):
        if limits.shuffle:
            other = j + _below(desk.stream, p - j)
            order[j], order[other] = order[other], order[j]
            desk.swaps[j] = other
            drawn += 1
        f = np.int64(order[j])
        word, bit = f >> 6, np.uint64(1) << np.uint64(f & 63)
        if constant[word] & bit:
            continue
        if n <= LOCAL:
            varies = try_local(
                sheet, limits, rows, desk, f, first, size, start, n, weight, second, least
            )
        elif sheet.num_codes[f] > MISSING:
            varies = try_sorted(sheet, limits, rows, desk, f, start, n, weight, second, least)
        else:
            varies = try_bins(sheet, limits, rows, desk, f, start, n, weight, second, least, place)
        if not varies:
            constant[word] |= bit
            continue
        looked += 1
        if looked == limits.max_features or desk.best[0] >= perfect:
            break
    for j in range(drawn - 1, -1, -1):
        other = desk.swaps[j]
        order[j], order[other] = order[other], order[j]


@inner_jit
def _code_of(sheet, rows, desk, f, first, at, n, code):
    """The table's code that stands behind a subtree's code; -1 for none."""
    if code == MISSING:
        return np.int64(-1)
    if sheet.num_codes[f] <= MISSING:
        return np.int64(code)
    for i in range(n):
        if desk.code[i] == code:
            return np.int64(sheet.wide[f, rows.row[first + desk.ids[at + i]]])
    return np.int64(-1)


@inner_jit
def _split(sheet, rows, nodes, desk, node, first, start, n):
    """Parts the rows by the cut found and stores it; returns how many went left."""
    f, cut, missing_left = desk.cut[0], desk.cut[1], desk.cut[2] == 1
    if n <= LOCAL:
        local, at, holes = desk.local[f], start - first, False
        for i in range(n):
            code = local[np.uint64(desk.ids[at + i])]
            desk.code[i] = code
            holes = holes or code == MISSING
        above = next_code(desk, n, np.uint8(cut))
        low = _code_of(sheet, rows, desk, f, first, at, n, np.uint8(cut))
        high = _code_of(sheet, rows, desk, f, first, at, n, above)
        kept = part_local(rows, desk, f, start, at, n, np.uint8(cut), missing_left)
    else:
        low = cut
        kept, high, holes = part_global(sheet, rows, f, start, n, cut, missing_left)
        high = -1 if high == 2**31 else high
    nodes.feature[node], nodes.low[node], nodes.high[node] = f, low, high
    # Where none is missing, a row that will be follows most of the others.
    nodes.missing_left[node] = missing_left if holes else 2 * kept > n
    return kept


@inner_jit
def _share(sheet, rows, desk, constant, place, start, n, kept, large):
    """Turns the histograms of a node into its children's, at the places where these will wait."""
    least, most = min(kept, n - kept), max(kept, n - kept)
    at = start + kept if large == 0 else start
    if not desk.opened[large] or most <= LOCAL:
        if desk.opened[1 - large] and least > LOCAL:
            fill_bins(sheet, rows, desk, constant, place, at, least)
        return
    fill_bins(sheet, rows, desk, constant, place + 1, at, least)
    subtract_bins(sheet, desk, constant, place, place + 1)


@njit(nogil=True, error_model="numpy")
def grow_fast(sheet, limits, rows, nodes, desk, target, weight, classes, seed):
    """Grows a tree into `nodes`; returns the number of its nodes.

    Args:
        sheet: `_cart_rows.Sheet`.
        limits: `_cart_rows.Limits`.
        rows: `_cart_rows.Rows`, n rows of scratch.
        nodes: `_cart_rows.Nodes`, with room for two nodes a row.
        desk: `_cart_rows.Desk`.
        target: float64 (n,), numbers or class codes.
        weight: float64 (n,), >= 0.
        classes: 0 for numbers.
        seed: uint64.
    """
    m, total, center, whole = enter(rows, desk, target, weight, classes)
    # What turns the fall of a weighted impurity into that of `min_gain`.
    unit = (2.0 if classes == 2 else 1.0) / total
    waiting, numbers, seeds = desk.waiting, desk.numbers, desk.seeds
    constants, constant, facts = desk.constants, desk.constants[WAITING], desk.numbers[WAITING]
    # Histograms are kept where all columns are tried, for whole weights: their differences are
    # exact, and an empty bin has the weight 0. Those of a waiting node lie at its place.
    shared = len(desk.bins) > 0 and whole and m > LOCAL
    used, size, first, beyond = 1, 0, 0, 0
    if _describe(limits, center, rows, nodes, 0, 0, m, 0, facts):
        waiting[0, NODE], waiting[0, START], waiting[0, SIZE], waiting[0, DEPTH] = 0, 0, m, 0
        _copy(numbers[0], facts)
        seeds[0] = seed
        for word in range(constants.shape[1]):
            constants[0, word] = 0
        size = 1
        if shared:
            fill_bins(sheet, rows, desk, constants[0], 0, 0, m)
    while size > 0:
        size -= 1
        node, start, n = waiting[size, NODE], waiting[size, START], waiting[size, SIZE]
        depth, own_seed = waiting[size, DEPTH], seeds[size]
        _copy(facts, numbers[size])
        _copy(constant, constants[size])
        if n <= LOCAL and not (first <= start < beyond):
            first, beyond = start, start + n
            open_local(desk, n)
        if limits.classes:
            _copy(desk.totals, nodes.value[node])
        desk.stream[0] = own_seed
        _search(
            sheet, limits, rows, desk, constant, first, beyond - first, start, n, facts,
            size if shared else -1,
        )  # fmt: skip
        if desk.cut[0] < 0:
            continue
        fall = desk.best[0] if limits.classes else desk.best[0] / facts[WEIGHT]
        if fall * unit + 2.3e-16 < limits.min_gain:
            continue
        kept = _split(sheet, rows, nodes, desk, node, first, start, n)
        nodes.left[node] = used
        for side in range(2):
            place = start + kept if side else start
            count = n - kept if side else kept
            desk.opened[side] = _describe(
                limits, center, rows, nodes, used + side, place, count, depth + 1,
                numbers[WAITING + 1 + side],
            )  # fmt: skip
        large = 1 if n - kept > kept else 0
        if shared and n > LOCAL:
            _share(sheet, rows, desk, constant, size, start, n, kept, large)
        for turn in range(2):
            side = large if turn == 0 else 1 - large
            if not desk.opened[side]:
                continue
            waiting[size, NODE] = used + side
            waiting[size, START] = start + kept if side else start
            waiting[size, SIZE] = n - kept if side else kept
            waiting[size, DEPTH] = depth + 1
            _copy(numbers[size], numbers[WAITING + 1 + side])
            seeds[size] = _mix(own_seed + _GOLDEN * np.uint64(side + 1))
            _copy(constants[size], constant)
            size += 1
        used += 2
    return used
