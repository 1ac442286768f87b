r"""Numbers in JSON text to the nearest double, eight digits at a time.

A number is w times 10^q with a whole w. If w is below 2^53 and q within 22 of zero, both are
doubles and one multiplication rounds correctly. Otherwise w is multiplied with the leading 128
bits of 5^q: all but a few numbers are decided by that product, and those few (and what is longer
than 19 digits, or very large or small) are refused, so that an exact reader takes them.

References:
    Lemire (2021), "Number parsing at a gigabyte per second", arXiv:2101.11408, sections 5-8.
    Clinger (1990), "How to read floating point numbers accurately".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from paragone.kernels.intrinsics import float_of_bits, high_product
from paragone.kernels.jit import njit
from paragone.kernels.simd import emit_place

__all__ = ["POWERS", "TENS", "load_word", "number", "whole"]

_REACH = 60
_WORD = ir.IntType(64)

TENS = 10.0 ** np.arange(23)
"""Powers of ten that are doubles."""


def _power(q: int) -> tuple[int, int]:
    """The leading 128 bits of 5^q, cut off for q >= 0, rounded up below, as two words."""
    if q >= 0:
        value = 5**q
        bits = value.bit_length()
        value = value << (128 - bits) if bits <= 128 else value >> (bits - 128)
    else:
        divisor = 5**-q
        value = -((-1 << (divisor.bit_length() + 127)) // divisor)
        if value.bit_length() > 128:
            value = -(-value // 2)
    return value >> 64, value & (2**64 - 1)


POWERS = np.array([_power(q) for q in range(-_REACH, _REACH + 1)], np.uint64)
"""(121, 2): see `_power`."""


@intrinsic
def _leading_zeros(typing_context, a):
    def generate(context, builder, signature, arguments):
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


@intrinsic
def _load_word(typing_context, text, index):
    def generate(context, builder, signature, arguments):
        place = emit_place(context, builder, signature.args[0], *arguments)
        return builder.load(builder.bitcast(place, _WORD.as_pointer()), align=1)

    return types.uint64(text, types.int64), generate


# Intrinsics are called with one argument fewer than they are defined with.
leading_zeros: Any = _leading_zeros
load_word: Any = _load_word
"""(text, i): eight bytes as a word, the first the lowest; the text must reach that far."""

_ZEROS, _HALVES = np.uint64(0x3030303030303030), np.uint64(0xF0F0F0F0F0F0F0F0)
_SIXES = np.uint64(0x0606060606060606)
_PAIR, _HIGH, _LOW = (
    np.uint64(0x000000FF000000FF), np.uint64(100 + (10**6 << 32)), np.uint64(1 + (10**4 << 32)),
)  # fmt: skip
_ONE, _NONE, _ALL = np.uint64(1), np.uint64(0), np.uint64(2**64 - 1)


@njit(nogil=True, error_model="numpy", inline="always")
def _digits(text, i, w):
    """Appends the digits from byte i on to w; returns it and where they end."""
    word = load_word(text, i)
    while (word & _HALVES) == _ZEROS and ((word + _SIXES) & _HALVES) == _ZEROS:
        word -= _ZEROS
        word = word * np.uint64(10) + (word >> np.uint64(8))
        pair = (word & _PAIR) * _HIGH + ((word >> np.uint64(16)) & _PAIR) * _LOW
        w = w * np.uint64(100000000) + (pair >> np.uint64(32))
        i += 8
        word = load_word(text, i)
    while 48 <= text[i] <= 57:
        w = w * np.uint64(10) + np.uint64(text[i] - 48)
        i += 1
    return w, i


@njit(nogil=True, error_model="numpy")
def _nearest(w, q, powers):
    """W 10^q as a double, and whether that is certain; w is not 0."""
    zeros = leading_zeros(w)
    w <<= zeros
    high_power, low_power = powers[q + _REACH, 0], powers[q + _REACH, 1]
    high, low = high_product(w, high_power), w * high_power
    if (high & np.uint64(0x1FF)) == np.uint64(0x1FF):
        more = high_product(w, low_power)
        low += more
        if low < more:
            high += _ONE
    if low == _ALL and (q < -27 or q > 55):
        return 0.0, False
    top = high >> np.uint64(63)
    shift = top + np.uint64(9)
    m = high >> shift
    power = ((217706 * q) >> 16) + 63 + np.int64(top) - np.int64(zeros) + 1023
    if power <= 0 or power >= 2046:
        return 0.0, False
    if low <= _ONE and -4 <= q <= 23 and (m & np.uint64(3)) == _ONE and (m << shift) == high:
        m &= ~_ONE
    m = (m + (m & _ONE)) >> _ONE
    if m >= np.uint64(1 << 53):
        m >>= _ONE
        power += 1
    bits = (m & np.uint64((1 << 52) - 1)) | (np.uint64(power) << np.uint64(52))
    return float_of_bits(np.int64(bits)), True


@njit(nogil=True, error_model="numpy")
def number(text, i, tens, powers):
    """Reads a number from byte i on; returns it and where it ends, -1 if it is out of the usual."""
    negative = text[i] == 45
    i += np.int64(negative)
    start = i
    w, i = _digits(text, i, _NONE)
    many = i - start
    if many == 0 or (many > 1 and text[start] == 48):
        return 0.0, -1
    many -= np.int64(w == _NONE)
    q = 0
    if text[i] == 46:
        i += 1
        point = i
        if w == _NONE:
            while text[i] == 48:
                i += 1
        first = i
        w, i = _digits(text, i, w)
        if i == point:
            return 0.0, -1
        many += i - first
        q = point - i
    if text[i] == 101 or text[i] == 69:
        i += 1
        below = text[i] == 45
        i += np.int64(below or text[i] == 43)
        power, first = 0, i
        while 48 <= text[i] <= 57 and i < first + 5:
            power = power * 10 + text[i] - 48
            i += 1
        if i == first:
            return 0.0, -1
        q += -power if below else power
    if many > 19:
        return 0.0, -1
    value = np.float64(w)
    if w == _NONE:
        value = 0.0
    elif w < np.uint64(1 << 53) and -22 <= q <= 22:
        value = value / tens[-q] if q < 0 else value * tens[q]
    elif q < -_REACH or q > _REACH:
        return 0.0, -1
    else:
        value, certain = _nearest(w, q, powers)
        if not certain:
            return 0.0, -1
    return -value if negative else value, i


@njit(nogil=True, error_model="numpy")
def whole(text, i):
    """Reads a whole number from byte i on; returns it and where it ends, -1 if it is none."""
    negative = text[i] == 45
    i += np.int64(negative)
    start, value = i, 0
    while 48 <= text[i] <= 57:
        value = value * 10 + np.int64(text[i]) - 48
        i += 1
    if i == start or i - start > 18 or (text[start] == 48 and i > start + 1):
        return 0, -1
    if text[i] == 46 or text[i] == 101 or text[i] == 69:
        return 0, -1
    return -value if negative else value, i
