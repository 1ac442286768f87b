r"""Products of a few queries with a block of keys, summed over the lanes all at once.

Keys lie one behind the other with their coordinates side by side, so each score is a sum over
lanes. For `rows` queries and WIDTH / rows keys there are WIDTH vectors of partial sums, and a
tree of shuffles turns them into one vector of WIDTH scores: two shuffles and an addition each
time that two vectors become one, instead of a sum over lanes for every score.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from paragone.kernels.simd import VECTOR, WIDTH, emit_fma, emit_place

__all__ = ["dots", "fetch"]

_NEAR = 2
_WORD, _LANE = ir.IntType(64), ir.IntType(32)


_LINE = 64


@intrinsic
def _fetch(typing_context, array, at, count):
    size = array.dtype.bitwidth // 8

    def generate(context, builder, sig, args):
        first = emit_place(context, builder, sig.args[0], args[0], args[1])
        first = builder.bitcast(first, ir.IntType(8).as_pointer())
        length = builder.mul(args[2], ir.Constant(_WORD, size))
        kind = ir.FunctionType(ir.VoidType(), [first.type, _LANE, _LANE, _LANE])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        with cgutils.for_range_slice(
            builder, ir.Constant(_WORD, 0), length, ir.Constant(_WORD, _LINE)
        ) as (offset, _):
            place = builder.gep(first, [offset])
            builder.call(function, [place, *(ir.Constant(_LANE, n) for n in (0, _NEAR, 1))])
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), generate


fetch: Any = _fetch
"""(array, at, count): asks for the memory of `count` elements, without waiting for it.

Hardware follows a stream to the end of a page only; a tile of keys is a few pages.
"""


def _order(lanes: list[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(_LANE, len(lanes)), lanes)


def _folded(builder: Any, sums: list[Any]) -> Any:
    """WIDTH vectors to one: lane i is the sum over the lanes of vector i."""
    size = WIDTH
    while len(sums) > 1:
        half = size // 2
        starts = [at + base for base in (0, WIDTH) for at in range(0, WIDTH, size)]
        low = _order([start + i for start in starts for i in range(half)])
        high = _order([start + half + i for start in starts for i in range(half)])
        sums = [
            builder.fadd(builder.shuffle_vector(a, b, low), builder.shuffle_vector(a, b, high))
            for a, b in zip(sums[::2], sums[1::2], strict=True)
        ]
        size = half
    return sums[0]


@functools.cache
def dots(rows: int) -> Any:
    """Returns the micro-kernel of `rows` queries and WIDTH / rows keys.

    The result is called inside `njit` code, as a global:

        product = dots(4)
        product(q, q_at, q_row, k, k_at, k_row, vectors, out, out_at, out_row)

    Query r has `vectors` times WIDTH floats from `q[q_at + r * q_row]` on, key j those from
    `k[k_at + j * k_row]` on; their product goes to `out[out_at + r * out_row + j]`.
    """
    keys = WIDTH // rows

    @intrinsic
    def product(typing_context, q, q_at, q_row, k, k_at, k_row, vectors, out, out_at, out_row):
        whole = types.int64

        def generate(context, builder, sig, args):
            place_q = emit_place(context, builder, sig.args[0], args[0], args[1])
            place_k = emit_place(context, builder, sig.args[3], args[3], args[4])
            place_o = emit_place(context, builder, sig.args[7], args[7], args[8])
            _emit(builder, rows, keys, (place_q, args[2]), (place_k, args[5]), args[6],
                  (place_o, args[9]))  # fmt: skip
            return context.get_dummy_value()

        kinds = (q, whole, whole, k, whole, whole, whole, out, whole, whole)
        return types.void(*kinds), generate

    return product


def _emit(builder: Any, rows: int, keys: int, q: Any, k: Any, vectors: Any, out: Any) -> None:
    before = builder.block
    loop, after = builder.append_basic_block("chunk"), builder.append_basic_block("fold")
    lines = [
        [builder.gep(place, [builder.mul(row, ir.Constant(_WORD, i))]) for i in range(count)]
        for (place, row), count in ((q, rows), (k, keys))
    ]
    builder.branch(loop)
    builder.position_at_end(loop)
    at = builder.phi(_WORD)
    at.add_incoming(ir.Constant(_WORD, 0), before)
    sums = [builder.phi(VECTOR) for _ in range(rows * keys)]
    offset = builder.mul(at, ir.Constant(_WORD, WIDTH))
    found = [
        [
            builder.load(builder.bitcast(builder.gep(line, [offset]), VECTOR.as_pointer()), align=1)
            for line in side
        ]
        for side in lines
    ]
    grown = [
        emit_fma(builder, found[0][r], found[1][j], sums[r * keys + j])
        for r in range(rows)
        for j in range(keys)
    ]
    following = builder.add(at, ir.Constant(_WORD, 1))
    at.add_incoming(following, loop)
    for phi, value in zip(sums, grown, strict=True):
        phi.add_incoming(ir.Constant(VECTOR, [0.0] * WIDTH), before)
        phi.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed("<", following, vectors), loop, after)
    builder.position_at_end(after)
    scores = _folded(builder, grown)
    piece = ir.VectorType(ir.FloatType(), keys)
    for r in range(rows):
        own = _order([r * keys + j for j in range(keys)])
        value = builder.shuffle_vector(scores, scores, own)
        place = builder.gep(out[0], [builder.mul(out[1], ir.Constant(_WORD, r))])
        builder.store(value, builder.bitcast(place, piece.as_pointer()), align=1)
