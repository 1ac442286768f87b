r"""Stale heads: whether a drafter still fits the model that it drafts for, by measurement.

Heads are trained for one set of weights. After `finetune`, `dpo` or a merged adapter the model says
other things, the text stays right, and only the speed goes, which nobody sees. So heads that are
saved keep a card: a digest of the weights, and how far the model agreed with them,

$$ \tau = \frac1S \sum_{s=1}^{S} (1 + r_s), \qquad
   a_d = \frac{|\{s : r_s \ge d\}|}{|\{s : r_s \ge d - 1\}|} , $$

with $r_s$ the drafted tokens of step s that were agreed to: $\tau$ tokens a step, $a_d$ the share
agreed to at depth d. Where the digest is another one, the same is measured on what the changed
model makes of the same beginnings, and a fall beyond chance is told,

$$ \tau_0 - \tau > \max\big(0.02\,\tau_0,\; 2 \sqrt{s_0^2 / S_0 + s^2 / S}\big) . $$

Greedy speculation gives the very text of plain decoding. Hence no speculation is needed to measure
it: the text is decoded, read once for its streams, and the drafter is asked along it.

Cost: decoding some hundred tokens (fewer with large models), and as many drafts as there are steps.

References:
    Leviathan et al. (2023), arXiv:2211.17192, definition 3.1 (acceptance), eq. 1 (tokens a step).

Shapes: R texts, M model width.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from paragone.language._generate_loop import decode
from paragone.language.drafting import Draft, Drafter, Drafting, Plan
from paragone.language.engine import Engine, engine_of
from paragone.language.generate import sample_batch
from paragone.language.sampling import Sampling

__all__ = ["Agreement", "StaleHeadsWarning", "agreement", "card", "check", "digest", "refit"]

_SAMPLED = 4096
"""Values of each parameter that a digest looks at."""
_TEXTS, _LENGTH, _BEGINNING = 12, 64, 12
_WORK = 4e11
"""Operations that a measurement may take, about."""
_MARGIN = 0.02


class StaleHeadsWarning(UserWarning):
    """Heads were trained for other weights than the model has now, and it shows."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far a model agreed with a drafter.

    Attributes:
        plan: What was drafted.
        by_depth: Share agreed to at each depth, of steps in which the depth before was.
        tokens_per_step: Tokens by passes of the model.
        spread: Standard deviation of the tokens of a step.
        steps: How many steps were counted.
    """

    plan: Plan
    by_depth: tuple[float, ...]
    tokens_per_step: float
    spread: float
    steps: int

    def below(self, before: Agreement) -> bool:
        """Whether it is less than an earlier one, beyond chance and a fiftieth."""
        noise = math.hypot(
            self.spread / max(self.steps, 1) ** 0.5, before.spread / max(before.steps, 1) ** 0.5
        )
        fall = before.tokens_per_step - self.tokens_per_step
        return fall > max(_MARGIN * before.tokens_per_step, 2 * noise)

    def __str__(self) -> str:
        shares = " / ".join(f"{share:.2f}" for share in self.by_depth)
        return f"{self.tokens_per_step:.2f} tokens a step (accepted by depth {shares})"


def digest(model: nn.Module) -> str:
    """A name for the weights of a model, of some thousand values of each parameter.

    It changes with any training of whole matrices, and not with the device. Weights that went
    through a narrower type have another one.

    Args:
        model: Any module.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> digest(layer) == digest(layer)
        True
    """
    found = hashlib.blake2b(digest_size=12)
    for name, weight in model.named_parameters():
        flat = weight.detach().reshape(-1)
        some = flat[:: -(-flat.numel() // _SAMPLED) or 1]
        found.update(f"{name} {tuple(weight.shape)} ".encode())
        found.update(some.float().cpu().numpy().tobytes())
    return found.hexdigest()


def agreement(
    drafter: Drafter,
    model: Any,
    plan: Plan | None = None,
    *,
    prompts: Sequence[Sequence[int]] | None = None,
    tokens: int | None = None,
    seed: int = 0,
) -> Agreement:
    """Measures a drafter on a model's own greedy text.

    Prefer it to timing `generate` where the question is how good the guesses are: it is exact for
    greedy decoding, on any machine, and does not depend on the controller.

    Args:
        drafter: Who guesses.
        model: A `Llama`, or its `Engine`.
        plan: What to draft (None: the longest chain of at most 4 that the drafter names).
        prompts: Token ids that texts begin with (None: beginnings that the model draws itself).
        tokens: Tokens of each text (None: 64, fewer for large models).
        seed: Of the beginnings.

    Raises:
        ValueError: Texts too short for a single step of the plan.

    Example:
        >>> from paragone.language import Llama, LlamaConfig
        >>> sizes = dict(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
        >>> agreement(Drafter(), Llama(LlamaConfig(**sizes)), Plan(1, 1), tokens=1)
        Traceback (most recent call last):
        ValueError: texts of 1 tokens: a step of Plan(nodes=1, depth=1, width=1) needs 3 or more
    """
    engine = engine_of(model)
    rows, length = _amount(model)
    length = tokens or length
    plan = plan or _plan_of(drafter)
    if length < plan.depth + 2:
        raise ValueError(f"texts of {length} tokens: a step of {plan} needs {plan.depth + 2} "
                         "or more")  # fmt: skip
    if prompts is None:
        prompts = _beginnings(engine, rows, seed)
    greedy = [Sampling(temperature=0.0)] * len(prompts)
    texts = [
        (len(row.prompt), np.array([*row.prompt, *row.ids], np.int64))
        for row in decode(engine, prompts, greedy, length, sorted(engine.config.eos))
    ]
    texts = [(begun, ids) for begun, ids in texts if len(ids) - begun >= plan.depth + 2]
    if not texts:
        raise ValueError(
            f"all {len(prompts)} texts of this model ended before {plan.depth + 2} tokens: nothing "
            f"to measure {plan} on; give longer prompts"
        )
    return _counted(plan, _replayed(drafter, engine, texts, plan))


def card(
    drafter: Drafter, model: Any, prompts: Sequence[Sequence[int]] | None = None
) -> dict[str, Any]:
    """What heads keep of the model that they were trained for, as JSON for their `config.json`.

    Args:
        drafter: The heads, as trained.
        model: The `Llama` that they were trained for.
        prompts: Token ids that texts of the measurement begin with, now and later (None: beginnings
            that the model draws itself); some dozen at most.
    """
    if prompts is None:
        prompts = _beginnings(engine_of(model), _amount(model)[0], 0)
    found = dataclasses.asdict(agreement(drafter, model, prompts=prompts))
    kept = [[int(token) for token in prompt] for prompt in prompts]
    return {"digest": digest(model), **found, "prompts": kept}


def check(drafter: Drafter, model: Any, known: Mapping[str, Any] | None) -> Agreement | None:
    """Compares heads' card with a model, and warns if they have become worse; called at load.

    Args:
        drafter: The heads, as loaded.
        model: The `Llama` that they are to draft for.
        known: Their card (None: published ones have none, and nothing is said).

    Returns:
        What was measured; None where the weights are those of the card.

    Warns:
        StaleHeadsWarning: The model agrees less than it did, beyond chance.
    """
    if not known or known.get("digest") == digest(model):
        return None
    before = Agreement(
        Plan(**known["plan"]), tuple(known["by_depth"]), known["tokens_per_step"],
        known["spread"], known["steps"],
    )  # fmt: skip
    now = agreement(drafter, model, before.plan, prompts=known.get("prompts"))
    if now.below(before):
        warnings.warn(
            f"these heads ({drafter.name}) were trained for other weights: {before} then, {now} "
            f"with this model. Text stays right and comes slower; {type(drafter).__name__}.train("
            "model, tokenizer, texts, start=heads) fits them anew",
            StaleHeadsWarning,
            stacklevel=3,
        )
    return now


def refit(
    drafter: Any, model: Any, tokenizer: Any, texts: Any = None, **options: Any
) -> tuple[Any, Agreement, Agreement]:
    """Trains stale heads on what the changed model says now.

    Prefer it to training from nothing: a model that was tuned still thinks mostly as before.

    Args:
        drafter: The heads: `Medusa`, `Eagle` or `MultiTokenPrediction`; they stay as they are.
        model: The changed model.
        tokenizer: Its tokenizer.
        texts: As in the heads' `train`.
        options: Further arguments of it.

    Returns:
        The new heads, and how far the model agrees with the old and with the new ones.
    """
    before = agreement(drafter, model)
    fresh = type(drafter).train(model, tokenizer, texts, start=drafter, **options)
    return fresh, before, agreement(fresh, model, before.plan)


def _amount(model: Any) -> tuple[int, int]:
    """Texts and their tokens, so that a measurement stays short with any model."""
    if not isinstance(model, nn.Module):
        return _TEXTS, _LENGTH
    each = 4 * sum(p.numel() for p in model.parameters())
    share = min(1.0, _WORK / (each * _TEXTS * (_LENGTH + _BEGINNING)))
    return max(2, round(_TEXTS * share**0.5)), max(16, round(_LENGTH * share**0.5))


def _plan_of(drafter: Drafter) -> Plan:
    chains = [plan for plan in drafter.plans() if plan.width == 1 and plan.depth <= 4]
    return max(chains, key=lambda plan: plan.depth) if chains else drafter.plans()[0]


def _beginnings(engine: Engine, rows: int, seed: int) -> list[list[int]]:
    """Beginnings that the model draws, behind its own first token."""
    first = engine.config.bos_token_id
    first = 0 if first is None else int(first)
    drawn = sample_batch(engine, [[first]] * rows, Sampling(seed=seed), _BEGINNING)
    ends = set(engine.config.eos)
    return [[first, *(int(t) for t in ids if int(t) not in ends)] for ids in drawn.ids]


def _streams(engine: Engine, texts: Sequence[np.ndarray], kind: Any) -> list[np.ndarray]:
    """Of each text, the streams that its tokens were predicted from; zeros before the first."""
    found = []
    for ids in texts:
        pool = engine.new_pool(-(-len(ids) // 16))
        _, hidden = engine.forward(
            pool, ids, [len(ids)], [0], [np.arange(pool.pages)], logits="none", hidden=kind
        )
        hidden = np.asarray(hidden, np.float32)
        found.append(np.concatenate([np.zeros_like(hidden[:1]), hidden[:-1]]))
    return found


def _replayed(
    drafter: Drafter, engine: Engine, texts: Sequence[tuple[int, np.ndarray]], plan: Plan
) -> list[int]:
    """Drafted tokens of each step that were agreed to, over all texts."""
    drafting: Drafting = drafter.open(engine)
    streams: Sequence[Any] = [None] * len(texts)
    if drafting.hidden:
        streams = _streams(engine, [ids for _, ids in texts], drafting.hidden)
    known, keys = [0] * len(texts), list(range(len(texts)))

    def told(key: int) -> np.ndarray | None:
        rows = streams[key]
        return None if rows is None else rows[known[key] : more[key]]

    for key in keys:
        drafting.add(key, [], Sampling(temperature=0.0))
    more = [begun + 1 for begun, _ in texts]
    agreed: list[int] = []
    while keys:
        news = [texts[key][1][known[key] : more[key]] for key in keys]
        drafting.observe(keys, news, [told(key) for key in keys])
        known = list(more)
        left = [key for key in keys if len(texts[key][1]) - known[key] >= plan.depth + 1]
        for key in set(keys) - set(left):
            drafting.drop(key)
        keys = left
        drafts = drafting.draft(keys, plan) if keys else []
        for key, draft in zip(keys, drafts, strict=True):
            agreed.append(_walked(draft, texts[key][1][known[key] :]))
            more[key] = known[key] + agreed[-1] + 1
    return agreed


def _walked(draft: Draft, truth: np.ndarray) -> int:
    """How many tokens of the truth lie on a path of the draft."""
    at, count = -1, 0
    for token in truth:
        found = np.flatnonzero((draft.parents == at) & (draft.tokens == token))
        if not len(found):
            break
        at, count = int(found[0]), count + 1
    return count


def _counted(plan: Plan, agreed: Sequence[int]) -> Agreement:
    counts = np.array(agreed)
    reached = [int((counts >= depth).sum()) for depth in range(plan.depth + 1)]
    shares = [b / a if a else 0.0 for a, b in itertools.pairwise(reached)]
    return Agreement(
        plan, tuple(shares), float(1 + counts.mean()), float(counts.std()), len(counts)
    )
