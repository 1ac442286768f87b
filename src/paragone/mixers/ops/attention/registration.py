"""Attention as torch operations: what autograd, `torch.compile` and `torch.export` see.

A back end is a module with two functions,

    forward_call(call: Call) -> (out of the type of q, lse float32)
    backward_call(call, dout, dlse or None, out, lse, trained) -> (dq, dk, dv, dbias, dslopes)

where `trained` says whether the bias wants its gradient; without one it is None, and so is that of
absent slopes. `out` has the layout of `empty_like_queries`: contiguous, or, on the CPU,
(B, T, H, E) in memory where the heads of q stand inside of its time.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from paragone.mixers.ops.attention.block_mask import BLOCK
from paragone.mixers.ops.attention.rule import Call, Rule

__all__ = ["BACKENDS", "empty_like_queries", "operate", "run", "summarized"]

BACKENDS = {
    "numba": "paragone.mixers.ops.attention._cpu",
    "triton": "paragone.mixers.ops.attention.attention_triton",
}
"""Back end to its module."""


def empty_like_queries(q: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """(B, H, T, width) with the dimensions in memory in the order of those of q."""
    rows, heads, time, _ = q.shape
    if q.device.type == "cpu" and q.stride(1) < q.stride(2):
        return q.new_empty(rows, time, heads, width, dtype=dtype).transpose(1, 2)
    return q.new_empty(rows, heads, time, width, dtype=dtype)


def run(call: Call, backend: str) -> tuple[Tensor, Tensor]:
    """Calls the back end at once, past torch's dispatcher."""
    return importlib.import_module(BACKENDS[backend]).forward_call(call)


def operate(call: Call, backend: str) -> tuple[Tensor, Tensor]:
    """Calls it as an operation with gradients."""
    queries, keys = call.lengths or (None, None)
    return _attention(
        call.q, call.k, call.v, queries, keys, call.packed, call.mask, call.table, call.elements,
        call.bias, call.slopes, *call.rule, backend,
    )  # fmt: skip


def _call(
    q: Tensor, k: Tensor, v: Tensor, queries: Tensor | None, keys: Tensor | None, packed: bool,
    mask: Tensor | None, table: Tensor | None, elements: Tensor | None, bias: Tensor | None,
    slopes: Tensor | None, *rule: Any,
) -> Call:  # fmt: skip
    lengths = None if queries is None or keys is None else (queries, keys)
    return Call(q, k, v, Rule(*rule), lengths, packed, mask, table, elements, bias, slopes)


@torch.library.custom_op("paragone::attention", mutates_args=())
def _attention(
    q: Tensor, k: Tensor, v: Tensor, queries: Tensor | None, keys: Tensor | None, packed: bool,
    mask: Tensor | None, table: Tensor | None, elements: Tensor | None, bias: Tensor | None,
    slopes: Tensor | None, scale: float, softcap: float, left: int, right: int, bottom: bool,
    dropout: float, seed: int, backend: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    call = _call(
        q, k, v, queries, keys, packed, mask, table, elements, bias, slopes, scale, softcap, left,
        right, bottom, dropout, seed,
    )  # fmt: skip
    return run(call, backend)


@_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    out = empty_like_queries(q, v.shape[-1], q.dtype)
    return out, q.new_empty(q.shape[:3], dtype=torch.float32)


@torch.library.custom_op("paragone::attention_backward", mutates_args=())
def _attention_backward(
    dout: Tensor, dlse: Tensor | None, out: Tensor, lse: Tensor, trained: bool,
    q: Tensor, k: Tensor, v: Tensor, queries: Tensor | None, keys: Tensor | None, packed: bool,
    mask: Tensor | None, table: Tensor | None, elements: Tensor | None, bias: Tensor | None,
    slopes: Tensor | None, scale: float, softcap: float, left: int, right: int, bottom: bool,
    dropout: float, seed: int, backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    call = _call(
        q, k, v, queries, keys, packed, mask, table, elements, bias, slopes, scale, softcap, left,
        right, bottom, dropout, seed,
    )  # fmt: skip
    module = importlib.import_module(BACKENDS[backend])
    *grads, dbias, dslopes = module.backward_call(call, dout, dlse, out, lse, trained)
    absent = q.new_empty(0)
    return (
        *grads,
        absent if dbias is None else dbias,
        q.new_empty(0) if dslopes is None else dslopes,
    )


@_attention_backward.register_fake
def _(
    dout: Tensor, dlse: Tensor | None, out: Tensor, lse: Tensor, trained: bool, q: Tensor,
    k: Tensor, v: Tensor, queries: Any, keys: Any, packed: bool, mask: Any, table: Any,
    elements: Any, bias: Tensor | None, slopes: Tensor | None, *rest: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    grads = [x.new_empty(x.shape) for x in (q, k, v)]
    for x, wanted in ((bias, trained), (slopes, True)):
        grads.append(q.new_empty(0) if x is None or not wanted else x.new_empty(x.shape))
    return tuple(grads)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.rest = [None if isinstance(x, Tensor) else x for x in inputs]
    ctx.places = [at for at, x in enumerate(inputs) if isinstance(x, Tensor)]
    ctx.save_for_backward(*output, *(inputs[at] for at in ctx.places))


def _derive(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple[Any, ...]:
    out, lse, *tensors = ctx.saved_tensors
    inputs = list(ctx.rest)
    for at, x in zip(ctx.places, tensors, strict=True):
        inputs[at] = x
    dout = torch.zeros_like(out) if dout is None else dout
    trained = ctx.needs_input_grad[9]
    dq, dk, dv, dbias, dslopes = _attention_backward(dout, dlse, out, lse, trained, *inputs)
    rest = [None] * (len(inputs) - 11)
    return (
        dq, dk, dv, *[None] * 6, dbias if trained else None,
        dslopes if ctx.needs_input_grad[10] else None, *rest,
    )  # fmt: skip


_attention.register_autograd(_derive, setup_context=_keep)


@torch.library.custom_op("paragone::attention_blocks", mutates_args=())
def _blocks(mask: Tensor) -> Tensor:
    return importlib.import_module(BACKENDS["numba"]).summary(mask)


@_blocks.register_fake
def _(mask: Tensor) -> Tensor:
    blocks = [-(-n // BLOCK) for n in mask.shape[2:]]
    return mask.new_empty(*mask.shape[:2], *blocks, dtype=torch.int64)


def summarized(mask: Tensor) -> Tensor:
    """The table of a bool tensor on the CPU: `BlockMask.table`, with places in its own memory."""
    return _blocks(mask)
