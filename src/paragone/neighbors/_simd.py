r"""Eight lanes at a time: distances to a block of points, bounds to eight boxes.

Both answer the same question for eight candidates at once, and both add the terms of the
dimensions one after the other,

$$ D_i = \sum_{j=1}^{d} t(x_j - y_{ij}), \qquad
   B_c = \sum_{j=1}^{d} t(\max(l_{cj} - x_j, \; x_j - h_{cj}, \; 0)), $$

with $t(a) = a^2$, $|a|$ or $|a|^p$ (and max in place of the sum for $p = \infty$). Rounding is
monotone and the order of the sum is the same, so $B_c \le D_i$ holds for every point of the box
*after rounding* too: no neighbour is lost to it. For the same reason nothing is contracted to
fused multiply-adds, and the bits are those of the plain loop on every machine.

In a periodic box of side $L_j$ a difference $a$ counts $\min(a, L_j - a)$; the least over an
interval lies at its nearest or farthest end, $\min(t, L_j - T)$.

The loops are written as LLVM vectors, which every target lowers to what it has: Numba's own
vectoriser does not keep the eight sums in registers.

Shapes: a block is d x 8 values, eight boxes are d x 2 x 8 (lower, upper).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = [
    "LANES", "Lanes", "array_data", "block_distances", "box_bounds", "box_reaches",
]  # fmt: skip

LANES = 8
"""Points of a block, and children of a node."""

_I64, _I32, _I8 = ir.IntType(64), ir.IntType(32), ir.IntType(8)
_KINDS = ("euclid", "city", "chess", "power")


def array_data(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """The address of an array's first value."""
    return context.make_array(kind)(context, builder, value).data


