r"""The inner loops of losses: sigmoid and softmax derivatives, quantiles within leaves.

Only the two losses that every classification fit evaluates for each row and round are
compiled; the others are plain NumPy in `_losses`. `sums` and `quantiles` reduce rows to
leaves, the former by one pass, the latter by one sort:

$$ q_j = \min\{ r : \sum_{i \in j, r_i \le r} w_i \ge \alpha \sum_{i \in j} w_i \} $$

which minimises the weighted pinball loss of level $\alpha$ over constants in leaf $j$.

Shapes: n rows, K outputs, J leaves.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.intrinsics import float_of_bits
from paragone.kernels.jit import njit

__all__ = ["TINY", "add_leaves", "logistic_gradients", "quantiles", "softmax_gradients", "sums"]

TINY = 1e-16
"""Least second derivative of a row, so that a saturated leaf has a finite Newton step."""


@njit(nogil=True, error_model="numpy", inline="always")
def _exp_of_negative(x):
    """Returns exp(x) for x <= 0 to 2 units in the last place, without a call: it vectorises.

    exp(x) = 2^k exp(r) with k the whole number nearest to x / log 2, so |r| <= log(2) / 2, where
    the Taylor polynomial of degree 13 errs by less than 1e-17.
    """
    x = max(x, -708.0)
    k = np.rint(x * 1.4426950408889634)
    # log 2 in two parts, of which the first times k is exact.
    r = (x - k * 0.693147180369123816490) - k * 1.90821492927058770002e-10
    y = 1.0 / 6227020800.0
    y = y * r + 1.0 / 479001600.0
    y = y * r + 1.0 / 39916800.0
    y = y * r + 1.0 / 3628800.0
    y = y * r + 1.0 / 362880.0
    y = y * r + 1.0 / 40320.0
    y = y * r + 1.0 / 5040.0
    y = y * r + 1.0 / 720.0
    y = y * r + 1.0 / 120.0
    y = y * r + 1.0 / 24.0
    y = y * r + 1.0 / 6.0
    y = y * r + 0.5
    y = y * r + 1.0
    y = y * r + 1.0
    return y * float_of_bits((np.int64(k) + np.int64(1023)) << np.int64(52))


@njit(nogil=True, error_model="numpy", fastmath={"contract"})
def logistic_gradients(y, raw, weight, gradient, hessian):
    """Fills w (p - y) and w p (1 - p), p = 1 / (1 + exp(-raw)); all float64 (n,)."""
    for i in range(np.uint64(len(y))):
        # exp of a non-positive number cannot overflow.
        e = _exp_of_negative(-abs(raw[i]))
        p = 1.0 / (1.0 + e)
        p = e * p if raw[i] < 0.0 else p
        gradient[i] = weight[i] * (p - y[i])
        hessian[i] = weight[i] * max(p * (1.0 - p), TINY)


@njit(nogil=True, error_model="numpy")
def softmax_gradients(y, raw, weight, scale, gradient, hessian):
    """Fills w (p_k - [y = k]) and scale w p_k (1 - p_k), both float64 (K, n)."""
    num_classes = np.uint64(raw.shape[0])
    for i in range(np.uint64(len(y))):
        top = raw[0, i]
        for k in range(num_classes):
            top = max(top, raw[k, i])
        total = 0.0
        for k in range(num_classes):
            gradient[k, i] = np.exp(raw[k, i] - top)
            total += gradient[k, i]
        for k in range(num_classes):
            p = gradient[k, i] / total
            hessian[k, i] = scale * weight[i] * max(p * (1.0 - p), TINY)
            gradient[k, i] = weight[i] * (p - (1.0 if y[i] == k else 0.0))


@njit(nogil=True, error_model="numpy")
def add_leaves(leaf, values, out):
    """Adds the value of each row's leaf to `out`: int32 (n,), float64 (J,), float64 (n,)."""
    for i in range(np.uint64(len(leaf))):
        out[i] += values[np.uint64(leaf[i])]


def sums(values: np.ndarray, leaf: np.ndarray, num_leaves: int) -> np.ndarray:
    """Returns the sum of `values` (n,) in each leaf, (J,)."""
    return np.bincount(leaf, values, minlength=num_leaves)


def quantiles(
    values: np.ndarray,
    weight: np.ndarray,
    alpha: float,
    leaf: np.ndarray | None = None,
    num_leaves: int = 1,
) -> np.ndarray:
    """Returns the least weighted `alpha`-quantile of `values` in each leaf, (J,).

    Rows of weight 0 do not count; a leaf without rows gives 0.

    Example:
        >>> quantiles(np.array([3.0, 1.0, 2.0, 9.0]), np.array([1.0, 1, 1, 5]), 0.25)
        array([2.])
    """
    rows = np.flatnonzero(weight > 0)
    if len(rows) < len(values):
        values, weight = values[rows], weight[rows]
        leaf = None if leaf is None else leaf[rows]
    result = np.zeros(num_leaves)
    if not len(values):
        return result
    if leaf is None:
        leaf = np.zeros(len(values), np.int32)
    order = np.lexsort((values, leaf))
    ends = np.cumsum(np.bincount(leaf, minlength=num_leaves))
    cumulative = np.cumsum(weight[order])
    above = np.append(0.0, cumulative)[ends]
    below = np.append(0.0, above[:-1])
    # A sum of weights that should equal alpha times the total may fall short by rounding.
    target = below + alpha * (above - below)
    place = np.searchsorted(cumulative, target - 1e-12 * np.abs(target), side="left")
    starts = np.append(0, ends[:-1])
    filled = ends > starts
    place = np.clip(place, starts, ends - 1)
    result[filled] = values[order[place[filled]]]
    return result
