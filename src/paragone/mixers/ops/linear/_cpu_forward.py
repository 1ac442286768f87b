r"""Linear attention by chunks on the CPU: outputs and the last state.

For each head in turn, with the frame of `_cpu_parts` and states in float32,

$$ O = \mathrm{tril}(\tilde Q \tilde K^\top)\, U + \tilde Q \tilde S, \qquad
   S \leftarrow e^{b_C} \odot (\tilde S + \tilde K^\top U) , $$

where U = V, or by the delta rule $U = \mathrm{diag}(\beta) W$ and W solves
$W = V - \bar K \tilde S - \mathrm{tril}_{<}(\bar K \tilde K^\top)\, U$ with
$\bar k_t = \phi(k_t) \odot e^{b_t}$, row by row in blocks of `ROWS`.

`shape` lists the sizes and strides that `pack` writes. Units are pairs of a row and a head.
"""

from __future__ import annotations

from typing import Any

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
    ROWS,
    decays,
    dot,
    features,
    lower,
    multiply,
    padded,
    scale_rows,
    unpack,
)
from paragone.mixers.ops.linear._cpu_turn import transpose

__all__ = ["TINY", "advance", "copy_rows", "forward", "load_chunk", "room", "row_sum", "solve"]

TINY = np.float32(np.finfo(np.float32).tiny)
_options: Any = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True}


@njit(**_options)
def room(size):
    """(size): zeros."""
    return np.zeros(size, np.float32)


@njit(**_options)
def copy_rows(x, at, step, out, out_row, rows, columns):
    """Rows of `columns` floats, `step` apart, into rows of a padded array."""
    whole = columns - columns % WIDTH
    for i in range(rows):
        for j in range(0, whole, WIDTH):
            store(out, i * out_row + j, load(x, at + i * step + j))
        if whole < columns:
            n = columns - whole
            store_some(out, i * out_row + whole, load_some(x, at + i * step + whole, n), n)


@njit(**_options)
def load_chunk(shape, k, v, gate, at, most, ks, kn, kt, us, up, down, first, last):
    """Loads keys and values from token `at` on; returns the chunk's length.

    `ks` are the keys of the frame, `kt` their transpose, `kn` (for the delta rule) minus the keys
    that read, `us` the values. `at` holds the places of the first token in k, v and gate.
    """
    D, dp, ep, cp = shape.keys, padded(shape.keys), padded(shape.values), padded(shape.chunk)
    n = most
    if shape.gate:
        n = decays(gate, at[2], shape.g_time, shape.gate, most, D, dp, up, down, first, last)
    one = np.float32(1.0)
    for i in range(n):
        place = at[0] + i * shape.k_time
        features(k, place, ks, i * dp, D, shape.map, one, shape.gate > 0, down, i * dp)
        if shape.delta:
            features(k, place, kn, i * dp, D, shape.map, -one, shape.gate > 0, up, i * dp)
    transpose(ks, dp, n, D, kt, cp)
    copy_rows(v, at[1], shape.v_time, us, ep, n, shape.values)
    return n


@njit(**_options)
def solve(shape, beta, at, n, kn, nl, s, us, ws):
    """Delta rule: turns the values `us` into W in `ws` and U in `us`; `nl` is -tril(K K^T)."""
    D, dp, ep, cp = shape.keys, padded(shape.keys), padded(shape.values), padded(shape.chunk)
    for i in range(0, n, ROWS):
        rows = min(ROWS, n - i)
        multiply(kn, i * dp, dp, 1, s, 0, ep, us, i * ep, ep, rows, ep, D, 1)
        multiply(nl, i * cp, cp, 1, us, 0, ep, us, i * ep, ep, rows, ep, i, 1)
        for r in range(i, i + rows):
            strength = splat(beta[at + r * shape.b_time])
            for e in range(0, ep, WIDTH):
                value = load(us, r * ep + e)
                for j in range(i, r):
                    value = fma(splat(nl[r * cp + j]), load(us, j * ep + e), value)
                store(ws, r * ep + e, value)
                store(us, r * ep + e, strength * value)


@njit(**_options)
def advance(shape, n, ks, us, s, z, last):
    """Takes the state of the frame behind the chunk."""
    D, dp, ep = shape.keys, padded(shape.keys), padded(shape.values)
    multiply(ks, 0, 1, dp, us, 0, ep, s, 0, ep, D, ep, n, 1)
    if shape.normalize:
        for d in range(0, D, WIDTH):
            found = load(z, d)
            for i in range(n):
                found = found + load(ks, i * dp + d)
            store(z, d, found)
    if shape.gate:
        scale_rows(s, ep, ep, last, D)
        for d in range(0, D, WIDTH):
            store(z, d, load(z, d) * load(last, d))


