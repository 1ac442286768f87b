r"""Sparse attention: softmax over a fixed set of keys, at a cost that follows the set's size.

$$ o_i = \sum_{j \in S_i} \mathrm{softmax}_{j \in S_i}\!\Big(\frac{q_i^\top k_j}{\sqrt D}\Big) v_j,
   \qquad S_i^{\text{strided}} = \{j : i - j < l\} \cup \{j : (i - j) \bmod l = 0\} . $$

With l near the root of T, two such layers let any token reach any earlier one. What is particular
here: masks are exact to the element at the edges of blocks; the union is one softmax ("merged") or
one set a head ("per-head"); and the columns of the strided pattern, which touch every block,
become short dense rows when tokens are ordered by their place modulo l.

Cost: O(T |S| D). Reference: all pairs, with the pattern as a mask.

References:
    Child et al. (2019), "Generating long sequences with sparse transformers", arXiv:1904.10509,
    section 4.3; Zaheer et al. (2020), "Big Bird", arXiv:2007.14062.

Shapes: B rows, H heads, T time, S held and new tokens, D head width, M model width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone.mixers._cheap_patterns import PARTS, PATTERNS, Pattern
from paragone.mixers._cheap_rows import held_by, places_of, turned_by
from paragone.mixers.cache import KeyValueCache
from paragone.mixers.contract import Mixer
from paragone.mixers.flash_attention import attention
from paragone.mixers.rotary import Rotary

__all__ = ["SparseAttention", "masked", "sparse_attention"]


class SparseAttention(Mixer):
    """Multi-head attention over a fixed pattern; its state is a `KeyValueCache`.

    Prefer it to `MultiHeadAttention` where it is known which tokens matter: the near ones, every
    l-th (images by rows, music by bars), or a few that summarise. Prefer `Performer` or
    `LinearAttention` where it is not.

    Args:
        width: Model width M; a multiple of `heads`.
        heads: Heads H.
        pattern: "strided", "fixed", "local", "bigbird"; a function of places (i, j) that tells
            which pairs count; or a mask (T, T) or (H, T, T) of pairs, with `block` of blocks.
        stride: l, of the first three.
        summary: c, last columns of each block that "fixed" keeps in sight (None: l / 16).
        block: Side of the blocks of "bigbird" (64) or of a mask.
        random: Drawn blocks of "bigbird".
        form: "merged", or "per-head": heads take the two sets of "strided" or "fixed" in turn.
        causal: Whether a token sees the past alone, on top of the pattern.
        rotary: Whether queries and keys are turned by their places.
        bias: Whether projections have a bias.
        backend: "auto", or a name from `paragone.kernels.choice.backends("attention")`.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: An option out of range.

    Example:
        >>> y, _ = SparseAttention(64, heads=4, pattern="fixed", stride=16)(torch.randn(2, 100, 64))
        >>> y.shape
        torch.Size([2, 100, 64])
    """

    def __init__(
        self,
        width: int,
        heads: int,
        pattern: str | Callable[[Tensor, Tensor], Tensor] | Tensor = "strided",
        *,
        stride: int = 128,
        summary: int | None = None,
        block: int | None = None,
        random: int = 2,
        form: str = "merged",
        causal: bool = True,
        rotary: bool = True,
        bias: bool = False,
        backend: str = "auto",
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"width={width} is no multiple of heads={heads}")
        if rotary and width // heads % 2:
            raise ValueError(f"heads of width {width // heads} cannot be turned; set rotary=False")
        self.width, self.heads, self.causal, self.backend = width, heads, causal, backend
        self.rotary = Rotary(width // heads) if rotary else None
        summary = max(1, stride // 16) if summary is None else summary
        self.patterns = _patterns_for(
            pattern, form, heads, causal=causal, stride=stride, summary=summary, block=block,
            random=random,
        )  # fmt: skip
        where: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype}
        self.to_qkv = nn.Linear(width, 3 * width, **where)
        self.to_out = nn.Linear(width, width, **where)

    def _mix(
        self, x: Tensor, state: Any, positions: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Any]:
        q, k, v = self.to_qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        start = 0 if state is None else state.start
        if self.rotary is not None:
            places = turned_by(start, x.shape[1]) if positions is None else positions
            q, k = self.rotary(q, places), self.rotary(k, places)
        cache = None
        if self.causal:
            cache = (KeyValueCache() if state is None else state).append(k, v, lengths)
            if state is not None:
                k, v = held_by(cache)
        parts, more = [], {"lengths": None if self.causal else lengths, "backend": self.backend}
        for at, pattern in enumerate(self.patterns):
            head = slice(at, None, len(self.patterns))
            begin = None if state is None else start
            parts.append(
                sparse_attention(q[:, head], k[:, head], v[:, head], pattern, start=begin, **more)
            )
        y = parts[0] if len(parts) == 1 else torch.stack(parts, dim=2).flatten(1, 2)
        return self.to_out(y.transpose(1, 2).flatten(2)), cache


def sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    *,
    start: int | Tensor | None = None,
    lengths: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Returns (B, H, T, D): attention over the pairs of a pattern; 0 where a query sees none.

    Args:
        q: (B, H, T, D).
        k: (B, H, S, D).
        v: (B, H, S, D).
        pattern: Which pairs count.
        start: Place of the first query, or (B,) of them, behind a state (None: no state). The
            first key's is 0.
        lengths: (B,) keys that count, if not causal.
        backend: As for `attention`.
    """
    time, stride = q.shape[2], pattern.stride
    if start is not None:
        return _behind(q, k, v, pattern, start)
    if pattern.kind == "local":
        window = stride if pattern.causal else (stride - 1, stride - 1)
        return attention(
            q, k, v, causal=pattern.causal, window=window, lengths=lengths, backend=backend
        )
    if pattern.causal and pattern.kind in ("strided", "column"):
        return _strided(q, k, v, stride, pattern.kind == "strided", backend)
    if pattern.causal and pattern.kind in ("fixed", "block") and time:
        return _fixed(q, k, v, pattern, backend)
    mask = pattern.block_mask(time, q.device)
    return attention(q, k, v, mask=mask, lengths=lengths, backend=backend)


