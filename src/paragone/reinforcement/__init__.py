"""Reinforcement learning: grid worlds, dynamic programming, Monte Carlo, temporal difference.

Start with `GridWorld` and `value_iteration` where the model is known; `QLearning` and `PPO`
learn from experience alone. `paragone compare control` shows what knowing the model is worth.
"""

from paragone._core.lazy import lazy_exports

_MODULES = {
    "mdp": ("MDP",),
    "grid_world": ("GridWorld",),
    "dynamic_programming": (
        "evaluate_policy", "value_iteration", "policy_iteration", "truncated_policy_iteration",
        "finite_horizon", "average_reward",
    ),
    "monte_carlo": (
        "MonteCarloBasic", "MonteCarloExploringStarts", "MonteCarloEpsilonGreedy",
    ),
    "monte_carlo_prediction": ("MonteCarloPrediction",),
    "temporal_difference": (
        "TemporalDifference", "Sarsa", "ExpectedSarsa", "QLearning", "DoubleQLearning",
    ),
    "envs": ("make", "make_vec"),
    "dqn": ("DQN",),
    "reinforce": ("Reinforce",),
    "ppo": ("PPO",),
}  # fmt: skip

_TARGETS = {
    name: f"paragone.reinforcement.{module}:{name}"
    for module, names in _MODULES.items()
    for name in names
}

__getattr__, __dir__ = lazy_exports(__name__, _TARGETS)

__all__ = [*_TARGETS]  # pyright: ignore[reportUnsupportedDunderAll]
