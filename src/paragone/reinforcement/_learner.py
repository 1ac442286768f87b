"""What the deep learners share: how they act, are judged, kept on disk, and go on.

Shapes: n copies, d features, k actions.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable
from typing import Any, Self

import numpy as np

from paragone._core.random import RandomState, as_generator
from paragone.reinforcement._interaction import Interaction, as_vector
from paragone.reinforcement._vector import seeded

__all__ = ["Learner", "checked", "stream_of"]

_MOST_STEPS = 100_000


def checked(name: str, value: float, low: float, high: float, remedy: str) -> float:
    """Returns a number within [low, high], or says which to use."""
    if not low <= value <= high:
        raise ValueError(f"{name}={value} is outside [{low}, {high}]: {remedy}")
    return value


def stream_of(seed: int) -> np.ndarray:
    """Returns the stream (5,), as in `_pcg64`, that `numpy.random.default_rng(seed)` draws from."""
    return np.array(seeded(np.random.default_rng(seed)), np.uint64)


class Learner:
    """A learner whose state is one vector of parameters and what its optimiser keeps.

    Attributes:
        samples: Transitions learnt from so far.
        history: Lists of equal length, one entry an iteration: "samples", "episodes" (ended so
            far), "mean_return" and "mean_length" (of the last 100 episodes), and the method's own.
    """

    _own: tuple[str, ...] = ()

    def __init__(self, env: Any, num_envs: int, random_state: RandomState) -> None:
        checked("num_envs", num_envs, 1, np.inf, "use whole numbers from 1")
        self._given = env
        self._live = Interaction(as_vector(env, num_envs))
        self.num_envs = self._live.num_envs
        self._rng = as_generator(random_state)
        self._streams = np.array([stream_of(self._seed()) for _ in range(self.num_envs)])
        self.samples, self.episodes = 0, 0
        self._recent: list[tuple[float, int]] = []
        columns = ("samples", "episodes", "mean_return", "mean_length", *self._own)
        self.history: dict[str, list[float]] = {name: [] for name in columns}

    def _seed(self) -> int:
        return int(self._rng.integers(0, 2**31 - 1))

    def _begin(self) -> None:
        if not len(self._live.seen):
            self._live.begin([self._seed() for _ in range(self.num_envs)])

    def _iterate(self) -> dict[str, float]:
        """Collects, learns, and returns what goes into the history."""
        raise NotImplementedError

    def train(
        self, steps: int, progress: Callable[[dict[str, float]], object] | None = None
    ) -> Self:
        """Learns from at least `steps` further transitions; goes on where it stopped.

        Interrupt it at will (Ctrl-C): what was learnt stays, and the next call goes on.

        Args:
            steps: Transitions, rounded up to a whole iteration.
            progress: Called after each iteration with its line of the history.

        Returns:
            Itself.
        """
        checked("steps", steps, 0, np.inf, "use whole numbers from 0")
        until = self.samples + steps
        while self.samples < until:
            self._begin()
            told = self._iterate()
            ended, self._live.ended = self._live.ended, []
            self.episodes += len(ended)
            self._recent = [*self._recent, *((r, length) for _, r, length in ended)][-100:]
            means = np.mean(self._recent, axis=0) if self._recent else (np.nan, np.nan)
            line = {"samples": self.samples, "episodes": self.episodes,
                    "mean_return": float(means[0]),
                    "mean_length": float(means[1]), **told}  # fmt: skip
            for name, values in self.history.items():
                values.append(line[name])
            if progress is not None:
                progress(line)
        return self

    def _decide(self, seen: np.ndarray, deterministic: bool, streams: np.ndarray) -> np.ndarray:
        """Actions for features (n, d), as the environment wants them."""
        raise NotImplementedError

    def act(self, observation: Any, deterministic: bool = True) -> Any:
        """Chooses an action for one observation, or one each for a batch of them.

        Args:
            observation: Of the space of one environment, or a batch with one leading axis.
            deterministic: The likeliest action; else one drawn.
        """
        encoder = self._live.encoder
        single = self._live.env.single_observation_space
        array = np.asarray(observation) if not isinstance(observation, tuple | dict) else None
        alone = array is None or array.shape == (single.shape or ())
        seen = encoder.one(observation) if alone else encoder.many(None, array)
        streams = self._streams
        if len(seen) > len(streams):
            streams = np.array([stream_of(self._seed()) for _ in range(len(seen))])
        chosen = self._decide(seen, deterministic, streams)
        return chosen[0] if alone else chosen

    def evaluate(
        self, episodes: int = 100, *, deterministic: bool = True, random_state: RandomState = 0
    ) -> np.ndarray:
        """Plays whole episodes and returns their undiscounted returns (episodes,).

        With an id, in environments of their own; with an environment that was handed in, in that
        one, and training starts new episodes afterwards. Each copy gives its first episodes, so
        that short ones are not preferred.

        Args:
            episodes: How many.
            deterministic: Act by the likeliest action.
            random_state: Seeds of the episodes; training is not touched by it.

        Raises:
            ValueError: An episode did not end within 100,000 steps.
        """
        checked("episodes", episodes, 1, np.inf, "use whole numbers from 1")
        rng, live = as_generator(random_state), self._live
        if isinstance(self._given, str):
            live = Interaction(as_vector(self._given, min(episodes, 100)))
        n = live.num_envs
        seeds = rng.integers(0, 2**31 - 1, (2, n)).tolist()
        streams = np.array([stream_of(seed) for seed in seeds[1]])
        live.begin(seeds[0])
        each = -(-episodes // n)
        returns = np.full((each, n), np.nan)
        count = np.zeros(n, np.int64)
        for _ in range(_MOST_STEPS):
            live.step(self._decide(live.seen, deterministic, streams))
            for i, total, _ in live.ended:
                if count[i] < each:
                    returns[count[i], i] = total
                    count[i] += 1
            live.ended.clear()
            if count.min() == each:
                break
        else:
            raise ValueError(
                f"an episode took over {_MOST_STEPS} steps: give the environment a time limit"
            )
        if live is self._live:
            live.seen = live.seen[:0]
        return returns.ravel()[:episodes]

    def _arrays(self) -> dict[str, np.ndarray]:
        """All arrays that learning goes on from; the very ones, so that `load` can fill them."""
        raise NotImplementedError

    def _numbers(self) -> dict[str, Any]:
        """All else that learning goes on from, as JSON has it; names of attributes."""
        return {"samples": self.samples, "episodes": self.episodes, "history": self.history,
                "_recent": self._recent}  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the whole state to one file (NumPy's `npz`, without pickles).

        Training goes on from it bit by bit where the environment can tell its state, as ours can;
        elsewhere new episodes are started.
        """
        names = list(inspect.signature(type(self)).parameters)
        names = [name for name in names if name not in ("env", "random_state")]
        told = {
            "class": type(self).__name__,
            "env": self._given if isinstance(self._given, str) else None,
            "arguments": {name: getattr(self, name) for name in names},
            "numbers": self._numbers(),
            "random": self._rng.bit_generator.state,
        }
        arrays = {"streams": self._streams, **self._arrays()}
        live = self._live.get_state()
        if live is not None:
            arrays.update({f"live.{name}": value for name, value in live.items()})
        with open(path, "wb") as file:
            np.savez(file, allow_pickle=False, told=np.array(json.dumps(told)), **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str], env: Any = None) -> Self:
        """Opens what `save` wrote.

        Args:
            path: The file.
            env: The environment, if it was not given by its id.

        Raises:
            ValueError: The file holds another learner, or no environment is known.
        """
        with np.load(path, allow_pickle=False) as file:
            kept = {name: file[name] for name in file.files}
        told = json.loads(str(kept.pop("told")))
        if told["class"] != cls.__name__:
            raise ValueError(f"{path} holds a {told['class']}: use {told['class']}.load")
        if env is None and told["env"] is None:
            raise ValueError(f"{path} does not know its environment: give env=")
        learner = cls(told["env"] if env is None else env, **told["arguments"], random_state=0)
        for name, value in told["numbers"].items():
            setattr(learner, name, value)
        learner._rng.bit_generator.state = told["random"]
        live = {name[5:]: kept.pop(name) for name in list(kept) if name.startswith("live.")}
        for name, array in {"streams": learner._streams, **learner._arrays()}.items():
            array[...] = kept[name]
        if live and hasattr(learner._live.env.unwrapped, "set_state"):
            learner._live.set_state(live)
        return learner
