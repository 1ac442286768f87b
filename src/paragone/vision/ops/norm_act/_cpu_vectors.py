"""One vector operation of the kernels here: a lean sigmoid.

References:
    Muller (2016), Elementary Functions, chapter 11 (the polynomial is a minimax fit made here).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from paragone.kernels.jit import njit
from paragone.kernels.simd import VECTOR, WIDTH, emit_fma, exp, splat, vector

__all__ = ["sigmoid"]

_I16, _I32 = ir.IntType(16), ir.IntType(32)
_POWERS = (1.0, 0.693146977597, 0.240222420827, 0.0555073374482, 0.0096715128125, 0.00132647272137)
_LOG2_E, _MOST = 1.4426950408889634, 125.0


def _number(value: float) -> ir.Constant:
    return ir.Constant(VECTOR, [float(value)] * WIDTH)


def _call(builder: Any, name: str, arguments: list[Any]) -> Any:
    kind = ir.FunctionType(VECTOR, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


@intrinsic
def _sigmoid_512(typing_context, z):
    def generate(context, builder, signature, arguments):
        high, low = _number(_MOST), _number(-_MOST)
        t = builder.fmul(arguments[0], _number(-_LOG2_E))
        # In this order NaN stays NaN.
        t = builder.select(builder.fcmp_ordered(">", t, high), high, t)
        t = builder.select(builder.fcmp_ordered("<", t, low), low, t)
        whole = _call(builder, "llvm.nearbyint.v16f32", [t])
        rest = builder.fsub(t, whole)
        found = _number(_POWERS[-1])
        for coefficient in _POWERS[-2::-1]:
            found = emit_fma(builder, found, rest, _number(coefficient))
        every, here = ir.Constant(_I16, -1), ir.Constant(_I32, 4)
        grown = _call(builder, "llvm.x86.avx512.mask.scalef.ps.512",
                      [found, whole, _number(0.0), every, here])  # fmt: skip
        below = builder.fadd(grown, _number(1.0))
        near = _call(builder, "llvm.x86.avx512.rcp14.ps.512", [below, _number(0.0), every])
        left = emit_fma(builder, builder.fneg(below), near, _number(1.0))
        return emit_fma(builder, near, left, near)

    return vector(vector), generate


@njit(nogil=True, error_model="numpy", no_cpython_wrapper=True)
def _sigmoid(z):
    one = splat(np.float32(1.0))
    return one / (one + exp(-z))


sigmoid: Any = _sigmoid_512 if WIDTH == 16 else _sigmoid
"""(z): 1 / (1 + e^-z) within 4 ulp; where that is below 2^-125 it is 2^-125."""
