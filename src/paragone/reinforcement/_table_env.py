r"""Any finite process as a Gymnasium environment, alone or many at once.

Alone it is plain Python over tuples, which no compiled call of this size beats. Many are one
kernel over arrays: each environment draws from its own stream, the one that Gymnasium seeds it
with, so that environment i of `reset(seed=k)` follows `gymnasium.make(...)` under seed k + i
transition by transition, however many run beside it.

Cost of a vector step: O(n), 8 to 10 ns an environment, and about 1.5 us of Python objects.

References:
    Towers et al. (2024), "Gymnasium: a standard interface for reinforcement learning
    environments", arXiv:2407.17032, section 3 for autoreset.

Shapes: n environments, S states, A actions.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from numpy import empty

from paragone.reinforcement._table import Table, as_table
from paragone.reinforcement._table_kernels import move, start
from paragone.reinforcement._vector import (
    REAL,
    TRUTH,
    WHOLE,
    Continued,
    Streams,
    checked_limit,
    checked_mode,
    final_infos,
    only,
)

__all__ = ["TableEnv", "TableVectorEnv"]


class TableEnv(gymnasium.Env):
    """One environment over a finite process.

    Args:
        model: An MDP, a GridWorld, or a table of ours.
        render_mode: "ansi" for text, "rgb_array" for a picture, or None.
        max_episode_steps: Truncate after so many steps; None leaves that to a wrapper.

    Example:
        >>> from paragone.reinforcement import make
        >>> env = make("CliffWalking-v1")
        >>> env.reset(seed=0)[0], env.step(1)[:4]
        (36, (36, -100.0, False, False))
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self, model: Any, render_mode: str | None = None, max_episode_steps: int | None = None
    ) -> None:
        self.table = as_table(model)
        self.render_mode = render_mode
        self.max_episode_steps = checked_limit(max_episode_steps)
        self.observation_space = spaces.Discrete(self.table.sights)
        self.action_space = spaces.Discrete(self.table.mdp.n_actions)
        self._rows, self._actions = self.table.rows, self.table.mdp.n_actions
        self._masks = self.table.masks
        self._s, self._elapsed = -1, 0

    @property
    def P(self) -> dict[int, dict[int, list[tuple[float, int, float, bool]]]]:  # noqa: N802
        """`P[s][a] = [(p, s2, r, terminated), ...]`, as Gymnasium's toy-text has it."""
        return self.table.mdp.P if self.table.plan is None else self.table.plan

    @property
    def mdp(self) -> Any:
        """The process behind, for the planners."""
        return self.table.mdp

    @property
    def initial_state_distrib(self) -> np.ndarray:
        """Start distribution (S,)."""
        return self.table.mdp.start

    @property
    def s(self) -> int:
        """The state that the environment is in; may be set."""
        return self._s

    @s.setter
    def s(self, state: int) -> None:
        self._s = int(state)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._elapsed = 0
        u = self.np_random.random()
        for total, state, seen, _, _, told in self._rows[-1]:  # noqa: B007
            if u < total:
                break
        self._s = state
        return seen, self._info(seen, told)

    def _info(self, seen: int, told: float) -> dict[str, Any]:
        if self._masks is None:
            return {"prob": told}
        return {"prob": told, "action_mask": self._masks[seen].copy()}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        A, state = self._actions, self._s
        if not 0 <= action < A:
            raise ValueError(f"action={action} does not exist: use 0 to {A - 1}")
        if state < 0 or self._np_random is None:
            raise ResetNeeded("call reset() before step()")
        u = self._np_random.random()
        for total, state, seen, reward, ends, told in self._rows[state * A + action]:  # noqa: B007, B020
            if u < total:
                break
        self._s = state
        self._elapsed = steps = self._elapsed + 1
        return seen, reward, ends, steps == self.max_episode_steps, self._info(seen, told)

    def render(self) -> Any:
        if self.render_mode is None:
            gymnasium.logger.warn("render() needs a render_mode: give make(..., render_mode=...)")
            return None
        return picture(self.table, self._s, self.render_mode)


def picture(table: Table, state: int, mode: str) -> Any:
    """Draws a state as text or as pixels (H, W, 3); without a map it is one line of boxes."""
    if table.draw is not None:
        return table.draw(state, mode)
    if mode == "ansi":
        return f"state {state} of {table.mdp.n_states}\n"
    pixels = np.full((16, 16 * table.mdp.n_states, 3), 255, np.uint8)
    pixels[:, 16 * state : 16 * (state + 1)] = (40, 90, 180)
    return pixels


