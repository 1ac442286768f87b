r"""Latent attention: keys and values of all heads unfold from one small vector a token.

The cache holds the latent $c_t$ and one turned key $k^R_t$ for all heads, $d_c + d_r$ numbers;
each head's keys and values are linear in it,

$$ c_t = \mathrm{norm}(W^{DKV} x_t), \quad k^R_t = \mathrm{RoPE}(W^{KR} x_t), \quad
   k_{th} = [W^{UK}_h c_t;\; k^R_t], \quad v_{th} = W^{UV}_h c_t . $$

There are two ways to the same result. Expanded: compute all $k_{th}, v_{th}$ and attend as usual,
which is cheap per pair of tokens and right for many queries. Absorbed: move the matrices to the
other side,

$$ q_h^\top W^{UK}_h c_t = (W^{UK\top}_h q_h)^\top c_t, \qquad
   \sum_t a_t W^{UV}_h c_t = W^{UV}_h \Big(\sum_t a_t c_t\Big) , $$

so that all heads attend to the latent itself: nothing is unfolded, which is right for few queries.
The score factor is $(d_n + d_r)^{-1/2}$ both ways, times YaRN's square where it is used.

References:
    DeepSeek-AI (2024), DeepSeek-V2, arXiv:2405.04434, section 2.1 and appendix C (eq. 37-47).
    DeepSeek-AI (2024), DeepSeek-V3, arXiv:2412.19437, section 2.1.1.

Shapes: B rows, T time, M model width, H heads, N width without places, R width with places,
E value width, L rank of the latent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from paragone.mixers.cache import LatentCache
from paragone.mixers.contract import Mixer
from paragone.mixers.flash_attention import attention
from paragone.mixers.ops.decode.call import MOST_QUERIES, decode_attention
from paragone.mixers.rotary import Rotary, places

__all__ = ["LatentAttention"]


class LatentAttention(Mixer):
    """Multi-head latent attention of DeepSeek-V2 and V3.

    Prefer it to `GroupedQueryAttention` when the cache limits batch or context: 16 heads of 128
    take 576 numbers a token instead of 4096, and stay different. Prefer plain heads for short
    contexts; the way through the latent costs more arithmetic.

    Weights have the published names and load as they are: q_proj (or q_a_proj, q_a_layernorm,
    q_b_proj), kv_a_proj_with_mqa, kv_a_layernorm, kv_b_proj, o_proj.

    Args:
        width: Model width M.
        heads: Heads H.
        q_lora_rank: Rank of the queries (None: full).
        kv_lora_rank: Rank L of the latent (None: 4 N).
        qk_nope_head_dim: Width N of queries and keys that knows no place (None: M / H).
        qk_rope_head_dim: Width R that is turned by the place (None: N / 2).
        v_head_dim: Width E of values (None: N).
        causal: Whether outputs depend on the past alone.
        window: How many of the last keys a query sees, itself included (None: all).
        softcap: c in `c tanh(scores / c)`.
        rotary: How the R coordinates are turned (None: base 10000, interleaved).
        bias: Whether the projections from the model width and back have biases.
        absorb: "auto", or True or False to fix one of the two ways.
        dropout: Share of weights dropped in training.
        eps: Of the norms.
        cache_dtype: Type of the cache (None: that of x).
        backend: "auto", or a name from `paragone.kernels.choice.backends("attention")`.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: Sizes that do not fit.

    Example:
        >>> mixer = LatentAttention(64, heads=4)
        >>> y, cache = mixer(torch.randn(1, 10, 64))
        >>> mixer.step(torch.randn(1, 64), cache)[0].shape, cache.latent.shape
        (torch.Size([1, 64]), torch.Size([1, 10, 72]))
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        q_lora_rank: int | None = None,
        kv_lora_rank: int | None = None,
        qk_nope_head_dim: int | None = None,
        qk_rope_head_dim: int | None = None,
        v_head_dim: int | None = None,
        causal: bool = True,
        window: int | None = None,
        softcap: float | None = None,
        rotary: Rotary | None = None,
        bias: bool = False,
        absorb: bool | Literal["auto"] = "auto",
        dropout: float = 0.0,
        eps: float = 1e-6,
        cache_dtype: torch.dtype | None = None,
        backend: str = "auto",
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        if heads < 1 or (qk_nope_head_dim is None and width % heads):
            raise ValueError(
                f"width={width} is no multiple of heads={heads}; choose another number of heads "
                "or name qk_nope_head_dim"
            )
        if absorb not in (True, False, "auto"):
            raise ValueError(f"absorb={absorb!r} is none of 'auto', True, False")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}; a share from 0 to below 1 is expected")
        self.width, self.heads, self.causal = width, heads, causal
        self.nope = qk_nope_head_dim or width // heads
        self.rope = qk_rope_head_dim or 2 * max(self.nope // 4, 1)
        self.value_size = v_head_dim or self.nope
        self.rank = kv_lora_rank or 4 * self.nope
        self.rotary = rotary or Rotary(self.rope, layout="interleaved")
        if self.rotary.width != self.rope:
            raise ValueError(
                f"rotary turns {self.rotary.width} coordinates, qk_rope_head_dim={self.rope}; they "
                "must agree"
            )
        self.scale = (self.nope + self.rope) ** -0.5 * self.rotary.score_factor
        self.window, self.softcap, self.dropout = window, softcap, dropout
        self.absorb, self.cache_dtype, self.backend = absorb, cache_dtype, backend
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        queries = heads * (self.nope + self.rope)
        if q_lora_rank is None:
            self.q_proj = nn.Linear(width, queries, bias=False, **where)
        else:
            self.q_a_proj = nn.Linear(width, q_lora_rank, bias=bias, **where)
            self.q_a_layernorm = nn.RMSNorm(q_lora_rank, eps=eps, **where)
            self.q_b_proj = nn.Linear(q_lora_rank, queries, bias=False, **where)
        self.q_lora_rank = q_lora_rank
        self.kv_a_proj_with_mqa = nn.Linear(width, self.rank + self.rope, bias=bias, **where)
        self.kv_a_layernorm = nn.RMSNorm(self.rank, eps=eps, **where)
        unfolded = heads * (self.nope + self.value_size)
        self.kv_b_proj = nn.Linear(self.rank, unfolded, bias=False, **where)
        self.o_proj = nn.Linear(heads * self.value_size, width, bias=bias, **where)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the projections with variance 1 / (3 inputs), as torch does; norms start at 1."""
        for module in self.children():
            if isinstance(module, nn.Linear) and not module.weight.is_meta:
                nn.init.normal_(module.weight, std=1 / math.sqrt(3 * module.in_features))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.RMSNorm) and not module.weight.is_meta:
                nn.init.ones_(module.weight)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **options: Any) -> LatentAttention:
        """Builds one layer from a published `config.json` of the DeepSeek-V2 or V3 family.

        Args:
            config: The file's content.
            options: Further arguments of the class.

        Raises:
            ValueError: An entry is missing.
        """
        sizes = (
            "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim",
        )  # fmt: skip
        missing = {"hidden_size", "num_attention_heads", *sizes} - config.keys()
        if missing:
            raise ValueError(
                f"the configuration has no {', '.join(sorted(missing))}; that of a DeepSeek-V2 or "
                "V3 model has"
            )
        scaling = config.get("rope_parameters") or config.get("rope_scaling")
        base = (scaling or {}).get("rope_theta") or config.get("rope_theta") or 10000.0
        rotary = Rotary(
            config["qk_rope_head_dim"],
            base=base,
            layout="interleaved" if config.get("rope_interleave", True) else "half",
            scaling=scaling,
        )
        return cls(
            config["hidden_size"],
            config["num_attention_heads"],
            **{name: config[name] for name in sizes},
            rotary=rotary,
            bias=bool(config.get("attention_bias", False)),
            **options,
        )

    def new_cache(self, capacity: int = 0) -> LatentCache:
        """Returns an empty cache of the kind that this mixer fills.

        Args:
            capacity: Tokens to make room for at once (0: as the rows grow).
        """
        return LatentCache(capacity=capacity, dtype=self.cache_dtype, window=self.window)

    def _mix(
        self, x: Tensor, state: Any, positions: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Any]:
        time = x.shape[1]
        begun = state is not None and state.longest > 0
        q = self._queries(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        q_nope, q_rope = q.split((self.nope, self.rope), -1)
        c, k_rope = self.kv_a_proj_with_mqa(x).split((self.rank, self.rope), -1)
        at = places(0 if state is None else state.start, positions, time)
        wide = torch.promote_types(x.dtype, torch.float32)
        table = self.rotary.table(at, time, x, wide)
        q_rope = self.rotary.turn(q_rope, *table)
        k_rope = self.rotary.turn(k_rope[:, None], *table)[:, 0]
        latent = torch.cat([self.kv_a_layernorm(c), k_rope], -1)
        held, ends = latent, None if lengths is None else (lengths, lengths)
        if self.causal:
            state = (self.new_cache() if state is None else state).append(latent, lengths)
            if begun:
                held = state.filled[0].to(x.dtype)
                ends = _ends(x, lengths, state)
        if self._absorbs(time, held.shape[1]):
            q = torch.cat([self._into_latent(q_nope), q_rope], -1)
            y = self._out_of_latent(self._attend_latent(q, held, ends, state if begun else None))
        else:
            y = self._attend(torch.cat([q_nope, q_rope], -1), *self._unfolded(held), ends)
        return self.o_proj(y.transpose(1, 2).flatten(2)), state if self.causal else None

    def _queries(self, x: Tensor) -> Tensor:
        if self.q_lora_rank is None:
            return self.q_proj(x)
        return self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))

    def _rows(self) -> tuple[Tensor, Tensor]:
        """(H, N, L) and (H, E, L): what unfolds keys and values, views of `kv_b_proj`."""
        rows = self.kv_b_proj.weight.view(self.heads, self.nope + self.value_size, self.rank)
        return rows[:, : self.nope], rows[:, self.nope :]

    def _into_latent(self, q: Tensor) -> Tensor:
        """(B, H, T, N) to (B, H, T, L)."""
        up = self._rows()[0]
        return (
            torch.bmm(q.transpose(0, 1).flatten(1, 2), up)
            .unflatten(1, q.shape[::2])
            .transpose(0, 1)
        )

    def _out_of_latent(self, o: Tensor) -> Tensor:
        """(B, H, T, L) to (B, H, T, E)."""
        up = self._rows()[1].mT
        return (
            torch.bmm(o.transpose(0, 1).flatten(1, 2), up)
            .unflatten(1, o.shape[::2])
            .transpose(0, 1)
        )

    def _unfolded(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, L + R) to keys (B, H, C, N + R) and values (B, H, C, E)."""
        c, k_rope = latent.split((self.rank, self.rope), -1)
        both = self.kv_b_proj(c).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = both.split((self.nope, self.value_size), -1)
        return torch.cat([k, k_rope[:, None].expand(-1, self.heads, -1, -1)], -1), v

    def _absorbs(self, queries: int, keys: int) -> bool:
        if not isinstance(self.absorb, str):
            return self.absorb
        return absorbed_is_cheaper(
            queries, keys, self.heads, self.rank, self.nope, self.rope, self.value_size
        )

    def _attend_latent(
        self, q: Tensor, held: Tensor, ends: tuple[Tensor, Tensor] | None, cache: Any
    ) -> Tensor:
        wanted = torch.is_grad_enabled() and (q.requires_grad or held.requires_grad)
        quick = not (wanted or self.training or torch.compiler.is_compiling())
        if cache is not None and quick and q.shape[2] <= MOST_QUERIES:
            keys = cache.parts[0][:, None]
            return decode_attention(
                q, keys, keys[..., : self.rank], cache.lengths,
                queries=None if ends is None else ends[0], scale=self.scale,
                softcap=self.softcap, window=self.window,
                backend=self.backend if self.backend in ("torch", "numba") else "auto",
            )  # fmt: skip
        keys = held[:, None]
        return self._attend(q, keys, keys[..., : self.rank], ends)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, ends: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        return attention(
            q, k, v, causal=self.causal, window=self.window, softcap=self.softcap,
            scale=self.scale, lengths=ends, backend=self.backend,
            dropout=self.dropout if self.training else 0.0,
        )  # fmt: skip


def _by_head(x: Tensor, matrices: Tensor) -> Tensor:
    """(B, H, T, W) times (H, W, V), to (B, H, T, V)."""
    whole = torch.bmm(x.transpose(0, 1).flatten(1, 2), matrices)
    return whole.unflatten(1, x.shape[::2]).transpose(0, 1)


def absorbed_is_cheaper(
    queries: int, keys: int, heads: int, rank: int, nope: int, rope: int, values: int
) -> bool:
    """Whether attending to the latent takes less arithmetic than unfolding it.

    Args:
        queries: New tokens of a row.
        keys: Tokens of a row, the new ones included.
        heads: H.
        rank: L.
        nope: N.
        rope: R.
        values: E.

    Example:
        >>> absorbed_is_cheaper(1, 4096, 16, 512, 128, 64, 128)
        True
        >>> absorbed_is_cheaper(4096, 4096, 16, 512, 128, 64, 128)
        False
    """
    pairs = queries * (keys - queries) + queries * (queries + 1) / 2
    unfold = rank * (nope + values)
    expanded = keys * unfold + pairs * (nope + rope + values)
    absorbed = queries * unfold + pairs * (2 * rank + rope)
    return absorbed < expanded


def _ends(x: Tensor, lengths: Tensor | None, cache: Any) -> tuple[Tensor, Tensor] | None:
    if lengths is None and not cache.ragged:
        return None
    full = x.new_full(x.shape[:1], x.shape[1], dtype=torch.int64)
    return (full if lengths is None else lengths), cache.lengths
