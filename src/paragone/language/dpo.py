r"""Direct preference optimisation: from preferred and rejected answers to a policy, in one stage.

The best policy under a reward r and a leash $\beta\,\mathrm{KL}(\pi \| \pi_0)$ is known in closed
form, and so is the reward in terms of the policy:

$$ \pi(y|x) \propto \pi_0(y|x)\, e^{r(x, y)/\beta}
   \;\Longleftrightarrow\; r(x, y) = \beta \log \frac{\pi(y|x)}{\pi_0(y|x)} + \beta \log Z(x) . $$

$Z$ cancels between two answers to one prompt, so Bradley and Terry's likelihood of the preferences
trains the policy directly:

$$ L = -\log \sigma\Big(\beta \log \frac{\pi(y_w|x)}{\pi_0(y_w|x)} - \beta \log
   \frac{\pi(y_l|x)}{\pi_0(y_l|x)}\Big) . $$

Nineteen losses of this kind stand in `_preference_losses`. What they need is made once and exactly:
the prompt is forwarded once for both answers (`_preference_forward`), only tokens of answers meet
the head, and the reference's log-probabilities are kept by content (`_preference_reference`), so
that a run needs no second model. Dropout is off in both.

Cost: a pair takes a forward and a backward pass over the prompt and both answers, and one forward
pass of the reference before the first step, if it is not known yet.

References:
    Rafailov et al. (2023), arXiv:2305.18290, eq. 4-7.
    Ethayarajh et al. (2024), arXiv:2402.01306, section 4.1 (mismatched pairs for KTO).

Shapes: n pairs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from paragone.language._preference_forward import (
    Group,
    hidden_states,
    pack_groups,
    summed,
    token_scores,
)
from paragone.language._preference_losses import (
    NEEDS_NO_REFERENCE,
    Divergence,
    Options,
    Scores,
    checked_losses,
    pair_losses,
    rewards,
)
from paragone.language._preference_pairs import Aligned, Feed, Micro, encoded_pairs, group_of
from paragone.language._preference_reference import (
    Kept,
    group_scores,
    weights_hash,
)
from paragone.language._rollout_gather import Prompts, Reward, checked_choice, measure, reference_of
from paragone.language._train_ranks import Ranks
from paragone.language.fitting import Loop, Loss, Progressed, Recipe
from paragone.training.run_folder import Folder

__all__ = ["dpo"]

_MEASURED = ("kl", "kl_error", "reward", "reward_std", "length", "finished", "entropy")


def dpo(
    model: Any,
    tokenizer: Any,
    pairs: Any,
    beta: float = 0.1,
    loss: str | Mapping[str, float] = "sigmoid",
    *,
    label_smoothing: float = 0.0,
    reference: nn.Module | Literal["base"] | None = None,
    lora_rank: int | None = None,
    lora: Mapping[str, Any] | None = None,
    epochs: float = 1.0,
    batch: int = 16,
    lr: float | None = None,
    warmup: float = 0.1,
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "linear",
    optimizer: str = "adamw",
    weight_decay: float = 0.0,
    clip_norm: float | None = 1.0,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    template: Any = None,
    max_length: int | None = None,
    ipo: Literal["token", "sum"] = "token",
    divergence: Divergence = "reverse_kl",
    alpha: float = 0.5,
    gamma: float = 1.0,
    tau: float = 0.05,
    nll: float = 1.0,
    desirable: float = 1.0,
    undesirable: float = 1.0,
    evaluation: Any = None,
    evaluate_every: int | None = None,
    prompts: Sequence[Any] | None = None,
    reward: Reward | nn.Module | None = None,
    samples: int = 16,
    max_new_tokens: int = 64,
    cache: str | os.PathLike[str] | Literal["auto"] | None = "auto",
    micro_tokens: int = 8192,
    out: str | os.PathLike[str] | None = None,
    progress: Callable[[Progressed], None] | None = None,
    seed: int = 0,
) -> Aligned:
    r"""Trains a model on preferred and rejected answers; the same call with `out` goes on.

    Prefer it to `reward_model` and `ppo` where the preferences are given and fixed: it is one
    stage, takes no sampling, and is as stable as fine-tuning. Prefer `ppo` or `grpo` where a
    reward can be asked for any answer, since they learn from answers that the policy gives now.

    Args:
        model: A `Llama`, best one that was fine-tuned; trained in place.
        tokenizer: Its `Tokenizer`.
        pairs: A file, mappings or `Pair`s, whatever `read_pairs` takes; or `EncodedPair`s.
        beta: Strength of the leash; IPO's regularisation; 2 or more is usual with "simpo".
        loss: "sigmoid", "ipo", "hinge", "kto", "robust", "exo", "nca", "bco", "sppo", "aot",
            "aot_unpaired", "apo_zero", "apo_down", "discopop", "sigmoid_norm"; without a reference
            "sft", "orpo", "simpo", "cpo"; or several with weights, {"sigmoid": 1, "sft": 0.1}.
        label_smoothing: Share of labels that are wrong: with "sigmoid" conservative DPO, with
            "robust" its unbiased form, whose loss may be negative; also "exo", "aot", "simpo",
            "cpo".
        reference: What the policy is compared with: None for the model as it is now, "base" for
            it without its adapter, or another model.
        lora_rank: Rank of an adapter that is trained in place of all weights.
        lora: Further arguments of `add_lora`.
        epochs: Rounds through the pairs.
        batch: Pairs of a step.
        lr: Largest learning rate (None: 1e-5, with an adapter 1e-4).
        warmup: Share of the run in which the rate rises.
        schedule: As in `fitting.Recipe`.
        optimizer: Any of `paragone.training`, in lower case.
        weight_decay: Decay of matrices.
        clip_norm: Largest norm of a step's gradients, or None.
        precision: "fp32", "bf16" or "fp16".
        template: A `ChatTemplate` or a name (None: the tokenizer's own, or "alpaca").
        max_length: Most tokens of a text (None: the model's).
        ipo: What IPO compares: "token", log-ratios per token of each answer, as its authors'
            results and TRL have it; "sum", sums as in the paper's equation.
        divergence: The leash's kind: "reverse_kl", "forward_kl", "js" or "alpha".
        alpha: Of the alpha divergence.
        gamma: SimPO's margin.
        tau: DiscoPOP's temperature.
        nll: Weight of the chosen answers' log-likelihood per token in "orpo" and "cpo".
        desirable: KTO's weight of chosen answers.
        undesirable: KTO's weight of rejected answers.
        evaluation: Pairs to validate on.
        evaluate_every: Steps between validations (None: only at the end).
        prompts: What the divergence is measured on (None: the pairs' prompts).
        reward: A reward to measure beside it, as in `ppo`; nothing is trained on it.
        samples: Answers that are drawn for a measurement; 0: none, and no copy of the start.
        max_new_tokens: Their longest length.
        cache: Where the reference's log-probabilities are kept: "auto" for the user's cache, a
            folder, or None for memory alone.
        micro_tokens: About how many tokens are forwarded at once; "aot" sorts among those pairs.
        out: The run's folder; None: nothing is written.
        progress: Called with each event.
        seed: Of order and draws.

    Returns:
        The model and a history: step, seconds, loss, rewards_chosen, rewards_rejected, margin,
        accuracy, log_probs_chosen, log_probs_rejected; at validations validation_* of all these,
        and kl (nats an answer, over `samples` answers of the policy itself), kl_error, reward.

    Raises:
        ValueError: An argument out of range, pairs that cannot be read, a reference that is the
            model itself, or a folder of another run.

    Example:
        >>> from paragone.language import Llama, LlamaConfig
        >>> from paragone.language.rows import EncodedPair
        >>> llama = Llama(LlamaConfig(8, 8, num_hidden_layers=1, num_attention_heads=1))
        >>> pair = EncodedPair([1], [2], [3], [True], [True])
        >>> dpo(llama, None, [pair], cache=None, samples=0).metrics["step"]
        1
    """
    begun = time.monotonic()
    o = Options(
        beta, label_smoothing, ipo, divergence, alpha, gamma, tau, nll, desirable, undesirable
    )
    weights = checked_losses(loss, o)
    longest = max_length or model.config.max_position_embeddings
    size = model.config.vocab_size
    encoded, notes = encoded_pairs(tokenizer, pairs, template, longest, size)
    groups = [group_of(pair) for pair in encoded]
    further = _extended(groups, weights)
    tested = []
    if evaluation is not None:
        held, more = encoded_pairs(tokenizer, evaluation, template, longest, size)
        tested, notes = [group_of(pair) for pair in held], [*notes, *more]
    ranks = Ranks()
    feed = Feed(groups, batch, epochs, seed, micro_tokens, ranks.rank, ranks.size)
    lr = lr or (1e-5 if lora_rank is None else 1e-4)
    recipe = Recipe(
        feed.steps, lr, warmup, schedule, 0.0, optimizer, weight_decay, clip_norm, precision, seed,
        evaluate_every=evaluate_every,
    )  # fmt: skip
    tell = progress or (lambda event: None)
    known = _reference_scores(
        model, reference, weights, [*further, *tested], cache, notes, tell, precision
    )
    leash = reference_of(model, reference, lora_rank) if samples else None
    if lora_rank is not None:
        from paragone.language.lora import add_lora

        add_lora(model, lora_rank, **(lora or {}))
    for line in notes:
        tell(Progressed("note", text=line))
    trial = _Trial(model, further, known, weights, o, len(groups))
    asked = None
    if leash is not None:
        asked = Prompts(prompts or [group.prompt for group in groups], tokenizer, template)

    def evaluate() -> dict[str, float]:
        found = trial.validated(tested, known[len(further) :], micro_tokens)
        if leash is not None and asked is not None:
            drawn = measure(
                model, leash, asked, reward, samples=samples, max_new_tokens=max_new_tokens,
                stop=model.config.eos, seed=(seed, 7),
            )  # fmt: skip
            found |= {name: drawn[name] for name in _MEASURED if name in drawn}
        return found

    folder = None if out is None else Folder(out)
    identity = {
        "method": "dpo", "loss": weights, "options": dataclasses.asdict(o), "batch": batch,
        "pairs": len(groups), "lora_rank": lora_rank,
    }  # fmt: skip
    loop = Loop(
        model, recipe, feed, trial.loss, folder, progress, evaluate, identity=identity,
        export=lambda where: _export(model, tokenizer, where), begun=begun,
    )  # fmt: skip
    history = loop.run()
    model.eval()
    return Aligned(
        model, history, history[-1], notes, loop.seconds, None if folder is None else folder.path
    )


def _extended(groups: list[Group], weights: Mapping[str, float]) -> list[Group]:
    """For KTO also each prompt with the next pair's answers, behind all pairs."""
    if "kto" not in weights:
        return groups
    if len(groups) < 2:
        raise ValueError("loss='kto' compares prompts with others' answers: give two pairs or more")
    return [*groups, *(
        Group(group.prompt, other.answers, other.scored)
        for group, other in zip(groups, [*groups[1:], groups[0]], strict=True)
    )]  # fmt: skip


def _reference_scores(
    model: Any, reference: Any, weights: Mapping[str, float], groups: Sequence[Group], cache: Any,
    notes: list[str], tell: Callable[[Progressed], None], precision: str,
) -> list[list[float]]:  # fmt: skip
    """Log-probabilities under the reference, for each group's answers."""
    checked_choice(model, reference)
    if weights.keys() <= NEEDS_NO_REFERENCE:
        return [[0.0] * len(group.answers) for group in groups]
    scorer: nn.Module = reference if isinstance(reference, nn.Module) else model
    off: Any = contextlib.nullcontext()
    if reference == "base":
        from paragone.language.lora import without_adapter

        off = without_adapter(model)
    # In the precision of the run: else the first log-ratios would be rounding, not zero.
    narrow = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    device = next(scorer.parameters()).device.type
    name = weights_hash(scorer) + ("-base" if reference == "base" else "")
    kept = Kept(name + (f"-{precision}" if narrow else ""), cache)
    tell(Progressed("note", text=f"scoring {len(groups)} prompts with the reference"))
    with off, torch.autocast(device, narrow, enabled=narrow is not None):
        found = kept.of(groups, lambda new: group_scores(scorer, new))
    notes.append(
        f"reference: {kept.scored} answers scored, {kept.found} known"
        + ("" if kept.path is None else f" in {kept.path}")
    )
    return found


class _Trial:
    """Losses and metrics of micro-batches."""

    def __init__(
        self, model: Any, groups: Sequence[Group], known: list[list[float]],
        weights: Mapping[str, float], o: Options, count: int,
    ) -> None:  # fmt: skip
        self.model, self.groups, self.known = model, groups, known
        self.weights, self.o, self.count = weights, o, count
        self.tokens = [sum(group.scored[0]) if group.scored else 0 for group in groups]

    def loss(self, micro: Micro) -> Loss:
        self.model.eval()
        if "kto" in self.weights and "kl" not in micro.shared:
            micro.shared["kl"] = self._mismatched(micro.step)
        groups = [self.groups[at] for at in micro.indices]
        share = len(micro.step) / max(sum(self.tokens[at] for at in micro.step), 1)
        known = [self.known[at] for at in micro.indices]
        scores, tokens = self._scores(groups, known, share, micro.shared.get("kl"))
        losses = pair_losses(self.weights, scores, self.o)
        return Loss(losses.sum(), len(groups), self._metrics(scores), tokens)

    def _scores(
        self, groups: Sequence[Group], known: Sequence[Sequence[float]], share: float | None,
        kl: Tensor | float | None = None,
    ) -> tuple[Scores, int]:  # fmt: skip
        device = self.model.lm_head.weight.device
        packed = pack_groups(groups, device=device)
        hidden = hidden_states(self.model, packed)
        chosen, rejected = summed(
            token_scores(self.model, packed, hidden), packed
        ).view(-1, 2).unbind(1)  # fmt: skip
        reference = torch.tensor(known, dtype=torch.float64, device=device).to(chosen.dtype)
        counts = packed.counts.view(-1, 2)
        return Scores(
            chosen, rejected, reference[:, 0], reference[:, 1], counts[:, 0], counts[:, 1], share,
            kl,
        ), len(packed.tokens)  # fmt: skip

    @torch.no_grad()
    def _mismatched(self, step: Sequence[int]) -> float:
        """KTO's point of reference: the mean log-ratio of answers to other prompts, at least 0."""
        which = [self.count + at for at in step]
        now = group_scores(self.model, [self.groups[at] for at in which])
        before = [score for at in which for score in self.known[at]]
        ranks = Ranks()
        gap = sum(a - b for a, b in zip(now, before, strict=True))
        total, count = ranks.added([gap, len(now)])
        return max(total / count, 0.0)

    def _metrics(self, scores: Scores) -> dict[str, tuple[Tensor, int]]:
        good, bad = rewards(self.weights, scores, self.o)
        found = {
            "rewards_chosen": good, "rewards_rejected": bad, "margin": good - bad,
            "accuracy": (good > bad).to(good.dtype), "log_probs_chosen": scores.chosen.detach(),
            "log_probs_rejected": scores.rejected.detach(),
        }  # fmt: skip
        return {name: (values.sum(), len(values)) for name, values in found.items()}

    @torch.no_grad()
    def validated(
        self, groups: Sequence[Group], known: Sequence[Sequence[float]], tokens: int
    ) -> dict[str, float]:
        """Means over held-out pairs; KTO's point of reference is 0 there."""
        if not groups:
            return {}
        from paragone.language._preference_reference import parts_of

        sums: dict[str, float] = {}
        at = 0
        for part in parts_of(groups, tokens):
            scores, _ = self._scores(part, known[at : at + len(part)], None)
            at += len(part)
            lines = {name: total for name, (total, _) in self._metrics(scores).items()}
            lines["loss"] = pair_losses(self.weights, scores, self.o).sum()
            for name, total in lines.items():
                sums[name] = sums.get(name, 0.0) + float(total)
        return {f"validation_{name}": total / len(groups) for name, total in sums.items()}


def _export(model: Any, tokenizer: Any, folder: Folder) -> None:
    from paragone.language.lora import adapted

    if adapted(model):
        from paragone.language.lora import save_adapter

        save_adapter(model, folder.path)
    else:
        from paragone.language.checkpoints import save

        save(model, tokenizer, Path(folder.path))
