r"""Attention with many query heads and as many, some, or one head of keys and values.

Each head attends by itself; what differs is how many heads share keys and values. Decoding reads
the whole cache for every token, so its time is the cache's size:

$$ o_{h} = \mathrm{softmax}\!\big(\alpha\, q_h k_{g(h)}^\top\big)\, v_{g(h)}, \qquad
   g(h) = \lfloor h G / H \rfloor, \qquad y = W^O [o_1; \dots; o_H] , $$

with G = H (multi-head), 1 < G < H (grouped) or G = 1 (multi-query). A token takes G (D + E)
numbers of cache. Queries and keys are turned by their places (`rotary`), and may be normalised
first, which bounds the scores.

References:
    Vaswani et al. (2017), arXiv:1706.03762, section 3.2.2 (multi-head).
    Shazeer (2019), arXiv:1911.02150, section 3 (multi-query).
    Ainslie et al. (2023), arXiv:2305.13245, section 2.2 (grouped).
    Henry et al. (2020), arXiv:2010.04245 (normalised queries and keys).

Shapes: B rows, T time, M model width, H heads, G key heads, D and E widths of keys and values.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from paragone.mixers.cache import KeyValueCache
from paragone.mixers.contract import Mixer, packed_index
from paragone.mixers.flash_attention import attention, attention_packed
from paragone.mixers.ops.decode.call import MOST_QUERIES, decode_attention
from paragone.mixers.rotary import Rotary, places

__all__ = ["GroupedQueryAttention", "MultiHeadAttention", "MultiQueryAttention"]


class GroupedQueryAttention(Mixer):
    """Attention whose heads share keys and values in groups.

    Prefer it to `MultiHeadAttention` wherever the model will be decoded: with a quarter of the key
    heads the cache, and with it the time of a step, is a quarter, at next to no loss. Prefer
    `LatentAttention` if the cache must be smaller still and heads stay different.

    Weights have the names of the Llama family: q_proj, k_proj, v_proj, o_proj, q_norm, k_norm.

    Args:
        width: Model width M.
        heads: Heads H.
        kv_heads: Key heads G, a divisor of H (None: about a quarter of H).
        head_size: Width D of queries and keys (None: M / H).
        value_size: Width E of values (None: D).
        causal: Whether outputs depend on the past alone.
        window: How many of the last keys a query sees, itself included (None: all).
        softcap: c in `c tanh(scores / c)`.
        scale: Factor of the scores (None: 1 / sqrt(D)).
        rotary: Whether to turn queries and keys by their places, or a `Rotary` of your own.
        qk_norm: Whether queries and keys are normalised (RMS) before they are turned.
        bias: Whether projections have biases; "qkv" for all but the last.
        sinks: Whether each head learns the logit of a key without value.
        dropout: Share of weights dropped in training.
        cache_dtype: Type of the cache, e.g. torch.bfloat16 for half the bytes (None: that of x).
        backend: "auto", or a name from `paragone.kernels.choice.backends("attention")`.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: Sizes that do not fit.

    Example:
        >>> mixer = GroupedQueryAttention(64, heads=8, kv_heads=2)
        >>> y, cache = mixer(torch.randn(1, 10, 64))
        >>> mixer.step(torch.randn(1, 64), cache)[0].shape, cache.bytes_per_token
        (torch.Size([1, 64]), 128)
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        kv_heads: int | None = None,
        head_size: int | None = None,
        value_size: int | None = None,
        causal: bool = True,
        window: int | None = None,
        softcap: float | None = None,
        scale: float | None = None,
        rotary: bool | Rotary = True,
        qk_norm: bool = False,
        bias: bool | Literal["qkv"] = False,
        sinks: bool = False,
        dropout: float = 0.0,
        cache_dtype: torch.dtype | None = None,
        backend: str = "auto",
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        if heads < 1 or (head_size is None and width % heads):
            raise ValueError(
                f"width={width} is no multiple of heads={heads}; choose another number of heads "
                "or name head_size"
            )
        kv_heads = _quarter(heads) if kv_heads is None else kv_heads
        if kv_heads < 1 or heads % kv_heads:
            raise ValueError(
                f"heads={heads} is no multiple of kv_heads={kv_heads}; choose a divisor"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}; a share from 0 to below 1 is expected")
        if window is not None and window < 1:
            raise ValueError(f"window={window}; at least the token itself is seen")
        self.width, self.heads, self.kv_heads, self.causal = width, heads, kv_heads, causal
        self.head_size = width // heads if head_size is None else head_size
        self.value_size = self.head_size if value_size is None else value_size
        self.window, self.softcap, self.dropout, self.backend = window, softcap, dropout, backend
        self.scale = self.head_size**-0.5 if scale is None else scale
        self.cache_dtype = cache_dtype
        self.rotary = (
            rotary if isinstance(rotary, Rotary) else Rotary(self.head_size) if rotary else None
        )
        inner: dict[str, Any] = {"bias": bool(bias), "device": device, "dtype": dtype}
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.q_proj = nn.Linear(width, heads * self.head_size, **inner)
        self.k_proj = nn.Linear(width, kv_heads * self.head_size, **inner)
        self.v_proj = nn.Linear(width, kv_heads * self.value_size, **inner)
        self.o_proj = nn.Linear(heads * self.value_size, width, bias=bias is True, **where)
        self.q_norm = nn.RMSNorm(self.head_size, eps=1e-6, **where) if qk_norm else None
        self.k_norm = nn.RMSNorm(self.head_size, eps=1e-6, **where) if qk_norm else None
        self.sinks = nn.Parameter(torch.empty(heads, **where)) if sinks else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws projections of variance 1 / (3 inputs); sinks start at 0, norms at 1."""
        for module in (self.q_proj, self.k_proj, self.v_proj, self.o_proj):
            if not module.weight.is_meta:
                nn.init.normal_(module.weight, std=1 / math.sqrt(3 * module.in_features))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for norm in (self.q_norm, self.k_norm):
            if norm is not None and not norm.weight.is_meta:
                nn.init.ones_(norm.weight)
        if self.sinks is not None and not self.sinks.is_meta:
            nn.init.zeros_(self.sinks)

    def new_cache(self, capacity: int = 0) -> KeyValueCache:
        """Returns an empty cache of the kind that this mixer fills.

        Args:
            capacity: Tokens to make room for at once (0: as the rows grow).
        """
        return KeyValueCache(capacity=capacity, dtype=self.cache_dtype, window=self.window)

    def _mix(
        self, x: Tensor, state: Any, positions: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Any]:
        table = None
        if self.rotary is not None:
            at = places(0 if state is None else state.start, positions, x.shape[1])
            wide = torch.promote_types(x.dtype, torch.float32)
            table = self.rotary.table(at, x.shape[1], x, wide)
        q, k, v = self._projected(x, table)
        if not self.causal:
            y = self._attend(q, k, v, lengths, None)
        else:
            begun = state is not None and state.longest > 0
            state = (self.new_cache() if state is None else state).append(k, v, lengths)
            y = self._go_on(q, state, lengths) if begun else self._attend(q, k, v, lengths, None)
        return self.o_proj(y.transpose(1, 2).flatten(2)), state

    def _projected(
        self, x: Tensor, table: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, M) to queries (B, H, T, D), keys (B, G, T, D), turned, and values (B, G, T, E)."""
        q = self.q_proj(x).unflatten(-1, (self.heads, -1))
        k = self.k_proj(x).unflatten(-1, (self.kv_heads, -1))
        v = self.v_proj(x).unflatten(-1, (self.kv_heads, -1)).transpose(1, 2)
        if self.q_norm is not None and self.k_norm is not None:
            # Under autocast norms give float32.
            q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        if table is None or self.rotary is None:
            return q.transpose(1, 2), k.transpose(1, 2), v
        return self.rotary.turn_early(q, *table), self.rotary.turn_early(k, *table), v

    def _packed(
        self, x: Tensor, state: Any, positions: Tensor | None, lengths: Tensor
    ) -> tuple[Tensor, Any]:
        """Rows stay packed, so that no arithmetic is spent on padding."""
        if state is not None or not x.shape[1]:
            return super()._packed(x, state, positions, lengths)
        table = None
        if self.rotary is not None:
            wide = torch.promote_types(x.dtype, torch.float32)
            if positions is None:
                at = packed_index(lengths)[1]
                cos, sin = self.rotary.table(0, int(lengths.max()), x, wide)
                table = (cos[at], sin[at])
            else:
                table = self.rotary.table(positions, x.shape[1], x, wide)
        q, k, v = self._projected(x, table)
        y = attention_packed(
            q[0].transpose(0, 1), k[0].transpose(0, 1), v[0].transpose(0, 1), lengths,
            causal=self.causal,
            window=self.window, softcap=self.softcap, scale=self.scale, sinks=self.sinks,
            backend=self.backend, dropout=self.dropout if self.training else 0.0,
        )  # fmt: skip
        y = self.o_proj(y.flatten(1))[None]
        return y, self.new_cache().adopt_packed(k, v, lengths) if self.causal else None

    def _go_on(self, q: Tensor, cache: Any, more: Tensor | None) -> Tensor:
        if q.shape[2] <= MOST_QUERIES and not _tracked(q, cache):
            table, (keys, values) = getattr(cache, "table", None), cache.parts
            return decode_attention(
                q, keys, values, cache.lengths, queries=more, table=table, scale=self.scale,
                softcap=self.softcap, window=self.window, sinks=self.sinks,
                backend=_for_decode(self.backend),
            )  # fmt: skip
        keys, values = (part.to(q.dtype) for part in cache.filled)
        return self._attend(q, keys, values, more, cache.lengths if cache.ragged else None)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, more: Tensor | None, held: Tensor | None
    ) -> Tensor:
        """`more`: tokens of each row that are new; `held`: that it has (None: all, or as many)."""
        ends = None
        if more is not None or held is not None:
            full = q.new_full(q.shape[:1], q.shape[2], dtype=torch.int64)
            more = full if more is None else more
            same = q.shape[2] == k.shape[2]
            whole = more if same else torch.full_like(full, k.shape[2])
            ends = (more, whole if held is None else held)
        return attention(
            q, k, v, causal=self.causal, window=self.window, softcap=self.softcap,
            scale=self.scale, sinks=self.sinks, lengths=ends, backend=self.backend,
            dropout=self.dropout if self.training else 0.0,
        )  # fmt: skip


