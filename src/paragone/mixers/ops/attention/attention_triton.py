r"""Exact attention by Triton kernels: forward and backward of one call, checked and launched.

`forward_call` and `backward_call` take what every back end of the operation takes, a `Call`. They
run on a GPU, and under `TRITON_INTERPRET=1` in float32 and float16 on the CPU as a proof.

Cost: 4 T^2 D flops a head forward and 10 T^2 D backward (two passes make the scores again: 14),
times the share of blocks that the mask leaves; memory O(T). float32 products are made of
three TensorFloat-32 ones, or of one where `torch.set_float32_matmul_precision` allows it.

References:
    Dao (2023), "FlashAttention-2", arXiv:2307.08691.

Shapes: B rows, H heads, G key heads, T time, D and E widths of keys and values, N packed rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from paragone.kernels.launch import (
    INTERPRETER,
    Tile,
    check,
    fastest,
    grid,
    interpreting,
    power_of_two,
    start,
    tiles,
)  # fmt: skip
from paragone.mixers.ops.attention import attention_triton_parts as parts
from paragone.mixers.ops.attention.attention_triton_backward import (
    bias_kernel,
    delta_kernel,
    keys_kernel,
    queries_kernel,
)  # fmt: skip
from paragone.mixers.ops.attention.attention_triton_forward import forward_kernel
from paragone.mixers.ops.attention.block_mask import EMPTY
from paragone.mixers.ops.attention.lengths import facts
from paragone.mixers.ops.attention.registration import empty_like_queries
from paragone.mixers.ops.attention.rule import Call, key_of, threshold

__all__ = ["backward_call", "forward_call"]

_SMALL = [Tile(32, 32)]
_FORWARD = {
    64: {90: [Tile(128, 128, 8, 3), Tile(128, 64, 4, 3), Tile(64, 64, 4, 3)],
         80: [Tile(128, 64, 4, 3)]},
    128: {90: [Tile(128, 128, 8, 3), Tile(64, 64, 4, 3), Tile(128, 64, 8, 3)],
          80: [Tile(128, 64, 8, 2)]},
    256: {90: [Tile(128, 32, 8, 2), Tile(128, 64, 8, 2)], 80: [Tile(64, 32, 8, 2)]},
    1024: {90: [Tile(32, 32, 8, 1)], 80: [Tile(16, 16, 4, 1)]},
}  # fmt: skip
_KEYS = {
    64: {90: [Tile(32, 64, 4, 3), Tile(64, 64, 4, 3), Tile(32, 128, 4, 1)],
         80: [Tile(64, 64, 4, 2)]},
    128: {90: [Tile(64, 128, 8, 3), Tile(64, 128, 8, 2), Tile(32, 64, 4, 3)],
          80: [Tile(32, 64, 4, 2)]},
    256: {90: [Tile(64, 32, 8, 1), Tile(32, 32, 4, 1)], 80: [Tile(32, 32, 4, 1)]},
    1024: {80: [Tile(16, 16, 4, 1)]},
}  # fmt: skip
_QUERIES = {
    64: {90: [Tile(64, 64, 4, 3), Tile(64, 128, 4, 3), Tile(128, 32, 8, 3)],
         80: [Tile(64, 64, 4, 2)]},
    128: {90: [Tile(128, 64, 8, 3), Tile(64, 32, 4, 3), Tile(64, 64, 4, 2)],
          80: [Tile(64, 32, 4, 2)]},
    256: {90: [Tile(64, 32, 8, 2)], 80: [Tile(32, 32, 4, 1)]},
    1024: {80: [Tile(16, 16, 4, 1)]},
}  # fmt: skip
"""Widest head to tiles by capability; those for Hopper are the quickest of a sweep on an H100, one
that keeps its sums in registers first."""
_WIDE = {
    64: [Tile(32, 32, 4, 2), Tile(128, 32, 8, 2)], 128: [Tile(32, 32, 4, 2), Tile(32, 32, 4, 1)],
    256: [Tile(32, 32, 8, 1)], 1024: [Tile(16, 16, 4, 1)],
}  # fmt: skip
"""Those of float32 for all passes: numbers and their three parts ask for room in many places."""
_WIDEST = 1024
_MORE = sum(flag.value for flag in (parts.BIAS, parts.MASK, parts.DROP, parts.CAP, parts.ALIBI))


class _Plan(NamedTuple):
    """A call as its kernels see it; q, k and v have a last axis without gaps."""

    tensors: tuple[Tensor, Tensor, Tensor]
    rows: parts.Rows
    terms: parts.Terms
    flags: int
    sizes: dict[str, int]
    packed: bool

    def steps(self, *more: Tensor) -> parts.Steps:
        return parts.Steps(*(_steps(x, self.packed) for x in (*self.tensors, *more)))


def forward_call(call: Call) -> tuple[Tensor, Tensor]:
    """Returns (B, H, Tq, E) of the type of q, and (B, H, Tq) float32 natural logarithms.

    Args:
        call: All of it.

    Raises:
        ValueError: A device, dtype or width that no kernel takes.
        RuntimeError: The tensors are on the CPU, and Triton's interpreter is not switched on.
    """
    plan = _planned(call)
    q, k, v = plan.tensors
    out = empty_like_queries(q, v.shape[-1], q.dtype)
    lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    if not lse.numel():
        return out, lse
    steps = plan.steps(out, lse[..., None])
    shared = plan.rows.rows * plan.rows.heads

    def run(tile: Tile) -> None:
        many = -(-plan.rows.queries // tile.rows) * shared
        _launch(forward_kernel, grid("attention", many), tile, q, k, v, out, lse, steps, plan.rows,
                _ordered(plan, tile, False), **plan.sizes, FLAGS=plan.flags,
                SPECIAL=False)  # fmt: skip

    run(_tile("forward", _FORWARD, plan, run))
    return out, lse


def backward_call(
    call: Call, dout: Tensor, dlse: Tensor | None, out: Tensor, lse: Tensor, trained: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Returns the gradients of q, k, v, the bias (if trained) and the slopes (if there are any).

    Args:
        call: As in `forward_call`.
        dout: (B, H, Tq, E) gradient of the output.
        dlse: (B, H, Tq) gradient of the logarithms, or None.
        out: What `forward_call` returned.
        lse: What `forward_call` returned.
        trained: Whether the bias has a gradient.
    """
    plan = _planned(call)
    check("attention", q=call.q, dout=dout, out=out)
    dout, out, lse = _last_dense(dout), _last_dense(out), lse.contiguous()
    dlse = torch.zeros_like(lse) if dlse is None else dlse.to(torch.float32).contiguous()
    dq, dk, dv = (x.new_zeros(x.shape) for x in plan.tensors)
    delta, pull = torch.zeros_like(lse), torch.zeros_like(lse)
    rows, steps = plan.rows, plan.steps(out, lse[..., None], dout, dq, dk, dv)
    if lse.numel():
        _launch_delta(plan, out, dout, dlse, delta)
    given = (*plan.tensors, dout, lse, delta)
    meta = {**plan.sizes, "FLAGS": plan.flags}

    def over_keys(tile: Tile) -> None:
        many = -(-rows.keys // tile.columns) * rows.rows * (rows.heads // rows.group)
        _launch(keys_kernel, grid("attention", many), tile, *given, dk, dv, steps, rows,
                _ordered(plan, tile, True), **meta)  # fmt: skip

    def over_queries(tile: Tile) -> None:
        many = -(-rows.queries // tile.rows) * rows.rows * rows.heads
        _launch(queries_kernel, grid("attention", many), tile, *given, dq, pull, steps, rows,
                _ordered(plan, tile, False), **meta)  # fmt: skip

    if lse.numel() and rows.keys:
        over_keys(_tile("keys", _KEYS, plan, over_keys))
        over_queries(_tile("queries", _QUERIES, plan, over_queries))
    dbias = None
    if call.bias is not None and trained:
        dbias = _bias_gradient(call.bias, given, steps, plan)
    dslopes = None if call.slopes is None else _slopes_gradient(call, pull)
    return dq, dk, dv, dbias, dslopes


def _launch_delta(plan: _Plan, out: Tensor, dout: Tensor, dlse: Tensor, delta: Tensor) -> None:
    """Packed rows are one to this kernel: what it sums is within a query."""
    block = 256 if interpreting() else max(16, 4096 // plan.sizes["WIDTH_E"])
    batch, heads, queries = delta.shape
    steps = plan._replace(packed=False).steps(out, delta[..., None], dout)
    size = grid("attention", batch * heads * -(-queries // block))
    start(
        delta_kernel, size, out, dout, dlse, delta, steps, batch, heads, queries, E=plan.sizes["E"],
        WIDTH_E=plan.sizes["WIDTH_E"], ROWS=block,
    )  # fmt: skip


def _slopes_gradient(call: Call, pull: Tensor) -> Tensor:
    assert call.slopes is not None
    if call.packed and len(call.slopes) > 1:
        assert call.lengths is not None
        ends = torch.nn.functional.pad(torch.cumsum(call.lengths[0], 0), (1, 0)).tolist()
        sums = [pull[0, :, a:b].sum(-1) for a, b in itertools.pairwise(ends)]
        found = torch.stack(sums)
    else:
        found = pull.sum(-1)
    found = found.sum(0, keepdim=True) if len(call.slopes) == 1 else found
    return found.to(call.slopes.dtype)


def _bias_gradient(
    bias: Tensor, given: tuple[Tensor, ...], steps: parts.Steps, plan: _Plan
) -> Tensor:
    rows = plan.rows
    tile = _candidates(_KEYS, plan)[0]
    own = (*(1,) * (4 - bias.ndim), *bias.shape)
    over_i, over_j = own[2] != rows.queries, own[3] != rows.keys
    many = (-(-rows.queries // tile.rows), -(-rows.keys // tile.columns))
    found = torch.zeros(
        own[0], own[1], many[0] if over_i else own[2], many[1] if over_j else own[3],
        dtype=torch.float32, device=bias.device,
    )  # fmt: skip
    if rows.rows * rows.heads * rows.queries * rows.keys:
        _launch(bias_kernel, grid("attention", *many, own[0] * own[1]), tile, *given, found,
                found.stride()[:3], own[0], own[1], steps, rows, plan.terms,
                OVER_I=over_i, OVER_J=over_j, **plan.sizes, FLAGS=plan.flags)  # fmt: skip
    found = found.sum(2, keepdim=True) if over_i else found
    found = found.sum(3, keepdim=True) if over_j else found
    return found.reshape(bias.shape).to(bias.dtype)


def _launch(kernel: Any, size: tuple[int, ...], tile: Tile, *given: Any, **meta: Any) -> None:
    start(kernel, size, *given, ROWS=tile.rows, COLUMNS=tile.columns, num_warps=tile.warps,
          num_stages=tile.stages, **meta)  # fmt: skip


def _class(sizes: dict[str, int]) -> int:
    width = max(sizes["WIDTH_D"], sizes["WIDTH_E"])
    return next(size for size in _FORWARD if width <= size)


def _candidates(table: dict[int, dict[int, list[Tile]]], plan: _Plan) -> Sequence[Tile]:
    q, kind = plan.tensors[0], _class(plan.sizes)
    found = tiles({INTERPRETER: _SMALL, **table[kind]}, q.device)
    narrow = q.dtype != torch.float32
    if plan.flags & parts.BLOCKS.value:
        stages = found[0].stages if narrow and not plan.flags & _MORE else 1
        return [Tile(parts.SIDE.value, parts.SIDE.value, 4 if kind <= 64 else 8, stages)]
    if interpreting():
        return found
    if plan.flags & _MORE and kind <= 256:
        # What comes beside the scores needs room, too.
        return [Tile(64 if narrow and kind <= 128 else 32, 32, 4, 1)]
    if not narrow:
        return _WIDE[kind]
    return found


def _tile(name: str, table: dict[int, dict[int, list[Tile]]], plan: _Plan, run: Any) -> Tile:
    rounded = tuple(power_of_two(n) for n in (plan.rows.queries, plan.rows.keys))
    key = (name, *plan.sizes.values(), plan.tensors[0].dtype, plan.flags, plan.rows.group, *rounded)
    return fastest(key, _candidates(table, plan), run)


def _last_dense(x: Tensor) -> Tensor:
    """The tensor with a last axis without gaps, whose rows of whole 16 bytes start at whole ones.

    Kernels count on both (`parts._corner`). What torch allocates is so; some views are not.
    """
    if x.shape[-1] > 1 and x.stride(-1) != 1:
        return x.contiguous()
    size = x.element_size()
    steps = [step for step, many in zip(x.stride()[:-1], x.shape[:-1], strict=True) if many > 1]
    even = not any(n % 16 for n in (x.data_ptr(), *(step * size for step in steps)))
    if even or x.shape[-1] * size % 16:
        return x
    return x.clone(memory_format=torch.contiguous_format)


def _steps(x: Tensor, packed: bool) -> tuple[int, ...]:
    row, head, token = x.stride()[:3]
    return (0 if packed else row, head, token)


def _broadcast(x: Tensor, sizes: Sequence[int]) -> tuple[int, ...]:
    """Steps along four axes, 0 where one element serves for all."""
    for size, length in zip(x.shape, sizes, strict=True):
        if size not in (1, length):
            raise ValueError(
                f"attention: a mask or bias of shape {tuple(x.shape)} does not broadcast to "
                f"{tuple(sizes)}"
            )
    return tuple(0 if n == 1 else step for n, step in zip(x.shape, x.stride(), strict=True))


def _planned(call: Call) -> _Plan:
    q, k, v, rule = call.q, call.k, call.v, call.rule
    check("attention", q=q, k=k, v=v)
    widest = max(q.shape[-1], v.shape[-1])
    if widest > _WIDEST:
        raise ValueError(f"attention: heads are {widest} wide, at most {_WIDEST} fit a tile")
    masked = call.mask is not None or call.table is not None
    if masked and widest > 128 and q.dtype == torch.float32 and not interpreting():
        raise ValueError(
            f"attention: float32 heads under a mask are {widest} wide, at most 128 fit a tile of "
            "64 x 64; cast to bfloat16, or give the mask as a bias of 0 and -inf"
        )
    flags = parts.BOTTOM.value if rule.bottom else 0
    rows, queries, keys = q.shape[0], q.shape[2], k.shape[2]
    places = [q, q]
    if call.lengths is not None:
        places = [n.to(q.device, torch.int64).contiguous() for n in call.lengths]
        flags |= parts.LENGTHS.value
        if call.packed:
            rows, known = len(places[0]), [facts(n) for n in places]
            queries, keys = (each.most for each in known)
            places = [each.starts for each in known]
            flags |= parts.PACKED.value
    for wanted, flag in (
        (rule.right >= 0, parts.RIGHT), (rule.left >= 0, parts.LEFT), (rule.softcap, parts.CAP),
        (call.slopes is not None, parts.ALIBI), (call.bias is not None, parts.BIAS),
        (call.mask is not None, parts.MASK), (rule.dropout, parts.DROP),
        (call.mask is not None or call.table is not None, parts.BLOCKS),
        (torch.get_float32_matmul_precision() == "highest", parts.EXACT),
    ):  # fmt: skip
        flags |= flag.value if wanted else 0
    sizes = {"D": q.shape[-1], "E": v.shape[-1], "WIDTH_D": power_of_two(q.shape[-1]),
             "WIDTH_E": power_of_two(v.shape[-1])}  # fmt: skip
    group = q.shape[1] // max(k.shape[1], 1)
    counts = parts.Rows(places[0], places[1], rows, q.shape[1], group, queries, keys)
    terms = _terms(call, (rows, q.shape[1], queries, keys))
    dense = (_last_dense(q), _last_dense(k), _last_dense(v))
    return _Plan(dense, counts, terms, flags, sizes, call.packed)


def _terms(call: Call, sizes: Sequence[int]) -> parts.Terms:
    q, rule, none = call.q, call.rule, (0, 0, 0, 0)
    mask, mask_steps, table = q, none, q
    if call.mask is not None:
        mask, mask_steps = call.mask.view(torch.uint8), _broadcast(call.mask, sizes)
        table = torch.where(_blocks(call.mask, sizes) & _reached(call, sizes), 0, EMPTY)
    elif call.table is not None:
        assert call.elements is not None
        table = torch.where(_reached(call, sizes), call.table, EMPTY).contiguous()
        mask = call.elements if call.elements.numel() else call.elements.new_zeros(1)
        mask_steps = _broadcast(table, (*sizes[:2], *table.shape[2:]))
        mask_steps = (*mask_steps[:2], table.stride(2), 1)
    bias, bias_steps = q, none
    if call.bias is not None:
        bias, bias_steps = call.bias, _broadcast(call.bias, sizes)
    slopes = q if call.slopes is None else call.slopes.contiguous()
    slopes_step = 0 if call.slopes is None or len(slopes) == 1 else slopes.shape[1]
    key = key_of(rule.seed)
    key = key - 2**64 if key >= 2**63 else key
    return parts.Terms(
        rule.scale, rule.softcap, max(rule.left, 0), max(rule.right, 0), slopes, slopes_step, bias,
        bias_steps, mask, mask_steps, table, q, none, q, none, key, threshold(rule.dropout),
        1.0 / (1.0 - rule.dropout), (q.shape[2], call.k.shape[2]),
    )  # fmt: skip


def _blocks(mask: Tensor, sizes: Sequence[int]) -> Tensor:
    """(…, blocks of queries, blocks of keys) bool: where a mask lets something through."""
    side, found = parts.SIDE.value, mask
    for dim in (2, 3):
        many = -(-sizes[dim] // side)
        if found.shape[dim] > 1:
            flat = found.movedim(dim, -1)
            flat = torch.nn.functional.pad(flat, (0, many * side - sizes[dim]))
            found = flat.unflatten(-1, (many, side)).any(-1).movedim(-1, dim)
        else:
            found = found.expand(*(many if at == dim else -1 for at in range(4)))
    return found


def _reached(call: Call, sizes: Sequence[int]) -> Tensor:
    """(N or 1, 1, blocks of queries, blocks of keys) bool: where band and lengths leave some."""
    rule, side, device = call.rule, parts.SIDE.value, call.q.device
    ends = [torch.tensor([n], device=device) for n in sizes[2:]]
    if call.lengths is not None:
        ends = [n.to(device) for n in call.lengths]
    queries, keys = (n.view(-1, 1, 1, 1) for n in ends)
    i = side * torch.arange(-(-sizes[2] // side), device=device)[:, None]
    j = side * torch.arange(-(-sizes[3] // side), device=device)
    shift = keys - queries if rule.bottom else 0
    found = (i < queries) & (j < keys)
    if rule.right >= 0:
        found &= j <= torch.minimum(i + side, queries) - 1 + shift + rule.right
    if rule.left >= 0:
        found &= torch.minimum(j + side, keys) - 1 >= i + shift - rule.left
    return found


def _ordered(plan: _Plan, tile: Tile, transposed: bool) -> parts.Terms:
    """The terms with the lists of blocks to visit, by tiles of queries or of keys."""
    if not plan.flags & parts.BLOCKS.value:
        return plan.terms
    assert tile.rows == tile.columns == parts.SIDE.value
    table = plan.terms.table.mT if transposed else plan.terms.table
    there = table != EMPTY
    order = torch.argsort(~there, dim=-1, stable=True).to(torch.int32).contiguous()
    counts = there.sum(-1, dtype=torch.int32).contiguous()
    many = (plan.rows.rows, plan.rows.heads, order.shape[2])
    return plan.terms._replace(
        order=order, order_steps=(*_broadcast(order, (*many, order.shape[3]))[:2], order.stride(2)),
        counts=counts, count_steps=(*_broadcast(counts, many)[:2], 1),
    )  # fmt: skip
