r"""Answers that share a prompt, forwarded with the prompt once; the numbers are those of apart.

All tokens of a batch stand in one row, each prompt followed by its answers. Everything but
attention works on tokens alone, so nothing is padded and nothing computed twice; attention gets
one segment of queries for each prompt and each answer, and as keys of an answer those of its
prompt, then its own:

$$ o_{a,t} = \mathrm{attend}\big(q_{a,t};\; [k_{p,1..P},\, k_{a,1..t}]\big), \qquad
   \text{place of } (a, t) = P + t . $$

Forward and gradient are exactly those of K separate rows; the cost is P + sum A tokens, not K P +
sum A. Models whose layers are no attention (Mamba and the like) take separate rows.

Shapes: N tokens of the batch, S segments, R scored tokens, A answers, M width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from paragone.language.losses import token_log_probs
from paragone.mixers.flash_attention import attention_packed
from paragone.mixers.heads import GroupedQueryAttention

__all__ = [
    "Group",
    "Packed",
    "hidden_states",
    "pack_groups",
    "shares_prompts",
    "summed",
    "token_scores",
]


class Group(NamedTuple):
    """A prompt and answers to it, as token ids; the prompt has one token at least.

    `scored` says of each answer which tokens count (None: all); the others are read only.
    """

    prompt: Sequence[int]
    answers: Sequence[Sequence[int]]
    scored: Sequence[Sequence[bool]] | None = None


@dataclasses.dataclass(frozen=True)
class Packed:
    """A batch of groups as tensors.

    Attributes:
        tokens: (N,) ids: each prompt, then its answers.
        places: (N,) place of each token in its text.
        queries: (S,) tokens of each segment.
        keys: (S,) tokens that a segment's last token sees.
        seen: (sum of keys,) where in the batch they stand.
        rows: (R,) where the token before each scored token stands.
        targets: (R,) the scored tokens.
        owners: (R,) number of the answer.
        counts: (A,) scored tokens of each answer.
        last: (A,) where the last token of each answer stands; only if the ends are in the batch.
        whole: Whether the ends are in the batch: the last token of an answer predicts nothing.
        groups: The groups, as they were given.
    """

    tokens: Tensor
    places: Tensor
    queries: Tensor
    keys: Tensor
    seen: Tensor
    rows: Tensor
    targets: Tensor
    owners: Tensor
    counts: Tensor
    last: Tensor
    whole: bool
    groups: tuple[Group, ...]


def pack_groups(groups: Sequence[Group], *, whole: bool = False, device: Any = None) -> Packed:
    """Lays groups one behind the other.

    Args:
        groups: Prompts with their answers.
        whole: Whether the last token of each answer is forwarded, too (a reward reads it).
        device: Where the tensors go.

    Raises:
        ValueError: A prompt without a token, or no group.
    """
    if not groups:
        raise ValueError("no group of answers: at least one is needed")
    tokens: list[Any] = []
    places, seen, rows, targets = [], [], [], []
    queries, keys, counts, last = [], [], [], []
    at = 0
    for number, (prompt, answers, scored) in enumerate(groups):
        length = len(prompt)
        if length == 0:
            raise ValueError(
                f"group {number}: the prompt has no token, so the first token of an answer has "
                "nothing to follow; begin prompts with BOS"
            )
        before = np.arange(at, at + length)
        tokens.append(prompt)
        places.append(np.arange(length))
        seen.append(before)
        queries.append(length)
        keys.append(length)
        at += length
        for which, answer in enumerate(answers):
            marks = (
                np.ones(len(answer), bool) if scored is None else np.asarray(scored[which], bool)
            )
            kept = max(len(answer) - (not whole), 0)
            own = np.arange(at, at + kept)
            tokens.append(answer[:kept])
            places.append(np.arange(length, length + kept))
            seen += [before, own]
            queries.append(kept)
            keys.append(length + kept)
            rows.append(np.concatenate([before[-1:], own])[: len(answer)][marks])
            targets.append(np.asarray(answer, np.int64)[marks])
            last.append(own[-1] if kept else before[-1])
            counts.append(int(marks.sum()))
            at += kept

    def joined(parts: list[Any]) -> Tensor:
        parts = [np.asarray(part, np.int64) for part in parts]
        flat = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        return torch.from_numpy(flat).to(device)

    count = joined([counts])
    return Packed(
        joined(tokens), joined(places), joined([queries]), joined([keys]), joined(seen),
        joined(rows), joined(targets),
        torch.repeat_interleave(torch.arange(len(counts), device=count.device), count),
        count, joined([last]), whole, tuple(groups),
    )  # fmt: skip


def shares_prompts(model: Any) -> bool:
    """Whether every layer is attention over keys, so that prompts can be forwarded once.

    Args:
        model: A `Llama`.
    """
    return all(isinstance(block.self_attn, GroupedQueryAttention) for block in model.model.layers)


def hidden_states(model: Any, packed: Packed, *, apart: bool = False) -> Tensor:
    """Returns the (N, M) normalised stream that the head reads.

    Args:
        model: A `Llama` or another module with its decoder as `model`.
        packed: The batch.
        apart: Whether each answer is read behind its own copy of the prompt: the definition.
    """
    if apart or not shares_prompts(model):
        return _apart(model, packed)
    h = model.model.embed_tokens(packed.tokens)[None]
    for block in model.model.layers:
        h = h + _attended(block.self_attn, block.input_layernorm(h), packed)
        h = h + block.mlp(block.post_attention_layernorm(h))
    return model.model.norm(h)[0]


def _attended(layer: GroupedQueryAttention, x: Tensor, packed: Packed) -> Tensor:
    q = layer.q_proj(x).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
    k = layer.k_proj(x).unflatten(-1, (layer.kv_heads, -1)).transpose(1, 2)
    v = layer.v_proj(x)[0].unflatten(-1, (layer.kv_heads, -1))
    if layer.q_norm is not None and layer.k_norm is not None:
        q, k = layer.q_norm(q), layer.k_norm(k)
    if layer.rotary is not None:
        kind = torch.promote_types(x.dtype, torch.float32)
        table = layer.rotary.table(packed.places[None], x.shape[1], x, kind)
        q, k = layer.rotary.turn(q, *table), layer.rotary.turn(k, *table)
    q, k = q[0].transpose(0, 1), k[0].transpose(0, 1)
    y = attention_packed(
        q, k.index_select(0, packed.seen), v.index_select(0, packed.seen), packed.queries,
        packed.keys, causal=True, window=layer.window, softcap=layer.softcap, scale=layer.scale,
        sinks=layer.sinks, dropout=layer.dropout if layer.training else 0.0, backend=layer.backend,
    )  # fmt: skip
    return layer.o_proj(y.flatten(1))[None]


def _apart(model: Any, packed: Packed) -> Tensor:
    """Each answer behind its own copy of the prompt, in padded rows."""
    texts, at = [], []
    place = 0
    for prompt, answers, _ in packed.groups:
        starts = place + len(prompt)
        for number, answer in enumerate(answers or [[]]):
            kept = max(len(answer) - (not packed.whole), 0)
            own = np.arange(starts, starts + kept)
            copy = (
                np.arange(place, place + len(prompt)) if number == 0 else np.full(len(prompt), -1)
            )
            texts.append([*prompt, *answer[:kept]])
            at.append(np.concatenate([copy, own]))
            starts += kept
        place = starts
    device = packed.tokens.device
    lengths = torch.tensor([len(text) for text in texts], device=device)
    longest = int(lengths.max())
    ids = torch.zeros(len(texts), longest, dtype=torch.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.as_tensor(text)
    hidden, _ = model.model(model.model.embed_tokens(ids.to(device)), lengths=lengths)
    there = torch.arange(longest, device=device) < lengths[:, None]
    where = torch.from_numpy(np.concatenate(at)).to(device)
    flat = hidden[there]
    order = torch.empty_like(packed.tokens)
    order[where[where >= 0]] = torch.nonzero(where >= 0)[:, 0]
    return flat.index_select(0, order)


def token_scores(model: Any, packed: Packed, hidden: Tensor, temperature: float = 1.0) -> Tensor:
    """Returns the (R,) log-probabilities of the answers' tokens.

    Args:
        model: A `Llama`, whose head is read.
        packed: The batch.
        hidden: (N, M) of `hidden_states`.
        temperature: What logits are divided by.
    """
    stream = hidden.index_select(0, packed.rows)
    if temperature != 1.0:
        stream = stream / temperature
    return token_log_probs(stream, model.lm_head.weight, packed.targets)


def summed(values: Tensor, packed: Packed) -> Tensor:
    """Returns (A,) sums of (R,) values over each answer's tokens.

    Args:
        values: (R,) numbers.
        packed: The batch.
    """
    return values.new_zeros(len(packed.counts)).index_add(0, packed.owners, values)
