"""From tensors to the CPU kernels of attention and back: tables of rows, strides, buffers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from paragone.kernels.teams import share
from paragone.mixers.ops.attention._cpu_backward import Back, Given, Grads, backward
from paragone.mixers.ops.attention._cpu_forward import forward
from paragone.mixers.ops.attention._cpu_parts import (
    CHUNK,
    COLUMNS,
    LOG2E,
    META,
    PANEL,
    Extra,
    Numbers,
    Sizes,
    pack,
    summarize,
)  # fmt: skip
from paragone.mixers.ops.attention.block_mask import BLOCK
from paragone.mixers.ops.attention.registration import empty_like_queries
from paragone.mixers.ops.attention.rule import Call, key_of, threshold

__all__ = ["backward_call", "forward_call", "summary"]

_LONG = 16384
_FLOATS, _BYTES, _PLACES = np.zeros(0, np.float32), np.zeros(0, np.uint8), np.zeros(0, np.int64)


def flat(x: Tensor) -> np.ndarray:
    """The memory that a tensor's elements span, from its first one on, without a copy."""
    if x.numel() == 0:
        return np.zeros(0, x.detach().numpy().dtype)
    span = 1 + sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))
    return x.detach().as_strided((span,), (1,)).numpy()


def single(x: Tensor) -> Tensor:
    """float32 with a last dimension without gaps."""
    x = x.detach().float()
    return x if x.stride(-1) == 1 or x.shape[-1] <= 1 else x.contiguous()


