"""The loops around the sweeps: improve, evaluate, and prove how near the values are."""

from __future__ import annotations

from typing import Any

import numpy as np

from paragone.reinforcement._grid_sweeps import BORDER, grid_actions, grid_values
from paragone.reinforcement._plan import EPSILON, Plan, certified, q_of
from paragone.reinforcement._sweeps import (
    backward_order,
    compact_rows,
    greedy_sweep,
    policy_rows,
    policy_sweeps,
    row_sums,
)
from paragone.reinforcement.mdp import MDP

__all__ = [
    "default_tol",
    "draws",
    "evaluated",
    "grid_plan",
    "improved",
    "is_plain_grid",
    "modified",
    "planned",
]

TRIED, SHARE = 6, 0.05
"""Sweeps (an even number) of the trial; share of the change that ends sweeps of a policy."""
FEW_STAY = 1e-3
"""Share of transitions to the state itself below which they are not solved for."""


def default_tol(mdp: MDP, gamma: float, tol: float | None) -> float:
    """The error asked for, or 1e-8, or what rounding allows."""
    if tol is None:
        if gamma == 1:
            return 1e-8
        return max(1e-8, 64 * EPSILON * _largest_reward(mdp) / (1 - gamma) ** 2)
    if not tol > 0:
        raise ValueError(f"tol={tol} is no error: use a number above 0")
    return float(tol)


def _largest_reward(mdp: MDP) -> float:
    from paragone.reinforcement.grid_world import GridWorld

    if isinstance(mdp, GridWorld):
        # Three numbers instead of a table of all transitions.
        return abs(mdp.r_boundary) + max(abs(mdp.r_forbidden), abs(mdp.r_target), abs(mdp.r_step))
    return float(np.abs(mdp.reward).max(initial=0.0))


def draws(random_state: Any, states: int) -> np.ndarray:
    """Numbers in [0, 1) that break ties, or an empty array: the first action."""
    if random_state is None:
        return np.empty(0)
    return np.random.default_rng(random_state).random(states)


def is_plain_grid(mdp: MDP) -> bool:
    """Whether the sweeps in four directions apply."""
    from paragone.reinforcement.grid_world import GridWorld

    return isinstance(mdp, GridWorld) and mdp.slip == 0 and mdp.wind is None


def grid_plan(mdp: Any, gamma: float, tol: float, max_passes: int, chosen: np.ndarray) -> Plan:
    """Plans on a deterministic grid."""
    kinds = np.pad(mdp.cells, 1, constant_values=BORDER)
    enter = np.array([mdp.r_step, mdp.r_forbidden, mdp.r_target, 0.0])
    both = {"boundary": 0.0, "sum": mdp.r_forbidden}
    in_forbidden = (
        mdp.r_forbidden
        if mdp.bump_in_forbidden == "forbidden"
        else mdp.r_boundary + both[mdp.bump_in_forbidden]
    )
    bump = np.array([mdp.r_boundary, in_forbidden, mdp.r_boundary, 0.0])
    block = mdp.forbidden == "block"
    fixed = np.array([False, block, mdp.target != "continuing", True])
    values = np.empty(mdp.shape)
    passes, residual = grid_values(
        kinds, enter, bump, fixed, mdp.n_actions == 5, block, gamma, values, max_passes
    )
    scale = float(np.abs(values).max())
    bound = certified(-residual, residual, gamma, scale, keeps=False)[1] + residual

    def q() -> np.ndarray:
        table = np.empty((mdp.n_states, mdp.n_actions))
        grid_actions(kinds, enter, bump, fixed, block, gamma, values, table)
        return table

    return Plan(values.reshape(-1), residual, bound, passes, bool(bound <= tol), "grid", q, chosen)


