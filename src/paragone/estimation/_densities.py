r"""Log densities of the built-in models with hand-written gradients, normalised, compiled.

Each is `f(x, slope, reals, integers)` as `_density` describes; `builtin` says what lies where.
Where a likelihood has sufficient statistics the kernel sees only those: a regression of any
length costs O(p^2) once $y$ and $X = QR$ are reduced to $R$, $Q^\top y$ and the residual sum of
squares, $\|y - X\beta\|^2 = \|Q^\top y - R\beta\|^2 + \mathrm{rss}$.

References:
    Gelman et al. (2013), Bayesian Data Analysis, third edition: 5.5 (schools), 14.2 (regression),
    16 (generalised linear models).
    Neal (2003), "Slice sampling", section 8: the funnel.

Shapes: n observations, p columns, J groups.
"""

from __future__ import annotations

import math

from paragone.kernels.jit import njit

__all__ = [
    "counts", "eight_schools", "eight_schools_centred", "funnel", "hierarchical", "item_response",
    "linear", "logistic", "mixture", "multivariate_normal", "normal", "poisson", "robust",
]  # fmt: skip

_LOG_2PI = math.log(2 * math.pi)
_SUMS = {"reassoc", "contract", "nsz"}


@njit(nogil=True, error_model="numpy")
def _half_cauchy(x, scale, slope, i):
    """Log density of x > 0; sets slope[i]."""
    square = (x / scale) ** 2
    slope[i] = -2.0 * x / (scale * scale) / (1.0 + square)
    return math.log(2.0 / (math.pi * scale)) - math.log1p(square)


@njit(nogil=True, error_model="numpy", fastmath=_SUMS)
def _normals(x, slope, start, stop, scale):
    """Log density of independent centred normals; sets their slopes."""
    square = 0.0
    for i in range(start, stop):
        slope[i] = -x[i] / (scale * scale)
        square += x[i] * x[i]
    size = stop - start
    return -0.5 * square / (scale * scale) - size * (math.log(scale) + 0.5 * _LOG_2PI)


@njit(nogil=True, error_model="numpy")
def eight_schools(x, slope, reals, integers):
    """x: mu, tau, theta_trans (J); reals: scales of mu and tau, y (J), sigma (J)."""
    count = integers[0]
    mu, tau = x[0], x[1]
    total = _normals(x, slope, 2, 2 + count, 1.0)
    total += _normals(x, slope, 0, 1, reals[0])
    total += _half_cauchy(tau, reals[1], slope, 1)
    for j in range(count):
        sigma = reals[2 + count + j]
        error = (reals[2 + j] - mu - tau * x[2 + j]) / sigma
        pull = error / sigma
        total -= 0.5 * error * error + reals[2 + 2 * count + j]
        slope[0] += pull
        slope[1] += pull * x[2 + j]
        slope[2 + j] += pull * tau
    return total


@njit(nogil=True, error_model="numpy")
def eight_schools_centred(x, slope, reals, integers):
    """x: mu, tau, theta (J); reals as for `eight_schools`."""
    count = integers[0]
    mu, tau = x[0], x[1]
    total = _normals(x, slope, 0, 1, reals[0])
    total += _half_cauchy(tau, reals[1], slope, 1)
    square = 0.0
    for j in range(count):
        sigma = reals[2 + count + j]
        error = (reals[2 + j] - x[2 + j]) / sigma
        effect = (x[2 + j] - mu) / tau
        total -= 0.5 * error * error + reals[2 + 2 * count + j]
        square += effect * effect
        slope[0] += effect / tau
        slope[2 + j] = error / sigma - effect / tau
    slope[1] += (square - count) / tau
    return total - 0.5 * square - count * (math.log(tau) + 0.5 * _LOG_2PI)


@njit(nogil=True, error_model="numpy", fastmath=_SUMS)
def linear(x, slope, reals, integers):
    """x: coefficients (p), sigma; reals: scale of sigma, rss, scales (p), Q'y (p), R (p, p)."""
    n, p = integers[0], integers[1]
    sigma = x[p]
    total = _half_cauchy(sigma, reals[0], slope, p)
    square = reals[1]
    for i in range(p):
        ratio = x[i] / reals[2 + i]
        total -= 0.5 * ratio * ratio + math.log(reals[2 + i]) + 0.5 * _LOG_2PI
        slope[i] = -ratio / reals[2 + i]
    for i in range(p):
        row = 2 + 2 * p + i * p
        rest = reals[2 + p + i]
        for j in range(i, p):
            rest -= reals[row + j] * x[j]
        square += rest * rest
        rest /= sigma * sigma
        for j in range(i, p):
            slope[j] += reals[row + j] * rest
    slope[p] += (square / (sigma * sigma) - n) / sigma
    return total - 0.5 * square / (sigma * sigma) - n * (math.log(sigma) + 0.5 * _LOG_2PI)


