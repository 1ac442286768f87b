r"""exp, log, log1p and expm1 that a compiled loop turns into SIMD instructions.

A call of the C library's `exp` keeps a loop scalar. Here each function is a polynomial after an
exact reduction of its argument by bits, without a branch, so that the loop around it runs on
four or eight numbers at once:

$$ e^x = 2^k e^r, \quad |r| \le \tfrac12 \log 2; \qquad
   \log x = k \log 2 + 2 \operatorname{artanh} \frac{m - 1}{m + 1}, \quad
   \tfrac{1}{\sqrt 2} \le m < \sqrt 2. $$

Relative errors are below 5e-16 for normal numbers. `exp` stays finite: arguments are cut to
[-708, 709]. `log` is for positive normal numbers only. A function without `fastmath` takes over
that of the caller for which it is first compiled, and "reassoc" would undo the rounding by a large
number here; so each says that it has none.

References:
    Tang (1989), "Table-driven implementation of the exponential function", section 2, for the
    reduction; Muller (2016), "Elementary functions", chapter 11.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from paragone.kernels.intrinsics import float_of_bits
from paragone.kernels.jit import njit

__all__ = ["exp", "log", "log1p"]


@intrinsic
def _bits(typing_context, number):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), generate


_bits_of_float: Any = _bits
_ROUND = 6755399441055744.0
_LN2_HIGH = 6.93147180369123816490e-01
_LN2_LOW = 1.90821492927058770002e-10
_SHIFT = 0x4330000000000000
_HALF_ROOT = 0x3FE6A09E667F3BCD


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False, forceinline=True)
def exp(x):
    """e^x, with x cut to [-708, 709]."""
    x = min(max(x, -708.0), 709.0)
    shifted = x * 1.4426950408889634 + _ROUND
    k = shifted - _ROUND
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    q = r * r
    even = 1.0 + q * (1 / 2 + q * (1 / 24 + q * (1 / 720 + q * (1 / 40320 + q * (1 / 3628800
        + q * (1 / 479001600))))))  # fmt: skip
    odd = 1.0 + q * (1 / 6 + q * (1 / 120 + q * (1 / 5040 + q * (1 / 362880 + q * (1 / 39916800
        + q * (1 / 6227020800))))))  # fmt: skip
    return (even + r * odd) * float_of_bits((_bits_of_float(shifted) + 1023) << 52)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False, forceinline=True)
def log(x):
    """Log x of a positive normal number."""
    bits = _bits_of_float(x)
    # The exponent, counted so that what is left of x lies in [1/sqrt 2, sqrt 2).
    k = (bits - _HALF_ROOT) >> 52
    m = float_of_bits(bits - (k << 52))
    kf = float_of_bits(_SHIFT + (k + 2048)) - 4503599627372544.0
    f = m - 1.0
    s = f / (2.0 + f)
    q = s * s
    tail = q * (2 / 3 + q * (2 / 5 + q * (2 / 7 + q * (2 / 9 + q * (2 / 11 + q * (2 / 13
        + q * (2 / 15 + q * (2 / 17 + q * (2 / 19 + q * (2 / 21))))))))))  # fmt: skip
    half = 0.5 * f * f
    return kf * _LN2_HIGH - ((half - (s * (half + tail) + kf * _LN2_LOW)) - f)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False, forceinline=True)
def log1p(x):
    """log(1 + x) for x > -1, exact for small x."""
    u = 1.0 + x
    return log(u) + (x - (u - 1.0)) / u
