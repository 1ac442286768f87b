r"""Log densities of the built-in models with hand-written gradients, compiled.

Each is `f(x, slope, reals, integers)` as `_density` describes; what need be computed once, such
as normalising constants, comes with the data.
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

import numpy as np

from paragone.kernels.jit import njit

__all__ = [
    "counts", "eight_schools", "eight_schools_centred", "funnel", "hierarchical", "item_response",
    "linear", "logistic", "mixture", "multivariate_normal", "normal", "poisson", "robust",
]  # fmt: skip

_SUMS = {"reassoc", "contract", "nsz"}


@njit(nogil=True, error_model="numpy", _nrt=False)
def _half_cauchy(x, precision, slope, i):
    """Log density of x > 0 but for a constant; sets slope[i]."""
    square = x * x * precision
    slope[i] = -2.0 * x * precision / (1.0 + square)
    return -math.log1p(square)


@njit(nogil=True, error_model="numpy", _nrt=False, fastmath=_SUMS)
def _normals(x, slope, start, stop, precision):
    """Log density of independent centred normals but for a constant; sets their slopes."""
    square = 0.0
    for i in range(start, stop):
        slope[i] = -x[i] * precision
        square += x[i] * x[i]
    return -0.5 * square * precision


@njit(nogil=True, error_model="numpy", _nrt=False)
def eight_schools(x, slope, reals, integers):
    """x: mu, tau, theta_trans (J); reals: constant, precisions of mu, tau and y (J), y (J)."""
    count = integers[0]
    mu, tau = x[0], x[1]
    total = reals[0] + _normals(x, slope, 2, 2 + count, 1.0)
    total += _normals(x, slope, 0, 1, reals[1])
    total += _half_cauchy(tau, reals[2], slope, 1)
    square = for_mu = for_tau = 0.0
    for j in range(count):
        effect = x[2 + j]
        error = reals[3 + count + j] - mu - tau * effect
        pull = error * reals[3 + j]
        square += error * pull
        for_mu += pull
        for_tau += pull * effect
        slope[2 + j] += pull * tau
    slope[0] += for_mu
    slope[1] += for_tau
    return total - 0.5 * square


@njit(nogil=True, error_model="numpy", _nrt=False)
def eight_schools_centred(x, slope, reals, integers):
    """x: mu, tau, theta (J); reals as for `eight_schools`."""
    count = integers[0]
    mu, tau = x[0], x[1]
    total = reals[0] + _normals(x, slope, 0, 1, reals[1])
    total += _half_cauchy(tau, reals[2], slope, 1)
    precision = 1.0 / (tau * tau)
    square = spread = for_mu = 0.0
    for j in range(count):
        error = reals[3 + count + j] - x[2 + j]
        pull = error * reals[3 + j]
        square += error * pull
        effect = x[2 + j] - mu
        spread += effect * effect
        effect *= precision
        for_mu += effect
        slope[2 + j] = pull - effect
    slope[0] += for_mu
    slope[1] += (spread * precision - count) / tau
    return total - 0.5 * (square + spread * precision) - count * math.log(tau)


@njit(nogil=True, error_model="numpy", _nrt=False, fastmath=_SUMS)
def linear(x, slope, reals, integers):
    """x: coefficients (p), sigma.

    reals: constant, precision of sigma, rss, precisions (p), Q'y (p), R (p, p).
    """
    n, p = integers[0], integers[1]
    sigma = x[p]
    total = reals[0] + _half_cauchy(sigma, reals[1], slope, p)
    square, precision = reals[2], 1.0 / (sigma * sigma)
    for i in range(p):
        slope[i] = -x[i] * reals[3 + i]
        total += 0.5 * x[i] * slope[i]
    for i in range(p):
        row = 3 + 2 * p + i * p
        rest = reals[3 + p + i]
        for j in range(i, p):
            rest -= reals[row + j] * x[j]
        square += rest * rest
        rest *= precision
        for j in range(i, p):
            slope[j] += reals[row + j] * rest
    slope[p] += (square * precision - n) / sigma
    return total - 0.5 * square * precision - n * math.log(sigma)


@njit(nogil=True, error_model="numpy", _nrt=False, fastmath=_SUMS)
def _predict(x, reals, start, p, eta):
    """Linear predictors of all rows; the design lies column by column, for wide registers."""
    n = eta.size
    for i in range(n):
        eta[i] = 0.0
    for j in range(p):
        for i in range(n):
            eta[i] += reals[start + j * n + i] * x[j]


@njit(nogil=True, error_model="numpy", _nrt=False, fastmath=_SUMS)
def _add_rows(slope, reals, start, p, pull):
    """Adds the pulls of all rows to the slopes of the coefficients."""
    n = pull.size
    for j in range(p):
        total = 0.0
        for i in range(n):
            total += reals[start + j * n + i] * pull[i]
        slope[j] += total


@njit(nogil=True, error_model="numpy")
def logistic(x, slope, reals, integers):
    """x: coefficients (p); reals: constant, precision, X' (p, n), rows of y = 0 negated.

    The logarithms of up to 512 factors of at most 2 are one logarithm of their product.
    """
    n, p = integers[0], integers[1]
    total = reals[0] + _normals(x, slope, 0, p, reals[1])
    pull, product = np.empty(n), 1.0
    _predict(x, reals, 2, p, pull)
    for i in range(n):
        eta = pull[i]
        e = math.exp(-abs(eta))
        total += min(eta, 0.0)
        product *= 1.0 + e
        if i & 511 == 511:
            total -= math.log(product)
            product = 1.0
        pull[i] = (e if eta > 0 else 1.0) / (1.0 + e)
    _add_rows(slope, reals, 2, p, pull)
    return total - math.log(product)


@njit(nogil=True, error_model="numpy")
def poisson(x, slope, reals, integers):
    """x: coefficients (p); reals: constant, precision, y (n), X' (p, n)."""
    n, p = integers[0], integers[1]
    total = reals[0] + _normals(x, slope, 0, p, reals[1])
    pull = np.empty(n)
    _predict(x, reals, 2 + n, p, pull)
    for i in range(n):
        rate, y = math.exp(pull[i]), reals[2 + i]
        total += y * pull[i] - rate
        pull[i] = y - rate
    _add_rows(slope, reals, 2 + n, p, pull)
    return total


