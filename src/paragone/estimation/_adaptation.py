r"""What a chain learns while it warms up: the metric over windows, the step size at every draw.

The metric is a change of coordinates u = scale * z or u = factor z, in which the posterior should
look like a standard normal. Diagonal, it minimises the Fisher divergence to one,
$s_i^4 = \operatorname{var}(u_i) / \operatorname{var}(\partial_i \log p)$, which for a normal is
exact after two draws; dense, it is the Cholesky factor of the covariance, shrunk to the diagonal.
The step size follows the dual averages of Nesterov on the acceptance, with
$\log \varepsilon_t = \mu - \sqrt{t} / \gamma \cdot \bar H_t$.

References:
    Hoffman and Gelman (2014), "The No-U-Turn Sampler", JMLR 15, section 3.2 and algorithm 4.
    Seyboldt, Carlson and Carpenter (2026), "Preconditioning Hamiltonian Monte Carlo by minimizing
    Fisher divergence", arXiv:2603.18845, the diagonal case.

Shapes: m unconstrained numbers; metric (scale (m,), factor (m, m), or (0, 0) if diagonal).
"""

from __future__ import annotations

import math

import numpy as np

from paragone.estimation._density import density
from paragone.kernels.jit import njit

__all__ = [
    "learn",
    "new_metric",
    "rate",
    "restart",
    "to_slope",
    "to_u",
    "to_z",
    "whitened",
    "windows",
]


def windows(tune: int) -> np.ndarray:
    """Returns where windows begin and end: the first learning draw, then the end of each window.

    Example:
        >>> windows(1000).tolist()
        [75, 100, 150, 250, 450, 950]
    """
    if tune < 20:
        return np.array([0, 0], np.int64)
    before, after, size = (75, 50, 25) if tune >= 150 else (tune * 15 // 100, tune // 10, 0)
    last = tune - after
    size = size or last - before
    ends = [before]
    while ends[-1] < last:
        # A window that would leave no room for one twice its size takes the rest.
        ends.append(last if ends[-1] + 3 * size > last else ends[-1] + size)
        size *= 2
    return np.array(ends, np.int64)


@njit(inline="always")
def to_u(scale, factor, z, u):
    """Writes u = scale * z or factor z."""
    if factor.shape[0] > 0:
        for i in range(z.size):
            total = 0.0
            for j in range(i + 1):
                total += factor[i, j] * z[j]
            u[i] = total
    else:
        for i in range(z.size):
            u[i] = scale[i] * z[i]


@njit(inline="always")
def whitened(
    f, reals, integers, blocks, limits, scale, factor, z, g, u, x, slope, gradient
):  # fmt: skip
    """Log density at z, with its gradient in g; leaves u, x and the gradient by u behind.

    Arguments are single arrays, for Numba counts references to the members of a tuple.
    """
    to_u(scale, factor, z, u)
    value = density(f, reals, integers, blocks, limits, u, x, slope, gradient, 1.0)
    if factor.shape[0] > 0:
        for j in range(z.size):
            g[j] = 0.0
        for i in range(z.size):
            for j in range(i + 1):
                g[j] += factor[i, j] * gradient[i]
    else:
        for i in range(z.size):
            g[i] = scale[i] * gradient[i]
    return value


@njit(inline="always")
def to_slope(scale, factor, g, gradient):
    """Solves for the gradient by u."""
    if factor.shape[0] > 0:
        for i in range(g.size - 1, -1, -1):
            total = g[i]
            for j in range(i + 1, g.size):
                total -= factor[j, i] * gradient[j]
            gradient[i] = total / factor[i, i]
    else:
        for i in range(g.size):
            gradient[i] = g[i] / scale[i]


@njit(inline="always")
def to_z(scale, factor, u, z):
    """Solves for z."""
    for i in range(z.size):
        if factor.shape[0] > 0:
            total = u[i]
            for j in range(i):
                total -= factor[i, j] * z[j]
            z[i] = total / factor[i, i]
        else:
            z[i] = u[i] / scale[i]


@njit(inline="always")
def learn(moments, products, count, u, gradient):
    """Adds a draw, the `count`-th: moments (4, m) are means and squares of u and gradient."""
    m = u.size
    if products.shape[0] > 0:
        weight = (count - 1.0) / count
        for i in range(m):
            for j in range(i + 1):
                a, b = u[i] - moments[0, i], u[j] - moments[0, j]
                products[i, j] += weight * a * b
    for i in range(m):
        a = u[i] - moments[0, i]
        moments[0, i] += a / count
        moments[1, i] += a * (u[i] - moments[0, i])
        b = gradient[i] - moments[2, i]
        moments[2, i] += b / count
        moments[3, i] += b * (gradient[i] - moments[2, i])


@njit(inline="always")
def new_metric(scale, factor, moments, products, count):
    """Sets the metric from `count` draws and forgets them."""
    m = scale.size
    if factor.shape[0] > 0:
        keep = count / (count + 5.0)
        for i in range(m):
            for j in range(i + 1):
                products[i, j] *= keep / (count - 1.0)
            products[i, i] += 1e-3 * (1.0 - keep)
        for i in range(m):
            for j in range(i + 1):
                total = products[i, j]
                for k in range(j):
                    total -= factor[i, k] * factor[j, k]
                factor[i, j] = math.sqrt(max(total, 1e-20)) if i == j else total / factor[j, j]
                products[i, j] = 0.0
    else:
        for i in range(m):
            square = math.sqrt(moments[1, i] / moments[3, i])
            if 1e-20 < square < 1e20:
                scale[i] = math.sqrt(square)
    for k in range(4):
        for i in range(m):
            moments[k, i] = 0.0


@njit(inline="always")
def restart(averages, step):
    """Begins dual averaging: averages are mu, log step, its mean, the mean error, the count."""
    averages[0] = math.log(10.0 * step)
    averages[1] = math.log(step)
    averages[2] = averages[3] = averages[4] = 0.0


@njit(inline="always")
def rate(averages, accepted, target):
    """One step of dual averaging; gamma 0.05, t0 10, kappa 0.75."""
    averages[4] += 1.0
    count = averages[4]
    share = 1.0 / (count + 10.0)
    averages[3] += share * (target - accepted - averages[3])
    averages[1] = averages[0] - math.sqrt(count) / 0.05 * averages[3]
    share = count**-0.75
    averages[2] += share * (averages[1] - averages[2])
