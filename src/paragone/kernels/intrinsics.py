"""Single machine instructions that Numba has no name for, shared by the kernels of all families.

Each is called inside `njit` code like a function and costs what the instruction costs.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["count_ones", "float_of_bits", "high_product", "lowest_bit", "prefetch"]


@intrinsic
def _prefetch(typing_context, array, index):
    def generate(context, builder, signature, arguments):
        view = context.make_array(signature.args[0])(context, builder, arguments[0])
        address = builder.gep(view.data, [arguments[1]])
        pointer, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, word, word, word])
        call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        read, keep, data = ir.Constant(word, 0), ir.Constant(word, 3), ir.Constant(word, 1)
        builder.call(call, [builder.bitcast(address, pointer), read, keep, data])
        return context.get_dummy_value()

    return types.void(array, index), generate


@intrinsic
def _lowest_bit(typing_context, word):
    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return word(word), generate


@intrinsic
def _count_ones(typing_context, word):
    def generate(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return word(word), generate


@intrinsic
def _float_of_bits(typing_context, bits):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.int64), generate


@intrinsic
def _high_product(typing_context, x, y):
    def generate(context, builder, signature, arguments):
        wide = ir.IntType(128)
        product = builder.mul(*(builder.zext(word, wide) for word in arguments))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate


# Intrinsics are called with one argument fewer than they are defined with.
prefetch: Any = _prefetch
"""(array, index): asks the memory system for `array.flat[index]`; has no other effect."""
lowest_bit: Any = _lowest_bit
"""(word): number of the lowest bit that is set, in the type of the word, which is not 0."""
count_ones: Any = _count_ones
"""(word): how many bits are set."""
float_of_bits: Any = _float_of_bits
"""(bits): the float64 that these 64 bits spell."""
high_product: Any = _high_product
"""(x, y): upper 64 bits of the product of two uint64."""
