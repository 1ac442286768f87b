r"""Sums of large trees: eight rows walk at once, a node is one 64-bit word.

A node is (threshold, column and left child): the step

$$ k \leftarrow \text{left}_k
   + [\, x_{f_k} > t_k \lor (x_{f_k}\ \text{missing} \land \text{right}_k) \,] $$

needs one load of 8 bytes and no branch. Leaves point to themselves and have a threshold that is
not a number, above which no x lies; its free bits hold the leaf's place in the table of values.
Eight walks at once hide each other's waiting for memory, and end when all eight stand still:
full trees are uneven, and most leaves lie far above the deepest.

The trees of a forest are larger than the first-level cache, so rows go in blocks: each tree
passes over a block while both are in the second-level cache. Sums run over the trees in order,
so they depend neither on the number of threads nor on which rows are predicted together.
With two classes one number a leaf is summed.

Shapes: n rows, p columns, T trees, L leaves of all trees, K outputs (1 for two classes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paragone.ensemble._tree import LEAF, Tree
from paragone.kernels.jit import njit

__all__ = ["ForestWords", "add_left_out", "forest_sum", "forest_words"]

_NODE = np.dtype([("threshold", np.float32), ("link", np.uint32)])
_NAN = np.uint32(0x7FC00000)
_PLACE = 22
"""Bits of a float32 that is not a number which may hold anything."""

_BLOCK_BYTES = 1 << 19
"""Bytes of a block of rows: half a usual second-level cache."""


@dataclass(slots=True)
class ForestWords:
    """Trees one behind the other.

    Attributes:
        nodes: Nodes of all trees, (threshold, link); link is column, missing side, left child,
            from the high bits to the low; the child counts within its tree.
        roots: int64 (T + 1,), first node of each tree, and the end.
        first: int64 (T,), first leaf of each tree in `values`.
        values: float64 (L, K).
        shift: Bits of the left child.
    """

    nodes: np.ndarray
    roots: np.ndarray
    first: np.ndarray
    values: np.ndarray
    shift: int


def forest_words(trees: Sequence[Tree], columns: int) -> ForestWords | None:
    """Packs trees; None if they have categories or do not fit the words.

    Args:
        trees: Trees with equally many outputs.
        columns: p.
    """
    sizes = np.array([tree.num_nodes for tree in trees], np.int64)
    shift = max(1, int(sizes.max() - 1).bit_length())
    if any(len(tree.category_bits) for tree in trees):
        return None
    if shift + 1 + max(1, int(columns - 1).bit_length()) > 32 or shift > _PLACE:
        return None
    roots = np.concatenate(([0], np.cumsum(sizes)))
    leaves = np.array([tree.num_leaves for tree in trees], np.int64)
    first = np.concatenate(([0], np.cumsum(leaves)))
    outputs = trees[0].value.shape[1]
    column = 1 if outputs == 2 else 0
    nodes = np.empty(roots[-1], _NODE)
    words = nodes.view(np.uint32).reshape(-1, 2)
    values = np.empty((first[-1], 1 if outputs <= 2 else outputs))
    for t, tree in enumerate(trees):
        _pack(
            tree.feature, tree.threshold.view(np.uint32), tree.left, tree.missing_left, tree.value,
            column, np.uint32(shift), words[roots[t] : roots[t + 1]],
            values[first[t] : first[t + 1]],
        )  # fmt: skip
    return ForestWords(nodes, roots, first[:-1].copy(), values, shift)


@njit(nogil=True, error_model="numpy")
def _pack(feature, threshold, left, missing_left, value, column, shift, words, values):
    leaves = 0
    for node in range(len(feature)):
        if feature[node] == LEAF:
            words[node, 0] = _NAN | np.uint32(leaves)
            words[node, 1] = np.uint32(node)
            for k in range(values.shape[1]):
                values[leaves, k] = value[node, column + k]
            leaves += 1
        else:
            right = np.uint32(0 if missing_left[node] else 1)
            words[node, 0] = threshold[node]
            words[node, 1] = (
                ((np.uint32(feature[node]) << np.uint32(1)) | right) << shift
            ) | np.uint32(left[node])


@njit(nogil=True, error_model="numpy", inline="always")
def _step(nodes, root, k, values, row, shift, mask):
    node = nodes[root + k]
    link = np.uint64(node.link)
    above = link >> shift
    x = values[row + (above >> np.uint64(1))]
    right = np.uint64(x > node.threshold) | (np.uint64(np.isnan(x)) & above)
    return (link & mask) + (right & np.uint64(1))


@njit(nogil=True, error_model="numpy")
def _walk_eight(nodes, root, values, rows, shift, mask, found):
    """Walks eight rows from the root; `rows` are where they begin in `values`."""
    a, b, c, d = np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0)
    e, f, g, h = np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0)
    row_a, row_b, row_c, row_d = rows[0], rows[1], rows[2], rows[3]
    row_e, row_f, row_g, row_h = rows[4], rows[5], rows[6], rows[7]
    while True:
        for _ in range(3):
            a = _step(nodes, root, a, values, row_a, shift, mask)
            b = _step(nodes, root, b, values, row_b, shift, mask)
            c = _step(nodes, root, c, values, row_c, shift, mask)
            d = _step(nodes, root, d, values, row_d, shift, mask)
            e = _step(nodes, root, e, values, row_e, shift, mask)
            f = _step(nodes, root, f, values, row_f, shift, mask)
            g = _step(nodes, root, g, values, row_g, shift, mask)
            h = _step(nodes, root, h, values, row_h, shift, mask)
        old_a, old_b, old_c, old_d = a, b, c, d
        old_e, old_f, old_g, old_h = e, f, g, h
        a = _step(nodes, root, a, values, row_a, shift, mask)
        b = _step(nodes, root, b, values, row_b, shift, mask)
        c = _step(nodes, root, c, values, row_c, shift, mask)
        d = _step(nodes, root, d, values, row_d, shift, mask)
        e = _step(nodes, root, e, values, row_e, shift, mask)
        f = _step(nodes, root, f, values, row_f, shift, mask)
        g = _step(nodes, root, g, values, row_g, shift, mask)
        h = _step(nodes, root, h, values, row_h, shift, mask)
        moved = (a ^ old_a) | (b ^ old_b) | (c ^ old_c) | (d ^ old_d)
        moved |= (e ^ old_e) | (f ^ old_f) | (g ^ old_g) | (h ^ old_h)
        if moved == 0:
            break
    found[0], found[1], found[2], found[3] = a, b, c, d
    found[4], found[5], found[6], found[7] = e, f, g, h


@njit(nogil=True, error_model="numpy")
def _add_rows(
    nodes, words, roots, first, leaf_values, shift, mask, values, p, low, high, block, out
):
    """Adds all trees' leaf values for rows `low` to `high` of `values` (flat) to `out`."""
    found, rows = np.empty(8, np.uint64), np.empty(8, np.uint64)
    width = leaf_values.shape[1]
    place = np.uint64((1 << _PLACE) - 1)
    start = low
    while start < high:
        stop = min(high, start + block)
        for t in range(len(first)):
            root, base = np.uint64(roots[t]), np.uint64(first[t])
            lane = start
            while lane < stop:
                # The last group walks its last row several times.
                for j in range(8):
                    rows[j] = np.uint64(min(lane + j, stop - 1)) * np.uint64(p)
                _walk_eight(nodes, root, values, rows, shift, mask, found)
                for j in range(min(8, stop - lane)):
                    leaf = base + (np.uint64(words[2 * (root + found[j])]) & place)
                    if width == 1:
                        out[lane + j, 0] += leaf_values[leaf, 0]
                    else:
                        for k in range(width):
                            out[lane + j, k] += leaf_values[leaf, k]
                lane += 8
        start = stop


