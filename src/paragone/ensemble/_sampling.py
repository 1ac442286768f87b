r"""Random columns and rows, drawn by counting, not by a stateful generator.

A draw depends only on the seed and on where it happens (depth, node), through the mixing function
of SplitMix64, so it is the same for any order of growth and any number of threads.

References:
    Steele, Lea & Flood (2014), "Fast splittable pseudorandom number generators", figure 16.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.jit import njit

__all__ = ["draw_columns", "goss_rows", "mix", "sample_rows"]


@njit(nogil=True, error_model="numpy")
def mix(state):
    """Returns 64 well mixed bits of `state`; distinct states give distinct results."""
    z = np.uint64(state) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(nogil=True, error_model="numpy")
def _draw(pool, count, state):
    """Moves a random `count` of the pool to its front (Fisher-Yates)."""
    for i in range(min(count, len(pool) - 1)):
        state = mix(state)
        j = i + np.int64(state % np.uint64(len(pool) - i))
        pool[i], pool[j] = pool[j], pool[i]
    return pool[:count]


@njit(nogil=True, error_model="numpy")
def draw_columns(features, width, level_columns, node_columns, seed, depth, node):
    """Returns uint8 (width,), 1 for the columns of this depth that this node drew."""
    allowed = np.zeros(width, np.uint8)
    pool = features.copy()
    if level_columns < len(pool):
        pool = _draw(pool, level_columns, mix(mix(np.uint64(seed)) + np.uint64(2 * depth)))
    if node_columns < len(pool):
        pool = _draw(pool, node_columns, mix(mix(np.uint64(seed)) + np.uint64(2 * node + 1)))
    for f in pool:
        allowed[f] = 1
    return allowed


def sample_rows(count: int, share: float, generator: np.random.Generator) -> np.ndarray | None:
    """Returns the increasing int32 rows of a sample without replacement; None for all rows."""
    if share >= 1.0:
        return None
    size = max(1, round(share * count))
    return np.sort(generator.permutation(count)[:size]).astype(np.int32)


def goss_rows(
    strength: np.ndarray, top: float, other: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    r"""Gradient-based one-side sampling: all strong rows, a random share of the weak ones.

    Args:
        strength: (n,), for example $|g| \sqrt h$ or $|g h|$.
        top: Share a of rows kept for their strength.
        other: Share b of all rows drawn from the rest.
        generator: Source of the draw.

    Returns:
        Increasing int32 rows, and their factors: 1, or (1 - a) / b for the drawn ones, which
        keeps the sums of gradients unbiased (Ke et al. 2017, "LightGBM", algorithm 2).
    """
    n = len(strength)
    kept = max(1, int(np.ceil(top * n)))
    order = np.argsort(-strength, kind="stable")
    rest = order[kept:]
    drawn = generator.permutation(rest)[: max(1, int(other * n))]
    rows = np.concatenate((order[:kept], drawn)).astype(np.int64)
    factor = np.concatenate((np.ones(kept), np.full(len(drawn), len(rest) / max(len(drawn), 1))))
    place = np.argsort(rows, kind="stable")
    return rows[place].astype(np.int32), factor[place]
