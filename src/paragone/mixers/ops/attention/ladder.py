r"""The ladder to tiled attention: four ways to the same result, each with its cost counted.

    three-pass  scores to memory; their maximum, the sum of exponentials, the product with v.
    two-pass    maximum and sum in one pass by the running correction, then the product.
    online      no scores in memory: for each query one pass over keys and values, the output
                corrected as well.
    tiled       the same for a tile of queries at a time, so keys and values are read less often.

With scores $s_j$ that come one by one (or tile by tile), all but the first rest on

$$ m' = \max(m, s_j), \quad \ell' = e^{m - m'} \ell + e^{s_j - m'}, \quad
   o' = e^{m - m'} o + e^{s_j - m'} v_j . $$

For $T_q$ queries, $T_k$ keys and tiles of M by N numbers, a head moves this many numbers to and
from memory:

    three-pass  Tq D + Tk D + 4 Tq Tk + Tk E + Tq E
    two-pass    Tq D + Tk D + 3 Tq Tk + Tk E + Tq E
    online      Tq D + Tq Tk (D + E) + Tq E
    tiled       Tq D + ceil(Tq / M) Tk (D + E) + Tq E

Each is written to be read, on any device and type, differentiable by autograd.

References:
    Milakov and Gimelshein (2018), arXiv:1805.02867, algorithms 1 to 3.
    Rabe and Staats (2021), arXiv:2112.05682; Dao et al. (2022), arXiv:2205.14135, algorithm 1.

Shapes: B rows, H heads, T time, D and E widths of keys and values.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from paragone.mixers.ops.attention.block_mask import BlockMask
from paragone.mixers.ops.attention.rule import Extras, Rule, kept

__all__ = ["METHODS", "TILE", "Cost", "climb", "cost"]

METHODS = ("three-pass", "two-pass", "online", "tiled")
TILE = (64, 64)
"""Queries and keys of a tile."""


@dataclasses.dataclass
class Cost:
    """What a way to attention does: numbers moved, arithmetic, exponentials.

    Attributes:
        read: Numbers read from memory.
        written: Numbers written to memory.
        flops: Multiplications and additions of the products and of the corrections.
        exps: Exponentials.
    """

    read: int = 0
    written: int = 0
    flops: int = 0
    exps: int = 0


def cost(
    method: str, queries: int, keys: int, width: int, value_width: int, heads: int = 1
) -> Cost:
    """The formula: what a method costs for `heads` heads (times rows) of these sizes.

    Args:
        method: One of `METHODS`.
        queries: Tq.
        keys: Tk.
        width: D.
        value_width: E.
        heads: Heads times rows.

    Raises:
        ValueError: Unknown method.

    Example:
        >>> [cost(method, 1000, 1000, 64, 64).written for method in ("three-pass", "tiled")]
        [1064000, 64000]
    """
    pairs, ends = queries * keys, queries * width + keys * width + keys * value_width
    products = 2 * pairs * (width + value_width)
    streamed = queries * width
    if method == "three-pass":
        found = Cost(ends + 3 * pairs, pairs, products, 2 * pairs)
    elif method == "two-pass":
        found = Cost(ends + 2 * pairs, pairs, products + 2 * pairs, 3 * pairs)
    elif method == "online":
        read = streamed + pairs * (width + value_width)
        found = Cost(read, 0, products + pairs * (value_width + 2), 2 * pairs)
    elif method == "tiled":
        down, across = math.ceil(queries / TILE[0]), math.ceil(keys / TILE[1])
        read = streamed + down * keys * (width + value_width)
        fixed = queries * across
        found = Cost(read, 0, products + fixed * (value_width + 2), pairs + fixed)
    else:
        raise ValueError(f"method={method!r} is none of {', '.join(METHODS)}")
    found.written += queries * value_width
    return Cost(*(heads * value for value in dataclasses.astuple(found)))


class _Work:
    """The operands of a call, tile by tile, and the tally of what is done with them."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, rule: Rule, extras: Extras) -> None:
        wide = torch.promote_types(q.dtype, torch.float32)
        rows, heads, self.queries, _ = q.shape
        self.keys, self.rule, self.extras, self.cost = k.shape[2], rule, extras, Cost()
        full = torch.ones(rows, dtype=torch.int64, device=q.device)
        pair = extras.lengths or (full * self.queries, full * self.keys)
        self.ends = tuple(n.view(-1, 1, 1, 1) for n in pair)
        group = heads // max(k.shape[1], 1)
        self.q = self._clean(q.to(wide), self.ends[0])
        self.k, self.v = (
            self._clean(x.to(wide), self.ends[1]).repeat_interleave(group, dim=1) for x in (k, v)
        )
        mask = extras.mask.dense() if isinstance(extras.mask, BlockMask) else extras.mask
        shape = (rows, heads, self.queries, self.keys)
        self.mask, self.bias = (None if x is None else x.expand(shape) for x in (mask, extras.bias))
        self.kept = kept(rule, shape, shape[2:], q.device) if rule.dropout else None

    @staticmethod
    def _clean(x: Tensor, end: Tensor) -> Tensor:
        return x.masked_fill(torch.arange(x.shape[2], device=x.device)[:, None] >= end, 0)

    def read(self, x: Tensor, times: int = 1) -> Tensor:
        self.cost.read += x.numel() * times
        return x

    def write(self, x: Tensor) -> Tensor:
        self.cost.written += x.numel()
        return x

    def exp(self, x: Tensor) -> Tensor:
        self.cost.exps += x.numel()
        return torch.exp(x)

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        out = a @ b
        self.cost.flops += 2 * out.numel() * a.shape[-1]
        return out

    def scores(self, q: Tensor, k: Tensor, i: slice, j: slice) -> Tensor:
        """Scores of the queries i with the keys j, -inf where nothing is seen."""
        s, rule = self.product(q, k.mT) * self.rule.scale, self.rule
        at = torch.arange(self.queries, device=s.device)[i, None]
        key = torch.arange(self.keys, device=s.device)[j]
        place = at + (self.ends[1] - self.ends[0]) if rule.bottom else at
        if rule.softcap:
            s = rule.softcap * torch.tanh(s / rule.softcap)
        if self.bias is not None:
            s = s + self.bias[:, :, i, j]
        if self.extras.slopes is not None:
            s = s - self.extras.slopes[..., None, None] * (place - key).abs()
        open_ = (at < self.ends[0]) & (key < self.ends[1])
        if rule.left >= 0:
            open_ = open_ & (key >= place - rule.left)
        if rule.right >= 0:
            open_ = open_ & (key <= place + rule.right)
        if self.mask is not None:
            open_ = open_ & self.mask[:, :, i, j]
        return s.masked_fill(~open_, -torch.inf)

    def weighted(self, weights: Tensor, v: Tensor, i: slice, j: slice) -> Tensor:
        """The product of weights, those that dropout keeps, with values."""
        if self.kept is not None:
            weights = weights * self.kept[:, :, i, j] / (1 - self.rule.dropout)
        return self.product(weights, v)


