r"""Drafting with modules that predict further tokens: one behind the other, or all at once.

Sequential modules are blocks that read a stream and a token, and draft as such (`BlockHead`).
Parallel heads know nothing of each other: behind the root each gives the chances of the token d
places on, whatever stands between, and the likeliest paths of their product are the tree,

$$ q(x_{t+2}, \dots, x_{t+D+1}) = \prod_{d=1}^{D} p_d(x_{t+d+1} \mid x_{\le t}) . $$

The streams of all heads go through the model's head in one pass.

References:
    DeepSeek-AI (2024), arXiv:2412.19437, section 2.2 (MTP in inference).
    Stern et al. (2018), arXiv:1811.03115, section 3.

Shapes: S sequences, D heads, M model width, V vocabulary, n nodes of a draft.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paragone.language._block_pages import Pages, rectangular
from paragone.language._draft_block import BlockHead, Merge
from paragone.language.drafting import Draft, Drafting, Plan
from paragone.language.engine import engine_of
from paragone.language.llama import Llama

__all__ = ["likeliest", "opened"]

_NAMES = 1 << 30


def opened(ahead: Any, engine: Any) -> Drafting:
    """The drafting of modules for the sequences of an engine."""
    config, own = engine.config, ahead.base.config
    if (config.hidden_size, config.vocab_size) != (own.hidden_size, own.vocab_size):
        raise ValueError(
            f"{ahead.name} was made for a model of width {own.hidden_size} and {own.vocab_size} "
            f"tokens; this one has {config.hidden_size} and {config.vocab_size}"
        )
    if ahead.kind == "sequential":
        return _chained(ahead).open(engine)
    return _Parallel(ahead, getattr(engine, "threads", None))


def _chained(ahead: Any) -> BlockHead:
    """Sequential modules as blocks that draft."""
    base, layers = ahead.base, list(ahead.modules.layers)
    ids = ahead.draft_ids
    heads = [layer.shared_head.head or base.lm_head for layer in layers]
    weights = [head.weight if ids is None else head.weight[ids] for head in heads]
    alone = all(layer.embed_tokens is None for layer in layers)
    return BlockHead(
        layers, [_halves(layer) if alone else layer.merged for layer in layers],
        [layer.shared_head.norm for layer in layers], weights, ids,
        base.model.embed_tokens.weight if alone else layers[0].embed_tokens.weight, base.config,
        accuracies=ahead.accuracies, drawn=ahead.drawn, name=ahead.name,
    )  # fmt: skip


def _halves(layer: Any) -> Merge:
    """The merge of a module, half of which is looked up."""
    found = Merge(layer.hnorm.weight.shape[0], device="meta")
    found.enorm, found.hnorm, found.fc = layer.enorm, layer.hnorm, layer.eh_proj
    return found


def likeliest(chances: np.ndarray, tokens: np.ndarray, plan: Plan) -> Draft:
    """The likeliest nodes of a product of distributions.

    Args:
        chances: (D, k) logarithms of the chances at each depth, falling.
        tokens: (D, k) whose they are.
        plan: At most so much.

    Example:
        >>> logs = np.log([[0.6, 0.4], [0.9, 0.1]])
        >>> likeliest(logs, np.array([[1, 2], [3, 4]]), Plan(3, 2, 2)).tokens
        array([1, 3, 2])
    """
    depth, width = min(plan.depth, len(chances)), min(plan.width, chances.shape[1])
    found: list[tuple[int, int]] = []
    heap = [(-chances[0, 0], 0, 0, -1, 1)]
    number = 1
    while heap and len(found) < plan.nodes:
        cost, _, rank, parent, level = heapq.heappop(heap)
        found.append((int(tokens[level - 1, rank]), parent))
        before = cost + chances[level - 1, rank]
        if rank + 1 < width:
            heapq.heappush(
                heap, (before - chances[level - 1, rank + 1], number, rank + 1, parent, level)
            )
            number += 1
        if level < depth:
            heapq.heappush(heap, (cost - chances[level, 0], number, 0, len(found) - 1, level + 1))
            number += 1
    return Draft(np.array([x for x, _ in found], np.int64), np.array([p for _, p in found]))


@dataclasses.dataclass
class _Sequence:
    """What is known of a sequence: streams that no head has read, and what heads hold."""

    begun: bool
    tokens: list[np.ndarray] = dataclasses.field(default_factory=list)
    streams: list[np.ndarray] = dataclasses.field(default_factory=list)
    held: int = 0
    last: np.ndarray | None = None


class _Parallel(Drafting):
    """Parallel heads at work: an engine of one layer for each, with keys of its own."""

    def __init__(self, ahead: Any, threads: int | None):
        base = ahead.base
        self.hidden = "trunk" if ahead.reads == "trunk" else True
        self.ids = None if ahead.draft_ids is None else ahead.draft_ids.cpu().numpy()
        self.weight: Tensor = base.lm_head.weight.detach()
        if ahead.draft_ids is not None:
            self.weight = self.weight[ahead.draft_ids]
        self.engines = [engine_of(_alone(base, head), threads=threads)
                        for head in ahead.modules.layers]  # fmt: skip
        self.pages = [Pages(engine) for engine in self.engines]
        self.sequences: dict[Hashable, _Sequence] = {}
        self._named = 0

    def add(self, key: Hashable, tokens: Sequence[int], sampling: Any) -> None:
        self.sequences[key] = _Sequence(bool(len(tokens)))
        for pages in self.pages:
            pages.add(key)

    def drop(self, key: Hashable) -> None:
        del self.sequences[key]
        for pages in self.pages:
            pages.drop(key)

    def observe(
        self, keys: Sequence[Hashable], tokens: Sequence[np.ndarray],
        hidden: Sequence[np.ndarray | None],
    ) -> None:  # fmt: skip
        for key, new, streams in zip(keys, tokens, hidden, strict=True):
            one = self.sequences[key]
            first = int(not one.begun)
            one.begun = one.begun or len(new) > 0
            if streams is None:
                one.streams, one.held, one.last = [], 0, None
            else:
                # The first token of a text was predicted from nothing.
                one.streams.append(np.asarray(streams[first:], np.float32))

    def draft(self, keys: Sequence[Hashable], plan: Plan) -> list[Draft]:
        self._read([key for key in keys if self.sequences[key].streams])
        ready = [key for key in keys if self.sequences[key].last is not None]
        if not ready:
            return [Draft.chain([]) for _ in keys]
        depth = min(plan.depth, len(self.engines))
        rows = np.stack([self.sequences[key].last[:depth] for key in ready])  # pyright: ignore
        with torch.inference_mode():
            there = torch.from_numpy(rows).to(self.weight)
            logs = (there @ self.weight.T).float().log_softmax(-1)
            top = logs.topk(min(plan.width, logs.shape[-1]), -1)
        chances, tokens = top.values.cpu().numpy(), top.indices.cpu().numpy()
        if self.ids is not None:
            tokens = self.ids[tokens]
        found = {key: likeliest(chances[at], tokens[at], plan) for at, key in enumerate(ready)}
        return [found.get(key) or Draft.chain([]) for key in keys]

    def _read(self, keys: list[Hashable]) -> None:
        """Lets the heads read the streams that are new."""
        waiting = [(key, self.sequences[key]) for key in keys]
        new = [np.concatenate(one.streams) for _, one in waiting]
        for _, one in waiting:
            one.streams = []
        waiting = [pair for pair, rows in zip(waiting, new, strict=True) if len(rows)]
        new = [rows for rows in new if len(rows)]
        if not waiting:
            return
        counts, past = [len(rows) for rows in new], [one.held for _, one in waiting]
        rows, ends = np.concatenate(new), np.cumsum(counts) - 1
        names = (np.arange(self._named, self._named + len(rows)) % _NAMES).astype(np.int32)
        self._named += len(rows)
        last = []
        for engine, pages in zip(self.engines, self.pages, strict=True):
            tables = [
                pages.cover(key, held + count)
                for (key, _), held, count in zip(waiting, past, counts, strict=True)
            ]
            _, streams = engine.forward(
                pages.pool, names, counts, past, rectangular(tables), logits="none", hidden=True,
                inputs=rows,
            )  # fmt: skip
            last.append(streams[ends])
        for at, (_, one) in enumerate(waiting):
            one.held += counts[at]
            one.last = np.stack([streams[at] for streams in last])


def _alone(base: Llama, head: Any) -> Llama:
    """A model of one head, with a vocabulary of one token: its logits are not asked for."""
    config = base.config.replace(
        num_hidden_layers=1, vocab_size=1, tie_word_embeddings=False, n_routed_experts=0,
        kv_lora_rank=None,
    )  # fmt: skip
    model = Llama(config, device="meta")
    own = head.shared_head
    model.model.layers[0], model.model.norm = head, base.model.norm if own is None else own.norm
    like = base.lm_head.weight
    model.model.embed_tokens = torch.nn.Embedding(1, config.hidden_size).to(like)
    model.lm_head = torch.nn.Linear(config.hidden_size, 1, bias=False).to(like)
    return model
