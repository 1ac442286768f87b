"""Warm-up of the tabular learners and environments; see `_warmup`."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from paragone.reinforcement.envs import make, make_vec
from paragone.reinforcement.monte_carlo import (
    MonteCarloBasic,
    MonteCarloEpsilonGreedy,
    MonteCarloExploringStarts,
)
from paragone.reinforcement.monte_carlo_prediction import MonteCarloPrediction
from paragone.reinforcement.temporal_difference import QLearning, Sarsa, TemporalDifference

__all__ = ["CALLS"]


def _environments() -> None:
    for name in ("FrozenLake-v1", "Blackjack-v1"):
        envs = make_vec(name, 4, autoreset_mode=AutoresetMode.SAME_STEP)
        envs.reset(seed=0)
        for _ in range(30):
            envs.step(np.zeros(4, np.int64))


def _step_by_step() -> None:
    lake = make("FrozenLake-v1")
    QLearning(lake, random_state=0).train(steps=200)
    TemporalDifference(lake, "uniform", random_state=0).train(episodes=5)
    Sarsa(gymnasium.make("FrozenLake-v1"), n=2, random_state=0).train(steps=50)


def _episodes() -> None:
    lake = make("FrozenLake-v1")
    MonteCarloBasic(lake, random_state=0).train(episodes=1)
    MonteCarloExploringStarts(lake, random_state=0).train(episodes=5)
    MonteCarloPrediction(lake, "uniform", random_state=0).train(episodes=5)
    MonteCarloEpsilonGreedy(gymnasium.make("FrozenLake-v1"), random_state=0).train(episodes=5)


CALLS: tuple[Callable[[], None], ...] = (_environments, _step_by_step, _episodes)
