r"""Hamiltonian Monte Carlo with hundreds or thousands of chains that move together.

A density that costs as much for 500 points as for one (a torch function, a GPU) should never be
asked for one. All chains take the same number of leapfrog steps, so that a step is one evaluation;
the jitter of that number follows a low-discrepancy sequence. Step size and metric are pooled: the
spread over chains at one moment tells the scale of each coordinate before any single chain has
moved far. The trajectory length T climbs the change of the estimator of the expected square,

$$ \mathrm{ChEES} = \tfrac14 \mathbb{E} \bigl( \|q' - \mathbb{E} q'\|^2 - \|q - \mathbb{E} q\|^2
   \bigr)^2 , $$

by stochastic ascent in log T. Many chains need few draws each; nested R-hat and the pooled
effective size judge them.

References:
    Hoffman, Radul and Sountsov (2021), "An adaptive-MCMC scheme for setting trajectory lengths in
    Hamiltonian Monte Carlo", eq. 4-8, algorithm 1.
    Neal (2011), "MCMC using Hamiltonian dynamics", section 5.3.

Shapes: c chains, m unconstrained numbers.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from paragone.estimation._density import Target

__all__ = ["group_count", "run_hmc"]

_MOST = 1000


def group_count(chains: int) -> int:
    """Groups of chains that start at one point: 16 of four or more, else none (0)."""
    return 16 if chains >= 64 and chains % 16 == 0 else 0


class _Pool:
    """Step size, metric and trajectory length that all chains share."""

    def __init__(self, m: int, accept: float) -> None:
        self.accept, self.scale = accept, np.ones(m)
        self.log_step = self.log_step_mean = math.log(0.1)
        self.centre, self.error, self.count = math.log(1.0), 0.0, 0
        self.log_length, self.log_length_mean = math.log(1.0), 0.0
        self.moments = np.zeros(2)
        self.turn = 0

    def restart(self) -> None:
        """Begins dual averaging about the present step."""
        self.centre, self.error, self.count = math.log(10) + self.log_step, 0.0, 0
        self.log_step_mean = self.log_step

    def learn_step(self, accepted: float) -> None:
        """One step of dual averaging."""
        self.count += 1
        share = 1 / (self.count + 10)
        self.error += share * (self.accept - accepted - self.error)
        self.log_step = self.centre - math.sqrt(self.count) / 0.05 * self.error
        weight = self.count**-0.75
        self.log_step_mean += weight * (self.log_step - self.log_step_mean)

    def learn_length(self, slope: float, rate: float = 0.025) -> None:
        """One step of Adam up the criterion, in log T."""
        if not math.isfinite(slope):
            return
        self.turn += 1
        self.moments = self.moments * (0.0, 0.95) + (slope, 0.05 * slope**2)
        size = math.sqrt(self.moments[1] / (1 - 0.95**self.turn)) + 1e-300
        self.log_length += max(-0.35, min(0.35, rate * self.moments[0] / size))
        step = math.exp(self.log_step)
        self.log_length = min(max(self.log_length, math.log(step)), math.log(step * _MOST))
        weight = self.turn**-0.5
        self.log_length_mean += weight * (self.log_length - self.log_length_mean)


def _jitter(t: int) -> float:
    """The t-th number of van der Corput's sequence, in (0, 1)."""
    found, part, t = 0.0, 0.5, t + 1
    while t:
        found += part * (t & 1)
        t, part = t >> 1, part / 2
    return found


def _move(
    target: Target, pool: _Pool, u: np.ndarray, value: np.ndarray, gradient: np.ndarray,
    steps: int, step: float, generator: np.random.Generator,
) -> Any:  # fmt: skip
    """One trajectory of every chain: proposal, its value, gradient, momenta, and rises of H."""
    p = generator.standard_normal(u.shape)
    before = 0.5 * (p**2).sum(axis=1) - value
    q, g = u, gradient
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(steps):
            p = p + (0.5 * step) * (pool.scale * g)
            q = q + step * (pool.scale * p)
            after, g = target.rows(q)
            p = p + (0.5 * step) * (pool.scale * g)
        rise = 0.5 * (p**2).sum(axis=1) - after - before
    rise = np.where(np.isfinite(rise), rise, np.inf)
    return q, after, g, p, rise, before