@njit(nogil=True, error_model="numpy", fastmath=_SUMS)
def _predictor(x, design, i, p):
    total = 0.0
    for j in range(p):
        total += design[i, j] * x[j]
    return total


@njit(nogil=True, error_model="numpy", fastmath=_SUMS)
def _add_row(slope, design, i, p, pull):
    for j in range(p):
        slope[j] += design[i, j] * pull


@njit(nogil=True, error_model="numpy")
def logistic(x, slope, reals, integers):
    """x: coefficients (p); reals: scale, X (n, p) with rows of y = 0 negated.

    The logarithms of up to 512 factors of at most 2 are one logarithm of their product.
    """
    n, p = integers[0], integers[1]
    design = reals[1 : 1 + n * p].reshape(n, p)
    total = _normals(x, slope, 0, p, reals[0])
    product = 1.0
    for i in range(n):
        eta = _predictor(x, design, i, p)
        e = math.exp(-abs(eta))
        total += min(eta, 0.0)
        product *= 1.0 + e
        if i & 511 == 511:
            total -= math.log(product)
            product = 1.0
        _add_row(slope, design, i, p, (e if eta > 0 else 1.0) / (1.0 + e))
    return total - math.log(product)


@njit(nogil=True, error_model="numpy")
def poisson(x, slope, reals, integers):
    """x: coefficients (p); reals: scale, sum of log y!, y (n), X (n, p)."""
    n, p = integers[0], integers[1]
    design = reals[2 + n : 2 + n + n * p].reshape(n, p)
    total = _normals(x, slope, 0, p, reals[0]) - reals[1]
    for i in range(n):
        eta = _predictor(x, design, i, p)
        rate, y = math.exp(eta), reals[2 + i]
        total += y * eta - rate
        _add_row(slope, design, i, p, y - rate)
    return total


@njit(nogil=True, error_model="numpy")
def robust(x, slope, reals, integers):
    """x: coefficients (p), sigma; reals: scale, scale of sigma, nu, its constant, y, X."""
    n, p = integers[0], integers[1]
    design = reals[4 + n : 4 + n + n * p].reshape(n, p)
    sigma, nu = x[p], reals[2]
    total = _normals(x, slope, 0, p, reals[0]) + _half_cauchy(sigma, reals[1], slope, p)
    rise = 0.0
    for i in range(n):
        error = (reals[4 + i] - _predictor(x, design, i, p)) / sigma
        square = error * error
        pull = (nu + 1.0) * error / (nu + square)
        total -= 0.5 * (nu + 1.0) * math.log1p(square / nu)
        rise += pull * error
        _add_row(slope, design, i, p, pull / sigma)
    slope[p] += (rise - n) / sigma
    return total + n * (reals[3] - math.log(sigma))


@njit(nogil=True, error_model="numpy")
def normal(x, slope, reals, integers):
    """x: mu, sigma; reals: location and scale of mu, scale of sigma, mean, sum of squares."""
    n = integers[0]
    mu, sigma = x[0], x[1]
    prior = (mu - reals[0]) / reals[1]
    total = -0.5 * prior * prior - math.log(reals[1]) - 0.5 * _LOG_2PI
    total += _half_cauchy(sigma, reals[2], slope, 1)
    square = (reals[4] + n * (reals[3] - mu) ** 2) / (sigma * sigma)
    slope[0] = n * (reals[3] - mu) / (sigma * sigma) - prior / reals[1]
    slope[1] += (square - n) / sigma
    return total - 0.5 * square - n * (math.log(sigma) + 0.5 * _LOG_2PI)


@njit(nogil=True, error_model="numpy")
def hierarchical(x, slope, reals, integers):
    """x: mu, tau, beta, sigma, effects (J); reals: four scales, Sxx, Sxy, Syy, size, xbar, ybar.

    Sums within groups are about the group's own means, so no large numbers cancel.
    """
    n, groups = integers[0], integers[1]
    mu, tau, beta, sigma = x[0], x[1], x[2], x[3]
    total = _normals(x, slope, 4, 4 + groups, 1.0)
    total += _normals(x, slope, 0, 1, reals[0]) + _normals(x, slope, 2, 3, reals[2])
    total += _half_cauchy(tau, reals[1], slope, 1) + _half_cauchy(sigma, reals[3], slope, 3)
    precision = 1.0 / (sigma * sigma)
    square = reals[6] - 2.0 * beta * reals[5] + beta * beta * reals[4]
    slope[2] += (reals[5] - beta * reals[4]) * precision
    for j in range(groups):
        size, xbar = reals[7 + j], reals[7 + groups + j]
        error = reals[7 + 2 * groups + j] - mu - tau * x[4 + j] - beta * xbar
        square += size * error * error
        pull = size * error * precision
        slope[0] += pull
        slope[1] += pull * x[4 + j]
        slope[2] += pull * xbar
        slope[4 + j] += pull * tau
    slope[3] += (square * precision - n) / sigma
    return total - 0.5 * square * precision - n * (math.log(sigma) + 0.5 * _LOG_2PI)


