r"""Kernels that find the best split of one node in one column.

A column is given as integer codes in the order of its values (-1: missing), so that exact
search, histogram search (fewer codes) and categories (codes put in the order of their mean
target, by Fisher's theorem) are one scan. The node's rows reach the scan in code order

- by counting, when the codes present span little: one bin per code, cost $O(n + \text{span})$;
- by a radix sort of (code, row) pairs otherwise, cost $O(n \log_{256} \text{span})$.

The scan moves rows from right to left and scores each boundary $(L, R)$ by

$$ q = \sum_{S \in \{L, R\}} \begin{cases}
   \sum_k c_{Sk}^2 / w_S & \text{gini} \\
   \sum_k c_{Sk} \log_2 (c_{Sk} / w_S) & \text{entropy} \\
   s_S^2 / w_S & \text{squared error} \\
   s_S \log (s_S / w_S) & \text{Poisson deviance} \\
   -\sum_{i \in S} w_i |y_i - \operatorname{med} S| & \text{absolute error} \end{cases} $$

with $w$ the weight, $c_k$ the weight of class k and $s$ the sum of $w y$ of a side; $q$ minus the
same quantity of the whole node is the weighted decrease of impurity. Missing values are tried
on both sides. Medians of all prefixes and suffixes come from a Fenwick tree in $O(n \log n)$.

References:
    Breiman, Friedman, Olshen, Stone (1984), "Classification and Regression Trees", 2.4, 4.2, 9.4.
    Fisher (1958), "On grouping for maximum homogeneity", JASA 53.
    Fenwick (1994), "A new data structure for cumulative frequency tables".
"""

from __future__ import annotations

import numpy as np

from paragone.ensemble._binning import LAST_THRESHOLD
from paragone.ensemble._cart_data import (
    ABSOLUTE,
    GINI,
    LOW_HALF,
    POISSON,
    SQUARED,
    draw,
    inner_jit,
    sort_keys,
)

__all__ = ["try_column"]


@inner_jit
def _gather(column, work, start, n):
    """Copies the node's codes; returns the smallest, the largest, and how many are missing."""
    low, high, missing = np.int64(2**31), np.int64(-1), 0
    for i in range(n):
        code = np.int64(column[work.row[start + i]])
        work.code[i] = code
        if code < 0:
            missing += 1
        else:
            low = min(low, code)
            high = max(high, code)
    return low, high, missing


@inner_jit
def _sum_missing(work, start, n, num_classes):
    """Totals of the rows without a value, in the layout of a bin; returns their weight."""
    missing = work.missing
    missing[:] = 0.0
    weight = 0.0
    for i in range(n):
        if work.code[i] < 0:
            weight += work.weight[start + i]
            if num_classes:
                missing[np.int64(work.target[start + i])] += work.weight[start + i]
            else:
                missing[0] += work.response[i]
    return weight


@inner_jit
def _fill_bins(work, start, n, span, num_classes):
    width = num_classes if num_classes else 2
    bins, count = work.bins, work.bin_count
    bins[: span * width] = 0.0
    count[:span] = 0
    for i in range(n):
        code = np.int64(work.code[i])
        if code < 0:
            continue
        count[code] += 1
        if num_classes:
            bins[code * width + np.int64(work.target[start + i])] += work.weight[start + i]
        else:
            bins[2 * code] += work.response[i]
            bins[2 * code + 1] += work.weight[start + i]


