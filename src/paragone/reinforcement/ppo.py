r"""Proximal policy optimization: several cautious steps on each batch of experience.

A policy gradient is true only at the policy that gathered the data. PPO takes many gradient steps
on one batch all the same and gives up the reason for going further once the ratio $\rho =
\pi_\theta(a|s) / \pi_{old}(a|s)$ has left an interval around 1:

$$ L(\theta) = -\frac1B \sum_b \min\bigl(\rho_b \hat A_b, \;
   \mathrm{clip}(\rho_b, 1 - \epsilon, 1 + \epsilon) \hat A_b\bigr)
   + c_v \frac1{2B} \sum_b (V_\theta(s_b) - \hat R_b)^2 - c_e H(\pi_\theta) , $$

$$ \hat A_t = \delta_t + \gamma \lambda (1 - e_t) \hat A_{t+1}, \qquad
   \delta_t = r_t + \gamma (1 - d_t) V(s'_t) - V(s_t), \qquad \hat R_t = \hat A_t + V(s_t) . $$

$d_t$ says that the task has ended in $s'_t$, $e_t$ that the episode has, be it for lack of time.
The two are not the same: a state in which time runs out has a value, and $s'_t$ is that final
state, not the start of the next episode. One-hot features make every discrete space of
observations fit.

Gradients come from compiled passes (`backend="numba"`) or from torch's autograd, which is the
definition; both draw the same actions and differ by rounding alone. With `epochs=1,
minibatches=1` and `clip=inf` the method is advantage actor-critic (A2C).

Cost: a step costs `epochs` forward and backward passes through two networks; for two layers of 64
about 2 us each on one core.

References:
    Schulman et al. (2017), "Proximal policy optimization algorithms", arXiv:1707.06347, eq. 7, 9,
    11 and 12.
    Schulman et al. (2016), arXiv:1506.02438, eq. 16, for the advantages.
    Pardo et al. (2018), "Time limits in reinforcement learning", arXiv:1712.00378, for $d_t$.

Shapes: T steps of n copies, M rows of a batch, B of a minibatch, d features, P parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from paragone._core.random import RandomState
from paragone.reinforcement import _policy_kernels as kernels
from paragone.reinforcement._actor_critic import ActorCritic, Batch
from paragone.reinforcement._learner import checked

__all__ = ["PPO"]


class PPO(ActorCritic):
    r"""Learns a stochastic policy and the value of states side by side.

    Prefer it to `DQN` where actions are real numbers or simulation is cheap, and to `Reinforce`
    always but for teaching. Prefer a table (`QLearning`) where states can be counted: it is
    faster by orders of magnitude and its answers can be checked.

    Args:
        env: An id ("paragone/CartPole-v1" runs compiled, "CartPole-v1" is Gymnasium's), an
            `Env`, or a `VectorEnv` in any autoreset mode. Actions: `Discrete` or `Box`.
        num_envs: Copies n, for an id.
        horizon: Steps T of each copy between updates.
        gamma: Discount in [0, 1].
        lam: $\lambda$ of the advantages in [0, 1]: 0 trusts the values, 1 the returns.
        learning_rate: Of Adam.
        anneal_steps: Samples over which the rate falls to zero linearly; None keeps it.
        epochs: Passes over each batch.
        minibatches: Parts of each pass.
        clip: $\epsilon$, how far the ratio may go.
        clip_value: The same for values, in their units; None does not clip them.
        entropy: $c_e$, weight of the entropy.
        value_weight: $c_v$, weight of the values' error.
        max_grad_norm: The gradient's norm is cut to it.
        normalize_advantages: To mean 0 and deviation 1 in each minibatch.
        target_kl: Ends a batch's epochs once the policy has moved so far; None never does.
        hidden: Widths of the layers of each network.
        activation: "tanh", "relu", "elu" or "silu".
        backend: "numba" (tanh, relu), "torch", or "auto": Numba where it can.
        random_state: Seed of networks, environments, actions and minibatches.

    Raises:
        ValueError: An argument is out of range, or the actions have no policy.

    Example:
        >>> learner = PPO("paragone/CartPole-v1", random_state=0).train(4_000)
        >>> learner.act(np.zeros(4)) in (0, 1)
        True
    """

    _own = ("policy_loss", "value_loss", "entropy", "kl", "clipped")

    def __init__(
        self,
        env: Any,
        *,
        num_envs: int = 64,
        horizon: int = 128,
        gamma: float = 0.99,
        lam: float = 0.95,
        learning_rate: float = 1e-3,
        anneal_steps: int | None = None,
        epochs: int = 4,
        minibatches: int = 16,
        clip: float = 0.2,
        clip_value: float | None = None,
        entropy: float = 0.01,
        value_weight: float = 0.5,
        max_grad_norm: float = 0.5,
        normalize_advantages: bool = True,
        target_kl: float | None = None,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        backend: str = "auto",
        random_state: RandomState = None,
    ) -> None:
        self.gamma = checked("gamma", gamma, 0.0, 1.0, "use a discount such as 0.99")
        self.lam = checked("lam", lam, 0.0, 1.0, "use 0.95")
        self.learning_rate = checked("learning_rate", learning_rate, 1e-12, 1.0, "use 1e-3")
        self.horizon = int(checked("horizon", horizon, 1, 2**31, "use whole numbers from 1"))
        self.epochs = int(checked("epochs", epochs, 1, 2**31, "use whole numbers from 1"))
        self.clip = checked("clip", clip, 0.0, np.inf, "use 0.2")
        self.anneal_steps, self.clip_value, self.target_kl = anneal_steps, clip_value, target_kl
        self.entropy, self.value_weight, self.max_grad_norm = entropy, value_weight, max_grad_norm
        self.normalize_advantages = normalize_advantages
        super().__init__(env, num_envs, hidden, activation, backend, random_state)
        most = self.num_envs * self.horizon
        self.minibatches = int(checked("minibatches", minibatches, 1, most, "use fewer"))
        self._build(0.01, critic=True)

    def _iterate(self) -> dict[str, float]:
        batch = self._collect()
        told = self._improve(batch)
        self.samples += len(batch.seen)
        return told

    def _collect(self) -> Batch:
        """Plays `horizon` steps in each copy, and weighs what was done."""
        live, T, n = self._live, self.horizon, self.num_envs
        actor, extra, critic = self._parts(self.theta)
        seen = np.empty((T + 1, n, live.width), np.float32)
        rewards, logs = np.empty((T, n)), np.empty((T, n), np.float32)
        over, ended = np.empty((T, n), np.bool_), np.empty((T, n), np.bool_)
        valid, chosen = np.empty((T, n), np.bool_), []
        finals: list[tuple[int, np.ndarray, np.ndarray]] = []
        for t in range(T):
            seen[t] = live.seen
            actions, logs[t] = self._policy.draw(
                self._actor.outputs(actor, seen[t]), extra, self._streams
            )
            step = live.step(self._policy.to_env(actions))
            chosen.append(actions)
            rewards[t], over[t], valid[t] = step.rewards, step.terminated, step.valid
            ended[t] = step.terminated | step.truncated
            cut = np.flatnonzero(step.truncated & ~step.terminated)
            if len(cut):
                finals.append((t, cut, step.following[cut]))
        seen[T] = live.seen
        values = self._critic.outputs(critic, seen.reshape(-1, live.width))
        values = values.reshape(T + 1, n).copy()
        following = values[1:].copy()
        for t, cut, final in finals:
            following[t, cut] = self._critic.outputs(critic, final)[:, 0]
        gains = np.empty((T, n))
        kernels.advantages(
            rewards, values, following, over, ended, valid, float(self.gamma), float(self.lam),
            gains,
        )  # fmt: skip
        returns = (gains + values[:T]).astype(np.float32)
        kept = valid.ravel()
        rows = [seen[:T].reshape(-1, live.width), np.concatenate(chosen), logs.ravel(),
                gains.astype(np.float32).ravel(), returns.ravel(),
                values[:T].ravel()]  # fmt: skip
        return Batch(*rows) if kept.all() else Batch(*(column[kept] for column in rows))

    def _improve(self, batch: Batch) -> dict[str, float]:
        """Several passes over one batch in random minibatches."""
        share = 1.0
        if self.anneal_steps is not None:
            share = max(0.0, 1.0 - self.samples / self.anneal_steps)
        told, count = np.zeros(5), 0
        for _ in range(self.epochs):
            kl = 0.0
            order = self._rng.permutation(len(batch.seen))
            for rows in np.array_split(order, min(self.minibatches, len(order))):
                part = Batch(*(column[rows] for column in batch))
                if self.normalize_advantages and len(rows) > 1:
                    gains = part.gains - part.gains.mean()
                    part = part._replace(gains=gains / (gains.std(ddof=1) + np.float32(1e-8)))
                grad, losses = self.gradient(self.theta, part)
                self._adam.step(self.theta, grad, share * self.learning_rate)
                told += losses
                count += 1
                kl = losses[3]
            if self.target_kl is not None and kl > self.target_kl:
                break
        return dict(zip(self._own, (told / count).tolist(), strict=True))

    def gradient(self, theta: np.ndarray, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Gradient (P,) of the loss on some rows, and what the history records of them.

        Args:
            theta: Parameters (P,).
            batch: The rows, their advantages as they are to be used.
        """
        if self.backend == "torch":
            return self._gradient_torch(theta, batch)
        grad, rows = np.zeros_like(theta), len(batch.seen)
        (actor, extra, critic), parts = self._parts(theta), self._parts(grad)
        told = np.zeros(4)
        outputs = self._actor.outputs(actor, batch.seen)
        slope = self._policy.slopes(outputs, extra, parts[1], batch, self.clip, self.entropy, told)
        self._actor.add_gradient(actor, batch.seen, slope, parts[0])
        values, slope = self._critic.outputs(critic, batch.seen), np.empty((rows, 1), np.float32)
        clip = np.inf if self.clip_value is None else float(self.clip_value)
        value_loss = kernels.value_slope(
            values, batch.values, batch.returns, clip, float(self.value_weight), slope
        )
        self._critic.add_gradient(critic, batch.seen, slope, parts[2])
        told /= rows
        return grad, np.array([told[0], value_loss, *told[1:]])

    def _gradient_torch(self, theta: np.ndarray, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """The definition: the loss of the module's head, differentiated by autograd."""
        import torch

        parameters = torch.from_numpy(theta).clone().requires_grad_()
        seen, actions, old, gains, returns, values = map(torch.from_numpy, batch)
        actor, extra, critic = self._parts(parameters)
        logs, entropy = self._policy.torch(self._actor.torch(actor, seen), extra, actions)
        ratio = (logs - old).exp()
        clipped = ratio.clamp(1 - self.clip, 1 + self.clip)
        policy_loss = -torch.minimum(ratio * gains, clipped * gains).mean()
        value = self._critic.torch(critic, seen)[:, 0]
        errors = (value - returns) ** 2
        if self.clip_value is not None:
            near = values + (value - values).clamp(-self.clip_value, self.clip_value)
            errors = torch.maximum(errors, (near - returns) ** 2)
        value_loss = 0.5 * errors.mean()
        mean_entropy = entropy.mean()
        loss = policy_loss + self.value_weight * value_loss - self.entropy * mean_entropy
        loss.backward()
        with torch.no_grad():
            kl = (ratio - 1 - (logs - old)).mean()
            far = ((ratio - 1).abs() > self.clip).float().mean()
            told = torch.stack([policy_loss, value_loss, mean_entropy, kl, far]).double()
        grad: Any = parameters.grad
        return grad.numpy(), told.numpy()