def _rows(
    mdp: MDP, gamma: float, plain: bool, travel: bool = False
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """(position of each state, compact rows in that order); `travel` orders by distance."""
    process = mdp.offsets, mdp.successor, mdp.probability, mdp.reward, mdp.terminated
    position = np.arange(mdp.n_states, dtype=np.int32)
    if travel:
        position = backward_order(*process, mdp.n_actions)
    # A handful of rows that stay put is not worth that values no longer move alike.
    own = np.repeat(np.arange(mdp.n_states), np.diff(mdp.offsets[:: mdp.n_actions]))
    plain = plain or float(np.mean(mdp.successor == own)) < FEW_STAY
    return position, compact_rows(*process, mdp.n_actions, gamma, position, plain)


def _reach(change: float, least: float, greatest: float, upward: bool) -> float:
    """How far values may still go in a direction, if every row's weights sum to between both."""
    weight = greatest if (change >= 0) == upward else least
    return change * weight / (1 - weight)


def _in_place_pays(rows: Any, v: np.ndarray, weights: tuple[float, float]) -> bool:
    """Tries both ways of sweeping on the first policy, and asks which is nearer to its values.

    Out of place all values move alike where states mix well, and what they have in common is
    known (MacQueen); in place values travel far in one sweep. Neither is better everywhere.
    """
    widths = []
    for in_place in (False, True):
        old, new = v.copy(), np.empty_like(v)
        policy_sweeps(*rows, old, old if in_place else new, TRIED, 0.0, -1.0)
        low, high = greedy_sweep(*rows, 1, old, new, np.empty(len(v), np.int32))
        least, greatest = weights
        down, up = _reach(low, least, greatest, False), _reach(high, least, greatest, True)
        widths.append(up - down)
    return widths[1] < widths[0]


def modified(
    mdp: MDP,
    gamma: float,
    tol: float,
    max_iterations: int,
    initial: Any,
    *,
    sweeps: int,
    plain: bool,
    in_place: bool,
) -> tuple[np.ndarray, int, float]:
    """Improvements with `sweeps` of the greedy policy between; (v, iterations, bound).

    Between two improvements the sweeps go from one array to the other or in place, whichever
    `_in_place_pays` finds better; they end before if they gain no more than an improvement.
    The bound is that of MacQueen for the compact rows, which have the same fixed point.
    """
    A, travel = mdp.n_actions, in_place
    position, rows = _rows(mdp, gamma, plain, travel)
    weights = least, greatest = row_sums(rows[0], rows[2], rows[3])
    v, new = np.zeros(mdp.n_states), np.empty(mdp.n_states)
    if initial is not None:
        given = np.asarray(initial, np.float64)
        if given.shape != v.shape or not np.isfinite(given).all():
            raise ValueError(f"initial has shape {given.shape}: give {len(v)} finite numbers")
        v[position] = given
    choice, phase = np.empty(mdp.n_states, np.int32), 0
    while phase < max_iterations:
        low, high = greedy_sweep(*rows, A, v, v if in_place else new, choice)
        phase += 1
        if in_place:
            bound = max(-low, high) * gamma / (1 - gamma)
            if bound <= tol / 2:
                return v[position], phase, bound
            continue
        v, new = new, v
        down, up = _reach(low, least, greatest, False), _reach(high, least, greatest, True)
        # The middle is best where values move alike; elsewhere the end that is certain.
        lift = (up + down) / 2 if greatest - least < 1e-9 else max(down, 0.0) + min(up, 0.0)
        bound = max(up - lift, lift - down)
        if bound <= tol / 2:
            return v[position] + lift, phase, bound
        if plain:
            made = policy_sweeps(*policy_rows(*rows, A, choice), v, new, sweeps, 0.0, -1.0)
        else:
            # v* lies on one side for certain: go to the nearer end of where it can be.
            v += max(down, 0.0) + min(up, 0.0)
            chosen = policy_rows(*rows, A, choice)
            if phase == 1 and _in_place_pays(chosen, v, weights):
                travel, old = True, position
                position, rows = _rows(mdp, gamma, plain, travel)
                v[position], choice[position] = v[old], choice[old]
                chosen = policy_rows(*rows, A, choice)
            other = v if travel else new
            made = policy_sweeps(*chosen, v, other, sweeps, 0.0, SHARE * (high - low))
        if made % 2 and not travel:
            v, new = new, v
    return v[position], phase, np.inf


def planned(
    mdp: MDP, gamma: float, tol: float, found: tuple[np.ndarray, int, float], method: str,
    chosen: np.ndarray,
) -> Plan:  # fmt: skip
    """Applies Bellman's equation as it stands, and keeps the nearer of both proofs."""
    values, iterations, bound = found
    q, low, high = q_of(mdp, gamma, values)
    best = q.max(axis=1)
    scale = float(np.abs(best).max())
    shift, proved = certified(low, high, gamma, scale, not mdp.terminated.any())
    bound += certified(0.0, 0.0, gamma, scale, keeps=True)[1]
    if proved < bound:
        values, bound = best + shift, proved
        q, low, high = q_of(mdp, gamma, values)
    residual = max(abs(low), abs(high))
    return Plan(values, residual, bound, iterations, bool(bound <= tol), method, lambda: q, chosen)


def improved(
    mdp: MDP, gamma: float, values: np.ndarray, policy: np.ndarray
) -> tuple[np.ndarray, bool]:
    """The greedy policy, keeping the old action where none is better; and whether all stayed."""
    q, _, _ = q_of(mdp, gamma, values)
    old = q[np.arange(len(q)), policy]
    tie = 1e-12 * max(1.0, float(np.abs(values).max()))
    better = q.max(axis=1) > old + tie
    return np.where(better, np.argmax(q, axis=1), policy), not better.any()


def evaluated(
    mdp: MDP, policy: np.ndarray, gamma: float, closed: bool, tol: float, max_iterations: int
) -> tuple[np.ndarray, float, float, int]:
    """(values, residual, bound, iterations) of a policy given as actions or probabilities."""
    import scipy.sparse as sparse
    from scipy.sparse.linalg import spsolve

    S, A = mdp.n_states, mdp.n_actions
    if policy.ndim == 1:
        picked = np.arange(S) * A + policy
        onward, reward = mdp.continuation[picked], mdp.expected_reward.reshape(-1)[picked]
    else:
        mix = sparse.csr_array(
            (policy.reshape(-1), np.arange(S * A), np.arange(0, S * A + 1, A)), shape=(S, S * A)
        )
        onward = mix @ mdp.continuation
        reward = (policy * np.where(mdp.available, mdp.expected_reward, 0.0)).sum(axis=1)
    onward = sparse.csr_array(onward)
    if gamma == 1:
        _refuse_endless(onward, mdp)
    if closed:
        system = sparse.eye_array(S, format="csc") - gamma * onward.tocsc()
        solved: Any = spsolve(system, reward)
        values, iterations = np.atleast_1d(solved), 1
    else:
        values, iterations = _swept(onward, reward, gamma, tol, max_iterations)
    change = reward + gamma * (onward @ values) - values
    residual = float(np.abs(change).max())
    if gamma == 1:
        return values, residual, _time(onward) * residual, iterations
    scale = float(np.abs(values).max())
    bound = (residual + 4 * EPSILON * scale) / (1 - gamma)
    return values, residual, bound, iterations


def _time(onward: Any) -> float:
    """Longest expected length of an episode: what a residual can grow by at gamma = 1."""
    import scipy.sparse as sparse
    from scipy.sparse.linalg import spsolve

    size = onward.shape[0]
    steps: Any = spsolve(sparse.eye_array(size, format="csc") - onward.tocsc(), np.ones(size))
    return float(np.max(steps))


def _refuse_endless(onward: Any, mdp: MDP) -> None:
    """Raises if from some state the policy never ends its episode, at gamma = 1."""
    ends = np.asarray(onward.sum(axis=1)) < 1 - 1e-12
    reached, frontier = ends.copy(), ends
    back = onward.T.tocsr() > 0
    while frontier.any():
        frontier = (back.T @ frontier) & ~reached
        reached = reached | frontier
    if not reached.all():
        raise ValueError(
            f"gamma=1 and from state {int(np.argmin(reached))} the policy never ends: its value "
            "has no limit; use gamma < 1"
        )


def _swept(
    onward: Any, reward: np.ndarray, gamma: float, tol: float, most: int
) -> tuple[np.ndarray, int]:
    rows = (
        onward.indptr.astype(np.uint64), onward.indices.astype(np.uint32),
        gamma * onward.data, np.ascontiguousarray(reward, np.float64),
    )  # fmt: skip
    values = np.zeros(len(reward))
    enough = tol * (1 - gamma) / 2 if gamma < 1 else tol / 1e4
    return values, policy_sweeps(*rows, values, values, most, enough, -1.0)