class TableVectorEnv(Continued, gymnasium.vector.VectorEnv):
    """Many environments over one finite process, stepped by one kernel.

    Prefer it to `SyncVectorEnv` (a Python loop) and EnvPool (threads and queues) whenever the
    process is finite. Observations, rewards, flags and infos are theirs; `info["prob"]` is there
    for all, and its mask is shared between steps.

    Args:
        model: An MDP, a GridWorld, or a table of ours.
        num_envs: n.
        max_episode_steps: Truncate after so many steps, or None.
        autoreset_mode: When an episode that has ended starts again: with the next step, whose
            action is ignored and whose reward is 0 (Gymnasium's default); in the same step, with
            `final_obs` and `final_info`; or not at all.
        copy: False hands out the same arrays at every step, overwritten by the next.
        render_mode: "ansi", "rgb_array" or None.

    Example:
        >>> from paragone.reinforcement import make_vec
        >>> envs = make_vec("FrozenLake-v1", 3, is_slippery=False)
        >>> envs.reset(seed=0)[0].tolist(), envs.step([2, 1, 0])[0].tolist()
        ([0, 0, 0], [1, 4, 0])
    """

    def __init__(
        self,
        model: Any,
        num_envs: int = 1,
        *,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        copy: bool = True,
        render_mode: str | None = None,
    ) -> None:
        self.table = as_table(model)
        self.max_episode_steps = checked_limit(max_episode_steps)
        self.render_mode, self.copy = render_mode, copy
        self._mode = checked_mode(autoreset_mode)
        self.metadata = {**TableEnv.metadata, "autoreset_mode": self._mode}
        self._streams = Streams(num_envs)
        self.num_envs = n = self._streams.count
        self.single_observation_space = spaces.Discrete(self.table.sights)
        self.single_action_space = spaces.Discrete(self.table.mdp.n_actions)
        self.observation_space = spaces.MultiDiscrete(np.full(n, self.table.sights))
        self.action_space = spaces.MultiDiscrete(np.full(n, self.table.mdp.n_actions))
        self._limit = self.max_episode_steps or 2**62
        self._every = np.ones(n, np.bool_)
        self._every.flags.writeable = False
        masks = self.table.masks
        self._masks = None if masks is None else _packed(masks)
        self._actions = self.table.mdp.n_actions
        self._entries = (*self.table.entries, _NONE if masks is None else self._masks)
        self._buffers = None if copy else self._fresh()
        self._shape, self._ready = (n,), False

    def _fresh(self) -> tuple[np.ndarray, ...]:
        n = self.num_envs
        return (empty(n, WHOLE), empty(n, REAL), empty(n, TRUTH), empty(n, TRUTH), empty(n, REAL),
                _NONE if self._masks is None else empty(n, WHOLE))  # fmt: skip

    @property
    def states(self) -> np.ndarray:
        """State of each environment (n,)."""
        return self._streams.words[:, 5].astype(np.int64)

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode in every environment, or where `options["reset_mask"]` (n,) says so.

        Args:
            seed: Environment i takes seed + i, or seed[i]; None goes on with its stream.
            options: {"reset_mask": mask} starts only some of them.
        """
        chosen = self._streams.prepare(seed, options)
        observations, _, _, _, told, allowed = self._fresh()
        start(self._streams.words, chosen, *self._entries, observations, told, allowed)
        self._ready = not self._streams.waiting(self._mode)
        return self._observed(), only(self._infos(told, allowed), chosen)

    def _observed(self) -> np.ndarray:
        states = self.states
        return states if self.table.seen is None else self.table.seen[states].astype(np.int64)

    def _infos(self, told: np.ndarray, allowed: np.ndarray) -> dict[str, Any]:
        if self._masks is None:
            return {"prob": told, "_prob": self._every}
        # One word for each environment, of which each byte is an action.
        mask = np.ndarray((self.num_envs, self._actions), np.int8, allowed, 0, (8, 1))
        return {"prob": told, "_prob": self._every, "action_mask": mask,
                "_action_mask": self._every}  # fmt: skip

    def step(
        self, actions: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Moves every environment by one step.

        Raises:
            ValueError: An action does not exist.
        """
        if not self._ready:
            raise ResetNeeded("call reset() before step(), and where an episode has ended")
        actions = np.asarray(actions, WHOLE)
        if actions.shape != self._shape:
            raise ValueError(f"actions of shape {actions.shape}: give ({self.num_envs},)")
        out = self._buffers or self._fresh()
        words = self._streams.words
        ended = move(actions, self._actions, self._limit, words, *self._entries, *out)
        if ended < 0:
            A = self._actions
            bad = actions[(actions < 0) | (actions >= A)][0]
            raise ValueError(f"action={bad} does not exist: use 0 to {A - 1}")
        observations, rewards, terminations, truncations, told, allowed = out
        if self._masks is None:
            infos: dict[str, Any] = {"prob": told, "_prob": self._every}
        else:
            infos = self._infos(told, allowed)
        if ended and self._mode is not AutoresetMode.NEXT_STEP:
            self._ready = self._mode is AutoresetMode.SAME_STEP
            if self._ready:
                done, told, allowed = terminations | truncations, told.copy(), allowed.copy()
                final = final_infos(observations.tolist(), infos, done)
                start(words, done, *self._entries, observations, told, allowed)
                infos = {**final, **self._infos(told, allowed)}
        return observations, rewards, terminations, truncations, infos

    def render(self) -> tuple[Any, ...]:
        if self.render_mode is None:
            raise ValueError("render_mode=None draws nothing: give 'ansi' or 'rgb_array'")
        return tuple(picture(self.table, s, self.render_mode) for s in self.states.tolist())


_NONE = np.empty(0, np.int64)


def _packed(masks: np.ndarray) -> np.ndarray:
    """Returns masks (., A) of at most eight actions as one word each, gathered at once."""
    wide = np.zeros((len(masks), 8), np.int8)
    wide[:, : masks.shape[1]] = masks
    return wide.view(np.int64)[:, 0]
