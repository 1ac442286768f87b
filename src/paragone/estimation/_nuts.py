r"""The No-U-Turn sampler for one chain, compiled once for every density.

A draw starts from a position with a normal momentum and doubles a leapfrog trajectory forwards or
backwards in time until it turns back on itself. With the sum of momenta $\rho$ of a stretch and
the momenta $p_-, p_+$ of its ends, it turns if

$$ p_-^\top \rho \le 0 \quad\text{or}\quad p_+^\top \rho \le 0 , $$

and so it is asked of every subtree, and of each half together with the nearest point of the other.
The next position is drawn from the trajectory with weights $e^{-H}$, favouring the newer half.

Everything happens in coordinates z in which the metric is the identity: u = scale * z, or
u = factor z with a dense metric; so no inverse mass appears below. A subtree of $2^j$ points is
built point by point on a stack whose entries merge like digits of a binary counter, which asks
every subtree's question without recursion.

The step size follows dual averaging; the metric is estimated over windows that double in length,
and the step size starts afresh after each.

Cost: one gradient and O(m) for each point; at most 2^max_depth - 1 points a draw.

References:
    Hoffman and Gelman (2014), "The No-U-Turn Sampler", JMLR 15: algorithms 4 and 6, section 3.2.
    Betancourt (2017), "A conceptual introduction to Hamiltonian Monte Carlo", arXiv:1701.02434,
    appendix A.3-A.4: multinomial weights, biased progressive sampling, the general criterion.
    Stan Reference Manual 2.36, "MCMC sampling": windows of the adaptation, checks across subtrees.
    Seyboldt, Carlson and Carpenter (2026), "Preconditioning Hamiltonian Monte Carlo by minimizing
    Fisher divergence", arXiv:2603.18845: the diagonal metric from draws and gradients.

Shapes: m unconstrained numbers, D the greatest depth.
"""

from __future__ import annotations

import math

import numpy as np

from paragone.estimation._adaptation import (
    learn,
    new_metric,
    rate,
    restart,
    to_slope,
    to_u,
    to_z,
    whitened,
)
from paragone.estimation._random import fill_normal, uniform
from paragone.kernels.jit import njit

__all__ = ["COLUMNS", "sample_chain"]

COLUMNS = ("logp", "energy", "depth", "leapfrogs", "diverging", "acceptance", "step")
"""Columns of what a chain tells of each draw."""

_SUMS = {"reassoc", "contract", "nsz"}


@njit(nogil=True, error_model="numpy", _nrt=False, fastmath=_SUMS)
def _turns(stack, a, b):
    """Whether stretches a and b turn: together, or each with the other's near end."""
    a1 = a2 = b1 = b2 = c1 = c2 = 0.0
    for i in range(stack.shape[2]):
        first_a, last_a, sum_a = stack[0, a, i], stack[1, a, i], stack[2, a, i]
        first_b, last_b, sum_b = stack[0, b, i], stack[1, b, i], stack[2, b, i]
        whole, left, right = sum_a + sum_b, sum_a + first_b, sum_b + last_a
        a1 += first_a * whole
        a2 += last_b * whole
        b1 += first_a * left
        b2 += first_b * left
        c1 += last_a * right
        c2 += last_b * right
    return not (a1 > 0 and a2 > 0 and b1 > 0 and b2 > 0 and c1 > 0 and c2 > 0)


@njit(nogil=True, error_model="numpy", _nrt=False, fastmath=_SUMS)
def _kinetic(p):
    total = 0.0
    for i in range(p.size):
        total += p[i] * p[i]
    return 0.5 * total


@njit(inline="always")
def _log_add(a, b):
    high, low = (a, b) if a > b else (b, a)
    return high + math.log1p(math.exp(low - high)) if low > -np.inf else high


@njit(inline="always")
def _leap(
    f, reals, integers, blocks, limits, dense, scale, factor, z, p, g, u, x, slope, gradient, step
):  # fmt: skip
    """One leapfrog step in place; returns the log density."""
    for i in range(z.size):
        p[i] += 0.5 * step * g[i]
        z[i] += step * p[i]
    value = whitened(
        f, reals, integers, blocks, limits, dense, scale, factor, z, g, u, x, slope, gradient
    )  # fmt: skip
    for i in range(z.size):
        p[i] += 0.5 * step * g[i]
    return value