@njit(nogil=True, error_model="numpy")
def funnel(x, slope, reals, integers):
    """x: v, then x (d) with standard deviation exp(v / 2); reals: scale of v."""
    d = integers[0]
    v = x[0]
    precision = math.exp(-v)
    total = _normals(x, slope, 0, 1, reals[0])
    square = 0.0
    for i in range(1, d + 1):
        square += x[i] * x[i]
        slope[i] = -x[i] * precision
    slope[0] += 0.5 * (square * precision - d)
    return total - 0.5 * (square * precision + d * (v + _LOG_2PI))


@njit(nogil=True, error_model="numpy", fastmath=_SUMS)
def multivariate_normal(x, slope, reals, integers):
    """X (d); reals: log determinant of the precision, mean (d), precision (d, d)."""
    d = integers[0]
    total = 0.0
    for i in range(d):
        pull = 0.0
        row = 1 + d + i * d
        for j in range(d):
            pull += reals[row + j] * (x[j] - reals[1 + j])
        slope[i] = -pull
        total += pull * (x[i] - reals[1 + i])
    return 0.5 * (reals[0] - total - d * _LOG_2PI)


@njit(nogil=True, error_model="numpy")
def item_response(x, slope, reals, integers):
    """x: ability (J), log discrimination (I), difficulty (I); reals: two scales, y (J, I)."""
    persons, items = integers[0], integers[1]
    first, second = persons, persons + items
    total = _normals(x, slope, 0, persons, 1.0)
    total += _normals(x, slope, first, second, reals[0])
    total += _normals(x, slope, second, second + items, reals[1])
    for i in range(items):
        power = math.exp(x[first + i])
        product, rise, fall = 1.0, 0.0, 0.0
        for j in range(persons):
            gap = x[j] - x[second + i]
            sign = 2.0 * reals[2 + j * items + i] - 1.0
            eta = sign * power * gap
            e = math.exp(-abs(eta))
            total += min(eta, 0.0)
            product *= 1.0 + e
            if j & 511 == 511:
                total -= math.log(product)
                product = 1.0
            pull = sign * power * (e if eta > 0 else 1.0) / (1.0 + e)
            slope[j] += pull
            fall += pull
            rise += pull * gap
        total -= math.log(product)
        slope[first + i] += rise
        slope[second + i] -= fall
    return total


@njit(nogil=True, error_model="numpy")
def counts(x, slope, reals, integers):
    """x: probabilities (K); reals: constant, count + concentration - 1 (K)."""
    total = reals[0]
    for k in range(x.size):
        total += reals[1 + k] * math.log(x[k]) if reals[1 + k] != 0.0 else 0.0
        slope[k] = reals[1 + k] / x[k]
    return total


@njit(nogil=True, error_model="numpy")
def mixture(x, slope, reals, integers):
    """x: share, mu (2, ordered), sigma (2); reals: scales of mu and sigma, constant, y (n)."""
    n = integers[0]
    share = x[0]
    total = reals[2] + 4.0 * (math.log(share) + math.log1p(-share))
    slope[0] = 4.0 / share - 4.0 / (1.0 - share)
    total += _normals(x, slope, 1, 3, reals[0]) + _normals(x, slope, 3, 5, reals[1])
    # Half normals twice, and an order of two values twice.
    total += 3.0 * math.log(2.0)
    logs = math.log(share) - math.log(x[3]), math.log1p(-share) - math.log(x[4])
    for i in range(n):
        a, b = (reals[3 + i] - x[1]) / x[3], (reals[3 + i] - x[2]) / x[4]
        one, two = logs[0] - 0.5 * a * a, logs[1] - 0.5 * b * b
        top = max(one, two)
        e, f = math.exp(one - top), math.exp(two - top)
        total += top + math.log(e + f) - 0.5 * _LOG_2PI
        e, f = e / (e + f), f / (e + f)
        slope[0] += e / share - f / (1.0 - share)
        slope[1] += e * a / x[3]
        slope[2] += f * b / x[4]
        slope[3] += e * (a * a - 1.0) / x[3]
        slope[4] += f * (b * b - 1.0) / x[4]
    return total