@njit(nogil=True, error_model="numpy")
def robust(x, slope, reals, integers):
    """x: coefficients (p), sigma; reals: constant, precisions of both, nu, y (n), X' (p, n).

    The factors 1 + error^2 / nu are multiplied up, as far as they stay in range, before one
    logarithm is taken of all.
    """
    n, p = integers[0], integers[1]
    sigma, nu = x[p], reals[3]
    total = reals[0] + _normals(x, slope, 0, p, reals[1])
    total += _half_cauchy(sigma, reals[2], slope, p)
    inverse, rise, logs, product = 1.0 / sigma, 0.0, 0.0, 1.0
    pulls = np.empty(n)
    _predict(x, reals, 4 + n, p, pulls)
    for i in range(n):
        error = (reals[4 + i] - pulls[i]) * inverse
        square = error * error
        pull = (nu + 1.0) * error / (nu + square)
        product *= 1.0 + square / nu
        if product > 1e100:
            logs += math.log(product)
            product = 1.0
        rise += pull * error
        pulls[i] = pull * inverse
    _add_rows(slope, reals, 4 + n, p, pulls)
    slope[p] += (rise - n) * inverse
    return total - 0.5 * (nu + 1.0) * (logs + math.log(product)) - n * math.log(sigma)


@njit(nogil=True, error_model="numpy", _nrt=False)
def normal(x, slope, reals, integers):
    """x: mu, sigma; reals: constant, location, two precisions, mean and squares of y."""
    n = integers[0]
    sigma = x[1]
    prior, error, precision = x[0] - reals[1], reals[4] - x[0], 1.0 / (x[1] * x[1])
    total = reals[0] - 0.5 * prior * prior * reals[2]
    total += _half_cauchy(sigma, reals[3], slope, 1)
    square = (reals[5] + n * error * error) * precision
    slope[0] = n * error * precision - prior * reals[2]
    slope[1] += (square - n) / sigma
    return total - 0.5 * square - n * math.log(sigma)


