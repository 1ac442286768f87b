r"""The best split of a node, read off its histogram.

With gradient sums $G$ and second-derivative sums $H$ of a side, its best weight and score are

$$ w = -\frac{T_\alpha(G)}{H + \lambda}, \qquad
   S(w) = -\big(2 G w + (H + \lambda) w^2 + 2 \alpha |w|\big)
   \overset{w\ \text{free}}{=} \frac{T_\alpha(G)^2}{H + \lambda}, $$

$T_\alpha$ the soft threshold; a `max_delta_step` and monotone bounds clip $w$ before $S$. The gain
is $S_L + S_R - S$, twice the decrease of the objective, the scale on which `gamma` is given
(XGBoost's convention).

Missing rows try both sides: two scans, each a prefix sum and a division that vectorises.
Categories are ordered by $G/(H + \text{smooth})$, after which the best of all subsets is a prefix
(Fisher 1958); up to `onehot` categories, one against the rest.

References:
    Chen & Guestrin (2016), "XGBoost", eq. 5-7 and algorithm 3.
    Fisher (1958), "On grouping for maximum homogeneity".
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import prange

from paragone.ensemble._histogram import unpack_gradient, unpack_hessian
from paragone.ensemble._share import add_up
from paragone.kernels.jit import njit

__all__ = [
    "SplitRule", "category_table", "count_column", "find_split", "node_weight", "scan_feature",
    "score",
]  # fmt: skip

PARALLEL_BINS = 1 << 15
"""Histogram cells of a node above which features are scanned by several threads."""

COMPACT_ROWS = 256
"""Rows of a node below which empty bins are skipped."""


class SplitRule(NamedTuple):
    """What a split must obey; one value of this type compiles every kernel once.

    Attributes:
        reg_lambda: L2 penalty on weights.
        reg_alpha: L1 penalty on weights.
        min_gain: Splits must gain more.
        min_child_weight: Least sum of second derivatives of a child.
        max_delta_step: Largest |weight|; infinity for none.
        min_samples_leaf: Least rows of a child; 0 if the second derivatives bound them already.
        min_data_per_group: Least rows of a category group; 0 for no limit.
        onehot: Columns with at most so many categories are split one against the rest.
        max_cat_threshold: Largest number of categories on the smaller side.
        cat_smooth: Added to H when categories are ordered.
        constrained: Whether weights may be clipped (the slow, general formula).
        inverse_g: Value of one unit of the integer gradient.
        inverse_h: Value of one unit of the integer second derivative.
        least_h: Smallest integer second derivative of a row.
        most_h: Largest integer second derivative of a row.
    """

    reg_lambda: float
    reg_alpha: float
    min_gain: float
    min_child_weight: float
    max_delta_step: float
    min_samples_leaf: int
    min_data_per_group: int
    onehot: int
    max_cat_threshold: int
    cat_smooth: float
    constrained: bool
    inverse_g: float
    inverse_h: float
    least_h: int
    most_h: int


@njit(nogil=True, error_model="numpy")
def node_weight(gradient, hessian, reg_lambda, reg_alpha, max_delta_step, lower, upper):
    """Returns the weight of a node with these sums, within its bounds."""
    shrunk = np.sign(gradient) * max(abs(gradient) - reg_alpha, 0.0)
    if shrunk == 0.0 or hessian + reg_lambda <= 0.0:
        return min(max(0.0, lower), upper)
    weight = -shrunk / (hessian + reg_lambda)
    weight = min(max(weight, -max_delta_step), max_delta_step)
    return min(max(weight, lower), upper)


@njit(nogil=True, error_model="numpy")
def score(gradient, hessian, weight, reg_lambda, reg_alpha):
    """Returns S(w) of the module's equation."""
    return -(
        2.0 * gradient * weight
        + (hessian + reg_lambda) * weight * weight
        + 2.0 * reg_alpha * abs(weight)
    )


