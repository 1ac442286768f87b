r"""One call of attention, checked and handed to the back end that serves it.

Dense and packed rows are the same to a kernel: a row is an offset and two lengths. So the
operation takes (B, H, T, D) tensors of any strides whose last one is 1, and for packed rows
(1, H, sum of lengths, D) with the lengths of N rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from paragone.kernels import choice
from paragone.kernels.launch import serves
from paragone.mixers.ops.attention.block_mask import BlockMask
from paragone.mixers.ops.attention.reference import attention_reference
from paragone.mixers.ops.attention.registration import operate, run, summarized
from paragone.mixers.ops.attention.rule import Call, Extras, Rule

__all__ = ["Extras", "attend"]

_FEW = 8
_PLAIN = (Tensor, nn.Parameter)
_tables: Any = WeakTensorKeyDictionary()


def attend(
    q: Tensor, k: Tensor, v: Tensor, rule: Rule, extras: Extras, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Returns (B, H, Tq, E) of the type of q, and (B, H, Tq) float32 (float64) logarithms."""
    name = choice.choose(
        "attention", backend, device=q.device.type, dtype=q.dtype, named=backend
    )  # fmt: skip
    if name == "torch":
        return _whole(q, k, v, rule, extras)
    if 0 in (*q.shape, *v.shape):
        extras = extras._replace(slopes=None if q.shape[1] == 0 else extras.slopes)
        return _whole(q, k, v, rule, extras)
    differentiated = torch.is_grad_enabled() and any(
        x is not None and x.requires_grad for x in (q, k, v, extras.bias, extras.slopes)
    )
    at_once = not differentiated and type(q) in _PLAIN and not torch.compiler.is_compiling()
    if at_once and backend == "auto" and _few(q, rule, extras):
        return _decoded(q, k, v, rule, extras)
    mask, table, elements = extras.mask, None, None
    if isinstance(mask, BlockMask):
        mask, table, elements = None, mask.table, mask.elements
    elif mask is not None and name == "numba":
        mask = mask if mask.shape[3] == k.shape[2] else mask.expand(-1, -1, -1, k.shape[2])
        table = _table(mask)
    call = Call(
        q, k, v, rule, extras.lengths, extras.packed, mask, table, elements, extras.bias,
        extras.slopes,
    )  # fmt: skip
    return run(call, name) if at_once else operate(call, name)


def _few(q: Tensor, rule: Rule, extras: Extras) -> bool:
    """Whether the kernel for decoding, which reads the keys once for all queries, does it."""
    extra = (extras.mask, extras.bias, extras.slopes)
    plain = not rule.dropout and not extras.packed and all(x is None for x in extra)
    known = rule.bottom and (rule.right == 0 or rule.left == rule.right == -1)
    return q.device.type == "cpu" and q.shape[2] <= _FEW and plain and known


def _decoded(q: Tensor, k: Tensor, v: Tensor, rule: Rule, extras: Extras) -> tuple[Tensor, Tensor]:
    from paragone.mixers.ops.decode.call import decode_attention

    queries, keys = extras.lengths or (None, torch.full(q.shape[:1], k.shape[2]))
    return decode_attention(
        q, k, v, keys, queries=queries, scale=rule.scale, softcap=rule.softcap or None,
        window=rule.left + 1 or None, causal=rule.right == 0, return_lse=True,
    )  # fmt: skip


def _table(mask: Tensor) -> Tensor:
    """The mask's blocks, kept as long as the mask is and nobody writes to it."""
    if type(mask) not in _PLAIN:
        return summarized(mask)
    base = mask if mask._base is None else mask._base
    known = _tables.setdefault(base, {})
    key = (mask.shape, mask.stride(), mask.storage_offset())
    if key not in known or known[key][0] != mask._version:
        known[key] = (mask._version, summarized(mask))
    return known[key][1]


def _whole(q: Tensor, k: Tensor, v: Tensor, rule: Rule, extras: Extras) -> tuple[Tensor, Tensor]:
    """The definition; packed rows are padded for it."""
    mask = extras.mask.dense() if isinstance(extras.mask, BlockMask) else extras.mask
    more: dict[str, Any] = {"mask": mask, "bias": extras.bias, "slopes": extras.slopes}
    if not extras.packed:
        return attention_reference(q, k, v, rule, lengths=extras.lengths, **more)
    assert extras.lengths is not None
    spans = [_spans(n) for n in extras.lengths]
    padded = [
        x[0].transpose(0, 1).new_zeros(*place.shape, *x.shape[1::2]).masked_scatter(
            inside[..., None, None], x[0].transpose(0, 1)).transpose(1, 2)
        for x, (place, inside) in ((q, spans[0]), (k, spans[1]), (v, spans[1]))
    ]  # fmt: skip
    out, lse = attention_reference(
        padded[0],
        padded[1],
        padded[2],
        rule,
        lengths=extras.lengths,
        sizes=(q.shape[2], k.shape[2]),
        **more,
    )
    inside = spans[0][1]
    return out.transpose(1, 2)[inside].transpose(0, 1)[None], lse.mT[inside].mT[None]


def _spans(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """(N, longest): place in the packed row, and whether there is a token."""
    longest = int(lengths.max()) if len(lengths) else 0
    at = torch.arange(longest, device=lengths.device)
    return (torch.cumsum(lengths, 0) - lengths)[:, None] + at, at < lengths[:, None]


_NARROW = (torch.float32, torch.bfloat16, torch.float16)


def _on_cpu(device: str, dtype: torch.dtype, named: str = "auto") -> str | None:
    if device != "cpu":
        return f"q is on {device}, not on the CPU"
    return None if dtype in _NARROW else f"q is {dtype}, not float32, bfloat16 or float16"


choice.register("attention", {
    "triton": serves, "numba": _on_cpu, "torch": lambda device, dtype, named="auto": None,
})  # fmt: skip