@inner_jit
def _running_errors(work, start, n, backward):
    """Medians and absolute errors of all prefixes (or suffixes) of `work.sequence`.

    Row 0 of `error` and `median` holds prefixes ending at i, row 1 suffixes starting at i.
    """
    weight_sum, value_sum = work.fenwick[0], work.fenwick[1]
    weight_sum[: n + 1] = 0.0
    value_sum[: n + 1] = 0.0
    top = 1
    while 2 * top <= n:
        top *= 2
    total, total_value = 0.0, 0.0
    side = 1 if backward else 0
    for step in range(n):
        at = n - 1 - step if backward else step
        i = work.sequence[at]
        w = work.weight[start + i]
        wy = w * work.target[start + i]
        total += w
        total_value += wy
        node = work.rank[i] + 1
        while node <= n:
            weight_sum[node] += w
            value_sum[node] += wy
            node += node & -node
        low_weight, low_value = 0.0, 0.0
        below = 0
        jump = top
        while jump > 0:
            if below + jump <= n and low_weight + weight_sum[below + jump] < 0.5 * total:
                below += jump
                low_weight += weight_sum[below]
                low_value += value_sum[below]
            jump //= 2
        # Ranks up to `below` weigh less than half, so the lower median has the next rank; any
        # point between lower and upper median has the same error.
        median = work.sorted_target[below]
        work.median[side, at] = median
        work.error[side, at] = (
            total_value - low_value - median * (total - low_weight)
            + median * low_weight - low_value
        )  # fmt: skip


@inner_jit
def _side_quality(criterion, weight, moment, left, total, on_left):
    """The term of q that one side adds; `moment`: sum of squares, sum, or -error."""
    if criterion == GINI:
        return moment / weight
    if criterion == SQUARED:
        return moment * moment / weight
    if criterion == POISSON:
        return moment * np.log(moment / weight) if moment > 0.0 else -np.inf
    if criterion == ABSOLUTE:
        return moment
    quality = 0.0
    for k in range(len(total)):
        part = left[k] if on_left else total[k] - left[k]
        if part > 0.0:
            quality += part * np.log2(part / weight)
    return quality


@inner_jit
def _accept(rules, work, best, quality, sides, direction, bounds):
    """Makes this boundary the best so far unless it breaks the monotone constraint."""
    left_count, left_weight, right_weight, moment, other, center = sides
    if rules.criterion == ABSOLUTE:
        low, high = work.median[0, left_count - 1], work.median[1, left_count]
    elif rules.num_classes:
        low = work.left[1] / left_weight
        high = (work.total[1] - work.left[1]) / right_weight
    else:
        low, high = moment / left_weight + center, other / right_weight + center
    if direction != 0 and (
        (high - low) * direction < 0.0 or min(low, high) < bounds[0] or max(low, high) > bounds[1]
    ):
        return False
    best.real[0], best.real[1], best.real[2] = quality, low, high
    return True


