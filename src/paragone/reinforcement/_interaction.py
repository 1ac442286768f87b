"""An environment of any kind as a stream of true transitions.

Vector environments restart their copies in one of three ways, and each hides the end of an
episode somewhere else: in `final_obs` (same step), in the observation before a fake transition
(next step), or nowhere until it is reset by hand. A learner that mixes them up, or that takes
running out of time for the end of the task, learns wrong values. `Interaction.step` returns what
happened: the state that truly followed, both flags, and which transitions are none.

Shapes: n copies, d features.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, flatdim, flatten
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import iterate

__all__ = ["Encoder", "Interaction", "Transition", "as_vector"]


class Transition(NamedTuple):
    """One step of n copies.

    `following` (n, d): the state that followed, the final one where an episode ended; `valid`
    (n,): False where the step was a restart and nothing was decided.
    """

    following: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    valid: np.ndarray


class Encoder:
    """Observations of a space as rows of float32: boxes flattened, whole numbers one-hot."""

    def __init__(self, space: Any) -> None:
        self.space = space
        self.width = int(flatdim(space))
        self._identity = np.eye(self.width, dtype=np.float32)

    def many(self, batch_space: Any, batch: Any) -> np.ndarray:
        """Rows (n, d) of a batch of observations."""
        if isinstance(self.space, Box):
            return np.ascontiguousarray(batch, np.float32).reshape(-1, self.width)
        if isinstance(self.space, Discrete):
            return self._identity[np.asarray(batch) - self.space.start]
        return np.stack([self.one(seen)[0] for seen in iterate(batch_space, batch)])

    def one(self, seen: Any) -> np.ndarray:
        """The row (1, d) of one observation."""
        return np.asarray(flatten(self.space, seen), np.float32).reshape(1, -1)


def as_vector(env: Any, num_envs: int, parameters: dict[str, Any] | None = None) -> VectorEnv:
    """Returns a vector environment of an id, an `Env` or a `VectorEnv`.

    Raises:
        ValueError: It is none of these, or does not say how it restarts.
    """
    if isinstance(env, str):
        options = dict(parameters or {})
        ours = env.startswith("paragone/")
        if ours and env not in gymnasium.registry:
            from paragone.reinforcement._register import register

            register()
        if ours and gymnasium.spec(env).vector_entry_point is not None:
            mode = AutoresetMode.SAME_STEP
            return gymnasium.make_vec(env, num_envs, autoreset_mode=mode, **options)
        return gymnasium.make_vec(
            env, num_envs, "sync", {"autoreset_mode": AutoresetMode.SAME_STEP}, **options
        )
    if isinstance(env, gymnasium.Env):
        return SyncVectorEnv([lambda: env], autoreset_mode=AutoresetMode.SAME_STEP)
    if isinstance(env, VectorEnv):
        _mode(env)
        return env
    raise ValueError(f"env={env!r} is no id, no gymnasium.Env and no gymnasium.vector.VectorEnv")


def _mode(env: VectorEnv) -> AutoresetMode:
    # Not metadata first: Gymnasium writes the mode into a dictionary that all copies share.
    found = getattr(env.unwrapped, "autoreset_mode", None) or env.metadata.get("autoreset_mode")
    if found is None:
        raise ValueError(f"{env} does not say in metadata['autoreset_mode'] how it restarts")
    return AutoresetMode(found)


class Interaction:
    """A vector environment, where it stands, and the returns of the episodes that have ended.

    Args:
        env: A vector environment, from `as_vector`.
    """

    def __init__(self, env: VectorEnv) -> None:
        self.env, self.mode = env, _mode(env)
        self.encoder = Encoder(env.single_observation_space)
        self.width, self.num_envs = self.encoder.width, env.num_envs
        self.seen = np.empty((0, self.width), np.float32)
        self._returns, self._lengths = np.zeros(self.num_envs), np.zeros(self.num_envs, np.int64)
        self._restarting = np.zeros(self.num_envs, np.bool_)
        self.ended: list[tuple[int, float, int]] = []

    def begin(self, seeds: Any) -> None:
        """Starts all copies anew from a list of seeds, one for each."""
        seen, _ = self.env.reset(seed=seeds)
        self.seen = self.encoder.many(self.env.observation_space, seen)
        self._returns[:], self._lengths[:], self._restarting[:] = 0.0, 0, False

    def step(self, actions: np.ndarray) -> Transition:
        """Acts in all copies; `seen` (n, d) is what to decide on next.

        Ended episodes are appended to `ended` as (copy, return, length).
        """
        raw, rewards, terminated, truncated, info = self.env.step(actions)
        seen = self.encoder.many(self.env.observation_space, raw)
        valid, done = ~self._restarting, terminated | truncated
        following = seen
        if self.mode is AutoresetMode.SAME_STEP and done.any():
            following = seen.copy()
            for i in np.flatnonzero(done):
                following[i] = self.encoder.one(info["final_obs"][i])
        self._returns += np.where(valid, rewards, 0.0)
        self._lengths += valid
        if done.any():
            for i in np.flatnonzero(done):
                self.ended.append((int(i), float(self._returns[i]), int(self._lengths[i])))
            self._returns[done], self._lengths[done] = 0.0, 0
        if self.mode is AutoresetMode.NEXT_STEP:
            self._restarting = done
        elif self.mode is AutoresetMode.DISABLED and done.any():
            raw, _ = self.env.reset(options={"reset_mask": np.array(done)})
            seen = self.encoder.many(self.env.observation_space, raw)
        self.seen = seen
        return Transition(following, np.asarray(rewards, float), terminated, truncated, valid)

    def get_state(self) -> dict[str, np.ndarray] | None:
        """All that the future depends on, if the environment can tell it; else None."""
        inner = getattr(self.env.unwrapped, "get_state", None)
        if inner is None or not len(self.seen):
            return None
        mine = {"seen": self.seen, "returns": self._returns, "lengths": self._lengths,
                "restarting": self._restarting}  # fmt: skip
        return {**mine, **{f"env.{key}": value for key, value in inner().items()}}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Goes back to what `get_state` returned."""
        env: Any = self.env.unwrapped
        inner = {key[4:]: value for key, value in state.items() if key.startswith("env.")}
        env.set_state(inner)
        self.seen = state["seen"]
        self._returns, self._lengths = state["returns"], state["lengths"]
        self._restarting = state["restarting"]