@njit(nogil=True, error_model="numpy")
def _gains(prefix, size, total, extra, sign, lower, upper, rule, gains):
    """Fills the gains of cutting after each of `size` prefixes; `extra` rows join the left."""
    lam, alpha, least = rule.reg_lambda, rule.reg_alpha, rule.min_child_weight
    g_all = unpack_gradient(total) * rule.inverse_g
    h_all = unpack_hessian(total) * rule.inverse_h
    if rule.constrained:
        step = rule.max_delta_step
        base = score(g_all, h_all, node_weight(g_all, h_all, lam, alpha, step, lower, upper),
                     lam, alpha)  # fmt: skip
        for b in range(size):
            left, right = prefix[b] + extra, total - prefix[b] - extra
            gl, hl = unpack_gradient(left) * rule.inverse_g, unpack_hessian(left) * rule.inverse_h
            gr, hr = unpack_gradient(right) * rule.inverse_g, unpack_hessian(right) * rule.inverse_h
            wl = node_weight(gl, hl, lam, alpha, step, lower, upper)
            wr = node_weight(gr, hr, lam, alpha, step, lower, upper)
            fine = hl >= least and hr >= least and (wr - wl) * sign >= 0.0
            value = score(gl, hl, wl, lam, alpha) + score(gr, hr, wr, lam, alpha) - base
            gains[b] = value if fine else 0.0
        return
    base = max(abs(g_all) - alpha, 0.0) ** 2 / (h_all + lam)
    for b in range(size):
        left = prefix[b] + extra
        right = total - left
        hl, hr = unpack_hessian(left) * rule.inverse_h, unpack_hessian(right) * rule.inverse_h
        gl = max(abs(unpack_gradient(left) * rule.inverse_g) - alpha, 0.0)
        gr = max(abs(unpack_gradient(right) * rule.inverse_g) - alpha, 0.0)
        pl, pr = hl + lam, hr + lam
        value = (gl * gl * pr + gr * gr * pl) / (pl * pr) - base
        gains[b] = value if (hl >= least) & (hr >= least) else 0.0


@njit(nogil=True, error_model="numpy")
def _category_order(cells, size, rule, order):
    """Orders the categories present by G / (H + smooth); returns how many there are."""
    ratio = np.empty(256)
    present = 0
    for c in range(size):
        word = cells[c]
        if word == 0:
            continue
        r = unpack_gradient(word) * rule.inverse_g / (
            unpack_hessian(word) * rule.inverse_h + rule.cat_smooth
        )  # fmt: skip
        k = present
        while k > 0 and ratio[k - 1] > r:
            ratio[k], order[k] = ratio[k - 1], order[k - 1]
            k -= 1
        ratio[k], order[k] = r, c
        present += 1
    return present


@njit(nogil=True, error_model="numpy")
def _cuts_between_rows(cells, size, prefix, order):
    """Lists the bins with rows and their running sums; skips eight empty bins at a time."""
    running, k, eight = np.int64(0), np.uint64(0), np.uint64(8)
    last = np.uint64(size)
    for first in range(np.uint64(0), last, eight):
        some = np.int64(0)
        for b in range(first, first + eight):
            some |= cells[b]
        if some == 0:
            continue
        for b in range(first, min(first + eight, last)):
            word = cells[b]
            running += word
            prefix[k], order[k] = running, np.int64(b)
            k += np.uint64(word != 0)
    return np.int64(k)


@njit(nogil=True, error_model="numpy")
def _running_sums(cells, size, prefix):
    running = np.int64(0)
    for b in range(np.uint64(size)):
        running += cells[b]
        prefix[b] = running
    return size


@njit(nogil=True, error_model="numpy", fastmath={"nnan", "nsz"})
def _largest(gains, size):
    """Returns the largest of 0 and the gains, none of which is NaN."""
    most = 0.0
    for b in range(np.uint64(size)):
        most = max(most, gains[b])
    return most


