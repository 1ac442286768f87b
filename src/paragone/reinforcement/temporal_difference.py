r"""Temporal-difference learning with tables: from every step, without a model.

The value of a state or action moves towards what the next step or steps say of it,

$$ w(k_t) \leftarrow w(k_t) + \alpha \Bigl[ \sum_{i<m} \gamma^i r_{t+i+1}
   + \gamma^m b(s_{t+m}) - w(k_t) \Bigr] , $$

and the methods differ in b alone: the state's value (`TemporalDifference`), the value of the
action that comes next (`Sarsa`), its mean under the policy (`ExpectedSarsa`), the largest
(`QLearning`), or one table's value of the other table's best action (`DoubleQLearning`). Behind a
transition that terminated b is 0; behind one that was only cut off it is the value of the last
observation. A constant $\alpha$ leads to a ball around the solution, not to it; `omega` above
1/2 makes the step sizes $\alpha\, n^{-\omega}$ of the Robbins-Monro kind.

Cost: O(A) a step for one step of return, O(A + m) for m; O(S A) memory.

References:
    Sutton and Barto (2018), "Reinforcement learning", 2nd edition, equations 6.2, 6.7, 6.8, 6.9,
    6.10, 7.2 and 7.5.
    Watkins (1989), "Learning from delayed rewards".
    van Hasselt (2010), "Double Q-learning", algorithm 1.
    Zhao (2025), "Mathematical foundations of reinforcement learning", chapter 7.

Shapes: S states, A actions, m steps of the return.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from paragone._core.random import RandomState
from paragone.reinforcement import _td_kernels as kernels
from paragone.reinforcement._tabular import FOREVER, Learner, Schedule, as_policy, checked_share

__all__ = ["DoubleQLearning", "ExpectedSarsa", "QLearning", "Sarsa", "TemporalDifference"]


class _Stepwise(Learner):
    """Learns after every step; subclasses say what stands for the value of the next state."""

    kind: ClassVar[int]

    def _prepare(
        self, n: int, alpha: float, omega: float, epsilon: Schedule, behaviour: Any
    ) -> None:
        if n != int(n) or n < 1:
            raise ValueError(f"n={n} is no number of steps: use 1 and above")
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha={alpha} is no step size: use above 0, to 1")
        if not 0 <= omega <= 1:
            raise ValueError(f"omega={omega}: use 0 for constant steps, to 1 for averages")
        self.n, self.alpha, self.omega = int(n), float(alpha), float(omega)
        self.epsilon, self.behaviour = epsilon, behaviour
        self._epsilon = checked_share("epsilon", epsilon)
        S, A = self.n_states, self.n_actions
        self._given = behaviour is not None
        if self._given:
            _, self._pick, self._keep = as_policy(behaviour, S, A)
        else:
            self._pick, self._keep = np.zeros(2, np.int32), np.zeros(1, np.int64)
        first = self._initial.mean(axis=1) if self.kind == kernels.VALUE else self._initial
        count = 3 if self.kind == kernels.DOUBLE else 1
        self._tables = np.tile(first.reshape(-1), count)
        self._tally = np.zeros(first.size, np.int64)
        rooms = 1 if self._stepper is None else self._stepper.count
        self._keys, self._rewards = np.zeros((rooms, n), np.int64), np.zeros((rooms, n))
        self._pending, self._where = np.zeros(rooms, np.int64), np.full(3, -1)
        self._chosen = np.full(rooms, -1)

    @property
    def q(self) -> np.ndarray:
        size = self.n_states * self.n_actions
        return self._tables[:size].reshape(self.n_states, self.n_actions).copy()

    @property
    def visits(self) -> np.ndarray:
        """Updates of each action (S, A), or of each state (S,)."""
        if self.kind == kernels.VALUE:
            return self._tally.copy()
        return self._tally.reshape(self.n_states, self.n_actions).copy()

    def _now(self) -> float:
        first, slope, last = self._epsilon
        return max(first - slope * self.samples, last)

    def _state(self) -> dict[str, np.ndarray]:
        return {
            "tables": self._tables, "tally": self._tally, "keys": self._keys,
            "rewards": self._rewards, "pending": self._pending, "where": self._where,
        }  # fmt: skip

    def _run(self, steps: int, episodes: int) -> None:
        if self._table is None:
            self._run_plain(steps, episodes)
            return
        _, slope, last = self._epsilon
        done, ended = kernels.learn(
            self.kind, self.n, steps, episodes, self._tables, self._tally, self._keys,
            self._rewards, self._pending, *self._table.flat, self.n_actions,
            self.horizon or FOREVER, self._given, self._pick, self._keep, self.gamma,
            self.alpha, self.omega, self._now(), slope, last, self._where, self._gains,
            self._noise,
        )  # fmt: skip
        self.samples += done
        self.episodes += ended

    def _choose(self, states: np.ndarray, epsilon: float) -> np.ndarray:
        actions = np.empty(len(states), np.int64)
        kernels.act(
            self._tables, states, self.n_actions, epsilon, self._given, self._pick, self._keep,
            self._noise, actions,
        )  # fmt: skip
        return actions

    def _run_plain(self, steps: int, episodes: int) -> None:
        world = self._stepper
        assert world is not None
        world.start(int(self._random.integers(2**31)))
        last_sample, last_episode = self.samples + steps, self.episodes + episodes
        running = np.zeros(world.count) if not hasattr(self, "_running") else self._running
        self._running = running
        while self.samples < last_sample and self.episodes < last_episode:
            states, epsilon = world.states, self._now()
            assert states is not None
            fresh = self._chosen < 0
            actions = self._chosen
            if fresh.any():
                actions = np.where(fresh, self._choose(states, epsilon), self._chosen)
            gained, following, terminated, truncated, real = world.step(actions)
            nexts = self._chosen
            if self.kind == kernels.SARSA:
                nexts = self._choose(following, epsilon)
            kernels.absorb(
                self.kind, self.n, self._tables, self._tally, self._keys, self._rewards,
                self._pending, self.n_actions, states, actions, gained, following, nexts,
                terminated, truncated, real, self.gamma, self.alpha, self.omega, epsilon,
                self._noise,
            )  # fmt: skip
            ended = real & (terminated | truncated)
            if self.kind == kernels.SARSA:
                self._chosen = np.where(ended | ~real, -1, nexts)
            running[real] += gained[real]
            self._gains[1] += running[ended].sum()
            running[ended] = 0.0
            self.samples += int(real.sum())
            self.episodes += int(ended.sum())


class TemporalDifference(_Stepwise):
    """Values of a given policy from m-step temporal differences.

    Prefer it to `evaluate_policy` where there is no model, and to Monte Carlo where episodes are
    long or never end: it learns from every step and varies less, but is biased by `initial`.

    Args:
        env: An `MDP`, an environment of ours, or any Gymnasium environment with finite spaces.
        policy: Actions (S,), probabilities (S, A), or "uniform".
        gamma: Discount; None takes that of the process, else 0.9.
        n: Steps m of the return.
        alpha: Step size.
        omega: Step sizes fall as alpha / visits^omega.
        horizon: Steps after which an episode is cut off.
        initial: First value of each action, of which states take the mean.
        random_state: Seed.

    Example:
        >>> from paragone.reinforcement import MDP
        >>> chain = MDP.from_function(2, 1, lambda s, a: [(1.0, 1, 1.0 - s)], gamma=0.5, start=0)
        >>> learner = TemporalDifference(chain, "uniform", alpha=1.0, horizon=5)
        >>> learner.train(episodes=3).values.tolist()
        [1.0, 0.0]
    """

    kind = kernels.VALUE

    def __init__(
        self,
        env: Any,
        policy: Any,
        gamma: float | None = None,
        *,
        n: int = 1,
        alpha: float = 0.1,
        omega: float = 0.0,
        horizon: int | None = None,
        initial: Any = 0.0,
        random_state: RandomState = None,
    ) -> None:
        super().__init__(env, gamma, horizon=horizon, initial=initial, random_state=random_state)
        self._prepare(n, alpha, omega, 0.0, policy)
        self._shares = as_policy(policy, self.n_states, self.n_actions)[0]

    @property
    def q(self) -> np.ndarray:
        raise AttributeError("TemporalDifference learns values of states: see `values`")

    @property
    def values(self) -> np.ndarray:
        """Values of the states under the policy (S,)."""
        return self._tables.copy()

    @property
    def policy(self) -> np.ndarray:
        """The policy that is evaluated (S, A)."""
        return self._shares

    def act(self, observation: Any) -> Any:
        raise AttributeError("TemporalDifference evaluates a policy: act by that policy")


class Sarsa(_Stepwise):
    """On-policy control: the value of the action that is taken next.

    Prefer it to `QLearning` where the price of exploring counts while learning: on the cliff it
    learns the safe path. With n above 1 rewards are carried back faster.

    Args:
        env: An `MDP`, an environment of ours, or any Gymnasium environment with finite spaces.
        gamma: Discount; None takes that of the process, else 0.9.
        n: Steps m of the return.
        alpha: Step size.
        omega: Step sizes fall as alpha / visits^omega.
        epsilon: Share of exploring steps, or (first, last, steps).
        horizon: Steps after which an episode is cut off; its last state's value stands in.
        initial: First value of every action, a number or (S, A).
        random_state: Seed.

    Example:
        >>> from paragone.reinforcement import GridWorld
        >>> learner = Sarsa(GridWorld(["..", ".T"]), random_state=0).train(steps=20_000)
        >>> learner.policy[1:].tolist()
        [2, 1, 4]
    """

    kind = kernels.SARSA

    def __init__(
        self,
        env: Any,
        gamma: float | None = None,
        *,
        n: int = 1,
        alpha: float = 0.1,
        omega: float = 0.0,
        epsilon: Schedule = 0.1,
        horizon: int | None = None,
        initial: Any = 0.0,
        random_state: RandomState = None,
    ) -> None:
        super().__init__(env, gamma, horizon=horizon, initial=initial, random_state=random_state)
        self._prepare(n, alpha, omega, epsilon, None)


class ExpectedSarsa(Sarsa):
    """`Sarsa` with the mean over the next action in place of the one that is drawn.

    Prefer it to `Sarsa`: for O(A) more a step the draw of the next action adds no variance, and
    larger step sizes stay stable.

    Args:
        env: As in `Sarsa`.
        gamma: As in `Sarsa`.
        n: As in `Sarsa`.
        alpha: As in `Sarsa`.
        omega: As in `Sarsa`.
        epsilon: As in `Sarsa`; the mean is under this policy.
        horizon: As in `Sarsa`.
        initial: As in `Sarsa`.
        random_state: As in `Sarsa`.
    """

    kind = kernels.EXPECTED


class QLearning(_Stepwise):
    """Control towards the best actions, whichever are taken.

    Prefer it to `Sarsa` where only the final policy counts, or where experience comes from
    another policy; prefer `value_iteration` where the model is known.

    Args:
        env: An `MDP`, an environment of ours, or any Gymnasium environment with finite spaces.
        gamma: Discount; None takes that of the process, else 0.9.
        alpha: Step size.
        omega: Step sizes fall as alpha / visits^omega.
        epsilon: Share of exploring steps, or (first, last, steps).
        behaviour: Policy that acts in place of the epsilon-greedy one: "uniform", actions (S,)
            or probabilities (S, A).
        horizon: Steps after which an episode is cut off; its last state's value stands in.
        initial: First value of every action, a number or (S, A).
        random_state: Seed.

    Example:
        >>> from paragone.reinforcement import GridWorld
        >>> learner = QLearning(GridWorld(["..", ".T"]), behaviour="uniform", random_state=0)
        >>> learner.train(steps=100_000).values.round(6).tolist()
        [9.0, 10.0, 10.0, 10.0]
    """

    kind = kernels.GREEDY

    def __init__(
        self,
        env: Any,
        gamma: float | None = None,
        *,
        alpha: float = 0.1,
        omega: float = 0.0,
        epsilon: Schedule = 0.1,
        behaviour: Any = None,
        horizon: int | None = None,
        initial: Any = 0.0,
        random_state: RandomState = None,
    ) -> None:
        super().__init__(env, gamma, horizon=horizon, initial=initial, random_state=random_state)
        self._prepare(1, alpha, omega, epsilon, behaviour)


class DoubleQLearning(QLearning):
    """`QLearning` with two tables, each valued by the other's best action.

    Prefer it where rewards are noisy: the maximum over noisy values is too large, which drives
    `QLearning` to states of which it knows little. `q` is the mean of the two tables.

    Args:
        env: As in `QLearning`.
        gamma: As in `QLearning`.
        alpha: As in `QLearning`.
        omega: As in `QLearning`.
        epsilon: As in `QLearning`; greedy for the mean of the tables.
        behaviour: As in `QLearning`.
        horizon: As in `QLearning`.
        initial: As in `QLearning`.
        random_state: As in `QLearning`.
    """

    kind = kernels.DOUBLE