def forest_sum(
    forest: ForestWords, values: np.ndarray, out: np.ndarray, low: int, high: int
) -> None:
    """Adds the sum over all trees for rows `low` to `high` to `out`, float64 (n, K).

    Args:
        forest: The trees.
        values: float32 (n, p), C-contiguous.
        out: Written in these rows only, so that threads may share it.
        low: First row.
        high: Row behind the last.
    """
    p = values.shape[1]
    block = max(64, _BLOCK_BYTES // (4 * p))
    _add_rows(
        forest.nodes, forest.nodes.view(np.uint32), forest.roots, forest.first, forest.values,
        np.uint64(forest.shift), np.uint64((1 << forest.shift) - 1), values.reshape(-1), p, low,
        high, block, out,
    )  # fmt: skip


@njit(nogil=True, error_model="numpy")
def _add_left_out(
    nodes, words, roots, first, leaf_values, shift, mask, values, p, bits, low, high, out, times
):
    """As `_add_rows`, of each tree only the rows whose bit is set, all in one block."""
    found, rows = np.empty(8, np.uint64), np.empty(8, np.uint64)
    which = np.empty(high - low + 1, np.int64)
    place = np.uint64((1 << _PLACE) - 1)
    for t in range(len(first)):
        root, base, n = np.uint64(roots[t]), np.uint64(first[t]), 0
        for row in range(low, high):
            which[n] = row
            n += (bits[t, row >> 3] >> (7 - (row & 7))) & 1
        for lane in range(0, n, 8):
            for j in range(8):
                rows[j] = np.uint64(which[min(lane + j, n - 1)]) * np.uint64(p)
            _walk_eight(nodes, root, values, rows, shift, mask, found)
            for j in range(min(8, n - lane)):
                row = which[lane + j]
                leaf = base + (np.uint64(words[2 * (root + found[j])]) & place)
                times[row, 0] += 1.0
                for k in range(leaf_values.shape[1]):
                    out[row, k] += leaf_values[leaf, k]


def add_left_out(
    forest: ForestWords, trees: slice, values: np.ndarray, bits: np.ndarray, low: int, high: int,
    out: np.ndarray, times: np.ndarray,
) -> None:  # fmt: skip
    """Adds to rows `low` to `high` of `out` (n, K) the trees that left them out.

    Args:
        forest: The trees.
        trees: Which of them.
        values: float32 (n, p), C-contiguous.
        bits: uint8, a row for each of these trees: the rows left out, as from `np.packbits`.
        low: First row.
        high: Row behind the last.
        out: Written in these rows only, so that threads may share it.
        times: float64 (n, 1), counts these trees.
    """
    _add_left_out(
        forest.nodes, forest.nodes.view(np.uint32), forest.roots[trees], forest.first[trees],
        forest.values, np.uint64(forest.shift), np.uint64((1 << forest.shift) - 1),
        values.reshape(-1), values.shape[1], bits, low, high, out, times,
    )  # fmt: skip
