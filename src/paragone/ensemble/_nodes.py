r"""Nodes of a growing tree, and the queue that decides which one is split next.

A node owns a stretch of the row index; a split parts that stretch in place. The smaller child's
histogram is summed, the larger one's is parent minus smaller. What a kernel needs travels in one
`Job`, so that each kernel has one signature and is compiled once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from paragone.ensemble._histogram import (
    accumulate,
    partition,
    subtract,
    unpack_gradient,
    unpack_hessian,
)
from paragone.ensemble._sampling import draw_columns
from paragone.ensemble._share import add_up, add_up_one
from paragone.ensemble._split import category_table, find_split, node_weight
from paragone.kernels.jit import njit

__all__ = ["NODE", "Job", "grow_queue", "may_split", "note_left", "open_node", "sum_histogram"]

NODE = np.dtype(
    [
        ("word", np.int64), ("gain", np.float64), ("lower", np.float64), ("upper", np.float64),
        ("left_word", np.int64), ("size", np.int64), ("begin", np.int64), ("end", np.int64),
        ("feature", np.int32), ("candidate", np.int32),
        ("left", np.int32), ("parent", np.int32), ("depth", np.int32), ("slot", np.int32),
        ("missing_left", np.bool_), ("has_missing", np.bool_),
    ],
    align=True,
)  # fmt: skip
"""State of a node while the tree grows: `size` rows, of which `index[begin:end]` are here."""


class Job(NamedTuple):
    """Everything one tree is grown from and into, so that kernels share one argument."""

    rows: np.ndarray
    columns: np.ndarray
    num_bins: np.ndarray
    categorical: np.ndarray
    words: np.ndarray
    index: np.ndarray
    spare: np.ndarray
    spare_words: np.ndarray
    features: np.ndarray
    monotone: np.ndarray
    sets: np.ndarray
    nodes: np.ndarray
    tables: np.ndarray
    open_sets: np.ndarray
    paths: np.ndarray
    cells: np.ndarray
    part: np.ndarray | None
    level_columns: int
    node_columns: int
    seed: int
    threads: int | None
    max_leaves: int
    max_depth: int
    min_rows: int
    leaf_wise: bool
    address: int


@njit(nogil=True, error_model="numpy")
def allowed_columns(job, node):
    """Returns uint8 (p,): the columns that this node may split on."""
    allowed = draw_columns(
        job.features, len(job.num_bins), job.level_columns, job.node_columns,
        job.seed, job.nodes[node].depth, node,
    )  # fmt: skip
    if len(job.sets) > 0:
        for f in range(len(allowed)):
            meets = job.paths[node, f] > 0 or job.nodes[node].depth == 0
            for s in range(len(job.sets)):
                meets = meets or (job.open_sets[node, s] > 0 and job.sets[s, f] > 0)
            if not meets:
                allowed[f] = 0
    return allowed


@njit(nogil=True, error_model="numpy")
def sum_histogram(job, node, slot):
    """Sums the node's rows, of all processes, into histogram `slot`."""
    accumulate(
        job.rows, job.words, job.index, job.nodes[node].begin, job.nodes[node].end, job.features,
        job.cells[slot], job.part,
    )  # fmt: skip
    add_up(job.address, job.cells[slot])


@njit(nogil=True, error_model="numpy")
def evaluate(job, node, slot, rule):
    """Finds the node's best split in histogram `slot` and notes it; True if there is one."""
    this = job.nodes[node]
    gain, feature, candidate, has_missing, missing_left = find_split(
        job, node, allowed_columns(job, node), job.cells[slot], rule, job.threads
    )
    this.gain, this.feature, this.candidate = gain, feature, candidate
    this.has_missing, this.missing_left = has_missing, missing_left
    if gain > 0.0 and job.categorical[feature]:
        cells = job.cells[slot][feature * 256 : feature * 256 + 256]
        category_table(cells, job.num_bins[feature], rule, candidate, job.tables[node])
    if gain > 0.0:
        note_left(job, node, slot)
    return gain > 0.0


