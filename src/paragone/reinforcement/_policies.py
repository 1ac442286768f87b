r"""The two families of stochastic policies, as torch defines them and as kernels draw from them.

Shapes: B rows, k logits or numbers of an action; `extra` (e,): the deviations' logs, if any.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from paragone.reinforcement import _policy_kernels as kernels

__all__ = ["Categorical", "Gaussian", "policy_for"]


class Categorical:
    """Whole-numbered actions by logits."""

    extra = 0

    def __init__(self, space: Discrete) -> None:
        self.outputs, self._first = int(space.n), int(space.start)

    def draw(
        self, outputs: np.ndarray, extra: np.ndarray, streams: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Actions (B,) and their logs (B,), each row from its own stream."""
        actions, logs = np.empty(len(outputs), np.int64), np.empty(len(outputs), np.float32)
        kernels.choose(outputs, streams, actions, logs)
        return actions, logs

    def best(self, outputs: np.ndarray) -> np.ndarray:
        """The likeliest actions (B,), the lowest number among equals."""
        return outputs.argmax(axis=1)

    def to_env(self, actions: np.ndarray) -> np.ndarray:
        """Actions as the environment wants them."""
        return actions + self._first

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Probabilities (B, k) of the actions."""
        weights = np.exp(outputs.astype(float) - outputs.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    def torch(self, outputs: Any, extra: Any, actions: Any) -> tuple[Any, Any]:
        """Logs of the actions (B,) and entropies (B,), for autograd."""
        logs = outputs.log_softmax(dim=1)
        chosen = logs.gather(1, actions[:, None])[:, 0]
        return chosen, -(logs.exp() * logs).sum(dim=1)

    def slopes(self, outputs: np.ndarray, extra: np.ndarray, grad: np.ndarray, batch: Any,
               clip: float, bonus: float, told: np.ndarray) -> np.ndarray:  # fmt: skip
        """Gradient (B, k) of the clipped surrogate, in closed form."""
        slope = np.empty_like(outputs)
        kernels.surrogate(
            outputs, batch.actions, batch.logs, batch.gains, float(clip), float(bonus), slope, told
        )
        return slope


class Gaussian:
    """Real actions by means; one deviation for each number, whatever the state."""

    def __init__(self, space: Box) -> None:
        self.outputs = self.extra = int(np.prod(space.shape))
        self._space = space

    def draw(
        self, outputs: np.ndarray, extra: np.ndarray, streams: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Actions (B, k), not yet within the bounds, and their logs (B,)."""
        actions, logs = np.empty_like(outputs), np.empty(len(outputs), np.float32)
        kernels.choose_real(outputs, extra, streams, actions, logs)
        return actions, logs

    def best(self, outputs: np.ndarray) -> np.ndarray:
        """The means (B, k)."""
        return outputs.copy()

    def to_env(self, actions: np.ndarray) -> np.ndarray:
        """Actions within the bounds, in the environment's shape."""
        inside = actions.reshape(len(actions), *self._space.shape)
        return np.clip(inside, self._space.low, self._space.high).astype(self._space.dtype)

    def torch(self, outputs: Any, extra: Any, actions: Any) -> tuple[Any, Any]:
        """Logs of the actions (B,) and entropies (B,), for autograd."""
        unit = (actions - outputs) / extra.exp()
        half = 0.5 * math.log(2 * math.pi)
        logs = -(0.5 * unit * unit + extra + half).sum(dim=1)
        return logs, (extra + half + 0.5).sum().expand(len(logs))

    def slopes(self, outputs: np.ndarray, extra: np.ndarray, grad: np.ndarray, batch: Any,
               clip: float, bonus: float, told: np.ndarray) -> np.ndarray:  # fmt: skip
        """Gradient (B, k) of the clipped surrogate; the deviations' is added to `grad` (e,)."""
        slope = np.empty_like(outputs)
        kernels.surrogate_real(
            outputs,
            extra,
            batch.actions,
            batch.logs,
            batch.gains,
            float(clip),
            float(bonus),
            slope,
            grad,
            told,
        )
        return slope


def policy_for(space: Any) -> Categorical | Gaussian:
    """Returns the family that fits a space of actions.

    Raises:
        ValueError: There is none.
    """
    if isinstance(space, Discrete):
        return Categorical(space)
    if isinstance(space, Box):
        return Gaussian(space)
    raise ValueError(f"actions of {space} have no policy here: use Discrete or Box")