@njit(nogil=True, error_model="numpy", _nrt=False)
def _grow(
    f, reals, integers, blocks, limits, dense, scale, factor, z, p, g, u, x, slope, gradient, step,
    depth, energy, random, stack, kept, places, logs, told,
):  # fmt: skip
    """Adds 2**depth points beyond (z, p, g); row 0 of the stack is then their subtree.

    A row of the stack has first and last momentum and their sum; places has its level, and the
    slot of its choice in kept (z and g) and logs (weight by row, log density and energy by slot).
    Returns False if the subtree turns back or diverges.
    """
    m = z.size
    top = 0
    for _ in range(1 << depth):
        value = _leap(
            f, reals, integers, blocks, limits, dense, scale, factor, z, p, g, u, x, slope,
            gradient, step
        )  # fmt: skip
        now = _kinetic(p) - value
        rise = now - energy
        told[3] += 1.0
        if not rise <= 1000.0:
            told[4] = 1.0
            return False
        told[5] += 1.0 if rise <= 0.0 else math.exp(-rise)
        k = places[1, top]
        logs[0, top], logs[1, k], logs[2, k] = -rise, value, now
        places[0, top] = 0
        for i in range(m):
            kept[0, k, i], kept[1, k, i] = z[i], g[i]
            stack[0, top, i] = stack[1, top, i] = stack[2, top, i] = p[i]
        top += 1
        while top > 1 and places[0, top - 1] == places[0, top - 2]:
            a, b = top - 2, top - 1
            if _turns(stack, a, b):
                return False
            both = _log_add(logs[0, a], logs[0, b])
            if uniform(random) < math.exp(logs[0, b] - both):
                places[1, a], places[1, b] = places[1, b], places[1, a]
            logs[0, a] = both
            places[0, a] += 1
            for i in range(m):
                stack[1, a, i] = stack[1, b, i]
                stack[2, a, i] += stack[2, b, i]
            top -= 1
    return True


@njit(nogil=True, error_model="numpy", _nrt=False)
def _draw(
    f, reals, integers, blocks, limits, dense, scale, factor, z, g, u, x, slope, gradient, step,
    max_depth, random, ends, stack, kept, places, logs, told,
):  # fmt: skip
    """One transition from z, whose log density is told[0].

    ends (2, 3, m) are position, momentum and gradient at both ends of the trajectory; the last row
    of the stack is the trajectory, the last slot its choice.
    """
    m = z.size
    # Numba compiles a function anew for the constant 0.
    w, first = stack.shape[1] - 1, stack.shape[1] - stack.shape[1]
    fill_normal(random, ends[0, 1])
    energy = _kinetic(ends[0, 1]) - told[0]
    k = places[1, w]
    logs[1, k], logs[2, k] = told[0], energy
    for i in range(2, 6):
        told[i] = 0.0
    for i in range(m):
        p = ends[0, 1, i]
        kept[0, k, i], kept[1, k, i] = z[i], g[i]
        ends[0, 0, i] = ends[1, 0, i] = z[i]
        ends[0, 2, i] = ends[1, 2, i] = g[i]
        ends[1, 1, i] = stack[2, w, i] = p
    weight = 0.0
    for depth in range(max_depth):
        way = 1 if uniform(random) < 0.5 else 0
        for i in range(m):
            stack[0, w, i], stack[1, w, i] = ends[1 - way, 1, i], ends[way, 1, i]
        if not _grow(
            f, reals, integers, blocks, limits, dense, scale, factor, ends[way, 0], ends[way, 1],
            ends[way, 2], u, x, slope, gradient, step if way else -step, depth, energy, random,
            stack, kept, places, logs, told,
        ):  # fmt: skip
            break
        told[2] += 1.0
        if uniform(random) < math.exp(min(0.0, logs[0, 0] - weight)):
            places[1, 0], places[1, w] = places[1, w], places[1, 0]
        weight = _log_add(weight, logs[0, 0])
        if _turns(stack, w, first):
            break
        for i in range(m):
            stack[2, w, i] += stack[2, 0, i]
    k = places[1, w]
    told[0], told[1] = logs[1, k], logs[2, k]
    told[5] /= told[3]
    told[6] = step
    for i in range(m):
        z[i], g[i] = kept[0, k, i], kept[1, k, i]


