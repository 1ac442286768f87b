"""Names of our environments for `gymnasium.make`; read by Gymnasium when it is imported."""

from __future__ import annotations

__all__ = ["register"]

_CLASSIC = {
    "CartPole-v1": (500, 475.0),
    "Acrobot-v1": (500, -100.0),
    "MountainCar-v0": (200, -110.0),
    "MountainCarContinuous-v0": (999, 90.0),
    "Pendulum-v1": (200, None),
}


def register() -> None:
    """Makes `gymnasium.make("paragone/CartPole-v1")` and its like known."""
    import gymnasium

    home = "paragone.reinforcement.classic_control"
    for name, (limit, threshold) in _CLASSIC.items():
        gymnasium.register(
            f"paragone/{name}",
            entry_point=f"{home}:ClassicControl",
            vector_entry_point=f"{home}:ClassicControlVector",
            max_episode_steps=limit,
            reward_threshold=threshold,
            kwargs={"task": name},
        )
