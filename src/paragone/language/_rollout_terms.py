r"""Terms of policy optimisation on sampled answers: advantages, clipped losses, the leash.

With rewards $r_t$ and values $V_t$ of an answer of T tokens, which ends there,

$$ \delta_t = r_t + \gamma V_{t+1} - V_t, \qquad \hat A_t = \delta_t + \gamma\lambda \hat A_{t+1},
   \qquad \hat R_t = \hat A_t + V_t, \qquad V_{T+1} = \hat A_{T+1} = 0 , $$

$$ L_\pi = -\min(\rho_t \hat A_t,\; \mathrm{clip}(\rho_t, 1 \pm \epsilon) \hat A_t), \qquad
   L_V = \tfrac12 \max\big((V_t - \hat R_t)^2,\; (V^{old}_t + \mathrm{clip}(V_t - V^{old}_t, \pm
   \epsilon_V) - \hat R_t)^2\big) . $$

The reward of a token is $-\kappa (\log\pi^{old}_t - \log\pi^0_t)$, that of the last one the
answer's score besides. The coefficient is fixed, or follows a target:
$\kappa \leftarrow \kappa (1 + n\,\mathrm{clip}(\mathrm{KL}/\mathrm{target} - 1, \pm 0.2) / h)$.

References:
    Schulman et al. (2016), arXiv:1506.02438, eq. 16 (advantages).
    Schulman et al. (2017), arXiv:1707.06347, eq. 7 (clipped policy).
    Ziegler et al. (2019), arXiv:1909.08593, section 2.2 (rewards, the target of the leash).
    Shao et al. (2024), DeepSeekMath, arXiv:2402.03300, eq. 3-4 (groups).

Shapes: A answers, T tokens of the longest, R tokens of all, K answers to one prompt.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

__all__ = [
    "Leash", "Watch", "gae", "group_advantages", "padded", "policy_loss", "token_rewards",
    "unpadded", "value_loss", "whitened",
]  # fmt: skip


def padded(values: Tensor, counts: Tensor) -> Tensor:
    """Returns (A, T) rows of (R,) values, zero behind each answer's end.

    Args:
        values: (R,) numbers, answer after answer.
        counts: (A,) tokens of each answer.
    """
    longest = int(counts.max()) if len(counts) else 0
    there = torch.arange(longest, device=values.device) < counts[:, None]
    return values.new_zeros(len(counts), longest).masked_scatter(there, values)


def unpadded(rows: Tensor, counts: Tensor) -> Tensor:
    """Returns the (R,) values of (A, T) rows.

    Args:
        rows: (A, T) numbers.
        counts: (A,) tokens of each answer.
    """
    return rows[torch.arange(rows.shape[1], device=rows.device) < counts[:, None]]


def token_rewards(
    scores: Tensor, log_probs: Tensor, reference: Tensor, counts: Tensor, coefficient: float
) -> Tensor:
    """Returns (R,) rewards: the leash on every token, the score on the last.

    Args:
        scores: (A,) of whole answers; an answer without a token gets none.
        log_probs: (R,) of the policy that sampled, at the temperature of the sampling.
        reference: (R,) of the reference at the same temperature.
        counts: (A,) tokens of each answer.
        coefficient: Of the leash.
    """
    rewards = -coefficient * (log_probs - reference)
    some = counts > 0
    return rewards.index_add(0, (counts.cumsum(0) - 1)[some], scores.to(rewards)[some])


def gae(
    rewards: Tensor, values: Tensor, counts: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Returns (R,) advantages and returns; every answer ends with its last token.

    Args:
        rewards: (R,) rewards, answer after answer.
        values: (R,) values before each token.
        counts: (A,) tokens of each answer.
        gamma: Discount.
        lam: Share of later advantages; 1: returns less values, 0: one step.

    Example:
        >>> gae(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.25]), torch.tensor([2]), lam=1.0)[0]
        tensor([0.5000, 0.7500])
    """
    r, v = padded(rewards, counts), padded(values, counts)
    advantages, later = torch.zeros_like(r), r.new_zeros(len(r))
    after = r.new_zeros(len(r))
    for t in reversed(range(r.shape[1])):
        there = (t < counts).to(r)
        later = there * (r[:, t] + gamma * after - v[:, t] + gamma * lam * later)
        advantages[:, t], after = later, v[:, t]
    flat = unpadded(advantages, counts)
    return flat, flat + values


