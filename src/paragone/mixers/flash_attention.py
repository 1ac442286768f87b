r"""Exact attention in memory linear in length, with everything that models put into it.

Softmax needs the maximum and the sum of a row, and both can be corrected as later columns come.
So keys are visited tile by tile, and of the scores only one tile exists at a time:

$$ m' = \max(m, \max_j s_j), \quad \ell' = e^{m - m'} \ell + \sum_j e^{s_j - m'}, \quad
   o' = e^{m - m'} o + \sum_j e^{s_j - m'} v_j , $$

and at the end $o / \ell$ is the output and $m + \log \ell$ the logarithm of the sum, from which
the backward pass computes each weight again. Tiles that causality, window, lengths or mask leave
empty are never visited. Time $O(T^2 D)$ times the share of tiles that are visited.

References:
    Milakov and Gimelshein (2018), arXiv:1805.02867, algorithm 3 (the running maximum and sum).
    Dao et al. (2022), arXiv:2205.14135, algorithms 1 and 4; Dao (2023), arXiv:2307.08691.
    Press et al. (2022), arXiv:2108.12409 (ALiBi); Xiao et al. (2023), arXiv:2309.17453 (sinks).
    Gemma Team (2024), arXiv:2408.00118, section 2 (soft-capping of the scores).

Shapes: B rows, H heads, G key heads, T time, D and E widths of keys and values, M model width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from paragone.mixers._attention_checks import checked_extras, checked_rule, checked_tensors
from paragone.mixers.contract import Mixer
from paragone.mixers.ops.attention.block_mask import BlockMask
from paragone.mixers.ops.attention.call import attend
from paragone.mixers.ops.attention.ladder import METHODS, climb

__all__ = ["BlockMask", "FlashAttention", "FlashState", "attention", "attention_packed"]

Alignment = Literal["bottom-right", "top-left"]
Method = Literal["auto", "three-pass", "two-pass", "online", "tiled"]


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    alignment: Alignment = "bottom-right",
    window: int | tuple[int | None, int | None] | None = None,
    mask: Tensor | BlockMask | None = None,
    bias: Tensor | None = None,
    softcap: float | None = None,
    scale: float | None = None,
    alibi: Tensor | bool | None = None,
    sinks: Tensor | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    lengths: Tensor | tuple[Tensor, Tensor] | None = None,
    return_lse: bool = False,
    method: Method = "auto",
    backend: str = "auto",
) -> Any:
    """Softmax attention of queries to keys.

    Prefer it to torch's `scaled_dot_product_attention` for causal or windowed attention, masks
    with empty blocks, grouped heads, rows of unequal length and trained biases; results are the
    same. A query that sees no key gets 0, not the mean of the values and not NaN.

    Args:
        q: (B, H, Tq, D) queries: float32, bfloat16 and float16 have kernels, float64 is exact.
        k: (B, G, Tk, D) keys, H a multiple of G; head h uses key head h // (H / G).
        v: (B, G, Tk, E) values.
        causal: Whether a query sees only keys up to its own place.
        alignment: Place of query i: "bottom-right" i + Tk - Tq (the last query at the last key,
            as in decoding), "top-left" i.
        window: w: the last w keys up to the query's place, itself included; (left, right): so many
            before and behind it, None for all.
        mask: Bool, broadcast to (B, H, Tq, Tk), True where a query may see a key; or a `BlockMask`,
            of which empty blocks cost nothing.
        bias: Added to the scores after softcap, broadcast alike; gets a gradient if it wants one.
        softcap: c in `c tanh(scores / c)`.
        scale: Factor of the scores (None: 1 / sqrt(D)).
        alibi: (H,) or (B, H) slopes a: `a |place - j|` is subtracted; True for the usual ones,
            2^(-8 (h + 1) / H).
        sinks: (H,) logits of a key without value that every query sees.
        dropout: Share of weights dropped; which ones depends on the seed and the place alone.
        seed: Of dropout (None: drawn from `generator`).
        generator: Of the seed (None: torch's own).
        lengths: (B,) keys that count in each row, and queries too where Tq = Tk; or a pair, those
            of queries and of keys. What stands behind them may be NaN. Places follow the lengths.
        return_lse: Whether to return the (B, H, Tq) natural logarithms of the sums, too (without
            the sinks); -inf where a query sees no key. Gradients flow through them.
        method: "auto" for the kernels, or a step of the ladder in `ops.attention.ladder`.
        backend: "auto", or a name from `paragone.kernels.choice.backends("attention")`.

    Returns:
        (B, H, Tq, E) of the type of q, or a pair of it and the logarithms.

    Raises:
        ValueError: Shapes, types, devices or options that do not fit.

    Example:
        >>> q, k, v = torch.randn(3, 1, 4, 100, 16)
        >>> attention(q, k[:, :2], v[:, :2], causal=True, window=10).shape
        torch.Size([1, 4, 100, 16])
    """
    checked_tensors(q, k, v, packed=False)
    rule = checked_rule(q, causal, alignment, window, softcap, scale, dropout, seed, generator)
    extras = checked_extras(q, k, v, lengths, None, mask, bias, alibi)
    if method == "auto":
        out, lse = attend(q, k, v, rule, extras, backend)
    elif method in METHODS:
        out, lse = climb(method, q, k, v, rule, extras)
    else:
        raise ValueError(f"method={method!r} is none of auto, {', '.join(METHODS)}")
    if sinks is not None:
        out = _drained(out, lse, sinks)
    return (out, lse) if return_lse else out


def attention_packed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths_q: Tensor,
    lengths_k: Tensor | None = None,
    *,
    causal: bool = False,
    alignment: Alignment = "bottom-right",
    window: int | tuple[int | None, int | None] | None = None,
    softcap: float | None = None,
    scale: float | None = None,
    alibi: Tensor | bool | None = None,
    sinks: Tensor | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    return_lse: bool = False,
    backend: str = "auto",
) -> Any:
    """Attention within rows of unequal length that stand one behind the other, without padding.

    Prefer it to `attention` with `lengths` where much of a batch would be padding.

    Args:
        q: (sum of lengths_q, H, D).
        k: (sum of lengths_k, G, D).
        v: (sum of lengths_k, G, E).
        lengths_q: (N,) queries of each row; zero is allowed.
        lengths_k: (N,) keys of each row (None: as many as queries).
        causal: As in `attention`.
        alignment: As in `attention`, within each row.
        window: As in `attention`.
        softcap: As in `attention`.
        scale: As in `attention`.
        alibi: As in `attention`; (N, H) for slopes of each row.
        sinks: As in `attention`.
        dropout: As in `attention`.
        seed: As in `attention`.
        generator: As in `attention`.
        return_lse: Whether to return (sum of lengths_q, H) logarithms, too.
        backend: As in `attention`.

    Returns:
        (sum of lengths_q, H, E), or a pair.

    Raises:
        ValueError: Shapes, types or sums of lengths that do not fit.

    Example:
        >>> x = torch.randn(7, 2, 8)
        >>> attention_packed(x, x, x, torch.tensor([4, 0, 3]), causal=True).shape
        torch.Size([7, 2, 8])
    """
    checked_tensors(q, k, v, packed=True)
    rule = checked_rule(q, causal, alignment, window, softcap, scale, dropout, seed, generator)
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    pair = (lengths_q, lengths_q if lengths_k is None else lengths_k)
    extras = checked_extras(q, k, v, None, pair, None, None, alibi)
    out, lse = attend(q, k, v, rule, extras, backend)
    if sinks is not None:
        out = _drained(out, lse, sinks)
    out, lse = out[0].transpose(0, 1), lse[0].transpose(0, 1)
    return (out, lse) if return_lse else out


def _drained(out: Tensor, lse: Tensor, sinks: Tensor) -> Tensor:
    """Takes from each query the share that the sink gets: e^s / (e^s + e^lse)."""
    if sinks.shape != out.shape[1:2] or not sinks.is_floating_point():
        raise ValueError(
            f"sinks is {sinks.dtype} of shape {tuple(sinks.shape)}; floats of shape "
            f"({out.shape[1]},), one for each head, are expected"
        )
    none = lse == -torch.inf
    left = torch.sigmoid(lse.masked_fill(none, 0) - sinks.to(lse.dtype)[:, None])
    return (out * left.masked_fill(none, 0)[..., None]).to(out.dtype)


class FlashState(NamedTuple):
    """Keys and values seen so far.

    Attributes:
        keys: (B, G, T, D).
        values: (B, G, T, D).
        lengths: (B,) how many of them count in each row.
    """

    keys: Tensor
    values: Tensor
    lengths: Tensor


class FlashAttention(Mixer):
    """Multi-head attention on `attention`, with the kernels' options as arguments.

    Prefer it to `torch.nn.MultiheadAttention` for causal, windowed or soft-capped attention and
    grouped heads; `MultiHeadAttention` and its kin add caches that are written in place.

    Args:
        width: Model width M.
        heads: Heads H.
        kv_heads: Key heads G, a divisor of H (None: H).
        head_size: Width D of a head (None: M / H).
        causal: Whether outputs depend on the past alone.
        window: Keys that a query sees, as in `attention`.
        softcap: As in `attention`.
        alibi: Whether to subtract a multiple of the distance from the scores.
        sinks: Whether each head learns the logit of a key without value.
        dropout: Share of weights dropped in training.
        rotary: Called with (B, H, T, D) and positions (B, T), it rotates queries and keys.
        bias: Whether the projections have biases.
        backend: As in `attention`.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Example:
        >>> mixer = FlashAttention(64, heads=4, kv_heads=2, window=16)
        >>> mixer(torch.randn(2, 50, 64))[0].shape
        torch.Size([2, 50, 64])
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        kv_heads: int | None = None,
        head_size: int | None = None,
        causal: bool = True,
        window: int | tuple[int | None, int | None] | None = None,
        softcap: float | None = None,
        alibi: bool = False,
        sinks: bool = False,
        dropout: float = 0.0,
        rotary: Callable[[Tensor, Tensor], Tensor] | None = None,
        bias: bool = False,
        backend: str = "auto",
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        kv_heads = heads if kv_heads is None else kv_heads
        if heads < 1 or kv_heads < 1 or heads % kv_heads:
            raise ValueError(f"heads={heads} is no multiple of kv_heads={kv_heads}")
        if head_size is None and width % heads:
            raise ValueError(
                f"width={width} is no multiple of heads={heads}; choose another number of heads "
                "or name head_size"
            )
        self.width, self.heads, self.kv_heads, self.causal = width, heads, kv_heads, causal
        self.head_size = width // heads if head_size is None else head_size
        self.window, self.softcap, self.alibi, self.backend = window, softcap, alibi, backend
        self.dropout, self.rotary = dropout, rotary
        where: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype}
        self.q_proj = nn.Linear(width, heads * self.head_size, **where)
        self.k_proj = nn.Linear(width, kv_heads * self.head_size, **where)
        self.v_proj = nn.Linear(width, kv_heads * self.head_size, **where)
        self.o_proj = nn.Linear(heads * self.head_size, width, **where)
        self.sinks = nn.Parameter(torch.empty(heads, device=device, dtype=dtype)) if sinks else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the projections with variance 1 / (3 inputs), as torch does; sinks start at 0."""
        for module in (self.q_proj, self.k_proj, self.v_proj, self.o_proj):
            if not module.weight.is_meta:
                nn.init.normal_(module.weight, std=1 / math.sqrt(3 * module.in_features))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.sinks is not None and not self.sinks.is_meta:
            nn.init.zeros_(self.sinks)

    def _mix(
        self, x: Tensor, state: Any, positions: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Any]:
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_size)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        rows, _, time, _ = q.shape
        known = x.new_zeros(rows, dtype=torch.int64) if state is None else state.lengths
        if self.rotary is not None:
            later = known[:, None] + torch.arange(time, device=x.device)
            places = later if positions is None else positions
            q, k = self.rotary(q, places), self.rotary(k, places)
        more = x.new_full((rows,), time, dtype=torch.int64) if lengths is None else lengths
        ends: Any = None if lengths is None else (lengths, lengths)
        if state is not None:
            k, v = _joined(state.keys, k, known), _joined(state.values, v, known)
            ends = (more, known + more)
        y = attention(
            q, k, v, causal=self.causal, window=self.window, softcap=self.softcap,
            alibi=self.alibi, sinks=self.sinks, lengths=ends, backend=self.backend,
            dropout=self.dropout if self.training else 0.0,
        )  # fmt: skip
        y = self.o_proj(y.transpose(1, 2).flatten(2))
        return y, FlashState(k, v, known + more) if self.causal else None


def _joined(old: Tensor, new: Tensor, known: Tensor) -> Tensor:
    """Puts the new tokens of each row behind those of the old ones that count."""
    both = torch.cat([old, new], dim=2)
    at = torch.arange(both.shape[2], device=both.device)
    skipped = (old.shape[2] - known)[:, None]
    place = torch.where(at < known[:, None], at, (at + skipped).clamp(max=both.shape[2] - 1))
    return both.gather(2, place[:, None, :, None].expand(-1, both.shape[1], -1, both.shape[3]))
