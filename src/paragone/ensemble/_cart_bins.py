r"""Histograms of a node's columns, in bytes: filled by rows, or the parent's less the sibling's.

The sums of (w, w z) in a bin of a node are those of its two children together, so where all
columns are tried only the smaller child's rows are read, and the larger child's histograms are

$$ H_{\text{larger}} = H_{\text{parent}} - H_{\text{smaller}} . $$

Shapes: n rows of the node, p columns; a histogram holds a pair for each of 256 codes.
"""

from __future__ import annotations

import numpy as np

from paragone.ensemble._cart_data import inner_jit
from paragone.ensemble._cart_rows import MISSING
from paragone.ensemble._cart_vectors import LANES, add_pair

__all__ = [
    "clear", "close_sums", "fill_bins", "fill_sums", "occupied", "padded", "subtract_bins",
    "take_bins",
]  # fmt: skip


@inner_jit
def padded(codes):
    return (codes + LANES - 1) // LANES * LANES


@inner_jit
def close_sums(desk, codes):
    """Turns the histogram into sums left of each cut; returns the padded number of cuts.

    A sum waits for the one before, so four quarters are summed side by side.
    """
    cuts = np.int64(padded(codes))
    quarter, two = np.uint64(cuts // 4), np.uint64(2)
    weight, weight_b, weight_c, weight_d = 0.0, 0.0, 0.0, 0.0
    moment, moment_b, moment_c, moment_d = 0.0, 0.0, 0.0, 0.0
    for i in range(quarter):
        b, c, d = i + quarter, i + two * quarter, i + np.uint64(3) * quarter
        weight += desk.sums[two * i]
        moment += desk.sums[two * i + np.uint64(1)]
        weight_b += desk.sums[two * b]
        moment_b += desk.sums[two * b + np.uint64(1)]
        weight_c += desk.sums[two * c]
        moment_c += desk.sums[two * c + np.uint64(1)]
        weight_d += desk.sums[two * d]
        moment_d += desk.sums[two * d + np.uint64(1)]
        desk.weight[i], desk.left[i] = weight, moment
        desk.weight[b], desk.left[b] = weight_b, moment_b
        desk.weight[c], desk.left[c] = weight_c, moment_c
        desk.weight[d], desk.left[d] = weight_d, moment_d
    weight_c, moment_c = (weight + weight_b) + weight_c, (moment + moment_b) + moment_c
    weight_b, moment_b = weight + weight_b, moment + moment_b
    for i in range(quarter):
        b, c, d = i + quarter, i + two * quarter, i + np.uint64(3) * quarter
        desk.weight[b] += weight
        desk.left[b] += moment
        desk.weight[c] += weight_b
        desk.left[c] += moment_b
        desk.weight[d] += weight_c
        desk.left[d] += moment_c
    return cuts


@inner_jit
def clear(desk, codes):
    for b in range(np.uint64(2 * padded(codes))):
        desk.sums[b] = 0.0


@inner_jit
def fill_sums(column, rows, desk, start, cuts, first, last):
    """Histogram of the pairs of rows `first` to `last`; leaves `desk.sums` filled.

    Two histograms take turns: equal codes in a row would wait for each other's store.
    """
    one, half = np.uint64(1), np.uint64(512)
    for b in range(np.uint64(2 * cuts)):
        desk.sums[b] = desk.sums[half + b] = 0.0
    for b in range(np.uint64(2 * MISSING), half):
        desk.sums[b] = desk.sums[half + b] = 0.0
    i, end = np.uint64(start + first), np.uint64(start + last)
    while i + one < end:
        code, other = column[np.uint64(rows.row[i])], column[np.uint64(rows.row[i + one])]
        add_pair(desk.sums, np.uint64(code), rows.pairs, i)
        add_pair(desk.sums, np.uint64(256) + np.uint64(other), rows.pairs, i + one)
        i += np.uint64(2)
    if i < end:
        add_pair(desk.sums, np.uint64(column[np.uint64(rows.row[i])]), rows.pairs, i)
    for b in range(np.uint64(2 * min(cuts, MISSING))):
        desk.sums[b] += desk.sums[half + b]
    for b in range(np.uint64(2 * MISSING), half):
        desk.sums[b] += desk.sums[half + b]


@inner_jit
def take_bins(desk, place, f, cuts):
    bins = desk.bins[place, f]
    for b in range(np.uint64(2 * cuts)):
        desk.sums[b] = bins[b]
    for b in range(np.uint64(2 * MISSING), np.uint64(2 * MISSING + 2)):
        desk.sums[b] = bins[b]


@inner_jit
def fill_bins(sheet, rows, desk, constant, place, start, n):
    """Histograms of the columns not known to be constant into `desk.bins[place]`."""
    for f in range(len(desk.order)):
        if constant[f >> 6] & (np.uint64(1) << np.uint64(f & 63)):
            continue
        cuts = np.int64(padded(np.int64(sheet.num_codes[f])))
        fill_sums(sheet.narrow[f], rows, desk, start, cuts, 0, n)
        bins = desk.bins[place, f]
        for b in range(np.uint64(2 * cuts)):
            bins[b] = desk.sums[b]
        for b in range(np.uint64(2 * MISSING), np.uint64(2 * MISSING + 2)):
            bins[b] = desk.sums[b]


@inner_jit
def subtract_bins(sheet, desk, constant, whole, part):
    """Takes the histograms of one child from the parent's, which leaves the other child's."""
    for f in range(len(desk.order)):
        if constant[f >> 6] & (np.uint64(1) << np.uint64(f & 63)):
            continue
        cuts = np.int64(padded(np.int64(sheet.num_codes[f])))
        bins, less = desk.bins[whole, f], desk.bins[part, f]
        for b in range(np.uint64(2 * min(cuts, MISSING))):
            bins[b] -= less[b]
        for b in range(np.uint64(2 * MISSING), np.uint64(2 * MISSING + 2)):
            bins[b] -= less[b]


@inner_jit
def occupied(desk, codes):
    """Bins with any weight: how many known ones (at most 2 are told), whether missing."""
    known = 0
    for b in range(codes):
        if desk.sums[2 * b] > 0.0:
            known += 1
            if known == 2:
                break
    return known, desk.sums[2 * MISSING] > 0.0
