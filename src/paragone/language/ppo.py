r"""Reinforcement learning from a reward, by proximal policy optimisation on a leash.

The policy answers prompts, the answers are scored, and a few clipped steps make better answers
more likely. What is maximised is the reward less a divergence from where the policy started, since
a reward is only right about answers like those it knows:

$$ \max_\pi\; E_{x,\, y \sim \pi}\big[ r(x, y) \big] - \kappa\, \mathrm{KL}(\pi \| \pi_0), \qquad
   r_t = -\kappa \log \frac{\pi^{old}_t}{\pi^0_t} + [t = T]\, r(x, y) . $$

A critic of its own estimates what is still to come; advantages, their whitening, the clipped
losses and the leash stand in `_rollout_terms`. All log-probabilities, the policy's, the sampler's
and the reference's, are those at the temperature of the sampling: anything else is no divergence.

Cost: a step decodes its answers, takes one forward pass of reference and critic, and `epochs`
forward and backward passes of policy and critic.

References:
    Ziegler et al. (2019), arXiv:1909.08593, section 2; Stiennon et al. (2020), arXiv:2009.01325.
    Ouyang et al. (2022), arXiv:2203.02155, section 3.5.
    Schulman et al. (2017), arXiv:1707.06347, eq. 7.
    Huang et al. (2024), arXiv:2403.17031, section 4 (details that matter).

Shapes: A answers of a step, R tokens of all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from paragone.language._preference_forward import (
    Packed,
    hidden_states,
    pack_groups,
    token_scores,
)
from paragone.language._preference_pairs import Aligned
from paragone.language._rollout_fit import Means, Practice, minibatches, practise, stepped
from paragone.language._rollout_gather import (
    Gathered,
    Reward,
    prepared,
)
from paragone.language._rollout_terms import (
    Leash,
    gae,
    policy_loss,
    token_rewards,
    value_loss,
    whitened,
)
from paragone.language.fitting import Progressed
from paragone.language.reward_model import RewardModel
from paragone.training.by_name import make_optimizer

__all__ = ["ppo"]


def ppo(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Any],
    reward: Reward | RewardModel,
    *,
    steps: int = 100,
    batch: int = 32,
    epochs: int = 2,
    minibatches: int = 2,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    truncated: Literal["none", "score"] | float = "none",
    kl: float = 0.05,
    kl_target: float | None = None,
    kl_horizon: float = 10000.0,
    clip: float = 0.2,
    value_clip: float | None = 0.2,
    gamma: float = 1.0,
    lam: float = 0.95,
    whiten: bool = True,
    reference: nn.Module | Literal["base"] | None = None,
    critic: RewardModel | None = None,
    lora_rank: int | None = None,
    lora: Mapping[str, Any] | None = None,
    lr: float | None = None,
    critic_lr: float | None = None,
    critic_warmup: int = 0,
    warmup: float = 0.05,
    optimizer: str = "adamw",
    clip_norm: float | None = 1.0,
    stop: Sequence[int] | None = None,
    template: Any = None,
    backend: str = "auto",
    progress: Callable[[Progressed], None] | None = None,
    seed: int = 0,
) -> Aligned:
    """Trains a policy on a reward by PPO, with a critic and a leash.

    Prefer `dpo` where preferences are given and fixed. Prefer `grpo` where a critic is hard to
    train: it compares several answers to one prompt and needs none; PPO credits single tokens.

    Args:
        model: A `Llama`; trained in place.
        tokenizer: Its `Tokenizer`, or None if prompts are token ids and the reward reads those.
        prompts: Texts, conversations or token ids.
        reward: A function of prompts and answers that returns a number for each answer, or a
            `RewardModel`.
        steps: Rounds of drawing and learning.
        batch: Answers of a step.
        epochs: Passes over the answers of a step.
        minibatches: Parts of a pass, a step of the optimizer each.
        max_new_tokens: Longest answer.
        temperature: Of drawing, and of every log-probability here.
        truncated: What an answer that was cut is credited: "none" (0), its "score", or a number.
        kl: Coefficient of the leash, to begin with.
        kl_target: Nats an answer that the leash steers for (None: it stays).
        kl_horizon: Answers in which the leash changes by its own size.
        clip: How far a ratio may move from 1.
        value_clip: How far a value may move in one step's update, in units of the reward; None:
            as far as it likes.
        gamma: Discount.
        lam: Share of later advantages.
        whiten: Whether advantages get mean 0 and variance 1.
        reference: What the leash is tied to: None for the model as it is now, "base" for it
            without its adapter, or another model.
        critic: What estimates values (None: a copy of the reward model, or of the policy's
            decoder with an output of zero); trained in place.
        lora_rank: Rank of an adapter that is trained in place of all weights.
        lora: Further arguments of `add_lora`.
        lr: Learning rate (None: 1e-5, with an adapter 1e-4).
        critic_lr: The critic's (None: three times the policy's, at least 1e-4).
        critic_warmup: First steps in which the critic alone learns.
        warmup: Share of the run in which the rate rises.
        optimizer: Any of `paragone.training`, in lower case.
        clip_norm: Largest norm of a step's gradients, or None.
        stop: Tokens that end an answer (None: the model's).
        template: For prompts that are conversations.
        backend: What draws: "auto", "numba" or "torch".
        progress: Called with each event.
        seed: Of order and draws.

    Returns:
        The model and a history, a dict for each step, measured on answers of the policy before its
        update: reward, reward_std, kl (nats an answer), kl_error, kl_coefficient, entropy,
        length, finished, loss, value_loss, explained, clipped, ratio_gap (of the first pass:
        sampler against trainer), seconds, lr. `notes` says why a run was stopped early.

    Raises:
        ValueError: An argument out of range, or a reward that returns no numbers.
    """
    how = Practice(
        steps, batch, 1, max_new_tokens, temperature, truncated, lr or _rate(lora_rank), warmup,
        optimizer, clip_norm, seed, backend,
    )  # fmt: skip
    if epochs < 1 or minibatches < 1:
        raise ValueError(f"epochs={epochs}, minibatches={minibatches}: at least 1 each")
    asked, leash, ends = prepared(
        model, tokenizer, prompts, template, reference, lora_rank, lora, stop, max_new_tokens
    )
    judge = critic or (_critic_like(reward) if isinstance(reward, RewardModel) else None)
    judge = judge or RewardModel(model)
    judge.eval().requires_grad_(True)
    teacher = make_optimizer(judge, optimizer, lr=critic_lr or max(3 * how.lr, 1e-4))
    learner = _Learner(
        model, judge, teacher, Leash(kl, kl_target, kl_horizon), epochs, minibatches, clip,
        value_clip, gamma, lam, whiten, how, critic_warmup,
    )  # fmt: skip
    return practise(model, asked, reward, leash, how, learner.update, progress, ends)


def _rate(lora_rank: int | None) -> float:
    return 1e-5 if lora_rank is None else 1e-4


def _critic_like(reward: RewardModel) -> RewardModel:
    critic = RewardModel(reward)
    critic.load_state_dict(reward.state_dict())
    return critic


class _Learner:
    """The update of a step: advantages once, then passes over the answers."""

    def __init__(
        self, model: Any, critic: RewardModel, teacher: torch.optim.Optimizer, leash: Leash,
        epochs: int, parts: int, clip: float, value_clip: float | None, gamma: float, lam: float,
        whiten: bool, how: Practice, alone: int,
    ) -> None:  # fmt: skip
        self.model, self.critic, self.teacher, self.leash = model, critic, teacher, leash
        self.epochs, self.parts, self.clip, self.value_clip = epochs, parts, clip, value_clip
        self.gamma, self.lam, self.whiten, self.how, self.alone = gamma, lam, whiten, how, alone

    @torch.no_grad()
    def judged(self, found: Gathered) -> list[Tensor]:
        """Values before each token, a tensor for each answer."""
        packed = pack_groups(found.groups, device=found.counts.device)
        values = self.critic.values(packed).index_select(0, packed.rows)
        return list(values.split(packed.counts.tolist()))

    def update(
        self, found: Gathered, step: int, optimizer: torch.optim.Optimizer, share: float
    ) -> dict[str, float]:
        values = self.judged(found)
        flat = torch.cat(values)
        rewards = token_rewards(
            found.credited, torch.cat(found.old), torch.cat(found.reference), found.counts,
            self.leash.coefficient,
        )  # fmt: skip
        advantages, returns = gae(rewards, flat, found.counts, self.gamma, self.lam)
        spread = float(returns.var()) if len(returns) > 1 else 0.0
        explained = 1 - float((returns - flat).var()) / spread if spread > 0 else 0.0
        if self.whiten:
            advantages = whitened(advantages)
        sizes = found.counts.tolist()
        parts = [advantages.split(sizes), returns.split(sizes), found.old, values]
        means = Means()
        for epoch in range(self.epochs):
            seed = (self.how.seed, step, epoch, 1)
            for which, groups in minibatches(found.groups, self.parts, seed):
                packed = pack_groups(groups, device=found.counts.device)
                now = [torch.cat([part[at] for at in which]) for part in parts]
                self._critic_step(packed, now[1], now[3], means)
                if step >= self.alone:
                    self._policy_step(packed, now[0], now[2], optimizer, means, first=epoch == 0)
        coefficient = self.leash.coefficient
        self.leash.update(float(found.ratios.mean()), len(found.counts))
        return {"kl_coefficient": coefficient, "explained": explained, **means.read()}

    def _critic_step(self, packed: Packed, returns: Tensor, old: Tensor, means: Means) -> None:
        values = self.critic.values(packed).index_select(0, packed.rows)
        losses = value_loss(values, old, returns, self.value_clip)
        stepped(self.teacher, self.critic, losses.mean(), self.how.clip_norm)
        means.add(value_loss=losses)

    def _policy_step(
        self, packed: Packed, advantages: Tensor, old: Tensor, optimizer: torch.optim.Optimizer,
        means: Means, first: bool,
    ) -> None:  # fmt: skip
        hidden = hidden_states(self.model, packed)
        logs = token_scores(self.model, packed, hidden, self.how.temperature)
        losses, clipped = policy_loss(logs, old, advantages, self.clip, self.clip)
        stepped(optimizer, self.model, losses.mean(), self.how.clip_norm)
        means.add(loss=losses, clipped=clipped)
        if first and "ratio_gap" not in means.sums:
            means.add(ratio_gap=(logs.detach() - old).abs().max())