def _slope(pool: _Pool, u: Any, q: Any, p: Any, chance: np.ndarray, share: float) -> float:
    """Derivative of the criterion by log T, weighted by the chance of acceptance."""
    fine = np.isfinite(q).all(axis=1) & (chance > 0)
    if fine.sum() < 2:
        return math.nan
    weight = chance[fine] / chance[fine].sum()
    start, end = u[fine] / pool.scale, q[fine] / pool.scale
    start = start - start.mean(axis=0)
    end = end - weight @ end
    change = (end**2).sum(axis=1) - (start**2).sum(axis=1)
    return float(
        share * math.exp(pool.log_length) * (weight @ (change * (end * p[fine]).sum(axis=1)))
    )


def run_hmc(
    target: Target, generator: np.random.Generator, chains: int, draws: int, tune: int,
    starts: np.ndarray, accept: float,
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, float], tuple[int, int]]:  # fmt: skip
    """Returns rows (chains, draws, m), statistics (chains, draws), seconds and gradients."""
    begin = time.perf_counter()
    u = starts.copy()
    value, gradient = target.rows(u)
    if not np.isfinite(value).all():
        raise ValueError(
            "the log density is not finite at every start: give init a point inside the support"
        )
    pool = _Pool(u.shape[1], accept)
    rows = np.empty((draws, chains, u.shape[1]))
    told = {
        name: np.empty((draws, chains))
        for name in ("logp", "energy", "acceptance", "diverging", "step", "leapfrogs")
    }
    tuned, spent, changes = begin, 0, {tune // 8, tune // 4, tune // 2, 3 * tune // 4}
    gradients = target.gradients
    for t in range(tune + draws):
        if t == tune:
            pool.log_step, tuned = (
                pool.log_step_mean if tune else pool.log_step,
                time.perf_counter(),
            )
            pool.log_length = pool.log_length_mean if pool.turn else pool.log_length
            spent = target.gradients - gradients
        step, share = math.exp(pool.log_step), 2 * _jitter(t)
        steps = max(1, min(_MOST, math.ceil(share * math.exp(pool.log_length) / step)))
        q, after, g, p, rise, before = _move(
            target, pool, u, value, gradient, steps, step, generator
        )
        chance = np.exp(-np.maximum(rise, 0.0))
        if t < tune:
            # The harmonic mean hears the chains that are stuck.
            pool.learn_step(float(1 / np.mean(1 / np.maximum(chance, 1e-3))))
            if t >= tune // 8:
                pool.learn_length(_slope(pool, u, q, p, chance, share))
        taken = generator.random(chains) < chance
        u = np.where(taken[:, None], q, u)
        gradient = np.where(taken[:, None], g, gradient)
        value = np.where(taken, after, value)
        if t < tune and t + 1 in changes and chains > 2:
            low, high = np.quantile(u, [0.16, 0.84], axis=0)
            pool.scale = np.maximum(0.5 * (high - low), 1e-10)
            pool.restart()
        if t >= tune:
            s = t - tune
            rows[s], told["logp"][s], told["energy"][s] = (
                u,
                value,
                np.where(taken, before + rise, before),
            )
            told["acceptance"][s], told["step"][s], told["leapfrogs"][s] = chance, step, steps
            told["diverging"][s] = ~(rise <= 1000)
    end = time.perf_counter()
    times = {"compile": 0.0, "tune": tuned - begin, "sample": end - tuned}
    stats = {name: np.ascontiguousarray(each.T) for name, each in told.items()}
    sampling = target.gradients - gradients - spent
    return np.ascontiguousarray(rows.swapaxes(0, 1)), stats, times, (spent, sampling)
