r"""Random numbers and policies inside kernels: SplitMix64 and Walker's alias tables.

A policy is two tables over rows k = s A + j: of 64 random bits the upper half picks a column j,
the lower half is compared with `keep[k]`; the action's row is `pick[2 k]` (k itself) or
`pick[2 k + 1]` (its alias). So an action costs the same under every policy, and no branch.
Probabilities are met within $2^{-32}$.

References:
    Steele, Lea and Flood (2014), "Fast splittable pseudorandom number generators", figure 17.
    Walker (1977), "An efficient method for generating discrete random variables with general
    distributions", ACM Transactions on Mathematical Software 3.

Shapes: S states, A actions; noise: one uint64 for each stream.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.jit import njit

__all__ = ["acted", "best_action", "draw64", "policy_tables"]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
B30, B27, B31, B32 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(32)
LOWER = np.uint64(0xFFFFFFFF)
WHOLE = 1 << 32


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def draw64(noise, i):
    """Draws 64 bits from stream i."""
    state = noise[i] + GOLDEN
    noise[i] = state
    mixed = (state ^ (state >> B30)) * FIRST
    mixed = (mixed ^ (mixed >> B27)) * SECOND
    return mixed ^ (mixed >> B31)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def acted(pick, keep, stride, base, A, bits):
    """Returns the row s A + a of an action drawn in the state with base = s A.

    With stride 0 one number in `keep` holds for all rows, as in an epsilon-greedy policy.
    """
    row = base + np.int64((np.int64(bits >> B32) * A) >> 32)
    other = np.int64(np.int64(bits & LOWER) >= keep[np.uint64(stride * row)])
    return np.int64(pick[np.uint64(2 * row + other)])


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def best_action(values, base, A, bits):
    """Returns the best action of the state with base = s A; among equals one at random."""
    best, action, equal = values[base], 0, 1
    for a in range(1, A):
        value = values[base + a]
        if value > best:
            best, action, equal = value, a, 1
        elif value == best:
            equal += 1
    if equal > 1:
        wanted = (np.int64(bits >> B32) * equal) >> 32
        while wanted > 0:
            action += 1
            wanted -= values[base + action] == best
    return action


@njit(cache=True, nogil=True, error_model="numpy")
def policy_tables(policy, pick, keep):
    """Fills `pick` (2 S A,) and `keep` (S A,) from probabilities (S, A)."""
    S, A = policy.shape
    share, small, large = np.empty(A), np.empty(A, np.int64), np.empty(A, np.int64)
    for s in range(S):
        few = many = 0
        for a in range(A):
            share[a] = policy[s, a] * A
            if share[a] < 1.0:
                small[few] = a
                few += 1
            else:
                large[many] = a
                many += 1
        while few and many:
            few -= 1
            a, b = small[few], large[many - 1]
            row = s * A + a
            keep[row] = np.int64(share[a] * 4294967296.0 + 0.5)
            pick[2 * row] = row
            pick[2 * row + 1] = s * A + b
            share[b] -= 1.0 - share[a]
            if share[b] < 1.0:
                many -= 1
                small[few] = b
                few += 1
        for i in range(few + many):
            a = small[i] if i < few else large[i - few]
            row = s * A + a
            keep[row] = WHOLE
            pick[2 * row] = pick[2 * row + 1] = row
