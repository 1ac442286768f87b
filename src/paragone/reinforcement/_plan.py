"""What planners take and what they give back."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from paragone.reinforcement._mdp_input import checked_gamma
from paragone.reinforcement._sweeps import bellman, greedy_actions
from paragone.reinforcement.mdp import MDP

__all__ = ["Evaluation", "Plan", "as_mdp", "certified", "checked_policy", "q_of", "warn_unless"]

EPSILON = float(np.finfo(np.float64).eps)


def as_mdp(given: Any, gamma: float | None, *, one: bool = False) -> tuple[MDP, float]:
    """Returns the process and the discount: the one given, else the one of the process.

    Takes an `MDP` or `GridWorld`, a Gymnasium environment around one or with a table `.P`, such
    a table, or a pair (P, R).
    """
    inner = given if isinstance(given, MDP) else getattr(given, "unwrapped", given)
    if isinstance(inner, MDP):
        return inner, inner.gamma if gamma is None else checked_gamma(gamma, one=one)
    if gamma is None:
        raise ValueError("gamma is missing and the environment has none: give 0 <= gamma < 1")
    discount = checked_gamma(gamma, one=one)
    kept = 0.0 if discount == 1 else discount
    if isinstance(given, tuple) and len(given) == 2:
        return MDP.from_arrays(*given, gamma=kept), discount
    return MDP.from_gymnasium(given, gamma=kept), discount


def checked_policy(mdp: MDP, policy: Any) -> np.ndarray:
    """Returns probabilities (S, A) or actions (S,) that exist, or raises `ValueError`."""
    S, A = mdp.n_states, mdp.n_actions
    given = np.asarray(policy)
    if given.shape == (S,) and given.dtype.kind in "iu":
        bad = (given < 0) | (given >= A)
        if not bad.any():
            bad = ~mdp.available[np.arange(S), given]
        if bad.any():
            s = int(np.argmax(bad))
            raise ValueError(
                f"action {given[s]} does not exist in state {s}: use {_choices(mdp, s)}"
            )
        return given.astype(np.int64)
    if given.shape != (S, A):
        raise ValueError(
            f"policy has shape {given.shape} and type {given.dtype}: give whole numbers ({S},) "
            f"or probabilities ({S}, {A})"
        )
    chance = given.astype(np.float64)
    wrong = ~(chance >= 0).all(axis=1) | ~(np.abs(chance.sum(axis=1) - 1) <= 1e-8)
    if wrong.any():
        s = int(np.argmax(wrong))
        raise ValueError(f"policy of state {s} is {chance[s]}: give probabilities that sum to 1")
    absent = (chance > 0) & ~mdp.available
    if absent.any():
        s, a = np.argwhere(absent)[0]
        raise ValueError(f"action {a} does not exist in state {s}: use {_choices(mdp, int(s))}")
    return chance


def _choices(mdp: MDP, state: int) -> str:
    return ", ".join(str(a) for a in np.flatnonzero(mdp.available[state]))


def q_of(mdp: MDP, gamma: float, values: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Returns q (S, A) of the values, and the lowest and highest change max_a q - v."""
    q = np.empty((mdp.n_states, mdp.n_actions))
    low, high = bellman(
        mdp.offsets, mdp.successor, mdp.probability, mdp.reward, mdp.terminated, mdp.n_actions,
        gamma, values, q,
    )  # fmt: skip
    return q, low, high


def certified(low: float, high: float, gamma: float, scale: float, keeps: bool) -> tuple:
    """(shift, bound): |T v + shift - v*| <= bound, by MacQueen's bounds and with rounding.

    Where episodes may end (`keeps` is False) a constant does not carry over: there is no shift,
    and the bound is that of the largest change.
    """
    factor = gamma / (1 - gamma)
    rounding = 4 * EPSILON * scale / (1 - gamma)
    if not keeps:
        return 0.0, factor * max(-low, high, 0.0) + rounding
    return factor * (low + high) / 2, factor * (high - low) / 2 + rounding


def warn_unless(converged: bool, name: str, bound: float, tol: float, iterations: int) -> None:
    """Says that what was asked for was not reached."""
    if not converged:
        warnings.warn(
            f"{name} stopped after {iterations} iterations with values certain to {bound:.3g}, "
            f"not {tol:.3g}: raise max_iterations or tol",
            RuntimeWarning,
            stacklevel=3,
        )


@dataclass
class Evaluation:
    """The values of a policy.

    Attributes:
        values: v (S,).
        residual: max |r + gamma P v - v|, of the equation as it stands.
        bound: Certified: max |v - v of the policy| is at most this.
        iterations: Sweeps; 1 for the closed form.
        converged: Whether the bound asked for was reached.
    """

    values: np.ndarray
    residual: float
    bound: float
    iterations: int
    converged: bool
    _q: Callable[[], np.ndarray] = field(repr=False)

    @cached_property
    def q(self) -> np.ndarray:
        """Action values (S, A): one action, then the policy; -inf where there is no action."""
        return self._q()


@dataclass
class Plan:
    """An optimal policy, with what is certain about it.

    Attributes:
        values: v (S,).
        residual: max |T v - v| of Bellman's equation as it stands.
        bound: Certified: max |v - v*| is at most this; from it follows that a policy which is
            greedy in v loses at most 2 gamma bound / (1 - gamma).
        iterations: Sweeps over all states (passes on a grid), or improvements of the policy.
        converged: Whether the bound asked for was reached.
        method: What was done.
        gain: Reward a step in the long run; only of `average_reward`.
    """

    values: np.ndarray
    residual: float
    bound: float
    iterations: int
    converged: bool
    method: str
    _q: Callable[[], np.ndarray] = field(repr=False)
    _draws: np.ndarray = field(repr=False)
    gain: float | None = None

    @cached_property
    def q(self) -> np.ndarray:
        """Action values (S, A) that belong to `values`; -inf where there is no action."""
        return self._q()

    @cached_property
    def _greedy(self) -> tuple[np.ndarray, np.ndarray]:
        policy, gaps = np.empty(len(self.q), np.int64), np.empty(len(self.q))
        scale = float(np.abs(self.values).max(initial=1.0))
        greedy_actions(self.q, 1e-12 * scale, self._draws, policy, gaps)
        return policy, gaps

    @property
    def policy(self) -> np.ndarray:
        """A best action of each state (S,).

        Actions tie if their q differ by at most 1e-12 of the largest value; of those the first
        is taken, or with `random_state` any, with equal chances.
        """
        return self._greedy[0]

    @property
    def action_gaps(self) -> np.ndarray:
        """How far the second best action lies behind the best (S,); inf if there is one only."""
        return self._greedy[1]
