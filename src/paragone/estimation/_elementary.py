r"""exp, log, log1p and erfcx that a compiled loop turns into SIMD instructions.

A call of the C library's `exp` keeps a loop scalar. Here each function is a polynomial after an
exact reduction of its argument by bits, without a branch, so that the loop around it runs on
four or eight numbers at once:

$$ e^x = 2^k e^r, \quad |r| \le \tfrac12 \log 2; \qquad
   \log x = k \log 2 + 2 \operatorname{artanh} \frac{m - 1}{m + 1}, \quad
   \tfrac{1}{\sqrt 2} \le m < \sqrt 2. $$

`erfcx` is $e^{x^2} \operatorname{erfc} x$ by one polynomial in $(x - 3.75) / (x + 3.75)$ for
$(1 + 2x) \operatorname{erfcx} x$ on the half line; its coefficients are the Chebyshev expansion of
degree 22, computed with 40 digits. Relative errors are otherwise below 5e-16 for normal
numbers, of `erfcx` below 2e-15. `exp` stays finite: arguments are cut to
[-708, 709]. `log` is for positive normal numbers only. A function without `fastmath` takes over
that of the caller for which it is first compiled, and "reassoc" would undo the rounding by a large
number here; so each says that it has none.

References:
    Tang (1989), "Table-driven implementation of the exponential function", section 2, for the
    reduction; Muller (2016), "Elementary functions", chapter 11.
    Schonfelder (1978), "Chebyshev expansions for the error and related functions", section 4.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from paragone.kernels.intrinsics import float_of_bits
from paragone.kernels.jit import njit

__all__ = ["bits_of_float", "erfcx", "exp", "log", "log1p"]


@intrinsic
def _bits(typing_context, number):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), generate


bits_of_float: Any = _bits
_ROUND = 6755399441055744.0
_LN2_HIGH = 6.93147180369123816490e-01
_LN2_LOW = 1.90821492927058770002e-10
_SHIFT = 0x4330000000000000
_HALF_ROOT = 0x3FE6A09E667F3BCD

_ERFCX = (
    1.2375126308378275,
    -0.14024059858554527,
    0.0035854154854790543,
    0.08227673848999509,
    -0.10880393014244463,
    0.09230432116428125,
    -0.058693398576649354,
    0.02836227737211114,
    -0.009746579683265262,
    0.0017556261651970656,
    0.00029371437804495796,
    -0.0002901553524607766,
    5.1646529741774155e-05,
    2.2387565714911813e-05,
    -1.1438048033346895e-05,
    -9.792625707303519e-07,
    1.7419821586224816e-06,
    -5.0844653786873e-08,
    -2.4857126248016745e-07,
    1.879082322370047e-08,
    3.1979266716668055e-08,
    -1.9551358868985616e-09,
    -2.623107347133476e-09,
)


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
    return (even + r * odd) * float_of_bits((bits_of_float(shifted) + 1023) << 52)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False, forceinline=True)
def log(x):
    """Log x of a positive normal number."""
    bits = bits_of_float(x)
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


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False, forceinline=True)
def erfcx(x):
    """exp(x^2) erfc(x) for x >= 0."""
    s = (x - 3.75) / (x + 3.75)
    q, c = s * s, _ERFCX
    even = (c[0] + q * (c[2] + q * (c[4] + q * (c[6] + q * (c[8] + q * (c[10] + q * (c[12] + q
        * (c[14] + q * (c[16] + q * (c[18] + q * (c[20] + q * c[22])))))))))))  # fmt: skip
    odd = (c[1] + q * (c[3] + q * (c[5] + q * (c[7] + q * (c[9] + q * (c[11] + q * (c[13] + q
        * (c[15] + q * (c[17] + q * (c[19] + q * c[21]))))))))))  # fmt: skip
    return (even + s * odd) / (1.0 + 2.0 * x)
