"""Vectors of floats as values in compiled code.

What the compiler does not vectorise by itself (online softmax, scans, tiled products) is written
with these: each name below is called inside `njit` code and becomes the vector instruction that
it names. A vector has `WIDTH` lanes of float32, 16 with AVX-512, 8 with AVX, else 4; code written
with `WIDTH` runs on all of them.

    acc = zero()
    for j in range(0, n - n % WIDTH, WIDTH):
        acc = fma(load(x, j), load(y, j), acc)
    dot = total(fma(load_some(x, j_end, n - j_end), load_some(y, j_end, n - j_end), acc))

The register tile of a matrix product stands beside it in `tiles`.

Offsets count elements from the start of the array's data, whatever its shape; nothing checks them.

References:
    Muller (2016), Elementary Functions, chapters 3 and 11 (exp2 and log2 by range reduction and a
    polynomial; the coefficients are minimax fits made for this file).
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, register_model

__all__ = [
    "VECTOR",
    "WIDTH",
    "absolute",
    "below",
    "emit_fma",
    "emit_place",
    "emit_splat",
    "exp",
    "exp2",
    "fill_some",
    "flush_denormals",
    "fma",
    "lanes",
    "largest",
    "load",
    "load_bf16",
    "load_bf16_some",
    "load_fp16",
    "load_fp16_some",
    "load_some",
    "log2",
    "maximum",
    "minimum",
    "restore_floats",
    "splat",
    "sqrt",
    "store",
    "store_bf16",
    "store_bf16_some",
    "store_fp16",
    "store_fp16_some",
    "store_some",
    "total",
    "vector",
    "zero",
]  # fmt: skip


def _host_width() -> int:
    features = binding.get_host_cpu_features()
    return 16 if features.get("avx512f") else 8 if features.get("avx") else 4


WIDTH = _host_width()
"""Lanes of a vector."""

_F32, _I32, _I16 = ir.FloatType(), ir.IntType(32), ir.IntType(16)
VECTOR, _VI, _VH = (ir.VectorType(kind, WIDTH) for kind in (_F32, _I32, _I16))
"""LLVM's types of vectors; the `emit_` functions write their instructions into other intrinsics."""


class _Vector(types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"vector{WIDTH}")


vector = _Vector()
"""Numba's type of a vector."""


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, VECTOR)


def _number(value: float) -> ir.Constant:
    return ir.Constant(VECTOR, [float(value)] * WIDTH)


def _bits(value: int) -> ir.Constant:
    return ir.Constant(_VI, [int(value)] * WIDTH)


def _call(builder: Any, name: str, result: Any, arguments: Any) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, arguments)


_SUFFIX = f"v{WIDTH}f32"


def emit_fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Writes a b + c."""
    return _call(builder, f"llvm.fma.{_SUFFIX}", VECTOR, [a, b, c])


def emit_splat(builder: Any, scalar: Any) -> Any:
    """Writes a vector of one float."""
    first = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), scalar, ir.Constant(_I32, 0))
    order = ir.Constant(ir.VectorType(_I32, WIDTH), [0] * WIDTH)
    return builder.shuffle_vector(first, ir.Constant(VECTOR, ir.Undefined), order)


def emit_place(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """Writes the address of an element, counted from the start of the array's data."""
    view = context.make_array(array_type)(context, builder, array)
    return builder.gep(view.data, [index])


def _first(builder: Any, count: Any) -> Any:
    """Mask of the first `count` lanes."""
    lanes = ir.Constant(_VI, list(range(WIDTH)))
    low = builder.select(
        builder.icmp_signed("<", count, ir.Constant(count.type, WIDTH)), count,
        ir.Constant(count.type, WIDTH),
    )  # fmt: skip
    narrow = builder.trunc(low, _I32)
    first = builder.insert_element(ir.Constant(_VI, ir.Undefined), narrow, ir.Constant(_I32, 0))
    order = ir.Constant(ir.VectorType(_I32, WIDTH), [0] * WIDTH)
    limit = builder.shuffle_vector(first, ir.Constant(_VI, ir.Undefined), order)
    return builder.icmp_signed("<", lanes, limit)


