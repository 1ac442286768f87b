r"""NumPy's default generator inside kernels, bit for bit.

PCG64 keeps a 128-bit state and moves it by $x \leftarrow a x + c \bmod 2^{128}$; the output is
the xor of the two halves, rotated by the upper six bits. What is drawn here is what
`numpy.random.Generator(PCG64(seed))` draws, so that a vector environment follows Gymnasium's
trajectories seed by seed.

A stream is one row of eight uint64: state (high, low), increment (high, low), the upper half of
a word of which the lower half has been used (bit 32 is set while there is one), and three words
that belong to the environment.

Cost: three 64-bit products and one 64x64->128 a draw.

References:
    O'Neill (2014), "PCG: a family of simple fast space-efficient statistically good algorithms
    for random number generation", section 6.3.4 (XSL-RR).
    Lemire (2019), "Fast random integer generation in an interval", algorithm 5.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.intrinsics import high_product
from paragone.kernels.jit import njit

__all__ = ["below", "bits53", "last_half", "two_halves"]

HIGH = np.uint64(2549297995355413924)
LOW = np.uint64(4865540595714422341)
HALF = np.uint64(0xFFFFFFFF)
ZERO, ONE, ELEVEN = np.uint64(0), np.uint64(1), np.uint64(11)
FULL, KEPT, ROTATED = np.uint64(32), np.uint64(1 << 32), np.uint64(58)
TURN = np.uint64(63)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _moved(streams, i):
    high, low = streams[i, 0], streams[i, 1]
    lower = low * LOW + streams[i, 3]
    carry = np.uint64(lower < streams[i, 3])
    upper = high * LOW + low * HIGH + high_product(low, LOW) + streams[i, 2] + carry
    mixed, turn = upper ^ lower, upper >> ROTATED
    return upper, lower, (mixed >> turn) | (mixed << ((ZERO - turn) & TURN))


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def bits53(streams, i):
    """Draws 53 bits: `Generator.random` is this number over 2^53."""
    streams[i, 0], streams[i, 1], word = _moved(streams, i)
    return np.int64(word >> ELEVEN)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _half_word(streams, i):
    # Whether a half is kept is a coin toss: a word that may not be used costs less than a branch.
    kept = streams[i, 4]
    has = ZERO - (kept >> FULL)
    upper, lower, word = _moved(streams, i)
    streams[i, 0] = upper ^ ((upper ^ streams[i, 0]) & has)
    streams[i, 1] = lower ^ ((lower ^ streams[i, 1]) & has)
    streams[i, 4] = ((word >> FULL) | KEPT) & ~has
    return (kept & HALF) | (word & HALF & ~has)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def two_halves(streams, i):
    """Draws two numbers of 32 bits: one word, whether or not a half is kept."""
    kept = streams[i, 4]
    has = ZERO - (kept >> FULL)
    streams[i, 0], streams[i, 1], word = _moved(streams, i)
    streams[i, 4] = ((word >> FULL) | KEPT) & has
    lower, upper = word & HALF, word >> FULL
    return (kept & HALF) | (lower & ~has), (lower & has) | (upper & ~has)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def last_half(streams, i, two):
    """Draws one number of 32 bits, or two where `two` is 1 rather than 0; returns the second."""
    has = streams[i, 4] >> FULL
    upper, lower, word = _moved(streams, i)
    stay = ZERO - (has & (two ^ ONE))
    streams[i, 0] = upper ^ ((upper ^ streams[i, 0]) & stay)
    streams[i, 1] = lower ^ ((lower ^ streams[i, 1]) & stay)
    streams[i, 4] = ((word >> FULL) | KEPT) & ((has ^ two) - ONE)
    return (word >> (FULL * (has ^ ONE))) & HALF


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def below(streams, i, count):
    """Draws from 0 to count - 1 as `Generator.integers` and `Generator.choice` do."""
    product = _half_word(streams, i) * count
    if product & HALF < count:
        least = (KEPT - count) % count
        while product & HALF < least:
            product = _half_word(streams, i) * count
    return np.int64(product >> FULL)
