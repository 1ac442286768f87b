"""What all tabular learners share: the call, the count of samples, the curve, saving."""

from __future__ import annotations

import os
from typing import Any, Self

import numpy as np

from paragone._core.random import RandomState, as_generator
from paragone.reinforcement._chance import policy_tables
from paragone.reinforcement._world import Numbered, Stepper, fused_table, made

__all__ = ["Learner", "Schedule", "as_policy", "checked_share"]

FOREVER = 1 << 62

Schedule = float | tuple[float, float, int]
"""A constant, or (first, last, steps): a straight line over so many steps, then the last."""


class Learner:
    """Base of the tabular learners; not used alone.

    Args:
        env: An `MDP` or `GridWorld`, an environment of ours (both learn in one compiled loop), or
            any Gymnasium `Env` or `VectorEnv` with finite spaces, which is stepped as it is; or
            Gymnasium's id of one.
        gamma: Discount, 0 <= gamma <= 1; None takes that of the process, else 0.9.
        horizon: Steps after which an episode is cut off; None leaves it to the environment.
        initial: First value of every action, a number or (S, A).
        random_state: Seed; the same seed gives the same result.
    """

    def __init__(
        self,
        env: Any,
        gamma: float | None = None,
        *,
        horizon: int | None = None,
        initial: Any = 0.0,
        random_state: RandomState = None,
    ) -> None:
        env = made(env)
        own = fused_table(env)
        self.env = env
        self._table = None if own is None else own[0]
        if horizon is not None and (horizon != int(horizon) or horizon < 1):
            raise ValueError(f"horizon={horizon} is no number of steps: use 1 and above")
        limits = [h for h in (horizon, None if own is None else own[1]) if h is not None]
        self.horizon = min(limits) if limits else None
        if self._table is not None:
            self._stepper = None
            self.n_states, self.n_actions = self._table.sights, self._table.mdp.n_actions
        else:
            self._stepper = Stepper(env, self.horizon)
            self.n_states = self._stepper.observations.size
            self.n_actions = self._stepper.actions.size
        space = getattr(env, "single_observation_space", getattr(env, "observation_space", None))
        self._sights = None if space is None else Numbered(space, "observation")
        if gamma is None:
            gamma = 0.9 if self._table is None else self._table.mdp.gamma
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma={gamma} is no discount: use 0 to 1")
        self.gamma = float(gamma)
        if gamma == 1 and self.horizon is None and self._table is not None:
            self._needs_ends()
        self._random = as_generator(random_state)
        self._noise = self._random.integers(0, 2**64, 1, np.uint64)
        self._initial = _broadcast(initial, self.n_states, self.n_actions)
        self.samples = 0
        self.episodes = 0
        self.history: dict[str, list[float]] = {}
        self._gains = np.zeros(2)

    def _needs_ends(self) -> None:
        assert self._table is not None
        if not self._table.mdp.terminated.any():
            raise ValueError(
                "gamma=1 where no episode ends: values are infinite; use gamma < 1 or a horizon"
            )

    @property
    def q(self) -> np.ndarray:
        """Value of each action (S, A)."""
        raise NotImplementedError

    @property
    def values(self) -> np.ndarray:
        """Value of the best action of each state (S,)."""
        return self.q.max(axis=1)

    @property
    def policy(self) -> np.ndarray:
        """Best action of each state (S,), the first among equals."""
        return self.q.argmax(axis=1)

    def act(self, observation: Any) -> Any:
        """Returns the best action for an observation, as the environment takes it."""
        number = observation if self._sights is None else self._sights.one(observation)
        if self._stepper is None:
            return int(self.policy[number])
        world = self._stepper
        chosen = world.actions.member(self.policy[[number]])[0]
        return int(chosen) if world.actions.plain else chosen

    def train(
        self,
        steps: int | None = None,
        *,
        episodes: int | None = None,
        every: int | None = None,
        truth: Any = None,
    ) -> Self:
        """Learns on, from where the last call ended.

        Args:
            steps: Steps to take at least; whole episodes or batches of them may take more.
            episodes: Episodes to finish; give one of the two.
            every: Steps between entries of `history`: "samples", "episodes", "mean_return"
                (of the episodes since the last entry, not discounted; NaN if none ended) and,
                with a truth, "rmse".
            truth: True values (S,) of states or (S, A) of actions.

        Returns:
            The learner itself.
        """
        if (steps is None) == (episodes is None):
            raise ValueError(f"steps={steps}, episodes={episodes}: give one of them")
        wanted = steps if steps is not None else episodes
        assert wanted is not None
        if wanted != int(wanted) or wanted < 0:
            raise ValueError(f"{wanted} is no number of steps or episodes: use 0 and above")
        if every is not None and every < 1:
            raise ValueError(f"every={every} is no number of steps: use 1 and above")
        last_sample = self.samples + int(wanted) if steps is not None else FOREVER
        last_episode = self.episodes + int(wanted) if episodes is not None else FOREVER
        while self.samples < last_sample and self.episodes < last_episode:
            before = self.episodes, self._gains[1]
            chunk = last_sample - self.samples
            self._run(chunk if every is None else min(every, chunk), last_episode - self.episodes)
            if every is not None:
                self._note(before, truth)
        return self

    def _run(self, steps: int, episodes: int) -> None:
        """Takes at least so many steps, or finishes so many episodes, whichever is first."""
        raise NotImplementedError

    def _note(self, before: tuple[int, float], truth: Any) -> None:
        ended = self.episodes - before[0]
        gained = self._gains[1] - before[1]
        entry = {"samples": self.samples, "episodes": self.episodes,
                 "mean_return": gained / ended if ended else float("nan")}  # fmt: skip
        if truth is not None:
            target = np.asarray(truth, np.float64)
            known = self.values if target.ndim == 1 else self.q
            if target.shape != known.shape:
                raise ValueError(f"truth of shape {target.shape}: give {known.shape}")
            entry["rmse"] = float(np.sqrt(np.mean((known - target) ** 2)))
        for name, value in entry.items():
            self.history.setdefault(name, []).append(value)

    def _state(self) -> dict[str, np.ndarray]:
        """The arrays that learning goes on from, by the attribute that holds them."""
        raise NotImplementedError

    def _carried(self) -> dict[str, np.ndarray]:
        return {"noise": self._noise, "gains": self._gains}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes what was learned to a file (.npz) that `load` reads."""
        counts = np.array([self.samples, self.episodes], np.int64)
        curve = {f"history.{name}": np.array(values) for name, values in self.history.items()}
        with open(path, "wb") as file:
            arrays = {**self._state(), **self._carried(), **curve}
            np.savez(file, allow_pickle=False, counts=counts, **arrays)  # fmt: skip

    def load(self, path: str | os.PathLike[str]) -> Self:
        """Takes what another learner of the same kind and size has saved, and goes on from it.

        Raises:
            ValueError: The file is of another kind of learner or of other sizes.
        """
        with np.load(path) as file:
            known = dict(file)
        for name, array in {**self._state(), **self._carried()}.items():
            if name not in known or known[name].shape != array.shape:
                raise ValueError(f"{path}: {name} of shape {array.shape} is not in that file")
            array[...] = known[name]
        self.samples, self.episodes = (int(count) for count in known["counts"])
        curve = [name for name in known if name.startswith("history.")]
        self.history = {name.removeprefix("history."): known[name].tolist() for name in curve}
        return self

    def __repr__(self) -> str:
        shape = f"{self.n_states} states, {self.n_actions} actions"
        return f"{type(self).__name__}({shape}, {self.samples} samples)"


def _broadcast(initial: Any, S: int, A: int) -> np.ndarray:
    values = np.asarray(initial, np.float64)
    if values.ndim not in (0, 2) or (values.ndim == 2 and values.shape != (S, A)):
        raise ValueError(f"initial of shape {values.shape}: give a number or ({S}, {A})")
    if not np.isfinite(values).all():
        raise ValueError("initial holds NaN or infinity: give finite values")
    return np.broadcast_to(values, (S, A))


def as_policy(policy: Any, S: int, A: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (probabilities (S, A), pick, keep) of actions (S,), of (S, A), or "uniform"."""
    if isinstance(policy, str):
        if policy != "uniform":
            raise ValueError(f"policy={policy!r}: give 'uniform', actions (S,) or (S, A)")
        shares = np.full((S, A), 1.0 / A)
    elif np.ndim(policy) == 1:
        actions = np.asarray(policy)
        if actions.shape != (S,) or actions.dtype.kind not in "iu" or not actions.size:
            raise ValueError(f"policy of shape {actions.shape}: give one action for {S} states")
        if actions.min() < 0 or actions.max() >= A:
            raise ValueError(f"the policy has actions outside 0 to {A - 1}")
        shares = np.eye(A)[actions]
    else:
        shares = np.ascontiguousarray(policy, np.float64)
        if shares.shape != (S, A):
            raise ValueError(f"policy of shape {shares.shape}: give ({S},) or ({S}, {A})")
        if not (shares >= 0).all() or not np.allclose(shares.sum(axis=1), 1, atol=1e-8):
            raise ValueError("the policy's rows must be probabilities that sum to 1")
    pick, keep = np.empty(2 * S * A, np.int32), np.empty(S * A, np.int64)
    policy_tables(shares, pick, keep)
    return shares, pick, keep


def checked_share(name: str, value: Schedule) -> tuple[float, float, float]:
    """Returns (first, slope, last) of a probability or a schedule of probabilities."""
    first, last, steps = value if isinstance(value, tuple) else (value, value, 1)
    if not (0 <= last <= first <= 1) or steps < 1:
        raise ValueError(
            f"{name}={value}: use a probability, or (first, last, steps) that falls from first"
        )
    return float(first), (first - last) / steps, float(last)
