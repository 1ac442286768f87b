r"""One token of linear attention on the CPU: reads the state once, writes the next one.

$$ S' = e^{g} \odot S, \quad u = v \ \text{or}\ \beta (v - S'^\top k), \quad
   S'' = S' + k u^\top, \quad o = c\, S''^\top q $$

row by row of S, in one pass (two for the delta rule, the second of them in the cache), so that
decoding takes about the time of copying the state. The state that came in stays as it is; one
that no cache would hold is written past the cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit
from paragone.kernels.simd import (
    VECTOR,
    WIDTH,
    emit_place,
    exp,
    flush_denormals,
    fma,
    load,
    load_some,
    restore_floats,
    splat,
    store,
    store_some,
    vector,
    zero,
)
from paragone.mixers.ops.linear._cpu_forward import LEAST, copy_rows, room
from paragone.mixers.ops.linear._cpu_parts import (
    RESULTS,
    dot,
    features,
    floats,
    given,
    padded,
    unpack,
)

__all__ = ["step"]

_CACHE = 1 << 20
_options: Any = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True}


@intrinsic
def _past_cache(typing_context, array, index, value):
    def generate(context, builder, signature, arguments):
        place = emit_place(context, builder, signature.args[0], arguments[0], arguments[1])
        place = builder.bitcast(place, VECTOR.as_pointer())
        stored = builder.store(arguments[2], place, align=4 * WIDTH)
        one = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        stored.set_metadata("nontemporal", one)
        return context.get_dummy_value()

    return types.void(array, types.int64, vector), generate


# Intrinsics are called with one argument fewer than they are defined with.
_stream: Any = _past_cache


@njit(**_options)
def _recalled(shape, memory, at, ks, decay, seen):
    """Sets seen = S'^T k."""
    E, whole = shape.values, shape.values - shape.values % WIDTH
    for e in range(0, E, WIDTH):
        store(seen, e, zero())
    for d in range(shape.keys):
        p, weight = at + d * E, splat(ks[d] * decay[d])
        for e in range(0, whole, WIDTH):
            store(seen, e, fma(weight, load(memory, p + e), load(seen, e)))
        if whole < E:
            value = load_some(memory, p + whole, E - whole)
            store(seen, whole, fma(weight, value, load(seen, whole)))


@njit(**_options)
def _replaced(shape, memory, at, ks, qs, decay, us, after, os, streams):
    """The new state, and os = S''^T q."""
    E, whole = shape.values, shape.values - shape.values % WIDTH
    for e in range(0, E, WIDTH):
        store(os, e, zero())
    for d in range(shape.keys):
        p, k, q, left = at + d * E, splat(ks[d]), splat(qs[d]), splat(decay[d])
        for e in range(0, whole, WIDTH):
            s = fma(k, load(us, e), left * load(memory, p + e))
            store(os, e, fma(q, s, load(os, e)))
            if streams:
                _stream(after, p + e, s)
            else:
                store(after, p + e, s)
        if whole < E:
            s = fma(k, load(us, whole), left * load_some(memory, p + whole, E - whole))
            store(os, whole, fma(q, s, load(os, whole)))
            store_some(after, p + whole, s, E - whole)


@njit(**_options)
def _normed(shape, x, unit, ks, qs, decay, z, norm):
    """Takes the normaliser on by a token; returns the sum of the weights."""
    D = shape.keys
    for d in range(0, D, WIDTH):
        m = min(WIDTH, D - d)
        value = fma(load(decay, d), load_some(x.norm, unit * D + d, m), load(ks, d))
        store(z, d, value)
        store_some(norm, unit * D + d, value, m)
    return max(dot(qs, 0, z, 0, D), LEAST)


@njit(nogil=True, error_model="numpy")
def step(counter, units, words, scale):
    """As `forward`, for T = 1."""
    old = flush_denormals()
    shape, x = unpack(words), given(words)
    out, memory, norm = (
        floats(words[RESULTS]), floats(words[RESULTS + 1]), floats(words[RESULTS + 2])
    )  # fmt: skip
    D, E, H = shape.keys, shape.values, shape.heads
    dp, ep = padded(D), padded(E)
    qs, ks, us, os = room(dp), room(dp), room(ep), room(ep)
    decay, seen, z, one = room(dp), room(ep), room(dp), np.float32(1.0)
    streams = E % WIDTH == 0 and units * D * E > _CACHE and words[RESULTS + 1] % 64 == 0
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        row, head = unit // H, unit % H
        at = row * shape.q_row + head * shape.q_head
        features(x.q, at, qs, 0, D, shape.map, scale, False, decay, 0)
        at = row * shape.k_row + head * shape.k_head
        features(x.k, at, ks, 0, D, shape.map, one, False, decay, 0)
        at = row * shape.g_row + head * shape.g_head
        for d in range(0, D, WIDTH):
            value = zero()
            if shape.gate == 1:
                value = splat(x.gate[at])
            elif shape.gate == 2:
                value = load_some(x.gate, at + d, min(WIDTH, D - d))
            store(decay, d, exp(value))
        copy_rows(x.v, row * shape.v_row + head * shape.v_head, E, us, 0, ep, 1, E)
        at = unit * D * E
        if shape.delta:
            _recalled(shape, x.memory, at, ks, decay, seen)
            strength = splat(x.beta[row * shape.b_row + head * shape.b_head])
            for e in range(0, E, WIDTH):
                store(us, e, strength * (load(us, e) - load(seen, e)))
        _replaced(shape, x.memory, at, ks, qs, decay, us, memory, os, streams)
        factor = one
        if shape.normalize:
            factor = one / _normed(shape, x, unit, ks, qs, decay, z, norm)
        for e in range(0, E, WIDTH):
            store_some(out, unit * E + e, load(os, e) * splat(factor), min(WIDTH, E - e))
        unit = fetch_add(counter, 0, 1)
    restore_floats(old)
