r"""Monte Carlo control: learn from whole episodes, by averaging the returns that were seen.

The return behind the t-th action is $g_t = r_{t+1} + \gamma g_{t+1}$, computed backwards from the
end of the episode; the value of an action is the mean of the returns that followed it, and the
policy is made greedy, or almost, for the values after every batch of episodes.

What is cut off is missing: an episode that ends by its time limit after T steps, though the task
goes on, has returns that are short by $\gamma^{T - t} v(s_T)$. `truncation_bias` says by how
much on average; `truncation="bootstrap"` adds the value that is known so far. And rewards farther
away than the time limit are not seen at all: with a target 14 steps away, episodes of 10 steps
leave the values of distant states at zero.

Cost: about 10 ns a step, returns and averages included; O(S A) memory.

References:
    Sutton and Barto (2018), "Reinforcement learning", 2nd edition, sections 5.1 to 5.6.
    Zhao (2025), "Mathematical foundations of reinforcement learning", algorithms 5.1, 5.2, 5.3.

Shapes: S states, A actions, K episodes at once, T steps at most.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from paragone._core.random import RandomState
from paragone.reinforcement import _mc_kernels as kernels
from paragone.reinforcement._tabular import Learner, Schedule, checked_share

__all__ = ["MonteCarloBasic", "MonteCarloEpsilonGreedy", "MonteCarloExploringStarts"]

VISITS = {"every": kernels.EVERY, "first": kernels.FIRST}
DEFAULT_HORIZON = 1000


class _Episodic(Learner):
    """Plays episodes and averages their returns."""

    def __init__(
        self, env: Any, gamma: float | None, horizon: int | None, initial: Any,
        random_state: RandomState, chains: int, truncation: str,
    ) -> None:  # fmt: skip
        super().__init__(env, gamma, horizon=horizon, initial=initial, random_state=random_state)
        if chains != int(chains) or chains < 1:
            raise ValueError(f"chains={chains} is no number of episodes: use 1 and above")
        if truncation not in ("cut", "bootstrap"):
            raise ValueError(f"truncation={truncation!r} is none of 'cut', 'bootstrap'")
        self.chains, self.truncation = int(chains), truncation
        if self._stepper is None and self.horizon is None:
            self.horizon = DEFAULT_HORIZON
        S, A = self.n_states, self.n_actions
        self._q = self._initial.reshape(-1).copy()
        self._totals, self._stats = np.zeros((S * A, 4)), np.zeros(4)
        self._marks = np.zeros(S * A, np.int64)
        self._noise = self._random.integers(0, 2**64, self.chains, np.uint64)
        self._keep = np.zeros(1, np.int64)
        if self._table is None:
            self._seen = np.arange(S)
        else:
            self._seen = self._table.flat[4]
            self._keys = self._table.keys
        rows = len(self._seen) * A
        self._pick = np.repeat(np.arange(rows, dtype=np.int32), 2)
        self._open: list[tuple[list[int], list[float]]] | None = None
        self._shape_rooms(self.chains)
        self._improve(0)

    def _shape_rooms(self, chains: int) -> None:
        T = self.horizon if self._table is not None and self.horizon is not None else 1
        self._trace = np.empty((chains, T), np.int32)
        self._lengths, self._final = np.zeros(chains, np.int64), np.full(chains, -1)
        self._rooms = (np.empty(chains, np.int64), np.empty(chains, np.int64))
        self._first = np.full(chains, -1)
        self._held = np.empty(len(self._q))

    @property
    def q(self) -> np.ndarray:
        return self._q.reshape(self.n_states, self.n_actions).copy()

    @property
    def visits(self) -> np.ndarray:
        """Returns that were averaged for each action (S, A)."""
        counts = self._totals[:, 2] + self._totals[:, 3]
        return counts.astype(np.int64).reshape(self.n_states, self.n_actions)

    @property
    def truncation_bias(self) -> float:
        """How much truncation left out of a return on average, by the values known then.

        0 where episodes terminated, and with `truncation="bootstrap"`.
        """
        return float(self._stats[2] / max(self._stats[3], 1.0))

    def _improve(self, count: int, alpha: float = 0.0) -> None:
        keys = self._keys if self._table is not None else np.zeros(1, np.int64)
        kernels.improve(
            self._q, self._totals, alpha, self._seen, self.n_actions, self._pick, self._noise,
            self._trace, self._lengths, count, keys,
        )  # fmt: skip

    def _state(self) -> dict[str, np.ndarray]:
        return {"q": self._q, "totals": self._totals, "stats": self._stats, "pick": self._pick}

    def _count(self, steps: int, episodes: int) -> None:
        self.samples += steps
        self.episodes += episodes
        self._gains[1] = self._stats[0]

    def _needs_table(self) -> None:
        if self._table is None:
            raise ValueError(
                f"{type(self).__name__} starts episodes in every state and action, which "
                f"{self.env} does not offer: use MonteCarloEpsilonGreedy or QLearning"
            )


class MonteCarloBasic(_Episodic):
    """Policy iteration whose evaluation is by simulation (Zhao, algorithm 5.1).

    From every state and action so many episodes are played under the policy; the mean of their
    returns is the action's value, and the policy becomes greedy. Prefer it to nothing but as the
    first step of the story: it wastes all returns but the first of each episode.

    Args:
        env: An `MDP`, a `GridWorld` or a finite environment of ours.
        gamma: Discount; None takes that of the process, else 0.9.
        episodes_per_pair: Episodes from each state and action; 1 is enough where nothing is
            random.
        horizon: Steps of an episode at most; None takes the environment's limit, else 1000.
        truncation: "cut": returns end with the episode; "bootstrap": the value of the last state
            is added where it was cut off.
        initial: First value of every action, a number or (S, A).
        random_state: Seed.

    Example:
        >>> from paragone.reinforcement import GridWorld
        >>> learner = MonteCarloBasic(GridWorld(["..", ".T"]), horizon=100, random_state=0)
        >>> learner.train(episodes=100).values.round(3).tolist()
        [9.0, 10.0, 10.0, 10.0]
    """

    def __init__(
        self,
        env: Any,
        gamma: float | None = None,
        *,
        episodes_per_pair: int = 1,
        horizon: int | None = None,
        truncation: str = "cut",
        initial: Any = 0.0,
        random_state: RandomState = None,
    ) -> None:
        super().__init__(env, gamma, horizon, initial, random_state, 64, truncation)
        self._needs_table()
        if episodes_per_pair != int(episodes_per_pair) or episodes_per_pair < 1:
            raise ValueError(f"episodes_per_pair={episodes_per_pair}: use 1 and above")
        self.episodes_per_pair = int(episodes_per_pair)
        self.iterations = 0

    def _run(self, steps: int, episodes: int) -> None:
        assert self._table is not None
        places, limits, after, reward, _ = self._table.flat
        self._totals[:] = 0.0
        rows = np.repeat(np.arange(len(places) - 1), self.episodes_per_pair)
        played = 0
        for at in range(0, len(rows), self.chains):
            first = rows[at : at + self.chains]
            kernels.generate(
                places, limits, after, self.n_actions, self._pick, self._keep, 0, first,
                self._trace, self._lengths, self._final, *self._rooms, self._noise,
            )  # fmt: skip
            kernels.walk_back(
                kernels.START, self._trace, self._lengths, self._final, len(first), reward,
                self._keys, self._seen, self._q, self.n_actions, self.gamma, 0.0,
                self.truncation == "bootstrap", 0.0, self._totals, self._held, self._marks,
                self._stats,
            )  # fmt: skip
            played += int(self._lengths[: len(first)].sum())
        self._improve(0)
        self.iterations += 1
        self._count(played, len(rows))


class _Control(_Episodic):
    """One batch of episodes, then a better policy; see `_mc_kernels.control`."""

    exploring = False

    def _prepare(self, epsilon: Schedule, visit: str, alpha: float | None) -> None:
        if visit not in VISITS:
            raise ValueError(f"visit={visit!r} is none of 'every', 'first'")
        if alpha is not None and not 0 < alpha <= 1:
            raise ValueError(f"alpha={alpha} is no step size: use above 0, to 1, or None")
        self.epsilon, self.visit, self.alpha = epsilon, visit, alpha
        self._epsilon = checked_share("epsilon", epsilon)

    def _now(self) -> float:
        first, slope, last = self._epsilon
        return max(first - slope * self.samples, last)

    def _run(self, steps: int, episodes: int) -> None:
        if self._table is None:
            self._run_plain(steps, episodes)
            return
        _, slope, last = self._epsilon
        places, limits, after, reward, seen = self._table.flat
        done = kernels.control(
            steps, episodes, self.exploring, places, limits, after, reward, self._keys, seen,
            self._q, self._totals, self.n_actions, self.gamma, self._now(), slope, last,
            VISITS[self.visit], self.alpha or 0.0, self.truncation == "bootstrap", self._pick,
            self._keep, self._first, self._trace, self._lengths, self._final, *self._rooms,
            self._held, self._marks, self._stats, self._noise,
        )  # fmt: skip
        self._count(*done)

    def _run_plain(self, steps: int, episodes: int) -> None:
        """Plays through Gymnasium's interface; an episode is its own table, one entry a step."""
        world, A = self._stepper, self.n_actions
        assert world is not None
        world.start(int(self._random.integers(2**31)))
        if self._open is None:
            self._open = [([], []) for _ in range(world.count)]
        actions = np.empty(world.count, np.int64)
        last_sample, last_episode = self.samples + steps, self.episodes + episodes
        while self.samples < last_sample and self.episodes < last_episode:
            epsilon, states = self._now(), world.states
            assert states is not None
            self._keep[0] = round(epsilon * 2**32)
            kernels.follow(self._pick, self._keep, 0, A, states, self._noise, actions)
            gained, following, terminated, truncated, real = world.step(actions)
            for i in np.flatnonzero(real):
                keys, rewards = self._open[i]
                keys.append(states[i] * A + actions[i])
                rewards.append(gained[i])
                if terminated[i] or truncated[i]:
                    self._finish(keys, rewards, -1 if terminated[i] else following[i], epsilon)
                    self._open[i] = ([], [])
            self._count(int(real.sum()), int((real & (terminated | truncated)).sum()))

    def _finish(self, keys: list[int], rewards: list[float], final: int, epsilon: float) -> None:
        trace = np.arange(len(keys), dtype=np.int32)[None]
        lengths, found = np.array([len(keys)]), np.array(keys, np.int64)
        alpha = self.alpha or 0.0
        kernels.walk_back(
            VISITS[self.visit], trace, lengths, np.array([final]), 1, np.array(rewards), found,
            self._seen, self._q, self.n_actions, self.gamma, epsilon,
            self.truncation == "bootstrap", alpha, self._totals, self._held, self._marks,
            self._stats,
        )  # fmt: skip
        kernels.improve(
            self._q, self._totals, alpha, self._seen, self.n_actions, self._pick, self._noise,
            trace, lengths, 1, found,
        )  # fmt: skip


