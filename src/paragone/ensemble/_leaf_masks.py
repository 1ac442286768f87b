r"""Small trees without walking: every question is asked, and the answers leave one leaf over.

Number the leaves of a tree from left to right. A question $x_f > t$ answered with yes rules out
all leaves of its left branch, whatever the other answers are; a mask $m_q$ has zeros there. So

$$ \text{leaf}(x) = \operatorname{ctz}\Big(\bigwedge_{q:\ x_{f_q} > t_q} m_q\Big) , $$

the first leaf that no answer rules out: the exit leaf, since the questions off its path rule out
leaves to the right of it or leaves already out. Nothing waits for a previous answer, the
comparisons of many rows share one vector instruction, and with at most 32 leaves a mask is one
32-bit word: about 2 operations per question for 16 rows, against some 10 for each step of each
row in a walk.

Cost: L - 1 questions a row for L leaves, whatever the depth; better than walking up to L = 32.

References:
    Lucchese et al. (2015), "QuickScorer: a fast algorithm to rank documents with additive
    ensembles of regression trees", SIGIR, algorithm 1; Lucchese et al. (2016), "Exploiting
    CPU SIMD extensions to speed-up document scoring with tree ensembles", SIGIR.

Shapes: Q questions of all trees, padded to a multiple of 4 a tree; L leaves of all trees.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from paragone.ensemble._tree import LEAF, Tree
from paragone.kernels.jit import njit

__all__ = ["LeafMasks", "exit_leaves", "mask_trees"]

MOST_LEAVES = 32
"""Leaves of a tree that fit one mask."""

BLOCK = 256
"""Rows that are asked together; the lanes of a block."""


class LeafMasks(NamedTuple):
    """The questions of all small trees.

    Attributes:
        begin: int32 (T + 1,), first question of each tree.
        first: int32 (T + 1,), first leaf of each tree in `leaves`.
        small: bool (T,), whether the tree is here.
        threshold: float32 (Q,), infinite where padded.
        feature: int32 (Q,).
        keep: uint32 (Q,), what yes leaves over.
        missing: bool (Q,), whether a missing value counts as yes.
        leaves: int32 (L,), node number of each leaf among those of all trees.
    """

    begin: np.ndarray
    first: np.ndarray
    small: np.ndarray
    threshold: np.ndarray
    feature: np.ndarray
    keep: np.ndarray
    missing: np.ndarray
    leaves: np.ndarray


def mask_trees(trees: list[Tree], roots: np.ndarray) -> LeafMasks:
    """Builds the masks of the trees with at most 32 leaves and no categorical split.

    Args:
        trees: The trees.
        roots: int32 (T + 1,), number of each tree's first node among those of all trees.
    """
    count = len(trees)
    small = np.array(
        [t.num_nodes < 2 * MOST_LEAVES and not len(t.category_bits) for t in trees], np.bool_
    )
    sizes = np.array([t.num_nodes // 2 for t in trees], np.int64) * small
    begin = np.concatenate(([0], np.cumsum(-(-sizes // 4) * 4))).astype(np.int32)
    first = np.concatenate(([0], np.cumsum((sizes + 1) * small))).astype(np.int32)
    total = int(begin[-1])
    threshold, feature = np.full(total, np.inf, np.float32), np.zeros(total, np.int32)
    keep, missing = np.full(total, 0xFFFFFFFF, np.uint32), np.zeros(total, np.bool_)
    leaves = np.zeros(int(first[-1]), np.int32)
    for t in range(count):
        if small[t]:
            tree, own = trees[t], slice(begin[t], begin[t + 1])
            _questions(
                tree.feature, tree.threshold, tree.left, tree.missing_left, threshold[own],
                feature[own], keep[own], missing[own], leaves[first[t] : first[t + 1]],
            )  # fmt: skip
            leaves[first[t] : first[t + 1]] += roots[t]
    return LeafMasks(begin, first, small, threshold, feature, keep, missing, leaves)


@njit(nogil=True, error_model="numpy")
def _questions(
    node_feature, node_threshold, left, missing_left, threshold, feature, keep, missing, leaves
):
    """Fills one tree's part, depth first, so that leaves come from left to right."""
    waiting, number = np.zeros(64, np.int64), np.zeros(64, np.int64)
    size, questions, found = 1, 0, 0
    while size > 0:
        node = waiting[size - 1]
        if node < 0:
            # Back from a left branch: its leaves are those found since its question was asked.
            q = number[size - 1] & 0xFF
            start = number[size - 1] >> 8
            branch = (np.uint64(1) << np.uint64(found)) - (np.uint64(1) << np.uint64(start))
            keep[q] = np.uint32(~branch & np.uint64(0xFFFFFFFF))
            size -= 1
        elif node_feature[node] == LEAF:
            leaves[found] = node
            found += 1
            size -= 1
        else:
            q = questions
            questions += 1
            threshold[q], feature[q] = node_threshold[node], node_feature[node]
            missing[q] = not missing_left[node]
            waiting[size - 1] = left[node] + 1
            waiting[size], number[size] = -1, q + (found << 8)
            waiting[size + 1] = left[node]
            size += 2


@njit(nogil=True, error_model="numpy")
def exit_leaves(masks, tree, block, has_missing, state):
    """Leaves in `state` (uint32, 256) the leaves of the tree that no answer rules out.

    `block` is float32 (p, 256), a column of the table in each row.
    """
    every = np.uint32(0xFFFFFFFF)
    state[:] = every
    for q in range(np.uint64(masks.begin[tree]), np.uint64(masks.begin[tree + 1]), np.uint64(4)):
        a, b, c = q + np.uint64(1), q + np.uint64(2), q + np.uint64(3)
        t0, t1 = masks.threshold[q], masks.threshold[a]
        t2, t3 = masks.threshold[b], masks.threshold[c]
        m0, m1, m2, m3 = masks.keep[q], masks.keep[a], masks.keep[b], masks.keep[c]
        x0, x1 = block[np.uint64(masks.feature[q])], block[np.uint64(masks.feature[a])]
        x2, x3 = block[np.uint64(masks.feature[b])], block[np.uint64(masks.feature[c])]
        for i in range(np.uint64(BLOCK)):
            left = m0 if x0[i] > t0 else every
            left &= m1 if x1[i] > t1 else every
            left &= m2 if x2[i] > t2 else every
            left &= m3 if x3[i] > t3 else every
            state[i] &= left
        if has_missing:
            # A missing value compares as no; where it means yes, that is made up for.
            for k in range(q, q + np.uint64(4)):
                if masks.missing[k]:
                    x, keep = block[np.uint64(masks.feature[k])], masks.keep[k]
                    for i in range(np.uint64(BLOCK)):
                        state[i] &= keep if np.isnan(x[i]) else every