class Plan:
    """All that both passes of one call share.

    Attributes:
        meta: (N, columns of `META`) table of rows.
        sizes: For the kernels.
        numbers: For the kernels.
        extra: Table and elements of the mask, bias, slopes, all flat.
    """

    def __init__(self, call: Call):
        q, k, v = self.tensors = single(call.q), single(call.k), single(call.v)
        rule, lengths, packed = call.rule, call.lengths, call.packed
        (batch, heads, queries, width), (group, keys) = q.shape, k.shape[1:3]
        self.packed = packed
        self.meta = self._rows(lengths, batch, heads, queries, keys)
        most = int(self.meta[:, 5].max(initial=0))
        long_ = int(self.meta[:, 6].max(initial=0))
        tall = 192 if most >= _LONG else 96
        times = max(min(tall, most), 1)
        stack = min(heads // group, max(1, tall // times))
        self.extra, more = self._extras(call)
        self.panels = int(self.meta[:, 7].sum())
        self.chunks = -(-long_ // CHUNK)
        self.sizes = Sizes(
            rows=len(self.meta), heads=heads, group=group, width=width, value_width=v.shape[-1],
            times=times, stack=stack, blocks=-(-most // times), left=rule.left, right=rule.right,
            bottom=int(rule.bottom), q_head=q.stride(1), q_time=q.stride(2), k_head=k.stride(1),
            k_time=k.stride(2), v_head=v.stride(1), v_time=v.stride(2), out_head=0, out_time=0,
            drop_queries=queries, drop_keys=keys,
            key=_signed(key_of(rule.seed)) if rule.dropout else 0,
            threshold=threshold(rule.dropout) if rule.dropout else 0, **more,
        )  # fmt: skip
        cap = rule.softcap
        factor = rule.scale / cap if cap else rule.scale * LOG2E
        self.numbers = Numbers(factor, cap * LOG2E, 1 - rule.dropout)
        self.alpha = rule.scale
        self.threads = torch.get_num_threads()
        if heads * queries * keys * width < 2**21:
            self.threads = 1

    def _rows(self, lengths: Any, batch: int, heads: int, queries: int, keys: int) -> np.ndarray:
        count = batch if lengths is None else len(lengths[0])
        meta = np.empty((count, len(META)), np.int64)
        meta[:, 5], meta[:, 6] = queries, keys
        if lengths is not None:
            meta[:, 5], meta[:, 6] = lengths[0].numpy(), lengths[1].numpy()
        q, k, v = self.tensors
        if self.packed:
            starts = [np.cumsum(meta[:, at]) - meta[:, at] for at in (5, 6)]
            steps = [(starts[0], q.stride(2)), (starts[1], k.stride(2)), (starts[1], v.stride(2))]
            meta[:, 4], meta[:, 9] = starts
        else:
            rows = np.arange(count)
            steps = [(rows, x.stride(0)) for x in (q, k, v)]
            meta[:, 4], meta[:, 9] = rows * heads * queries, rows * k.shape[1] * keys
        for at, (start, step) in enumerate(steps):
            meta[:, at] = start * step
        meta[:, 7] = -(-meta[:, 6] // PANEL)
        meta[:, 8] = np.cumsum(meta[:, 7]) - meta[:, 7]
        return meta

    def located(self, out: Tensor) -> np.ndarray:
        """The table of rows with the first elements of `out`, which has the lengths of q."""
        meta = self.meta.copy()
        meta[:, 3] = (
            meta[:, 4] * out.stride(2) if self.packed else np.arange(len(meta)) * out.stride(0)
        )
        return meta

    def _extras(self, call: Call) -> tuple[Extra, dict[str, int]]:
        table, elements, line, steps = _PLACES, _BYTES, 0, [0] * 3
        bias, slopes = call.bias, call.slopes
        if call.table is not None:
            kept = call.table
            if call.mask is None:
                assert call.elements is not None
                elements, line = flat(call.elements), BLOCK
            else:
                mask = plain_mask(call.mask)
                elements, line = flat(mask.view(torch.uint8)), mask.stride(2)
            table = flat(kept)
            steps = [0 if n == 1 else s for n, s in zip(kept.shape, kept.stride(), strict=True)]
        places = [0] * 4
        if bias is not None:
            bias = single(bias)
            places = [0 if n == 1 else s for n, s in zip(bias.shape, bias.stride(), strict=True)]
        more = {
            "masked": int(call.table is not None), "mask_row": steps[0],
            "mask_head": steps[1], "mask_wide": steps[2], "mask_line": line,
            "biased": int(bias is not None), "bias_row": places[0], "bias_head": places[1],
            "bias_time": places[2], "bias_key": places[3], "sloped": int(slopes is not None),
            "slope_row": 0 if slopes is None or slopes.shape[0] == 1 else slopes.shape[1],
        }  # fmt: skip
        return Extra(
            table, elements, _FLOATS if bias is None else flat(bias),
            _FLOATS if slopes is None else slopes.detach().float().contiguous().numpy().ravel(),
        ), more  # fmt: skip

    def packed_panels(self, x: Tensor, origin: int, turned: bool) -> np.ndarray:
        """Packs keys or values of all rows."""
        wide = x.shape[-1] if turned else -(-x.shape[-1] // PANEL) * PANEL
        group = self.sizes.group
        out = np.empty(self.panels * group * PANEL * wide, np.float32)
        units = len(self.meta) * group * self.chunks
        share(
            pack, units, self.chunks, group, flat(x), self.meta, origin, 6, x.stride(1),
            x.stride(2), x.shape[-1], int(turned), out, threads=self.threads,
        )  # fmt: skip
        return out


def _signed(x: int) -> int:
    return x - 2**64 if x >= 2**63 else x


def plain_mask(mask: Tensor) -> Tensor:
    """The mask with its keys side by side, and a step of 0 between queries if there is one row."""
    whole = mask if mask.stride(-1) == 1 and mask.shape[-1] > 1 else mask.contiguous()
    return whole if mask.shape[2] > 1 else whole.as_strided(
        whole.shape, (*whole.stride()[:2], 0, whole.stride(3)), whole.storage_offset()
    )  # fmt: skip


def summary(mask: Tensor) -> Tensor:
    """The table of a `BlockMask` whose elements are those of the bool tensor itself."""
    plain = plain_mask(mask)
    rows, heads, queries, keys = mask.shape
    table = torch.empty(rows, heads, -(-queries // BLOCK), -(-keys // BLOCK), dtype=torch.int64)
    summarize(
        flat(plain.view(torch.uint8)), rows, heads, queries, keys, *plain.stride()[:3],
        table.numpy().ravel(),
    )  # fmt: skip
    return table


def forward_call(call: Call) -> tuple[Tensor, Tensor]:
    """Outputs (B, H, Tq, E) of the type of q and logarithms (B, H, Tq) in float32."""
    plan = Plan(call)
    q, k, v = plan.tensors
    out = empty_like_queries(q, v.shape[-1], torch.float32)
    lse = torch.empty(q.shape[:3], dtype=torch.float32)
    if call.lengths is not None:
        out.zero_()
        lse.fill_(-torch.inf)
    meta, n = plan.located(out), plan.sizes
    n = n._replace(out_head=out.stride(1), out_time=out.stride(2))
    turned, panels = plan.packed_panels(k, 1, True), plan.packed_panels(v, 2, False)
    units = n.rows * n.group * -(-(n.heads // n.group) // n.stack) * n.blocks
    share(
        forward, units, n, plan.numbers, meta, flat(q), turned, panels, plan.extra, flat(out),
        lse.numpy().ravel(), threads=plan.threads,
    )  # fmt: skip
    return out.to(call.q.dtype), lse


def backward_call(
    call: Call, dout: Tensor, dlse: Tensor | None, out: Tensor, lse: Tensor, trained: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradients of q, k, v, of the bias (if it is trained) and of the slopes."""
    plan = Plan(call)
    q, k, v = plan.tensors
    dout, bias = single(dout), call.bias
    n, meta = plan.sizes, plan.located(dout)
    delta = (dout * out).sum(-1)
    if dlse is not None:
        delta -= dlse
    delta = delta.masked_fill_(lse == -torch.inf, 0).contiguous()
    pairs = n.rows * n.group
    dbias, steps, groups, by_row = None, [0] * 4, pairs, 0
    if trained:
        assert bias is not None
        dbias = torch.zeros(bias.shape, dtype=torch.float32)
        steps = [0 if m == 1 else s for m, s in zip(bias.shape, dbias.stride(), strict=True)]
        if bias.shape[0] == 1 and n.rows > 1:
            groups, by_row = n.group, 0
        if bias.shape[1] == 1 and n.heads > 1:
            groups, by_row = (n.rows if groups == pairs else 1), 1
    most = int(meta[:, 6].max(initial=0))
    chunks = max(1, min(-(-most // COLUMNS), 8, -(-16 // max(groups, 1))))
    if trained and steps[3] == 0:
        chunks = 1
    w = Back(
        groups=groups, chunks=chunks, by_row=by_row, g_head=dout.stride(1), g_time=dout.stride(2),
        parts=q.numel(), trained=int(trained), bias_row=steps[0], bias_head=steps[1],
        bias_time=steps[2], bias_key=steps[3],
    )  # fmt: skip
    dq = torch.zeros(chunks, *q.shape, dtype=torch.float32)
    dk, dv = (torch.zeros(x.shape, dtype=torch.float32) for x in (k, v))
    dslopes = torch.zeros(chunks, n.rows, n.heads, dtype=torch.float64) if n.sloped else None
    given = Given(
        flat(q), flat(dout), plan.packed_panels(k, 1, True), plan.packed_panels(v, 2, True),
        plan.packed_panels(k, 1, False), lse.numpy().ravel(), delta.numpy().ravel(),
    )  # fmt: skip
    grads = Grads(
        dq.numpy().ravel(), dk.numpy().ravel(), dv.numpy().ravel(),
        _FLOATS if dbias is None else flat(dbias),
        np.zeros(0) if dslopes is None else dslopes.numpy().ravel(),
    )  # fmt: skip
    share(
        backward, groups * chunks, n, w, plan.numbers, plan.alpha, meta, given, plan.extra, grads,
        threads=plan.threads,
    )  # fmt: skip
    whole = dq[0] if chunks == 1 else dq.sum(0)
    grads = [x.to(call.q.dtype) for x in (whole, dk, dv)]
    if dbias is not None and bias is not None:
        dbias = dbias.to(bias.dtype)
    if dslopes is not None and call.slopes is not None:
        dslopes = dslopes.sum(0).sum_to_size(call.slopes.shape).to(call.slopes.dtype)
    return grads[0], grads[1], grads[2], dbias, dslopes
