"""What vector environments share: seeded streams, autoreset, infos as Gymnasium lays them out."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode

__all__ = [
    "REAL",
    "TRUTH",
    "WHOLE",
    "Continued",
    "Streams",
    "checked_limit",
    "checked_mode",
    "final_infos",
    "only",
]

WORDS = 8
WHOLE, REAL, TRUTH = np.dtype(np.int64), np.dtype(np.float64), np.dtype(np.bool_)
"""Types of what a step returns; made once, since NumPy looks up `np.int64` at every call."""


class Streams:
    """One row of words for each environment: its generator, then state, steps and done."""

    def __init__(self, count: int) -> None:
        if count != int(count) or count < 1:
            raise ValueError(f"num_envs={count} is no number of environments: use 1 and above")
        self.count = int(count)
        self.words = np.zeros((self.count, WORDS), np.uint64)

    def prepare(self, seed: Any, options: dict[str, Any] | None) -> np.ndarray:
        """Seeds the streams that are to be and returns which environments start (n,)."""
        n = self.count
        chosen = np.ones(n, np.bool_)
        if options is not None and "reset_mask" in options:
            chosen = np.asarray(options["reset_mask"])
            if chosen.shape != (n,) or chosen.dtype != np.bool_ or not chosen.any():
                raise ValueError(f"reset_mask must be ({n},), of bool, and true somewhere")
        if isinstance(seed, int | np.integer):
            seed = range(int(seed), int(seed) + n)
        seeds = [None] * n if seed is None else list(seed)
        if len(seeds) != n:
            raise ValueError(f"{len(seeds)} seeds for {n} environments: give one for each")
        for i in np.flatnonzero(chosen):
            if seeds[i] is not None:
                self.words[i, :5] = seeded(seeding.np_random(seeds[i])[0])
        fresh = np.flatnonzero(chosen & (self.words[:, 3] == 0))
        if len(fresh):
            random = np.random.default_rng()
            self.words[fresh, :4] = random.integers(0, 2**64, (len(fresh), 4), np.uint64)
            self.words[fresh, 3] |= np.uint64(1)
        return chosen

    def get_state(self, ready: bool) -> dict[str, np.ndarray]:
        """Returns all that the future depends on, and whether a step may be next."""
        return {"words": self.words.copy(), "ready": np.array(ready)}

    def set_state(self, state: dict[str, np.ndarray]) -> bool:
        """Goes back to what `get_state` returned and returns whether a step may be next."""
        if state["words"].shape != self.words.shape:
            raise ValueError(
                f"a state of {len(state['words'])} environments, and {self.count} are here: "
                f"use num_envs={len(state['words'])}"
            )
        self.words[...] = state["words"]
        return bool(state["ready"])

    def waiting(self, mode: AutoresetMode) -> bool:
        """Whether an episode has ended that the user has to start again."""
        return mode is AutoresetMode.DISABLED and bool(self.words[:, 7].any())


class Continued:
    """Vector environments whose future lies in their streams, and can be kept and taken up."""

    _streams: Streams
    _ready: bool

    def get_state(self) -> dict[str, np.ndarray]:
        """Returns all that the future depends on, for `set_state`."""
        return self._streams.get_state(self._ready)

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Goes back to what `get_state` returned, of as many environments."""
        self._ready = self._streams.set_state(state)


def seeded(generator: Any) -> list[int]:
    """Returns the five words of a stream that goes on where a NumPy generator stands."""
    state = generator.bit_generator.state
    place, step = state["state"]["state"], state["state"]["inc"]
    kept = (1 << 32 | state["uinteger"]) if state["has_uint32"] else 0
    word = (1 << 64) - 1
    return [place >> 64, place & word, step >> 64, step & word, kept]


def checked_limit(limit: int | None) -> int | None:
    """Returns the time limit; None is none."""
    if limit is not None and (limit != int(limit) or limit < 1):
        raise ValueError(f"max_episode_steps={limit} is no number of steps: use 1 and above")
    return None if limit is None else int(limit)


def checked_mode(mode: Any) -> AutoresetMode:
    """Returns the autoreset mode, given as such or by its name."""
    if isinstance(mode, AutoresetMode):
        return mode
    for known in AutoresetMode:
        if str(mode) in (known.value, known.name):
            return known
    raise ValueError(f"autoreset_mode={mode!r} is none of {[m.value for m in AutoresetMode]}")


def only(infos: dict[str, Any], chosen: np.ndarray) -> dict[str, Any]:
    """Returns infos that hold for some environments: zero and masked elsewhere."""
    if chosen.all():
        return infos
    partly = {}
    for name, values in infos.items():
        if name.startswith("_"):
            partly[name] = chosen.copy()
        else:
            partly[name] = values.copy()
            partly[name][~chosen] = 0
    return partly


def final_infos(observations: list[Any], infos: dict[str, Any], done: np.ndarray) -> dict[str, Any]:
    """Returns `final_obs` and `final_info` of the environments whose episode has ended."""
    final = np.full(len(done), None, dtype=object)
    for i in np.flatnonzero(done):
        final[i] = observations[i]
    told = only(infos, done)
    if done.all():
        told = {name: done.copy() if name[0] == "_" else values for name, values in told.items()}
    return {"final_obs": final, "_final_obs": done, "final_info": told, "_final_info": done.copy()}
