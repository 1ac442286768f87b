"""A matrix transposed in registers: `WIDTH` rows in, `WIDTH` columns out.

In the stage of distance s, rows i and i + s exchange their elements whose place has the bit s, or
has not; after log2(WIDTH) stages rows are columns. Two shuffles a pair and stage.

References:
    Eklundh (1972), "A fast computer method for matrix transposing", IEEE Trans. Computers 21(7).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from paragone.kernels.jit import njit
from paragone.kernels.simd import VECTOR, WIDTH, emit_place

__all__ = ["transpose"]

_I32, _I64 = ir.IntType(32), ir.IntType(64)


def _exchanged(builder: Any, one: Any, other: Any, step: int) -> tuple[Any, Any]:
    kind = ir.VectorType(_I32, WIDTH)
    first = [j if not j & step else WIDTH + j - step for j in range(WIDTH)]
    second = [j + step if not j & step else WIDTH + j for j in range(WIDTH)]
    return (builder.shuffle_vector(one, other, ir.Constant(kind, first)),
            builder.shuffle_vector(one, other, ir.Constant(kind, second)))  # fmt: skip


@intrinsic
def _square(typing_context, x, x_at, x_row, y, y_at, y_row):
    whole = types.int64

    def generate(context, builder, signature, arguments):
        x_place = emit_place(context, builder, signature.args[0], arguments[0], arguments[1])
        y_place = emit_place(context, builder, signature.args[3], arguments[3], arguments[4])
        x_row, y_row = arguments[2], arguments[5]

        def place(start: Any, row: Any, i: int) -> Any:
            offset = builder.mul(row, ir.Constant(_I64, i))
            return builder.bitcast(builder.gep(start, [offset]), VECTOR.as_pointer())

        rows = [builder.load(place(x_place, x_row, i), align=1) for i in range(WIDTH)]
        step = 1
        while step < WIDTH:
            for i in range(WIDTH):
                if not i & step:
                    rows[i], rows[i + step] = _exchanged(builder, rows[i], rows[i + step], step)
            step *= 2
        for i, row in enumerate(rows):
            builder.store(row, place(y_place, y_row, i), align=1)
        return context.get_dummy_value()

    return types.void(x, whole, whole, y, whole, whole), generate


# Intrinsics are called with one argument fewer than they are defined with.
_turned: Any = _square


@njit(nogil=True, error_model="numpy", no_cpython_wrapper=True)
def transpose(x, x_row, rows, columns, y, y_row):
    """Y (columns x rows) = X transposed, in squares of `WIDTH`: both have room for whole ones."""
    for i in range(0, rows, WIDTH):
        for j in range(0, columns, WIDTH):
            _turned(x, i * x_row + j, x_row, y, j * y_row + i, y_row)