@inner_jit
def _scan(rules, work, best, start, n, groups, span, weight, center, missing, direction, bounds):
    """Scores every boundary of the prepared column; returns whether one beats the best so far.

    The node is `work.row[start : start + n]` with total `weight`. If `groups` > 0 so many bins
    are walked, else `-groups` sorted keys; `span` is the code behind the last one. `center` is
    what was taken off the targets in `response`, `missing` the (count, weight, on the left) of
    the rows without a value, `bounds` the lowest and highest value that a child may have.
    """
    criterion, num_classes = rules.criterion, rules.num_classes
    total, left = work.total, work.left
    missing_count, missing_weight, missing_left = missing
    width = num_classes if num_classes else 2
    binned = groups > 0
    groups = abs(groups)
    left_count = missing_count if missing_left else 0
    left_weight = missing_weight if missing_left else 0.0
    for k in range(len(left)):
        left[k] = work.missing[k] if missing_left else 0.0
    # GINI: sums of squares of both sides. Regression: sum of the responses of the left.
    moment, other = left[0], 0.0
    if criterion == GINI:
        moment = 0.0
        for k in range(num_classes):
            moment += left[k] * left[k]
            other += (total[k] - left[k]) * (total[k] - left[k])
    previous = -1
    found = False
    for step in range(groups + 1):
        i, code = 0, span
        if step < groups:
            if binned:
                if work.bin_count[step] == 0:
                    continue
                code = step
            else:
                i = work.key[step] & LOW_HALF
                code = work.key[step] >> 32
        elif missing_left or missing_count == 0:
            break
        right_weight = weight - left_weight
        if (
            previous >= 0
            and code != previous
            and left_count >= rules.min_samples_leaf
            and n - left_count >= rules.min_samples_leaf
            and left_weight >= rules.min_weight_leaf
            and right_weight >= rules.min_weight_leaf
            and right_weight > 0.0
        ):
            if criterion == ABSOLUTE:
                moment, other = -work.error[0, left_count - 1], -work.error[1, left_count]
            elif criterion != GINI:
                other = total[0] - moment
            quality = _side_quality(criterion, left_weight, moment, left, total, True)
            quality += _side_quality(criterion, right_weight, other, left, total, False)
            if quality > best.real[0] + best.real[4]:
                sides = (left_count, left_weight, right_weight, moment, other, center)
                if _accept(rules, work, best, quality, sides, direction, bounds):
                    found = True
                    best.whole[1], best.whole[2] = previous, missing_left
                    best.whole[3], best.whole[4] = left_count, code
        if step == groups:
            break
        if binned:
            left_count += work.bin_count[step]
            if num_classes:
                for k in range(num_classes):
                    part = work.bins[step * width + k]
                    moment += part * (2.0 * left[k] + part)
                    other -= part * (2.0 * (total[k] - left[k]) - part)
                    left[k] += part
                    left_weight += part
            else:
                moment += work.bins[2 * step]
                left_weight += work.bins[2 * step + 1]
        else:
            part = work.weight[start + i]
            left_count += 1
            left_weight += part
            if num_classes:
                k = np.int64(work.target[start + i])
                moment += part * (2.0 * left[k] + part)
                other -= part * (2.0 * (total[k] - left[k]) - part)
                left[k] += part
            else:
                moment += work.response[i]
        previous = code
    return found


@inner_jit
def _search(rules, work, best, start, n, span, weight, center, count, direction, bounds):
    """Prepares the codes 0..span-1 in `work.code` and scans them, for both missing sides."""
    num_classes = rules.num_classes
    missing_weight = 0.0
    if count:
        missing_weight = _sum_missing(work, start, n, num_classes)
    width = num_classes if num_classes else 2
    known = n - count
    absolute = rules.criterion == ABSOLUTE
    if span * width <= 4 * n + 16 and not absolute:
        _fill_bins(work, start, n, span, num_classes)
        groups = span
    else:
        m = 0
        for i in range(n):
            if work.code[i] >= 0:
                work.key[m] = (np.int64(work.code[i]) << 32) | i
                m += 1
        sort_keys(work.key, work.key2, work.digit, m, span - 1)
        groups = -known
    found = False
    for missing_left in range(2 if count else 1):
        if absolute:
            after = count if missing_left else 0
            for j in range(known):
                work.sequence[after + j] = work.key[j] & LOW_HALF
            after = 0 if missing_left else known
            for i in range(n):
                if work.code[i] < 0:
                    work.sequence[after] = i
                    after += 1
            _running_errors(work, start, n, False)
            _running_errors(work, start, n, True)
        missing = (count, missing_weight, missing_left)
        if _scan(
            rules, work, best, start, n, groups, span, weight, center, missing, direction, bounds
        ):
            found = True
    return found


@inner_jit
def _between(low, high):
    """The float32 halfway point, never as large as the right value."""
    middle = np.float32(np.float64(low) * 0.5 + np.float64(high) * 0.5)
    return middle if middle < high else low


@inner_jit
def _random_cut(table, base, low, high, state):
    """Draws a threshold between the extreme values; returns it and the last code below it."""
    least, most = np.float64(table.lower[base + low]), np.float64(table.upper[base + high])
    threshold = np.float32(least + draw(state) * (most - least))
    if not threshold < most:
        threshold = np.float32(least)
    cut, beyond = low, high
    while beyond - cut > 1:
        middle = (cut + beyond) // 2
        if table.upper[base + middle] <= threshold:
            cut = middle
        else:
            beyond = middle
    if low < high and threshold >= table.lower[base + cut + 1]:
        # Only a coarse code spans several values: the cut moves to its edge.
        threshold = table.upper[base + cut]
    return threshold, cut


