r"""The rows of a tree in node order: what a node holds, how its rows are parted, local copies.

Rows of a node stand together in `row`, `y` and `pairs`. A subtree of at most 255 rows is grown
on a copy: its columns are fetched once, when first asked for, into `desk.local` (one byte a
cell, in the first-level cache), and then only the byte `ids` of a row is moved. In exact search
a column is fetched as the ranks of its values among those rows: at most 255 of them, so that
one byte holds any of them and nothing is rounded.

Shapes: n rows of the table, m rows of the tree, p columns, K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from paragone.ensemble._cart_data import LOW_HALF, inner_jit, sort_keys
from paragone.kernels.jit import njit

__all__ = [
    "LOCAL", "MISSING", "Desk", "Limits", "Nodes", "Rows", "Sheet", "class_totals", "enter",
    "fetch", "moments", "next_code", "open_local", "part_global", "part_local",
]  # fmt: skip

LOCAL = 255
"""Most rows of a subtree that is grown on a local copy."""

MISSING = 255
"""Code of a missing value in one byte; -1 in codes of 32 bits."""


class Sheet(NamedTuple):
    """Codes of the columns: uint8 `narrow` (p, n), int32 `wide` for columns above 255 codes."""

    narrow: np.ndarray
    wide: np.ndarray
    num_codes: np.ndarray


class Limits(NamedTuple):
    """Plain numbers; `classes` is 0 where the moments of y are searched (see `_cart_cuts`)."""

    classes: int
    max_depth: int
    min_split: int
    min_leaf: int
    max_features: int
    shuffle: bool
    min_weight: float
    min_gain: float


class Rows(NamedTuple):
    """`row` int32, `y` float64 (class codes or targets), `pairs` (w, w (y - center)); spares."""

    row: np.ndarray
    y: np.ndarray
    pairs: np.ndarray
    spare_row: np.ndarray
    spare_y: np.ndarray
    spare_pairs: np.ndarray


class Nodes(NamedTuple):
    """The growing tree; `low` and `high` are the codes on both sides of the cut, or -1."""

    feature: np.ndarray
    left: np.ndarray
    missing_left: np.ndarray
    low: np.ndarray
    high: np.ndarray
    count: np.ndarray
    cover: np.ndarray
    value: np.ndarray
    threshold: np.ndarray
    impurity: np.ndarray


class Desk(NamedTuple):
    """Scratch space of one tree after another; `held`: the subtree a column was fetched for."""

    local: np.ndarray
    held: np.ndarray
    ids: np.ndarray
    spare_ids: np.ndarray
    code: np.ndarray
    cuts: np.ndarray
    weight: np.ndarray
    left: np.ndarray
    right: np.ndarray
    gain: np.ndarray
    count: np.ndarray
    sums: np.ndarray
    ones: np.ndarray
    key: np.ndarray
    key2: np.ndarray
    digit: np.ndarray
    totals: np.ndarray
    part: np.ndarray
    order: np.ndarray
    swaps: np.ndarray
    best: np.ndarray
    cut: np.ndarray
    stream: np.ndarray
    waiting: np.ndarray
    numbers: np.ndarray
    seeds: np.ndarray
    constants: np.ndarray
    opened: np.ndarray
    bins: np.ndarray


_sum_jit = njit(  # pyright: ignore[reportCallIssue]
    cache=True, nogil=True, error_model="numpy", forceinline=True, no_cpython_wrapper=True,
    no_cfunc_wrapper=True, _nrt=False, fastmath={"reassoc", "nsz", "nnan", "contract"},
)  # fmt: skip


@_sum_jit
def moments(rows, start, n, center):
    """Sums of w, w z and w z^2 with z = y - center, and the least and greatest y."""
    weight, moment, square = 0.0, 0.0, 0.0
    low = high = rows.y[start]
    for i in range(np.uint64(start), np.uint64(start + n)):
        w, s, y = rows.pairs[2 * i], rows.pairs[2 * i + np.uint64(1)], rows.y[i]
        weight += w
        moment += s
        square += s * (y - center)
        low = min(low, y)
        high = max(high, y)
    return weight, moment, square, low, high


@inner_jit
def enter(rows, desk, target, weight, classes):
    """Lists the rows of positive weight, by class if these are more than two.

    Returns their number, their weight, the center of y (0 for classes), and whether the weights
    are whole numbers.
    """
    total, moment, m, whole = 0.0, 0.0, 0, True
    first = desk.key
    for k in range(classes + 1):
        first[k] = 0
    for i in range(len(target)):
        if weight[i] > 0.0:
            total += weight[i]
            moment += weight[i] * target[i]
            whole = whole and weight[i] == np.floor(weight[i])
            m += 1
            if classes > 2:
                first[np.int64(target[i]) + 1] += 1
    for k in range(classes):
        first[k + 1] += first[k]
    center = 0.0 if classes else moment / total
    at = 0
    for i in range(len(target)):
        w, y = weight[i], target[i]
        if w > 0.0:
            if classes > 2:
                at = first[np.int64(y)]
                first[np.int64(y)] += 1
            rows.row[at], rows.y[at] = i, y
            rows.pairs[2 * at], rows.pairs[2 * at + 1] = w, w * (y - center)
            at += 1
    return m, total, center, whole


@inner_jit
def class_totals(rows, start, n, totals):
    """Fills the weight of each class and returns their sum; rows stand by class."""
    for k in range(len(totals)):
        totals[k] = 0.0
    for i in range(np.uint64(start), np.uint64(start + n)):
        totals[np.uint64(rows.y[i])] += rows.pairs[2 * i]
    weight = 0.0
    for k in range(len(totals)):
        weight += totals[k]
    return weight


@inner_jit
def open_local(desk, n):
    """Begins a subtree on local copies."""
    desk.held[len(desk.order)] += 1
    for i in range(n):
        desk.ids[i] = i


@inner_jit
def fetch(sheet, rows, desk, f, first, size):
    """Brings column `f` of the subtree's rows into `desk.local[f]`, unless it is there."""
    stamp = desk.held[len(desk.order)]
    if desk.held[f] == stamp:
        return
    desk.held[f] = stamp
    local = desk.local[f]
    if sheet.num_codes[f] <= MISSING:
        column = sheet.narrow[f]
        for i in range(np.uint64(size)):
            local[i] = column[np.uint64(rows.row[np.uint64(first) + i])]
        return
    column = sheet.wide[f]
    low, high = np.int64(2**31), np.int64(-1)
    for i in range(size):
        code = np.int64(column[np.uint64(rows.row[first + i])])
        desk.key[i] = code
        if code >= 0:
            low = min(low, code)
            high = max(high, code)
    if high - low < MISSING:
        for i in range(size):
            local[i] = MISSING if desk.key[i] < 0 else desk.key[i] - low
        return
    known = 0
    for i in range(size):
        code = desk.key[i]
        local[i] = MISSING
        if code >= 0:
            desk.key[known] = ((code - low) << 32) | i
            known += 1
    sort_keys(desk.key, desk.key2, desk.digit, known, high - low)
    rank = np.int64(-1)
    before = np.int64(-1)
    for j in range(known):
        value = desk.key[j] >> 32
        if value != before:
            rank += 1
        before = value
        local[desk.key[j] & LOW_HALF] = rank


