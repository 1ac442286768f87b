r"""Drafting through one decoder block that reads the model's stream and the token that came of it.

The stream $h_t$ from which the model drew $x_{t+1}$ knows all of the text but that draw. A block
that reads both guesses the stream behind it, and the model's own head turns that into a guess of
the next token; the block then goes on from its own stream:

$$ g_t = \mathrm{block}\big(C\,[\mathrm{norm}(E x_{t+1});\ \mathrm{norm}(h_t)]\big), \qquad
   q(x_{t+2}) = \mathrm{softmax}(W\,\mathrm{norm}(g_t)), \qquad h_{t+1} := g_t . $$

The block is run as an engine of a model of one layer, with pages of its own, so that whatever
serves the model serves it: taking a draft back is a smaller past, a branch of a tree a table of its
own. Where the head's rows are only those of tokens that occur, a draft is cheaper by as much. Half
of C meets nothing but embeddings, and is looked up.

Several blocks (the modules of DeepSeek-V3) follow each other: block k reads the stream that
block k - 1 left at a place, and the token one further on. The last goes on by itself.

Cost: a draft of depth D takes D passes over a block, half of C and the head's rows.

References:
    Li et al. (2024), "EAGLE", arXiv:2401.15077, section 4.1.
    DeepSeek-AI (2024), DeepSeek-V3, arXiv:2412.19437, eq. 21-23.
    Li et al. (2024), "EAGLE-2", arXiv:2406.16858, section 4.

Shapes: N slots (a token and the stream that it was predicted from), M model width, V rows of the
head, W tokens of the model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from paragone.language._block_growth import Growth
from paragone.language._block_pages import Lanes, Pages, rectangular
from paragone.language.config import LlamaConfig
from paragone.language.drafting import (
    Draft,
    Drafter,
    Drafting,
    Plan,
    chances_by_depth,
    plans_within,
)
from paragone.language.engine import Engine, engine_of
from paragone.language.llama import Llama, RMSNorm

__all__ = ["BlockHead", "Merge"]

_PRIOR = 0.6
_NAMES = 1 << 30
_CHAINS = (1, 2, 3, 4, 5, 6, 8)
_TREES = (Plan(4, 3, 2), Plan(8, 4, 3), Plan(16, 5, 4), Plan(32, 6, 5))


class Merge(nn.Module):
    """Two rows into one of their width: a norm of each, if wanted, and a matrix.

    Args:
        width: Width M of both.
        norms: Whether both are normalised first.
        bias: Whether the matrix has a bias.
        eps: Of the norms.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Example:
        >>> Merge(8)(torch.zeros(3, 8), torch.ones(3, 8)).shape
        torch.Size([3, 8])
    """

    def __init__(
        self, width: int, *, norms: bool = True, bias: bool = False, eps: float = 1e-5,
        device: Any = None, dtype: Any = None,
    ):  # fmt: skip
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.enorm = RMSNorm(width, eps, **where) if norms else None
        self.hnorm = RMSNorm(width, eps, **where) if norms else None
        self.fc = nn.Linear(2 * width, width, bias=bias, **where)

    def forward(self, embeddings: Tensor, streams: Tensor) -> Tensor:
        if self.enorm is not None and self.hnorm is not None:
            embeddings, streams = self.enorm(embeddings), self.hnorm(streams)
        return self.fc(torch.cat([embeddings, streams], -1))

    def of_embeddings(self, embeddings: Tensor) -> Tensor:
        """The part of the sum that depends on embeddings alone, the bias included."""
        x = embeddings if self.enorm is None else self.enorm(embeddings)
        return nn.functional.linear(x, self.fc.weight[:, : x.shape[-1]], self.fc.bias)


class BlockHead(Drafter):
    """Drafts through a block, or several that follow each other.

    Args:
        block: A `Block`, or a list of them, one a depth; the last is used beyond.
        merge: Maps (N, M) embeddings and (N, M) streams to the (N, M) rows that the block reads; or
            a list, one a block. A `Merge` is the quickest.
        norm: What the head reads the block's stream through; or a list. `nn.Identity()` for none.
        head_weight: (V, M) rows of the head; or a list.
        ids: (V,) tokens that they are of, rising (None: all).
        embedding: (W, M) embeddings of the model's tokens.
        config: Of the model whose block it is.
        depth: Most drafts behind each other that `plans` names.
        raw: Whether a block goes on from its stream as it is, not from the normalised one. Only the
            direction of the stream is passed on, so `merge` is to normalise it.
        drawn: Whether drafts are drawn from what the block thinks of them, not chosen. Chosen ones
            give the very text of plain decoding with the same seed.
        accuracies: Chances that a draft of depth d is agreed to, as far as they were measured.
        weights: "float32" or "int8": how the block is kept where the Numba engine serves it.
        name: For tables.

    Raises:
        ValueError: Sizes that do not fit together.
    """

    def __init__(
        self,
        block: nn.Module | Sequence[nn.Module],
        merge: Callable[[Tensor, Tensor], Tensor] | Sequence[Callable[[Tensor, Tensor], Tensor]],
        norm: nn.Module | Sequence[nn.Module],
        head_weight: Tensor | Sequence[Tensor],
        ids: Tensor | np.ndarray | None,
        embedding: Tensor,
        config: LlamaConfig,
        *,
        depth: int = 8,
        raw: bool = False,
        drawn: bool = False,
        accuracies: Sequence[float] = (),
        weights: Literal["float32", "int8"] = "float32",
        name: str = "block",
    ):
        blocks = _listed(block)
        self.merges, norms = _repeated(merge, len(blocks)), _repeated(norm, len(blocks))
        heads = _repeated(head_weight, len(blocks))
        for head in heads:
            _check_sizes(head, ids, embedding, config)
        self.ids = None if ids is None else np.asarray(torch.as_tensor(ids).cpu(), np.int64)
        self.embedding, self.config = embedding.detach(), config
        self.depth, self.raw, self.drawn, self.name = depth, raw, drawn, name
        self.accuracies, self.weights = tuple(accuracies), weights
        self.models = [
            _model(config, *parts) for parts in zip(blocks, norms, heads, strict=True)
        ]  # fmt: skip

    def plans(self) -> list[Plan]:
        return plans_within(self.depth, _CHAINS, _TREES)

    def chances(self, plan: Plan) -> np.ndarray:
        return chances_by_depth(self.accuracies or (_PRIOR,), plan)

    def open(self, engine: Any) -> Drafting:
        config = engine.config
        if (config.hidden_size, config.vocab_size) != (
            self.config.hidden_size, len(self.embedding),
        ):  # fmt: skip
            raise ValueError(
                f"{self.name} was made for a model of width {self.config.hidden_size} and "
                f"{len(self.embedding)} tokens; this one has {config.hidden_size} and "
                f"{config.vocab_size}"
            )
        modules = []
        for model, merge in zip(self.models, self.merges, strict=True):
            own = self._engine(model, getattr(engine, "threads", None))
            gain = getattr(model.model.norm, "weight", None)
            scale = None
            if self.raw and gain is not None:
                scale = gain.detach().float().cpu().numpy()
            modules.append(_Module(own, _Merging(merge, self.embedding), scale))
        return _BlockDrafting(modules, self)

    def _engine(self, model: Llama, threads: int | None) -> Engine:
        try:
            return engine_of(model, weights=self.weights, threads=threads)
        except ValueError:
            return engine_of(model, threads=threads)


class _Merging:
    """A merge of NumPy rows; what embeddings alone decide is made once a token."""

    def __init__(self, merge: Callable[[Tensor, Tensor], Tensor], embedding: Tensor):
        self.merge, self.embedding = merge, embedding
        self.halves = merge if isinstance(merge, Merge) else None
        if self.halves is not None:
            self.rows = np.empty(tuple(embedding.shape), np.float32)
            self.made = np.zeros(len(embedding), bool)
            width = embedding.shape[1]
            self.second = self.halves.fc.weight.detach()[:, width:].contiguous()

    def __call__(self, tokens: np.ndarray, streams: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            there = torch.from_numpy(streams).to(self.embedding)
            if self.halves is None:
                ids = torch.from_numpy(tokens).to(self.embedding.device)
                return self.merge(self.embedding[ids], there).float().cpu().numpy()
            new = tokens[~self.made[tokens]]
            if len(new):
                ids = torch.from_numpy(new).to(self.embedding.device)
                rows = self.halves.of_embeddings(self.embedding[ids])
                self.rows[new] = rows.float().cpu().numpy()
                self.made[new] = True
            norm = self.halves.hnorm
            there = nn.functional.linear(there if norm is None else norm(there), self.second)
            return there.float().cpu().numpy() + self.rows[tokens]


class _Module:
    """An engine of one block, with its pages and a name for each slot."""

    def __init__(self, engine: Engine, merging: _Merging, scale: np.ndarray | None):
        self.engine, self.merging, self.scale = engine, merging, scale
        self.pages = Pages(engine)
        self._named = 0

    def forward(
        self, tokens: np.ndarray, streams: np.ndarray, counts: Sequence[int], past: Sequence[int],
        tables: Sequence[Sequence[int]], logits: str,
    ) -> tuple[Any, np.ndarray]:  # fmt: skip
        """Scores and streams behind slots."""
        # A name is never used twice: the torch engine takes equal names for equal inputs.
        names = (np.arange(self._named, self._named + len(tokens)) % _NAMES).astype(np.int32)
        self._named += len(tokens)
        scores, found = self.engine.forward(
            self.pages.pool, names, counts, past, rectangular(tables), logits=logits, hidden=True,
            inputs=self.merging(tokens, streams),
        )  # fmt: skip
        return scores, found if self.scale is None else found / self.scale


@dataclasses.dataclass
class _Sequence:
    """What is known of a sequence.

    Attributes:
        sampling: How its tokens are drawn.
        known: Tokens so far.
        prompt: How many of them are the prompt's (-1: not told yet).
        draws: Draws that its drafts have taken.
        tokens: Tokens of slots that no block has read yet.
        streams: Their streams.
        held: Certain slots that each block holds.
        carried: Stream of the last one, in each block.
        scores: Scores behind the root, None where they are not known.
    """

    sampling: Any
    known: list[int]
    held: list[int]
    carried: list[np.ndarray | None]
    prompt: int = -1
    draws: int = 0
    tokens: list[np.ndarray] = dataclasses.field(default_factory=list)
    streams: list[np.ndarray] = dataclasses.field(default_factory=list)
    scores: np.ndarray | None = None

    def forget(self) -> None:
        """Begins anew: what was read is not followed by what comes."""
        self.tokens, self.streams, self.scores = [], [], None
        self.held = [0] * len(self.held)
        self.carried = [None] * len(self.carried)


class _BlockDrafting(Drafting):
    """A `BlockHead` at work."""

    hidden = True

    def __init__(self, modules: list[_Module], head: BlockHead):
        self.modules, self.head = modules, head
        self.sequences: dict[Hashable, _Sequence] = {}

    def add(self, key: Hashable, tokens: Sequence[int], sampling: Any) -> None:
        count = len(self.modules)
        self.sequences[key] = _Sequence(
            sampling, [int(token) for token in tokens], [0] * count, [None] * count
        )
        for module in self.modules:
            module.pages.add(key)

    def drop(self, key: Hashable) -> None:
        del self.sequences[key]
        for module in self.modules:
            module.pages.drop(key)

    def observe(
        self, keys: Sequence[Hashable], tokens: Sequence[np.ndarray],
        hidden: Sequence[np.ndarray | None],
    ) -> None:  # fmt: skip
        for key, new, streams in zip(keys, tokens, hidden, strict=True):
            one, new = self.sequences[key], np.asarray(new, np.int64)
            first = not one.known
            one.known += new.tolist()
            if one.prompt < 0:
                one.prompt = len(one.known) - 1
            if streams is None:
                one.forget()
            else:
                # The first token of a text was predicted from nothing: it has no slot.
                one.tokens.append(new[first:])
                one.streams.append(streams[first:])

    def draft(self, keys: Sequence[Hashable], plan: Plan) -> list[Draft]:
        self._read(keys)
        grown, ready = {}, []
        for key in keys:
            one = self.sequences[key]
            if one.scores is not None:
                ready.append(key)
                grown[key] = Growth(
                    plan, one.sampling, self.head.drawn, self.head.ids, len(self.head.embedding),
                    one.known, one.prompt, one.draws,
                )  # fmt: skip
                grown[key].extend(one.scores[None])
        if ready:
            self._grow(ready, grown, plan)
        for key, growth in grown.items():
            self.sequences[key].draws = growth.draws
        return [grown[key].draft() if key in grown else Draft.chain([]) for key in keys]

    def _read(self, keys: Sequence[Hashable]) -> None:
        """Lets the blocks read the slots that have become certain."""
        waiting = [self.sequences[key] for key in keys if self.sequences[key].tokens]
        names = [key for key in keys if self.sequences[key].tokens]
        tokens = [np.concatenate(one.tokens) for one in waiting]
        streams = [np.concatenate(one.streams) for one in waiting]
        for one in waiting:
            one.tokens, one.streams = [], []
        for at, module in enumerate(self.modules):
            some = [i for i, new in enumerate(tokens) if len(new)]
            waiting, names = [waiting[i] for i in some], [names[i] for i in some]
            tokens, streams = [tokens[i] for i in some], [streams[i] for i in some]
            if not some:
                return
            counts, past = [len(new) for new in tokens], [one.held[at] for one in waiting]
            tables = [
                module.pages.cover(key, held + count)
                for key, held, count in zip(names, past, counts, strict=True)
            ]
            scores, found = module.forward(
                np.concatenate(tokens), np.concatenate(streams), counts, past, tables,
                "none" if at else "last",
            )  # fmt: skip
            parts = np.split(found, np.cumsum(counts)[:-1])
            for i, (one, part) in enumerate(zip(waiting, parts, strict=True)):
                one.held[at] += len(part)
                if not at:
                    one.scores = scores[i]
                # The next block meets each stream with the token one further on.
                before = one.carried[at]
                one.carried[at] = part[-1]
                if before is None:
                    tokens[i], streams[i] = tokens[i][1:], part[:-1]
                else:
                    streams[i] = np.concatenate([before[None], part[:-1]])

    def _grow(self, keys: list[Hashable], grown: dict[Hashable, Growth], plan: Plan) -> None:
        """Goes on level by level, all sequences together."""
        last = len(self.modules) - 1
        branches = {key: _Branches(self.sequences[key], grown[key], plan, last) for key in keys}
        for level in range(1, plan.depth):
            number = min(level, last)
            live = [branches[key] for key in keys if grown[key].front]
            if not live:
                break
            module = self.modules[number]
            if level <= max(last, 1):
                for key in keys:
                    branches[key].enter(module.pages, key, number)
            parts = [part for branch in live for part in branch.slots()]
            tokens, streams, past, tables = zip(*parts, strict=True)
            counts = list(map(len, tokens))
            scores, found = module.forward(
                np.concatenate(tokens), np.concatenate(streams), counts, past, tables, "last"
            )
            found, at = np.split(found, np.cumsum(counts)[:-1]), 0
            for branch in live:
                count = len(branch.growth.front)
                branch.behind = dict(zip(branch.growth.front, found[at : at + count], strict=True))
                branch.growth.extend(scores[at : at + count])
                at += count
        for module in self.modules:
            module.pages.settle()


class _Branches:
    """The slots of a sequence's tree while it grows.

    Attributes:
        behind: Node in front to the (a, M) streams that the present block left on the path to it.
    """

    def __init__(self, one: _Sequence, growth: Growth, plan: Plan, last: int):
        self.one, self.growth, self.depth, self.last = one, growth, plan.depth, last
        self.behind: dict[int, np.ndarray] = {}
        self.fresh, self.held = True, 0

    def enter(self, pages: Pages, key: Hashable, number: int) -> None:
        """Goes on to the block of that number, which has read what is certain alone."""
        self.fresh, self.held = True, self.one.held[number]
        end = self.held + self.depth
        self.lanes = Lanes(pages, pages.cover(key, end), self.held, end)
        self.carried = self.one.carried[max(number - 1, 0)]

    def slots(self) -> list[tuple[np.ndarray, np.ndarray, int, list[int]]]:
        """Of each node in front: tokens, streams, slots before them, pages."""
        growth, found = self.growth, []
        tables = self.lanes.place(growth.front, growth.parents)
        for node, table in zip(growth.front, tables, strict=True):
            before = self.behind.get(growth.parents[node])
            if not self.fresh:
                assert before is not None
                before = before[-1:]
            elif self.carried is not None:
                # The block meets all of the path for the first time.
                parts = [self.carried[None], *([] if before is None else [before])]
                before = np.concatenate(parts)
            assert before is not None
            tokens = [growth.tokens[at] for at in growth.path(node)[-len(before) :]]
            found.append((np.array(tokens, np.int64), before, self.held, table))
        self.held += len(found[0][0])
        self.fresh = False
        return found


def _model(config: LlamaConfig, block: nn.Module, norm: nn.Module, head: Tensor) -> Llama:
    """A model of this one block."""
    sizes = config.replace(
        num_hidden_layers=1, vocab_size=len(head), tie_word_embeddings=False, mixer="gqa",
        mixer_options={}, n_routed_experts=0, kv_lora_rank=None,
    )  # fmt: skip
    model = Llama(sizes, device="meta")
    model.model.layers[0] = block
    model.model.norm = norm  # pyright: ignore[reportAttributeAccessIssue]
    model.model.embed_tokens = nn.Embedding(1, config.hidden_size).to(head)
    model.lm_head.weight = nn.Parameter(head.detach(), requires_grad=False)
    return model


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Sequence | nn.ModuleList) else [value]


def _repeated(value: Any, count: int) -> list[Any]:
    found = _listed(value)
    if len(found) not in (1, count):
        raise ValueError(f"{len(found)} parts for {count} blocks; one, or one a block, is expected")
    return found * count if len(found) == 1 else found


def _check_sizes(head: Tensor, ids: Any, embedding: Tensor, config: LlamaConfig) -> None:
    width = config.hidden_size
    if embedding.ndim != 2 or embedding.shape[1] != width:
        raise ValueError(f"embedding has shape {tuple(embedding.shape)}; (W, {width}) fits")
    rows = len(embedding) if ids is None else len(ids)
    if head.shape != (rows, width):
        raise ValueError(f"head_weight has shape {tuple(head.shape)}; ({rows}, {width}) fits")
    if head.device != embedding.device:
        raise ValueError(f"head_weight is on {head.device}, embedding on {embedding.device}")
    if ids is not None:
        known = np.asarray(torch.as_tensor(ids).cpu())
        if len(known) and (known.min() < 0 or known.max() >= len(embedding)
                           or (np.diff(known) <= 0).any()):  # fmt: skip
            raise ValueError(f"ids are to rise from 0 to at most {len(embedding) - 1}")