@njit(nogil=True, error_model="numpy")
def note_left(job, node, slot):
    """Sums the words that the node's split sends to the left, read off its histogram."""
    this = job.nodes[node]
    first = np.int64(this.feature) * 256
    left = job.cells[slot, first + 255] if this.missing_left and this.has_missing else np.int64(0)
    for b in range(255):
        goes = b <= this.candidate
        if job.categorical[this.feature]:
            side = job.tables[node, b]
            goes = side == 1 or (side == 2 and this.missing_left)
        left += job.cells[slot, first + b] if goes else np.int64(0)
    this.left_word = left


@njit(nogil=True, error_model="numpy")
def _rows_left(job, node, rows_here, rule):
    """Returns the rows of all processes that went left.

    They are counted only where a split depends on them, since that is a message for each split.
    Otherwise all that they decide is which child is summed and how a column is scanned, and an
    estimate by second derivatives does; 2 is the least number with which a node may be split.
    """
    if job.address == 0:
        return np.int64(rows_here)
    this = job.nodes[node]
    left = unpack_hessian(this.left_word)
    if rule.least_h == rule.most_h and rule.most_h > 0:
        return left // np.int64(rule.most_h)
    if rule.min_samples_leaf > 0 or rule.min_data_per_group > 0 or rule.constrained:
        return add_up_one(job.address, rows_here)
    guess = np.int64(left / max(unpack_hessian(this.word), 1) * this.size)
    return max(np.int64(2), min(guess, this.size - 2))


@njit(nogil=True, error_model="numpy")
def _bounds(job, node, rule):
    """Sets the children's bounds: their midpoint parts them on a constrained column."""
    this = job.nodes[node]
    left, right = job.nodes[this.left], job.nodes[this.left + 1]
    left.lower, left.upper, right.lower, right.upper = (
        this.lower, this.upper, this.lower, this.upper,
    )  # fmt: skip
    sign = job.monotone[this.feature]
    if sign == 0:
        return
    wl = node_weight(
        unpack_gradient(left.word) * rule.inverse_g, unpack_hessian(left.word) * rule.inverse_h,
        rule.reg_lambda, rule.reg_alpha, rule.max_delta_step, this.lower, this.upper,
    )  # fmt: skip
    wr = node_weight(
        unpack_gradient(right.word) * rule.inverse_g, unpack_hessian(right.word) * rule.inverse_h,
        rule.reg_lambda, rule.reg_alpha, rule.max_delta_step, this.lower, this.upper,
    )  # fmt: skip
    middle = 0.5 * (wl + wr)
    if sign > 0:
        left.upper, right.lower = middle, middle
    else:
        left.lower, right.upper = middle, middle


@njit(nogil=True, error_model="numpy")
def open_node(job, node, left, rule):
    """Parts the node's rows by its split and makes its children `left` and `left + 1`."""
    this = job.nodes[node]
    goes_left = np.empty(256, np.uint8)
    if job.categorical[this.feature]:
        goes_left[:] = job.tables[node]
    else:
        for b in range(255):
            goes_left[b] = 1 if b <= this.candidate else 0
        goes_left[255] = 2
    # Without missing rows the side of the sums decides below; the partition sees none of them.
    for b in range(256):
        if goes_left[b] == 2:
            goes_left[b] = 1 if this.missing_left else 0
    rows_left = partition(
        job.columns[this.feature], goes_left, job.index, job.words, job.spare, job.spare_words,
        this.begin, this.end, job.threads,
    )  # fmt: skip
    size_left = _rows_left(job, node, rows_left, rule)
    this.left = left
    for child in range(left, left + 2):
        fresh = job.nodes[child]
        fresh.parent, fresh.depth, fresh.slot = node, this.depth + 1, -1
        fresh.left, fresh.feature, fresh.gain = 0, -1, 0.0
        fresh.begin = this.begin + (0 if child == left else rows_left)
        fresh.end = this.begin + rows_left if child == left else this.end
        fresh.size = size_left if child == left else this.size - size_left
    a, b = job.nodes[left], job.nodes[left + 1]
    a.word, b.word = this.left_word, this.word - this.left_word
    if not this.has_missing:
        this.missing_left = unpack_hessian(a.word) >= unpack_hessian(b.word)
    _bounds(job, node, rule)
    if len(job.sets) > 0:
        for child in range(left, left + 2):
            job.paths[child, :] = job.paths[node]
            job.paths[child, this.feature] = 1
            for s in range(len(job.sets)):
                job.open_sets[child, s] = job.open_sets[node, s] & job.sets[s, this.feature]


