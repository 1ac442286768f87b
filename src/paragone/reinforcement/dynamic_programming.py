r"""Dynamic programming: values and optimal policies of a process that is known.

The value of the best policy solves Bellman's equation, v = T v with

$$ (T v)(s) = \max_a q(s, a), \qquad
   q(s, a) = \sum_{s'} p(s' \mid s, a) \bigl[ r(s, a, s') + \gamma\, v(s') \bigr] , $$

where nothing is added behind a terminated transition. T contracts by $\gamma$, so that repeating
it converges (value iteration); evaluating the greedy policy between improvements takes fewer but
dearer steps (policy iteration, exactly; truncated, by j sweeps). How near is near enough is not
read from the last change but proved: with $l \le T v - v \le h$ (MacQueen),

$$ T v + \tfrac{\gamma}{1 - \gamma} l \le v^* \le T v + \tfrac{\gamma}{1 - \gamma} h , $$

so that the middle of both is certain to half their distance. That is `bound`, together with the
rounding of 64-bit numbers; `tol` is what it should be at most.

`value_iteration` takes the fastest exact way unless told otherwise: sweeps in four directions on
a deterministic `GridWorld` (`_grid_sweeps`), else compact rows and 20 sweeps of the greedy policy
between two improvements, in place or not, whichever gains more (`_sweeps`).

Cost: O(E) a sweep for E outcomes; about log(1 / tol) / log(1 / gamma) sweeps at worst.

References:
    Bellman (1957), "Dynamic programming".
    Howard (1960), "Dynamic programming and Markov processes".
    MacQueen (1966), "A modified dynamic programming method for Markovian decision problems".
    Puterman and Shin (1978), "Modified policy iteration algorithms for discounted Markov decision
    problems".
    Zhao (2025), "Mathematical foundations of reinforcement learning", chapters 2 to 4.

Shapes: S states, A actions, H steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from paragone.reinforcement._plan import (
    Evaluation,
    Plan,
    as_mdp,
    checked_policy,
    q_of,
    warn_unless,
)
from paragone.reinforcement._planner import (
    default_tol,
    draws,
    evaluated,
    grid_plan,
    improved,
    is_plain_grid,
    modified,
    planned,
)
from paragone.reinforcement.mdp import MDP

__all__ = [
    "HorizonPlan",
    "average_reward",
    "evaluate_policy",
    "finite_horizon",
    "policy_iteration",
    "truncated_policy_iteration",
    "value_iteration",
]


def evaluate_policy(
    mdp: Any,
    policy: Any,
    *,
    gamma: float | None = None,
    method: str = "auto",
    tol: float | None = None,
    max_iterations: int = 1_000_000,
) -> Evaluation:
    """Computes the values of a policy.

    Prefer it to averaging simulated returns wherever the model is known: it is exact.

    Args:
        mdp: `MDP`, `GridWorld`, an environment with `.P`, such a table, or a pair (P, R).
        policy: Actions (S,), or probabilities (S, A) whose rows sum to 1.
        gamma: Discount; None takes that of `mdp`. 1 is allowed if the policy ends every episode.
        method: "closed" solves v = r + gamma P v as a sparse linear system; "iterative" sweeps;
            "auto" is closed up to 20,000 states.
        tol: Error of the values that sweeps stop at; None: 1e-8, or what rounding allows.
        max_iterations: Most sweeps.

    Raises:
        ValueError: An action does not exist, a row does not sum to 1, or gamma is 1 and from
            some state the policy never ends.

    Example:
        >>> from paragone.reinforcement import GridWorld
        >>> evaluate_policy(GridWorld([".T"], actions=5), [1, 4]).values.round(6).tolist()
        [10.0, 10.0]
    """
    process, discount = as_mdp(mdp, gamma, one=True)
    chance = checked_policy(process, policy)
    if method not in ("auto", "closed", "iterative"):
        raise ValueError(f"method={method!r} is none of 'auto', 'closed', 'iterative'")
    closed = method == "closed" or (method == "auto" and process.n_states <= 20_000)
    tol = default_tol(process, discount, tol)
    values, residual, bound, iterations = evaluated(
        process, chance, discount, closed, tol, max_iterations
    )
    converged = bool(bound <= tol) or closed
    warn_unless(converged, "evaluate_policy", bound, tol, iterations)
    return Evaluation(
        values, residual, bound, iterations, converged, lambda: q_of(process, discount, values)[0]
    )


def value_iteration(
    mdp: Any,
    *,
    gamma: float | None = None,
    tol: float | None = None,
    method: str = "auto",
    max_iterations: int = 1_000_000,
    initial: Any = None,
    random_state: int | np.random.Generator | None = None,
) -> Plan:
    """Finds the optimal values and a policy that attains them.

    Prefer it to `policy_iteration` for many states, to QuantEcon's and pymdptoolbox's solvers on
    grids (hundreds of times faster), and to every learner where the model is known.

    Args:
        mdp: `MDP`, `GridWorld`, an environment with `.P`, such a table, or a pair (P, R).
        gamma: Discount in [0, 1); None takes that of `mdp`.
        tol: Certified error of the values at most; None: 1e-8, or what rounding allows.
        method: "jacobi" repeats v = T v as in the books; "gauss_seidel" in place; "modified"
            with sweeps of the greedy policy between; "grid" on a `GridWorld` without slip and
            wind; "auto" the last where it can, else "modified".
        max_iterations: Most sweeps over all states.
        initial: Values to start from (S,); None: zeros. "grid" has no use for them.
        random_state: Seed to choose among equally good actions; None takes the first.

    Raises:
        ValueError: gamma is outside [0, 1) or `method` cannot be applied.

    Example:
        >>> from paragone.reinforcement import GridWorld
        >>> value_iteration(GridWorld([".T"])).values.round(6).tolist()
        [10.0, 10.0]
    """
    process, discount = as_mdp(mdp, gamma)
    names = ("auto", "jacobi", "gauss_seidel", "modified", "grid")
    if method not in names:
        raise ValueError(f"method={method!r} is none of {', '.join(names)}")
    on_grid = is_plain_grid(process)
    if method == "grid" and not on_grid:
        raise ValueError("method='grid' needs a GridWorld without slip and wind: use 'modified'")
    tol = default_tol(process, discount, tol)
    chosen = draws(random_state, process.n_states)
    if method == "grid" or (method == "auto" and on_grid and initial is None):
        plan = grid_plan(process, discount, tol, max_iterations, chosen)
    else:
        method = "modified" if method == "auto" else method
        found = modified(
            process, discount, tol, max_iterations, initial,
            sweeps=20 if method == "modified" else 0,
            plain=method == "jacobi", in_place=method == "gauss_seidel",
        )  # fmt: skip
        plan = planned(process, discount, tol, found, method, chosen)
    warn_unless(plan.converged, "value_iteration", plan.bound, tol, plan.iterations)
    return plan


def truncated_policy_iteration(
    mdp: Any,
    *,
    j: int = 20,
    gamma: float | None = None,
    tol: float | None = None,
    max_iterations: int = 1_000_000,
    initial: Any = None,
    random_state: int | np.random.Generator | None = None,
) -> Plan:
    """Policy iteration whose evaluations are cut off after j sweeps.

    Between value iteration (j = 1) and policy iteration (j without end); known also as modified
    policy iteration. `value_iteration` with method "modified" is this, made fast.

    Args:
        mdp: As for `value_iteration`.
        j: Sweeps of each policy, the improvement among them.
        gamma: As for `value_iteration`.
        tol: As for `value_iteration`.
        max_iterations: Most improvements.
        initial: Values to start from (S,).
        random_state: Seed to choose among equally good actions.

    Raises:
        ValueError: j is below 1, or as for `value_iteration`.
    """
    process, discount = as_mdp(mdp, gamma)
    if int(j) != j or j < 1:
        raise ValueError(f"j={j} is no number of sweeps: use 1 and above")
    tol = default_tol(process, discount, tol)
    chosen = draws(random_state, process.n_states)
    found = modified(
        process, discount, tol, max_iterations, initial, sweeps=int(j) - 1, plain=True,
        in_place=False,
    )  # fmt: skip
    plan = planned(process, discount, tol, found, f"truncated({j})", chosen)
    warn_unless(plan.converged, "truncated_policy_iteration", plan.bound, tol, plan.iterations)
    return plan


def policy_iteration(
    mdp: Any,
    *,
    gamma: float | None = None,
    tol: float | None = None,
    max_iterations: int = 1_000,
    initial: Any = None,
    random_state: int | np.random.Generator | None = None,
) -> Plan:
    """Howard's policy iteration: evaluate exactly, improve, until no action is better.

    Prefer it for few states (thousands) and gamma near 1: it needs a handful of improvements
    whatever gamma is.

    Args:
        mdp: As for `value_iteration`.
        gamma: As for `value_iteration`.
        tol: As for `value_iteration`; above 20,000 states also that of the evaluations.
        max_iterations: Most improvements.
        initial: Policy to start from (S,); None takes what is best for one step.
        random_state: Seed to choose among equally good actions.

    Raises:
        ValueError: As for `value_iteration`.
    """
    process, discount = as_mdp(mdp, gamma)
    tol = default_tol(process, discount, tol)
    if initial is None:
        policy = np.argmax(process.expected_reward, axis=1)
    else:
        policy = checked_policy(process, initial)
        if policy.ndim != 1:
            raise ValueError("initial has probabilities: give one action for each state (S,)")
    values, iterations, settled = np.zeros(process.n_states), 0, False
    while not settled and iterations < max_iterations:
        closed = process.n_states <= 20_000
        values = evaluated(process, policy, discount, closed, tol / 4, 1_000_000)[0]
        iterations += 1
        policy, settled = improved(process, discount, values, policy)
    chosen = draws(random_state, process.n_states)
    found = (values, iterations, np.inf)
    plan = planned(process, discount, tol, found, "policy iteration", chosen)
    warn_unless(plan.converged, "policy_iteration", plan.bound, tol, iterations)
    return plan


@dataclass
class HorizonPlan:
    """A plan for a fixed number of steps.

    Attributes:
        values: v (H + 1, S) with t steps gone; the last row is what was given for the end.
        policy: Best action (H, S) with t steps gone; ties go to the first.
        q: Action values (H, S, A).
    """

    values: np.ndarray
    policy: np.ndarray
    q: np.ndarray


def finite_horizon(
    mdp: Any, horizon: int, *, gamma: float = 1.0, final_values: Any = None
) -> HorizonPlan:
    """Best policy for a fixed number of steps, by one backward pass.

    Args:
        mdp: As for `value_iteration`.
        horizon: Steps H.
        gamma: Discount in [0, 1]; not taken from `mdp`, as none is needed.
        final_values: Values after the last step (S,); None: zeros.

    Raises:
        ValueError: The horizon is below 1, or the values do not fit.
    """
    process, discount = as_mdp(mdp, gamma, one=True)
    if int(horizon) != horizon or horizon < 1:
        raise ValueError(f"horizon={horizon} is no number of steps: use 1 and above")
    S, A, H = process.n_states, process.n_actions, int(horizon)
    values, q, policy = np.zeros((H + 1, S)), np.empty((H, S, A)), np.empty((H, S), np.int64)
    if final_values is not None:
        values[H] = _values_of(process, final_values, "final_values")
    for t in range(H - 1, -1, -1):
        q[t] = q_of(process, discount, values[t + 1])[0]
        values[t] = q[t].max(axis=1)
        tie = 1e-12 * max(1.0, float(np.abs(values[t]).max()))
        policy[t] = np.argmax(q[t] >= values[t][:, None] - tie, axis=1)
    return HorizonPlan(values, policy, q)


def _values_of(process: MDP, given: Any, name: str) -> np.ndarray:
    values = np.array(given, np.float64)
    if values.shape != (process.n_states,) or not np.isfinite(values).all():
        raise ValueError(f"{name} has shape {values.shape}: give {process.n_states} finite numbers")
    return values


def average_reward(
    mdp: Any,
    *,
    tol: float = 1e-8,
    max_iterations: int = 1_000_000,
    random_state: int | np.random.Generator | None = None,
) -> Plan:
    r"""Best reward a step in the long run, by relative value iteration.

    Solves $g + h(s) = \max_a \sum_{s'} p(s' \mid s, a) [r + h(s')]$ with h = 0 in state 0. After
    a terminated transition the next episode begins, in a state of `mdp.start`. At every step
    min and max of T h - h enclose the best gain. Half of each step is staying, which changes no
    gain and keeps periodic processes from oscillating.

    Args:
        mdp: As for `value_iteration`.
        tol: Error of the gain at most.
        max_iterations: Most sweeps.
        random_state: Seed to choose among equally good actions.

    Returns:
        A `Plan`: `gain`, and `values` the bias h (S,); `bound` is that of the gain. It converges
        if the best gain is the same from every state (a process without separate parts).
    """
    process, _ = as_mdp(mdp, 1.0, one=True)
    reward, onward = process.expected_reward.reshape(-1), process.continuation
    rest = np.where(process.available.reshape(-1), 1 - np.asarray(onward.sum(axis=1)), 0.0)
    shape = (process.n_states, process.n_actions)

    def q_from(h: np.ndarray) -> np.ndarray:
        return (reward + onward @ h + rest * (process.start @ h)).reshape(shape)

    h, low, high, sweeps = np.zeros(process.n_states), -np.inf, np.inf, 0
    while high - low > 2 * tol and sweeps < max_iterations:
        change = q_from(h).max(axis=1) - h
        low, high = float(change.min()), float(change.max())
        h = h + change / 2
        h -= h[0]
        sweeps += 1
    gain, bound = (low + high) / 2, (high - low) / 2
    warn_unless(bound <= tol, "average_reward", bound, tol, sweeps)
    return Plan(
        h, bound, bound, sweeps, bound <= tol, "relative value iteration", lambda: q_from(h) - gain,
        draws(random_state, process.n_states), gain,
    )  # fmt: skip