def _memory(kind: Any, element: Any, read: bool, part: bool) -> Any:
    """Load or store of one vector of `kind`, whole or the first n lanes."""
    suffix = {VECTOR: f"v{WIDTH}f32", _VH: f"v{WIDTH}i16"}[kind]

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = emit_place(context, builder, sig.args[0], args[0], args[1])
        place = builder.bitcast(place, kind.as_pointer())
        value = None if read else args[2]
        if value is not None and kind is _VH:
            value = _narrow[element](builder, value)
        if not part:
            if read:
                found = builder.load(place, align=1)
                return _widen[element](builder, found) if kind is _VH else found
            builder.store(value, place, align=1)
            return context.get_dummy_value()
        mask, align = _first(builder, args[-1]), ir.Constant(_I32, 1)
        if read:
            nothing = ir.Constant(kind, [0] * WIDTH if kind is _VH else [0.0] * WIDTH)
            found = _call(builder, f"llvm.masked.load.{suffix}.p0", kind,
                          [place, align, mask, nothing])  # fmt: skip
            return _widen[element](builder, found) if kind is _VH else found
        _call(builder, f"llvm.masked.store.{suffix}.p0", ir.VoidType(), [value, place, align, mask])
        return context.get_dummy_value()

    return generate


def _bf16_wide(builder: Any, words: Any) -> Any:
    return builder.bitcast(builder.shl(builder.zext(words, _VI), _bits(16)), VECTOR)


def _bf16_narrow(builder: Any, value: Any) -> Any:
    bits = builder.bitcast(value, _VI)
    odd = builder.and_(builder.lshr(bits, _bits(16)), _bits(1))
    near = builder.lshr(builder.add(bits, builder.add(odd, _bits(0x7FFF))), _bits(16))
    quiet = builder.or_(builder.lshr(bits, _bits(16)), _bits(0x40))
    return builder.trunc(builder.select(builder.fcmp_unordered("uno", value, value), quiet, near),
                         _VH)  # fmt: skip


def _fp16_wide(builder: Any, words: Any) -> Any:
    return builder.fpext(builder.bitcast(words, ir.VectorType(ir.HalfType(), WIDTH)), VECTOR)


def _fp16_narrow(builder: Any, value: Any) -> Any:
    return builder.bitcast(builder.fptrunc(value, ir.VectorType(ir.HalfType(), WIDTH)), _VH)


_widen = {"bf16": _bf16_wide, "fp16": _fp16_wide}
_narrow = {"bf16": _bf16_narrow, "fp16": _fp16_narrow}


def _loader(kind: Any, element: str) -> tuple[Any, Any, Any, Any]:
    def typed(read: bool, part: bool) -> Any:
        generate, whole = _memory(kind, element, read, part), types.int64
        if read and part:
            form = lambda context, array, i, n: (vector(array, whole, whole), generate)  # noqa: E731
        elif read:
            form = lambda context, array, i: (vector(array, whole), generate)  # noqa: E731
        elif part:
            form = lambda context, array, i, v, n: (  # noqa: E731
                types.void(array, whole, vector, whole), generate
            )  # fmt: skip
        else:
            form = lambda context, array, i, v: (  # noqa: E731
                types.void(array, whole, vector), generate
            )  # fmt: skip
        return intrinsic(form)

    return typed(True, False), typed(True, True), typed(False, False), typed(False, True)


_floats, _bf16s, _fp16s = _loader(VECTOR, ""), _loader(_VH, "bf16"), _loader(_VH, "fp16")
# Intrinsics are called with one argument fewer than they are defined with.
load: Any = _floats[0]
"""(array, i): `WIDTH` floats from element i on."""
load_some: Any = _floats[1]
"""(array, i, n): the first n of them; the other lanes are 0 and their memory is not touched."""
store: Any = _floats[2]
"""(array, i, v)."""
store_some: Any = _floats[3]
"""(array, i, v, n): stores the first n lanes."""
load_bf16: Any = _bf16s[0]
"""(words, i): bfloat16 numbers, kept in uint16, widened."""
load_bf16_some: Any = _bf16s[1]
"""(words, i, n)."""
store_bf16: Any = _bf16s[2]
"""(words, i, v): rounded to the nearest bfloat16, ties to even."""
store_bf16_some: Any = _bf16s[3]
"""(words, i, v, n)."""
load_fp16: Any = _fp16s[0]
"""(words, i): float16 numbers, kept in uint16, widened."""
load_fp16_some: Any = _fp16s[1]
"""(words, i, n)."""
store_fp16: Any = _fp16s[2]
"""(words, i, v): rounded to the nearest float16, ties to even."""
store_fp16_some: Any = _fp16s[3]
"""(words, i, v, n)."""


