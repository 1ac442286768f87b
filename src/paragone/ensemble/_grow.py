r"""Growing one tree from binned columns, gradients and second derivatives.

The tree that minimises the second-order objective $\sum_i g_i f(x_i) + \tfrac12 h_i f(x_i)^2 +
\Omega(f)$ is grown greedily: the node at the head of a queue is split, its rows are parted in
place, the smaller child's histogram is summed, the larger one's is the difference. The policy is
the order of the queue:

- `leaf`: largest gain first (LightGBM; `lossguide` in XGBoost);
- `depth`: first come, first served, so level by level;
- `symmetric`: all nodes of a level share the split with the largest total gain (CatBoost).

Monotone constraints: at a split on a constrained column the children's weights may not be in the
wrong order, and their midpoint bounds *all* descendants on either side; so every leaf left of the
split is below every leaf right of it, whatever is split later. Interaction constraints: a node may
use the columns of its path and of every set that holds the whole path.

Missing values go to the better side; in nodes that saw none, to the child with more weight.

Cost: O(p) per row and level for histograms, of which subtraction saves at least half.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paragone.ensemble._binning import Binned
from paragone.ensemble._fixed_point import Words, measure, node_sums, note_leaves, quantise
from paragone.ensemble._nodes import NODE, Job, grow_queue
from paragone.ensemble._share import ALONE, Share
from paragone.ensemble._split import SplitRule, node_weight
from paragone.ensemble._symmetric import grow_symmetric
from paragone.ensemble._threads import parallel_region, worth_threads
from paragone.ensemble._tree import LEAF, Tree
from paragone.kernels.jit import njit

__all__ = ["GrowParams", "Room", "grow_histogram", "set_matrix"]

HISTOGRAM_BYTES = 1 << 29
"""Memory for the histograms of waiting nodes; nodes beyond it sum both children anew."""

_POLICIES = ("leaf", "depth", "symmetric")


@dataclass(slots=True, kw_only=True)
class GrowParams:
    """How a tree is grown.

    Attributes:
        max_leaves: At most this many leaves; 0 for no limit.
        max_depth: At most this many splits on a path; 0 for no limit.
        policy: "leaf", "depth" or "symmetric".
        reg_lambda: L2 penalty on leaf weights.
        reg_alpha: L1 penalty on leaf weights.
        gamma: A split must gain more than this (twice the decrease of the objective).
        min_child_weight: Least sum of second derivatives in a child.
        min_samples_leaf: Least number of rows in a child, exact.
        min_samples_split: Least number of rows in a node that is split.
        max_delta_step: Largest |leaf weight|; 0 for no limit.
        max_cat_to_onehot: Columns with at most so many categories split one against the rest.
        max_cat_threshold: Most categories on the smaller side of a split.
        min_data_per_group: Least rows of a group of categories.
        cat_smooth: Added to H when categories are ordered by G / H.
        colsample_level: Share of the columns drawn anew for each depth.
        colsample_node: Share of those drawn anew for each node.
        columns: int32 columns that this tree may use; of equal gains the first column wins.
            None for all, in their order.
        monotone: int8 (p,), +1 increasing, -1 decreasing, 0 free; None for all free.
        interactions: Sets of columns that may meet on a path; None for no limit.
        learning_rate: Factor on all values of the tree.
        gradient_bits: Bits of a row's derivatives, rounded at random; 0 for as many as fit.
        threads: Threads for large nodes.
    """

    max_leaves: int = 0
    max_depth: int = 6
    policy: str = "depth"
    reg_lambda: float = 1.0
    reg_alpha: float = 0.0
    gamma: float = 0.0
    min_child_weight: float = 1.0
    min_samples_leaf: int = 1
    min_samples_split: int = 2
    max_delta_step: float = 0.0
    max_cat_to_onehot: int = 4
    max_cat_threshold: int = 64
    min_data_per_group: int = 1
    cat_smooth: float = 10.0
    colsample_level: float = 1.0
    colsample_node: float = 1.0
    columns: np.ndarray | None = None
    monotone: np.ndarray | None = None
    interactions: Sequence[Sequence[int]] | None = None
    learning_rate: float = 1.0
    gradient_bits: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        if self.policy not in _POLICIES:
            raise ValueError(f"policy={self.policy!r} is unknown; use one of {_POLICIES}")


class Room:
    """Arrays that the trees of one fit use one after the other; fresh ones would be cleared pages.

    A grower has its own, so that two fits at a time never share one.
    """

    def __init__(self) -> None:
        self._held: dict[str, np.ndarray] = {}

    def take(self, name: str, shape: tuple[int, ...], kind: np.dtype | type) -> np.ndarray:
        """Returns an array with whatever the last user of the name left in it."""
        size, held = math.prod(shape), self._held.get(name)
        if held is None or len(held) < size:
            held = self._held[name] = np.empty(size, kind)
        return held[:size].reshape(shape)


def set_matrix(interactions: Sequence[Sequence[int]] | None, width: int) -> np.ndarray:
    """Returns uint8 (S, width): which columns each interaction set holds; no rows for None."""
    sets = np.zeros((0 if interactions is None else len(interactions), width), np.uint8)
    for s, members in enumerate(interactions or ()):
        sets[s, list(members)] = 1
    return sets


def grow_histogram(
    binned: Binned,
    gradient: np.ndarray,
    hessian: np.ndarray,
    rows: np.ndarray | None,
    params: GrowParams,
    seed: int = 0,
    share: Share = ALONE,
    room: Room | None = None,
) -> tuple[Tree, np.ndarray]:
    """Grows one tree on bins.

    Args:
        binned: The binned table.
        gradient: float64 (n,), first derivatives of the loss.
        hessian: float64 (n,), second derivatives, >= 0.
        rows: Increasing int32 ids of the rows to learn from; None for all.
        params: How to grow.
        seed: Decides the columns drawn by level and node.
        share: The processes that hold the other rows, each calling this with its own.
        room: Arrays left by an earlier tree of the same fit.

    Returns:
        The tree, and int32 (n,) the leaf of every row, also of rows not learned from.

    Raises:
        ValueError: A derivative is not finite.
    """
    n, everything, room = len(binned.rows), rows is None, room or Room()
    threads = params.threads
    index = np.arange(n, dtype=np.int32) if rows is None else np.array(rows, np.int32)
    if rows is not None:
        gradient, hessian = gradient[index], hessian[index]
    gradient = np.ascontiguousarray(gradient, np.float64)
    hessian = np.ascontiguousarray(hessian, np.float64)
    grid = measure(gradient, hessian, threads, share)
    words = room.take("words", (len(index),), np.int64)
    packed = quantise(gradient, hessian, grid, params.gradient_bits, seed, threads, share, words)
    # Gains below the rounding noise of the root's score are not evidence of anything.
    noise = 1e-12 * grid.size_g**2 / max(grid.size_h + params.reg_lambda, 1e-300)
    rule = _split_rule(params, packed, noise)
    job = _job(binned, packed, index, params, rule, seed, grid.rows, share.address, room)
    with parallel_region(job.threads or 1):
        grow = grow_symmetric if params.policy == "symmetric" else grow_queue
        used = grow(job, rule)
    share.check()
    nodes = job.nodes[:used]
    nodes["size"] = share.add(nodes["end"] - nodes["begin"])
    # The partition's scratch has done its work and is as long as the leaves of all rows.
    leaf = job.spare if everything else np.empty(n, np.int32)
    note_leaves(nodes, index, leaf, threads)
    own = leaf if everything else leaf[rows]
    sums = node_sums(own, gradient, hessian, nodes["left"], grid, threads, share)
    if not everything:
        outside = np.ones(n, np.bool_)
        outside[rows] = False
        _walk(nodes, binned.rows, binned.categorical, job.tables, outside, leaf)
    return _to_tree(binned, job, nodes, sums, params), leaf


def _split_rule(params: GrowParams, packed: Words, noise: float) -> SplitRule:
    least, min_rows, group = params.min_child_weight, params.min_samples_leaf, 0
    if params.min_data_per_group > 1:
        group = params.min_data_per_group
    if packed.least == packed.most > 0:
        # Equal second derivatives count the rows already. The margin keeps 3 * 0.1 >= 0.3.
        least = max(least, min_rows * packed.most * packed.inverse_h)
        min_rows = 0
    elif min_rows > 1:
        least = max(least, min_rows * packed.least * packed.inverse_h)
    return SplitRule(
        reg_lambda=float(params.reg_lambda),
        reg_alpha=float(params.reg_alpha),
        min_gain=max(float(params.gamma), noise),
        min_child_weight=max(float(least) * (1 - 1e-9), 0.5 * packed.inverse_h),
        max_delta_step=float(params.max_delta_step) if params.max_delta_step > 0 else np.inf,
        min_samples_leaf=int(min_rows) if min_rows > 1 else 0,
        min_data_per_group=int(group),
        # Nodes of a level share their split, and an order of categories differs between nodes.
        onehot=256 if params.policy == "symmetric" else int(params.max_cat_to_onehot),
        max_cat_threshold=int(params.max_cat_threshold),
        cat_smooth=float(params.cat_smooth),
        constrained=bool(params.max_delta_step > 0 or _is_constrained(params)),
        least_h=packed.least,
        most_h=packed.most,
        inverse_g=packed.inverse_g,
        inverse_h=packed.inverse_h,
    )


def _is_constrained(params: GrowParams) -> bool:
    return params.monotone is not None and bool(np.any(params.monotone))


def _job(
    binned: Binned, packed: Words, index: np.ndarray, params: GrowParams, rule: SplitRule,
    seed: int, rows: int, address: int, room: Room,
) -> Job:  # fmt: skip
    p, size = binned.rows.shape[1], max(rows, 1)
    features = np.arange(p, dtype=np.int32)
    if params.columns is not None:
        features = np.ascontiguousarray(params.columns, np.int32)
    depth = params.max_depth if params.max_depth > 0 else 1 << 30
    leaves = min(params.max_leaves or size, size, 1 << min(depth, 40))
    threads = params.threads if worth_threads(len(index) * p) else 1
    slots = 2 + min(leaves, max(2, HISTOGRAM_BYTES // (p * 2048)))
    if params.policy == "symmetric":
        slots = 2 + leaves
    sets = set_matrix(params.interactions, p)
    nodes = room.take("nodes", (2 * leaves - 1,), NODE)
    nodes[:1] = np.zeros(1, NODE)
    nodes[0]["word"], nodes[0]["size"], nodes[0]["end"] = packed.total, rows, len(index)
    nodes[0]["lower"], nodes[0]["upper"] = -np.inf, np.inf
    nodes[0]["feature"] = -1
    held = len(nodes) if len(sets) else 1
    open_sets = np.ones((held, len(sets)), np.uint8)
    level = max(1, int(params.colsample_level * len(features)))
    monotone = np.zeros(p, np.int8) if params.monotone is None else params.monotone
    used_slots = slots if params.policy == "symmetric" or leaves > 1 else 1
    return Job(
        rows=binned.rows,
        columns=binned.columns,
        num_bins=binned.num_bins,
        categorical=np.ascontiguousarray(binned.categorical, np.bool_),
        words=packed.words,
        index=index,
        spare=np.empty(len(index), np.int32),
        spare_words=room.take("spare_words", (len(index),), np.int64),
        features=features,
        monotone=np.ascontiguousarray(monotone, np.int8),
        sets=sets,
        nodes=nodes,
        tables=np.zeros((len(nodes) if binned.categorical.any() else 1, 256), np.uint8),
        open_sets=open_sets,
        paths=np.zeros((held, p), np.uint8),
        cells=room.take("cells", (used_slots, p * 256), np.int64),
        part=None if threads == 1 else np.empty((threads, p * 256), np.int64),
        level_columns=level,
        node_columns=max(1, int(params.colsample_node * level)),
        seed=int(seed) & (2**63 - 1),
        # None compiles kernels in which no parallel one is called: small data needs no threads.
        threads=None if threads == 1 else threads,
        max_leaves=leaves,
        max_depth=depth,
        min_rows=max(2, 2 * params.min_samples_leaf, params.min_samples_split),
        leaf_wise=params.policy == "leaf",
        address=address,
    )


@njit(nogil=True, error_model="numpy")
def _walk(nodes, rows, categorical, tables, outside, leaf):
    """Finds the leaf of each row outside the sample, by its bins."""
    for row in range(len(rows)):
        if not outside[row]:
            continue
        k = 0
        while nodes[k].left > 0:
            this = nodes[k]
            b = rows[row, this.feature]
            if b == 255:
                left = this.missing_left
            elif categorical[this.feature]:
                side = tables[k, b]
                left = this.missing_left if side == 2 else side == 1
            else:
                left = b <= this.candidate
            k = this.left if left else this.left + 1
        leaf[row] = k


@njit(nogil=True, error_model="numpy")
def _fill(nodes, sums, thresholds, categorical, reg_lambda, reg_alpha, max_delta_step, factor):
    """Returns the tree's arrays, of categorical splits all but the sets."""
    size = len(nodes)
    feature, threshold = np.empty(size, np.int32), np.zeros(size, np.float32)
    left, missing_left = np.zeros(size, np.int32), np.zeros(size, np.bool_)
    value, gain, cover = np.empty((size, 1)), np.zeros(size), np.empty(size)
    count = np.empty(size, np.int32)
    for k in range(size):
        this = nodes[k]
        value[k, 0] = factor * node_weight(
            sums[k, 0], sums[k, 1], reg_lambda, reg_alpha, max_delta_step, this.lower, this.upper
        )
        cover[k], count[k], feature[k] = sums[k, 1], this.size, LEAF
        if this.left > 0:
            feature[k], left[k], gain[k] = this.feature, this.left, this.gain
            missing_left[k] = this.missing_left
            if not categorical[this.feature]:
                threshold[k] = thresholds[this.feature, this.candidate]
    return feature, threshold, left, missing_left, value, gain, cover, count