def _finite(top: Tensor) -> Tensor:
    """A maximum that may be taken off scores: 0 where all of them are -inf."""
    return top.detach().masked_fill(top == -torch.inf, 0)


class _Running:
    """Maximum m, sum l and, if there are values, output o of what has come so far."""

    def __init__(self, work: _Work, shape: tuple[int, ...], width: int | None = None) -> None:
        self.work = work
        self.m = work.q.new_full((*shape, 1), -torch.inf)
        self.l = work.q.new_zeros((*shape, 1))
        self.o = None if width is None else work.q.new_zeros((*shape, width))

    def take(self, s: Tensor, v: Tensor | None, i: slice, j: slice) -> None:
        """Corrects for the scores s of the keys j, with values v."""
        work = self.work
        m = torch.maximum(self.m, s.detach().amax(-1, keepdim=True))
        fix = work.exp(self.m - _finite(m))
        weights = work.exp(s - _finite(m))
        self.m, self.l = m, fix * self.l + weights.sum(-1, keepdim=True)
        work.cost.flops += 2 * fix.numel()
        if self.o is not None and v is not None:
            self.o = fix * self.o + work.weighted(weights, v, i, j)
            work.cost.flops += self.o.numel()

    def ends(self) -> tuple[Tensor, Tensor]:
        """What l must be divided by, and the logarithm of the sum."""
        none = self.l == 0
        total = self.l.masked_fill(none, 1)
        return total, (_finite(self.m) + torch.log(total)).masked_fill(none, -torch.inf)[..., 0]