@inner_jit
def next_code(desk, n, cut):
    """The least code above `cut` among `desk.code[:n]`; MISSING if none is known."""
    above = np.uint8(MISSING)
    for i in range(np.uint64(n)):
        code = desk.code[i]
        above = min(above, code if code > cut else np.uint8(MISSING))
    return above


@inner_jit
def _close(rows, start, kept, moved):
    """Appends the rows that went right to those that went left."""
    place = np.uint64(start + kept)
    for j in range(np.uint64(moved)):
        rows.y[place + j] = rows.spare_y[j]
    for j in range(np.uint64(2 * moved)):
        rows.pairs[2 * place + j] = rows.spare_pairs[j]


@inner_jit
def part_local(rows, desk, f, start, at, n, cut, missing_left):
    """Moves the rows that go left to the front, order kept; returns their number.

    `start` counts in the tree's rows, `at` in the subtree's.
    """
    local, one = desk.local[f], np.uint64(1)
    kept, moved = np.uint64(0), np.uint64(0)
    first, front = np.uint64(start), np.uint64(at)
    for i in range(np.uint64(n)):
        own, code = desk.ids[front + i], np.uint8(0)
        code = local[np.uint64(own)]
        w, s = rows.pairs[2 * (first + i)], rows.pairs[2 * (first + i) + one]
        y = rows.y[first + i]
        left = np.uint64((code <= cut) | ((code == MISSING) & missing_left))
        desk.ids[front + kept], desk.spare_ids[moved] = own, own
        rows.y[first + kept], rows.spare_y[moved] = y, y
        rows.pairs[2 * (first + kept)], rows.pairs[2 * (first + kept) + one] = w, s
        rows.spare_pairs[2 * moved], rows.spare_pairs[2 * moved + one] = w, s
        kept += left
        moved += one - left
    for j in range(moved):
        desk.ids[front + kept + j] = desk.spare_ids[j]
    _close(rows, start, kept, moved)
    return np.int64(kept)


@inner_jit
def part_global(sheet, rows, f, start, n, cut, missing_left):
    """As `part_local` for a node too large for a local copy; also the next code above the cut."""
    exact, one = sheet.num_codes[f] > MISSING, np.uint64(1)
    narrow, wide = sheet.narrow[f], sheet.wide[f if exact else 0]
    kept, moved = np.uint64(0), np.uint64(0)
    first, above, holes = np.uint64(start), np.int64(2**31), False
    for i in range(np.uint64(n)):
        own = rows.row[first + i]
        if exact:
            code = np.int64(wide[np.uint64(own)])
            missing = code < 0
        else:
            code = np.int64(narrow[np.uint64(own)])
            missing = code == MISSING
        w, s = rows.pairs[2 * (first + i)], rows.pairs[2 * (first + i) + one]
        y = rows.y[first + i]
        holes = holes | missing
        lower = (code <= cut) & (not missing)
        above = min(above, np.int64(2**31) if lower | missing else code)
        left = np.uint64(lower | (missing & missing_left))
        rows.row[first + kept], rows.spare_row[moved] = own, own
        rows.y[first + kept], rows.spare_y[moved] = y, y
        rows.pairs[2 * (first + kept)], rows.pairs[2 * (first + kept) + one] = w, s
        rows.spare_pairs[2 * moved], rows.spare_pairs[2 * moved + one] = w, s
        kept += left
        moved += one - left
    for j in range(moved):
        rows.row[first + kept + j] = rows.spare_row[j]
    _close(rows, start, kept, moved)
    return np.int64(kept), above, holes
