r"""Kernels that grow one CART: open a node, search it, part its rows, choose the next node.

A node is opened once: its value and impurity are computed, its best split is searched and its
rows are parted at once (harmless if the split is never used). What waits for expansion stands
in a heap: by gain (best first) when the number of leaves is limited, else newest first, which
is depth first. A node keeps a set of the columns known to be constant in it; its descendants
never look at them again.

Nodes are rows of two growing tables, `whole` (int64) and `real` (float64), with the columns
named below; the values of the K outputs follow in `real`.

Cost: $O(n \sqrt p \log n)$ to $O(n p \log n)$ for a balanced tree, by the columns tried.
"""

from __future__ import annotations

import numpy as np

from paragone.ensemble._cart_data import (
    ABSOLUTE,
    GINI,
    LOW_HALF,
    POISSON,
    Best,
    draw,
    inner_jit,
    sort_keys,
)
from paragone.ensemble._cart_search import try_column
from paragone.kernels.jit import njit

__all__ = ["REAL", "WHOLE", "grow_nodes"]

FEATURE, LEFT, MISSING_LEFT, COUNT, CATEGORY, START, POSITION, END, DEPTH = range(9)
WHOLE = 9
THRESHOLD, GAIN, COVER, IMPURITY, LOWEST, HIGHEST, MIDDLE, VALUE = range(8)
REAL = VALUE


@inner_jit
def _sort_targets(table, work, start, n):
    """Ranks of the node's targets, for medians; equal targets get neighbouring ranks."""
    top = np.int64(0)
    for i in range(n):
        rank = np.int64(table.target_rank[work.row[start + i]])
        top = max(top, rank)
        work.key[i] = (rank << 32) | i
    sort_keys(work.key, work.key2, work.digit, n, top)
    for j in range(n):
        i = work.key[j] & LOW_HALF
        work.rank[i] = j
        work.sorted_target[j] = work.target[start + i]


@inner_jit
def _weighted_median(work, start, n, weight):
    """The point where half the weight lies below; the middle of the gap if exactly half does."""
    below = 0.0
    for j in range(n):
        below += work.weight[start + (work.key[j] & LOW_HALF)]
        if 2.0 * below > weight:
            return work.sorted_target[j]
        if 2.0 * below == weight and j + 1 < n:
            return 0.5 * (work.sorted_target[j] + work.sorted_target[j + 1])
    return work.sorted_target[n - 1]


@inner_jit
def _describe_classes(rules, work, real, start, n, weight):
    """Class shares and impurity; returns the node's own quality q."""
    total = work.total
    total[:] = 0.0
    for i in range(start, start + n):
        total[np.int64(work.target[i])] += work.weight[i]
    squares, plogp = 0.0, 0.0
    for k in range(rules.num_classes):
        share = total[k] / weight
        real[VALUE + k] = share
        squares += total[k] * total[k]
        if share > 0.0:
            plogp += share * np.log2(share)
    if rules.criterion == GINI:
        real[IMPURITY] = 1.0 - squares / (weight * weight)
        return squares / weight
    real[IMPURITY] = max(0.0, -plogp)
    return weight * plogp


@inner_jit
def _describe_targets(table, rules, work, real, start, n, weight):
    """Mean or median, impurity and the `response` to sum; returns the node's own quality q."""
    total = 0.0
    for i in range(start, start + n):
        total += work.weight[i] * work.target[i]
    mean = total / weight
    deviation = 0.0
    if rules.criterion == ABSOLUTE:
        _sort_targets(table, work, start, n)
        median = _weighted_median(work, start, n, weight)
        for i in range(start, start + n):
            deviation += work.weight[i] * abs(work.target[i] - median)
        real[VALUE], real[IMPURITY] = median, deviation / weight
        return -deviation
    if rules.criterion == POISSON:
        for i in range(n):
            y = work.target[start + i]
            work.response[i] = work.weight[start + i] * y
            if y > 0.0:
                deviation += work.response[i] * np.log(y / mean)
        real[VALUE], real[IMPURITY] = mean, deviation / weight
        work.total[0] = total
        return total * np.log(mean) if total > 0.0 else 0.0
    # Sums of deviations from the mean do not cancel, wherever the targets lie.
    rest = 0.0
    for i in range(n):
        away = work.target[start + i] - mean
        work.response[i] = work.weight[start + i] * away
        rest += work.response[i]
        deviation += work.response[i] * away
    real[VALUE], real[IMPURITY] = mean, deviation / weight
    work.total[0] = rest
    return rest * rest / weight


