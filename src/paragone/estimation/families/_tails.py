r"""Log masses of windows from the derivatives of both tails, where these are known exactly.

With T either tail, F or 1 - F, and the window (a, b],

$$ P = |T(b) - T(a)|, \qquad
   \frac{P_i}{P} = \frac{T_i(b) - T_i(a)}{T(b) - T(a)}, \qquad
   (\log P)_{ij} = \frac{T_{ij}(b) - T_{ij}(a)}{T(b) - T(a)} - \frac{P_i P_j}{P^2} . $$

Of the two tails that one is taken in which both ends are small numbers.

Shapes: m windows, p parameters.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["complement", "window"]

Tail = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Log T (m,), and T_i / T (m, p) and T_ij / T (m, p, p)."""


def complement(tail: Tail) -> Tail:
    """The other tail, 1 - T."""
    log_t, first, second = tail
    with np.errstate(all="ignore"):
        log_rest = np.where(log_t > -0.6931, np.log(-np.expm1(log_t)), np.log1p(-np.exp(log_t)))
        odds = -np.exp(log_t - log_rest)
    odds = np.where(np.isfinite(odds), odds, 0.0)
    return log_rest, odds[:, None] * first, odds[:, None, None] * second


def window(lower: tuple[Tail, Tail], upper: tuple[Tail, Tail]) -> Tail:
    """Log P with score (m, p) and Hessian (m, p, p).

    Args:
        lower: (F, 1 - F) at the lower ends.
        upper: (F, 1 - F) at the upper ends.
    """
    above = lower[1][0] < lower[0][0]
    parts: list[Any] = []
    for i in range(3):
        pick = above.reshape(-1, *[1] * i)
        large = np.where(pick, lower[1][i], upper[0][i])
        small = np.where(pick, upper[1][i], lower[0][i])
        parts.append((large, small))
    (log_large, log_small), (first_large, first_small), (second_large, second_small) = parts
    with np.errstate(all="ignore"):
        gap = log_small - log_large
        log_p = log_large + np.where(gap > -0.6931, np.log(-np.expm1(gap)), np.log1p(-np.exp(gap)))
        one, two = np.exp(log_large - log_p), np.exp(log_small - log_p)
    log_p = np.where(np.isnan(log_p), -np.inf, log_p)
    one, two = (np.where(np.isfinite(each) & np.isfinite(log_p), each, 0.0) for each in (one, two))
    first = one[:, None] * first_large - two[:, None] * first_small
    second = one[:, None, None] * second_large - two[:, None, None] * second_small
    return log_p, first, second - first[:, :, None] * first[:, None, :]