def _to_tree(binned: Binned, job: Job, nodes: np.ndarray, sums, params: GrowParams) -> Tree:
    step = params.max_delta_step if params.max_delta_step > 0 else np.inf
    filled = _fill(
        nodes, sums, binned.threshold_table, job.categorical, float(params.reg_lambda),
        float(params.reg_alpha), float(step), float(params.learning_rate),
    )  # fmt: skip
    starts, sizes = np.full(len(nodes), -1, np.int32), np.zeros(len(nodes), np.int32)
    bits: list[np.ndarray] = []
    if len(job.tables) > 1:
        feature = filled[0]
        for k in np.flatnonzero((feature != LEAF) & binned.categorical[feature]):
            missing_left = bool(nodes["missing_left"][k])
            right = category_words(binned, feature[k], job.tables[k], missing_left)
            starts[k], sizes[k] = sum(map(len, bits)), len(right)
            bits.append(right)
    return Tree(
        *filled,
        category_start=starts,
        category_size=sizes,
        category_bits=np.concatenate(bits) if bits else np.zeros(0, np.uint32),
    )


def category_words(
    binned: Binned, column: int, table: np.ndarray, missing_left: bool
) -> np.ndarray:
    """Returns the set of category codes that go right, as 32-bit words.

    Categories that the node did not see, and those too rare for a bin, follow the missing rows.
    """
    own = binned.codes[column]
    size = -(-max(int(binned.num_categories[column]), 1) // 32) * 32
    side = np.full(size, 0 if missing_left else 1, np.uint8)
    if own is not None:
        chosen = table[: len(own)]
        known = chosen != 2
        side[own[known]] = chosen[known] == 0
    return np.packbits(side, bitorder="little").view("<u4").astype(np.uint32)