@inner_jit
def _is_pure(work, start, n):
    i = start + 1
    while i < start + n and work.target[i] == work.target[start]:
        i += 1
    return i == start + n


@inner_jit
def _goes_left(code, best, category):
    if code < 0:
        return best.whole[2] == 1
    if category:
        return (best.bits[code >> 5] >> np.uint32(code & 31)) & np.uint32(1) == 0
    return code <= best.whole[1]


@inner_jit
def _part_rows(table, work, best, start, n):
    """Moves the rows that go left to the front, keeping the order; returns how many do."""
    f = best.whole[0]
    column, category = table.codes[f], table.categorical[f]
    kept, moved = 0, 0
    for i in range(start, start + n):
        row, y, w = work.row[i], work.target[i], work.weight[i]
        if _goes_left(np.int64(column[row]), best, category):
            work.row[start + kept], work.target[start + kept] = row, y
            work.weight[start + kept] = w
            kept += 1
        else:
            work.key[moved], work.response[moved], work.score[moved] = row, y, w
            moved += 1
    for j in range(moved):
        i = start + kept + j
        work.row[i], work.target[i] = work.key[j], work.response[j]
        work.weight[i] = work.score[j]
    return kept


@inner_jit
def _search_columns(
    table, rules, work, best, constant, order, start, n, weight, center, bounds, perfect
):  # fmt: skip
    """Tries columns until `max_features` that vary in the node were looked at.

    A split of quality `perfect` leaves no impurity, so no later column can beat it.
    """
    p = len(order)
    looked = 0
    for j in range(p):
        if rules.shuffle:
            other = j + np.int64(draw(work.random) * (p - j))
            order[j], order[other] = order[other], order[j]
        f = np.int64(order[j])
        word, bit = f >> 6, np.uint64(1) << np.uint64(f & 63)
        if constant[word] & bit:
            continue
        if not try_column(table, rules, work, best, f, start, n, weight, center, bounds):
            constant[word] |= bit
            continue
        looked += 1
        if looked == rules.max_features or best.real[0] >= perfect:
            break


@inner_jit
def _open_node(table, rules, work, best, order, whole, real, constant, root_weight):
    """Fills the node's rows of `whole`, `real`; a split found is left in `best`, rows parted."""
    start, n = whole[START], whole[END] - whole[START]
    weight = 0.0
    for i in range(start, start + n):
        weight += work.weight[i]
    whole[COUNT], whole[FEATURE], whole[LEFT], whole[CATEGORY] = n, -1, 0, -1
    real[COVER], real[GAIN] = weight, 0.0
    if rules.num_classes:
        own = _describe_classes(rules, work, real, start, n, weight)
    else:
        own = _describe_targets(table, rules, work, real, start, n, weight)
    center = 0.0 if rules.criterion == POISSON else real[VALUE]
    if (
        whole[DEPTH] < rules.max_depth
        and n >= rules.min_samples_split
        and n >= 2 * rules.min_samples_leaf
        and weight >= 2.0 * rules.min_weight_leaf
        and not _is_pure(work, start, n)
    ):
        best.real[0], best.whole[0] = -np.inf, -1
        best.real[4] = 1e-13 * (abs(own) + weight * real[IMPURITY])
        bounds = (real[LOWEST], real[HIGHEST])
        perfect = own + weight * real[IMPURITY] - best.real[4]
        _search_columns(
            table, rules, work, best, constant, order, start, n, weight, center, bounds, perfect
        )
        gain = max(0.0, best.real[0] - own) / root_weight
        if best.whole[0] >= 0 and gain + 2.3e-16 >= rules.min_gain:
            whole[FEATURE], whole[MISSING_LEFT] = best.whole[0], best.whole[2]
            real[THRESHOLD], real[GAIN] = best.real[3], gain
            real[MIDDLE] = 0.5 * (best.real[1] + best.real[2])
            whole[POSITION] = start + _part_rows(table, work, best, start, n)
    place = VALUE + 1 if rules.num_classes == 2 else VALUE
    clipped = min(max(real[place], real[LOWEST]), real[HIGHEST])
    if clipped != real[place]:
        real[place] = clipped
        if rules.num_classes == 2:
            real[VALUE] = 1.0 - clipped


@inner_jit
def _before(real, rules, a, b):
    """Whether node `a` is expanded before node `b`."""
    if rules.max_leaves > 0 and real[a, GAIN] != real[b, GAIN]:
        return real[a, GAIN] > real[b, GAIN]
    return a < b if rules.max_leaves > 0 else a > b


