"""Steps of many environments over one table; the arrays are those of `_table` and `_vector`."""

from __future__ import annotations

import numpy as np

from paragone.kernels.intrinsics import float_of_bits
from paragone.kernels.jit import njit
from paragone.reinforcement._pcg64 import bits53

__all__ = ["move", "outcome", "start"]


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def outcome(places, limits, row, number):
    """Returns the first entry of a row whose limit exceeds a number of 53 random bits.

    A comparison is added as a number, since no branch predicts what is random; places are
    unsigned, since Numba looks at the sign of every other index.
    """
    place = places[np.uint64(row)]
    e, k = place >> 6, place & 63
    if k == 2:
        e += np.int64(limits[np.uint64(e + 1)] <= number) << 1
        e += np.int64(limits[np.uint64(e)] <= number)
    else:
        while k > 0:
            k -= 1
            e += np.int64(limits[np.uint64(e + (1 << k) - 1)] <= number) << k
    return np.uint64(e)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def start(words, chosen, places, limits, entry, masks, observations, told, allowed):
    """Starts an episode in the chosen environments; the last row is the start distribution."""
    row, masked = len(places) - 1, len(masks) > 0
    for i in range(len(words)):
        if chosen[i]:
            e = outcome(places, limits, row, bits53(words, i))
            words[i, 5] = np.uint64(entry[e, 0] >> 1)
            words[i, 6] = words[i, 7] = np.uint64(0)
            observations[i] = entry[e, 1]
            told[i] = float_of_bits(entry[e, 3])
            if masked:
                allowed[i] = masks[np.uint64(entry[e, 1])]


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def move(
    actions, A, limit, words, places, limits, entry, masks,
    observations, rewards, terminations, truncations, told, allowed,
):  # fmt: skip
    """Moves all by one step and returns how many episodes ended; -1 if an action is none.

    Where the last step ended an episode this one begins the next: the start row, no action.
    """
    worst = np.uint64(0)
    for i in range(len(actions)):
        worst = max(worst, np.uint64(actions[i]))
    if worst >= np.uint64(A):
        return -1
    ended = 0
    last, masked = len(places) - 1, len(masks) > 0
    for i in range(len(actions)):
        fresh = np.int64(words[i, 7])
        row = np.int64(words[i, 5]) * A + actions[i]
        row ^= (row ^ last) & -fresh
        e = outcome(places, limits, row, bits53(words, i))
        steps = (np.int64(words[i, 6]) + 1) & (fresh - 1)
        terminated = entry[e, 0] & 1
        truncated = np.int64(steps >= limit)
        done = terminated | truncated
        words[i, 5] = np.uint64(entry[e, 0] >> 1)
        words[i, 6] = np.uint64(steps)
        words[i, 7] = np.uint64(done)
        observations[i] = entry[e, 1]
        rewards[i] = float_of_bits(entry[e, 2])
        terminations[i] = terminated
        truncations[i] = truncated
        told[i] = float_of_bits(entry[e, 3])
        if masked:
            allowed[i] = masks[np.uint64(entry[e, 1])]
        ended += done
    return ended
