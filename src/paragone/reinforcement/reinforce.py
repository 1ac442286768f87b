r"""REINFORCE: the policy gradient itself, from whole episodes.

The gradient of the expected return $J(\theta)$ is an expectation over episodes of the policy that
is being played, and so can be estimated without knowing the environment:

$$ \nabla J = \mathbb{E} \sum_t \gamma^t \bigl(G_t - b(s_t)\bigr) \nabla \log \pi_\theta(a_t | s_t),
   \qquad G_t = \sum_{i \ge t} \gamma^{i-t} r_i . $$

An action answers only for the rewards after it (`reward_to_go`); without that, $G_0$ stands in
place of $\gamma^t G_t$: the same expectation, more variance. A baseline b that knows the state
alone changes no expectation either; here it is a network of values. Nearly all programs leave the
factor $\gamma^t$ out, which makes late states count as much as early ones and is the gradient of
no function; `state_discount=True` keeps it.

An episode that runs out of time lacks $\gamma^T v(s_T)$ in its return. With a baseline its value
of the final state takes that place; without one the returns are too small, and the history says
in how many episodes.

Cost: one forward and backward pass a step; whole episodes are kept.

References:
    Williams (1992), "Simple statistical gradient-following algorithms for connectionist
    reinforcement learning".
    Sutton and Barto (2018), Reinforcement learning, 2nd edition, section 13.4, for the baseline.

Shapes: n episodes, M their steps, d features, P parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from paragone._core.random import RandomState
from paragone.reinforcement import _policy_kernels as kernels
from paragone.reinforcement._actor_critic import ActorCritic, Batch
from paragone.reinforcement._learner import checked

__all__ = ["Reinforce"]


class Reinforce(ActorCritic):
    r"""Follows the Monte Carlo policy gradient, one step for each batch of whole episodes.

    Prefer it to see what a policy gradient is; prefer `PPO` to have a good policy soon: it uses
    a batch several times and does not wait for episodes to end.

    Args:
        env: An id, an `Env`, or a `VectorEnv`; as for `PPO`. Episodes must end.
        num_envs: Episodes n of each step, for an id.
        gamma: Discount in [0, 1].
        learning_rate: Of Adam.
        reward_to_go: Weigh an action by the rewards after it, not by all.
        baseline: Learn values, subtract them.
        normalize: Bring the weights of a batch to mean 0 and deviation 1: steadier, no longer
            the gradient.
        state_discount: Keep the factor $\gamma^t$.
        value_weight: Weight of the values' error, half its mean square.
        max_grad_norm: The gradient's norm is cut to it.
        hidden: Widths of the layers; none is a table of logits if observations are discrete.
        activation: "tanh", "relu", "elu" or "silu".
        backend: "numba" (tanh, relu), "torch", or "auto": Numba where it can.
        random_state: Seed of networks, environments and actions.

    Raises:
        ValueError: An argument is out of range, or the actions have no policy.

    Example:
        >>> learner = Reinforce("paragone/CartPole-v1", num_envs=8, random_state=0).train(2_000)
        >>> learner.policy(np.zeros((3, 4))).shape
        (3, 2)
    """

    _own = ("policy_loss", "value_loss", "entropy", "truncated")

    def __init__(
        self,
        env: Any,
        *,
        num_envs: int = 16,
        gamma: float = 0.99,
        learning_rate: float = 5e-3,
        reward_to_go: bool = True,
        baseline: bool = True,
        normalize: bool = True,
        state_discount: bool = False,
        value_weight: float = 0.5,
        max_grad_norm: float = 1.0,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        backend: str = "auto",
        random_state: RandomState = None,
    ) -> None:
        self.gamma = checked("gamma", gamma, 0.0, 1.0, "use a discount such as 0.99")
        self.learning_rate = checked("learning_rate", learning_rate, 1e-12, 1.0, "use 5e-3")
        self.reward_to_go, self.baseline, self.normalize = reward_to_go, baseline, normalize
        self.state_discount, self.value_weight = state_discount, value_weight
        self.max_grad_norm = max_grad_norm
        super().__init__(env, num_envs, hidden, activation, backend, random_state)
        self._build(0.01 if self.hidden else 0.0, critic=baseline)

    def _iterate(self) -> dict[str, float]:
        batch, cut = self._collect()
        grad, told = self.gradient(self.theta, batch)
        self._adam.step(self.theta, grad, self.learning_rate)
        self.samples += len(batch.seen)
        return dict(zip(self._own, (*told.tolist(), cut), strict=True))

    def _collect(self) -> tuple[Batch, float]:
        """Plays one episode in each copy; returns its steps, and how many ran out of time."""
        live, n = self._live, self.num_envs
        actor, extra, _ = self._parts(self.theta)
        if self.samples:
            live.begin(None)
        playing, cut = np.ones(n, np.bool_), np.zeros(n, np.bool_)
        seen, actions, logs, rewards, alive = [], [], [], [], []
        final = np.zeros((n, live.width), np.float32)
        while playing.any():
            chosen, log = self._policy.draw(
                self._actor.outputs(actor, live.seen), extra, self._streams
            )
            seen.append(live.seen)
            step = live.step(self._policy.to_env(chosen))
            actions.append(chosen)
            logs.append(log)
            rewards.append(np.where(playing, step.rewards, 0.0))
            alive.append(playing.copy())
            ended = playing & (step.terminated | step.truncated)
            final[ended] = step.following[ended]
            cut |= ended & ~step.terminated
            playing &= ~ended
        live.ended = _first_of_each(live.ended)
        kept = np.stack(alive)
        flat = np.concatenate(seen)
        values, tail = np.zeros(kept.shape, np.float32), np.zeros(n)
        if self.baseline:
            critic = self._parts(self.theta)[2]
            values = self._critic.outputs(critic, flat)[:, 0].reshape(kept.shape).copy()
            tail = np.where(cut, self._critic.outputs(critic, final)[:, 0], 0.0)
        returns, gains = self._weights(np.stack(rewards), values, tail, kept)
        rows = (flat, np.concatenate(actions), np.concatenate(logs), gains.ravel(),
                returns.ravel(), values.ravel())  # fmt: skip
        batch = Batch(*(column[kept.ravel()] for column in rows))
        gains = batch.gains
        if self.normalize and len(gains) > 1:
            gains = (gains - gains.mean()) / (gains.std() + 1e-8)
        # The gradient is a sum over each episode's steps and a mean over episodes.
        return batch._replace(gains=gains * np.float32(len(gains) / n)), float(cut.mean())

    def _weights(
        self, rewards: np.ndarray, values: np.ndarray, tail: np.ndarray, kept: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns (T, n) $G_t$ and what multiplies the gradient of each action's log."""
        returns, after = np.zeros_like(rewards), tail
        for t in range(len(rewards) - 1, -1, -1):
            after = np.where(kept[t], rewards[t] + self.gamma * after, after)
            returns[t] = after
        fade = self.gamma ** np.arange(len(rewards))[:, None]
        if self.reward_to_go:
            gains = returns - values
            gains = fade * gains if self.state_discount else gains
        else:
            gains = returns[0] - (fade * values if self.state_discount else values)
        return returns.astype(np.float32), gains.astype(np.float32)

    def gradient(self, theta: np.ndarray, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Gradient (P,) of the loss, that is of $-J$ and the values' error.

        Args:
            theta: Parameters (P,) that played the episodes.
            batch: Their steps.

        Returns:
            The gradient, and policy loss, value loss and entropy.
        """
        if self.backend == "torch":
            return self._gradient_torch(theta, batch)
        grad, rows, told = np.zeros_like(theta), len(batch.seen), np.zeros(4)
        (actor, extra, critic), parts = self._parts(theta), self._parts(grad)
        outputs = self._actor.outputs(actor, batch.seen)
        slope = self._policy.slopes(outputs, extra, parts[1], batch, np.inf, 0.0, told)
        self._actor.add_gradient(actor, batch.seen, slope, parts[0])
        value_loss = 0.0
        if self.baseline:
            values, slope = self._critic.outputs(critic, batch.seen), np.empty((rows, 1), "f")
            value_loss = kernels.value_slope(
                values, batch.values, batch.returns, np.inf, float(self.value_weight), slope
            )
            self._critic.add_gradient(critic, batch.seen, slope, parts[2])
        return grad, np.array([told[0] / rows, value_loss, told[1] / rows])

    def _gradient_torch(self, theta: np.ndarray, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """The definition, differentiated by autograd."""
        import torch

        parameters = torch.from_numpy(theta).clone().requires_grad_()
        seen, actions, _, gains, returns, _ = map(torch.from_numpy, batch)
        actor, extra, critic = self._parts(parameters)
        logs, entropy = self._policy.torch(self._actor.torch(actor, seen), extra, actions)
        loss = -(gains * logs).mean()
        value_loss = torch.zeros(())
        if self.baseline:
            value = self._critic.torch(critic, seen)[:, 0]
            value_loss = 0.5 * ((value - returns) ** 2).mean()
        (loss + self.value_weight * value_loss).backward()
        told = torch.stack([-gains.mean(), value_loss, entropy.mean()]).detach().double()
        grad: Any = parameters.grad
        return grad.numpy(), told.numpy()


def _first_of_each(ended: list[tuple[int, float, int]]) -> list[tuple[int, float, int]]:
    """Keeps the first episode of each copy: those that were learnt from."""
    first: dict[int, tuple[int, float, int]] = {}
    for line in ended:
        first.setdefault(line[0], line)
    return list(first.values())
