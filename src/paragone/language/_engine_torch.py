"""The reference engine: the model itself, sequence by sequence, with states kept by content.

A state of a mixer is a value, so what a prefix leads to may be kept under the prefix itself. The
pool holds tokens, not keys; a sequence looks up the state of the tokens that its pages name, and
where none is kept (a draft was taken back, or it is long ago) it is computed anew. That serves
every mixer, and mixtures of experts, on every device.

Shapes: as in `engine`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import torch

from paragone.language.engine import Engine, Pool
from paragone.language.llama import LlamaOutput

__all__ = ["TokenPool", "TorchEngine"]

_KEPT = 64


class TokenPool(Pool):
    """Tokens in pages, and the states of the latest prefixes.

    Args:
        pages: How many.
        page_size: Tokens of a page.
    """

    def __init__(self, pages: int, page_size: int):
        super().__init__(pages, page_size)
        self.tokens = np.zeros((pages, page_size), np.int32)
        self.inputs: np.ndarray | None = None
        self.states: OrderedDict[bytes, Any] = OrderedDict()

    def copy(self, source: int, target: int) -> None:
        self.tokens[target] = self.tokens[source]
        if self.inputs is not None:
            self.inputs[target] = self.inputs[source]

    def grow(self, pages: int) -> None:
        more, self.pages = max(pages - self.pages, 0), max(pages, self.pages)
        self.tokens = np.pad(self.tokens, ((0, more), (0, 0)))
        if self.inputs is not None:
            self.inputs = np.pad(self.inputs, ((0, more), (0, 0), (0, 0)))

    def move(self, table: Any, sources: Any, targets: Any) -> None:
        if not np.array_equal(sources, targets):
            raise ValueError("drafts of the torch engine are chains; nothing of them moves")

    @property
    def bytes_per_page(self) -> int:
        return self.tokens[0].nbytes


class TorchEngine(Engine):
    """Decoding by the model's own forward pass.

    Args:
        model: A `Llama`, on any device.
    """

    backend, weights, trees = "torch", "float32", False

    def __init__(self, model: Any):
        self.config, self.model = model.config, model

    def new_pool(self, pages: int, page_size: int = 16) -> TokenPool:
        return TokenPool(pages, page_size)

    def refresh(self, model: Any) -> None:
        self.config, self.model = model.config, model

    def _forward(
        self, pool: TokenPool, tokens: np.ndarray, counts: np.ndarray, past: np.ndarray,
        tables: np.ndarray, logits: str, hidden: Any, positions: Any, seen: Any,
        inputs: Any,
    ) -> tuple[Any, Any]:  # fmt: skip
        if seen is not None or positions is not None:
            raise ValueError("the torch engine counts places itself and knows no trees of drafts")
        found, streams, trunks = [], [], []
        training = self.model.training
        last = self.model.model.layers[-1]
        watch = last.register_forward_pre_hook(lambda module, args: trunks.append(args[0]))
        self.model.eval()
        try:
            with torch.inference_mode():
                starts = np.cumsum(counts) - counts
                for start, count, held, table in zip(starts, counts, past, tables, strict=True):
                    new = tokens[start : start + count]
                    some = None if inputs is None else inputs[start : start + count]
                    one = self._one(pool, new, int(held), table, logits, some)
                    if one.logits is not None:
                        found.append(one.logits[0].float().cpu().numpy())
                    if hidden:
                        told = trunks[-1] if hidden == "trunk" else one.hidden
                        streams.append(told[0].float().cpu().numpy())
                    trunks.clear()
        finally:
            watch.remove()
            self.model.train(training)
        return np.concatenate(found) if found else None, np.concatenate(streams) if hidden else None

    def _one(
        self, pool: TokenPool, new: np.ndarray, held: int, table: np.ndarray, logits: str,
        inputs: Any,
    ) -> Any:  # fmt: skip
        size, end = pool.page_size, held + len(new)
        at = np.arange(held, end)
        pool.tokens[table[at // size], at % size] = new
        known = pool.tokens[table[: -(-end // size)]].reshape(-1)[:end]
        if inputs is not None:
            if pool.inputs is None:
                pool.inputs = np.zeros((*pool.tokens.shape, inputs.shape[1]), np.float32)
            pool.inputs[table[at // size], at % size] = inputs
            inputs = pool.inputs[table[: -(-end // size)]].reshape(-1, inputs.shape[1])
        kept, state = self._kept(pool, known, held)
        if kept < held:
            state = self._read(known, kept, held, inputs, state, False).state
            self._keep(pool, known[:held], state)
        want: Any = {"last": "last", "all": True, "none": False}[logits]
        out = self._read(known, held, end, inputs, state, want)
        self._keep(pool, known, out.state)
        return out

    def _kept(self, pool: TokenPool, known: np.ndarray, held: int) -> tuple[int, Any]:
        """The longest beginning of the first `held` tokens whose state is kept."""
        for count in range(held, 0, -1):
            state = pool.states.get(known[:count].tobytes())
            if state is not None:
                return count, state
        return 0, None

    def _keep(self, pool: TokenPool, known: np.ndarray, state: Any) -> None:
        pool.states[known.tobytes()] = state
        while len(pool.states) > _KEPT:
            pool.states.popitem(last=False)

    def _read(
        self, known: np.ndarray, first: int, end: int, inputs: Any, state: Any, logits: Any
    ) -> LlamaOutput:
        if inputs is None:
            return self.model(self._ids(known[first:end]), state=state, logits=logits)
        weight = self.model.lm_head.weight
        rows = torch.from_numpy(inputs[None, first:end]).to(weight.device, weight.dtype)
        h, states = self.model.model(rows, state)
        last = h[:, -1:] if logits == "last" else h
        return LlamaOutput(self.model.lm_head(last) if logits else None, h, states)

    def _ids(self, tokens: np.ndarray) -> torch.Tensor:
        device = self.model.model.embed_tokens.weight.device
        return torch.from_numpy(tokens.astype(np.int64))[None].to(device)