_ALL = slice(None)


def _three_pass(work: _Work) -> tuple[Tensor, Tensor]:
    s = work.write(work.scores(work.read(work.q), work.read(work.k), _ALL, _ALL))
    top = (
        _finite(work.read(s).amax(-1, keepdim=True)) if work.keys else s.new_zeros(*s.shape[:3], 1)
    )
    total = work.exp(work.read(s) - top).sum(-1, keepdim=True)
    none = total == 0
    total = total.masked_fill(none, 1)
    weights = work.exp(work.read(s) - top) / total
    out = work.weighted(weights, work.read(work.v), _ALL, _ALL)
    return work.write(out), (top + torch.log(total)).masked_fill(none, -torch.inf)[..., 0]


def _two_pass(work: _Work) -> tuple[Tensor, Tensor]:
    s = work.write(work.scores(work.read(work.q), work.read(work.k), _ALL, _ALL))
    running = _Running(work, tuple(s.shape[:3]))
    for at in range(work.keys):
        j = slice(at, at + 1)
        running.take(work.read(s[..., j]), None, _ALL, j)
    total, lse = running.ends()
    weights = work.exp(work.read(s) - _finite(running.m)) / total
    return work.write(work.weighted(weights, work.read(work.v), _ALL, _ALL)), lse


def _streamed(work: _Work, rows: int, columns: int, times: bool) -> tuple[Tensor, Tensor]:
    """One pass over the keys, `columns` at a time, for `rows` queries at a time."""
    outs, logs = [], []
    for start in range(0, work.queries, rows):
        i = slice(start, min(start + rows, work.queries))
        q = work.read(work.q[:, :, i])
        # Without tiles each query reads keys and values for itself.
        again = q.shape[2] if times else 1
        running = _Running(work, tuple(q.shape[:3]), work.v.shape[-1])
        for first in range(0, work.keys, columns):
            j = slice(first, min(first + columns, work.keys))
            k, v = work.read(work.k[:, :, j], again), work.read(work.v[:, :, j], again)
            running.take(work.scores(q, k, i, j), v, i, j)
        total, lse = running.ends()
        assert running.o is not None
        outs.append(work.write(running.o / total))
        logs.append(lse)
    if not outs:
        return work.q.new_zeros(*work.q.shape[:3], work.v.shape[-1]), work.q.new_zeros(
            work.q.shape[:3]
        )
    return torch.cat(outs, 2), torch.cat(logs, 2)


def climb(
    method: str, q: Tensor, k: Tensor, v: Tensor, rule: Rule, extras: Extras,
    tally: Cost | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Attention by one step of the ladder; arguments and results as those of `attend`.

    Args:
        method: One of `METHODS`.
        q: (B, H, Tq, D).
        k: (B, G, Tk, D).
        v: (B, G, Tk, E).
        rule: The numbers.
        extras: Lengths, mask, bias, slopes.
        tally: Receives what was done.

    Raises:
        ValueError: Unknown method.
    """
    work = _Work(q, k, v, rule, extras)
    if method == "three-pass":
        out, lse = _three_pass(work)
    elif method == "two-pass":
        out, lse = _two_pass(work)
    elif method == "online":
        out, lse = _streamed(work, max(work.queries, 1), 1, times=True)
    elif method == "tiled":
        out, lse = _streamed(work, *TILE, times=False)
    else:
        raise ValueError(f"method={method!r} is none of {', '.join(METHODS)}")
    if tally is not None:
        for field in dataclasses.fields(Cost):
            setattr(tally, field.name, getattr(work.cost, field.name))
    return out.to(q.dtype), lse