@inner_jit
def _push(heap, size, node, real, rules):
    i = size
    while i > 0 and _before(real, rules, node, heap[(i - 1) // 2]):
        heap[i] = heap[(i - 1) // 2]
        i = (i - 1) // 2
    heap[i] = node
    return size + 1


@inner_jit
def _pop(heap, size, real, rules):
    """Takes the first node off; it is left behind the end of the heap, at `heap[size - 1]`."""
    first, node = heap[0], heap[size - 1]
    size -= 1
    i = 0
    while 2 * i + 1 < size:
        child = 2 * i + 1
        if child + 1 < size and _before(real, rules, heap[child + 1], heap[child]):
            child += 1
        if not _before(real, rules, heap[child], node):
            break
        heap[i] = heap[child]
        i = child
    heap[i] = node
    heap[size] = first
    return size


@inner_jit
def _bound_children(table, whole, real, node, left):
    """Hands the node's bounds down; a monotone split parts them at its middle value."""
    real[left, LOWEST] = real[left + 1, LOWEST] = real[node, LOWEST]
    real[left, HIGHEST] = real[left + 1, HIGHEST] = real[node, HIGHEST]
    direction = table.monotone[whole[node, FEATURE]]
    if direction > 0:
        real[left, HIGHEST] = real[left + 1, LOWEST] = real[node, MIDDLE]
    elif direction < 0:
        real[left, LOWEST] = real[left + 1, HIGHEST] = real[node, MIDDLE]


@njit(nogil=True, error_model="numpy")
def grow_nodes(table, rules, work, words):
    """Grows a tree; returns `whole`, `real` (one row a node) and the category bits.

    Args:
        table: `_cart_data.Table`.
        rules: `_cart_data.Rules`.
        work: `_cart_data.Work`, rows of weight > 0 in place; ends in the order of the leaves.
        words: 32-bit words of a category set.
    """
    p, rows = len(table.codes), len(work.row)
    capacity = 64
    width = VALUE + max(rules.num_classes, 1)
    whole = np.zeros((capacity, WHOLE), np.int64)
    real = np.zeros((capacity, width), np.float64)
    constant = np.zeros((capacity, (p + 63) // 64), np.uint64)
    bits = np.zeros((16, words), np.uint32)
    num_sets = 0
    best = Best(np.zeros(5), np.zeros(5, np.int64), np.zeros(words, np.uint32))
    order = np.arange(p)
    heap = np.empty(rows + 2, np.int64)
    size, nodes, leaves = 0, 1, 1
    whole[0, END] = rows
    real[0, LOWEST], real[0, HIGHEST] = -np.inf, np.inf
    root_weight = work.weight.sum()
    parent = -1
    while True:
        for node in range(0 if parent < 0 else nodes - 2, nodes):
            _open_node(
                table, rules, work, best, order, whole[node], real[node], constant[node],
                root_weight,
            )  # fmt: skip
            if whole[node, FEATURE] < 0:
                continue
            if table.categorical[whole[node, FEATURE]]:
                if num_sets == len(bits):
                    wider = np.zeros((2 * num_sets, words), np.uint32)
                    wider[:num_sets] = bits
                    bits = wider
                bits[num_sets] = best.bits
                whole[node, CATEGORY] = num_sets
                num_sets += 1
            size = _push(heap, size, node, real, rules)
        if size == 0 or leaves == rules.max_leaves:
            break
        size = _pop(heap, size, real, rules)
        parent = heap[size]
        leaves += 1
        if nodes + 2 > capacity:
            capacity *= 2
            wide_whole = np.zeros((capacity, WHOLE), np.int64)
            wide_whole[:nodes] = whole[:nodes]
            wide_real = np.zeros((capacity, width), np.float64)
            wide_real[:nodes] = real[:nodes]
            wide_constant = np.zeros((capacity, constant.shape[1]), np.uint64)
            wide_constant[:nodes] = constant[:nodes]
            whole, real, constant = wide_whole, wide_real, wide_constant
        left = nodes
        nodes += 2
        whole[parent, LEFT] = left
        whole[left, START], whole[left, END] = whole[parent, START], whole[parent, POSITION]
        whole[left + 1, START], whole[left + 1, END] = whole[parent, POSITION], whole[parent, END]
        for child in range(left, nodes):
            whole[child, DEPTH] = whole[parent, DEPTH] + 1
            constant[child] = constant[parent]
        _bound_children(table, whole, real, parent, left)
    return whole[:nodes].copy(), real[:nodes].copy(), bits[:num_sets].copy()
