"""Vector functions that give up rare cases for speed: a power of two, and a sigmoid.

With 16 lanes they take 10 and 15 instructions where `simd.exp2` takes 17 and a division more; what
they give up stands with each. With fewer lanes they are those of `simd`.

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
from paragone.kernels.simd import VECTOR, WIDTH, emit_fma, exp, exp2, splat, vector

__all__ = ["power", "sigmoid"]

_I32 = ir.IntType(32)
_POWERS = (1.0, 0.693146977597, 0.240222420827, 0.0555073374482, 0.0096715128125, 0.00132647272137)
_EVERY = ir.Constant(ir.IntType(16), -1)


def _number(value: float) -> ir.Constant:
    return ir.Constant(VECTOR, [float(value)] * WIDTH)


def _call(builder: Any, name: str, arguments: list[Any]) -> Any:
    kind = ir.FunctionType(VECTOR, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _two_to(builder: Any, x: Any) -> Any:
    """2^x for -250 < x < 250: a polynomial of the fraction, scaled by the whole."""
    whole = _call(builder, "llvm.nearbyint.v16f32", [x])
    rest = builder.fsub(x, whole)
    found = _number(_POWERS[-1])
    for coefficient in _POWERS[-2::-1]:
        found = emit_fma(builder, found, rest, _number(coefficient))
    return _call(builder, "llvm.x86.avx512.mask.scalef.ps.512",
                 [found, whole, _number(0.0), _EVERY, ir.Constant(_I32, 4)])  # fmt: skip


@intrinsic
def _power_512(typing_context, a):
    def generate(context, builder, signature, arguments):
        x, far = arguments[0], _number(-200.0)
        return _two_to(builder, builder.select(builder.fcmp_ordered("<", x, far), far, x))

    return vector(vector), generate


@intrinsic
def _sigmoid_512(typing_context, z):
    def generate(context, builder, signature, arguments):
        high, low = _number(125.0), _number(-125.0)
        t = builder.fmul(arguments[0], _number(-1.4426950408889634))
        # In this order NaN stays NaN.
        t = builder.select(builder.fcmp_ordered(">", t, high), high, t)
        t = builder.select(builder.fcmp_ordered("<", t, low), low, t)
        below = builder.fadd(_two_to(builder, t), _number(1.0))
        near = _call(builder, "llvm.x86.avx512.rcp14.ps.512", [below, _number(0.0), _EVERY])
        left = emit_fma(builder, builder.fneg(below), near, _number(1.0))
        return emit_fma(builder, near, left, near)

    return vector(vector), generate


@njit(nogil=True, error_model="numpy", no_cpython_wrapper=True)
def _sigmoid(z):
    one = splat(np.float32(1.0))
    return one / (one + exp(-z))


power: Any = _power_512 if WIDTH == 16 else exp2
"""(a): 2^a for a <= 0 and NaN, within 2 ulp; what is below the normal numbers may come as 0 or as
a denormal, so kernels flush those."""
sigmoid: Any = _sigmoid_512 if WIDTH == 16 else _sigmoid
"""(z): 1 / (1 + e^-z) within 4 + 1.2 |z| ulp (z log2 e is rounded), never below 2^-125."""
