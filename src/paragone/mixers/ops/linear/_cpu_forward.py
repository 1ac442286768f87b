r"""Linear attention by chunks on the CPU: outputs and the last state.

For each head in turn, with the frame of `_cpu_parts` and states in float32,

$$ O = \mathrm{tril}(\tilde Q \tilde K^\top)\, U + \tilde Q \tilde S, \qquad
   S \leftarrow e^{b_C} \odot (\tilde S + \tilde K^\top U) , $$

where U = V, or by the delta rule $U = \mathrm{diag}(\beta) W$ and W solves
$W = V - \bar K \tilde S - \mathrm{tril}_{<}(\bar K \tilde K^\top)\, U$ with
$\bar k_t = \phi(k_t) \odot e^{b_t}$, row by row in blocks of `ROWS`.

Units are pairs of a row and a head.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit
from paragone.kernels.simd import (
    WIDTH,
    flush_denormals,
    fma,
    load,
    load_some,
    restore_floats,
    splat,
    store,
    store_some,
    total,
    zero,
)
from paragone.mixers.ops.linear._cpu_parts import (
    RESULTS,
    ROWS,
    decays,
    dot,
    features,
    floats,
    given,
    lower,
    multiply,
    padded,
    scale_rows,
    unpack,
)
from paragone.mixers.ops.linear._cpu_turn import transpose
from paragone.mixers.ops.linear.reference import FLOOR

__all__ = [
    "LEAST", "Chunk", "advance", "copy_rows", "forward", "into_frame", "load_keys", "load_queries",
    "new_chunk", "read_state", "room", "row_sum", "write_state",
]  # fmt: skip

LEAST = np.float32(FLOOR)
_options: Any = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True}


class Chunk(NamedTuple):
    """What a chunk is worked out in; rows are padded, `kt` is `ks` transposed.

    `qs`, `ks` queries and keys of the frame; `kn` minus the keys that read; `us`, `ws` as U and W;
    `a` and `nl` the lower triangles of q k and of minus k k; `up`, `down`, `first`, `last` as
    `decays` has them; `s`, `z` the state.
    """

    qs: Any
    ks: Any
    kn: Any
    kt: Any
    us: Any
    ws: Any
    a: Any
    nl: Any
    up: Any
    down: Any
    first: Any
    last: Any
    s: Any
    z: Any


@njit(**_options)
def room(size):
    """(size): zeros."""
    return np.zeros(size, np.float32)


@njit(**_options)
def new_chunk(shape):
    """(shape): room for a chunk; what the call has no use for gets none."""
    dp, ep, cp = padded(shape.keys), padded(shape.values), padded(shape.chunk)
    gated, delta = int(shape.gate > 0), int(shape.delta)
    return Chunk(
        room(cp * dp), room(cp * dp), room(cp * dp * delta), room(dp * cp), room(cp * ep),
        room(cp * ep * delta), room(cp * cp), room(cp * cp * delta), room(cp * dp * gated),
        room(cp * dp * gated), room(dp), room(dp), room(dp * ep), room(dp),
    )  # fmt: skip


@njit(**_options)
def copy_rows(x, at, step, out, out_at, out_row, rows, columns):
    """Rows of `columns` floats, `step` apart, to rows that are `out_row` apart."""
    whole = columns - columns % WIDTH
    for i in range(rows):
        for j in range(0, whole, WIDTH):
            store(out, out_at + i * out_row + j, load(x, at + i * step + j))
        if whole < columns:
            n = columns - whole
            store_some(out, out_at + i * out_row + whole, load_some(x, at + i * step + whole, n), n)


@njit(**_options)
def read_state(shape, memory, norm, unit, s, z):
    """A head's dense state into padded arrays."""
    D, E, dp, ep = shape.keys, shape.values, padded(shape.keys), padded(shape.values)
    copy_rows(memory, unit * D * E, E, s, 0, ep, D, E)
    if shape.normalize:
        copy_rows(norm, unit * D, D, z, 0, dp, 1, D)


@njit(**_options)
def write_state(shape, s, z, memory, norm, unit):
    """The other way."""
    D, E, dp, ep = shape.keys, shape.values, padded(shape.keys), padded(shape.values)
    copy_rows(s, 0, ep, memory, unit * D * E, E, D, E)
    if shape.normalize:
        copy_rows(z, 0, dp, norm, unit * D, D, 1, D)


@njit(**_options)
def into_frame(shape, s, z, factors):
    """State times a factor for each key channel, if there is a gate."""
    if shape.gate:
        scale_rows(s, padded(shape.values), padded(shape.values), factors, shape.keys)
        for d in range(0, shape.keys, WIDTH):
            store(z, d, load(z, d) * load(factors, d))


@njit(**_options)
def load_keys(shape, x, row, head, t, most, c):
    """Loads keys and values from token t on, takes the state into their frame, solves for U.

    Returns how many tokens the chunk has, at most `most`.
    """
    D, dp, ep, cp = shape.keys, padded(shape.keys), padded(shape.values), padded(shape.chunk)
    n, one, gated = most, np.float32(1.0), shape.gate > 0
    if gated:
        at = row * shape.g_row + head * shape.g_head + t * shape.g_time
        n = decays(x.gate, at, shape.g_time, shape.gate, most, D, dp, c.up, c.down, c.first, c.last)
    at = row * shape.k_row + head * shape.k_head + t * shape.k_time
    for i in range(n):
        place = at + i * shape.k_time
        features(x.k, place, c.ks, i * dp, D, shape.map, one, gated, c.down, i * dp)
        if shape.delta:
            features(x.k, place, c.kn, i * dp, D, shape.map, -one, gated, c.up, i * dp)
    transpose(c.ks, dp, n, D, c.kt, cp)
    at = row * shape.v_row + head * shape.v_head + t * shape.v_time
    copy_rows(x.v, at, shape.v_time, c.us, 0, ep, n, shape.values)
    into_frame(shape, c.s, c.z, c.first)
    if shape.delta:
        lower(c.kn, dp, c.kt, cp, c.nl, cp, n, D, True)
        _solve(shape, x.beta, row * shape.b_row + head * shape.b_head + t * shape.b_time, n, c)
    return n


