r"""Minimal cost-complexity pruning: the nested family of best subtrees of one tree.

With $R(T)$ the weighted impurity of the leaves, a branch $T_t$ is worth its leaves as long as
$\alpha$ stays below

$$ g(t) = \frac{R(t) - R(T_t)}{|\tilde T_t| - 1}, $$

so the weakest link, the node of least $g$, is cut first; repeating this gives every subtree
that minimises $R(T) + \alpha |\tilde T|$ for some $\alpha$.

The cost is $O(N \cdot \text{depth} \cdot \log N)$: a heap holds $g$, and a cut changes only the
ancestors, whose old entries are skipped when they come up.

References:
    Breiman, Friedman, Olshen, Stone (1984), "Classification and Regression Trees", 3.2, 10.2.
"""

from __future__ import annotations

import heapq

import numpy as np

from paragone.ensemble._tree import LEAF, Tree

__all__ = ["keep_nodes", "prune", "pruning_path"]


def _cuts(tree: Tree):
    """Yields (node, alpha, impurity of the tree after the cut), weakest link first."""
    n = tree.num_nodes
    inner = tree.feature != LEAF
    cost = tree.cover * tree.impurity / tree.cover[0]
    parent = np.full(n, -1)
    nodes = np.flatnonzero(inner)
    parent[tree.left[nodes]] = parent[tree.left[nodes] + 1] = nodes
    branch, leaves = np.where(inner, 0.0, cost), np.where(inner, 0, 1)
    for node in range(n - 1, 0, -1):
        branch[parent[node]] += branch[node]
        leaves[parent[node]] += leaves[node]
    link = np.full(n, np.inf)
    link[nodes] = (cost[nodes] - branch[nodes]) / (leaves[nodes] - 1)
    heap = [(link[node], int(node)) for node in nodes]
    heapq.heapify(heap)
    gone = np.zeros(n, bool)
    while heap:
        alpha, node = heapq.heappop(heap)
        if gone[node] or alpha != link[node]:
            continue
        _mark_below(tree, node, gone)
        gone[node] = True
        rise, fewer = cost[node] - branch[node], leaves[node] - 1
        above = parent[node]
        while above >= 0:
            branch[above] += rise
            leaves[above] -= fewer
            link[above] = (cost[above] - branch[above]) / (leaves[above] - 1)
            heapq.heappush(heap, (link[above], int(above)))
            above = parent[above]
        yield node, alpha, branch[0] if node else cost[0]


def _mark_below(tree: Tree, node: int, mark: np.ndarray) -> None:
    """Marks the descendants of `node`; those of a marked node are marked already."""
    waiting = [node]
    while waiting:
        top = waiting.pop()
        if tree.feature[top] != LEAF:
            for child in (int(tree.left[top]), int(tree.left[top]) + 1):
                if not mark[child]:
                    mark[child] = True
                    waiting.append(child)


def pruning_path(tree: Tree) -> tuple[np.ndarray, np.ndarray]:
    """Returns the effective alphas, from 0, and the impurity of the subtree at each."""
    leaves = tree.feature == LEAF
    start = float(np.sum((tree.cover * tree.impurity)[leaves]) / tree.cover[0])
    steps = [(0.0, start)] + [(alpha, impurity) for _, alpha, impurity in _cuts(tree)]
    alphas, impurities = np.array(steps).T
    return alphas, impurities


def prune(tree: Tree, alpha: float) -> Tree:
    """Returns the smallest subtree that minimises R(T) + alpha |leaves|."""
    if alpha <= 0.0:
        return tree
    cut = np.zeros(tree.num_nodes, bool)
    for node, link, _ in _cuts(tree):
        if link > alpha:
            break
        cut[node] = True
    return keep_nodes(tree, cut) if cut.any() else tree


def keep_nodes(tree: Tree, cut: np.ndarray) -> Tree:
    """Returns the tree with the nodes marked in `cut` turned into leaves."""
    below = np.zeros(tree.num_nodes, bool)
    for node in np.flatnonzero(cut):
        if not below[node]:
            _mark_below(tree, int(node), below)
    kept = np.flatnonzero(~below)
    number = np.cumsum(~below) - 1
    leaf = cut[kept] | (tree.feature[kept] == LEAF)
    return Tree(
        feature=np.where(leaf, LEAF, tree.feature[kept]).astype(np.int32),
        threshold=np.where(leaf, 0, tree.threshold[kept]).astype(np.float32),
        left=np.where(leaf, 0, number[tree.left[kept]]).astype(np.int32),
        missing_left=tree.missing_left[kept] & ~leaf,
        value=tree.value[kept],
        gain=np.where(leaf, 0.0, tree.gain[kept]),
        cover=tree.cover[kept],
        count=tree.count[kept],
        category_start=np.where(leaf, -1, tree.category_start[kept]).astype(np.int32),
        category_size=np.where(leaf, 0, tree.category_size[kept]).astype(np.int32),
        category_bits=tree.category_bits,
        impurity=tree.impurity[kept],
    )
