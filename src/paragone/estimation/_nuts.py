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
    first_step,
    learn,
    new_metric,
    rate,
    restart,
    to_z,
    whitened,
)
from paragone.estimation._random import fill_normal, uniform
from paragone.kernels.jit import njit

__all__ = ["COLUMNS", "sample_chain"]

COLUMNS = ("logp", "energy", "depth", "leapfrogs", "diverging", "acceptance", "step")
"""Columns of what a chain tells of each draw."""

_SUMS = {"reassoc", "contract", "nsz"}


@njit(nogil=True, error_model="numpy", fastmath=_SUMS)
def _turns(first_l, last_l, sum_l, first_r, last_r, sum_r):
    """Whether two neighbouring stretches turn: together, or each with the other's near end."""
    a = b = c = d = e = f = 0.0
    for i in range(sum_l.size):
        whole = sum_l[i] + sum_r[i]
        left = sum_l[i] + first_r[i]
        right = sum_r[i] + last_l[i]
        a += first_l[i] * whole
        b += last_r[i] * whole
        c += first_l[i] * left
        d += first_r[i] * left
        e += last_l[i] * right
        f += last_r[i] * right
    return not (a > 0 and b > 0 and c > 0 and d > 0 and e > 0 and f > 0)


@njit(nogil=True, error_model="numpy", fastmath=_SUMS)
def _kinetic(p):
    total = 0.0
    for i in range(p.size):
        total += p[i] * p[i]
    return 0.5 * total


@njit(nogil=True, error_model="numpy")
def _log_add(a, b):
    high, low = (a, b) if a > b else (b, a)
    return high + math.log1p(math.exp(low - high)) if low > -np.inf else high


@njit(nogil=True, error_model="numpy")
def _grow(problem, metric, room, tree, point, step, depth, energy, random, told):
    """Adds 2**depth points beyond `point`; row 0 of the tree is then the subtree they make.

    Returns False if it turns back or diverges on the way.
    """
    first, last, total, weight, level, slot, places, slopes, values = tree
    z, p, g = point
    m = z.size
    top = 0
    for _ in range(1 << depth):
        for i in range(m):
            p[i] += 0.5 * step * g[i]
            z[i] += step * p[i]
        value = whitened(problem, metric, z, g, room)
        for i in range(m):
            p[i] += 0.5 * step * g[i]
        now = _kinetic(p) - value
        rise = now - energy
        told[3] += 1.0
        if not rise <= 1000.0:
            told[4] = 1.0
            return False
        told[5] += 1.0 if rise <= 0.0 else math.exp(-rise)
        k = slot[top]
        values[k, 0], values[k, 1] = value, now
        weight[top], level[top] = -rise, 0
        for i in range(m):
            places[k, i], slopes[k, i] = z[i], g[i]
            first[top, i] = last[top, i] = total[top, i] = p[i]
        top += 1
        while top > 1 and level[top - 1] == level[top - 2]:
            a, b = top - 2, top - 1
            if _turns(first[a], last[a], total[a], first[b], last[b], total[b]):
                return False
            both = _log_add(weight[a], weight[b])
            if uniform(random) < math.exp(weight[b] - both):
                slot[a], slot[b] = slot[b], slot[a]
            weight[a] = both
            level[a] += 1
            for i in range(m):
                last[a, i] = last[b, i]
                total[a, i] += total[b, i]
            top -= 1
    return True


@njit(nogil=True, error_model="numpy")
def _draw(problem, metric, room, tree, ends, z, g, step, max_depth, random, told):
    """One transition from z, whose value is told[0]; the tree's last slot holds the choice."""
    first, last, total, weight, _, slot, places, slopes, values = tree
    back, front, whole, near = ends
    chosen = slot.size - 1
    p = front[1]
    fill_normal(random, p)
    energy = _kinetic(p) - told[0]
    k = slot[chosen]
    values[k, 0], values[k, 1] = told[0], energy
    told[2:6] = 0.0
    for i in range(z.size):
        places[k, i] = back[0][i] = front[0][i] = z[i]
        slopes[k, i] = back[2][i] = front[2][i] = g[i]
        back[1][i] = whole[i] = p[i]
    logs = 0.0
    while told[2] < max_depth:
        forward = uniform(random) < 0.5
        point, far, way = (front, back[1], step) if forward else (back, front[1], -step)
        near[:] = point[1]
        if not _grow(problem, metric, room, tree, point, way, int(told[2]), energy, random, told):
            break
        told[2] += 1.0
        if uniform(random) < math.exp(min(0.0, weight[0] - logs)):
            slot[0], slot[chosen] = slot[chosen], slot[0]
        logs = _log_add(logs, weight[0])
        if _turns(far, near, whole, first[0], last[0], total[0]):
            break
        for i in range(z.size):
            whole[i] += total[0, i]
    k = slot[chosen]
    told[0], told[1] = values[k, 0], values[k, 1]
    told[5] /= told[3]
    told[6] = step
    for i in range(z.size):
        z[i], g[i] = places[k, i], slopes[k, i]


