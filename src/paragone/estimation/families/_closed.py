r"""Log masses of windows of laws whose distribution function has a closed form.

Such a law is one of a few basic ones after a change of variable $y = y(z; s)$: a Weibull variable
has $y = k \log z$ in the law with $\log(1 - F) = -e^y$. With A and B the logarithms of the tail at
the nearer and the farther end of a window, and of the two tails the one in which both are small,

$$ L = A + \log(1 - e^{B - A}), \quad q = \frac{1}{e^{A - B} - 1}, \quad
   L_A = 1 + q, \quad L_B = -q, \quad L_{AA} = L_{BB} = -L_{AB} = -q (1 + q), $$

and the rest is the chain rule through y. Nothing is subtracted from 1, so that this holds where
the tail itself is no number. `closed` compiles this into one pass over all windows, one end each
where they are open. For a narrow window the terms with q cancel: see `_windows.narrow`.

Cost: 15 to 60 ns a window.

References:
    Lawless (2003), "Statistical models and methods for lifetime data", section 2.2.

Shapes: m windows, k shapes; out (m, 6 + 3k + k(k + 1)/2) in the layout of the sums in `_kernels`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from paragone.estimation._elementary import erfcx
from paragone.kernels.jit import njit

__all__ = [
    "cauchy", "closed", "exponential", "gumbel", "half_normal", "identity", "laplace",
    "logistic", "normal",
]  # fmt: skip

_LOG_2 = 0.6931471805599453
_NARROW = -0.02
_ROOT_HALF = 0.7071067811865476
_ROOT_2_BY_PI = 0.7978845608028654
_ROOT_2PI = 2.5066282746310002


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _log_one_minus_exp(x):
    """log(1 - e^x) of x < 0."""
    return math.log(-math.expm1(x)) if x > -_LOG_2 else math.log1p(-math.exp(x))


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _exponential(t, upper):
    """(log T, (log T)', (log T)'', T'' / T) in t of either tail T of 1 - F = e^-t."""
    if upper:
        return -t, -1.0, 0.0, 1.0
    d = math.exp(-t) / -math.expm1(-t)
    return _log_one_minus_exp(-t), d, -d * (1.0 + d), -d


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _gumbel(y, upper):
    """The same of log(1 - F) = -e^y."""
    t = math.exp(y)
    if upper:
        return -t, -t, -t, -t * (1.0 - t)
    if t < 0.3:
        # d = t / (e^t - 1) and 1 - t - d by Bernoulli's series: their difference is no rounding.
        u = t * t
        even = u * (1 / 12 - u * (1 / 720 - u * (1 / 30240 - u / 1209600)))
        d, bend = 1.0 - 0.5 * t + even, -0.5 * t - even
        value = y + math.log(-math.expm1(-t) / t) if y > -30.0 else y - 0.5 * t
        return value, d, d * bend, d * (1.0 - t)
    e, t = math.exp(-t), min(t, 1e300)
    d = t * e / (1.0 - e)
    return math.log1p(-e), d, d * (1.0 - t - d), d * (1.0 - t)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _logistic(y):
    """The same of the upper tail alone, as for all symmetric laws here."""
    e = math.exp(-abs(y))
    i = 1.0 / (1.0 + e)
    d, turn = (-i, 1.0 - e) if y > 0.0 else (-e * i, e - 1.0)
    return -max(y, 0.0) - math.log1p(e), d, -e * i * i, -d * turn * i


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _normal(y):
    if y < 0.0:
        density = math.exp(-0.5 * y * y)
        below = 0.5 * erfcx(-y * _ROOT_HALF) * density
        r = density / (_ROOT_2PI * (1.0 - below))
        return math.log1p(-below), -r, -r * (r - y), r * y
    c = erfcx(y * _ROOT_HALF)
    r = _ROOT_2_BY_PI / c
    gap = r - y
    if y > 30.0:
        u = 1.0 / (y * y)
        gap = (1.0 - u * (2.0 - u * (10.0 - u * (74.0 - u * (706.0 - u * 8162.0))))) / y
    return math.log(0.5 * c) - 0.5 * y * y, -r, -r * gap, r * y


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _cauchy(y):
    square = 1.0 / (1.0 + y * y)
    part = math.atan2(1.0, abs(y)) / math.pi
    tail, value = (part, math.log(part)) if y > 0.0 else (1.0 - part, math.log1p(-part))
    r = square / (math.pi * tail)
    return value, -r, r * (2.0 * y * square - r), 2.0 * r * y * square


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _laplace(y):
    if y > 0.0:
        return -_LOG_2 - y, -1.0, 0.0, 1.0
    half = 0.5 * math.exp(y)
    r = half / (1.0 - half)
    return math.log1p(-half), -r, -r * (1.0 + r), -r


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _half_normal(y, upper):
    if upper:
        value, d, dd, tt = _normal(y)
        return value + _LOG_2, d, dd, tt
    mass = math.erf(y * _ROOT_HALF)
    d = 2.0 * math.exp(-0.5 * y * y) / (_ROOT_2PI * mass)
    value = math.log(mass) if y < 1.0 else math.log1p(-math.erfc(y * _ROOT_HALF))
    return value, d, -d * (d + y), -d * y


def _symmetric(half: Any) -> tuple[Any, float]:
    @njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
    def tail(y, upper):
        value, d, dd, tt = half(y if upper else -y)
        return value, d if upper else -d, dd, tt

    return tail, 0.0


exponential: tuple[Any, float] = (_exponential, _LOG_2)
"""Tails of 1 - F = exp(-y), and the median."""
gumbel: tuple[Any, float] = (_gumbel, -0.36651292058166435)
"""Tails of 1 - F = exp(-e^y), and the median."""
half_normal: tuple[Any, float] = (_half_normal, 0.6744897501960817)
"""Tails of |Z| of a normal Z, and the median."""
logistic, normal = _symmetric(_logistic), _symmetric(_normal)
cauchy, laplace = _symmetric(_cauchy), _symmetric(_laplace)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _combine(tail, median, y):
    """(L, slopes and bends of L in both y, log share of the farther end)."""
    upper = y[0] > median
    near, far = (y[0], y[1]) if upper else (y[1], y[0])
    value, d, dd, _ = tail(near, upper)
    rest, e, _, ee = tail(far, upper)
    share = rest - value
    if not share > -700.0:
        e, ee, q = 0.0, 0.0, 0.0
    else:
        q = 1.0 / math.expm1(-share)
        value += _log_one_minus_exp(share)
    r = q * (1.0 + q)
    first, last, both = (1.0 + q) * d, -q * e, r * d * e
    # What is far may be steep: its curvature is that of T, not of log T.
    bend, turn = (1.0 + q) * dd - r * d * d, -q * ee - (q * e) ** 2
    if upper:
        return value, first, last, bend, both, turn, share
    return value, last, first, turn, both, bend, share


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _open(o, v, z, d, dd, k):
    """The row o of a window with one end, v the change of variable there."""
    first, second = d * v[1], d * v[2] + dd * v[1] * v[1]
    o[1], o[2], o[3], o[4], o[5] = first, z * first, second, z * second, z * z * second
    if k > 0:
        mixed = d * v[4] + dd * v[1] * v[3]
        o[6], o[7], o[8] = d * v[3], mixed, z * mixed
        o[6 + 3 * k] = d * v[5] + dd * v[3] * v[3]
    if k > 1:
        mixed = d * v[7] + dd * v[1] * v[6]
        o[9], o[10], o[11] = d * v[6], mixed, z * mixed
        o[13], o[14] = d * v[8] + dd * v[3] * v[6], d * v[9] + dd * v[6] * v[6]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _spread(o, ends, l1, l2, k):
    """Adds to the row o what both ends say, by the chain rule through y and z."""
    for e in range(2):
        v, d = ends[e], l1[e]
        z = v[10]
        o[1] += d * v[1]
        o[2] += d * z * v[1]
        o[3] += d * v[2]
        o[4] += d * z * v[2]
        o[5] += d * z * z * v[2]
        if k > 0:
            o[6] += d * v[3]
            o[7] += d * v[4]
            o[8] += d * z * v[4]
            o[6 + 3 * k] += d * v[5]
        if k > 1:
            o[9] += d * v[6]
            o[10] += d * v[7]
            o[11] += d * z * v[7]
            o[13] += d * v[8]
            o[14] += d * v[9]
        for f in range(2):
            u = ends[f]
            g = l2[e, f] * v[1]
            h = g * u[1]
            o[3] += h
            o[4] += h * z
            o[5] += h * z * u[10]
            if k > 0:
                o[7] += g * u[3]
                o[8] += g * z * u[3]
                o[6 + 3 * k] += l2[e, f] * v[3] * u[3]
            if k > 1:
                o[10] += g * u[6]
                o[11] += g * z * u[6]
                o[13] += l2[e, f] * v[3] * u[6]
                o[14] += l2[e, f] * v[6] * u[6]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def identity(z, a, b):
    """The change of variable y = z."""
    return z, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0


def closed(
    law: tuple[Any, float], change: Callable[..., Any], shapes: int = 0, falling: bool = False
) -> tuple[Any]:
    """Returns (rows,), a kernel.

    It is rows(lower, upper, shapes (2,), begin, end, loc, scale, out, narrow) -> count; (begin,
    end) is the support of z, narrow (m,) says which windows are so, count how many.

    Args:
        law: A basic law of this module.
        change: (z, a, b) -> y, y_z, y_zz, y_a, y_za, y_aa, y_b, y_zb, y_ab, y_bb.
        shapes: How many shapes count.
        falling: Whether y falls as z grows.
    """
    tail, median = law
    k = shapes

    @njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
    def rows(lower, upper, s, begin, end, loc, scale, out, narrow):
        count = 0
        ends, used, y = np.empty((2, 11)), np.zeros(2, np.bool_), np.zeros(2)
        l1, l2 = np.empty(2), np.empty((2, 2))
        for i in range(len(lower)):
            o = out[i]
            o[:] = 0.0
            a, b = (lower[i] - loc) / scale, (upper[i] - loc) / scale
            if not (a < b and a < end and b > begin):
                o[0] = -np.inf
                continue
            used[0], used[1] = (b < end, a > begin) if falling else (a > begin, b < end)
            if not (used[0] or used[1]):
                continue
            if used[0] != used[1]:
                z = a if used[0] != falling else b
                v = change(z, s[0], s[1])
                o[0], d, dd, _ = tail(v[0], used[0])
                if o[0] > -np.inf:
                    _open(o, v, z, d, dd, k)
                else:
                    o[0] = -np.inf
                continue
            for e in range(2):
                z = b if (e == 0) == falling else a
                w = ends[e]
                (
                    w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8], w[9],
                ) = change(z, s[0], s[1])  # fmt: skip
                w[10], y[e] = z, w[0]
            o[0], l1[0], l1[1], l2[0, 0], l2[0, 1], l2[1, 1], share = _combine(tail, median, y)
            l2[1, 0] = l2[0, 1]
            if not o[0] > -np.inf:
                o[0] = -np.inf
                continue
            narrow[i] = share > _NARROW
            count += narrow[i]
            _spread(o, ends, l1, l2, k)
        return count

    return (rows,)