def whitened(values: Tensor, shift: bool = True) -> Tensor:
    """Returns values of variance 1, and of mean 0 if `shift`; fewer than two stay as they are.

    Args:
        values: (R,) numbers; only real tokens are among them, so no mask is needed.
        shift: Whether to take the mean away.
    """
    if len(values) < 2:
        return values
    mean = values.mean()
    scaled = (values - mean) * torch.rsqrt(values.var() + 1e-8)
    return scaled if shift else scaled + mean


def policy_loss(
    log_probs: Tensor, old: Tensor, advantages: Tensor, low: float = 0.2, high: float = 0.2
) -> tuple[Tensor, Tensor]:
    """Returns (R,) losses, and whether each token's ratio was clipped.

    Args:
        log_probs: (R,) of the policy.
        old: (R,) of the policy that sampled.
        advantages: (R,) numbers.
        low: How far below 1 a ratio counts.
        high: How far above 1 a ratio counts.
    """
    ratio = torch.exp(log_probs - old)
    kept = ratio.clamp(1 - low, 1 + high)
    plain, clipped = ratio * advantages, kept * advantages
    return -torch.minimum(plain, clipped), (clipped < plain).detach()


def value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float | None = 0.2) -> Tensor:
    """Returns (R,) losses.

    Args:
        values: (R,) of the critic.
        old: (R,) of the critic that judged the samples.
        returns: (R,) targets.
        clip: How far a value may move from the old one before its gain no longer counts.
    """
    error = (values - returns).square()
    if clip is not None:
        error = torch.maximum(error, (old + (values - old).clamp(-clip, clip) - returns).square())
    return 0.5 * error


def group_advantages(scores: Tensor, size: int, scale: bool = True) -> Tensor:
    """Returns (A,) scores less the mean of their group, over its deviation if `scale`.

    Args:
        scores: (A,) of answers, `size` to a prompt, prompt after prompt.
        size: Answers K of a group.
        scale: Whether to divide by the deviation; without it questions that are nearly always or
            nearly never answered count no more than others (Liu et al., 2025, arXiv:2503.20783).

    Example:
        >>> group_advantages(torch.tensor([1.0, 3.0, 5.0, 5.0]), 2, scale=False)
        tensor([-1.,  1.,  0.,  0.])
    """
    rows = scores.view(-1, size)
    centred = rows - rows.mean(1, keepdim=True)
    if scale:
        centred = centred / (rows.std(1, keepdim=True) + 1e-4)
    return centred.flatten()


@dataclasses.dataclass
class Leash:
    """Coefficient of the divergence from the reference.

    Attributes:
        coefficient: Its value now.
        target: Divergence in nats an answer to steer for (None: the coefficient stays).
        horizon: Answers in which an error of 100 % changes it by its own size.
    """

    coefficient: float
    target: float | None = None
    horizon: float = 10000.0

    def update(self, divergence: float, answers: int) -> None:
        """Follows one measurement.

        Args:
            divergence: Nats an answer.
            answers: How many it was measured on.
        """
        if self.target is not None:
            error = min(max(divergence / self.target - 1, -0.2), 0.2)
            self.coefficient *= 1 + error * answers / self.horizon


@dataclasses.dataclass
class Watch:
    """Tells when the estimated divergence is negative beyond chance: then something is wrong.

    A divergence is never negative; its estimate from samples of the policy may be, by chance. Two
    steps in a row below two standard errors, or one below five, are no chance.

    Attributes:
        low: Steps in a row that were below two standard errors.
    """

    low: int = 0

    def check(self, ratios: Tensor) -> str | None:
        """Returns a diagnosis, or None.

        Args:
            ratios: (A,) log-ratios of the sampled answers.
        """
        count = len(ratios)
        mean = float(ratios.double().mean())
        error = float(ratios.double().std()) / math.sqrt(count) if count > 1 else math.inf
        # Rounding of two forward passes is not divergence.
        sigmas = mean / max(error, 1e-4)
        self.low = self.low + 1 if sigmas < -2 else 0
        if self.low < 2 and sigmas >= -5:
            return None
        return (
            f"the divergence from the reference is estimated as {mean:.3f} nats, {-sigmas:.1f} "
            "standard errors below 0, which samples of the policy itself cannot be: the answers "
            "were drawn at another temperature or with filters (top-k, top-p), from other weights "
            "than those that are trained, or the reference scores other tokens than were drawn"
        )