def _pure(arity: int, emit: Any, result: Any = None) -> Any:
    """An intrinsic of `arity` vectors."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return emit(builder, *args)

    back = result or vector
    forms: dict[int, Any] = {
        1: lambda context, a: (back(vector), generate),
        2: lambda context, a, b: (back(vector, vector), generate),
        3: lambda context, a, b, c: (back(vector, vector, vector), generate),
        4: lambda context, a, b, c, d: (back(vector, vector, vector, vector), generate),
    }
    return intrinsic(forms[arity])


def _larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _smaller(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


def _folded(builder: Any, value: Any, join: Any) -> Any:
    """Joins the lanes in a tree, always in the same order."""
    half = WIDTH // 2
    while half:
        order = [(lane + half) % WIDTH for lane in range(WIDTH)]
        moved = builder.shuffle_vector(value, value, ir.Constant(ir.VectorType(_I32, WIDTH), order))
        value = join(builder, value, moved)
        half //= 2
    return builder.extract_element(value, ir.Constant(_I32, 0))


def _polynomial(builder: Any, x: Any, coefficients: Any) -> Any:
    found = _number(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        found = emit_fma(builder, found, x, _number(coefficient))
    return found


_EXP2 = (1.0, 0.6931472057371986, 0.24022646890479216, 0.055503287770773665,
         0.009618488973869152, 0.0013399931183205995, 0.00015345807497805657)  # fmt: skip
_LOG2 = (1.44269504082943, -0.7213473515005364, 0.4808982412265478, -0.36069664950573166,
         0.2885673995221552, -0.23961739440089602, 0.2046007709292625, -0.19106297519818904,
         0.18617414072624028, -0.1099480555446582)  # fmt: skip
_SHIFT = 12582912.0  # 1.5 * 2^23: adding it rounds to an integer that stands in the low bits


def _power(builder: Any, x: Any, scaled: Any, rest: Any) -> Any:
    """2^scaled for the caller's argument x; `rest(n)` is what rounding `scaled` to n leaves."""
    shifted = builder.fadd(scaled, _number(_SHIFT))
    n = builder.fsub(shifted, _number(_SHIFT))
    small = builder.bitcast(_polynomial(builder, rest(n), _EXP2), _VI)
    grown = builder.add(small, builder.shl(builder.bitcast(shifted, _VI), _bits(23)))
    found = builder.bitcast(grown, VECTOR)
    low = builder.fcmp_ordered("<", scaled, _number(-126.0))
    found = builder.select(low, _number(0.0), found)
    high = builder.fcmp_ordered(">=", scaled, _number(128.0))
    found = builder.select(high, _number(float("inf")), found)
    return builder.select(builder.fcmp_unordered("uno", x, x), x, found)


def _exp2(builder: Any, x: Any) -> Any:
    return _power(builder, x, x, lambda n: builder.fsub(x, n))


_LOG2_E, _LN2_HIGH, _LN2_LOW = 1.4426950408889634, 0.693145751953125, 1.4286068203094172e-06


def _exp(builder: Any, x: Any) -> Any:
    def rest(n: Any) -> Any:
        left = emit_fma(builder, n, _number(-_LN2_HIGH), x)
        left = emit_fma(builder, n, _number(-_LN2_LOW), left)
        return builder.fmul(left, _number(_LOG2_E))

    return _power(builder, x, builder.fmul(x, _number(_LOG2_E)), rest)


def _log2(builder: Any, x: Any) -> Any:
    bits = builder.bitcast(x, _VI)
    power = builder.ashr(builder.sub(bits, _bits(0x3F3504F3)), _bits(23))
    scale = builder.bitcast(builder.sub(bits, builder.shl(power, _bits(23))), VECTOR)
    t = builder.fsub(scale, _number(1.0))
    whole = builder.sitofp(power, VECTOR)
    found = emit_fma(builder, t, _polynomial(builder, t, _LOG2), whole)
    zero = builder.fcmp_ordered("<", x, _number(2.0**-126))
    found = builder.select(zero, _number(float("-inf")), found)
    negative = builder.fcmp_ordered("<", x, _number(0.0))
    found = builder.select(negative, _number(float("nan")), found)
    endless = builder.fcmp_unordered("ueq", x, _number(float("inf")))
    return builder.select(endless, x, found)


fma: Any = _pure(3, emit_fma)
"""(a, b, c): a b + c, rounded once."""
maximum: Any = _pure(2, _larger)
"""(a, b): the larger in each lane; b where one of the two is NaN."""
minimum: Any = _pure(2, _smaller)
"""(a, b): the smaller in each lane; b where one of the two is NaN."""
below: Any = _pure(4, lambda builder, a, b, x, y: builder.select(
    builder.fcmp_ordered("<", a, b), x, y))  # fmt: skip
