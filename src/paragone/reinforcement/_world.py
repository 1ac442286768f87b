"""What a learner stands before: a table that it can step itself, or Gymnasium's interface.

Observations and actions are numbered: Discrete as they are, MultiDiscrete and tuples of Discrete
in the order of their digits.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import Wrapper, spaces
from gymnasium.vector import AutoresetMode

from paragone.reinforcement._table import Table, as_table
from paragone.reinforcement.mdp import MDP

__all__ = ["Numbered", "Stepper", "fused_table", "made"]

TRANSPARENT = ("TimeLimit", "OrderEnforcing", "PassiveEnvChecker")


def made(env: Any) -> Any:
    """The environment of an id; anything else is returned as it is.

    Raises:
        ValueError: Neither an id nor an environment.
    """
    if isinstance(env, str):
        if env.startswith("paragone/") and env not in gymnasium.registry:
            from paragone.reinforcement._register import register

            register()
        return gymnasium.make(env)
    if not isinstance(env, MDP | Table) and not hasattr(env, "observation_space"):
        raise ValueError(f"env={env!r} is no MDP, no Gymnasium environment and no id of one")
    return env


def fused_table(env: Any) -> tuple[Table, int | None] | None:
    """Returns (table, time limit) if the environment is ours, seen through plain wrappers."""
    limit = None
    while isinstance(env, Wrapper) and type(env).__name__ in TRANSPARENT:
        bound = getattr(env, "_max_episode_steps", None)
        if type(env).__name__ == "TimeLimit" and bound is not None:
            limit = bound if limit is None else min(bound, limit)
        env = env.env
    if not isinstance(env, MDP | Table) and not isinstance(getattr(env, "table", None), Table):
        return None
    table = as_table(env)
    own = getattr(env, "max_episode_steps", None)
    bounds = [bound for bound in (limit, own) if bound is not None]
    return table, min(bounds) if bounds else None


class Numbered:
    """Members of a finite space as numbers 0 to size - 1."""

    def __init__(self, space: Any, what: str) -> None:
        parts = space.spaces if isinstance(space, spaces.Tuple) else (space,)
        self.tuple = isinstance(space, spaces.Tuple)
        sizes: list[int] = []
        starts: list[int] = []
        for part in parts:
            if isinstance(part, spaces.Discrete):
                sizes.append(int(part.n))
                starts.append(int(part.start))
            elif isinstance(part, spaces.MultiDiscrete) and len(parts) == 1:
                sizes.extend(int(n) for n in np.ravel(part.nvec))
                starts.extend(int(n) for n in np.ravel(part.start))
            else:
                raise ValueError(
                    f"{what} space {space}: tables need a finite one; make it Discrete, "
                    "MultiDiscrete or a tuple of Discrete, or learn with DQN or PPO"
                )
        self.sizes, self.starts = np.array(sizes), np.array(starts)
        self.weights = np.append(np.cumprod(self.sizes[:0:-1])[::-1], 1)
        self.size, self.plain = int(np.prod(self.sizes)), isinstance(space, spaces.Discrete)

    def number(self, values: Any) -> np.ndarray:
        """Returns the numbers (n,) of members given as a vector environment gives them."""
        if self.plain:
            return np.asarray(values, np.int64) - self.starts[0]
        digits = np.stack(values, axis=-1) if isinstance(values, tuple) else np.asarray(values)
        return (digits.reshape(-1, len(self.sizes)) - self.starts) @ self.weights

    def one(self, value: Any) -> int:
        """Returns the number of one member."""
        return int(self.number(np.asarray(value) if not self.plain else value).item())

    def member(self, numbers: np.ndarray) -> np.ndarray:
        """Returns members for an environment's `step`: (n,), or (n, digits)."""
        if self.plain:
            return numbers + self.starts[0]
        return numbers[:, None] // self.weights % self.sizes + self.starts


class Stepper:
    """Steps one environment, or many, through Gymnasium's interface.

    What an ended episode leads to is told apart from where the next one starts: `step` returns
    the last observation of the episode; `states` holds where the agent is.
    """

    def __init__(self, env: Any, horizon: int | None) -> None:
        self.env, self.many = env, hasattr(env, "num_envs")
        self.count = int(env.num_envs) if self.many else 1
        observed = env.single_observation_space if self.many else env.observation_space
        acting = env.single_action_space if self.many else env.action_space
        self.observations, self.actions = (
            Numbered(observed, "observation"),
            Numbered(acting, "action"),
        )
        self.mode = env.metadata.get("autoreset_mode") if self.many else None
        self.horizon = horizon
        if self.many and horizon is not None:
            raise ValueError("a vector environment sets its own time limit: leave the horizon out")
        self.states: np.ndarray | None = None
        self._waiting = np.zeros(self.count, np.bool_)
        self._elapsed = 0

    def start(self, seed: int | None) -> None:
        """Begins the first episodes; later calls go on where the last ones stood."""
        if self.states is None:
            seen, _ = self.env.reset(seed=seed)
            self.states = self._numbers(seen)

    def _numbers(self, seen: Any) -> np.ndarray:
        if self.many:
            return self.observations.number(seen)
        return np.array([self.observations.one(seen)])

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, ...]:
        """Returns (rewards, last observations, terminated, truncated, real), each (n,)."""
        if not self.many:
            return self._single(actions)
        real = ~self._waiting
        seen, rewards, terminated, truncated, infos = self.env.step(self.actions.member(actions))
        numbers = self._numbers(seen)
        following, ended = numbers.copy(), terminated | truncated
        if self.mode is AutoresetMode.SAME_STEP:
            for i in np.flatnonzero(ended):
                following[i] = self.observations.one(infos["final_obs"][i])
        elif self.mode is AutoresetMode.DISABLED:
            if ended.any():
                numbers = self._numbers(self.env.reset(options={"reset_mask": ended})[0])
        else:
            self._waiting = ended
        self.states = numbers
        return np.asarray(rewards, np.float64), following, terminated, truncated, real

    def _single(self, actions: np.ndarray) -> tuple[np.ndarray, ...]:
        chosen = self.actions.member(actions)[0]
        chosen = (
            int(chosen) if self.actions.plain else tuple(chosen) if self.actions.tuple else chosen
        )
        seen, reward, terminated, truncated, _ = self.env.step(chosen)
        self._elapsed += 1
        truncated = bool(truncated) or self._elapsed == self.horizon
        following = self._numbers(seen)
        self.states = following
        if terminated or truncated:
            self._elapsed = 0
            self.states = self._numbers(self.env.reset()[0])
        return (np.array([reward], np.float64), following, np.array([bool(terminated)]),
                np.array([truncated]), np.ones(1, np.bool_))  # fmt: skip
