"""The engine of GPUs: softmax attention over pages in PyTorch, all sequences of a step together.

New tokens of all sequences stand in one row for norms, matrices and experts; only attention looks
at sequences. A few queries a sequence meet their pages in the decode kernel; longer pieces of
prompts, and trees of drafts, gather their keys first.
Sums depend on what else is in the step, as those of torch's matrix products do: a batch agrees
with single calls to rounding, not to the bit.

Shapes: as in `engine`; T new tokens of the longest sequence.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from paragone.language.engine import Engine, Pool
from paragone.mixers.contract import packed_index
from paragone.mixers.flash_attention import attention
from paragone.mixers.heads import GroupedQueryAttention
from paragone.mixers.ops.decode.call import MOST_QUERIES, decode_attention
from paragone.mixers.ops.decode.reference import gathered

__all__ = ["PagedEngine", "TensorPool", "serves"]


_TILE = 64


class TensorPool(Pool):
    """Keys and values of each layer in pages, (pages, G, page, D).

    Args:
        pages: How many.
        page_size: Tokens of a page.
        model: A `Llama`: its heads, types and device.
    """

    def __init__(self, pages: int, page_size: int, model: Any):
        super().__init__(pages, page_size)
        self.parts: list[tuple[Tensor, Tensor]] = []
        for block in model.model.layers:
            mixer = block.self_attn
            weight = mixer.k_proj.weight
            self.parts.append((
                weight.new_zeros(pages, mixer.kv_heads, page_size, mixer.head_size),
                weight.new_zeros(pages, mixer.kv_heads, page_size, mixer.value_size),
            ))  # fmt: skip

    def copy(self, source: int, target: int) -> None:
        for part in (part for pair in self.parts for part in pair):
            part[target] = part[source]

    def grow(self, pages: int) -> None:
        more, self.pages = max(pages - self.pages, 0), max(pages, self.pages)
        self.parts = [(_longer(keys, more), _longer(values, more)) for keys, values in self.parts]

    def move(self, table: Any, sources: Any, targets: Any) -> None:
        table, sources, targets = (np.asarray(x, np.int64) for x in (table, sources, targets))
        old, new = divmod(sources, self.page_size), divmod(targets, self.page_size)
        for part in (part for pair in self.parts for part in pair):
            part[table[new[0]], :, new[1]] = part[table[old[0]], :, old[1]]

    @property
    def bytes_per_page(self) -> int:
        return sum(part[0].nbytes for pair in self.parts for part in pair)


def _longer(part: Tensor, more: int) -> Tensor:
    return torch.cat([part, part.new_zeros(more, *part.shape[1:])])


def serves(model: Any) -> bool:
    """Whether all layers of a model attend by softmax, with keys that pages can hold."""
    mixers = [block.self_attn for block in model.model.layers]
    return all(isinstance(mixer, GroupedQueryAttention) and mixer.causal for mixer in mixers)


class PagedEngine(Engine):
    """Decoding of many sequences at once by PyTorch, on the model's own weights.

    Args:
        model: A `Llama` of which `serves` is true, on any device.
    """

    backend, weights = "torch", "float32"

    def __init__(self, model: Any):
        self.config, self.model = model.config, model

    def new_pool(self, pages: int, page_size: int = 16) -> TensorPool:
        return TensorPool(pages, page_size, self.model)

    def refresh(self, model: Any) -> None:
        self.config, self.model = model.config, model

    def _forward(
        self, pool: TensorPool, tokens: np.ndarray, counts: np.ndarray, past: np.ndarray,
        tables: np.ndarray, logits: str, hidden: Any, positions: Any, seen: Any,
        inputs: Any,
    ) -> tuple[Any, Any]:  # fmt: skip
        device = self.model.model.embed_tokens.weight.device
        ids, more, held, named = (
            torch.from_numpy(x).to(device, torch.int64) for x in (tokens, counts, past, tables)
        )
        rows, at = packed_index(more)
        places = held[rows] + at
        turned = places if positions is None else torch.from_numpy(positions).to(device)
        step = _Step(pool, named, more, held, rows, at, places, turned, None)
        if seen is not None:
            step.seen = _visible(torch.from_numpy(seen).to(device).bool(), step)
        training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode():
                h = self.model.model.embed_tokens(ids if inputs is None else ids[:0])
                h = trunk = h if inputs is None else torch.from_numpy(inputs).to(h)
                for block, pages in zip(self.model.model.layers, pool.parts, strict=True):
                    trunk = h
                    h = h + _attended(block.self_attn, block.input_layernorm(h), pages, step)
                    h = h + block.mlp(block.post_attention_layernorm(h)[None])[0]
                h = self.model.model.norm(h)
                last = h[more.cumsum(0) - 1] if logits == "last" else h
                found = None if logits == "none" else self.model.lm_head(last).float().cpu().numpy()
                h = trunk if hidden == "trunk" else h
                return found, h.float().cpu().numpy() if hidden else None
        finally:
            self.model.train(training)


class _Step:
    """Where the new tokens are: sequence, number in it, place, and the angle's place."""

    def __init__(self, pool: TensorPool, tables: Tensor, more: Tensor, held: Tensor, rows: Tensor,
                 at: Tensor, places: Tensor, turned: Tensor, seen: Tensor | None):  # fmt: skip
        self.tables, self.more, self.ends = tables, more, held + more
        self.rows, self.at, self.turned, self.seen = rows, at, turned, seen
        self.pages, self.slots = tables[rows, places // pool.page_size], places % pool.page_size
        self.longest, self.held = int(more.max()), held


def _visible(seen: Tensor, step: _Step) -> Tensor:
    """(S, 1, T, K) of what each new token sees: all that was there, and its own branch."""
    new = seen.new_zeros(len(step.more), step.longest, step.longest)
    new[step.rows, step.at] = seen
    places = torch.arange(int(step.ends.max()), device=seen.device)
    order = places - step.held[:, None]
    found = (order < 0)[:, None].expand(-1, step.longest, -1)
    inside = (order >= 0) & (order < step.longest)
    branch = new.gather(2, order.clamp(0, step.longest - 1)[:, None].expand_as(found))
    return (found | (branch & inside[:, None]))[:, None]


def _attended(mixer: Any, x: Tensor, pages: tuple[Tensor, Tensor], step: _Step) -> Tensor:
    q = mixer.q_proj(x).unflatten(-1, (mixer.heads, -1))
    k = mixer.k_proj(x).unflatten(-1, (mixer.kv_heads, -1))
    v = mixer.v_proj(x).unflatten(-1, (mixer.kv_heads, -1))
    if mixer.q_norm is not None and mixer.k_norm is not None:
        q, k = mixer.q_norm(q), mixer.k_norm(k)
    if mixer.rotary is not None:
        q, k = (mixer.rotary(y.transpose(0, 1)[None], step.turned)[0].transpose(0, 1)
                for y in (q, k))  # fmt: skip
    keys, values = pages
    keys[step.pages, :, step.slots] = k.to(keys.dtype)
    values[step.pages, :, step.slots] = v.to(values.dtype)
    padded = q.new_zeros(len(step.more), mixer.heads, step.longest, mixer.head_size)
    padded[step.rows, :, step.at] = q
    options: dict[str, Any] = {
        "scale": mixer.scale, "softcap": mixer.softcap, "window": mixer.window,
        "sinks": mixer.sinks,
    }  # fmt: skip
    few = step.longest <= MOST_QUERIES and step.seen is None
    table = step.tables
    # The CPU's kernel reads whole tiles of keys.
    if not few or (not q.is_cuda and keys.shape[2] % _TILE):
        table, most = None, int(step.ends.max())
        keys, values = (gathered(part, step.tables, step.ends)[:, :, :most] for part in pages)
    if few:
        y = decode_attention(
            padded, keys, values, step.ends, queries=step.more, table=table, **options
        )
    else:
        if step.seen is not None:
            options["mask"] = step.seen
        y = attention(
            padded, keys.to(q.dtype), values.to(q.dtype), causal=step.seen is None,
            lengths=(step.more, step.ends), **options,
        )  # fmt: skip
    return mixer.o_proj(y[step.rows, :, step.at].flatten(1))