@njit(nogil=True, error_model="numpy", _nrt=False)
def hierarchical(x, slope, reals, integers):
    """x: mu, tau, beta, sigma, effects (J).

    reals: constant, precisions of those four, Sxx, Sxy, Syy, sizes (J), xbar (J), ybar (J). Sums
    within groups are about the group's own means, so no large numbers cancel.
    """
    n, groups = integers[0], integers[1]
    mu, tau, beta, sigma = x[0], x[1], x[2], x[3]
    total = reals[0] + _normals(x, slope, 4, 4 + groups, 1.0)
    total += _normals(x, slope, 0, 1, reals[1]) + _normals(x, slope, 2, 3, reals[3])
    total += _half_cauchy(tau, reals[2], slope, 1) + _half_cauchy(sigma, reals[4], slope, 3)
    precision = 1.0 / (sigma * sigma)
    square = reals[7] - 2.0 * beta * reals[6] + beta * beta * reals[5]
    for_mu = for_tau = 0.0
    for_beta = (reals[6] - beta * reals[5]) * precision
    for j in range(groups):
        xbar, effect = reals[8 + groups + j], x[4 + j]
        error = reals[8 + 2 * groups + j] - mu - tau * effect - beta * xbar
        pull = reals[8 + j] * error
        square += pull * error
        pull *= precision
        for_mu += pull
        for_tau += pull * effect
        for_beta += pull * xbar
        slope[4 + j] += pull * tau
    slope[0] += for_mu
    slope[1] += for_tau
    slope[2] += for_beta
    slope[3] += (square * precision - n) / sigma
    return total - 0.5 * square * precision - n * math.log(sigma)


@njit(nogil=True, error_model="numpy", _nrt=False)
def funnel(x, slope, reals, integers):
    """x: v, then x (d) with standard deviation exp(v / 2); reals: constant, precision of v."""
    d = integers[0]
    v = x[0]
    total = reals[0] + _normals(x, slope, 0, 1, reals[1])
    inner = _normals(x, slope, 1, d + 1, math.exp(-v))
    slope[0] -= inner + 0.5 * d
    return total + inner - 0.5 * d * v


@njit(nogil=True, error_model="numpy", _nrt=False, fastmath=_SUMS)
def multivariate_normal(x, slope, reals, integers):
    """X (d); reals: constant, mean (d), precision (d, d)."""
    d = integers[0]
    total = 0.0
    for i in range(d):
        pull = 0.0
        row = 1 + d + i * d
        for j in range(d):
            pull += reals[row + j] * (x[j] - reals[1 + j])
        slope[i] = -pull
        total += pull * (x[i] - reals[1 + i])
    return reals[0] - 0.5 * total


@njit(nogil=True, error_model="numpy", _nrt=False)
def item_response(x, slope, reals, integers):
    """x: ability (J), log discrimination (I), difficulty (I).

    reals: constant, precisions of the last two, answers as -1 and 1 (I, J).
    """
    persons, items = integers[0], integers[1]
    first, second = persons, persons + items
    total = reals[0] + _normals(x, slope, 0, persons, 1.0)
    total += _normals(x, slope, first, second, reals[1])
    total += _normals(x, slope, second, second + items, reals[2])
    for i in range(items):
        power, hard, row = math.exp(x[first + i]), x[second + i], 3 + i * persons
        product, rise, fall = 1.0, 0.0, 0.0
        for j in range(persons):
            sign, gap = reals[row + j], x[j] - hard
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


@njit(nogil=True, error_model="numpy", _nrt=False)
def counts(x, slope, reals, integers):
    """x: probabilities (K); reals: constant, count + concentration - 1 (K)."""
    total = reals[0]
    for k in range(x.size):
        total += reals[1 + k] * math.log(x[k]) if reals[1 + k] != 0.0 else 0.0
        slope[k] = reals[1 + k] / x[k]
    return total


@njit(nogil=True, error_model="numpy", _nrt=False)
def mixture(x, slope, reals, integers):
    """x: share, mu (2, ordered), sigma (2); reals: constant, precisions of both, y (n)."""
    n = integers[0]
    share, inverse_a, inverse_b = x[0], 1.0 / x[3], 1.0 / x[4]
    total = reals[0] + 4.0 * (math.log(share) + math.log1p(-share))
    slope[0] = 4.0 / share - 4.0 / (1.0 - share)
    total += _normals(x, slope, 1, 3, reals[1]) + _normals(x, slope, 3, 5, reals[2])
    log_a, log_b = math.log(share * inverse_a), math.log((1.0 - share) * inverse_b)
    for i in range(n):
        a, b = (reals[3 + i] - x[1]) * inverse_a, (reals[3 + i] - x[2]) * inverse_b
        one, two = log_a - 0.5 * a * a, log_b - 0.5 * b * b
        far = math.exp(-abs(one - two))
        total += max(one, two) + math.log1p(far)
        e = (1.0 if one > two else far) / (1.0 + far)
        f = (far if one > two else 1.0) / (1.0 + far)
        slope[0] += e / share - f / (1.0 - share)
        slope[1] += e * a * inverse_a
        slope[2] += f * b * inverse_b
        slope[3] += e * (a * a - 1.0) * inverse_a
        slope[4] += f * (b * b - 1.0) * inverse_b
    return total