"""(a, b, x, y): x in the lanes where a < b, else y."""
absolute: Any = _pure(1, lambda builder, a: _call(builder, f"llvm.fabs.{_SUFFIX}", VECTOR, [a]))
"""(a): without sign."""
sqrt: Any = _pure(1, lambda builder, a: _call(builder, f"llvm.sqrt.{_SUFFIX}", VECTOR, [a]))
"""(a): square root."""
exp2: Any = _pure(1, _exp2)
"""(a): 2^a within 2 ulp; 0 below -126 (never a denormal), inf from 128 on; NaN stays NaN."""
exp: Any = _pure(1, _exp)
"""(a): e^a within 2 ulp, with the same ends."""
log2: Any = _pure(1, _log2)
"""(a): base-2 logarithm within 2 ulp; -inf at 0 and at denormals, NaN below 0."""
total: Any = _pure(1, lambda builder, a: _folded(
    builder, a, lambda b, x, y: b.fadd(x, y)), types.float32)  # fmt: skip
"""(a): sum over the lanes, in a fixed order."""
largest: Any = _pure(1, lambda builder, a: _folded(builder, a, _larger), types.float32)
"""(a): maximum over the lanes."""


@intrinsic
def _splat_of(typing_context, scalar):
    def generate(context, builder, signature, arguments):
        return emit_splat(builder, arguments[0])

    return vector(types.float32), generate


@intrinsic
def _zero(typing_context):
    def generate(context, builder, signature, arguments):
        return _number(0.0)

    return vector(), generate


@intrinsic
def _lanes(typing_context):
    def generate(context, builder, signature, arguments):
        return ir.Constant(VECTOR, [float(lane) for lane in range(WIDTH)])

    return vector(), generate


@intrinsic
def _fill_some(typing_context, value, other, count):
    def generate(context, builder, signature, arguments):
        a, b, n = arguments
        return builder.select(_first(builder, n), a, b)

    return vector(vector, vector, types.int64), generate


splat: Any = _splat_of
"""(x): a float in every lane."""
zero: Any = _zero
"""(): 0 in every lane."""
lanes: Any = _lanes
"""(): 0, 1, 2 … as floats."""
fill_some: Any = _fill_some
"""(a, b, n): the first n lanes of a, then those of b."""

_typed: Any = infer_global
_BINARY = {operator.add: "fadd", operator.sub: "fsub", operator.mul: "fmul",
           operator.truediv: "fdiv", operator.iadd: "fadd", operator.isub: "fsub",
           operator.imul: "fmul"}  # fmt: skip


def _binary(function: Any, name: str) -> None:
    @_typed(function)
    class _Typed(ConcreteTemplate):
        cases = (signature(vector, vector, vector),)

    @lower_builtin(function, vector, vector)
    def lower(context, builder, sig, args):
        return getattr(builder, name)(*args)


for _function, _name in _BINARY.items():
    _binary(_function, _name)


@_typed(operator.neg)
class _Negated(ConcreteTemplate):
    cases = (signature(vector, vector),)


@lower_builtin(operator.neg, vector)
def _lower_negated(context, builder, sig, args):
    return builder.fneg(args[0])


_X86 = binding.get_process_triple().startswith(("x86_64", "i386", "i686"))


def _control(builder: Any, name: str, slot: Any) -> None:
    kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer()])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    builder.call(function, [builder.bitcast(slot, ir.IntType(8).as_pointer())])


@intrinsic
def _flush_denormals(typing_context):
    def generate(context, builder, signature, arguments):
        if not _X86:
            return ir.Constant(_I32, 0)
        slot = cgutils.alloca_once(builder, _I32)
        _control(builder, "llvm.x86.sse.stmxcsr", slot)
        old = builder.load(slot)
        builder.store(builder.or_(old, ir.Constant(_I32, 0x8040)), slot)
        _control(builder, "llvm.x86.sse.ldmxcsr", slot)
        return old

    return types.uint32(), generate


@intrinsic
def _restore_floats(typing_context, old):
    def generate(context, builder, signature, arguments):
        if _X86:
            slot = cgutils.alloca_once(builder, _I32)
            builder.store(arguments[0], slot)
            _control(builder, "llvm.x86.sse.ldmxcsr", slot)
        return context.get_dummy_value()

    return types.void(types.uint32), generate


flush_denormals: Any = _flush_denormals
"""(): this thread takes denormals for 0 from here on (on x86); returns what `restore_floats` wants.

A recurrence that fades away otherwise ends in denormals, each of which costs a hundred cycles.
"""
restore_floats: Any = _restore_floats
"""(old): as it was before; to be called before the kernel returns."""
