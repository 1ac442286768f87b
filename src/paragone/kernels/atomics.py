"""Words that several processes share: ordered loads and stores, waiting and waking.

A plain load in a compiled loop may be done once, before the loop; a plain store may be seen by
another core after the stores that follow it. What two processes tell each other through shared
memory needs the four operations here that forbid that, on an array of int64:

- `store_release(words, i, value)`: all that was written before is seen by whoever sees the value;
- `load_acquire(words, i)`: what is read after it is at least as new as the value;
- `fetch_add(words, i, value)`: one step that nobody sees half done, returns the old value;
- `fence()`: what stands before it is done before what stands behind it.

To wait without burning a core that the other process needs: `pause()` a few times, then
`give_way()`, then `sleep_on(words, i, expected, nanoseconds)`, which sleeps while the lower half
of the word is `expected`, until `wake(words, i)` or the time is up. Linux only (futex). Each costs
what the instruction or the system call costs; all are called inside `njit` code.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = [
    "clock", "fence", "fetch_add", "give_way", "load_acquire", "pause", "pointer", "sleep_on",
    "store_release", "wake",
]  # fmt: skip

_WORD, _HALF, _BYTE = ir.IntType(64), ir.IntType(32), ir.IntType(8)
_ARM = platform.machine() in ("aarch64", "arm64")
_FUTEX = 98 if _ARM else 202
_WAIT, _WAKE = 0, 1


def _place(context, builder, kind, array, index):
    view = context.make_array(kind)(context, builder, array)
    return builder.gep(view.data, [index])


def _extern(builder, name, result, arguments, variadic=False):
    kind = ir.FunctionType(result, arguments, var_arg=variadic)
    return cgutils.get_or_insert_function(builder.module, kind, name)


@intrinsic
def _load_acquire(typing_context, words, index):
    def generate(context, builder, signature, arguments):
        place = _place(context, builder, signature.args[0], *arguments)
        return builder.load_atomic(place, "acquire", 8)

    return types.int64(words, types.int64), generate


@intrinsic
def _store_release(typing_context, words, index, value):
    def generate(context, builder, signature, arguments):
        place = _place(context, builder, signature.args[0], *arguments[:2])
        builder.store_atomic(arguments[2], place, "release", 8)
        return context.get_dummy_value()

    return types.void(words, types.int64, types.int64), generate


@intrinsic
def _fetch_add(typing_context, words, index, value):
    def generate(context, builder, signature, arguments):
        place = _place(context, builder, signature.args[0], *arguments[:2])
        return builder.atomic_rmw("add", place, arguments[2], "seq_cst")

    return types.int64(words, types.int64, types.int64), generate


@intrinsic
def _fence(typing_context):
    def generate(context, builder, signature, arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _pause(typing_context):
    def generate(context, builder, signature, arguments):
        if _ARM:
            hint = _extern(builder, "llvm.aarch64.hint", ir.VoidType(), [_HALF])
            builder.call(hint, [ir.Constant(_HALF, 1)])
        else:
            builder.call(_extern(builder, "llvm.x86.sse2.pause", ir.VoidType(), []), [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _give_way(typing_context):
    def generate(context, builder, signature, arguments):
        builder.call(_extern(builder, "sched_yield", _HALF, []), [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _clock(typing_context):
    def generate(context, builder, signature, arguments):
        pair = cgutils.alloca_once(builder, ir.ArrayType(_WORD, 2))
        words = builder.bitcast(pair, _WORD.as_pointer())
        read = _extern(builder, "clock_gettime", _HALF, [_HALF, _BYTE.as_pointer()])
        builder.call(read, [ir.Constant(_HALF, 1), builder.bitcast(pair, _BYTE.as_pointer())])
        seconds = builder.load(words)
        rest = builder.load(builder.gep(words, [ir.Constant(_WORD, 1)]))
        return builder.add(builder.mul(seconds, ir.Constant(_WORD, 10**9)), rest)

    return types.int64(), generate


def _futex(builder, place, *rest):
    call = _extern(builder, "syscall", _WORD, [_WORD], variadic=True)
    return builder.call(call, [ir.Constant(_WORD, _FUTEX), builder.ptrtoint(place, _WORD), *rest])


@intrinsic
def _sleep_on(typing_context, words, index, expected, nanoseconds):
    def generate(context, builder, signature, arguments):
        array, index, expected, nanoseconds = arguments
        place = _place(context, builder, signature.args[0], array, index)
        pair = cgutils.alloca_once(builder, ir.ArrayType(_WORD, 2))
        span = builder.bitcast(pair, _WORD.as_pointer())
        second = ir.Constant(_WORD, 10**9)
        builder.store(builder.sdiv(nanoseconds, second), span)
        rest = builder.gep(span, [ir.Constant(_WORD, 1)])
        builder.store(builder.srem(nanoseconds, second), rest)
        zero = ir.Constant(_WORD, 0)
        known = builder.zext(builder.trunc(expected, _HALF), _WORD)
        until = builder.ptrtoint(pair, _WORD)
        _futex(builder, place, ir.Constant(_WORD, _WAIT), known, until, zero, zero)
        return context.get_dummy_value()

    return types.void(words, types.int64, types.int64, types.int64), generate


@intrinsic
def _wake(typing_context, words, index):
    def generate(context, builder, signature, arguments):
        place = _place(context, builder, signature.args[0], *arguments)
        zero = ir.Constant(_WORD, 0)
        everyone = ir.Constant(_WORD, 2**31 - 1)
        _futex(builder, place, ir.Constant(_WORD, _WAKE), everyone, zero, zero, zero)
        return context.get_dummy_value()

    return types.void(words, types.int64), generate


@intrinsic
def _pointer(typing_context, address):
    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], _BYTE.as_pointer())

    return types.voidptr(types.int64), generate


# Intrinsics are called with one argument fewer than they are defined with.
load_acquire: Any = _load_acquire
"""(words, index): the int64 there; what is read afterwards is at least as new."""
store_release: Any = _store_release
"""(words, index, value): writes the int64 after everything written before."""
fetch_add: Any = _fetch_add
"""(words, index, value): adds in one step, returns what was there."""
fence: Any = _fence
"""(): loads and stores before it are done before those behind it."""
pause: Any = _pause
"""(): tells the core that this is a waiting loop."""
give_way: Any = _give_way
"""(): lets another thread that waits for this core run (`sched_yield`)."""
clock: Any = _clock
"""(): nanoseconds of the monotonic clock, int64."""
sleep_on: Any = _sleep_on
"""(words, index, expected, nanoseconds): sleeps while the lower 32 bits there are `expected`."""
wake: Any = _wake
"""(words, index): wakes whoever sleeps on the word, in any process that maps it."""
pointer: Any = _pointer
"""(address): an int64 as a pointer, for `numba.carray(pointer(address), shape, dtype)`."""
