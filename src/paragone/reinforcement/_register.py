"""Our environments in Gymnasium's registry, under `paragone/`; nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

__all__ = ["ENVIRONMENTS", "Entry", "register"]


class Entry(NamedTuple):
    """Where an environment is defined, alone and many at once, and how it is set."""

    single: str
    many: str
    limit: int | None = None
    options: Mapping[str, Any] = MappingProxyType({})
    threshold: float | None = None


_TOY = "paragone.reinforcement._toy_text:"


def _classic(task: str, limit: int, threshold: float | None) -> Entry:
    home = "paragone.reinforcement.classic_control:ClassicControl"
    return Entry(home, home + "Vector", limit, {"task": task}, threshold)


ENVIRONMENTS: dict[str, Entry] = {
    "GridWorld-v0": Entry(
        "paragone.reinforcement.grid_world:GridWorld", _TOY + "GridWorldVectorEnv"
    ),
    "FrozenLake-v1": Entry(
        _TOY + "FrozenLakeEnv", _TOY + "FrozenLakeVectorEnv", 100, {"map_name": "4x4"}, 0.70
    ),
    "FrozenLake8x8-v1": Entry(
        _TOY + "FrozenLakeEnv", _TOY + "FrozenLakeVectorEnv", 200, {"map_name": "8x8"}, 0.85
    ),
    "CliffWalking-v1": Entry(_TOY + "CliffWalkingEnv", _TOY + "CliffWalkingVectorEnv"),
    "CliffWalkingSlippery-v1": Entry(
        _TOY + "CliffWalkingEnv", _TOY + "CliffWalkingVectorEnv", None, {"is_slippery": True}
    ),
    "Taxi-v4": Entry(_TOY + "TaxiEnv", _TOY + "TaxiVectorEnv", 200),
    "Blackjack-v1": Entry(
        "paragone.reinforcement._blackjack:BlackjackEnv",
        "paragone.reinforcement._blackjack:BlackjackVectorEnv",
        None, {"sab": True, "natural": False},
    ),
    "CartPole-v1": _classic("CartPole-v1", 500, 475.0),
    "Acrobot-v1": _classic("Acrobot-v1", 500, -100.0),
    "MountainCar-v0": _classic("MountainCar-v0", 200, -110.0),
    "MountainCarContinuous-v0": _classic("MountainCarContinuous-v0", 999, 90.0),
    "Pendulum-v1": _classic("Pendulum-v1", 200, None),
}  # fmt: skip
"""Every environment by its id without the namespace."""


def register() -> None:
    """Adds what is not there yet; importing `envs` or `grid_world` calls it.

    Gymnasium 1.0 and later asks no entry points: a name is known once one of them is imported,
    or named with it: `gymnasium.make("paragone.reinforcement.envs:paragone/Taxi-v4")`.
    """
    from gymnasium.envs import registration

    for name, entry in ENVIRONMENTS.items():
        if f"paragone/{name}" not in registration.registry:
            registration.register(
                f"paragone/{name}",
                entry_point=entry.single,
                vector_entry_point=entry.many,
                max_episode_steps=entry.limit,
                reward_threshold=entry.threshold,
                kwargs=dict(entry.options),
            )
