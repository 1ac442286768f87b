r"""Exact search of large nodes: codes of 32 bits, sorted, and scanned from left to right.

Only nodes above 255 rows come here. A column whose codes in the node span less than 255 is a
histogram like any other; else the pairs (code, row) are sorted by radix, at most four passes.

Shapes: n rows of the node, K classes.
"""

from __future__ import annotations

import numpy as np

from paragone.ensemble._cart_bins import close_sums
from paragone.ensemble._cart_cuts import score_moments
from paragone.ensemble._cart_data import LOW_HALF, inner_jit, sort_keys
from paragone.ensemble._cart_rows import MISSING
from paragone.ensemble._cart_vectors import add_pair

__all__ = ["try_sorted"]


@inner_jit
def _collect(column, rows, desk, start, n):
    """Keys (code, row) of the known values, and what the missing ones weigh."""
    known, low, high = 0, np.int64(2**31), np.int64(-1)
    weight, moment = 0.0, 0.0
    for i in range(n):
        code = np.int64(column[np.uint64(rows.row[start + i])])
        if code >= 0:
            desk.key[known] = (code << 32) | i
            known += 1
            low = min(low, code)
            high = max(high, code)
        else:
            weight += rows.pairs[2 * (start + i)]
            moment += rows.pairs[2 * (start + i) + 1]
    return known, low, high, weight, moment


@inner_jit
def _try_span(limits, rows, desk, f, start, n, known, low, high, weight, moment, least, missing):
    """A column of few codes: the histogram of `_cart_cuts`, its codes counted from `low`."""
    for b in range(np.uint64(512)):
        desk.sums[b] = 0.0
    for j in range(known):
        code, i = (desk.key[j] >> 32) - low, desk.key[j] & LOW_HALF
        add_pair(desk.sums, np.uint64(code), rows.pairs, np.uint64(start + i))
    if limits.min_leaf > 1:
        for b in range(256):
            desk.count[b] = 0.0
        for j in range(known):
            desk.count[(desk.key[j] >> 32) - low] += 1.0
        for b in range(1, 256):
            desk.count[b] += desk.count[b - 1]
    cuts = close_sums(desk, high - low + 1)
    before = desk.best[0]
    score_moments(limits, desk, f, n, cuts, False, weight, moment, least, missing)
    if desk.best[0] != before:
        desk.cut[1] += low


@inner_jit
def _offer(limits, desk, f, n, left, left_count, gain, code, missing_left, weight, least):
    """Makes this cut the best so far if it is valid and better."""
    if (
        left_count >= limits.min_leaf
        and n - left_count >= limits.min_leaf
        and left >= least
        and weight - left >= least
        and gain > desk.best[0] + desk.best[1]
    ):
        desk.best[0] = gain
        desk.cut[0], desk.cut[1], desk.cut[2] = f, code, missing_left


@inner_jit
def _scan_moments(
    limits, rows, desk, f, start, n, known, weight, moment, least, missing, missing_left
):  # fmt: skip
    left = missing[0] if missing_left else 0.0
    left_moment = missing[1] if missing_left else 0.0
    count = missing[2] if missing_left else 0
    before = np.int64(-1)
    for j in range(known + 1):
        last = j == known
        if last and (missing_left or missing[2] == 0):
            break
        code = np.int64(-2) if last else desk.key[j] >> 32
        if code != before and before >= 0:
            away = left_moment * weight - moment * left
            gain = away * away / (left * (weight - left))
            _offer(limits, desk, f, n, left, count, gain, before, missing_left, weight, least)
        if last:
            break
        i = start + (desk.key[j] & LOW_HALF)
        left += rows.pairs[2 * i]
        left_moment += rows.pairs[2 * i + 1]
        count += 1
        before = code


@inner_jit
def _scan_classes(
    limits, column, rows, desk, f, start, n, known, weight, own, least, missing_count, missing_left
):  # fmt: skip
    left, squares, rest, count = 0.0, 0.0, 0.0, 0
    for k in range(limits.classes):
        desk.part[k] = 0.0
        rest += desk.totals[k] * desk.totals[k]
    if missing_left:
        for i in range(start, start + n):
            if column[rows.row[i]] < 0:
                k, w = np.uint64(rows.y[i]), rows.pairs[2 * i]
                squares += w * (2.0 * desk.part[k] + w)
                rest -= w * (2.0 * (desk.totals[k] - desk.part[k]) - w)
                desk.part[k] += w
                left += w
                count += 1
    before = np.int64(-1)
    for j in range(known + 1):
        last = j == known
        if last and (missing_left or missing_count == 0):
            break
        code = np.int64(-2) if last else desk.key[j] >> 32
        if code != before and before >= 0:
            gain = max(0.0, squares / left + rest / (weight - left) - own)
            _offer(limits, desk, f, n, left, count, gain, before, missing_left, weight, least)
        if last:
            break
        i = start + (desk.key[j] & LOW_HALF)
        k, w = np.uint64(rows.y[i]), rows.pairs[2 * i]
        squares += w * (2.0 * desk.part[k] + w)
        rest -= w * (2.0 * (desk.totals[k] - desk.part[k]) - w)
        desk.part[k] += w
        left += w
        count += 1
        before = code


@inner_jit
def try_sorted(sheet, limits, rows, desk, f, start, n, weight, moment, least):
    """Searches column `f` by its exact codes; returns False if it is constant in the node."""
    column = sheet.wide[f]
    known, low, high, missing_weight, missing_moment = _collect(column, rows, desk, start, n)
    if known == 0 or (low == high and known == n):
        return False
    missing = (missing_weight, missing_moment, n - known)
    if high - low < MISSING and not limits.classes:
        _try_span(limits, rows, desk, f, start, n, known, low, high, weight, moment, least, missing)
        return True
    for j in range(known):
        desk.key[j] -= low << 32
    sort_keys(desk.key, desk.key2, desk.digit, known, high - low)
    for j in range(known):
        desk.key[j] += low << 32
    for missing_left in range(2 if known < n else 1):
        if limits.classes:
            _scan_classes(
                limits, column, rows, desk, f, start, n, known, weight, moment, least, n - known,
                missing_left,
            )  # fmt: skip
        else:
            _scan_moments(
                limits, rows, desk, f, start, n, known, weight, moment, least, missing,
                missing_left,
            )  # fmt: skip
    return True
