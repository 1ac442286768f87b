r"""Monte Carlo prediction: the value of one policy from episodes of the same or of another.

Under a behaviour b other than the policy, returns are weighted by how much likelier the policy is
to act as was done, $\rho_{t:T} = \prod_{k=t}^{T-1} \pi(a_k \mid s_k) / b(a_k \mid s_k)$:

$$ \text{ordinary: } \frac{1}{n} \sum \rho_{t:T}\, g_t, \qquad
   \text{weighted: } \frac{\sum \rho_{t:T}\, g_t}{\sum \rho_{t:T}}, \qquad
   \text{per decision: } \frac{1}{n} \sum \tilde g_t, \quad
   \tilde g_t = \rho_t (r_{t+1} + \gamma \tilde g_{t+1}) . $$

The ordinary mean is unbiased, and its variance may be infinite; the weighted one is biased, less
with every episode, and bounded by the returns; per decision, no reward is weighted by what came
after it.

Cost: about 15 ns a step; O(S) memory.

References:
    Sutton and Barto (2018), "Reinforcement learning", 2nd edition, equations 5.3 to 5.6, 5.13
    and 5.14.
    Precup, Sutton and Singh (2000), "Eligibility traces for off-policy policy evaluation".

Shapes: S states, A actions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from paragone._core.random import RandomState
from paragone.reinforcement import _mc_kernels as kernels
from paragone.reinforcement._tabular import Learner, as_policy

__all__ = ["MonteCarloPrediction"]

WEIGHTINGS = {"ordinary": kernels.ORDINARY, "weighted": kernels.WEIGHTED,
              "per_decision": kernels.PER_DECISION}  # fmt: skip
DEFAULT_HORIZON = 1000


class MonteCarloPrediction(Learner):
    """Values of a policy by averaging returns.

    Prefer it to `TemporalDifference` where values must be unbiased and come with a standard
    error; to `evaluate_policy` where there is no model.

    Args:
        env: An `MDP`, an environment of ours, or any Gymnasium environment with finite spaces.
        policy: Actions (S,), probabilities (S, A), or "uniform".
        gamma: Discount; None takes that of the process, else 0.9.
        behaviour: The policy that acts, as `policy`; None: the policy itself. It must take every
            action that the policy takes.
        weighting: "ordinary", "weighted" or "per_decision"; without a behaviour all are equal.
        visit: "first" visit of a state in an episode counts, or "every".
        horizon: Steps of an episode at most; None takes the environment's limit, else 1000.
        random_state: Seed.

    Raises:
        ValueError: The behaviour never takes an action that the policy takes.

    Example:
        >>> from paragone.reinforcement import MDP
        >>> coin = MDP.from_function(1, 1, lambda s, a: [(0.5, 0, 1.0, True), (0.5, 0, 0.0)])
        >>> learner = MonteCarloPrediction(coin, "uniform", 1.0, random_state=0)
        >>> learner.train(episodes=1000).values.round(2).tolist()
        [1.0]
    """

    def __init__(
        self,
        env: Any,
        policy: Any,
        gamma: float | None = None,
        *,
        behaviour: Any = None,
        weighting: str = "weighted",
        visit: str = "first",
        horizon: int | None = None,
        random_state: RandomState = None,
    ) -> None:
        super().__init__(env, gamma, horizon=horizon, random_state=random_state)
        S, A = self.n_states, self.n_actions
        if weighting not in WEIGHTINGS:
            raise ValueError(f"weighting={weighting!r} is none of {', '.join(WEIGHTINGS)}")
        if visit not in ("first", "every"):
            raise ValueError(f"visit={visit!r} is none of 'first', 'every'")
        self.weighting, self.visit = weighting, visit
        if self._stepper is None and self.horizon is None:
            self.horizon = DEFAULT_HORIZON
        self._shares, pick, keep = as_policy(policy, S, A)
        acting = self._shares
        if behaviour is not None:
            acting, pick, keep = as_policy(behaviour, S, A)
        missing = (self._shares > 0) & (acting == 0)
        if missing.any():
            s, a = np.argwhere(missing)[0]
            raise ValueError(
                f"the behaviour never takes action {a} in state {s}, the policy does: returns "
                "cannot be weighted; give it a probability above 0"
            )
        self._ratios = np.ones((S, A))
        np.divide(self._shares, acting, out=self._ratios, where=acting > 0)
        self._sums, self._marks = np.zeros((S, 6)), np.zeros(S, np.int64)
        self._held = np.empty((2, S))
        self._gathered = np.zeros(2)
        self._pick, self._keep = pick, keep
        self._open: list[tuple[list[int], list[float]]] | None = None
        if self._table is not None:
            self._prepare_table()

    def _prepare_table(self) -> None:
        assert self._table is not None
        assert self.horizon is not None
        A, seen = self.n_actions, self._table.flat[4]
        if len(seen) != self.n_states:
            shares = np.empty((len(seen), A))
            shares[:] = self._acting()[seen]
            _, self._pick, self._keep = as_policy(shares, len(seen), A)
        chains = max(1, min(64, 2**20 // self.horizon))
        self._noise = self._random.integers(0, 2**64, chains, np.uint64)
        self._trace = np.empty((chains, self.horizon), np.int32)
        self._rooms = tuple(np.empty(chains, np.int64) for _ in range(4))

    def _acting(self) -> np.ndarray:
        acting = self._shares.copy()
        np.divide(self._shares, self._ratios, out=acting, where=self._ratios > 0)
        return acting

    @property
    def q(self) -> np.ndarray:
        raise AttributeError("MonteCarloPrediction learns values of states: see `values`")

    @property
    def policy(self) -> np.ndarray:
        """The policy that is evaluated (S, A)."""
        return self._shares

    @property
    def values(self) -> np.ndarray:
        """Values of the states under the policy (S,); NaN where no return was seen."""
        seen = self._sums[:, 1] > 0
        values = np.full(self.n_states, np.nan)
        np.divide(self._sums[:, 2], self._sums[:, 1], out=values, where=seen)
        return values

    @property
    def standard_errors(self) -> np.ndarray:
        """Standard errors of the values (S,), NaN below two returns; for first visits.

        Returns of one episode depend on each other: with every visit they are too small. Where
        the ordinary weighting has no finite variance they mean nothing.
        """
        n, weight, _, square, cross, outer = self._sums.T
        values = self.values
        left = np.maximum(outer - 2 * values * cross + values**2 * square, 0.0)
        errors = np.full(self.n_states, np.nan)
        np.divide(np.sqrt(left), weight, out=errors, where=n >= 2)
        return errors

    @property
    def visits(self) -> np.ndarray:
        """Returns that were averaged for each state (S,)."""
        return self._sums[:, 0].astype(np.int64)

    def act(self, observation: Any) -> Any:
        raise AttributeError("MonteCarloPrediction evaluates a policy: act by that policy")

    def _state(self) -> dict[str, np.ndarray]:
        return {"sums": self._sums, "gathered": self._gathered}

    def _weigh(self, trace: Any, lengths: Any, count: int, reward: Any, keys: Any) -> None:
        kernels.weigh(
            self.visit == "first", WEIGHTINGS[self.weighting], trace, lengths, count, reward,
            keys, self.n_actions, self.gamma, self._ratios.reshape(-1), self._sums, self._held,
            self._marks, self._gathered,
        )  # fmt: skip
        self._gains[1] = self._gathered[0]

    def _run(self, steps: int, episodes: int) -> None:
        if self._table is None:
            self._run_plain(steps, episodes)
            return
        places, limits, after, reward, _ = self._table.flat
        last_sample, last_episode = self.samples + steps, self.episodes + episodes
        first, lengths, final, rows = self._rooms[0], *self._rooms[1:]
        order = np.empty(len(first), np.int64)
        while self.samples < last_sample and self.episodes < last_episode:
            count = min(len(first), last_episode - self.episodes)
            first[:] = -1
            kernels.generate(
                places, limits, after, self.n_actions, self._pick, self._keep, 1, first[:count],
                self._trace, lengths, final, rows, order, self._noise,
            )  # fmt: skip
            self._weigh(self._trace, lengths, count, reward, self._table.keys)
            self.samples += int(lengths[:count].sum())
            self.episodes += count

    def _run_plain(self, steps: int, episodes: int) -> None:
        world, A = self._stepper, self.n_actions
        assert world is not None
        world.start(int(self._random.integers(2**31)))
        if self._open is None:
            self._open = [([], []) for _ in range(world.count)]
        actions = np.empty(world.count, np.int64)
        last_sample, last_episode = self.samples + steps, self.episodes + episodes
        while self.samples < last_sample and self.episodes < last_episode:
            states = world.states
            assert states is not None
            kernels.follow(self._pick, self._keep, 1, A, states, self._noise, actions)
            gained, _, terminated, truncated, real = world.step(actions)
            for i in np.flatnonzero(real):
                keys, rewards = self._open[i]
                keys.append(states[i] * A + actions[i])
                rewards.append(gained[i])
                if terminated[i] or truncated[i]:
                    trace = np.arange(len(keys), dtype=np.int32)[None]
                    lengths = np.array([len(keys)])
                    self._weigh(trace, lengths, 1, np.array(rewards), np.array(keys, np.int64))
                    self._open[i] = ([], [])
                    self.episodes += 1
            self.samples += int(real.sum())