@njit(**_options)
def _write(shape, n, a, os, qs, z, out, at):
    """Writes the outputs of a chunk, divided by the sums of their weights if normalised."""
    D, E = shape.keys, shape.values
    dp, ep, cp = padded(D), padded(E), padded(shape.chunk)
    for i in range(n):
        factor = np.float32(1.0)
        if shape.normalize:
            weights = dot(qs, i * dp, z, 0, D) + row_sum(a, i * cp, i + 1)
            factor = factor / max(weights, TINY)
        for e in range(0, E, WIDTH):
            m = min(WIDTH, E - e)
            store_some(out, at + i * E + e, load(os, i * ep + e) * splat(factor), m)


@njit(**_options)
def row_sum(a, at, size):
    """Sum of `size` floats."""
    found = zero()
    for j in range(0, size, WIDTH):
        found = found + load_some(a, at + j, min(WIDTH, size - j))
    return total(found)


@njit(nogil=True, error_model="numpy")
def forward(
    counter, units, q, k, v, gate, beta, lengths, memory_0, norm_0, out, memory, norm, words, scale
):
    """Fills `out` (B, H, T, E), `memory` (B, H, D, E) and `norm` (B, H, D), all dense."""
    old = flush_denormals()
    shape = unpack(words)
    H, T, D, E, C = shape.heads, shape.time, shape.keys, shape.values, shape.chunk
    dp, ep, cp = padded(D), padded(E), padded(C)
    qs, ks, kn, up, down = room(cp * dp), room(cp * dp), room(cp * dp), room(cp * dp), room(cp * dp)
    us, ws, os, s = room(cp * ep), room(cp * ep), room(cp * ep), room(dp * ep)
    kt, a, nl = room(dp * cp), room(cp * cp), room(cp * cp)
    z, first, last, at = room(dp), room(dp), room(dp), np.zeros(3, np.int64)
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        row, head = unit // H, unit % H
        time = lengths[row] if shape.ragged else T
        copy_rows(memory_0, unit * D * E, E, s, ep, D, E)
        if shape.normalize:
            copy_rows(norm_0, unit * D, D, z, dp, 1, D)
        t = 0
        while t < time:
            at[0] = row * shape.k_row + head * shape.k_head + t * shape.k_time
            at[1] = row * shape.v_row + head * shape.v_head + t * shape.v_time
            at[2] = row * shape.g_row + head * shape.g_head + t * shape.g_time
            most = min(C - t % C, time - t)
            n = load_chunk(shape, k, v, gate, at, most, ks, kn, kt, us, up, down, first, last)
            if shape.gate:
                scale_rows(s, ep, ep, first, D)
                for d in range(D):
                    z[d] *= first[d]
            place = row * shape.q_row + head * shape.q_head + t * shape.q_time
            for i in range(n):
                features(q, place + i * shape.q_time, qs, i * dp, D, shape.map, scale,
                         shape.gate > 0, up, i * dp)  # fmt: skip
            lower(qs, dp, kt, cp, a, cp, n, D, False)
            if shape.delta:
                lower(kn, dp, kt, cp, nl, cp, n, D, True)
                strength = row * shape.b_row + head * shape.b_head + t * shape.b_time
                solve(shape, beta, strength, n, kn, nl, s, us, ws)
            multiply(qs, 0, dp, 1, s, 0, ep, os, 0, ep, n, ep, D, 0)
            for i in range(0, n, ROWS):
                rows = min(ROWS, n - i)
                multiply(a, i * cp, cp, 1, us, 0, ep, os, i * ep, ep, rows, ep, i + rows, 1)
            _write(shape, n, a, os, qs, z, out, (unit * T + t) * E)
            advance(shape, n, ks, us, s, z, last)
            t += n
        for i in range(time * E, T * E):
            out[unit * T * E + i] = 0.0
        for d in range(D):
            for e in range(E):
                memory[unit * D * E + d * E + e] = s[d * ep + e]
            if shape.normalize:
                norm[unit * D + d] = z[d]
        unit = fetch_add(counter, 0, 1)
    restore_floats(old)
