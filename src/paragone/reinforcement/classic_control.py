r"""Classic control: cart-pole, acrobot, mountain car and pendulum, many copies in one call.

The tasks on which deep reinforcement learning is tried first. Each is a small ordinary
differential equation $\dot s = f(s, a)$, stepped by Euler's rule

$$ s_{t+1} = s_t + \tau f(s_t, a_t) $$

(the acrobot by Runge-Kutta's of fourth order), with a reward that is a function of the state.
Transitions, rewards and terminations are Gymnasium's in every bit, and so are the starts: copy i
of a vector reset with seed s follows `gymnasium.make(id).reset(seed=s + i)`. An episode that runs
out of time is *truncated*, not terminated: its last state still has a value.

Cost: 25 to 110 ns a step and copy at 1,024 copies (acrobot: 390 ns); some 10 us in Python.

References:
    Barto, Sutton and Anderson (1983), "Neuronlike adaptive elements that can solve difficult
    learning control problems", for the cart-pole.
    Sutton (1996), "Generalization in reinforcement learning: successful examples using sparse
    coarse coding", for the acrobot and the mountain car.

Shapes: n copies, d numbers observed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from paragone.reinforcement import _classic_kernels as kernels
from paragone.reinforcement._vector import Streams, checked_limit, checked_mode, final_infos

__all__ = ["TASKS", "ClassicControl", "ClassicControlVector", "Task"]

_INF = float("inf")


@dataclass(frozen=True)
class Task:
    """One task: its number in the kernels, its spaces, its time limit and where it starts."""

    number: int
    high: tuple[float, ...]
    actions: int | float
    max_episode_steps: int
    bounds: tuple[tuple[float, float], ...]
    parameter: tuple[str, float]
    reward_threshold: float | None = None
    low: tuple[float, ...] | None = None
    draws: int = field(default=1)

    def spaces(self) -> tuple[Box, Box | Discrete]:
        """Returns the space of observations and the space of actions of one copy."""
        high = np.array(self.high, np.float32)
        low = -high if self.low is None else np.array(self.low, np.float32)
        seen = Box(low, high, dtype=np.float32)
        if isinstance(self.actions, int):
            return seen, Discrete(self.actions)
        return seen, Box(-self.actions, self.actions, (1,), np.float32)


_TILT = 12 * 2 * np.pi / 360

TASKS: dict[str, Task] = {
    "CartPole-v1": Task(
        0, (4.8, _INF, _TILT * 2, _INF), 2, 500, ((-0.05, 0.05),),
        ("sutton_barto_reward", 0.0), 475.0, draws=4,
    ),
    "Acrobot-v1": Task(
        1, (1.0, 1.0, 1.0, 1.0, 4 * np.pi, 9 * np.pi), 3, 500, ((-0.1, 0.1),), ("", 0.0),
        -100.0, draws=4,
    ),
    "MountainCar-v0": Task(
        2, (0.6, 0.07), 3, 200, ((-0.6, -0.4),), ("goal_velocity", 0.0), -110.0,
        low=(-1.2, -0.07),
    ),
    "Pendulum-v1": Task(
        3, (1.0, 1.0, 8.0), 2.0, 200, ((-np.pi, np.pi), (-1.0, 1.0)), ("g", 10.0), draws=2,
    ),
    "MountainCarContinuous-v0": Task(
        4, (0.6, 0.07), 1.0, 999, ((-0.6, -0.4),), ("goal_velocity", 0.0), 90.0,
        low=(-1.2, -0.07),
    ),
}  # fmt: skip
"""The tasks by the name that Gymnasium gives them."""


def _task(name: str) -> Task:
    if name not in TASKS:
        raise ValueError(f"task={name!r} is none of {', '.join(TASKS)}")
    return TASKS[name]


def _option(task: Task, name: str, given: dict[str, Any]) -> np.ndarray:
    """The parameter of the task, and the exponent 2."""
    known, value = task.parameter
    for key, found in given.items():
        if key != known:
            raise ValueError(f"{name} has no parameter {key!r}; it has {known or 'none'}")
        value = float(found)
    return np.array([value, 2.0])


def _bounds(task: Task, options: dict[str, Any] | None) -> np.ndarray:
    """Lowest and highest start (2, 2), as `options` of `reset` change them."""
    bounds = np.zeros((2, 2))
    bounds[: len(task.bounds)] = task.bounds
    if not options:
        return bounds
    if task.number == 3:
        for row, key in zip(bounds, ("x_init", "y_init"), strict=True):
            if key in options:
                row[:] = -float(options[key]), float(options[key])
        return bounds
    bounds[0] = float(options.get("low", bounds[0, 0])), float(options.get("high", bounds[0, 1]))
    if not bounds[0, 0] <= bounds[0, 1]:
        raise ValueError(f"low={bounds[0, 0]} is above high={bounds[0, 1]}: swap them")
    return bounds


def _see_start(task: Task, state: np.ndarray, seen: np.ndarray) -> None:
    """The acrobot's start is a float32 to Gymnasium, so that its sine and cosine are too."""
    if task.number == 1:
        angles = state[..., :2].astype(np.float32)
        seen[..., 0:4:2], seen[..., 1:4:2] = np.cos(angles), np.sin(angles)


