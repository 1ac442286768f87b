r"""What a chain learns while it warms up: the metric over windows, the step size at every draw.

The metric is a change of coordinates u = scale * z or u = factor z, in which the posterior should
look like a standard normal. Diagonal, it minimises the Fisher divergence to one,
$s_i^4 = \operatorname{var}(u_i) / \operatorname{var}(\partial_i \log p)$, which is exact after few
draws, so that windows can be short. Dense, it is the Cholesky factor of $(1 - \lambda) \Sigma +
\lambda \operatorname{diag}(s^2)$ with

$$ \lambda = \min\Bigl( 1, \frac{m (m - 1) / n}{\sum_{i<j} r_{ij}^2} \Bigr) , $$

the share of the squared correlations that n draws worth n/2 would show by chance; where that is
most of them, the metric stays diagonal.

The step size follows the dual averages of Nesterov on the acceptance, with
$\log \varepsilon_t = \mu - \sqrt{t} / \gamma \cdot \bar H_t$.

References:
    Hoffman and Gelman (2014), "The No-U-Turn Sampler", JMLR 15, section 3.2 and algorithm 4.
    Seyboldt, Carlson and Carpenter (2026), "Preconditioning Hamiltonian Monte Carlo by minimizing
    Fisher divergence", arXiv:2603.18845, the diagonal case.
    Schaefer and Strimmer (2005), "A shrinkage approach to large-scale covariance matrix
    estimation", eq. 8 and table 2, target D.

Shapes: m unconstrained numbers; scale (m,), factor (m, m), or (0, 0) if it may not be dense.
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
        [10, 20, 40, 80, 160, 320, 850]
    """
    if tune < 20:
        return np.array([0, 0], np.int64)
    last = tune * 17 // 20
    ends = [min(10, tune // 10)]
    while ends[-1] < last:
        # A window that would leave no room for one twice its size takes the rest.
        ends.append(last if 4 * ends[-1] > last else 2 * ends[-1])
    return np.array(ends, np.int64)


@njit(inline="always")
def to_u(dense, scale, factor, z, u):
    """Writes u = scale * z or factor z."""
    if dense:
        # The upper triangle repeats the lower one, so that both products go along rows.
        for i in range(z.size):
            u[i] = 0.0
        for j in range(z.size):
            for i in range(j, z.size):
                u[i] += factor[j, i] * z[j]
    else:
        for i in range(z.size):
            u[i] = scale[i] * z[i]


@njit(inline="always")
def whitened(
    f, reals, integers, blocks, limits, dense, scale, factor, z, g, u, x, slope, gradient
):  # fmt: skip
    """Log density at z, with its gradient in g; leaves u, x and the gradient by u behind.

    Arguments are single arrays, for Numba counts references to the members of a tuple.
    """
    to_u(dense, scale, factor, z, u)
    value = density(f, reals, integers, blocks, limits, u, x, slope, gradient, 1.0)
    if dense:
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
def to_slope(dense, scale, factor, g, gradient):
    """Solves for the gradient by u."""
    if dense:
        for i in range(g.size - 1, -1, -1):
            total = g[i]
            for j in range(i + 1, g.size):
                total -= factor[j, i] * gradient[j]
            gradient[i] = total / factor[i, i]
    else:
        for i in range(g.size):
            gradient[i] = g[i] / scale[i]


@njit(inline="always")
def to_z(dense, scale, factor, u, z):
    """Solves for z."""
    for i in range(z.size):
        if dense:
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
    """Sets the metric from `count` draws and forgets them; returns whether it is dense."""
    m = scale.size
    for i in range(m):
        square = math.sqrt(moments[1, i] / moments[3, i])
        if 1e-20 < square < 1e20:
            scale[i] = math.sqrt(square)
    dense = False
    if factor.shape[0] > 1 and count > 20:
        seen = 0.0
        for i in range(m):
            for j in range(i):
                seen += products[i, j] ** 2 / (products[i, i] * products[j, j])
        chance = min(1.0, m * (m - 1.0) / count / seen)
        dense = chance < 0.8
        for i in range(m):
            for j in range(i + 1):
                total = (1.0 - chance) * products[i, j] / (count - 1.0)
                if i == j:
                    total += chance * scale[i] * scale[i]
                for k in range(j):
                    total -= factor[i, k] * factor[j, k]
                factor[i, j] = math.sqrt(max(total, 1e-20)) if i == j else total / factor[j, j]
                factor[j, i] = factor[i, j]
    for i in range(factor.shape[0]):
        for j in range(i + 1):
            products[i, j] = 0.0
    for k in range(4):
        for i in range(m):
            moments[k, i] = 0.0
    return dense


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
