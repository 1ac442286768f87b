"""Warm-up of classic control and the deep learners; see `_warmup`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from paragone.reinforcement.classic_control import TASKS, ClassicControl, ClassicControlVector
from paragone.reinforcement.dqn import DQN
from paragone.reinforcement.ppo import PPO
from paragone.reinforcement.reinforce import Reinforce

__all__ = ["CALLS"]


def _control() -> None:
    for name in TASKS:
        env = ClassicControl(name)
        env.reset(seed=0)
        env.step(env.action_space.sample())
        many = ClassicControlVector(3, name, max_episode_steps=2)
        many.reset(seed=0)
        for _ in range(3):
            many.step(many.action_space.sample())


def _learners() -> None:
    small = {"num_envs": 4, "hidden": (8,), "random_state": 0}
    for name in ("paragone/CartPole-v1", "paragone/Pendulum-v1"):
        learner = PPO(name, horizon=8, minibatches=2, **small).train(32)
        learner.act(np.zeros(learner._live.width))
    Reinforce("paragone/CartPole-v1", **small).train(1)
    DQN("paragone/CartPole-v1", learning_starts=16, batch_size=16, **small).train(64)


CALLS: tuple[Callable[[], None], ...] = (_control, _learners)