class ClassicControl(gymnasium.Env):
    """One copy of a task, as a `gymnasium.Env`; without a time limit, which `make` adds.

    Prefer `ClassicControlVector` wherever speed counts: Python's own call costs a hundred times
    the step. Prefer Gymnasium's class to watch: there is no picture here.

    Args:
        task: A name from `TASKS`.
        render_mode: Only None.
        parameters: `sutton_barto_reward` of the cart-pole, `g` of the pendulum, `goal_velocity`
            of the mountain cars.

    Raises:
        ValueError: The task or a parameter is not known.

    Example:
        >>> env = ClassicControl("CartPole-v1")
        >>> seen, _ = env.reset(seed=0)
        >>> env.step(1)[1:4]
        (1.0, False, False)
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self, task: str = "CartPole-v1", render_mode: str | None = None, **parameters: Any
    ) -> None:
        if render_mode is not None:
            raise ValueError(f"render_mode={render_mode!r}: there is no picture, use None")
        self.task, self.render_mode = _task(task), None
        self._option = _option(self.task, task, parameters)
        self.observation_space, self.action_space = self.task.spaces()
        self._seen = np.zeros(len(self.task.high), np.float32)
        self._state = np.full(4, np.nan)
        self._fresh = True

    @property
    def state(self) -> np.ndarray:
        """The state (4,); the pendulum and the cars use two numbers of it. May be set."""
        return self._state.copy()

    @state.setter
    def state(self, value: Any) -> None:
        self._state[: len(value)] = value
        self._fresh = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        draws = np.zeros(4)
        draws[: self.task.draws] = self.np_random.random(self.task.draws)
        bounds = _bounds(self.task, options)
        kernels.place(self.task.number, bounds, draws, self._state, self._seen)
        _see_start(self.task, self._state, self._seen)
        self._fresh = True
        return self._seen.copy(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if isinstance(self.action_space, Discrete):
            if not self.action_space.contains(action):
                raise ValueError(f"action={action!r} is none of 0..{self.action_space.n - 1}")
            force = float(action)
        else:
            force = float(np.asarray(action, np.float32).reshape(1)[0])
        if np.isnan(self._state[0]):
            raise ValueError("the environment has no state yet: call reset before step")
        reward, over = kernels.advance_one(
            self.task.number, self._option, self._state, force, self._fresh, self._seen
        )
        self._fresh = False
        return self._seen.copy(), reward, over, False, {}


class ClassicControlVector(VectorEnv):
    """Many copies of a task, stepped by one compiled call, as a `gymnasium.vector.VectorEnv`.

    Prefer it to `SyncVectorEnv` over the same task whenever there is more than one copy: all it
    returns is equal, bit by bit, at up to a thousand times the speed. Arrays that it returns are
    the caller's own. Each copy has its own stream of starts: results do not depend on how copies
    are divided among vectors.

    Args:
        num_envs: Copies n.
        task: A name from `TASKS`.
        max_episode_steps: Steps after which an episode is truncated; None takes the task's.
        autoreset_mode: "NextStep": the call after an episode's end resets, ignores its action and
            gives reward 0; "SameStep": the call that ends an episode returns the next one's start
            and `final_obs` in its info; "Disabled": reset yourself with `options={"reset_mask"}`.
        render_mode: Only None.
        parameters: As for `ClassicControl`.

    Raises:
        ValueError: An argument is not known or out of range.

    Example:
        >>> env = ClassicControlVector(3, "Pendulum-v1")
        >>> env.reset(seed=0)[0].shape
        (3, 3)
    """

    def __init__(
        self,
        num_envs: int = 1,
        task: str = "CartPole-v1",
        *,
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        **parameters: Any,
    ) -> None:
        self.task = _task(task)
        limit = self.task.max_episode_steps if max_episode_steps is None else max_episode_steps
        self._rows = Streams(num_envs)
        self.num_envs, self.max_episode_steps = self._rows.count, checked_limit(limit)
        if render_mode is not None:
            raise ValueError(f"render_mode={render_mode!r}: there is no picture, use None")
        self.render_mode, self.autoreset_mode = None, checked_mode(autoreset_mode)
        self.metadata = {"render_modes": [], "autoreset_mode": self.autoreset_mode}
        self._option = _option(self.task, task, parameters)
        self._start = _bounds(self.task, None)
        self.single_observation_space, self.single_action_space = self.task.spaces()
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._state = np.full((self.num_envs, 4), np.nan)
        self._seen = np.zeros((self.num_envs, len(self.task.high)), np.float32)
        self._steps = np.zeros(self.num_envs, np.int64)
        self._done = np.zeros(self.num_envs, np.bool_)
        self._never = np.zeros(self.num_envs, np.bool_)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        which = self._rows.prepare(seed, options)
        self._start = _bounds(self.task, options)
        self._restart(which)
        self._start = _bounds(self.task, None)
        self._done = self._done & ~which
        return self._seen.copy(), {}

    def _restart(self, which: np.ndarray) -> None:
        kernels.restart(
            self.task.number, self._start, which, self._rows.words, self._state, self._seen,
            self._steps,
        )  # fmt: skip
        if self.task.number == 1:
            seen = self._seen[which]
            _see_start(self.task, self._state[which], seen)
            self._seen[which] = seen

    def step(
        self, actions: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        if np.isnan(self._state[0, 0]):
            raise ValueError("the environment has no state yet: call reset before step")
        n, mode = self.num_envs, self.autoreset_mode
        chosen = self._checked(actions)
        if mode is AutoresetMode.DISABLED and self._done.any():
            raise ValueError(
                f"copies {np.flatnonzero(self._done)[:5].tolist()} have ended: reset them first"
            )
        skip = self._done if mode is AutoresetMode.NEXT_STEP else self._never
        rewards, over, cut = np.empty(n), np.empty(n, np.bool_), np.empty(n, np.bool_)
        kernels.step_all(
            self.task.number, self._option, chosen, self.max_episode_steps, skip,
            self._state, self._seen, self._steps, rewards, over, cut,
        )  # fmt: skip
        done, info = over | cut, {}
        if mode is AutoresetMode.NEXT_STEP:
            if skip.any():
                self._restart(skip)
        elif mode is AutoresetMode.SAME_STEP and done.any():
            info = final_infos(list(self._seen.copy()), {}, done.copy())
            self._restart(done)
        self._done = done
        return self._seen.copy(), rewards, over, cut, info

    def _checked(self, actions: Any) -> np.ndarray:
        """Actions (n,) as float64, those of the right kind and number."""
        given = np.asarray(actions)
        single = self.single_action_space
        if isinstance(single, Discrete):
            if given.shape != (self.num_envs,) or given.dtype.kind not in "iu":
                raise ValueError(f"actions must be {self.num_envs} whole numbers")
            if given.min() < 0 or given.max() >= single.n:
                raise ValueError(f"an action of {given.min()}..{given.max()} is outside "
                                 f"0..{single.n - 1}")  # fmt: skip
        elif given.size != self.num_envs:
            raise ValueError(f"actions must have the shape ({self.num_envs}, 1)")
        else:
            given = given.astype(np.float32, copy=False).reshape(-1)
        return given.astype(np.float64)

    def get_state(self) -> dict[str, np.ndarray]:
        """Returns all that the future depends on, for `set_state`."""
        return {"state": self._state.copy(), "seen": self._seen.copy(), "done": self._done.copy(),
                "steps": self._steps.copy(), "words": self._rows.words.copy()}  # fmt: skip

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Goes back to what `get_state` returned."""
        for name, value in state.items():
            (self._rows.words if name == "words" else getattr(self, f"_{name}"))[...] = value