class MonteCarloEpsilonGreedy(_Control):
    """Monte Carlo control with a policy that never stops to explore (Zhao, algorithm 5.3).

    The best action is taken with probability 1 - epsilon + epsilon / A, every other with
    epsilon / A. Prefer it to `MonteCarloExploringStarts` where episodes cannot start anywhere, to
    `QLearning` where episodes are short and the process is not quite Markov. Values are those of
    the exploring policy, which in places differs from the best one.

    Args:
        env: An `MDP`, an environment of ours, or any Gymnasium environment with finite spaces.
        gamma: Discount; None takes that of the process, else 0.9.
        epsilon: Share of exploring steps, or (first, last, steps).
        visit: "every" visit of an action in an episode counts, or only the "first".
        alpha: None averages all returns; a number moves the value by that share of the error.
        chains: Episodes between two improvements of the policy; 1 is the algorithm as written.
        horizon: Steps of an episode at most; None takes the environment's limit, else 1000.
        truncation: "cut": returns end with the episode; "bootstrap": the value of the last state
            is added where it was cut off.
        initial: Value of actions not yet tried, a number or (S, A).
        random_state: Seed.

    Example:
        >>> from paragone.reinforcement import GridWorld
        >>> grid = GridWorld(["..", ".T"])
        >>> learner = MonteCarloEpsilonGreedy(grid, horizon=200, random_state=0)
        >>> learner.train(steps=200_000).policy[1:].tolist()
        [2, 1, 4]
    """

    def __init__(
        self,
        env: Any,
        gamma: float | None = None,
        *,
        epsilon: Schedule = 0.1,
        visit: str = "every",
        alpha: float | None = None,
        chains: int = 1,
        horizon: int | None = None,
        truncation: str = "cut",
        initial: Any = 0.0,
        random_state: RandomState = None,
    ) -> None:
        super().__init__(env, gamma, horizon, initial, random_state, chains, truncation)
        self._prepare(epsilon, visit, alpha)


