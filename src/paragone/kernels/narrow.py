r"""Narrow floats inside kernels: fp32 to bf16 and fp16 and back, nearest or at random.

All of it works on bits, so that a loop over it becomes vector code and nothing depends on the
processor. Rounding to the nearest adds half a unit in the last place (ties to even) and cuts:

$$ \text{bf16}(b) = \bigl(b + \texttt{7fff}_{16} + (b \gg 16) \,\&\, 1\bigr) \gg 16 , $$

where a NaN is set apart first: the sum would carry some of them into infinity. Stochastic rounding
adds a uniform number instead of the half, so that $E[\text{bf16}(x)] = x$. Its random word is a
function of (seed, step, index) and of nothing else: any element of any step can be drawn again,
in any order and on any number of threads.

Each is called inside `njit` code like a function; arguments are uint32 and uint16 words. Numba
makes 64-bit numbers of sums of 32-bit ones, hence the casts; LLVM takes them out again.

References:
    Steele, Lea and Flood (2014), "Fast splittable pseudorandom number generators", for mixing a
    counter in place of keeping a state.
    Salmon et al. (2011), "Parallel random numbers: as easy as 1, 2, 3".
    Wellons (2018), "Prospecting for hash functions", for the constants of the mixer of 32 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from paragone.kernels.jit import njit

__all__ = [
    "bf16_nearest", "bf16_stochastic", "bf16_wide", "bits_of", "fp16_nearest", "fp16_stochastic",
    "fp16_wide", "random_bits", "random_key", "random_word", "single_of",
]  # fmt: skip

_inlined: Any = {
    "nogil": True, "error_model": "numpy", "forceinline": True, "no_cpython_wrapper": True,
}  # fmt: skip


@intrinsic
def _bits_of(typing_context, value):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@intrinsic
def _single_of(typing_context, bits):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


# Intrinsics are called with one argument fewer than they are defined with.
bits_of: Any = _bits_of
"""(value): the 32 bits of a float32, as uint32."""
single_of: Any = _single_of
"""(bits): the float32 that these 32 bits spell."""


@njit(**_inlined)
def bf16_nearest(bits):
    """(uint32 of an fp32): the nearest bf16 as uint16, ties to even; a NaN stays one."""
    half = np.uint32(np.uint32(bits) >> np.uint32(16))
    odd = np.uint32(half & np.uint32(1))
    nearest = np.uint32(np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))
    quiet = np.uint32(np.uint32(half & np.uint32(0x8000)) | np.uint32(0x7FC0))
    isnan = np.uint32(bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return np.uint16(quiet if isnan else nearest)


@njit(**_inlined)
def bf16_stochastic(bits, word):
    """(uint32 of an fp32, random word): a neighbour as uint16, the nearer one more often.

    Only the lower 16 bits of the word are used, so that one word serves for two.
    """
    chosen = np.uint32(bits + np.uint32(word & np.uint32(0xFFFF))) >> 16
    size = np.uint32(bits & np.uint32(0x7FFFFFFF))
    special = np.uint32(bits >> 16) | np.uint32(0x40 if size > np.uint32(0x7F800000) else 0)
    return np.uint16(special if size >= np.uint32(0x7F800000) else chosen)


@njit(**_inlined)
def bf16_wide(half):
    """(uint16 of a bf16): the same value as uint32 of an fp32."""
    return np.uint32(np.uint32(half) << 16)


@njit(**_inlined)
def fp16_nearest(bits):
    """(uint32 of an fp32): the nearest fp16 as uint16, ties to even; 65520 and above: infinity."""
    sign = np.uint32((bits >> 16) & 0x8000)
    size = np.uint32(bits & np.uint32(0x7FFFFFFF))
    even = np.uint32(size + np.uint32(0xFFF) + np.uint32((size >> 13) & 1))
    normal = np.uint32(even - np.uint32(112 << 23)) >> 13
    # Below 2^-14 the unit is 2^-24, which is that of the numbers from 0.5 to 1 in fp32.
    small = np.uint32(bits_of(np.float32(single_of(size) + np.float32(0.5))) - 0x3F000000)
    code = small if size < np.uint32(113 << 23) else normal
    code = np.uint32(0x7C00) if size >= np.uint32(0x477FF000) else np.uint32(code)
    code = np.uint32(0x7E00) if size > np.uint32(0x7F800000) else np.uint32(code)
    return np.uint16(sign | code)


@njit(**_inlined)
def fp16_stochastic(bits, word):
    """(uint32 of an fp32, random word): a neighbour as uint16, the nearer one more often.

    Between 65504 and 65536 the upper neighbour is infinity. All 32 bits of the word are used.
    """
    sign = np.uint32((bits >> 16) & 0x8000)
    size = np.uint32(bits & np.uint32(0x7FFFFFFF))
    up = np.uint32(size + np.uint32(word & np.uint32(0x1FFF)))
    normal = np.uint32(up - np.uint32(112 << 23)) >> 13
    units = np.float64(single_of(size)) * 2.0**24 + np.float64(word) * 2.0**-32
    small = np.uint32(np.int32(units if units < 1100.0 else 0.0))
    code = small if size < np.uint32(113 << 23) else normal
    code = np.uint32(0x7C00) if up >= np.uint32(143 << 23) else np.uint32(code)
    code = np.uint32(0x7E00) if size > np.uint32(0x7F800000) else np.uint32(code)
    return np.uint16(sign | code)


@njit(**_inlined)
def fp16_wide(half):
    """(uint16 of an fp16): the same value as uint32 of an fp32."""
    sign = np.uint32(np.uint32(half & 0x8000) << 16)
    size = np.uint32(half & 0x7FFF)
    normal = np.uint32(np.uint32(size << 13) + np.uint32(112 << 23))
    special = np.uint32(normal + np.uint32(112 << 23))
    small = bits_of(np.float32(np.float32(np.int32(size)) * np.float32(2.0**-24)))
    wide = small if size < np.uint32(0x400) else normal
    wide = special if size >= np.uint32(0x7C00) else wide
    return np.uint32(sign | wide)


@njit(**_inlined)
def _mixed(x):
    """A permutation of the 32-bit words in which every bit depends on every bit."""
    x = np.uint32(x ^ (x >> 16))
    x = np.uint32(x * np.uint32(0x7FEB352D))
    x = np.uint32(x ^ (x >> 15))
    x = np.uint32(x * np.uint32(0x846CA68B))
    return np.uint32(x ^ (x >> 16))


@njit(**_inlined)
def random_key(seed, step):
    """(seed, step): 64 bits that stand for both in `random_word`; make it once a loop."""
    x = np.uint64(np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15) * np.uint64(step + 1))
    x = np.uint64(np.uint64(x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9))
    x = np.uint64(np.uint64(x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB))
    return np.uint64(x ^ (x >> np.uint64(31)))


@njit(**_inlined)
def random_word(key, index):
    """(key, index): 32 random bits; the first 2^32 indices of a key give each word once."""
    low, high = np.uint32(key), np.uint32(np.uint64(key) >> np.uint64(32))
    far = np.uint32(np.uint64(index) >> np.uint64(32))
    x = _mixed(np.uint32(np.uint32(index) ^ low))
    return _mixed(np.uint32(x + np.uint32(high ^ np.uint32(far * np.uint32(0x9E3779B9)))))


@njit(**_inlined)
def random_bits(seed, step, index):
    """(seed, step, index): 32 random bits, a function of these three integers alone."""
    return random_word(random_key(seed, step), index)
