r"""Bounds and counts over many values, eight at a time, for the build.

What a split asks of its points is little work for each of them: the bounds of some rows, and
how many keys lie below a threshold. Written as LLVM vectors, as in `_simd`, each takes a fraction
of a cycle a value.

Shapes: d columns, W = 8 lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from paragone.neighbors._simd import LANES, Lanes, array_data

__all__ = [
    "count_below",
    "lanes_at_most",
    "leaf_bounds",
    "lower_lanes",
    "ranked_lane",
    "row_bounds",
]

_I64, _I32, _I8 = ir.IntType(64), ir.IntType(32), ir.IntType(8)


def _whole(value: int) -> Any:
    return ir.Constant(_I64, value)


@contextmanager
def _steps(builder: Any, start: Any, stop: Any, step: Any) -> Iterator[Any]:
    with cgutils.for_range_slice(builder, start, stop, step, _I64, inc=True) as (index, _):
        yield index


def _over_lanes(lanes: Lanes, fold: Callable[[Any, Any], Any], a: Any) -> Any:
    """Folds the eight lanes to one value."""
    for by in (4, 2, 1):
        turns = [(lane + by) % LANES for lane in range(LANES)]
        order = ir.Constant(ir.VectorType(_I32, LANES), turns)
        a = fold(a, lanes.builder.shuffle_vector(a, a, order))
    return lanes.builder.extract_element(a, ir.Constant(_I32, 0))


class _Bounds:
    """The least and the largest seen in each lane."""

    def __init__(self, lanes: Lanes) -> None:
        self.lanes = lanes
        self.ends = [cgutils.alloca_once(lanes.builder, lanes.vector) for _ in range(2)]

    def start(self) -> None:
        for end, value in zip(self.ends, (float("inf"), float("-inf")), strict=True):
            self.lanes.builder.store(ir.Constant(self.lanes.vector, [value] * LANES), end)

    def take(self, value: Any) -> None:
        builder = self.lanes.builder
        for end, fold in zip(self.ends, (self.lanes.least, self.lanes.largest), strict=True):
            builder.store(fold(value, builder.load(end)), end)

    def each(self) -> list[Any]:
        return [self.lanes.builder.load(end) for end in self.ends]

    def of_all_lanes(self) -> list[Any]:
        folds = (self.lanes.least, self.lanes.largest)
        return [_over_lanes(self.lanes, *one) for one in zip(folds, self.each(), strict=True)]


@intrinsic
def _row_bounds(typing_context, rows, d, perm, start, stop, step, low, high):
    def generate(context, builder, signature, arguments):
        _, d, _, start, stop, step, _, _ = arguments
        rows, perm, low, high = (
            array_data(context, builder, signature.args[i], arguments[i]) for i in (0, 2, 6, 7)
        )
        lanes = Lanes(builder, context.get_value_type(signature.args[0].dtype))
        bounds = _Bounds(lanes)
        with _steps(builder, _whole(0), d, _whole(LANES)) as j:
            bounds.start()
            with _steps(builder, start, stop, step) as i:
                row = builder.load(builder.gep(perm, [i]))
                row = row if row.type.width == 64 else builder.zext(row, _I64)
                bounds.take(lanes.load(rows, builder.add(builder.mul(row, d), j)))
            for end, to in zip(bounds.each(), (low, high), strict=True):
                lanes.store(end, to, j)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(rows, whole, perm, whole, whole, whole, low, high), generate


@intrinsic
def _leaf_bounds(typing_context, blocks, d, first, last, low, high, at):
    def generate(context, builder, signature, arguments):
        _, d, first, last, _, _, at = arguments
        blocks, low, high = (
            array_data(context, builder, signature.args[i], arguments[i]) for i in (0, 4, 5)
        )
        lanes = Lanes(builder, context.get_value_type(signature.args[0].dtype))
        bounds = _Bounds(lanes)
        step = builder.mul(d, _whole(LANES))
        begin, end = builder.mul(first, step), builder.mul(last, step)
        with _steps(builder, _whole(0), d, _whole(1)) as j:
            bounds.start()
            shift = builder.mul(j, _whole(LANES))
            with _steps(builder, begin, end, step) as block:
                bounds.take(lanes.load(blocks, builder.add(block, shift)))
            for value, to in zip(bounds.of_all_lanes(), (low, high), strict=True):
                builder.store(value, builder.gep(to, [builder.add(at, j)]))
        return context.get_dummy_value()

    whole = types.int64
    return types.void(blocks, whole, whole, whole, low, high, whole), generate


@intrinsic
def _count_below(typing_context, keys, m, threshold):
    def generate(context, builder, signature, arguments):
        _, m, threshold = arguments
        keys = array_data(context, builder, signature.args[0], arguments[0])
        lanes = Lanes(builder, context.get_value_type(signature.args[0].dtype))
        total = cgutils.alloca_once_value(builder, _whole(0))
        edge = lanes.splat(threshold)
        with _steps(builder, _whole(0), m, _whole(LANES)) as i:
            less = builder.fcmp_ordered("<", lanes.load(keys, i), edge)
            count = builder.zext(builder.ctpop(builder.bitcast(less, _I8)), _I64)
            builder.store(builder.add(builder.load(total), count), total)
        return builder.load(total)

    return types.int64(keys, types.int64, keys.dtype), generate


@intrinsic
def _lower_lanes(typing_context, least, values, at):
    def generate(context, builder, signature, arguments):
        at = arguments[2]
        least, values = (
            array_data(context, builder, signature.args[i], arguments[i]) for i in (0, 1)
        )
        lanes = Lanes(builder, context.get_value_type(signature.args[0].dtype))
        lower = lanes.least(lanes.load(values, at), lanes.load(least, _whole(0)))
        lanes.store(lower, least, _whole(0))
        return context.get_dummy_value()

    return types.void(least, values, types.int64), generate


@intrinsic
def _lanes_at_most(typing_context, values, at, limit):
    def generate(context, builder, signature, arguments):
        values = array_data(context, builder, signature.args[0], arguments[0])
        lanes = Lanes(builder, context.get_value_type(signature.args[0].dtype))
        return lanes.mask_at_most(lanes.load(values, arguments[1]), lanes.splat(arguments[2]))

    return types.int64(values, types.int64, values.dtype), generate


@intrinsic
def _ranked_lane(typing_context, values, k):
    def generate(context, builder, signature, arguments):
        values = array_data(context, builder, signature.args[0], arguments[0])
        lanes = Lanes(builder, context.get_value_type(signature.args[0].dtype))
        infinite = ir.Constant(lanes.vector, [float("inf")] * LANES)
        left = cgutils.alloca_once_value(builder, lanes.load(values, _whole(0)))
        value = cgutils.alloca_once(builder, lanes.scalar)
        with _steps(builder, _whole(0), arguments[1], _whole(1)):
            every = builder.load(left)
            least = _over_lanes(lanes, lanes.least, every)
            builder.store(least, value)
            taken = builder.fcmp_ordered("==", every, lanes.splat(least))
            builder.store(builder.select(taken, infinite, every), left)
        return builder.load(value)

    return values.dtype(values, types.int64), generate


# Intrinsics are called with one argument fewer than they are defined with.
row_bounds: Any = _row_bounds
"""(rows, d, perm, start, stop, step, low, high): bounds of rows perm[start:stop:step] into low and
high. Rows are read, and bounds written, up to the next whole number of lanes."""
leaf_bounds: Any = _leaf_bounds
"""(blocks, d, first, last, low, high, at): bounds of all lanes of blocks first to last into
low[at:] and high[at:]."""
count_below: Any = _count_below
"""(keys, m, threshold): how many of keys[:m] are less; keys up to the next whole number of lanes
are counted as well, and should be infinite."""
lower_lanes: Any = _lower_lanes
"""(least, values, at): takes the lower of each of eight values[at:] into least."""
lanes_at_most: Any = _lanes_at_most
"""(values, at, limit): the mask of the eight values[at:] that are at most the limit."""
ranked_lane: Any = _ranked_lane
"""(values, k): the k-th least of the different values among eight, infinite if there are fewer."""
