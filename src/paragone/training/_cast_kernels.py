"""Casts of fp32 arrays as compiled loops; formats are data, so that one loop serves all.

`SPEC` rows are what `formats.Format.spec` writes: a uint32 array of

    drop       mantissa bits of fp32 that go, 23 - m
    largest    bits of the largest finite value, as fp32
    over       bits of what lies above it: infinity, NaN, or the largest value itself
    normal     bits of the least normal number; 0 where fp32's own subnormals are the format's
    magic      bits of 2^23 units of the subnormals: adding it rounds to that unit
    zero       mask that a zero's sign is held to: 0 where the format has no minus zero

Every loop handles size and sign apart. Rounding goes by blocks into a buffer: it may write where
it reads, and its inner loop counts in 32-bit words.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from paragone.kernels.jit import njit
from paragone.kernels.narrow import (
    bf16_nearest,
    bits_of,
    fp16_nearest,
    random_key,
    random_word,
    single_of,
)

__all__ = [
    "encode", "encode_nearest", "exponents", "round_nearest", "round_stochastic", "to_bf16",
    "to_fp16",
]  # fmt: skip

_inlined: Any = {
    "nogil": True, "error_model": "numpy", "forceinline": True, "no_cpython_wrapper": True,
}  # fmt: skip

_BLOCK = 4096
_SIZE = np.uint32(0x7FFFFFFF)
_SIGN = np.uint32(0x80000000)
_INFINITY = np.uint32(0x7F800000)
_NAN = np.uint32(0x7FC00000)


@njit(nogil=True, error_model="numpy")
def to_bf16(x, out):
    """Writes the nearest bf16 of each fp32 (uint32 to uint16)."""
    for i in range(x.size):
        out[i] = bf16_nearest(x[i])


@njit(nogil=True, error_model="numpy")
def to_fp16(x, out):
    """Writes the nearest fp16 of each fp32 (uint32 to uint16)."""
    for i in range(x.size):
        out[i] = fp16_nearest(x[i])


@njit(**_inlined)
def _finished(bits, size, found, largest, over, zero):
    """Sets what is beyond the largest and what is no number, and gives the sign back."""
    found = over if found > largest else found
    found = _NAN if size > _INFINITY else found
    sign = np.uint32(bits & _SIGN)
    sign = np.uint32(sign & zero) if (found == 0) | (found > _INFINITY) else sign
    return np.uint32(found | sign)


@njit(nogil=True, error_model="numpy")
def round_nearest(x, out, spec):
    """Rounds each fp32 to the nearest value of the format, ties to even; `out` may be `x`.

    Returns how many became zero, how many were not zero, and how many finite ones went beyond the
    largest.
    """
    drop, largest, over, normal, zero = spec[0], spec[1], spec[2], spec[3], spec[5]
    magic = single_of(spec[4])
    half = np.uint32((np.uint32(1) << np.uint32(drop - 1)) - 1)
    keep = np.uint32(~np.uint32(np.uint32(half << 1) | np.uint32(1)))
    fresh = np.empty(_BLOCK, np.uint32)
    lost, alive, beyond = 0, 0, 0
    for start in range(0, x.size, _BLOCK):
        block = x[start : start + _BLOCK]
        few_lost, few_alive, few_beyond = np.uint32(0), np.uint32(0), np.uint32(0)
        for i in range(block.size):
            bits = block[i]
            size = np.uint32(bits & _SIZE)
            even = np.uint32(size + half + np.uint32(np.uint32(size >> drop) & np.uint32(1)))
            found = np.uint32(even & keep)
            small = bits_of(np.float32(np.float32(single_of(size) + magic) - magic))
            found = small if size < normal else found
            past = (found > largest) & (size < _INFINITY)
            few_beyond = np.uint32(few_beyond + np.uint32(past))
            few_alive = np.uint32(few_alive + np.uint32(size > 0))
            few_lost = np.uint32(few_lost + np.uint32((found == 0) & (size > 0)))
            fresh[i] = _finished(bits, size, found, largest, over, zero)
        written = out[start : start + _BLOCK]
        for i in range(written.size):
            written[i] = fresh[i]
        lost += np.int64(few_lost)
        alive += np.int64(few_alive)
        beyond += np.int64(few_beyond)
    return lost, alive, beyond


@njit(nogil=True, error_model="numpy")
def round_stochastic(x, out, spec, seed, step):
    """Rounds each fp32 to a neighbour in the format, the nearer one more often.

    Element i takes the word `random_bits(seed, step, i)`. `out` may be `x`.
    """
    drop, largest, over, normal, zero = spec[0], spec[1], spec[2], spec[3], spec[5]
    unit = np.float64(single_of(spec[4])) * 2.0**-23
    per_unit = 1.0 / unit if unit > 0.0 else 0.0
    least = single_of(normal)
    low = np.uint32((np.uint32(1) << drop) - 1)
    keep = np.uint32(~low)
    key = random_key(seed, step)
    fresh = np.empty(_BLOCK, np.uint32)
    for start in range(0, x.size, _BLOCK):
        block = x[start : start + _BLOCK]
        for i in range(block.size):
            bits, word = block[i], random_word(key, start + i)
            size = np.uint32(bits & _SIZE)
            found = np.uint32(np.uint32(size + np.uint32(word & low)) & keep)
            value = single_of(size) if size < normal else least
            units = np.float64(value) * per_unit + np.float64(word) * 2.0**-32
            small = bits_of(np.float32(np.float64(np.int32(units)) * unit))
            found = small if size < normal else found
            fresh[i] = _finished(bits, size, found, largest, over, zero)
        written = out[start : start + _BLOCK]
        for i in range(written.size):
            written[i] = fresh[i]


@njit(nogil=True, error_model="numpy")
def encode(x, out, spec, bias, infinity, nan):
    """Writes the 8-bit code of each fp32 that is a value of the format (uint32 to uint8).

    Args:
        x: Bits of values as `round_nearest` leaves them.
        out: Codes.
        spec: The format.
        bias: Exponent bias of the format.
        infinity: Code of plus infinity.
        nan: Code of the NaN without a sign.
    """
    drop, normal = spec[0], spec[3]
    per_unit = np.float32(np.float32(2.0**23) / single_of(spec[4]))
    shift = np.uint32(np.uint32(127 - bias) << np.uint32(23 - drop))
    for i in range(x.size):
        bits = x[i]
        size = np.uint32(bits & _SIZE)
        code = np.uint32(np.uint32(size >> drop) - shift)
        small = np.uint32(np.int32(single_of(size) * per_unit if size < normal else 0.0))
        code = small if size < normal else code
        code = np.uint32(infinity) if size == _INFINITY else code
        code = np.uint32(nan) if size > _INFINITY else code
        out[i] = np.uint8(code | np.uint32(np.uint32(bits >> np.uint32(24)) & np.uint32(0x80)))


@njit(nogil=True, error_model="numpy")
def encode_nearest(x, out, spec, bias, infinity, nan):
    """Writes the 8-bit code of the value nearest to each fp32, ties to even, in one pass.

    What `round_nearest` and `encode` do: a normal number's code is its rounded bits, shifted; a
    subnormal's is how many units the addition of `magic` leaves.

    Args:
        x: Bits of any fp32, uint32.
        out: Codes, uint8.
        spec: The format.
        bias: Exponent bias of the format.
        infinity: Code of plus infinity.
        nan: Code of the NaN without a sign.
    """
    drop, magic, normal = spec[0], spec[4], spec[3]
    half = np.uint32((np.uint32(1) << np.uint32(drop - 1)) - 1)
    shift = np.uint32(np.uint32(127 - bias) << np.uint32(23 - drop))
    largest, nan = np.uint32(np.uint32(spec[1] >> drop) - shift), np.uint32(nan)
    over = largest if spec[2] < _INFINITY else np.uint32(infinity)
    over = nan if spec[2] > _INFINITY else over
    told, unsigned = over != nan, spec[5] == 0
    for i in range(x.size):
        size = np.uint32(x[i] & _SIZE)
        even = np.uint32(size + half + np.uint32(np.uint32(size >> drop) & np.uint32(1)))
        code = np.uint32(np.uint32(even >> drop) - shift)
        units = bits_of(np.float32(single_of(size) + single_of(magic)))
        code = np.uint32(units - magic) if size < normal else code
        code = over if code > largest else code
        if told:
            code = nan if size > _INFINITY else code
        sign = np.uint32(np.uint32(x[i] >> np.uint32(24)) & np.uint32(0x80))
        if unsigned:
            sign = np.uint32(0) if (code == 0) | (code == nan) else sign
        out[i] = np.uint8(code | sign)


@njit(nogil=True, error_model="numpy")
def exponents(x, shift, counts):
    """Adds each fp32 to the bin of its exponent, `shift` lower.

    Args:
        x: Bits, uint32 (n,).
        shift: Power of two that the numbers were multiplied by.
        counts: (557,): powers of two from 2^-149 to 2^127, the numbers above each, zeros,
            infinities, NaNs. What the shift moves out counts at the end.
    """
    for i in range(x.size):
        size = np.uint32(x[i] & _SIZE)
        exponent, mantissa = np.int64(size >> 23), np.uint32(size & np.uint32(0x7FFFFF))
        if exponent == 255:
            counts[556 if mantissa else 555] += 1
        elif size == 0:
            counts[554] += 1
        else:
            place = exponent + 22
            if exponent == 0:
                # As a whole number of 2^-149 it has an exponent of its own.
                whole = bits_of(np.float32(np.int32(mantissa)))
                place = np.int64(whole >> 23) - 127
                mantissa = np.uint32(whole & np.uint32(0x7FFFFF))
            place = min(max(place - shift, 0), 276)
            counts[place + (277 if mantissa else 0)] += 1
