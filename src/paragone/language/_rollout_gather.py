r"""Experience of a language model: prompts, sampled answers, their scores, the leash's measure.

A reward is a function of prompts and answers as texts that returns a number for each answer, or a
`RewardModel`, which reads tokens. An answer that was cut has shown nothing about how it would have
ended, so it gets no score unless that is asked for.

Shapes: A answers, R tokens of all.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from paragone.language._preference_forward import Group
from paragone.language._preference_reference import checked_reference, token_scores_of
from paragone.language._rollout_sampling import Answer, draw

__all__ = [
    "Gathered", "Prompts", "Reference", "Reward", "checked_choice", "gather", "measure",
    "prepared", "reference_of", "scored",
]  # fmt: skip

Reward = Callable[[Sequence[Any], Sequence[Any]], Sequence[float]]


class Prompts:
    """Prompts as texts and as tokens.

    Args:
        prompts: Texts, conversations (lists of messages) or lists of token ids.
        tokenizer: None if all prompts are token ids; rewards then get ids, too.
        template: For conversations.
        longest: Most tokens of a prompt.

    Raises:
        ValueError: No prompt, one without a token, or one that is too long.
    """

    def __init__(
        self, prompts: Sequence[Any], tokenizer: Any, template: Any = None,
        longest: int | None = None,
    ) -> None:  # fmt: skip
        self.tokenizer = tokenizer
        self.texts: list[Any] = []
        self.ids: list[list[int]] = []
        for number, prompt in enumerate(prompts):
            if isinstance(prompt, str):
                text, ids = prompt, self._encoded(prompt)
            elif prompt and isinstance(prompt[0], dict):
                text = _template(tokenizer, template).render(prompt, add_generation_prompt=True)
                ids = self._encoded(text)
            else:
                ids = [int(token) for token in prompt]
                text = ids if tokenizer is None else tokenizer.decode(ids)
            if not ids or (longest is not None and len(ids) > longest):
                raise ValueError(
                    f"prompt {number} has {len(ids)} tokens; from 1 to {longest} are expected: "
                    "shorten it, or lower max_new_tokens"
                )
            self.texts.append(text)
            self.ids.append(list(ids))
        if not self.ids:
            raise ValueError("no prompt: give at least one")

    def _encoded(self, text: str) -> list[int]:
        if self.tokenizer is None:
            raise ValueError("prompts of text need a tokenizer; without one give token ids")
        ids = list(self.tokenizer.encode(text, bos=True))
        bos = self.tokenizer.bos_id
        return ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids

    def __len__(self) -> int:
        return len(self.ids)

    def pick(self, step: int, count: int, seed: int) -> list[int]:
        """Numbers of the prompts of a step: a new order in each round through all.

        Args:
            step: Number of the step.
            count: How many.
            seed: Of the orders.
        """
        found = []
        orders: dict[int, np.ndarray] = {}
        for at in range(step * count, (step + 1) * count):
            turn = at // len(self)
            if turn not in orders:
                orders[turn] = np.random.default_rng((seed, turn)).permutation(len(self))
            found.append(int(orders[turn][at % len(self)]))
        return found


def _template(tokenizer: Any, template: Any) -> Any:
    from paragone.language._preference_pairs import template_of

    return template_of(tokenizer, template)


class Reference:
    """What the policy is compared with: a model of its own, or the policy without its adapters.

    Args:
        model: The policy.
        reference: Another model, or None for a copy of the policy as it is now.
        off: Context in which the policy's adapters do nothing, if it has any.

    Raises:
        ValueError: The reference is the policy.
    """

    def __init__(
        self, model: nn.Module, reference: nn.Module | None = None,
        off: Callable[[], Any] | None = None,
    ) -> None:  # fmt: skip
        self.live = model
        self.off = off
        if reference is not None:
            checked_reference(model, reference)
        elif off is None:
            reference = copy.deepcopy(model)
            reference.requires_grad_(False)
        self.model = reference

    @contextlib.contextmanager
    def active(self) -> Iterator[nn.Module]:
        """Within it the module that is yielded scores as the reference."""
        if self.model is not None:
            yield self.model
            return
        assert self.off is not None
        with self.off():
            yield self.live

    def scores(self, groups: Sequence[Group], temperature: float = 1.0) -> list[Tensor]:
        """Log-probabilities of the tokens of all answers.

        Args:
            groups: Prompts with answers.
            temperature: What logits are divided by.
        """
        with self.active() as model:
            return token_scores_of(model, groups, temperature)


def prepared(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Any],
    template: Any,
    reference: nn.Module | str | None,
    lora_rank: int | None,
    lora: Mapping[str, Any] | None,
    stop: Sequence[int] | None,
    max_new_tokens: int,
) -> tuple[Prompts, Reference, tuple[int, ...]]:
    """Returns prompts, reference and tokens that end an answer; adds an adapter if one is wanted.

    Args:
        model: The policy.
        tokenizer: Its tokenizer, or None.
        prompts: As in `Prompts`.
        template: As in `Prompts`.
        reference: None for the policy as it is now, "base" for it without its adapter, a model.
        lora_rank: Rank of an adapter to add, or None.
        lora: Further arguments of `add_lora`.
        stop: Tokens that end an answer (None: the model's, or the tokenizer's).
        max_new_tokens: Longest answer.

    Raises:
        ValueError: Prompts that do not fit, a reference that is the policy, or no way to end.
    """
    room = model.config.max_position_embeddings - max_new_tokens
    asked = Prompts(prompts, tokenizer, template, max(room, 0))
    leash = reference_of(model, reference, lora_rank)
    if lora_rank is not None:
        from paragone.language.lora import add_lora

        add_lora(model, lora_rank, **(lora or {}))
    ends = model.config.eos if stop is None else tuple(stop)
    if stop is None and not ends and getattr(tokenizer, "eos_id", None) is not None:
        ends = (tokenizer.eos_id,)
    return asked, leash, ends


def checked_choice(model: Any, reference: nn.Module | str | None) -> None:
    """Raises if the reference is none of those that can be.

    Args:
        model: The policy.
        reference: As in `reference_of`.

    Raises:
        ValueError: The reference is the policy, another word, or "base" without an adapter.
    """
    if isinstance(reference, nn.Module):
        checked_reference(model, reference)
        return
    if reference not in (None, "base"):
        raise ValueError(f"reference={reference!r}: None, 'base' or a model")
    from paragone.language.lora import adapted

    if reference == "base" and not adapted(model):
        raise ValueError("reference='base': the model has no adapter; leave it None")


def reference_of(model: Any, reference: nn.Module | str | None, lora_rank: int | None) -> Reference:
    """Returns what the divergence is measured from, before an adapter is added.

    Args:
        model: The policy.
        reference: None for the policy as it is now, "base" for it without its adapter, a model.
        lora_rank: Rank of an adapter that will be added, or None.

    Raises:
        ValueError: The reference is the policy, or "base" of a model without an adapter.
    """
    checked_choice(model, reference)
    if isinstance(reference, nn.Module):
        return Reference(model, reference)
    from paragone.language.lora import adapted, without_adapter

    if reference == "base" or (lora_rank is not None and not adapted(model)):
        return Reference(model, None, lambda: without_adapter(model))
    return Reference(model)


@dataclasses.dataclass(frozen=True)
class Gathered:
    """Experience of one step.

    Attributes:
        groups: Each prompt with its answers.
        counts: (A,) tokens of each answer.
        scores: (A,) what the reward gave.
        credited: (A,) scores after the rule for answers that were cut.
        finished: (A,) whether each ended by itself.
        old: For each answer, log-probabilities of the policy that drew it.
        reference: For each answer, those of the reference at the same temperature.
        texts: Prompt and answer of each, as the reward saw them.
    """

    groups: list[Group]
    counts: Tensor
    scores: Tensor
    credited: Tensor
    finished: Tensor
    old: list[Tensor]
    reference: list[Tensor]
    texts: list[tuple[Any, Any]]

    @property
    def ratios(self) -> Tensor:
        """(A,) log-ratios of policy to reference; their mean estimates the divergence."""
        pairs = zip(self.old, self.reference, strict=True)
        return torch.stack([(a.double() - b.double()).sum() for a, b in pairs])

    def summary(self) -> dict[str, float]:
        """Means that every history has."""
        ratios = self.ratios
        count = len(ratios)
        error = float(ratios.std()) / math.sqrt(count) if count > 1 else math.nan
        tokens = max(int(self.counts.sum()), 1)
        return {
            "reward": float(self.scores.mean()),
            "reward_std": float(self.scores.std()) if count > 1 else 0.0,
            "kl": float(ratios.mean()), "kl_error": error,
            "entropy": -sum(float(one.sum()) for one in self.old) / tokens,
            "length": float(self.counts.double().mean()),
            "finished": float(self.finished.double().mean()),
        }  # fmt: skip


def gather(
    model: Any,
    prompts: Prompts,
    reward: Any,
    reference: Reference,
    which: Sequence[int],
    *,
    size: int = 1,
    max_new_tokens: int,
    temperature: float,
    stop: Sequence[int],
    truncated: Literal["none", "score"] | float = "none",
    seed: tuple[int, ...],
    sampler: Callable[..., list[Answer]] = draw,
) -> Gathered:
    """Draws answers and has them scored.

    Args:
        model: The policy.
        prompts: All prompts.
        reward: A function of prompts and answers, or a `RewardModel`.
        reference: What the divergence is measured from.
        which: Numbers of the prompts.
        size: Answers to each.
        max_new_tokens: Longest answer.
        temperature: Of drawing, and of all log-probabilities.
        stop: Tokens that end an answer.
        truncated: What an answer that was cut is credited: "none", its "score", or a number.
        seed: Of the draws.
        sampler: Draws answers, as `_rollout_sampling.draw` does.

    Raises:
        ValueError: The reward gave another number of numbers, or one that is none.
    """
    repeated = [at for at in which for _ in range(size)]
    training = model.training
    model.eval()
    answers = sampler(
        model, [prompts.ids[at] for at in repeated], max_new_tokens=max_new_tokens,
        temperature=temperature, stop=stop, seed=seed,
    )  # fmt: skip
    model.train(training)
    device = model.lm_head.weight.device
    groups = [
        Group(prompts.ids[at], [one.ids for one in answers[n * size : (n + 1) * size]])
        for n, at in enumerate(which)
    ]
    texts = [
        (prompts.texts[at], _answer_text(prompts, at, one, stop))
        for at, one in zip(repeated, answers, strict=True)
    ]
    scores = scored(reward, groups, texts)
    finished = torch.tensor([one.finished for one in answers])
    credited = scores.clone()
    if truncated != "score":
        credited[~finished] = 0.0 if truncated == "none" else float(truncated)
    old = [torch.tensor(one.log_probs, dtype=torch.float32, device=device) for one in answers]
    return Gathered(
        groups, torch.tensor([len(one.ids) for one in answers], device=device), scores, credited,
        finished, old,
        reference.scores(groups, temperature), texts,
    )  # fmt: skip


def _answer_text(prompts: Prompts, at: int, answer: Answer, stop: Sequence[int]) -> Any:
    ids = answer.ids[:-1] if answer.ids and answer.ids[-1] in stop else answer.ids
    tokenizer = prompts.tokenizer
    return ids if tokenizer is None else tokenizer.decode(ids, after=prompts.ids[at])


def scored(reward: Any, groups: Sequence[Group], texts: Sequence[tuple[Any, Any]]) -> Tensor:
    """Returns the (A,) float64 scores of answers.

    Args:
        reward: A function of prompts and answers, or a `RewardModel`.
        groups: Tokens.
        texts: Texts, for functions.

    Raises:
        ValueError: The reward gave another number of numbers, or one that is none.
    """
    if hasattr(reward, "group_rewards"):
        found = reward.group_rewards(groups)
    else:
        found = reward([prompt for prompt, _ in texts], [answer for _, answer in texts])
    values = torch.as_tensor(
        found if isinstance(found, Tensor) else [float(x) for x in found], dtype=torch.float64
    ).detach().cpu()  # fmt: skip
    if values.shape != (len(texts),):
        raise ValueError(
            f"the reward gave {tuple(values.shape)} for {len(texts)} answers; one number for each "
            "is expected"
        )
    if not bool(values.isfinite().all()):
        at = int((~values.isfinite()).nonzero()[0, 0])
        raise ValueError(f"the reward of answer {texts[at][1]!r} is {float(values[at])}")
    return values


def measure(
    model: Any,
    reference: Reference,
    prompts: Prompts,
    reward: Any = None,
    *,
    samples: int = 32,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    stop: Sequence[int] = (),
    seed: tuple[int, ...] = (0,),
) -> dict[str, float]:
    """Returns reward and divergence of a policy, on answers that it draws itself.

    Args:
        model: The policy.
        reference: What the divergence is measured from.
        prompts: Prompts, of which the first `samples` are taken, round and round.
        reward: As in `gather` (None: the divergence alone).
        samples: Answers.
        max_new_tokens: Longest answer.
        temperature: Of drawing.
        stop: Tokens that end an answer.
        seed: Of the draws.
    """
    found = gather(
        model, prompts, reward or (lambda asked, answers: [0.0] * len(answers)), reference,
        [at % len(prompts) for at in range(samples)], max_new_tokens=max_new_tokens,
        temperature=temperature, stop=stop, truncated="score", seed=seed,
    ).summary()  # fmt: skip
    if reward is None:
        del found["reward"], found["reward_std"]
    return found
