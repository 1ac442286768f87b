"""A vector operation of attention's CPU kernels: a small transpose in registers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from paragone.kernels.simd import VECTOR, WIDTH, emit_place

__all__ = ["turn"]

_I32 = ir.IntType(32)


@intrinsic
def _turn(typing_context, array, index, step, out, place, line):
    whole = types.int64

    def generate(context, builder, signature, arguments):
        source = emit_place(context, builder, signature.args[0], arguments[0], arguments[1])
        target = emit_place(context, builder, signature.args[3], arguments[3], arguments[4])
        rows = []
        for r in range(WIDTH):
            at = builder.gep(source, [builder.mul(arguments[2], ir.Constant(ir.IntType(64), r))])
            rows.append(builder.load(builder.bitcast(at, VECTOR.as_pointer()), align=1))
        half = 1
        while half < WIDTH:
            rows = _exchanged(builder, rows, half)
            half *= 2
        for r, row in enumerate(rows):
            at = builder.gep(target, [builder.mul(arguments[5], ir.Constant(ir.IntType(64), r))])
            builder.store(row, builder.bitcast(at, VECTOR.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(array, whole, whole, out, whole, whole), generate


def _exchanged(builder: Any, rows: list[Any], half: int) -> list[Any]:
    """Swaps the off-diagonal squares of `half` x `half` in each square of twice that size."""
    found = list(rows)
    lanes = range(WIDTH)
    kind = ir.VectorType(_I32, WIDTH)
    upper = ir.Constant(kind, [WIDTH + (n ^ half) if n & half else n for n in lanes])
    lower = ir.Constant(kind, [WIDTH + n if n & half else n ^ half for n in lanes])
    for i in range(WIDTH):
        if not i & half:
            a, b = rows[i], rows[i | half]
            found[i] = builder.shuffle_vector(a, b, upper)
            found[i | half] = builder.shuffle_vector(a, b, lower)
    return found


# Intrinsics are called with one argument fewer than they are defined with.
turn: Any = _turn
"""(x, at, step, out, place, line): `WIDTH` x `WIDTH` floats, transposed: element (r, c) from
`x[at + r step + c]` to `out[place + c line + r]`."""
