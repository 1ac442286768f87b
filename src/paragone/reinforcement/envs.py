"""Environments by name: Gymnasium's toy-text and classic control, grid worlds, any finite process.

All of them are Gymnasium environments, alone (`make`) and many at once (`make_vec`). Once this
module is imported `gymnasium.make("paragone/FrozenLake-v1")` and `gymnasium.make_vec` find them
too; `gymnasium.make("paragone.reinforcement.envs:paragone/FrozenLake-v1")` imports it. Where
Gymnasium has an environment of that name, ours has the same spaces, rewards, ends and infos,
and under the same seed the same trajectories; many at once run hundreds of times faster.

References:
    Towers et al. (2024), "Gymnasium: a standard interface for reinforcement learning
    environments", arXiv:2407.17032.
"""

from __future__ import annotations

from typing import Any

from paragone._core.lazy import resolve
from paragone.reinforcement._register import ENVIRONMENTS, Entry, register
from paragone.reinforcement._vector import checked_limit

__all__ = ["make", "make_vec"]

register()


def make(id_or_layout: Any, **options: Any) -> Any:
    """Makes one environment, without Gymnasium's wrappers: the time limit is inside.

    Prefer it to `gymnasium.make` where speed counts; use `gymnasium.make("paragone/...")` where
    wrappers are wanted.

    Args:
        id_or_layout: A name such as "FrozenLake-v1" or "Taxi-v4", with or without "paragone/"
            and version; the rows of a grid world; or an `MDP`.
        **options: Of the environment, as Gymnasium names them (`is_slippery=False`); besides
            `max_episode_steps` and `render_mode`.

    Returns:
        A `gymnasium.Env`.

    Raises:
        ValueError: There is no such environment.

    Example:
        >>> make(["..", ".T"]).reset(seed=1)[0] in range(4)
        True
    """
    from paragone.reinforcement.mdp import MDP

    if isinstance(id_or_layout, MDP):
        from paragone.reinforcement._table_env import TableEnv

        return TableEnv(id_or_layout, **options)
    entry, options = _entry(id_or_layout, options)
    limit = checked_limit(options.pop("max_episode_steps", None))
    env = resolve(entry.single)(**options)
    if limit is None:
        return env
    if hasattr(env, "max_episode_steps"):
        env.max_episode_steps = limit
        return env
    from gymnasium.wrappers import TimeLimit

    return TimeLimit(env, limit)


def make_vec(id_or_layout: Any, num_envs: int = 1, **options: Any) -> Any:
    """Makes many environments that step together.

    Args:
        id_or_layout: As in `make`.
        num_envs: How many.
        **options: Of the environment; besides `max_episode_steps`, `render_mode`,
            `autoreset_mode` ("NextStep", "SameStep", "Disabled") and `copy`: False hands out
            arrays that the next step overwrites.

    Returns:
        A `gymnasium.vector.VectorEnv`.

    Raises:
        ValueError: There is no such environment.

    Example:
        >>> make_vec("Taxi-v4", 4).reset(seed=0)[0].shape
        (4,)
    """
    from paragone.reinforcement.mdp import MDP

    if isinstance(id_or_layout, MDP):
        from paragone.reinforcement._table_env import TableVectorEnv

        return TableVectorEnv(id_or_layout, num_envs, **options)
    entry, options = _entry(id_or_layout, options)
    return resolve(entry.many)(num_envs=num_envs, **options)


def _entry(name: Any, options: dict[str, Any]) -> tuple[Entry, dict[str, Any]]:
    """Returns where an environment is and its options, the registered ones below the given."""
    if not isinstance(name, str) or "\n" in name or (name and set(name) <= set(".#TS")):
        name, options = "GridWorld-v0", {"layout": name, **options}
    short = name.removeprefix("paragone/")
    found = [known for known in ENVIRONMENTS if short in (known, known.rpartition("-v")[0])]
    if not found:
        raise ValueError(f"{name!r} is no environment of ours: use {', '.join(ENVIRONMENTS)}")
    entry = ENVIRONMENTS[found[0]]
    limit = {} if entry.limit is None else {"max_episode_steps": entry.limit}
    return entry, {**limit, **entry.options, **options}
