"""A stochastic policy and, if wanted, a network of values: one vector of parameters, one Adam.

Shapes: n copies, d features, k actions or numbers of an action, M rows, P parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from paragone._core.random import RandomState
from paragone.reinforcement._learner import Learner
from paragone.reinforcement._network import Adam, Network, choose_backend
from paragone.reinforcement._policies import policy_for

__all__ = ["ActorCritic", "Batch"]


class Batch(NamedTuple):
    """Rows to learn from: features (M, d), and for each row what was done and what came of it.

    `logs` are those of the policy that acted, `gains` the weights of the actions (advantages),
    `returns` what the values are to become, `values` what they were.
    """

    seen: np.ndarray
    actions: np.ndarray
    logs: np.ndarray
    gains: np.ndarray
    returns: np.ndarray
    values: np.ndarray


class ActorCritic(Learner):
    """What learners with a stochastic policy share; `theta` (P,) is actor, deviations, critic."""

    max_grad_norm: float

    def __init__(
        self, env: Any, num_envs: int, hidden: Sequence[int], activation: str, backend: str,
        random_state: RandomState,
    ) -> None:  # fmt: skip
        self.hidden, self.activation = [int(width) for width in hidden], activation
        self.backend = choose_backend(backend, activation)
        super().__init__(env, num_envs, random_state)

    def _build(self, gain: float, critic: bool) -> None:
        """Draws the networks; the policy's last layer times `gain`."""
        self._policy = policy_for(self._live.env.single_action_space)
        width, k = self._live.width, self._policy.outputs
        self._actor = Network([width, *self.hidden, k], self.activation, self.backend)
        self._critic = Network([width, *self.hidden, 1], self.activation, self.backend)
        parts = [self._actor.start(self._rng, gain), np.zeros(self._policy.extra, np.float32)]
        if critic:
            parts.append(self._critic.start(self._rng, 1.0))
        self.theta: np.ndarray = np.concatenate(parts)
        self._adam = Adam(len(self.theta), 1e-5, self.max_grad_norm)

    def _parts(self, theta: Any) -> tuple[Any, Any, Any]:
        """Parameters of the actor, logs of its deviations, parameters of the critic."""
        a = self._actor.size
        b = a + self._policy.extra
        return theta[:a], theta[a:b], theta[b:]

    def policy(self, observations: Any) -> Any:
        """Probabilities (n, k) of discrete actions, or (means, deviations), each (n, k).

        Args:
            observations: A batch of observations (n, ...).
        """
        seen = self._live.encoder.many(None, observations)
        actor, extra, _ = self._parts(self.theta)
        outputs = self._actor.outputs(actor, seen)
        if self._policy.extra:
            return outputs.copy(), np.broadcast_to(np.exp(extra), outputs.shape).copy()
        return self._policy.probabilities(outputs)  # pyright: ignore[reportAttributeAccessIssue]

    def values(self, observations: Any) -> np.ndarray:
        """The critic's values (n,) of a batch of observations."""
        seen = self._live.encoder.many(None, observations)
        return self._critic.outputs(self._parts(self.theta)[2], seen)[:, 0].copy()

    def _decide(self, seen: np.ndarray, deterministic: bool, streams: np.ndarray) -> np.ndarray:
        actor, extra, _ = self._parts(self.theta)
        outputs = self._actor.outputs(actor, seen)
        if deterministic:
            return self._policy.to_env(self._policy.best(outputs))
        return self._policy.to_env(self._policy.draw(outputs, extra, streams)[0])

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"theta": self.theta, "first": self._adam.first, "second": self._adam.second}

    def _numbers(self) -> dict[str, Any]:
        return {**super()._numbers(), "_adam_steps": self._adam_steps}

    @property
    def _adam_steps(self) -> int:
        return self._adam.steps

    @_adam_steps.setter
    def _adam_steps(self, steps: int) -> None:
        self._adam.steps = steps