@njit(nogil=True, error_model="numpy")
def _start(problem, metric, room, u, z, g, random, given):
    """Finds a first point of finite density: the given one, or uniform in [-2, 2]."""
    value = np.nan
    for _ in range(100):
        if not given:
            for i in range(u.size):
                u[i] = 4.0 * uniform(random) - 2.0
        to_z(metric, u, z)
        value = whitened(problem, metric, z, g, room)
        total = value
        for i in range(g.size):
            total += g[i]
        if given or abs(total) < np.inf:
            break
    return value


@njit(nogil=True, error_model="numpy")
def sample_chain(
    f, reals, integers, blocks, limits, random, u, given, windows, tune, dense, max_depth, target,
    scale, rows, told, spent,
):  # fmt: skip
    """Runs a chain; fills rows (draws, m), told (draws, 7), and the gradients spent on tuning.

    Returns the number of draws: 0 if no first point has a finite density.
    """
    m = u.size
    # Numba warns of a tuple that begins with a function.
    problem = (reals, integers, blocks, limits, f)
    metric = (scale, np.zeros((m, m) if dense else (0, 0)))
    if dense:
        for i in range(m):
            metric[1][i, i] = scale[i]
    n = limits.shape[1]
    room = (np.zeros(m), np.zeros(n), np.zeros(n), np.zeros(m))
    z, g, now = np.zeros(m), np.zeros(m), np.zeros(7)
    now[0] = _start(problem, metric, room, u, z, g, random, given)
    if not abs(now[0]) < np.inf:
        return 0
    d = max_depth + 2
    tree = (
        np.zeros((d, m)), np.zeros((d, m)), np.zeros((d, m)), np.zeros(d), np.zeros(d, np.int64),
        np.arange(d), np.zeros((d, m)), np.zeros((d, m)), np.zeros((d, 2)),
    )  # fmt: skip
    back = (np.zeros(m), np.zeros(m), np.zeros(m))
    front = (np.zeros(m), np.zeros(m), np.zeros(m))
    ends = (back, front, np.zeros(m), np.zeros(m))
    moments, products = np.zeros((4, m)), np.zeros_like(metric[1])
    averages = np.zeros(5)
    count = window = 0
    fill_normal(random, front[1])
    step = first_step(problem, metric, room, z, g, now[0], front[1], 0.1)
    restart(averages, step)
    for t in range(tune + rows.shape[0]):
        _draw(problem, metric, room, tree, ends, z, g, step, max_depth, random, now)
        for i in range(m):
            room[0][i] = scale[i] * z[i]
        if t >= tune:
            if dense:
                whitened(problem, metric, z, g, room)
            rows[t - tune] = room[0]
            told[t - tune] = now
            continue
        spent[0] += now[3]
        rate(averages, now[5], target)
        step = math.exp(averages[1])
        if windows[0] <= t < windows[-1]:
            count += 1
            whitened(problem, metric, z, g, room)
            learn(moments, products, count, room[0], room[3])
            if t + 1 == windows[window + 1]:
                new_metric(metric, moments, products, count)
                count, window = 0, window + 1
                u[:] = room[0]
                to_z(metric, u, z)
                now[0] = whitened(problem, metric, z, g, room)
                fill_normal(random, front[1])
                step = first_step(problem, metric, room, z, g, now[0], front[1], step)
                restart(averages, step)
        if t + 1 == tune:
            step = math.exp(averages[2])
    return rows.shape[0]