@inner_jit
def _order_categories(rules, work, start, n, categories, favoured):
    """Puts the categories of the node in the order of their mean target.

    Fills `work.position` (-1: not in the node) and recodes the rows; returns their number.
    """
    bins, position, member = work.bins, work.position, work.sequence
    bins[: 2 * categories] = 0.0
    for i in range(n):
        code = np.int64(work.code[i])
        if code >= 0:
            w, y = work.weight[start + i], work.target[start + i]
            bins[2 * code] += w
            bins[2 * code + 1] += w * ((y == favoured) if rules.num_classes else y)
    present = 0
    for c in range(categories):
        position[c] = -1
        if bins[2 * c] > 0.0:
            work.score[c] = bins[2 * c + 1] / bins[2 * c]
            member[present] = c
            present += 1
    gap = 1
    while gap < present // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(gap, present):
            c = member[i]
            j = i
            while j >= gap and (
                work.score[member[j - gap]] > work.score[c]
                or (work.score[member[j - gap]] == work.score[c] and member[j - gap] > c)
            ):
                member[j] = member[j - gap]
                j -= gap
            member[j] = c
        gap //= 3
    for j in range(present):
        position[member[j]] = j
    for i in range(n):
        if work.code[i] >= 0:
            work.code[i] = position[work.code[i]]
    return present


@inner_jit
def _store_categories(best, work, categories, last):
    """Writes the set that goes right: what lies behind `last`; strangers go with the missing."""
    best.bits[:] = 0
    for c in range((categories + 31) // 32 * 32):
        known = c < categories and work.position[c] >= 0
        right = work.position[c] > last if known else best.whole[2] == 0
        if right:
            best.bits[c >> 5] |= np.uint32(1) << np.uint32(c & 31)


@inner_jit
def try_column(table, rules, work, best, f, start, n, weight, center, bounds):
    """Searches column `f`; returns False if it is constant in the node."""
    column = table.codes[f]
    low, high, count = _gather(column, work, start, n)
    if high < 0 or (low == high and count == 0):
        return False
    base = table.offset[f]
    direction = np.int64(table.monotone[f])
    category = table.categorical[f]
    categories = table.offset[f + 1] - base
    orders = rules.num_classes if category and rules.num_classes > 2 else 1
    threshold, cut = np.float32(0.0), np.int64(0)
    for favoured in range(orders):
        if favoured:
            _gather(column, work, start, n)
        first = low
        if category:
            first = 0
            high = (
                _order_categories(rules, work, start, n, categories, favoured if orders > 1 else 1)
                - 1
            )
        span = high - first + 1
        if rules.random_cuts:
            if category:
                cut = np.int64(draw(work.random) * max(span - 1, 1))
            else:
                threshold, cut = _random_cut(table, base, low, high, work.random)
            for i in range(n):
                if work.code[i] >= 0:
                    work.code[i] = 1 if work.code[i] > cut else 0
            span = 2
        elif first:
            for i in range(n):
                if work.code[i] >= 0:
                    work.code[i] -= first
        if not _search(rules, work, best, start, n, span, weight, center, count, direction, bounds):
            continue
        only_missing = best.whole[4] == span
        last, after = first + best.whole[1], first + best.whole[4]
        if rules.random_cuts:
            last = high if only_missing else cut
        if count == 0:
            best.whole[2] = 1 if 2 * best.whole[3] > n else 0
        best.whole[0], best.whole[1] = f, last
        if category:
            _store_categories(best, work, categories, last)
        elif only_missing:
            best.real[3] = LAST_THRESHOLD
        elif rules.random_cuts:
            best.real[3] = threshold
        else:
            best.real[3] = _between(table.upper[base + last], table.lower[base + after])
    return True
