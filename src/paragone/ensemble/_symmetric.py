r"""Symmetric (oblivious) trees: one question for all nodes of a level.

The split of a level is the one with the largest sum of gains over its nodes,

$$ \arg\max_{(f, b, d)} \sum_{v \in \text{level}} \max(0, \operatorname{gain}_v(f, b, d)), $$

with $d$ the side of the missing rows. A node that gains nothing by the common split (too small, or
against a constraint) stays a leaf, so the bounds of every node hold here too. Categories are
split one against the rest, because an order by $G/H$ differs from node to node.

References:
    Prokhorenkova et al. (2018), "CatBoost", section 4 (oblivious trees).
"""

from __future__ import annotations

import numpy as np

from paragone.ensemble._histogram import subtract
from paragone.ensemble._nodes import (
    allowed_columns,
    may_split,
    note_left,
    open_node,
    sum_histogram,
)
from paragone.ensemble._split import count_column, scan_feature
from paragone.kernels.jit import njit

__all__ = ["grow_symmetric"]


@njit(nogil=True, error_model="numpy")
def _level_split(job, level, rule, own_gains):
    """Returns (gain, feature, candidate, missing side) and fills each node's own gain from it."""
    total = np.zeros((2, 256))
    gains, work = np.empty((2, 256)), np.empty((3, 256), np.int64)
    best, best_feature, best_candidate, best_side = 0.0, -1, 0, 0
    masks = np.empty((len(level), len(job.num_bins)), np.uint8)
    for v in range(len(level)):
        masks[v] = allowed_columns(job, level[v])
    for f in job.features:
        total[:] = 0.0
        own = slice(f * 256, f * 256 + 256)
        for v in range(len(level)):
            if masks[v, f] == 0:
                continue
            size, has_missing = _scan_node(job, level[v], f, own, rule, gains, work)
            for side in range(2):
                for k in range(size):
                    # Without missing rows in the node both sides gain the same.
                    gain = gains[side if has_missing else 0, k]
                    if gain > rule.min_gain:
                        total[side, k] += gain
        for side in range(2):
            for k in range(job.num_bins[f]):
                if total[side, k] > best:
                    best, best_feature, best_candidate, best_side = total[side, k], f, k, side
    own_gains[:] = 0.0
    if best_feature >= 0:
        own = slice(best_feature * 256, best_feature * 256 + 256)
        for v in range(len(level)):
            if masks[v, best_feature] == 0:
                continue
            _, has_missing = _scan_node(job, level[v], best_feature, own, rule, gains, work)
            gain = gains[best_side if has_missing else 0, best_candidate]
            if gain > rule.min_gain:
                own_gains[v] = gain
                this = job.nodes[level[v]]
                this.gain, this.feature, this.candidate = gain, best_feature, best_candidate
                this.has_missing, this.missing_left = has_missing, best_side == 1
    return best_feature


@njit(nogil=True, error_model="numpy")
def _scan_node(job, node, f, own, rule, gains, work):
    this = job.nodes[node]
    counts = np.empty(256 if rule.min_samples_leaf + rule.min_data_per_group > 0 else 0, np.int64)
    if len(counts) > 0:
        count_column(job, node, f, counts)
    gains[:] = 0.0
    return scan_feature(
        job.cells[this.slot][own], counts, job.num_bins[f], job.categorical[f], this.word,
        this.size, job.monotone[f], this.lower, this.upper, rule, False, gains, work,
    )  # fmt: skip


@njit(nogil=True, error_model="numpy")
def _fill_table(job, node):
    this = job.nodes[node]
    table, first = job.tables[node], np.int64(this.feature) * 256
    table[:] = 2
    for c in range(job.num_bins[this.feature]):
        if job.cells[this.slot, first + c] != 0:
            table[c] = 0 if c == this.candidate else 1


@njit(nogil=True, error_model="numpy")
def grow_symmetric(job, rule):
    """Grows level by level from node 0; returns the number of nodes.

    `rule.onehot` must be 256, so that candidates of a column mean the same in every node.
    """
    nodes = job.nodes
    free = np.arange(len(job.cells) - 1, 0, -1)
    num_free = len(free)
    level = np.zeros(1, np.int64)
    root, used, leaves = np.int64(0), np.int64(1), np.int64(1)
    if not may_split(job, root, rule):
        return used
    num_free -= 1
    nodes[root].slot = free[num_free]
    sum_histogram(job, root, free[num_free])
    while len(level) > 0:
        own_gains = np.zeros(len(level))
        if _level_split(job, level, rule, own_gains) < 0:
            break
        below = np.empty(2 * len(level), np.int64)
        size = 0
        for v in range(len(level)):
            node, slot = level[v], np.int64(nodes[level[v]].slot)
            keep = 0
            if own_gains[v] > 0.0 and leaves < job.max_leaves:
                if job.categorical[nodes[node].feature]:
                    _fill_table(job, node)
                note_left(job, node, slot)
                left = used
                open_node(job, node, left, rule)
                used, leaves = used + 2, leaves + 1
                small = left if 2 * nodes[left].size <= nodes[node].size else left + 1
                large = 2 * left + 1 - small
                split_large = may_split(job, large, rule)
                split_small = may_split(job, small, rule)
                if split_large or split_small:
                    num_free -= 1
                    nodes[small].slot = free[num_free]
                    sum_histogram(job, small, free[num_free])
                    subtract(job.cells[slot], job.cells[nodes[small].slot])
                    nodes[large].slot = slot
                    if split_small:
                        below[size] = small
                        size += 1
                    else:
                        free[num_free] = nodes[small].slot
                        num_free += 1
                    if split_large:
                        below[size] = large
                        size += 1
                        keep = 1
            if keep == 0:
                free[num_free] = slot
                num_free += 1
        level = np.sort(below[:size])
    return used