@njit(nogil=True, error_model="numpy")
def _forbid(gains, tally, size, extra, count, rule, grouped):
    """Sets gains to 0 where a child has too few rows, or a category group is too small."""
    start = 0
    for b in range(size):
        left = tally[b] + extra
        if left < rule.min_samples_leaf or count - left < rule.min_samples_leaf:
            gains[b] = 0.0
        if grouped:
            if tally[b] - start < rule.min_data_per_group:
                gains[b] = 0.0
            else:
                start = tally[b]


@njit(nogil=True, error_model="numpy")
def scan_feature(
    cells, counts, size, is_category, total, count, sign, lower, upper, rule, compact, gains, work
):
    """Fills `gains` (2, 256): row 0 with the missing rows on the right, row 1 on the left.

    A cut after an empty bin parts the rows as the cut before it, so with `compact` only bins with
    rows are candidates and `work[2, k]` is the bin of candidate k; in small nodes these are few.
    `counts` (256,) are the rows of each bin, or empty where no number of rows is asked for.

    Returns:
        (number of candidates, whether the column has missing rows in this node).
    """
    prefix, order = work[0], work[2]
    missing = cells[255]
    ordered = is_category and size > rule.onehot
    if ordered:
        running, candidates = np.int64(0), _category_order(cells, size, rule, order)
        for k in range(candidates):
            running += cells[order[k]]
            prefix[k] = running
    elif is_category:
        candidates = size
        for k in range(size):
            prefix[k] = total - missing - cells[k]
    elif compact:
        candidates = _cuts_between_rows(cells, size, prefix, order)
    else:
        candidates = _running_sums(cells, size, prefix)
    if len(counts) > 0:
        _tally(counts, candidates, is_category, ordered, compact, count, work)
    for side in range(2 if missing != 0 else 1):
        extra = missing if side == 1 else np.int64(0)
        _gains(prefix, candidates, total, extra, sign, lower, upper, rule, gains[side])
        if len(counts) > 0:
            extra_count = counts[255] if side == 1 else 0
            _forbid(gains[side], work[1], candidates, extra_count, count, rule, ordered)
        if ordered:
            for k in range(rule.max_cat_threshold, candidates - 1 - rule.max_cat_threshold):
                gains[side, k] = 0.0
    return candidates, missing != 0


@njit(nogil=True, error_model="numpy")
def _tally(counts, candidates, is_category, ordered, compact, count, work):
    """Fills `work[1]` with the rows on the left of each candidate, the missing ones not counted."""
    tally, order, rows, b = work[1], work[2], np.int64(0), 0
    for k in range(candidates):
        if is_category and not ordered:
            tally[k] = count - counts[255] - counts[k]
            continue
        if ordered:
            rows += counts[order[k]]
        else:
            last = order[k] if compact else k
            while b <= last:
                rows += counts[b]
                b += 1
        tally[k] = rows


@njit(nogil=True, error_model="numpy")
def count_column(job, node, f, counts):
    """Counts the node's rows, of all processes, by their bin in column f."""
    column, this = job.columns[f], job.nodes[node]
    counts[:] = 0
    for i in range(np.uint64(this.begin), np.uint64(this.end)):
        counts[np.uint64(column[np.uint64(job.index[i])])] += 1
    add_up(job.address, counts)


@njit(nogil=True, error_model="numpy")
def _scan_into(j, job, node, allowed, cells, counts, rule, floor, gains, work, best_gain, place):
    """Notes the best gain of the j-th column above `floor`, or 0, and where it is."""
    f, this = job.features[j], job.nodes[node]
    best_gain[j] = 0.0
    if allowed[f] == 0:
        return
    is_category = job.categorical[f]
    compact = this.size < COMPACT_ROWS and not is_category
    candidates, has_missing = scan_feature(
        cells[f * 256 : f * 256 + 256], counts, job.num_bins[f], is_category, this.word, this.size,
        job.monotone[f], this.lower, this.upper, rule, compact, gains, work,
    )  # fmt: skip
    best = floor
    for side in range(2 if has_missing else 1):
        most = _largest(gains[side], candidates)
        if most > best:
            k = 0
            while gains[side, k] != most:
                k += 1
            k = work[2, k] if compact else k
            best, best_gain[j] = most, most
            place[j] = (k << 2) + (2 if has_missing else 0) + side


