"""What the CART kernels share: the columns, the rules, the buffers, and two tools."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from paragone.kernels.jit import njit

__all__ = [
    "ABSOLUTE", "CRITERIA", "ENTROPY", "GINI", "LOW_HALF", "POISSON", "SQUARED", "Best", "Rules",
    "Table", "Work", "draw", "inner_jit", "sort_keys",
]  # fmt: skip

GINI, ENTROPY, SQUARED, POISSON, ABSOLUTE = range(5)
CRITERIA = {
    "gini": GINI, "entropy": ENTROPY, "log_loss": ENTROPY, "squared_error": SQUARED,
    "friedman_mse": SQUARED, "poisson": POISSON, "absolute_error": ABSOLUTE,
}  # fmt: skip

LOW_HALF = np.int64(0xFFFFFFFF)

# The kernels below never allocate; without reference counts they are four times as fast, since
# every `work.x` would otherwise be an atomic increment.
inner_jit = njit(  # pyright: ignore[reportCallIssue]
    cache=True, nogil=True, error_model="numpy", forceinline=True, no_cpython_wrapper=True,
    no_cfunc_wrapper=True, _nrt=False,
)  # fmt: skip


class Table(NamedTuple):
    """The training columns, shared by all trees.

    `codes` int32 (p, n); the values of code c in column f lie in
    `[lower[offset[f] + c], upper[offset[f] + c]]`; for categorical columns the code is the
    category and `offset` counts categories.
    """

    codes: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    offset: np.ndarray
    categorical: np.ndarray
    monotone: np.ndarray
    target_rank: np.ndarray


class Rules(NamedTuple):
    """Plain numbers that steer the growth; `num_classes` is 0 for regression."""

    criterion: int
    num_classes: int
    max_depth: int
    min_samples_split: int
    min_samples_leaf: int
    max_features: int
    max_leaves: int
    random_cuts: bool
    shuffle: bool
    min_weight_leaf: float
    min_gain: float


class Work(NamedTuple):
    """Buffers of one tree: its rows in node order, and scratch space for one node.

    `response` is what regression sums: w (y - node mean), or w y for Poisson.
    """

    row: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    response: np.ndarray
    code: np.ndarray
    key: np.ndarray
    key2: np.ndarray
    digit: np.ndarray
    bins: np.ndarray
    bin_count: np.ndarray
    total: np.ndarray
    left: np.ndarray
    missing: np.ndarray
    position: np.ndarray
    score: np.ndarray
    sorted_target: np.ndarray
    sequence: np.ndarray
    rank: np.ndarray
    error: np.ndarray
    median: np.ndarray
    fenwick: np.ndarray
    random: np.ndarray


class Best(NamedTuple):
    """Best split so far. `real`: quality, value left, value right, threshold, tolerance.

    `whole`: column, last code on the left, missing left, rows on the left, first code on the
    right. `bits`: the categories that go right. A split must beat the best by `tolerance`, so
    that equal splits stay equal whatever the rounding of their sums.
    """

    real: np.ndarray
    whole: np.ndarray
    bits: np.ndarray


@inner_jit
def draw(state):
    """A uniform number in [0, 1) from splitmix64; `state` uint64 (1,) moves on."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return np.float64(z >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@inner_jit
def sort_keys(key, key2, digit, m, top):
    """Sorts `key[:m]` by its upper 32 bits, all <= `top`; stable, `key2` is scratch."""
    if m <= 32:
        for i in range(1, m):
            held = key[i]
            j = i
            while j > 0 and key[j - 1] > held:
                key[j] = key[j - 1]
                j -= 1
            key[j] = held
        return
    source, sink = key, key2
    shift = np.int64(32)
    while True:
        digit[:] = 0
        for i in range(m):
            digit[(source[i] >> shift) & 255] += 1
        before = 0
        for d in range(256):
            before, digit[d] = before + digit[d], before
        for i in range(m):
            d = (source[i] >> shift) & 255
            sink[digit[d]] = source[i]
            digit[d] += 1
        source, sink = sink, source
        shift += 8
        if (np.int64(top) >> (shift - 32)) == 0:
            break
    if (shift >> 3) & 1:
        for i in range(m):
            key[i] = key2[i]