@njit(nogil=True, error_model="numpy")
def may_split(job, node, rule):
    this = job.nodes[node]
    enough = unpack_hessian(this.word) * rule.inverse_h >= 2.0 * rule.min_child_weight
    return this.depth < job.max_depth and this.size >= job.min_rows and enough


@njit(nogil=True, error_model="numpy")
def _push(heap, size, keys, node):
    k = size
    heap[k] = node
    while k > 0:
        up = (k - 1) // 2
        a, b = heap[k], heap[up]
        if keys[a] > keys[b] or (keys[a] == keys[b] and a > b):
            break
        heap[k], heap[up] = b, a
        k = up
    return size + 1


@njit(nogil=True, error_model="numpy")
def _pop(heap, size, keys):
    top = heap[0]
    size -= 1
    heap[0] = heap[size]
    k = 0
    while True:
        child = 2 * k + 1
        if child >= size:
            break
        if child + 1 < size:
            a, b = heap[child], heap[child + 1]
            if keys[b] < keys[a] or (keys[b] == keys[a] and b < a):
                child += 1
        a, b = heap[k], heap[child]
        if keys[a] < keys[b] or (keys[a] == keys[b] and a < b):
            break
        heap[k], heap[child] = b, a
        k = child
    return top, size


@njit(nogil=True, error_model="numpy")
def grow_queue(job, rule):
    """Grows leaf-wise or depth-wise from node 0; returns the number of nodes.

    Histogram slot 0 is scratch; a waiting node owns one of the others, or none when they are out.
    """
    nodes = job.nodes
    free = np.arange(len(job.cells) - 1, 0, -1)
    num_free = len(free)
    keys = np.zeros(len(nodes))
    heap = np.zeros(job.max_leaves + 2, np.int64)
    # Typed zeros: a literal argument would compile every kernel below a second time.
    root, waiting, used, leaves = np.int64(0), np.int64(0), np.int64(1), np.int64(1)
    if may_split(job, root, rule):
        num_free -= 1
        slot = free[num_free]
        sum_histogram(job, root, slot)
        if evaluate(job, root, slot, rule):
            nodes[root].slot = slot
            waiting = _push(heap, waiting, keys, root)
    while waiting > 0 and leaves < job.max_leaves:
        node, waiting = _pop(heap, waiting, keys)
        left = used
        open_node(job, node, left, rule)
        used, leaves = used + 2, leaves + 1
        more = leaves < job.max_leaves
        small = left if 2 * nodes[left].size <= nodes[node].size else left + 1
        large = 2 * left + 1 - small
        own = np.int64(nodes[node].slot)
        split_small = more and may_split(job, small, rule)
        split_large = more and may_split(job, large, rule)
        for step in range(2):
            child = small if step == 0 else large
            wanted = split_small if step == 0 else split_large
            if not (wanted or (step == 0 and split_large and own > 0)):
                continue
            slot = np.int64(0)
            if step == 1 and own > 0:
                slot, own = own, np.int64(0)
                subtract(job.cells[slot], job.cells[nodes[small].slot])
                if nodes[small].gain == 0.0 and nodes[small].slot > 0:
                    free[num_free] = nodes[small].slot
                    num_free += 1
            else:
                if num_free > 0:
                    num_free -= 1
                    slot = free[num_free]
                sum_histogram(job, child, slot)
            nodes[child].slot = slot
            if wanted and evaluate(job, child, slot, rule):
                keys[child] = -nodes[child].gain if job.leaf_wise else float(child)
                waiting = _push(heap, waiting, keys, child)
            elif slot > 0 and (step == 1 or not (split_large and own > 0)):
                free[num_free] = slot
                num_free += 1
        if own > 0:
            free[num_free] = own
            num_free += 1
    return used
