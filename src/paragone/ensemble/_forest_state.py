r"""A forest on disk: what its leaves and cuts say, and nothing that follows from it.

In the trees of `_cart_fast` nodes stand level by level, so the r-th inner node has the children
1 + 2r and 2 + 2r; counts, covers and class weights of an inner node are the sums of its
children's, a mean is

$$ v_t = (W_L v_L + W_R v_R) / W_t , $$

and gains follow from these (`complete`). So one bit a node, and of an inner node the column and
the threshold, of a leaf its count, its cover and its value are kept, whole numbers in as few bytes
as they need: some 5 to 8 bytes a node against 57 in memory. Before anything is left out it is
recomputed and compared bit for bit; trees that do not come back exactly are stored as they are.

Shapes: N nodes of all trees, K classes (1 for regression).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from paragone.ensemble._cart_fast import complete, fill_means
from paragone.ensemble._tree import LEAF, Tree
from paragone.kernels.jit import njit

__all__ = ["pack_trees", "unpack_trees"]

_FIELDS = (
    "feature", "threshold", "left", "missing_left", "value", "gain", "cover", "count",
    "category_start", "category_size",
)  # fmt: skip


def pack_trees(trees: list[Tree]) -> dict[str, Any] | None:
    """Returns the trees as few arrays, or None where they would not come back bit for bit."""
    if not trees or any(
        len(tree.category_bits) or len(tree.impurity) or not _in_levels(tree) for tree in trees
    ):
        return None
    classes = trees[0].value.shape[1]
    leaf = np.concatenate([tree.feature == LEAF for tree in trees])
    cover, value = _joined(trees, "cover"), _joined(trees, "value")
    packed: dict[str, Any] = {
        "sizes": np.array([tree.num_nodes for tree in trees], np.int64),
        "classes": classes,
        "leaf": np.packbits(leaf),
        "feature": _small(_joined(trees, "feature")[~leaf]),
        "threshold": _joined(trees, "threshold")[~leaf],
        "missing_left": np.packbits(_joined(trees, "missing_left")[~leaf]),
        "count": _small(_joined(trees, "count")[leaf]),
    }
    whole = bool(np.all(cover == np.floor(cover)) and cover.max() < 2**32)
    packed["cover"] = _small(cover[leaf].astype(np.int64)) if whole else cover[leaf]
    if classes > 1 and whole:
        # Class weights of the leaves but for the first class, which is the rest.
        packed["weights"] = _small(np.rint(value[leaf, 1:] * cover[leaf, None]).astype(np.int64))
    else:
        packed["value"] = value[leaf]
    back = _unpack(packed)
    same = all(
        np.array_equal(getattr(one, name), getattr(two, name))
        for one, two in zip(trees, back, strict=True)
        for name in _FIELDS
    )
    return packed if same else None


def unpack_trees(packed: dict[str, Any], columns: int) -> list[Tree]:
    """Returns the trees of `pack_trees`.

    Raises:
        ValueError: The arrays do not describe trees over `columns` columns.
    """
    try:
        trees = _unpack(packed)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"a damaged forest: {error!r}") from error
    for tree in trees:
        inner = tree.feature[tree.left > 0]
        if np.any((inner < 0) | (inner >= columns)):
            raise ValueError(f"a forest splits on a column beyond the {columns} known")
    return trees


def _in_levels(tree: Tree) -> bool:
    inner = np.flatnonzero(tree.feature != LEAF)
    return np.array_equal(tree.left[inner], 1 + 2 * np.arange(len(inner)))


def _joined(trees: list[Tree], name: str) -> np.ndarray:
    return np.concatenate([getattr(tree, name) for tree in trees])


def _small(numbers: np.ndarray) -> np.ndarray:
    """The same whole numbers >= 0 in the smallest type that holds them."""
    return numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))


def _unpack(packed: dict[str, Any]) -> list[Tree]:
    sizes = packed["sizes"]
    total, classes = int(sizes.sum()), int(packed["classes"])
    if np.any(sizes < 1) or classes < 1 or len(packed["leaf"]) != (total + 7) // 8:
        raise ValueError("a damaged forest: sizes of trees that do not fit")
    leaf = np.unpackbits(packed["leaf"], count=total).astype(bool)
    leaves, inner = int(leaf.sum()), total - int(leaf.sum())
    sides = np.unpackbits(packed["missing_left"], count=inner).astype(bool)
    for name, count in (("feature", inner), ("threshold", inner), ("count", leaves),
                        ("cover", leaves)):  # fmt: skip
        if packed[name].shape != (count,):
            raise ValueError(f"a damaged forest: {name} has the shape {packed[name].shape}")
    trees = []
    begin = begin_leaf = begin_inner = 0
    for size in sizes.tolist():
        own = leaf[begin : begin + size]
        own_leaves = int(own.sum())
        at_leaf = slice(begin_leaf, begin_leaf + own_leaves)
        at_inner = slice(begin_inner, begin_inner + size - own_leaves)
        trees.append(_one_tree(packed, own, sides[at_inner], at_leaf, at_inner, classes))
        begin, begin_leaf, begin_inner = begin + size, at_leaf.stop, at_inner.stop
    return trees


def _one_tree(
    packed: dict[str, Any], leaf: np.ndarray, sides: np.ndarray, at_leaf: slice, at_inner: slice,
    classes: int,
) -> Tree:  # fmt: skip
    size, inner = len(leaf), np.flatnonzero(~leaf)
    left = np.zeros(size, np.int32)
    left[inner] = 1 + 2 * np.arange(len(inner))
    if size != 1 + 2 * len(inner) or np.any(left[inner] <= inner):
        raise ValueError("a damaged forest: nodes without a parent")
    feature = np.full(size, LEAF, np.int32)
    feature[inner] = packed["feature"][at_inner]
    threshold = np.zeros(size, np.float32)
    threshold[inner] = packed["threshold"][at_inner]
    missing_left = np.zeros(size, bool)
    missing_left[inner] = sides
    sums = np.zeros((size, 2 + classes))
    sums[leaf, 0], sums[leaf, 1] = packed["count"][at_leaf], packed["cover"][at_leaf]
    by_weight = "weights" in packed
    if by_weight:
        sums[leaf, 3:] = packed["weights"][at_leaf]
        sums[:, 2] = sums[:, 1] - sums[:, 3:].sum(axis=1)
    _add_up(left, sums)
    value = np.zeros((size, classes))
    if by_weight:
        value = sums[:, 2:] / sums[:, 1:2]
        if classes == 2:
            value[:, 0] = 1.0 - value[:, 1]
    else:
        value[leaf] = packed["value"][at_leaf]
        fill_means(left, sums[:, 1].copy(), value)
    tree = Tree(
        feature=feature, threshold=threshold, left=left, missing_left=missing_left, value=value,
        gain=np.zeros(size), cover=sums[:, 1].copy(), count=sums[:, 0].astype(np.int32),
        category_start=np.full(size, -1, np.int32), category_size=np.zeros(size, np.int32),
    )  # fmt: skip
    complete(tree)
    return tree


@njit(nogil=True, error_model="numpy")
def _add_up(left, sums):
    """Makes each inner node's row the sum of its children's; children stand behind it."""
    for node in range(len(left) - 1, -1, -1):
        if left[node] > 0:
            for k in range(sums.shape[1]):
                sums[node, k] = sums[left[node], k] + sums[left[node] + 1, k]