@njit(inline="always")
def _first_step(
    f, reals, integers, blocks, limits, dense, scale, factor, z, g, u, x, slope, gradient, step,
    value,
    random, ends,
):  # fmt: skip
    """Doubles or halves the step until the acceptance of one leapfrog crosses 0.8."""
    goes_up = False
    for k in range(60):
        fill_normal(random, ends[0, 1])
        energy = _kinetic(ends[0, 1]) - value
        for i in range(z.size):
            ends[0, 0, i], ends[0, 2, i] = z[i], g[i]
        found = _leap(
            f, reals, integers, blocks, limits, dense, scale, factor, ends[0, 0], ends[0, 1],
            ends[0, 2],
            u, x, slope, gradient, step,
        )  # fmt: skip
        up = energy - _kinetic(ends[0, 1]) + found > math.log(0.8)
        if k == 0:
            goes_up = up
        elif up != goes_up:
            break
        step *= 2.0 if goes_up else 0.5
    return step


@njit(nogil=True, error_model="numpy")
def sample_chain(
    f, reals, integers, blocks, limits, random, start, given, windows, tune, correlated, max_depth,
    target, scale, rows, told, spent,
):  # fmt: skip
    """Runs a chain; fills rows (draws, m), told (draws, 7), and the gradients spent on tuning.

    Without a given start it takes the first of 100 random points whose density is finite. Returns
    the number of draws: 0 if there is no such point.
    """
    m, n, d = start.size, limits.shape[1], max_depth + 2
    factor, dense = np.zeros((m, m) if correlated else (0, 0)), False
    u, x, slope, gradient = np.zeros(m), np.zeros(n), np.zeros(n), np.zeros(m)
    z, g, now = np.zeros(m), np.zeros(m), np.zeros(7)
    stack, kept, ends = np.zeros((3, d, m)), np.zeros((2, d, m)), np.zeros((2, 3, m))
    places, logs = np.zeros((2, d), np.int64), np.zeros((3, d))
    for i in range(d):
        places[1, i] = i
    moments, products, averages = np.zeros((4, m)), np.zeros(factor.shape), np.zeros(5)
    step, count, window, fresh, tries = 0.1, 0, 0, True, 0
    t = 0
    while t < tune + rows.shape[0]:
        if fresh:
            # A first point, or the same one in a new metric.
            if t == 0 and not given:
                for i in range(m):
                    start[i] = 4.0 * uniform(random) - 2.0
            to_z(dense, scale, factor, start, z)
            now[0] = whitened(
                f, reals, integers, blocks, limits, dense, scale, factor, z, g, u, x, slope,
                gradient
            )  # fmt: skip
            total = now[0]
            for i in range(m):
                total += g[i]
            if not abs(total) < np.inf:
                tries += 1
                if given or tries == 100:
                    return 0
                continue
            step = _first_step(
                f, reals, integers, blocks, limits, dense, scale, factor, z, g, u, x, slope,
                gradient,
                step, now[0], random, ends,
            )  # fmt: skip
            restart(averages, step)
            fresh = False
        _draw(
            f, reals, integers, blocks, limits, dense, scale, factor, z, g, u, x, slope, gradient,
            step,
            max_depth, random, ends, stack, kept, places, logs, now,
        )  # fmt: skip
        to_u(dense, scale, factor, z, u)
        if t >= tune:
            for i in range(m):
                rows[t - tune, i] = u[i]
            for i in range(7):
                told[t - tune, i] = now[i]
        else:
            spent[0] += now[3]
            rate(averages, now[5], target)
            step = math.exp(averages[1] if t + 1 < tune else averages[2])
            if windows[0] <= t < windows[-1]:
                count += 1
                to_slope(dense, scale, factor, g, gradient)
                learn(moments, products, count, u, gradient)
                if t + 1 == windows[window + 1]:
                    dense = new_metric(scale, factor, moments, products, count)
                    count, window, fresh = 0, window + 1, True
                    for i in range(m):
                        start[i] = u[i]
        t += 1
    return rows.shape[0]
