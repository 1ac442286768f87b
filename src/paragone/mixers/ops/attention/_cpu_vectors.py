"""Two vector operations of attention's CPU kernels: a lean power of two, and a small transpose.

References:
    Muller (2016), Elementary Functions, chapter 11 (the polynomial is a minimax fit made here).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from paragone.kernels.simd import VECTOR, WIDTH, emit_fma, emit_place, exp2, vector

__all__ = ["power", "turn"]

_I32 = ir.IntType(32)
_POWERS = (1.0, 0.693146977597, 0.240222420827, 0.0555073374482, 0.0096715128125, 0.00132647272137)


def _number(value: float) -> ir.Constant:
    return ir.Constant(VECTOR, [float(value)] * WIDTH)


def _call(builder: Any, name: str, arguments: list[Any]) -> Any:
    kind = ir.FunctionType(VECTOR, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


@intrinsic
def _power_512(typing_context, a):
    def generate(context, builder, signature, arguments):
        x = arguments[0]
        far = _number(-200.0)
        x = builder.select(builder.fcmp_ordered("<", x, far), far, x)
        whole = _call(builder, "llvm.nearbyint.v16f32", [x])
        rest = builder.fsub(x, whole)
        found = _number(_POWERS[-1])
        for coefficient in _POWERS[-2::-1]:
            found = emit_fma(builder, found, rest, _number(coefficient))
        every = ir.Constant(ir.IntType(16), -1)
        return _call(builder, "llvm.x86.avx512.mask.scalef.ps.512",
                     [found, whole, _number(0.0), every, ir.Constant(_I32, 4)])  # fmt: skip

    return vector(vector), generate


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
power: Any = _power_512 if WIDTH == 16 else exp2
"""(a): 2^a for a <= 0 and NaN, within 2 ulp; what is below the normal numbers may come as 0 or as
a denormal, so kernels flush those."""
turn: Any = _turn
"""(x, at, step, out, place, line): `WIDTH` x `WIDTH` floats, transposed: element (r, c) from
`x[at + r step + c]` to `out[place + c line + r]`."""
