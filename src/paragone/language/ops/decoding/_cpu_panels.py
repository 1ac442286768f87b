r"""Products of few tokens with a matrix that is read once, from its first byte to its last.

A matrix W (R outputs, K inputs) lies in panels of `PANEL` outputs; a panel holds, input by input,
its `PANEL` weights, so reading it is one stream, and no sum over lanes is needed:

$$ y_{i,\,p + c} = \sum_{k < K} x_{k,i}\, W_{p + c,\,k}, \qquad
   i < \mathrm{rows},\; c < \mathrm{PANEL} . $$

The tokens x lie with their rows side by side. Each sum runs over k in order, in one accumulator,
whatever the number of rows, so a token's result has the same bits in every company. Weights of 8
bits are widened on the way; their scales are left to the caller.

References:
    Goto and van de Geijn (2008), ACM TOMS 34(3), article 12, section 4.

Shapes: R outputs, K inputs (a multiple of `UNROLL`), rows tokens of a block.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from paragone.kernels.simd import VECTOR, WIDTH, emit_fma, emit_place, emit_splat, vector

__all__ = ["BLOCKS", "PANEL", "STREAMED", "UNROLL", "panel", "scattered"]

_VECTORS = 2
PANEL = _VECTORS * WIDTH
"""Outputs of a panel."""
UNROLL = 4
"""Inputs are padded to a multiple of it."""
BLOCKS = (1, 2, 3, 4, 5, 6, 8, 9, 10, 12) if WIDTH == 16 else (1, 2, 3, 4)
"""Tokens that one reading of a panel serves: their sums fit into the registers."""
STREAMED = (1, 2, 9, 10, 12) if WIDTH == 16 else BLOCKS
"""Those of them that are worth it where floats come from far: nine cost no more than three."""
_AHEAD = 32768
_MANY = 8
"""Tokens from which on the arithmetic would hide the stream from the hardware's own prefetching."""
_LINE = 64
_WORD, _LANE, _BYTE = ir.IntType(64), ir.IntType(32), ir.IntType(8)


def _int(value: int) -> ir.Constant:
    return ir.Constant(_WORD, value)


def _weights(builder: Any, first: Any, vector: int, narrow: bool) -> Any:
    """WIDTH weights as floats."""
    place = builder.gep(first, [_int(vector * WIDTH)])
    if not narrow:
        return builder.load(builder.bitcast(place, VECTOR.as_pointer()), align=4)
    bytes_ = ir.VectorType(_BYTE, WIDTH)
    found = builder.load(builder.bitcast(place, bytes_.as_pointer()), align=1)
    return builder.sitofp(builder.sext(found, ir.VectorType(_LANE, WIDTH)), VECTOR)


def _asked(builder: Any, first: Any, count: int) -> None:
    """Asks for `count` bytes, some way ahead, for the second cache."""
    place = builder.bitcast(first, _BYTE.as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [place.type, _LANE, _LANE, _LANE])
    call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    for at in range(0, count, _LINE):
        there = builder.gep(place, [_int(_AHEAD + at)])
        builder.call(call, [there, *(ir.Constant(_LANE, n) for n in (0, 2, 1))])


@functools.cache
def panel(rows: int) -> Any:
    """Returns the micro-kernel of `rows` tokens and one panel.

    The result is called inside `njit` code, as a global:

        product = panel(4)
        product(x, x_at, w, w_at, depth, out, out_at, out_row)

    Input k of row i is `x[x_at + k * rows + i]`, its weights the `PANEL` from
    `w[w_at + k * PANEL]` on; output c of row i goes to `out[out_at + i * out_row + c]`.
    """

    @intrinsic
    def product(typing_context, x, x_at, w, w_at, depth, out, out_at, out_row):
        whole = types.int64
        narrow = w.dtype == types.int8

        def generate(context, builder, sig, args):
            place_x = emit_place(context, builder, sig.args[0], args[0], args[1])
            place_w = emit_place(context, builder, sig.args[2], args[2], args[3])
            place_o = emit_place(context, builder, sig.args[5], args[5], args[6])
            sums = _loop(builder, rows, place_x, place_w, args[4], narrow)
            for at, value in enumerate(sums):
                i, v = divmod(at, _VECTORS)
                place = builder.gep(place_o, [builder.mul(args[7], _int(i))])
                place = builder.gep(place, [_int(v * WIDTH)])
                builder.store(value, builder.bitcast(place, VECTOR.as_pointer()), align=4)
            return context.get_dummy_value()

        return types.void(x, whole, w, whole, whole, out, whole, whole), generate

    return product


def _loop(builder: Any, rows: int, x: Any, w: Any, depth: Any, narrow: bool) -> list[Any]:
    before = builder.block
    loop, after = builder.append_basic_block("inputs"), builder.append_basic_block("summed")
    builder.branch(loop)
    builder.position_at_end(loop)
    k = builder.phi(_WORD)
    k.add_incoming(_int(0), before)
    sums = [builder.phi(VECTOR) for _ in range(rows * _VECTORS)]
    for phi in sums:
        phi.add_incoming(ir.Constant(VECTOR, [0.0] * WIDTH), before)
    column = builder.gep(w, [builder.mul(k, _int(PANEL))])
    inputs = builder.gep(x, [builder.mul(k, _int(rows))])
    if rows >= _MANY:
        _asked(builder, column, UNROLL * PANEL * (1 if narrow else 4))
    grown = list(sums)
    for u in range(UNROLL):
        here = builder.gep(column, [_int(u * PANEL)])
        vectors = [_weights(builder, here, v, narrow) for v in range(_VECTORS)]
        for i in range(rows):
            scalar = builder.load(builder.gep(inputs, [_int(u * rows + i)]))
            wide = emit_splat(builder, scalar)
            for v, column_weights in enumerate(vectors):
                at = i * _VECTORS + v
                grown[at] = emit_fma(builder, wide, column_weights, grown[at])
    following = builder.add(k, _int(UNROLL))
    k.add_incoming(following, loop)
    for phi, value in zip(sums, grown, strict=True):
        phi.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed("<", following, depth), loop, after)
    builder.position_at_end(after)
    return grown


@intrinsic
def _scattered(typing_context, value, count, out, at, step):
    def generate(context, builder, sig, args):
        slot = cgutils.alloca_once(builder, VECTOR)
        builder.store(args[0], slot)
        lanes = builder.bitcast(slot, ir.FloatType().as_pointer())
        place = emit_place(context, builder, sig.args[2], args[2], args[3])
        with cgutils.for_range(builder, args[1]) as loop:
            lane = builder.load(builder.gep(lanes, [loop.index]))
            builder.store(lane, builder.gep(place, [builder.mul(loop.index, args[4])]))
        return context.get_dummy_value()

    whole = types.int64
    return types.void(vector, whole, out, whole, whole), generate


scattered: Any = _scattered
"""(v, count, out, at, step): stores the first `count` lanes, `step` elements apart."""
