r"""Group-relative policy optimisation: several answers to one prompt judge each other.

The mean score of K answers to the same prompt says what to expect of it, so no critic is needed:

$$ \hat A_k = \frac{r_k - \mathrm{mean}_j\, r_j}{\mathrm{std}_j\, r_j}, \qquad
   L = \sum_k \frac{w_k}{K} \sum_t \Big( -\min(\rho_{kt} \hat A_k,\; \mathrm{clip}(\rho_{kt},
   1 - \epsilon, 1 + \epsilon') \hat A_k) + \beta\, d_{kt} \Big), \qquad
   d = e^{u} - u - 1, \; u = \log \pi^0 - \log \pi . $$

$w_k$ is 1 / T of each answer ("answer", the paper's: tokens of long answers count less), K / all
tokens ("token", DAPO's), or 1 / the longest allowed ("constant", Dr. GRPO's, which with
`scale=False` has no bias to length or difficulty). The prompt is forwarded once for all K.

References:
    Shao et al. (2024), DeepSeekMath, arXiv:2402.03300, eq. 3-4.
    Liu et al. (2025), Dr. GRPO, arXiv:2503.20783, section 3.1.
    Yu et al. (2025), DAPO, arXiv:2503.14476, eq. 8-12.
    Schulman (2020), "Approximating KL divergence" (d, unbiased and never negative).

Shapes: K answers to a prompt, A answers of a step, R tokens of all, T of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from paragone.language._preference_forward import hidden_states, pack_groups, token_scores
from paragone.language._preference_pairs import Aligned
from paragone.language._rollout_fit import Means, Practice, minibatches, practise, stepped
from paragone.language._rollout_gather import Gathered, Reward, prepared
from paragone.language._rollout_terms import group_advantages, policy_loss
from paragone.language.fitting import Progressed
from paragone.language.reward_model import RewardModel

__all__ = ["grpo"]

Weighting = Literal["answer", "token", "constant"]


def grpo(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Any],
    reward: Reward | RewardModel,
    *,
    steps: int = 100,
    batch: int = 8,
    size: int = 8,
    epochs: int = 1,
    minibatches: int = 1,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    truncated: Literal["none", "score"] | float = "none",
    kl: float = 0.04,
    clip: float = 0.2,
    clip_high: float | None = None,
    scale: bool = True,
    weighting: Weighting = "answer",
    reference: nn.Module | Literal["base"] | None = None,
    lora_rank: int | None = None,
    lora: Mapping[str, Any] | None = None,
    lr: float | None = None,
    warmup: float = 0.05,
    optimizer: str = "adamw",
    clip_norm: float | None = 1.0,
    stop: Sequence[int] | None = None,
    template: Any = None,
    backend: str = "auto",
    progress: Callable[[Progressed], None] | None = None,
    seed: int = 0,
) -> Aligned:
    """Trains a policy on a reward, comparing several answers to each prompt.

    Prefer it to `ppo` for rewards of whole answers, above all those that can be checked (a right
    result, a passed test): no critic has to be trained. Prefer `dpo` for fixed preferences.

    Args:
        model: A `Llama`; trained in place.
        tokenizer: Its `Tokenizer`, or None if prompts are token ids and the reward reads those.
        prompts: Texts, conversations or token ids.
        reward: As in `ppo`.
        steps: Rounds of drawing and learning.
        batch: Prompts of a step.
        size: Answers K to each.
        epochs: Passes over the answers of a step.
        minibatches: Parts of a pass, a step of the optimizer each.
        max_new_tokens: Longest answer.
        temperature: Of drawing, and of every log-probability here.
        truncated: What an answer that was cut is credited: "none" (0), its "score", or a number.
        kl: Weight of the divergence in the loss.
        clip: How far below 1 a ratio may move.
        clip_high: How far above 1 (None: as far).
        scale: Whether advantages are divided by the deviation of their group.
        weighting: How tokens count: "answer", "token" or "constant".
        reference: As in `ppo`.
        lora_rank: Rank of an adapter that is trained in place of all weights.
        lora: Further arguments of `add_lora`.
        lr: Learning rate (None: 1e-5, with an adapter 1e-4).
        warmup: Share of the run in which the rate rises.
        optimizer: Any of `paragone.training`, in lower case.
        clip_norm: Largest norm of a step's gradients, or None.
        stop: Tokens that end an answer (None: the model's).
        template: For prompts that are conversations.
        backend: What draws: "auto", "numba" or "torch".
        progress: Called with each event.
        seed: Of order and draws.

    Returns:
        The model and a history, a dict for each step, measured before its update: reward,
        reward_std, kl, kl_error, entropy, length, finished, loss, clipped, ties (share of prompts
        whose answers all score alike and teach nothing), ratio_gap, seconds, lr.

    Raises:
        ValueError: An argument out of range, or a reward that returns no numbers.
    """
    if size < 2 or epochs < 1 or minibatches < 1:
        raise ValueError(
            f"size={size}, epochs={epochs}, minibatches={minibatches}: answers are compared, so "
            "at least 2 to a prompt, and at least 1 of the others"
        )
    if weighting not in ("answer", "token", "constant"):
        raise ValueError(f"weighting={weighting!r} is none of 'answer', 'token', 'constant'")
    rate = lr or (1e-5 if lora_rank is None else 1e-4)
    how = Practice(
        steps, batch, size, max_new_tokens, temperature, truncated, rate, warmup, optimizer,
        clip_norm, seed, backend,
    )  # fmt: skip
    asked, leash, ends = prepared(
        model, tokenizer, prompts, template, reference, lora_rank, lora, stop, max_new_tokens
    )
    learner = _Learner(
        model, how, epochs, minibatches, kl, clip, clip if clip_high is None else clip_high, scale,
        weighting,
    )  # fmt: skip
    return practise(model, asked, reward, leash, how, learner.update, progress, ends)


class _Learner:
    """The update of a step."""

    def __init__(
        self, model: Any, how: Practice, epochs: int, parts: int, kl: float, low: float,
        high: float, scale: bool, weighting: Weighting,
    ) -> None:  # fmt: skip
        self.model, self.how, self.epochs, self.parts = model, how, epochs, parts
        self.kl, self.low, self.high, self.scale = kl, low, high, scale
        self.weighting: Weighting = weighting

    def update(
        self, found: Gathered, step: int, optimizer: torch.optim.Optimizer, share: float
    ) -> dict[str, float]:
        size = self.how.size
        judged = group_advantages(found.credited, size, self.scale).to(found.old[0].dtype)
        ties = (found.credited.view(-1, size).std(1) == 0).double().mean()
        means = Means()
        for epoch in range(self.epochs):
            seed = (self.how.seed, step, epoch, 1)
            for which, groups in minibatches(found.groups, self.parts, seed):
                own = [at * size + k for at in which for k in range(size)]
                packed = pack_groups(groups, device=found.counts.device)
                old = torch.cat([found.old[at] for at in own])
                logs = token_scores(
                    self.model, packed, hidden_states(self.model, packed), self.how.temperature
                )
                advantages = judged[own].to(logs.device)[packed.owners]
                losses, clipped = policy_loss(logs, old, advantages, self.low, self.high)
                reference = torch.cat([found.reference[at] for at in own])
                if self.kl:
                    losses = losses + self.kl * divergence(logs, reference)
                weights = token_weights(packed.counts, self.weighting, self.how.max_new_tokens)
                total = (losses * weights.to(losses)[packed.owners]).sum()
                stepped(optimizer, self.model, total, self.how.clip_norm)
                means.add(loss=total, clipped=clipped)
                if epoch == 0 and "ratio_gap" not in means.sums:
                    means.add(ratio_gap=(logs.detach() - old).abs().max())
        return {"ties": float(ties), **means.read()}


def divergence(log_probs: Tensor, reference: Tensor) -> Tensor:
    """Returns the (R,) estimates d of the divergence from the reference.

    Args:
        log_probs: (R,) of the policy.
        reference: (R,) of the reference.
    """
    gap = reference - log_probs
    return torch.exp(gap) - gap - 1


def token_weights(counts: Tensor, weighting: Weighting, longest: int) -> Tensor:
    """Returns the (A,) weight of each answer's tokens in the loss.

    Args:
        counts: (A,) tokens.
        weighting: "answer", "token" or "constant".
        longest: Most tokens of an answer.
    """
    answers = len(counts)
    if weighting == "answer":
        return 1 / (counts.clamp(min=1) * answers)
    if weighting == "token":
        return torch.full_like(counts, 1, dtype=torch.float64) / counts.sum().clamp(min=1)
    return torch.full_like(counts, 1, dtype=torch.float64) / (answers * longest)