@njit(**_options)
def _solve(shape, beta, at, n, c):
    """Turns the values in `us` into W in `ws` and U in `us`."""
    D, dp, ep, cp = shape.keys, padded(shape.keys), padded(shape.values), padded(shape.chunk)
    for i in range(0, n, ROWS):
        rows = min(ROWS, n - i)
        multiply(c.kn, i * dp, dp, 1, c.s, 0, ep, c.us, i * ep, ep, rows, ep, D, 1)
        multiply(c.nl, i * cp, cp, 1, c.us, 0, ep, c.us, i * ep, ep, rows, ep, i, 1)
        for r in range(i, i + rows):
            strength = splat(beta[at + r * shape.b_time])
            for e in range(0, ep, WIDTH):
                value = load(c.us, r * ep + e)
                for j in range(i, r):
                    value = fma(splat(c.nl[r * cp + j]), load(c.us, j * ep + e), value)
                store(c.ws, r * ep + e, value)
                store(c.us, r * ep + e, strength * value)


@njit(**_options)
def load_queries(shape, x, row, head, t, n, c, scale):
    """Loads the queries of the chunk, and multiplies them with its keys."""
    D, dp, cp = shape.keys, padded(shape.keys), padded(shape.chunk)
    at = row * shape.q_row + head * shape.q_head + t * shape.q_time
    for i in range(n):
        features(x.q, at + i * shape.q_time, c.qs, i * dp, D, shape.map, scale, shape.gate > 0,
                 c.up, i * dp)  # fmt: skip
    lower(c.qs, dp, c.kt, cp, c.a, cp, n, D, False)


@njit(**_options)
def advance(shape, n, c):
    """Takes the state behind the chunk, and out of its frame."""
    D, dp, ep = shape.keys, padded(shape.keys), padded(shape.values)
    multiply(c.ks, 0, 1, dp, c.us, 0, ep, c.s, 0, ep, D, ep, n, 1)
    if shape.normalize:
        for d in range(0, D, WIDTH):
            found = load(c.z, d)
            for i in range(n):
                found = found + load(c.ks, i * dp + d)
            store(c.z, d, found)
    into_frame(shape, c.s, c.z, c.last)


@njit(**_options)
def row_sum(a, at, size):
    """Sum of `size` floats."""
    found = zero()
    for j in range(0, size, WIDTH):
        found = found + load_some(a, at + j, min(WIDTH, size - j))
    return total(found)


@njit(**_options)
def _outputs(shape, n, c, os, out, at):
    """Outputs of a chunk, divided by the sums of their weights if normalised."""
    D, E, dp, ep = shape.keys, shape.values, padded(shape.keys), padded(shape.values)
    cp, whole = padded(shape.chunk), shape.values - shape.values % WIDTH
    multiply(c.qs, 0, dp, 1, c.s, 0, ep, os, 0, ep, n, ep, D, 0)
    for i in range(0, n, ROWS):
        rows = min(ROWS, n - i)
        multiply(c.a, i * cp, cp, 1, c.us, 0, ep, os, i * ep, ep, rows, ep, i + rows, 1)
    for i in range(n):
        factor = np.float32(1.0)
        if shape.normalize:
            weights = dot(c.qs, i * dp, c.z, 0, D) + row_sum(c.a, i * cp, i + 1)
            factor = factor / max(weights, LEAST)
        factors = splat(factor)
        for e in range(0, whole, WIDTH):
            store(out, at + i * E + e, load(os, i * ep + e) * factors)
        if whole < E:
            value = load(os, i * ep + whole) * factors
            store_some(out, at + i * E + whole, value, E - whole)


@njit(nogil=True, error_model="numpy")
def forward(counter, units, words, scale):
    """Fills the outputs (B, H, T, E), memory (B, H, D, E) and norm (B, H, D), all dense."""
    old = flush_denormals()
    shape, x = unpack(words), given(words)
    out, memory, norm = (
        floats(words[RESULTS]), floats(words[RESULTS + 1]), floats(words[RESULTS + 2])
    )  # fmt: skip
    H, T, E, C = shape.heads, shape.time, shape.values, shape.chunk
    c, os = new_chunk(shape), room(padded(C) * padded(E))
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        row, head, t = unit // H, unit % H, 0
        time = x.lengths[row] if shape.ragged else T
        read_state(shape, x.memory, x.norm, unit, c.s, c.z)
        while t < time:
            n = load_keys(shape, x, row, head, t, min(C - t % C, time - t), c)
            load_queries(shape, x, row, head, t, n, c, scale)
            _outputs(shape, n, c, os, out, (unit * T + t) * E)
            advance(shape, n, c)
            t += n
        for i in range(time * E, T * E):
            out[unit * T * E + i] = 0.0
        write_state(shape, c.s, c.z, memory, norm, unit)
        unit = fetch_add(counter, 0, 1)
    restore_floats(old)
