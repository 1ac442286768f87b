r"""Deep Q-learning: Watkins's rule with a network in place of the table.

$$ L(\theta) = \frac1B \sum_b \ell\bigl(q_\theta(s_b, a_b) - y_b\bigr), \qquad
   y = r + \gamma (1 - d) \, q_{\theta^-}\bigl(s', \arg\max_a q_{\theta^*}(s', a)\bigr) . $$

Two devices keep the recursion from chasing itself: transitions are drawn from a long memory, not
in the order in which they came, and targets come from older parameters $\theta^-$, renewed now and
then. $\theta^* = \theta^-$ is the original; $\theta^* = \theta$ (double DQN) takes the choice from
one network and the value from the other, against the bias of a maximum over noise. $\ell$ is half
the square, or Huber's loss. d says that the task ended; running out of time is no end, and $s'$
is then the final state. On one-hot features without hidden layers this is the table.

Cost: each update is three or four forward passes and one backward over B rows.

References:
    Mnih et al. (2015), "Human-level control through deep reinforcement learning", algorithm 1.
    van Hasselt, Guez and Silver (2016), "Deep reinforcement learning with double Q-learning",
    arXiv:1509.06461, eq. 4.
    Sutton and Barto (2018), Reinforcement learning, 2nd edition, section 7.1, for n-step returns.

Shapes: n copies, d features, k actions, B rows, P parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete

from paragone._core.random import RandomState
from paragone.reinforcement import _policy_kernels as kernels
from paragone.reinforcement._learner import Learner, checked
from paragone.reinforcement._network import Adam, Network, choose_backend
from paragone.reinforcement._replay import Draw, Replay

__all__ = ["DQN"]


class DQN(Learner):
    """Learns the values of actions off-policy, from a memory of transitions.

    Prefer it to `PPO` where a step of the environment is dear: it uses each transition many
    times. Prefer `QLearning` where states can be counted.

    Args:
        env: An id, an `Env`, or a `VectorEnv`; as for `PPO`. Actions: `Discrete`.
        num_envs: Copies n, for an id.
        gamma: Discount in [0, 1].
        learning_rate: Of Adam.
        buffer_size: Transitions remembered.
        batch_size: Rows B of an update.
        learning_starts: Transitions before the first update.
        train_every: Transitions to one update; may be below 1 for several updates each.
        target_every: Updates between renewals of the target network.
        epsilon: First and last probability of a random action.
        epsilon_steps: Transitions over which it falls linearly.
        double: Choose by the learning network, value by the target network.
        huber: Huber's loss in place of the square. Its gradient is cut to 1, so a few states that
            end hold the values of many that do not less firmly: they may run away.
        n_step: Rewards summed before bootstrapping.
        max_grad_norm: The gradient's norm is cut to it.
        hidden: Widths of the layers; none is a linear model, on one-hot features a table.
        activation: "tanh", "relu", "elu" or "silu".
        backend: "numba" (tanh, relu), "torch", or "auto": Numba where it can.
        random_state: Seed of network, environments, exploration and memory.

    Raises:
        ValueError: An argument is out of range, or actions are not whole numbers.

    Example:
        >>> learner = DQN("paragone/CartPole-v1", random_state=0).train(2_000)
        >>> learner.values(np.zeros((3, 4))).shape
        (3, 2)
    """

    _own = ("loss", "epsilon", "value")

    def __init__(
        self,
        env: Any,
        *,
        num_envs: int = 8,
        gamma: float = 0.99,
        learning_rate: float = 1e-3,
        buffer_size: int = 50_000,
        batch_size: int = 128,
        learning_starts: int = 1_000,
        train_every: float = 4,
        target_every: int = 100,
        epsilon: Sequence[float] = (1.0, 0.05),
        epsilon_steps: int = 20_000,
        double: bool = True,
        huber: bool = False,
        n_step: int = 3,
        max_grad_norm: float = 10.0,
        hidden: Sequence[int] = (64, 64),
        activation: str = "relu",
        backend: str = "auto",
        random_state: RandomState = None,
    ) -> None:
        self.gamma = checked("gamma", gamma, 0.0, 1.0, "use a discount such as 0.99")
        self.learning_rate = checked("learning_rate", learning_rate, 1e-12, 1.0, "use 1e-3")
        self.epsilon = [checked("epsilon", e, 0.0, 1.0, "use a probability") for e in epsilon]
        whole = "use whole numbers from 1"
        self.batch_size = int(checked("batch_size", batch_size, 1, 2**31, whole))
        self.buffer_size = int(checked("buffer_size", buffer_size, batch_size, 2**40, "use more"))
        self.learning_starts = int(checked("learning_starts", learning_starts, 0, 2**60, whole))
        self.train_every = checked("train_every", train_every, 1e-3, 1e9, "use 4")
        self.target_every = int(checked("target_every", target_every, 1, 2**60, whole))
        self.epsilon_steps = int(checked("epsilon_steps", epsilon_steps, 1, 2**60, whole))
        self.n_step = int(checked("n_step", n_step, 1, 1000, whole))
        self.double, self.huber, self.max_grad_norm = double, huber, max_grad_norm
        self.hidden, self.activation = [int(width) for width in hidden], activation
        self.backend = choose_backend(backend, activation)
        super().__init__(env, num_envs, random_state)
        space = self._live.env.single_action_space
        if not isinstance(space, Discrete):
            raise ValueError(f"actions of {space} cannot be counted: use PPO")
        self._first = int(space.start)
        sizes = [self._live.width, *self.hidden, int(space.n)]
        self._network = Network(sizes, activation, self.backend)
        self.theta: np.ndarray = self._network.start(self._rng, 1.0 if self.hidden else 0.0)
        self.target = self.theta.copy()
        self._adam = Adam(len(self.theta), 1e-8, max_grad_norm)
        self._replay = Replay(
            self.buffer_size, self.num_envs, self._live.width, self.n_step, float(gamma)
        )
        self._owed = 0.0

    def values(self, observations: Any) -> np.ndarray:
        """Values (n, k) of the actions for a batch of observations."""
        seen = self._live.encoder.many(None, observations)
        return self._network.outputs(self.theta, seen).copy()

    def _rate(self) -> float:
        """The probability of a random action now."""
        first, last = self.epsilon
        return first + (last - first) * min(1.0, self.samples / self.epsilon_steps)

    def _actions(self, seen: np.ndarray, epsilon: float, streams: np.ndarray) -> np.ndarray:
        chosen = np.empty(len(seen), np.int64)
        q = self._network.outputs(self.theta, seen)
        kernels.choose_best(q, float(epsilon), streams, chosen)
        return chosen

    def _decide(self, seen: np.ndarray, deterministic: bool, streams: np.ndarray) -> np.ndarray:
        epsilon = 0.0 if deterministic else self._rate()
        return self._actions(seen, epsilon, streams) + self._first

    def _iterate(self) -> dict[str, float]:
        """About 256 transitions and the updates that they call for."""
        live, losses, tops = self._live, [], []
        for _ in range(-(-256 // self.num_envs)):
            seen = live.seen
            actions = self._actions(seen, self._rate(), self._streams)
            step = live.step(actions + self._first)
            self._replay.add(seen, actions, step)
            done = int(step.valid.sum())
            self.samples += done
            if self.samples < self.learning_starts or len(self._replay) < self.batch_size:
                continue
            self._owed += done / self.train_every
            while self._owed >= 1.0:
                self._owed -= 1.0
                rows = self._replay.draw(self._rng, self.batch_size)
                grad, loss, top = self.gradient(self.theta, rows)
                self._adam.step(self.theta, grad, self.learning_rate)
                losses.append(loss)
                tops.append(top)
                if self._adam.steps % self.target_every == 0:
                    self.target[:] = self.theta
        mean = (float(np.mean(losses)), float(np.mean(tops))) if losses else (np.nan, np.nan)
        return {"loss": mean[0], "epsilon": self._rate(), "value": mean[1]}

    def targets(self, theta: np.ndarray, rows: Draw) -> np.ndarray:
        """What the values of the chosen actions are to become (B,)."""
        after = self._network.outputs(self.target, rows.following).copy()
        chooser = self._network.outputs(theta, rows.following) if self.double else after
        best = chooser.argmax(axis=1)
        return rows.rewards + rows.discounts * after[np.arange(len(best)), best]

    def gradient(self, theta: np.ndarray, rows: Draw) -> tuple[np.ndarray, float, float]:
        """Gradient (P,) of the loss on some rows, the loss, and the mean value of their actions."""
        wanted = self.targets(theta, rows)
        if self.backend == "torch":
            return self._gradient_torch(theta, rows, wanted)
        q, each = self._network.outputs(theta, rows.seen), np.arange(len(wanted))
        chosen = q[each, rows.actions]
        error = chosen - wanted
        small = np.clip(error, -1.0, 1.0) if self.huber else error
        slope = np.zeros_like(q)
        slope[each, rows.actions] = small / np.float32(len(error))
        grad = np.zeros_like(theta)
        self._network.add_gradient(theta, rows.seen, slope, grad)
        loss = np.mean(small * (error - 0.5 * small))
        return grad, float(loss), float(chosen.mean())

    def _gradient_torch(
        self, theta: np.ndarray, rows: Draw, wanted: np.ndarray
    ) -> tuple[np.ndarray, float, float]:
        """The definition, differentiated by autograd."""
        import torch

        parameters = torch.from_numpy(theta).clone().requires_grad_()
        q = self._network.torch(parameters, torch.from_numpy(rows.seen))
        chosen = q.gather(1, torch.from_numpy(rows.actions)[:, None])[:, 0]
        goal = torch.from_numpy(wanted)
        if self.huber:
            loss = torch.nn.functional.huber_loss(chosen, goal)
        else:
            loss = 0.5 * torch.nn.functional.mse_loss(chosen, goal)
        loss.backward()
        grad: Any = parameters.grad
        return grad.numpy(), float(loss.detach()), float(chosen.detach().mean())

    def _arrays(self) -> dict[str, np.ndarray]:
        memory = {f"memory.{name}": array for name, array in self._replay.arrays().items()}
        return {"theta": self.theta, "target": self.target, "first": self._adam.first,
                "second": self._adam.second, **memory}  # fmt: skip

    def _numbers(self) -> dict[str, Any]:
        return {**super()._numbers(), "_owed": self._owed, "_counts": self._counts}

    @property
    def _counts(self) -> list[int]:
        return [self._adam.steps, self._replay.written]

    @_counts.setter
    def _counts(self, counts: list[int]) -> None:
        self._adam.steps, self._replay.written = counts
