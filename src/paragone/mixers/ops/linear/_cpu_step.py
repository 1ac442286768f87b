r"""One token of linear attention on the CPU: reads the state once, writes the next one.

$$ S' = e^{g} \odot S, \quad u = v \ \text{or}\ \beta (v - S'^\top k), \quad
   S'' = S' + k u^\top, \quad o = c\, S''^\top q $$

in one pass over S (two for the delta rule, the second of them in the cache), so that decoding
takes about the time of copying the state. The state that came in stays as it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit
from paragone.kernels.simd import (
    WIDTH,
    exp,
    flush_denormals,
    fma,
    load,
    load_some,
    restore_floats,
    splat,
    store,
    store_some,
    zero,
)
from paragone.mixers.ops.linear._cpu_forward import TINY, room
from paragone.mixers.ops.linear._cpu_parts import dot, features, padded, unpack

__all__ = ["step"]

_options: Any = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True}


@njit(**_options)
def _recalled(shape, memory, at, ks, decay, seen):
    """seen = S'^T k, with decays of S in `decay`."""
    D, E = shape.keys, shape.values
    for e in range(0, E, WIDTH):
        m, found = min(WIDTH, E - e), zero()
        for d in range(D):
            found = fma(splat(ks[d] * decay[d]), load_some(memory, at + d * E + e, m), found)
        store(seen, e, found)


@njit(**_options)
def _four(shape, memory, at, e, ks, qs, decay, us, after, os):
    """New state and outputs of four vectors of channels."""
    D, E = shape.keys, shape.values
    u0, u1 = load(us, e), load(us, e + WIDTH)
    u2, u3 = load(us, e + 2 * WIDTH), load(us, e + 3 * WIDTH)
    o0, o1, o2, o3 = zero(), zero(), zero(), zero()
    for d in range(D):
        p = at + d * E + e
        k, q, left = splat(ks[d]), splat(qs[d]), splat(decay[d])
        s0 = fma(k, u0, left * load(memory, p))
        s1 = fma(k, u1, left * load(memory, p + WIDTH))
        s2 = fma(k, u2, left * load(memory, p + 2 * WIDTH))
        s3 = fma(k, u3, left * load(memory, p + 3 * WIDTH))
        store(after, p, s0)
        store(after, p + WIDTH, s1)
        store(after, p + 2 * WIDTH, s2)
        store(after, p + 3 * WIDTH, s3)
        o0, o1, o2, o3 = fma(q, s0, o0), fma(q, s1, o1), fma(q, s2, o2), fma(q, s3, o3)
    store(os, e, o0)
    store(os, e + WIDTH, o1)
    store(os, e + 2 * WIDTH, o2)
    store(os, e + 3 * WIDTH, o3)


@njit(**_options)
def _one(shape, memory, at, e, ks, qs, decay, us, after, os):
    """The same for what is left, at most one vector at a time."""
    D, E = shape.keys, shape.values
    m, found, u = min(WIDTH, E - e), zero(), load(us, e)
    for d in range(D):
        p = at + d * E + e
        s = fma(splat(ks[d]), u, splat(decay[d]) * load_some(memory, p, m))
        store_some(after, p, s, m)
        found = fma(splat(qs[d]), s, found)
    store(os, e, found)


@njit(nogil=True, error_model="numpy")
def step(
    counter, units, q, k, v, gate, beta, lengths, memory_0, norm_0, out, memory, norm, words, scale
):
    """As `forward`, for T = 1."""
    old = flush_denormals()
    shape = unpack(words)
    D, E, H = shape.keys, shape.values, shape.heads
    dp, ep = padded(D), padded(E)
    qs, ks, us, os = room(dp), room(dp), room(ep), room(ep)
    decay, seen, z, one = room(dp), room(ep), room(dp), np.float32(1.0)
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        row, head = unit // H, unit % H
        features(q, row * shape.q_row + head * shape.q_head, qs, 0, D, shape.map, scale, False,
                 decay, 0)  # fmt: skip
        features(k, row * shape.k_row + head * shape.k_head, ks, 0, D, shape.map, one, False,
                 decay, 0)  # fmt: skip
        g_at = row * shape.g_row + head * shape.g_head
        for d in range(0, D, WIDTH):
            m, value = min(WIDTH, D - d), zero()
            if shape.gate == 1:
                value = splat(gate[g_at])
            elif shape.gate == 2:
                value = load_some(gate, g_at + d, m)
            store(decay, d, exp(value))
        at, v_at = unit * D * E, row * shape.v_row + head * shape.v_head
        for e in range(0, E, WIDTH):
            store(us, e, load_some(v, v_at + e, min(WIDTH, E - e)))
        if shape.delta:
            _recalled(shape, memory_0, at, ks, decay, seen)
            strength = splat(beta[row * shape.b_row + head * shape.b_head])
            for e in range(0, E, WIDTH):
                store(us, e, strength * (load(us, e) - load(seen, e)))
        e = 0
        while e + 4 * WIDTH <= E:
            _four(shape, memory_0, at, e, ks, qs, decay, us, memory, os)
            e += 4 * WIDTH
        while e < E:
            _one(shape, memory_0, at, e, ks, qs, decay, us, memory, os)
            e += WIDTH
        factor = one
        if shape.normalize:
            for d in range(0, D, WIDTH):
                m = min(WIDTH, D - d)
                value = fma(load(decay, d), load_some(norm_0, unit * D + d, m), load(ks, d))
                store(z, d, value)
                store_some(norm, unit * D + d, value, m)
            factor = one / max(dot(qs, 0, z, 0, D), TINY)
        for e in range(0, E, WIDTH):
            m = min(WIDTH, E - e)
            store_some(out, unit * E + e, load(os, e) * splat(factor), m)
        unit = fetch_add(counter, 0, 1)
    restore_floats(old)