class Lanes:
    """Vector arithmetic on eight lanes of one floating type."""

    def __init__(self, builder: Any, scalar: Any) -> None:
        self.builder, self.scalar = builder, scalar
        self.vector = ir.VectorType(scalar, LANES)
        self.size = 8 if isinstance(scalar, ir.DoubleType) else 4

    def load(self, base: Any, index: Any) -> Any:
        builder = self.builder
        address = builder.bitcast(builder.gep(base, [index]), self.vector.as_pointer())
        return builder.load(address, align=self.size)

    def store(self, value: Any, base: Any, index: Any) -> None:
        builder = self.builder
        address = builder.bitcast(builder.gep(base, [index]), self.vector.as_pointer())
        builder.store(value, address, align=self.size)

    def splat(self, value: Any) -> Any:
        builder = self.builder
        none = ir.Constant(self.vector, ir.Undefined)
        one = builder.insert_element(none, value, ir.Constant(_I32, 0))
        zeros = ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES)
        return builder.shuffle_vector(one, none, zeros)

    def scalar_at(self, base: Any, index: Any) -> Any:
        return self.splat(self.builder.load(self.builder.gep(base, [index])))

    def largest(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def least(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.fcmp_ordered("<", a, b), a, b)

    def zero(self) -> Any:
        return ir.Constant(self.vector, [0.0] * LANES)

    def magnitude(self, a: Any) -> Any:
        return self.largest(a, self.builder.fsub(self.zero(), a))

    def power(self, a: Any, p: Any) -> Any:
        kind = ir.FunctionType(self.vector, [self.vector, self.vector])
        name = f"llvm.pow.v{LANES}f{8 * self.size}"
        return self.builder.call(
            cgutils.get_or_insert_function(self.builder.module, kind, name), [a, p]
        )

    def mask_at_most(self, a: Any, limit: Any) -> Any:
        builder = self.builder
        bits = builder.bitcast(builder.fcmp_ordered("<=", a, limit), _I8)
        return builder.zext(bits, _I64)


def _accumulate(
    lanes: Lanes, d: Any, limit: Any, p: Any, kind: Any, magnitude: Callable[[Any], Any],
    factor: Callable[[Any], Any] | None, slack: Any,
) -> tuple[Any, Any]:  # fmt: skip
    """Emits the sum over j of t(magnitude(j)); leaves early once all lanes exceed `limit`.

    Returns:
        (pointer to the eight sums, pointer to the mask of lanes that are at most `limit`).
    """
    builder = lanes.builder
    total = cgutils.alloca_once(builder, lanes.vector)
    mask = cgutils.alloca_once(builder, _I64)
    four = ir.Constant(_I64, 4)
    rounded = builder.and_(d, ir.Constant(_I64, ~3))
    end = builder.append_basic_block("lanes.end")

    def add(j: Any, name: str) -> None:
        term, so_far = magnitude(j), builder.load(total)
        if name == "euclid":
            term = builder.fmul(term, term)
        elif name == "power":
            term = lanes.power(builder.fmul(lanes.magnitude(term), slack), p)
        else:
            term = lanes.magnitude(term)
        if factor is not None:
            term = builder.fmul(term, factor(j))
        is_max = name == "chess"
        builder.store(lanes.largest(term, so_far) if is_max else builder.fadd(so_far, term), total)

    builder.store(lanes.zero(), total)
    builder.store(ir.Constant(_I64, 0), mask)
    switch = builder.switch(kind, end)
    cases = [(code, builder.append_basic_block(name)) for code, name in enumerate(_KINDS)]
    for code, block in cases:
        switch.add_case(ir.Constant(_I64, code), block)
    for code, block in cases:
        builder.position_at_end(block)
        index = cgutils.alloca_once(builder, _I64)
        builder.store(ir.Constant(_I64, 0), index)
        head, body = (builder.append_basic_block(f"{_KINDS[code]}.{n}") for n in ("head", "body"))
        tail, last = (builder.append_basic_block(f"{_KINDS[code]}.{n}") for n in ("tail", "last"))
        builder.branch(head)
        builder.position_at_end(head)
        builder.cbranch(builder.icmp_unsigned("<", builder.load(index), rounded), body, tail)
        builder.position_at_end(body)
        j = builder.load(index)
        for step in range(4):
            add(builder.add(j, ir.Constant(_I64, step)), _KINDS[code])
        builder.store(builder.add(j, four), index)
        alive = lanes.mask_at_most(builder.load(total), limit)
        builder.store(alive, mask)
        builder.cbranch(builder.icmp_unsigned("==", alive, ir.Constant(_I64, 0)), end, head)
        builder.position_at_end(tail)
        more = builder.append_basic_block(f"{_KINDS[code]}.more")
        builder.cbranch(builder.icmp_unsigned("<", builder.load(index), d), more, last)
        builder.position_at_end(more)
        add(builder.load(index), _KINDS[code])
        builder.store(builder.add(builder.load(index), ir.Constant(_I64, 1)), index)
        builder.branch(tail)
        builder.position_at_end(last)
        builder.store(lanes.mask_at_most(builder.load(total), limit), mask)
        builder.branch(end)
    builder.position_at_end(end)
    return total, mask


def _wrap(lanes: Lanes, near: Any, far: Any, side: Any) -> Any:
    """The least of min(a, L - a) for a between `near` and `far`; it lies at one of them."""
    turned = lanes.largest(lanes.builder.fsub(side, far), lanes.zero())
    return lanes.least(near, turned)


def _difference(lanes: Lanes, load: Callable[[int, int], Any], x: Any, side: Any) -> Any:
    a = lanes.builder.fsub(x, load(0, 1))
    if side is None:
        return a
    a = lanes.magnitude(a)
    return _wrap(lanes, a, a, side)


def _near(lanes: Lanes, load: Callable[[int, int], Any], x: Any, side: Any) -> Any:
    fsub = lanes.builder.fsub
    under, over = fsub(load(0, 2), x), fsub(x, load(1, 2))
    gap = lanes.largest(lanes.largest(under, over), lanes.zero())
    if side is None:
        return gap
    # The farthest point of the interval is the negative of the nearer side's gap.
    low, high = fsub(x, load(0, 2)), fsub(load(1, 2), x)
    return _wrap(lanes, gap, lanes.largest(low, high), side)


def _far(lanes: Lanes, load: Callable[[int, int], Any], x: Any, side: Any) -> Any:
    fsub = lanes.builder.fsub
    most = lanes.largest(fsub(x, load(0, 2)), fsub(load(1, 2), x))
    if side is None:
        return most
    half = lanes.splat(ir.Constant(lanes.scalar, 0.5))
    return lanes.least(most, lanes.builder.fmul(side, half))


def _make(measure: Callable[..., Any], slack: float) -> Any:
    """Makes the intrinsic that sums one of the measures above over eight lanes.

    Only `pow` of a general p may round non-monotonically; `slack` (in units of 8 roundings)
    moves its argument to the safe side.
    """

    def typed(typing_context, kind, p, side, weight, table, at, x, x_at, d, limit, out, out_at):
        scalar, whole = table.dtype, types.int64
        signature = whole(
            whole, scalar, side, weight, table, whole, x, whole, whole, scalar, out, whole
        )

        def generate(context, builder, signature, arguments):
            kind, p, _, _, _, at, _, x_at, d, limit, _, out_at = arguments
            side, weight, table, x, out = (
                None
                if isinstance(signature.args[i], types.NoneType)
                else array_data(context, builder, signature.args[i], arguments[i])
                for i in (2, 3, 4, 6, 10)
            )
            lanes = Lanes(builder, context.get_value_type(signature.args[1]))

            def magnitude(j):
                def load(row, rows):
                    step = builder.mul(j, ir.Constant(_I64, rows * LANES))
                    where = builder.add(builder.add(at, step), ir.Constant(_I64, row * LANES))
                    return lanes.load(table, where)

                length = None if side is None else lanes.scalar_at(side, j)
                return measure(lanes, load, lanes.scalar_at(x, builder.add(x_at, j)), length)

            unit = 2.0**-50 if lanes.size == 8 else 2.0**-21
            factor = None if weight is None else (lambda j: lanes.scalar_at(weight, j))
            total, mask = _accumulate(
                lanes, d, lanes.splat(limit), lanes.splat(p), kind, magnitude, factor,
                lanes.splat(ir.Constant(lanes.scalar, 1.0 + slack * unit)),
            )  # fmt: skip
            lanes.store(builder.load(total), out, out_at)
            return builder.load(mask)

        return signature, generate

    return intrinsic(typed)


# Intrinsics are called with one argument fewer than they are defined with.
block_distances: Any = _make(_difference, 0.0)
"""(kind, p, side, weight, blocks, at, x, x_at, d, limit, out, out_at): D of the eight points of
the block at `at` goes to out[out_at:]; returns the mask of lanes with D <= limit, and may stop
early once there are none. `side` and `weight` are arrays (d,) or None."""
box_bounds: Any = _make(_near, -1.0)
"""The same for B of eight boxes: no point of a box is nearer."""
box_reaches: Any = _make(_far, 1.0)
"""The same for the farthest corner: no point of a box is farther."""