class MonteCarloExploringStarts(_Control):
    """Monte Carlo control with greedy episodes that start anywhere (Zhao, algorithm 5.2).

    Every episode starts with a state and action drawn from all, each equally likely, and goes on
    greedily. Prefer it to `MonteCarloEpsilonGreedy` where episodes can start anywhere: its values
    are those of the best policy.

    Args:
        env: An `MDP`, a `GridWorld` or a finite environment of ours.
        gamma: Discount; None takes that of the process, else 0.9.
        visit: "every" visit of an action in an episode counts, or only the "first".
        alpha: None averages all returns; a number moves the value by that share of the error.
        chains: Episodes between two improvements of the policy; 1 is the algorithm as written.
        horizon: Steps of an episode at most; None takes the environment's limit, else 1000.
        truncation: As in `MonteCarloEpsilonGreedy`.
        initial: Value of actions not yet tried, a number or (S, A).
        random_state: Seed.

    Example:
        >>> from paragone.reinforcement import GridWorld
        >>> learner = MonteCarloExploringStarts(GridWorld(["..", ".T"]), alpha=0.1, random_state=0)
        >>> learner.train(steps=100_000).policy[1:].tolist()
        [2, 1, 4]
    """

    exploring = True

    def __init__(
        self,
        env: Any,
        gamma: float | None = None,
        *,
        visit: str = "every",
        alpha: float | None = None,
        chains: int = 1,
        horizon: int | None = None,
        truncation: str = "cut",
        initial: Any = 0.0,
        random_state: RandomState = None,
    ) -> None:
        super().__init__(env, gamma, horizon, initial, random_state, chains, truncation)
        self._needs_table()
        self._prepare(0.0, visit, alpha)
