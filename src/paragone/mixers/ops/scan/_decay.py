r"""The exponential of a scan's decay, in a third of the instructions of a general one.

Clamped to [-127, 128], $2^x$ needs no special cases: its exponent field runs from 0 (nothing, as
denormals are flushed) to that of infinity, and NaN stays NaN.

The polynomial has degree 5, exactly 1 at 0, and is off by at most 9e-8 of its value.

References:
    Muller (2016), Elementary Functions, chapter 11 (range reduction by adding a large number).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from paragone.kernels.simd import VECTOR, WIDTH, emit_fma, emit_place, emit_splat, vector

__all__ = ["decay", "spread", "touch"]

_FIT = (1.0, 0.6931470036506653, 0.24022242426872253, 0.05550733581185341, 0.009671512991189957,
        0.0013264729641377926)  # fmt: skip
_SHIFT = 12582912.0


def _number(value: float) -> Any:
    return ir.Constant(VECTOR, [value] * WIDTH)


@intrinsic
def _decay(typing_context, x):
    def generate(context, builder, signature, arguments):
        (value,) = arguments
        words = ir.VectorType(ir.IntType(32), WIDTH)
        low, high = _number(-127.0), _number(128.0)
        value = builder.select(builder.fcmp_ordered("<", value, low), low, value)
        value = builder.select(builder.fcmp_ordered(">", value, high), high, value)
        shifted = builder.fadd(value, _number(_SHIFT))
        rest = builder.fsub(value, builder.fsub(shifted, _number(_SHIFT)))
        found = _number(_FIT[-1])
        for coefficient in _FIT[-2::-1]:
            found = emit_fma(builder, found, rest, _number(coefficient))
        power = builder.shl(builder.bitcast(shifted, words), ir.Constant(words, [23] * WIDTH))
        return builder.bitcast(builder.add(builder.bitcast(found, words), power), VECTOR)

    return vector(vector), generate


@intrinsic
def _spread(typing_context, array, index):
    def generate(context, builder, signature, arguments):
        place = emit_place(context, builder, signature.args[0], *arguments)
        return emit_splat(builder, builder.load(place))

    return vector(array, types.int64), generate


@intrinsic
def _touch(typing_context, array, index):
    def generate(context, builder, signature, arguments):
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        place = emit_place(context, builder, signature.args[0], *arguments)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        how = [ir.Constant(number, value) for value in (0, 3, 1)]
        builder.call(fetch, [builder.bitcast(place, byte), *how])
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


decay: Any = _decay
"""(x): 2^x within 3 ulp, 0 below -126.5 where denormals are flushed, inf from 128 on."""
spread: Any = _spread
"""(array, i): the float at offset i in every lane; nothing wraps a negative offset around."""
touch: Any = _touch
"""(array, i): asks for the cache line of offset i, which may lie outside, and goes on."""
