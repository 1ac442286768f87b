r"""Three loops of the tree search as vector code: left sums of a few rows, and gains.

A node of few rows needs no sort and no histogram. With codes $c_i$ of its rows in one column,
the sums left of a cut behind row i,

$$ W_i = \sum_j w_j [c_j \le c_i], \qquad S_i = \sum_j w_j y_j [c_j \le c_i], $$

are found by comparing every row with every other, sixteen at a time: $m \lceil m / 16 \rceil$
steps without a branch, fewer than a sort of up to some fifty rows takes. Cuts are then scored
sixteen at a time; with the totals W and S of the node, the fall of the sum of squares is

$$ \frac{S_i^2}{W_i} + \frac{(S - S_i)^2}{W - W_i} - \frac{S^2}{W}
   = \frac{(S_i W - S W_i)^2}{W\, W_i\, (W - W_i)} , $$

and for K classes the fall of the Gini impurity needs only $q_i = \sum_k L_k^2$ of the left and
$r_i = \sum_k (T_k - L_k)^2$ of the right.

LLVM's loop vectoriser gives up here, since it cannot know that the arrays do not overlap and
that the trip counts are small; so the loops are written as vector instructions. LLVM turns
them into what the processor has (AVX-512, AVX2, NEON, or plain scalar code).

Shapes: m rows or cuts; the arrays of cuts hold a multiple of 16 entries.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as numba_intrinsic

__all__ = ["LANES", "NO_GAIN", "add_class", "add_pair", "gains", "gini_gains", "sums_below"]

LANES = 16
"""Rows of one step; arrays are padded to a multiple of it."""

NO_GAIN = -1.0
"""Gain of a cut that leaves a side empty or too light."""

# Called without its first parameter, which only Numba passes; types cannot say that.
_intrinsic: Any = numba_intrinsic

_DOUBLE, _BYTE, _WORD, _LONG = ir.DoubleType(), ir.IntType(8), ir.IntType(32), ir.IntType(64)
_DOUBLES, _BYTES = ir.VectorType(_DOUBLE, LANES), ir.VectorType(_BYTE, LANES)
_PAIR = ir.VectorType(_DOUBLE, 2)
_ZEROS = ir.Constant(_DOUBLES, [0.0] * LANES)
_NONE = ir.Constant(_DOUBLES, [NO_GAIN] * LANES)


def _long(value: int) -> Any:
    return ir.Constant(_LONG, value)


def _pointers(context: Any, builder: Any, signature: Any, arguments: Any) -> list[Any]:
    """The arguments, arrays replaced by the addresses of their data."""
    return [
        context.make_array(kind)(context, builder, value).data
        if isinstance(kind, types.Array)
        else value
        for kind, value in zip(signature.args, arguments, strict=True)
    ]


def _splat(builder: Any, value: Any, kind: Any) -> Any:
    """A vector of `value` in every place."""
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_WORD, 0))
    zeros = ir.Constant(ir.VectorType(_WORD, kind.count), [0] * kind.count)
    return builder.shuffle_vector(first, undefined, zeros)


def _load(builder: Any, base: Any, index: Any, kind: Any, align: int = 8) -> Any:
    place = builder.bitcast(builder.gep(base, [index]), kind.as_pointer())
    return builder.load(place, align=align)


def _store(builder: Any, value: Any, base: Any, index: Any) -> None:
    place = builder.bitcast(builder.gep(base, [index]), value.type.as_pointer())
    builder.store(value, place, align=8)


def _greatest(builder: Any, vector: Any) -> Any:
    half = LANES // 2
    while half:
        turn = ir.Constant(ir.VectorType(_WORD, LANES), [(i + half) % LANES for i in range(LANES)])
        other = builder.shuffle_vector(vector, ir.Constant(_DOUBLES, ir.Undefined), turn)
        larger = builder.fcmp_ordered(">", other, vector)
        vector = builder.select(larger, other, vector)
        half //= 2
    return builder.extract_element(vector, ir.Constant(_WORD, 0))


def _groups(builder: Any, count: Any) -> Any:
    """A loop over groups of lanes that cover `count`."""
    groups = builder.udiv(builder.add(count, _long(LANES - 1)), _long(LANES))
    return cgutils.for_range(builder, groups)


def _add(builder: Any, place: Any, mask: Any, value: Any) -> None:
    """Adds `value` (a number) to the lanes of the mask."""
    part = builder.select(mask, _splat(builder, value, _DOUBLES), _ZEROS)
    builder.store(builder.fadd(builder.load(place), part), place)


@_intrinsic
def sums_below(
    typing: Any,
    codes: Any,
    n: Any,
    pairs: Any,
    start: Any,
    cuts: Any,
    m: Any,
    weight: Any,
    moment: Any,
) -> Any:
    """For each of `m` cuts, the sums of the pairs of all rows with a code not above it.

    Takes the `codes` of `n` rows, uint8, `pairs` float64, (w, w y) of row j at 2 (start + j), and
    `cuts` uint8, a multiple of 16; writes `weight` and `moment`, float64.
    """
    whole = types.int64
    signature = types.void(codes, whole, pairs, whole, cuts, whole, weight, moment)

    def generate(context, builder, signature, arguments):
        codes, n, pairs, start, cuts, m, weight, moment = _pointers(
            context, builder, signature, arguments
        )
        w_sum, s_sum = (cgutils.alloca_once(builder, _DOUBLES) for _ in range(2))
        with _groups(builder, m) as group:
            base = builder.mul(group.index, _long(LANES))
            own = _load(builder, cuts, base, _BYTES, 1)
            builder.store(_ZEROS, w_sum)
            builder.store(_ZEROS, s_sum)
            with cgutils.for_range(builder, n) as row:
                code = builder.load(builder.gep(codes, [row.index]))
                below = builder.icmp_unsigned("<=", _splat(builder, code, _BYTES), own)
                at = builder.shl(builder.add(start, row.index), _long(1))
                _add(builder, w_sum, below, builder.load(builder.gep(pairs, [at])))
                at = builder.add(at, _long(1))
                _add(builder, s_sum, below, builder.load(builder.gep(pairs, [at])))
            _store(builder, builder.load(w_sum), weight, base)
            _store(builder, builder.load(s_sum), moment, base)
        return context.get_dummy_value()

    return signature, generate


@_intrinsic
def add_class(
    typing: Any,
    codes: Any,
    pairs: Any,
    start: Any,
    first: Any,
    last: Any,
    cuts: Any,
    m: Any,
    total: Any,
    weight: Any,
    left: Any,
    right: Any,
) -> Any:
    """Adds one class, the rows `first` to `last` of a node, to the sums of all `m` cuts.

    Takes codes, pairs and cuts as `sums_below`, rows counted from `start`, and T_k as `total`; adds
    L_k, L_k^2 and (T_k - L_k)^2 to `weight`, `left` and `right`.
    """
    whole = types.int64
    signature = types.void(
        codes, pairs, whole, whole, whole, cuts, whole, types.float64, weight, left, right
    )

    def generate(context, builder, signature, arguments):
        codes, pairs, start, first, last, cuts, m, total, weight, left, right = _pointers(
            context, builder, signature, arguments
        )
        mass = cgutils.alloca_once(builder, _DOUBLES)
        count = builder.sub(last, first)
        with _groups(builder, m) as group:
            base = builder.mul(group.index, _long(LANES))
            own = _load(builder, cuts, base, _BYTES, 1)
            builder.store(_ZEROS, mass)
            with cgutils.for_range(builder, count) as step:
                row = builder.add(first, step.index)
                code = builder.load(builder.gep(codes, [row]))
                below = builder.icmp_unsigned("<=", _splat(builder, code, _BYTES), own)
                at = builder.shl(builder.add(start, row), _long(1))
                _add(builder, mass, below, builder.load(builder.gep(pairs, [at])))
            own_mass = builder.load(mass)
            rest = builder.fsub(_splat(builder, total, _DOUBLES), own_mass)
            for place, part in (
                (weight, own_mass),
                (left, builder.fmul(own_mass, own_mass)),
                (right, builder.fmul(rest, rest)),
            ):
                old = _load(builder, place, base, _DOUBLES)
                _store(builder, builder.fadd(old, part), place, base)
        return context.get_dummy_value()

    return signature, generate


def _score(context, builder, signature, arguments, of_cut):
    """Scores all cuts by `of_cut`, invalid ones by `NO_GAIN`; returns the greatest score."""
    weight, _, _, m, total, _, least, out = arguments
    low = _splat(builder, least, _DOUBLES)
    whole = _splat(builder, total, _DOUBLES)
    top = cgutils.alloca_once(builder, _DOUBLES)
    builder.store(_NONE, top)
    with _groups(builder, m) as group:
        base = builder.mul(group.index, _long(LANES))
        on_left = _load(builder, weight, base, _DOUBLES)
        on_right = builder.fsub(whole, on_left)
        valid = builder.and_(
            builder.fcmp_ordered(">=", on_left, low), builder.fcmp_ordered(">=", on_right, low)
        )
        score = builder.select(valid, of_cut(base, on_left, on_right, whole), _NONE)
        _store(builder, score, out, base)
        old = builder.load(top)
        builder.store(builder.select(builder.fcmp_ordered(">", score, old), score, old), top)
    return _greatest(builder, builder.load(top))


@_intrinsic
def gains(
    typing: Any,
    weight: Any,
    moment: Any,
    unused: Any,
    m: Any,
    total: Any,
    total_moment: Any,
    least: Any,
    out: Any,
) -> Any:
    """W times the fall of the sum of squares for `m` cuts into `out`; returns the greatest.

    Takes the sums left of each cut, the node's W and S, and the least weight > 0 of a side;
    `unused` makes the signature that of `gini_gains`.
    """
    real = types.float64
    signature = real(weight, moment, unused, types.int64, real, real, real, out)

    def generate(context, builder, signature, arguments):
        arguments = _pointers(context, builder, signature, arguments)
        moment, sum_moment = arguments[1], arguments[5]

        def of_cut(base, on_left, on_right, whole):
            left = _load(builder, moment, base, _DOUBLES)
            total = _splat(builder, sum_moment, _DOUBLES)
            away = builder.fsub(builder.fmul(left, whole), builder.fmul(total, on_left))
            return builder.fdiv(builder.fmul(away, away), builder.fmul(on_left, on_right))

        return _score(context, builder, signature, arguments, of_cut)

    return signature, generate


@_intrinsic
def gini_gains(
    typing: Any,
    weight: Any,
    left: Any,
    right: Any,
    m: Any,
    total: Any,
    own: Any,
    least: Any,
    out: Any,
) -> Any:
    """The fall of the weighted Gini impurity for `m` cuts into `out`; returns the greatest.

    Takes W_i, q_i and r_i of each cut, W and sum_k T_k^2 / W of the node, and the least weight
    > 0 of a side.
    """
    real = types.float64
    signature = real(weight, left, right, types.int64, real, real, real, out)

    def generate(context, builder, signature, arguments):
        arguments = _pointers(context, builder, signature, arguments)
        left, right, own = arguments[1], arguments[2], arguments[5]

        def of_cut(base, on_left, on_right, whole):
            one = builder.fdiv(_load(builder, left, base, _DOUBLES), on_left)
            two = builder.fdiv(_load(builder, right, base, _DOUBLES), on_right)
            fall = builder.fsub(builder.fadd(one, two), _splat(builder, own, _DOUBLES))
            return builder.select(builder.fcmp_ordered(">", fall, _ZEROS), fall, _ZEROS)

        return _score(context, builder, signature, arguments, of_cut)

    return signature, generate


@_intrinsic
def add_pair(typing: Any, sums: Any, index: Any, pairs: Any, row: Any) -> Any:
    """Adds pair `row` of `pairs` to pair `index` of `sums` in one vector addition."""
    signature = types.void(sums, types.uint64, pairs, types.uint64)

    def generate(context, builder, signature, arguments):
        sums, index, pairs, row = _pointers(context, builder, signature, arguments)
        place = builder.shl(index, _long(1))
        part = _load(builder, pairs, builder.shl(row, _long(1)), _PAIR)
        old = _load(builder, sums, place, _PAIR)
        _store(builder, builder.fadd(old, part), sums, place)
        return context.get_dummy_value()

    return signature, generate