@njit(nogil=True, error_model="numpy", parallel=True)
def _scan_parallel(job, node, allowed, cells, rule, best_gain, place):
    for j in prange(len(job.features)):
        _scan_into(
            j, job, node, allowed, cells, np.empty(0, np.int64), rule, rule.min_gain,
            np.empty((2, 256)), np.empty((3, 256), np.int64), best_gain, place,
        )  # fmt: skip


@njit(nogil=True, error_model="numpy")
def _surely_enough(job, node, cells, rule, f, place):
    """Whether H alone shows that both children have enough rows, whatever rows they are."""
    left = cells[f * 256 + 255] if place & 1 else np.int64(0)
    for b in range((place >> 2) + 1):
        left += cells[f * 256 + b]
    right = job.nodes[node].word - left
    least = rule.min_samples_leaf * rule.most_h
    return unpack_hessian(left) >= least and unpack_hessian(right) >= least


@njit(nogil=True, error_model="numpy")
def find_split(job, node, allowed, cells, rule, threads):
    """Returns (gain, feature, candidate, has_missing, missing_left); gain 0 if there is none.

    The first column, candidate and the right side for missing win ties. A least number of rows
    is exact and costs little: rows have H between `least_h` and `most_h`, which rules most
    candidates in or out; only a column that would win by a doubtful one has its rows counted.

    `threads` is the job's: Numba leaves a branch out for an argument that is None, not for a field.
    """
    features, used = job.features, len(job.features)
    best_gain, places = np.zeros(used), np.zeros(used, np.int64)
    counts = np.empty(256 if rule.min_samples_leaf + rule.min_data_per_group > 0 else 0, np.int64)
    nothing = counts[:0]
    counted = np.zeros(used, np.bool_)
    gains, work = np.empty((2, 256)), np.empty((3, 256), np.int64)
    if threads is not None and used * 256 >= PARALLEL_BINS and rule.min_data_per_group == 0:
        _scan_parallel(job, node, allowed, cells, rule, best_gain, places)
    else:
        floor = rule.min_gain
        for j in range(used):
            f, own = features[j], nothing
            if rule.min_data_per_group > 0 and job.categorical[f]:
                count_column(job, node, f, counts)
                own, counted[j] = counts, True
            _scan_into(
                j, job, node, allowed, cells, own, rule, floor, gains, work, best_gain, places
            )
            if len(counts) == 0:
                floor = max(floor, best_gain[j])
    while True:
        gain, best = rule.min_gain, -1
        for j in range(used):
            if best_gain[j] > gain:
                gain, best = best_gain[j], j
        if best < 0:
            return 0.0, -1, 0, False, False
        f, place = features[best], places[best]
        doubtful = rule.min_samples_leaf > 0 and not counted[best]
        if doubtful and (
            job.categorical[f] or not _surely_enough(job, node, cells, rule, f, place)
        ):
            count_column(job, node, f, counts)
            counted[best] = True
            _scan_into(
                best, job, node, allowed, cells, counts, rule, rule.min_gain, gains, work,
                best_gain, places,
            )  # fmt: skip
            continue
        return gain, f, place >> 2, (place & 2) > 0, (place & 1) > 0


@njit(nogil=True, error_model="numpy")
def category_table(cells, size, rule, candidate, table):
    """Fills `table[bin]` with 1 for the categories that candidate sends left, 2 for absent ones."""
    table[:] = 2
    if size <= rule.onehot:
        for c in range(size):
            if cells[c] != 0:
                table[c] = 0 if c == candidate else 1
        return
    order = np.empty(256, np.int64)
    present = _category_order(cells, size, rule, order)
    for k in range(present):
        table[order[k]] = 1 if k <= candidate else 0