def _behind(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, start: int | Tensor) -> Tensor:
    """Queries that go on from a state; a single one reads the keys that it sees, and no others."""
    j = torch.arange(k.shape[2], device=q.device)
    if isinstance(start, Tensor):
        return masked(q, k, v, pattern.sees(places_of(start, q.shape[2])[:, None, :, None], j))
    visible = pattern.sees(start + torch.arange(q.shape[2], device=q.device)[:, None], j)
    if q.shape[2] == 1 and visible.ndim == 2 and not torch.compiler.is_compiling():
        (seen,) = visible[0].nonzero(as_tuple=True)
        k, v, visible = k.index_select(2, seen), v.index_select(2, seen), visible[:, seen]
    return masked(q, k, v, visible)


def masked(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """The definition: all pairs, those that are not visible hidden before the softmax."""
    scores = (q @ k.mT) * q.shape[-1] ** -0.5
    visible = visible.expand(scores.shape)
    seen = visible.any(-1, keepdim=True)
    scores = scores.masked_fill(~visible & seen, -torch.inf)
    return torch.where(seen, torch.softmax(scores, dim=-1), 0) @ v


def _strided(q: Tensor, k: Tensor, v: Tensor, side: int, near: bool, backend: str) -> Tensor:
    """Columns are dense rows among tokens of the same place modulo l; with `near` the window, too.

    Attended to without the window, a token's column includes itself; with it, it must not.
    """
    time = q.shape[2]
    shift = 1 if near else 0
    columns = [_folded(t, side).transpose(2, 3).flatten(1, 2) for t in (q, k, v)]
    if near:
        columns = [columns[0][:, :, 1:], columns[1][:, :, :-1], columns[2][:, :, :-1]]
    if not near or columns[0].shape[2]:
        far, weight = attention(*columns, causal=True, return_lse=True, backend=backend)
        far = far.unflatten(1, (-1, side)).transpose(2, 3).flatten(2, 3)
        weight = weight.unflatten(1, (-1, side)).transpose(2, 3).flatten(2, 3)
        far, weight = far[:, :, : time - shift * side], weight[:, :, : time - shift * side]
        if not near:
            return far
        own = attention(q, k, v, causal=True, window=side, return_lse=True, backend=backend)
        return _merged(own[0], own[1], far, weight)
    return attention(q, k, v, causal=True, window=side, backend=backend)


def _fixed(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, backend: str) -> Tensor:
    """Blocks are rows of their own; earlier blocks are seen through their last columns."""
    time, side, tail = q.shape[2], pattern.stride, pattern.summary
    blocks = [_folded(t, side) for t in (q, k, v)]
    count = blocks[0].shape[2]
    rows = [t.flatten(1, 2) for t in blocks]
    own, weight = attention(*rows, causal=True, return_lse=True, backend=backend)
    own = own.unflatten(1, (-1, count)).flatten(2, 3)[:, :, :time]
    weight = weight.unflatten(1, (-1, count)).flatten(2, 3)[:, :, :time]
    if pattern.kind == "block" or count == 1 or not tail:
        return own
    keys, values = (t[:, :, :-1, side - tail :].flatten(2, 3) for t in blocks[1:])
    mask = pattern.summaries(time - side, keys.shape[2], q.device)
    far, far_weight = attention(
        q[:, :, side:], keys, values, mask=mask, return_lse=True, backend=backend
    )
    return _merged(own, weight, far, far_weight)


def _folded(x: Tensor, side: int) -> Tensor:
    """(B, H, T, D) to (B, H, N, l, D), zeros behind the last token, which no other one sees."""
    return functional.pad(x, (0, 0, 0, -x.shape[2] % side)).unflatten(2, (-1, side))


def _merged(own: Tensor, weight: Tensor, far: Tensor, far_weight: Tensor) -> Tensor:
    """One softmax out of two over disjoint keys; the second has no part in the first tokens."""
    start = own.shape[2] - far.shape[2]
    share = torch.sigmoid(far_weight - weight[:, :, start:])[..., None].to(own.dtype)
    return torch.cat([own[:, :, :start], torch.lerp(own[:, :, start:], far, share)], dim=2)


def _patterns_for(pattern: Any, form: str, heads: int, **options: Any) -> list[Pattern]:
    if form not in ("merged", "per-head"):
        raise ValueError(f"form={form!r} is none of merged, per-head")
    stride, summary, block = options["stride"], options["summary"], options["block"]
    if stride < 1 or not 0 <= summary <= stride or (block is not None and block < 1):
        raise ValueError(
            f"stride={stride}, summary={summary}, block={block}: 1 or more, and summary <= stride"
        )
    if isinstance(pattern, str):
        if pattern not in PATTERNS:
            raise ValueError(f"pattern={pattern!r} is none of {', '.join(PATTERNS)}")
        if form == "per-head":
            if pattern not in PARTS or heads % 2:
                raise ValueError(
                    f"form='per-head' takes an even number of heads and a pattern of "
                    f"{', '.join(PARTS)}; got pattern={pattern!r}, heads={heads}"
                )
            return [Pattern(kind, **options) for kind in PARTS[pattern]]
        return [Pattern(pattern, **options)]
    if isinstance(pattern, Tensor) and (
        pattern.dtype != torch.bool
        or pattern.ndim not in (2, 3)
        or (pattern.ndim == 3 and pattern.shape[0] != heads)
    ):
        raise ValueError(
            f"the pattern's mask is {pattern.dtype} of shape {tuple(pattern.shape)}; bool of "
            f"shape (T, T) or ({heads}, T, T) is expected"
        )
    if form == "per-head":
        raise ValueError("form='per-head' belongs to named patterns; give a mask with H heads")
    return [Pattern("custom", rule=pattern, **options)]
