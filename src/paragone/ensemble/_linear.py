r"""The linear booster: elastic-net coordinate descent on the second-order objective.

Each round moves the intercept, then each coefficient in turn, to the minimum of

$$ \sum_i \big(g_i \delta x_{ij} + \tfrac12 h_i \delta^2 x_{ij}^2\big)
   + \tfrac{W \lambda}{2} (\beta_j + \delta)^2 + W \alpha |\beta_j + \delta|, \qquad
   \delta = \frac{S_{W\alpha}\big((H_j \beta_j - G_j)\big)}{H_j + W\lambda} - \beta_j, $$

with $G_j = \sum_i g_i x_{ij}$, $H_j = \sum_i h_i x_{ij}^2$, $S$ the soft threshold, $W$ the sum of
weights; a step is multiplied by the learning rate, and the gradients follow, $g_i \mathrel{+}=
h_i \delta x_{ij}$, so later coordinates see it. A missing value counts as 0.

Prefer it to trees when the relation is additive and linear, or p is far above n.

References:
    Friedman, Hastie & Tibshirani (2010), "Regularization paths for generalized linear models via
    coordinate descent", J. Stat. Software 33, eq. 5 and 10.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.jit import njit

__all__ = ["descend"]

_FLAT = 1e-5
"""A column with less curvature than this is left alone."""


@njit(nogil=True, error_model="numpy")
def descend(columns, order, gradient, hessian, coef, reg_lambda, reg_alpha, learning_rate):
    """One round over the coordinates in `order`, in place.

    Args:
        columns: float32 (p, n), C-contiguous, missing values 0.
        order: int64, columns in the order of their turn.
        gradient: float64 (n,), changed to the gradients after the round.
        hessian: float64 (n,).
        coef: float64 (p,), changed.
        reg_lambda: L2 penalty times the sum of weights.
        reg_alpha: L1 penalty times the sum of weights.
        learning_rate: Factor of each step.

    Returns:
        The step of the intercept.
    """
    n = columns.shape[1]
    total_g, total_h = 0.0, 0.0
    for i in range(n):
        total_g += gradient[i]
        total_h += hessian[i]
    intercept = 0.0 if total_h < _FLAT else -learning_rate * total_g / total_h
    for i in range(n):
        gradient[i] += hessian[i] * intercept
    for j in order:
        g, h = 0.0, 0.0
        for i in range(n):
            x = np.float64(columns[j, i])
            g += gradient[i] * x
            h += hessian[i] * x * x
        if h < _FLAT:
            continue
        pull = h * coef[j] - g
        target = np.sign(pull) * max(abs(pull) - reg_alpha, 0.0) / (h + reg_lambda)
        step = learning_rate * (target - coef[j])
        if step == 0.0:
            continue
        coef[j] += step
        for i in range(n):
            gradient[i] += hessian[i] * step * columns[j, i]
    return intercept
