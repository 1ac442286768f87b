r"""The register tile of a matrix product: the inner loop of everything that multiplies here.

A block of A (rows x K) times a panel of B (K x `TILE_COLUMNS`), with all sums in registers:

$$ C_{ij} \;(+)=\; \sum_{k < K} A_{ik} B_{kj}, \qquad i < \mathrm{rows},\; j < \mathrm{columns} . $$

Each step of k reads one row of the panel and `rows` numbers of A, and does rows x columns
multiplications; six rows are enough to keep both units of a core busy.

References:
    Goto and van de Geijn (2008), ACM TOMS 34(3), article 12, section 4.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from paragone.kernels.simd import VECTOR, WIDTH, emit_fma, emit_place, emit_splat

__all__ = ["TILE_COLUMNS", "TILE_ROWS", "tile"]

_PANELS = 4 if WIDTH == 16 else 2
TILE_COLUMNS = WIDTH * _PANELS
"""Columns of a register tile: 64 with AVX-512."""
TILE_ROWS = 6
"""Most rows of a register tile whose sums fit into the registers."""


def _sums(builder: Any, rows: int, panels: int, c: Any, c_row: Any, add: Any) -> Any:
    """The tile's sums at the start, as phi nodes: C where `add`, else 0."""
    head = builder.block
    read, after = builder.append_basic_block("read"), builder.append_basic_block("sums")
    builder.cbranch(builder.icmp_signed("!=", add, ir.Constant(add.type, 0)), read, after)
    builder.position_at_end(read)
    found = [
        builder.load(_shifted(builder, c, builder.mul(c_row, _int(i)), j), align=1)
        for i in range(rows)
        for j in range(panels)
    ]
    builder.branch(after)
    builder.position_at_end(after)
    sums = []
    for value in found:
        phi = builder.phi(VECTOR)
        phi.add_incoming(ir.Constant(VECTOR, [0.0] * WIDTH), head)
        phi.add_incoming(value, read)
        sums.append(phi)
    return sums


def _int(value: int) -> ir.Constant:
    return ir.Constant(ir.IntType(64), value)


def _shifted(builder: Any, place: Any, offset: Any, panel: int) -> Any:
    at = builder.gep(place, [builder.add(offset, _int(panel * WIDTH))])
    return builder.bitcast(at, VECTOR.as_pointer())


def _product(builder: Any, rows: int, width: int, a: Any, a_row: Any, a_k: Any, b: Any, b_k: Any,
             depth: Any, sums: Any) -> Any:  # fmt: skip
    """Adds A B to the sums, in a loop over k; returns them in the block after it."""
    before = builder.block
    loop, after = builder.append_basic_block("k"), builder.append_basic_block("done")
    some = builder.icmp_signed(">", depth, _int(0))
    builder.cbranch(some, loop, after)
    builder.position_at_end(loop)
    k = builder.phi(ir.IntType(64))
    k.add_incoming(_int(0), before)
    running = [builder.phi(VECTOR) for _ in sums]
    for phi, start in zip(running, sums, strict=True):
        phi.add_incoming(start, before)
    row_b, col_a = builder.mul(k, b_k), builder.mul(k, a_k)
    panels = [builder.load(_shifted(builder, b, row_b, j), align=1) for j in range(width)]
    grown = []
    for i in range(rows):
        place = builder.gep(a, [builder.add(col_a, builder.mul(a_row, _int(i)))])
        scalar = emit_splat(builder, builder.load(place))
        for j in range(width):
            grown.append(emit_fma(builder, scalar, panels[j], running[i * width + j]))
    following = builder.add(k, _int(1))
    k.add_incoming(following, loop)
    for phi, value in zip(running, grown, strict=True):
        phi.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed("<", following, depth), loop, after)
    builder.position_at_end(after)
    ends = []
    for start, value in zip(sums, grown, strict=True):
        phi = builder.phi(VECTOR)
        phi.add_incoming(start, before)
        phi.add_incoming(value, loop)
        ends.append(phi)
    return ends


@functools.cache
def tile(rows: int, panels: int = _PANELS) -> Any:
    """Returns the micro-kernel of a tile with `rows` rows, at most `TILE_ROWS` to be quick.

    With `panels` it is that many vectors wide, not `TILE_COLUMNS`.

    The result is called inside `njit` code, as a global:

        product = tile(6)
        product(a, a_at, a_row, a_k, b, b_at, b_k, c, c_at, c_row, depth, add)

    Element (i, k) of A is `a[a_at + i * a_row + k * a_k]`; row k of B are the `TILE_COLUMNS`
    floats from `b[b_at + k * b_k]` on, row i of C those from `c[c_at + i * c_row]` on. The sum
    over k < depth replaces C where `add` is 0, and is added to it otherwise.
    """

    @intrinsic
    def product(typing_context, a, a_at, a_row, a_k, b, b_at, b_k, c, c_at, c_row, depth, add):
        whole = types.int64

        def generate(context, builder, sig, args):
            place_a = emit_place(context, builder, sig.args[0], args[0], args[1])
            place_b = emit_place(context, builder, sig.args[4], args[4], args[5])
            place_c = emit_place(context, builder, sig.args[7], args[7], args[8])
            a_row, a_k, b_k, c_row, depth, add = (args[i] for i in (2, 3, 6, 9, 10, 11))
            sums = _sums(builder, rows, panels, place_c, c_row, add)
            ends = _product(builder, rows, panels, place_a, a_row, a_k, place_b, b_k, depth, sums)
            for at, value in enumerate(ends):
                i, j = divmod(at, panels)
                place = _shifted(builder, place_c, builder.mul(c_row, _int(i)), j)
                builder.store(value, place, align=1)
            return context.get_dummy_value()

        kinds = (a, whole, whole, whole, b, whole, whole, c, whole, whole, whole, whole)
        return types.void(*kinds), generate

    return product
