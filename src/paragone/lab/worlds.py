r"""Worlds for control: finite processes of which the model is known, and its judge.

A world is a Markov decision process with a discount and a start, from a text grid, a table of
Gymnasium's, or a formula; or, where states cannot be counted, an environment alone. What a
policy is worth is computed, not simulated. With $J(\pi) = \sum_s \mu(s) v_\pi(s)$,

$$ \text{regret}(\pi) = \frac{J(\pi^*) - J(\pi)}{J(\pi^*) - J(\text{uniform})} , $$

0 for the best policy and 1 for acting at random. The judge is SciPy's sparse solver, none of the
contestants: $v_\pi = (I - \gamma P_\pi)^{-1} r_\pi$, and $\pi^*$ by Howard's iteration on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from paragone._core.errors import UsageError

__all__ = ["MOST_JUDGED", "Judge", "World", "load", "prepare"]

MOST_JUDGED = 20_000
"""States up to which the judge solves; beyond, the residual of the values bounds the regret."""

BOOK: tuple[str, ...] = (".....", ".##..", "..#..", ".#T#.", ".#...")
_CLASSIC_BEST = {"CartPole-v1": (500.0, 20.0), "Acrobot-v1": (-63.0, -500.0)}
"""Best and random return of environments without a table."""


@dataclass
class World:
    """One input of the study.

    Attributes:
        kind: "grid", "table" or "classic".
        name: A Gymnasium id, or a word.
        budget: Samples that a learner may take.
        mdp: The process (None for "classic").
        layout: Rows of the grid (empty where there is none).
    """

    kind: str
    name: str
    budget: int
    mdp: Any = None
    layout: list[str] = field(default_factory=list)

    def identity(self) -> tuple[Any, ...]:
        """What all contestants must have been given alike."""
        if self.mdp is None:
            return self.kind, self.name, self.budget
        m = self.mdp
        rows = (m.offsets, m.successor, m.probability, m.reward, m.terminated, m.start)
        return (self.kind, self.budget, m.gamma, *rows)

    def gymnasium(self) -> Any:
        """The world as a plain Gymnasium environment, without a limit on steps."""
        if self.kind == "grid":
            return self.mdp
        import gymnasium

        if self.name in gymnasium.registry:
            return gymnasium.make(self.name, max_episode_steps=-1)
        return Sampled(self.mdp)


class Sampled:
    """A process as an environment, drawn from its table by NumPy."""

    def __init__(self, mdp: Any) -> None:
        self._mdp, self._rng, self._state = mdp, np.random.default_rng(0), 0

    def reset(self, *, seed: int | None = None) -> tuple[int, dict[str, Any]]:
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._state = int(self._rng.choice(self._mdp.n_states, p=self._mdp.start))
        return self._state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        m, k = self._mdp, self._state * self._mdp.n_actions + int(action)
        first, end = m.offsets[k], m.offsets[k + 1]
        e = first + self._rng.choice(end - first, p=m.probability[first:end])
        self._state = int(m.successor[e])
        return self._state, float(m.reward[e]), bool(m.terminated[e]), False, {}


def load(
    kind: str, name: str, budget: int, gamma: float = 0.9, layout: str = "", size: int = 0,
    seed: int = 0,
) -> World:  # fmt: skip
    """Makes a world in a run's own process; the arguments are a workload's `params`."""
    if kind == "classic":
        return World(kind, name, budget)
    if kind == "grid":
        from paragone.reinforcement.grid_world import GridWorld

        rows: list[str] = layout.split("\n") if layout else [*BOOK]
        if not layout and name != "book":
            rows = _maze(size, seed)
        grid = GridWorld(rows, gamma)
        return World(kind, name, budget, grid, rows)
    from paragone.reinforcement.mdp import MDP

    if name == "forest":
        return World(kind, name, budget, MDP.from_arrays(*_forest(max(size, 3)), gamma))
    import gymnasium

    env: Any = gymnasium.make(name)
    shown = _map_of(env.unwrapped)
    return World(kind, name, budget, MDP.from_gymnasium(env, gamma), shown)


def _maze(size: int, seed: int) -> list[str]:
    """A square grid, a quarter forbidden, with the target near its middle."""
    rng = np.random.default_rng([size, seed])
    letters = np.where(rng.random((size, size)) < 0.25, "#", ".")
    letters[size // 2, size // 3] = "T"
    return ["".join(row) for row in letters]


def _forest(states: int) -> tuple[np.ndarray, np.ndarray]:
    """Wait or cut: a fire starts again with probability 0.1 (pymdptoolbox's example)."""
    P = np.zeros((2, states, states))
    P[0, :, 0] = 0.1
    P[0, np.arange(states), np.minimum(np.arange(states) + 1, states - 1)] = 0.9
    P[1, :, 0] = 1.0
    R = np.zeros((states, 2))
    R[1:-1, 1] = 1.0
    R[-1] = 4.0, 2.0
    return P, R


def _map_of(env: Any) -> list[str]:
    """Rows of letters, where the environment lies on a grid: # is what ends badly or costs."""
    if hasattr(env, "desc") and type(env).__name__ == "FrozenLakeEnv":
        words = {"H": "#", "G": "T", "F": ".", "S": "."}
        return ["".join(words[c] for c in row) for row in env.desc.astype(str)]
    if type(env).__name__ == "CliffWalkingEnv":
        return ["." * 12] * 3 + ["." + "#" * 10 + "T"]
    return []


def prepare(data: str) -> dict[str, Any]:
    """Says what `--data` is: a file with a grid, or a Gymnasium id; facts and parameters.

    Raises:
        UsageError: Neither, or states that cannot be counted and are not known here.
    """
    path = Path(data).expanduser()
    if path.is_file():
        from paragone.reinforcement.grid_world import GridWorld

        try:
            rows = GridWorld(path.read_text(encoding="utf-8")).layout
        except ValueError as error:
            raise UsageError(f"--data {data}: {error}") from None
        text = path.read_text(encoding="utf-8").split()
        return {"kind": "grid", "name": path.stem, "layout": "\n".join(text),
                "states": len(rows) * len(rows[0])}  # fmt: skip
    import gymnasium

    try:
        env: Any = gymnasium.make(data)
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise UsageError(
            f"--data {data}: neither a file with a grid nor a Gymnasium id ({error})"
        ) from None
    if hasattr(env.unwrapped, "P"):
        return {"kind": "table", "name": data, "states": len(env.unwrapped.P)}
    if data in _CLASSIC_BEST:
        return {"kind": "classic", "name": data, "states": 0}
    raise UsageError(
        f"--data {data}: it has no table P of transitions, so that no policy can be judged; give a "
        f"grid, FrozenLake-v1, CliffWalking-v1, Taxi-v4 or {', '.join(_CLASSIC_BEST)}"
    )


class Judge:
    """Values of policies, exactly; see the module's text."""

    def __init__(self, world: World) -> None:
        self.world, self.mdp = world, world.mdp

    def _solve(self, chance: np.ndarray) -> np.ndarray:
        """Values of probabilities (S, A)."""
        import scipy.sparse as sparse
        from scipy.sparse.linalg import spsolve

        m = self.mdp
        S, A = m.n_states, m.n_actions
        mix = sparse.csr_array(
            (chance.reshape(-1), np.arange(S * A), np.arange(0, S * A + 1, A)), shape=(S, S * A)
        )
        onward: Any = mix @ m.continuation
        reward = (chance * np.where(m.available, m.expected_reward, 0.0)).sum(axis=1)
        solved: Any = spsolve(sparse.eye_array(S, format="csc") - m.gamma * onward.tocsc(), reward)
        return np.atleast_1d(solved)

    @cached_property
    def best(self) -> np.ndarray:
        """The optimal values (S,), by policy iteration."""
        m = self.mdp
        policy = np.argmax(m.expected_reward, axis=1)
        while True:
            values = self._solve(np.eye(m.n_actions)[policy])
            q = self.q_of(values)
            better = q.max(axis=1) > q[np.arange(len(q)), policy] + 1e-10 * (1 + np.abs(q).max())
            if not better.any():
                return values
            policy = np.where(better, q.argmax(axis=1), policy)

    def q_of(self, values: np.ndarray) -> np.ndarray:
        """Action values (S, A) of state values."""
        m = self.mdp
        later = (m.continuation @ values).reshape(m.n_states, m.n_actions)
        return np.where(m.available, m.expected_reward + m.gamma * later, -1e300)

    @cached_property
    def _ends(self) -> tuple[float, float]:
        uniform = self.mdp.available / self.mdp.available.sum(axis=1, keepdims=True)
        start = self.mdp.start
        return float(start @ self.best), float(start @ self._solve(uniform))

    def regret(self, policy: np.ndarray) -> float:
        """Share of what acting well is worth over acting at random that the policy misses."""
        best, random = self._ends
        own = float(self.mdp.start @ self._solve(np.eye(self.mdp.n_actions)[policy]))
        return max(best - own, 0.0) / max(best - random, 1e-12)

    def error(self, values: np.ndarray) -> float:
        """Largest error of the values, relative to the largest value."""
        if self.mdp.n_states <= MOST_JUDGED:
            return float(np.abs(values - self.best).max() / max(np.abs(self.best).max(), 1e-12))
        residual = np.abs(self.q_of(values).max(axis=1) - values).max()
        return float(residual / (1 - self.mdp.gamma) / max(np.abs(values).max(), 1e-12))

    def return_regret(self, mean_return: float) -> float:
        """The same share for an environment without a table, from a mean return."""
        best, random = _CLASSIC_BEST[self.world.name]
        return max(best - mean_return, 0.0) / (best - random)

    def edge(self, policy: np.ndarray) -> float | None:
        """Of the cliff: share of the free steps that the greedy path takes beside it."""
        if self.world.name != "CliffWalking-v1":
            return None
        state, beside, steps = int(np.argmax(self.mdp.start)), 0, 0
        for _ in range(200):
            k = state * self.mdp.n_actions + int(policy[state])
            entry = self.mdp.offsets[k]
            state = int(self.mdp.successor[entry])
            if self.mdp.terminated[entry]:
                break
            row, column = divmod(state, 12)
            if 1 <= column <= 10:
                beside, steps = beside + (row == 2), steps + 1
        return beside / max(steps, 1)
