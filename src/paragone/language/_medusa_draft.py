"""Medusa at work: one pass of all heads for all sequences, and a tree from it for each.

The first blocks of all heads read the same stream, so their matrices are one; a matrix that heads
share over the vocabulary is read once for all of them.

Shapes: R sequences, M width, d depth, V' drafted tokens, W guesses.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paragone.language._medusa_heads import MedusaHeads
from paragone.language.draft_trees import dynamic_tree
from paragone.language.drafting import Draft, Drafting, Plan
from paragone.language.ops.skinny.call import SkinnyWeights, skinny_linear

__all__ = ["HeadsPass", "MedusaDrafting"]


class HeadsPass:
    """All heads' scores of a few streams, without gradients.

    Args:
        heads: K heads.
        shared: (V', M) the model's matrix, where heads have none of their own.
        weights: "float32" or "int8", as of the engine that is drafted for.
        threads: Most threads (None: torch's number).
    """

    def __init__(
        self, heads: MedusaHeads, shared: Tensor, weights: str = "float32",
        threads: int | None = None,
    ):  # fmt: skip
        def pack(weight: Tensor, bias: Tensor | None = None) -> SkinnyWeights:
            return SkinnyWeights.pack(weight, bias, weights=weights)

        blocks = [heads.blocks(k) for k in range(len(heads))]
        self.threads, self.inner, self.width = threads, heads.inner or heads.width, heads.width
        self.layers, self.wide = heads.layers, bool(heads.inner)
        self.first = None
        if heads.layers:
            first = [each[0].linear for each in blocks]
            weight, bias = (torch.cat([getattr(x, n) for x in first]) for n in ("weight", "bias"))
            self.first = pack(weight, bias)
        self.later = [[pack(b.linear.weight, b.linear.bias) for b in own[1:]] for own in blocks]
        self.outs = [[pack(b.out.weight) for b in own] for own in blocks] if self.wide else []
        self.matrices = [
            pack(heads.matrix(k, shared)) for k in range(len(heads) if heads.words else 1)
        ]
        self.own = bool(heads.words)
        self.device, self.dtype = shared.device, shared.dtype
        if self.device.type == "cpu":
            self.dtype = torch.float32

    def _linear(self, x: Tensor, packed: SkinnyWeights) -> Tensor:
        return skinny_linear(x.contiguous(), packed, self.threads)

    @torch.no_grad()
    def __call__(self, hidden: np.ndarray, depth: int) -> Tensor:
        """(R, M) float32 streams to the (R, d, V') scores of the first heads."""
        h = torch.from_numpy(np.ascontiguousarray(hidden, np.float32)).to(self.device, self.dtype)
        streams = []
        inner = None if self.first is None else self._linear(h, self.first)
        for k in range(depth):
            x = h
            for layer in range(self.layers):
                if layer == 0 and inner is not None:
                    y = inner[:, k * self.inner : (k + 1) * self.inner]
                else:
                    y = self._linear(x, self.later[k][layer - 1])
                y = torch.nn.functional.silu(y)
                x = x + (self._linear(y, self.outs[k][layer]) if self.wide else y)
            streams.append(x)
        if self.own:
            return torch.stack(
                [self._linear(x, m) for x, m in zip(streams, self.matrices, strict=False)], 1
            )
        found = self._linear(torch.stack(streams, 1).flatten(0, 1), self.matrices[0])
        return found.reshape(len(h), depth, found.shape[-1])


class MedusaDrafting(Drafting):
    """Sequences that are drafted for.

    Args:
        run: The heads.
        ids: (V',) tokens of the drafted vocabulary; None: all.
        shape: Plan to a static tree; None: trees are dynamic.
    """

    hidden = True

    def __init__(self, run: HeadsPass, heads: int, ids: np.ndarray | None, shape: Any):
        self.run, self.heads, self.ids, self.shape = run, heads, ids, shape
        self._streams: dict[Hashable, np.ndarray | None] = {}
        self._heat: dict[Hashable, float] = {}

    def add(self, key: Hashable, tokens: Sequence[int], sampling: Any) -> None:
        self._streams[key] = None
        self._heat[key] = float(getattr(sampling, "temperature", 0.0)) or 1.0

    def observe(
        self, keys: Sequence[Hashable], tokens: Sequence[np.ndarray],
        hidden: Sequence[np.ndarray | None],
    ) -> None:  # fmt: skip
        for key, new, rows in zip(keys, tokens, hidden, strict=True):
            if len(new):
                # The stream that the root was predicted from; heads go on from there.
                self._streams[key] = None if rows is None else np.array(rows[-1], np.float32)

    def drop(self, key: Hashable) -> None:
        del self._streams[key], self._heat[key]

    def draft(self, keys: Sequence[Hashable], plan: Plan) -> list[Draft]:
        ready = [key for key in keys if self._streams[key] is not None]
        found = dict.fromkeys(keys, Draft.chain([]))
        if ready:
            depth = min(plan.depth, self.heads)
            scores = self.run(np.stack([self._streams[key] for key in ready]), depth)  # pyright: ignore
            found |= zip(ready, self._trees(scores, ready, plan), strict=True)
        return [found[key] for key in keys]

    def _trees(self, scores: Tensor, keys: list[Hashable], plan: Plan) -> list[Draft]:
        shape = None if self.shape is None else self.shape(plan)
        width = min(plan.width if shape is None else int(shape.ranks.max()) + 1, scores.shape[-1])
        best, ids = scores.topk(width, -1)
        guesses = ids.cpu().numpy()
        guesses = guesses if self.ids is None else self.ids[guesses]
        if shape is not None:
            return [shape.filled(own) for own in guesses]
        heat = torch.tensor([self._heat[key] for key in keys], device=scores.device)[:, None, None]
        whole = torch.logsumexp(scores.float() / heat, -1, keepdim=True)
        chances = (best.float() / heat - whole).clamp(max=0).double().cpu().numpy()
        return [dynamic_tree(p, plan).filled(own) for p, own in zip(chances, guesses, strict=True)]
