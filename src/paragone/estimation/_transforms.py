r"""Maps from the whole space to a support, with their log Jacobians and gradients, compiled.

A density over x becomes one over u by $\log p(u) = \log p(x(u)) + \log |\det \partial x /
\partial u|$. The maps: x = u; lower + e^u; upper - e^u; lower + (upper - lower) sigmoid(u);
ordered, x_k = x_{k-1} + e^{u_k}; simplex by breaking a stick, z_k = sigmoid(u_k - log(K - k - 1)),
x_k = r_k z_k, r_{k+1} = r_k (1 - z_k).

References:
    Stan Reference Manual 2.36, chapter "Constraint Transforms".

Shapes: u (m,), x (n,), blocks (b, 4) and limits (2, n) as in `_parameters.Layout`.
"""

from __future__ import annotations

import math

import numpy as np

from paragone.estimation._parameters import INTERVAL, LOWER, ORDERED, REAL, SIMPLEX, UPPER
from paragone.kernels.jit import njit

ONE = np.uint64(1)

__all__ = ["constrain", "constrain_rows", "pull_back", "unconstrain"]


@njit(inline="always")
def _sigmoid(u):
    if u >= 0:
        return 1.0 / (1.0 + math.exp(-u))
    e = math.exp(u)
    return e / (1.0 + e)


@njit(inline="always")
def _log_sigmoids(u):
    """Log s(u) + log s(-u), exact in both tails."""
    return -abs(u) - 2.0 * math.log1p(math.exp(-abs(u)))


@njit(nogil=True, error_model="numpy", _nrt=False)
def _ordered(u, x):
    x[0], total = u[0], 0.0
    for k in range(1, x.size):
        x[k] = x[k - 1] + math.exp(u[k])
        total += u[k]
    return total


@njit(nogil=True, error_model="numpy", _nrt=False)
def _pull_ordered(x, slope, gradient, jacobian):
    above = 0.0
    for k in range(x.size - 1, 0, -1):
        above += slope[k]
        gradient[k] = above * (x[k] - x[k - 1]) + jacobian
    gradient[0] = above + slope[0]


@njit(nogil=True, error_model="numpy", _nrt=False)
def _broken_stick(u, x):
    rest, total = 1.0, 0.0
    for k in range(u.size):
        centred = u[k] - math.log(u.size - k)
        total += _log_sigmoids(centred) + math.log(rest)
        x[k] = rest * _sigmoid(centred)
        rest *= _sigmoid(-centred)
    x[u.size] = rest
    return total


@njit(nogil=True, error_model="numpy", _nrt=False)
def _pull_stick(u, x, slope, gradient, jacobian):
    rest, adjoint = x[u.size], slope[u.size]
    for k in range(u.size - 1, -1, -1):
        rest += x[k]
        centred = u[k] - math.log(u.size - k)
        z, y = _sigmoid(centred), _sigmoid(-centred)
        gradient[k] = (slope[k] - adjoint) * rest * z * y + jacobian * (y - z)
        adjoint = slope[k] * z + adjoint * y + jacobian / rest


@njit(nogil=True, error_model="numpy", _nrt=False)
def constrain(u, x, blocks, limits):
    """Writes x(u) and returns the log Jacobian."""
    total = 0.0
    for b in range(blocks.shape[0]):
        kind, i, j, size = blocks[b, 0], blocks[b, 1], blocks[b, 2], blocks[b, 3]
        if kind == REAL:
            for k in range(size):
                x[j + k] = u[i + k]
        elif kind == LOWER:
            for k in range(size):
                x[j + k] = limits[0, j + k] + math.exp(u[i + k])
                total += u[i + k]
        elif kind == UPPER:
            for k in range(size):
                x[j + k] = limits[1, j + k] - math.exp(u[i + k])
                total += u[i + k]
        elif kind == INTERVAL:
            for k in range(size):
                wide = limits[1, j + k] - limits[0, j + k]
                x[j + k] = limits[0, j + k] + wide * _sigmoid(u[i + k])
                total += math.log(wide) + _log_sigmoids(u[i + k])
        elif kind == ORDERED:
            total += _ordered(u[i : i + size], x[j : j + size])
        else:
            total += _broken_stick(u[i : i + size - ONE], x[j : j + size])
    return total


@njit(nogil=True, error_model="numpy", _nrt=False)
def pull_back(u, x, slope, gradient, blocks, limits, jacobian):
    """Writes d/du of log p(x(u)) + jacobian * log |dx/du| from the slope d/dx."""
    for b in range(blocks.shape[0]):
        kind, i, j, size = blocks[b, 0], blocks[b, 1], blocks[b, 2], blocks[b, 3]
        if kind == REAL:
            for k in range(size):
                gradient[i + k] = slope[j + k]
        elif kind == LOWER:
            for k in range(size):
                gradient[i + k] = slope[j + k] * (x[j + k] - limits[0, j + k]) + jacobian
        elif kind == UPPER:
            for k in range(size):
                gradient[i + k] = slope[j + k] * (x[j + k] - limits[1, j + k]) + jacobian
        elif kind == INTERVAL:
            for k in range(size):
                s, t = _sigmoid(u[i + k]), _sigmoid(-u[i + k])
                wide = limits[1, j + k] - limits[0, j + k]
                gradient[i + k] = slope[j + k] * wide * s * t + jacobian * (t - s)
        elif kind == ORDERED:
            _pull_ordered(x[j : j + size], slope[j : j + size], gradient[i : i + size], jacobian)
        else:
            last = size - ONE
            _pull_stick(
                u[i : i + last], x[j : j + size], slope[j : j + size], gradient[i : i + last],
                jacobian,
            )  # fmt: skip


@njit(nogil=True, error_model="numpy", _nrt=False)
def constrain_rows(rows, found, blocks, limits):
    """Writes x(u) of each row (r, m) into (r, n)."""
    for r in range(rows.shape[0]):
        constrain(rows[r], found[r], blocks, limits)


def unconstrain(x: np.ndarray, blocks: np.ndarray, limits: np.ndarray, m: int) -> np.ndarray:
    """Returns u (m,) of a point x (n,) within its support."""
    u = np.empty(m)
    for kind, i, j, size in blocks.astype(np.int64):
        part, (low, high) = x[j : j + size], limits[:, j : j + size]
        if kind == LOWER:
            u[i : i + size] = np.log(part - low)
        elif kind == UPPER:
            u[i : i + size] = np.log(high - part)
        elif kind == INTERVAL:
            u[i : i + size] = np.log(part - low) - np.log(high - part)
        elif kind == ORDERED:
            u[i], u[i + 1 : i + size] = part[0], np.log(np.diff(part))
        elif kind == SIMPLEX:
            rest = np.cumsum(part[::-1])[::-1]
            left = np.arange(size - 1, 0, -1)
            u[i : i + size - 1] = np.log(part[:-1]) - np.log(rest[1:]) + np.log(left)
        else:
            u[i : i + size] = part
    return u