class MultiHeadAttention(GroupedQueryAttention):
    """Attention whose heads have keys and values of their own.

    Prefer it where the cache does not matter (training of small models, encoders);
    `GroupedQueryAttention` decodes several times as fast from a long context.

    Args:
        width: Model width M.
        heads: Heads H.
        options: Further arguments of `GroupedQueryAttention`, but for `kv_heads`.

    Example:
        >>> MultiHeadAttention(64, heads=4, window=16)(torch.randn(2, 50, 64))[0].shape
        torch.Size([2, 50, 64])
    """

    def __init__(self, width: int, heads: int, **options: Any):
        super().__init__(width, heads, kv_heads=heads, **options)


class MultiQueryAttention(GroupedQueryAttention):
    """Attention whose heads share one head of keys and values.

    Prefer it where the smallest cache of plain keys and values is wanted;
    `GroupedQueryAttention` loses less in quality.

    Args:
        width: Model width M.
        heads: Heads H.
        options: Further arguments of `GroupedQueryAttention`, but for `kv_heads`.

    Example:
        >>> mixer = MultiQueryAttention(64, heads=8)
        >>> mixer(torch.randn(1, 10, 64))[1].bytes_per_token
        64
    """

    def __init__(self, width: int, heads: int, **options: Any):
        super().__init__(width, heads, kv_heads=1, **options)


def _quarter(heads: int) -> int:
    return max(g for g in range(1, max(heads // 4, 1) + 1) if heads % g == 0)


def _tracked(q: Tensor, cache: Any) -> bool:
    """Whether a gradient is wanted, or the call is being traced: then `attention` serves."""
    wanted = torch.is_grad_enabled() and (q.requires_grad or cache.parts[0].requires_grad)
    return wanted or torch.compiler.is_compiling()


def _for_decode(backend: str) -> str:
    return backend if backend in ("auto", "torch", "numba") else "auto"
