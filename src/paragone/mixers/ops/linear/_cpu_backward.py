r"""Gradients of linear attention by chunks, with the states computed anew.

Chunks go from the last to the first with $\delta S$, the gradient of the state behind them. In
the frame of `_cpu_parts`, with $\delta O$ the gradient of the outputs and
$A = \mathrm{tril}(\tilde Q \tilde K^\top)$,

$$ \delta U = A^\top \delta O + \tilde K\, \delta\tilde S, \quad
   \delta A = \mathrm{tril}(\delta O\, U^\top), \quad
   \delta\tilde Q = \delta A\, \tilde K + \delta O\, \tilde S^\top, \quad
   \delta\tilde K = \delta A^\top \tilde Q + U\, \delta\tilde S^\top, $$

and $\delta\tilde S$ grows by $\tilde Q^\top \delta O$. A normaliser is one more column of ones in
V. The delta rule solves its system backwards, $\lambda = \mathrm{diag}(\beta)(\delta U +
N^\top \lambda)$ with $N = -\mathrm{tril}_<(\bar K \tilde K^\top)$; then $\delta V = \lambda$,
$\delta\beta_t = \lambda_t^\top w_t / \beta_t$, and products as above with $-\bar K$ for
$\tilde Q$ and $\lambda$ for $\delta O$. A gate's gradient is a sum from the end,

$$ \delta g_t = \delta g_{t+1} + q_t \odot \delta q_t - k_t \odot \delta k_t , $$

where keys that read count like queries; it starts anew at each chunk from
$\sum_e S \odot \delta S$. States are kept at every C tokens: as much memory as the values take.

References:
    Yang et al. (2024), arXiv:2312.06635, section 4.3 and appendix C (gradient of the gate).
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
from paragone.mixers.ops.linear._cpu_forward import (
    LEAST,
    advance,
    copy_rows,
    into_frame,
    load_keys,
    load_queries,
    new_chunk,
    read_state,
    room,
    row_sum,
    write_state,
)
from paragone.mixers.ops.linear._cpu_parts import (
    RESULTS,
    ROWS,
    dot,
    floats,
    given,
    lower,
    multiply,
    padded,
    slopes,
    unpack,
)
from paragone.mixers.ops.linear._cpu_turn import transpose

__all__ = ["backward"]

_options: Any = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True}


class Grads(NamedTuple):
    """Gradients of a chunk.

    `dn` of the numerators, `dd` of the sums that they are divided by, `du` of U, `lam` of the
    values, `dq`, `dk`, `dkn` of queries, keys, and minus the keys that read; `da` and `dnl` of the
    triangles; `ds`, `dz` of the state; `carry` of a gate behind the chunk. `ut`, `st`, `dst` are
    transposed.
    """

    dn: Any
    dd: Any
    du: Any
    lam: Any
    dq: Any
    dk: Any
    dkn: Any
    da: Any
    dnl: Any
    ds: Any
    dz: Any
    carry: Any
    ut: Any
    st: Any
    dst: Any


class Results(NamedTuple):
    """Where gradients go to, dense, and the outputs and their gradient, which are read."""

    out: Any
    do: Any
    dmemory: Any
    dnorm: Any
    dq: Any
    dk: Any
    dv: Any
    dgate: Any
    dbeta: Any
    dmemory_0: Any
    dnorm_0: Any


@njit(**_options)
def _new_grads(shape):
    dp, ep, cp = padded(shape.keys), padded(shape.values), padded(shape.chunk)
    delta = int(shape.delta)
    return Grads(
        room(cp * ep), room(cp), room(cp * ep), room(cp * ep * delta), room(cp * dp),
        room(cp * dp), room(cp * dp * delta), room(cp * cp), room(cp * cp * delta),
        room(dp * ep), room(dp), room(dp), room(ep * cp), room(ep * dp), room(ep * dp),
    )  # fmt: skip


@njit(**_options)
def _results(w):
    return Results(
        floats(w[0]), floats(w[1]), floats(w[2]), floats(w[3]), floats(w[4]), floats(w[5]),
        floats(w[6]), floats(w[7]), floats(w[8]), floats(w[9]), floats(w[10]),
    )  # fmt: skip


@njit(**_options)
def _numerators(shape, n, c, g, r, at):
    """Gradients behind the division, `dn` and `dd`."""
    D, E = shape.keys, shape.values
    dp, ep, cp = padded(D), padded(E), padded(shape.chunk)
    copy_rows(r.do, at, E, g.dn, 0, ep, n, E)
    if shape.normalize:
        for i in range(n):
            weights = dot(c.qs, i * dp, c.z, 0, D) + row_sum(c.a, i * cp, i + 1)
            factor = np.float32(1.0) / max(weights, LEAST)
            g.dd[i] = np.float32(0.0)
            if weights > LEAST:
                g.dd[i] = -factor * dot(r.do, at + i * E, r.out, at + i * E, E)
            for e in range(0, ep, WIDTH):
                store(g.dn, i * ep + e, load(g.dn, i * ep + e) * splat(factor))


@njit(**_options)
def _solve_back(shape, beta, at, n, c, g, dbeta, dbeta_at):
    """Delta rule: from the gradient of U to that of the values, `lam`, and of beta."""
    E, ep, cp = shape.values, padded(shape.values), padded(shape.chunk)
    block = (n - 1) // ROWS * ROWS
    while block >= 0:
        rows, end = min(ROWS, n - block), min(block + ROWS, n)
        multiply(c.nl, end * cp + block, 1, cp, g.lam, end * ep, ep, g.du, block * ep, ep, rows, ep,
                 n - end, 1)  # fmt: skip
        for r in range(end - 1, block - 1, -1):
            strength = splat(beta[at + r * shape.b_time])
            found = zero()
            for e in range(0, ep, WIDTH):
                value = load(g.du, r * ep + e)
                for j in range(r + 1, end):
                    value = fma(splat(c.nl[j * cp + r]), load(g.lam, j * ep + e), value)
                store(g.lam, r * ep + e, strength * value)
                m = max(min(WIDTH, E - e), 0)
                found = fma(value, load_some(c.ws, r * ep + e, m), found)
            dbeta[dbeta_at + r] = total(found)
        block -= ROWS


@njit(**_options)
def _from_outputs(shape, n, da, dn, dx, c, g):
    """Sets dX = dA K + dN S^T, for queries or for keys that read."""
    E, dp, ep, cp = shape.values, padded(shape.keys), padded(shape.values), padded(shape.chunk)
    multiply(dn, 0, ep, 1, g.st, 0, dp, dx, 0, dp, n, dp, E, 0)
    for i in range(0, n, ROWS):
        rows = min(ROWS, n - i)
        multiply(da, i * cp, cp, 1, c.ks, 0, dp, dx, i * dp, dp, rows, dp, i + rows, 1)


@njit(**_options)
def _upper(shape, n, a, x, x_row, y):
    """Y += A^T X for A below the diagonal."""
    cp = padded(shape.chunk)
    for i in range(0, n, ROWS):
        rows = min(ROWS, n - i)
        multiply(a, i * cp + i, 1, cp, x, i * x_row, x_row, y, i * x_row, x_row, rows, x_row,
                 n - i, 1)  # fmt: skip


@njit(**_options)
def _norms(shape, n, c, g):
    """The normaliser's part: the column of ones in V, whose gradient is `dd`."""
    D, dp = shape.keys, padded(shape.keys)
    for d in range(0, D, WIDTH):
        z, dz = load(c.z, d), load(g.dz, d)
        for i in range(n):
            p = i * dp + d
            store(g.dk, p, load(g.dk, p) + dz)
        for i in range(n):
            p, slope = i * dp + d, splat(g.dd[i])
            store(g.dq, p, fma(slope, z, load(g.dq, p)))
            dz = fma(slope, load(c.qs, p), dz)
        store(g.dz, d, dz)


@njit(**_options)
def _carried(shape, behind, norm_at, g):
    """Sum over e of S and its gradient: what a gate behind the chunk would get."""
    D, E, ep = shape.keys, shape.values, padded(shape.values)
    for d in range(D):
        found = dot(behind, norm_at - (padded(D) - d) * ep, g.ds, d * ep, E)
        if shape.normalize:
            found += behind[norm_at + d] * g.dz[d]
        g.carry[d] = found


@njit(**_options)
def _gates(shape, n, c, g, dgate, at):
    """Gradients of the gates of a chunk, from the last to the first."""
    D, dp = shape.keys, padded(shape.keys)
    for i in range(n - 1, -1, -1):
        whole = zero()
        for d in range(0, D, WIDTH):
            p = i * dp + d
            value = fma(load(c.qs, p), load(g.dq, p), load(g.carry, d))
            value = value - load(c.ks, p) * load(g.dk, p)
            if shape.delta:
                value = fma(load(c.kn, p), load(g.dkn, p), value)
            store(g.carry, d, value)
            if shape.gate == 2:
                store_some(dgate, (at + i) * D + d, value, min(WIDTH, D - d))
            whole = whole + value
        if shape.gate == 1:
            dgate[at + i] = total(whole)


@njit(**_options)
def _write(shape, n, x, row, head, t, c, g, r, at, scale):
    """Gradients of queries and keys, out of the frame and through the feature map."""
    D, dp, one = shape.keys, padded(shape.keys), np.float32(1.0)
    q_at = row * shape.q_row + head * shape.q_head + t * shape.q_time
    k_at = row * shape.k_row + head * shape.k_head + t * shape.k_time
    for i in range(n):
        for d in range(0, D, WIDTH):
            p = i * dp + d
            if shape.gate:
                store(g.dq, p, load(g.dq, p) * load(c.up, p))
                store(g.dk, p, load(g.dk, p) * load(c.down, p))
                if shape.delta:
                    store(g.dk, p, load(g.dk, p) - load(g.dkn, p) * load(c.up, p))
            elif shape.delta:
                store(g.dk, p, load(g.dk, p) - load(g.dkn, p))
        place = (at + i) * D
        slopes(x.q, q_at + i * shape.q_time, g.dq, i * dp, r.dq, place, D, shape.map, scale)
        slopes(x.k, k_at + i * shape.k_time, g.dk, i * dp, r.dk, place, D, shape.map, one)


@njit(**_options)
def _chunk(shape, x, row, head, t, most, c, g, r, at, scale):
    """Gradients of one chunk, with the state before it in `c` and that behind it in `g.ds`."""
    D, E = shape.keys, shape.values
    dp, ep, cp = padded(D), padded(E), padded(shape.chunk)
    n = load_keys(shape, x, row, head, t, most, c)
    into_frame(shape, g.ds, g.dz, c.last)
    load_queries(shape, x, row, head, t, n, c, scale)
    _numerators(shape, n, c, g, r, at * E)
    multiply(c.ks, 0, dp, 1, g.ds, 0, ep, g.du, 0, ep, n, ep, D, 0)
    _upper(shape, n, c.a, g.dn, ep, g.du)
    transpose(c.us, ep, n, E, g.ut, cp)
    transpose(c.s, ep, D, E, g.st, dp)
    transpose(g.ds, ep, D, E, g.dst, dp)
    lower(g.dn, ep, g.ut, cp, g.da, cp, n, E, False)
    if shape.normalize:
        for i in range(n):
            for j in range(i + 1):
                g.da[i * cp + j] += g.dd[i]
    _from_outputs(shape, n, g.da, g.dn, g.dq, c, g)
    multiply(c.us, 0, ep, 1, g.dst, 0, dp, g.dk, 0, dp, n, dp, E, 0)
    _upper(shape, n, g.da, c.qs, dp, g.dk)
    multiply(c.qs, 0, 1, dp, g.dn, 0, ep, g.ds, 0, ep, D, ep, n, 1)
    if shape.normalize:
        _norms(shape, n, c, g)
    if shape.delta:
        b_at = row * shape.b_row + head * shape.b_head + t * shape.b_time
        _solve_back(shape, x.beta, b_at, n, c, g, r.dbeta, at)
        lower(g.lam, ep, g.ut, cp, g.dnl, cp, n, E, True)
        _from_outputs(shape, n, g.dnl, g.lam, g.dkn, c, g)
        _upper(shape, n, g.dnl, c.kn, dp, g.dk)
        multiply(c.kn, 0, 1, dp, g.lam, 0, ep, g.ds, 0, ep, D, ep, n, 1)
        copy_rows(g.lam, 0, ep, r.dv, at * E, E, n, E)
    else:
        copy_rows(g.du, 0, ep, r.dv, at * E, E, n, E)
    if shape.gate:
        _gates(shape, n, c, g, r.dgate, at)
    _write(shape, n, x, row, head, t, c, g, r, at, scale)
    into_frame(shape, g.ds, g.dz, c.first)


@njit(**_options)
def _keep(c, states, number):
    size = len(c.s) + len(c.z)
    states[number * size : number * size + len(c.s)] = c.s
    states[number * size + len(c.s) : (number + 1) * size] = c.z


@njit(**_options)
def _recall(c, states, number):
    size = len(c.s) + len(c.z)
    c.s[:] = states[number * size : number * size + len(c.s)]
    c.z[:] = states[number * size + len(c.s) : (number + 1) * size]


@njit(nogil=True, error_model="numpy")
def backward(counter, units, words, scale):
    """Fills the gradients, see `Results`; `out` and `do` are dense, too."""
    old = flush_denormals()
    shape, x, r = unpack(words), given(words), _results(words[RESULTS:])
    H, T, C = shape.heads, shape.time, shape.chunk
    c, g = new_chunk(shape), _new_grads(shape)
    size = len(c.s) + len(c.z)
    starts, inner = room(((T + C - 1) // C) * size), room((C + 1 if shape.gate else 2) * size)
    begins = np.zeros(C + 1, np.int64)
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        row, head = unit // H, unit % H
        time = x.lengths[row] if shape.ragged else T
        segments = (time + C - 1) // C
        read_state(shape, x.memory, x.norm, unit, c.s, c.z)
        read_state(shape, r.dmemory, r.dnorm, unit, g.ds, g.dz)
        # The first round keeps the state at every C tokens, the second goes back over them: a
        # strong gate makes many chunks of C tokens, whose states are kept for these C alone.
        for step in range(2 * segments):
            back = step >= segments
            segment = 2 * segments - 1 - step if back else step
            t, end, parts = segment * C, min(segment * C + C, time), 0
            if back:
                _recall(c, starts, segment)
            else:
                _keep(c, starts, segment)
            while t < end:
                if back:
                    _keep(c, inner, parts)
                    begins[parts] = t
                    parts += 1
                n = load_keys(shape, x, row, head, t, end - t, c)
                advance(shape, n, c)
                t += n
            if back:
                _keep(c, inner, parts)
            for part in range(parts - 1, -1, -1):
                t = begins[part]
                if shape.gate:
                    _carried(shape, inner, (part + 2) * size - len(c.z), g)
                _recall(c, inner, part)
                _chunk(shape, x, row, head, t, end - t, c, g, r, unit * T + t, scale)
                end = t
        write_state(shape, g.ds, g.dz, r.dmemory_0, r.dnorm_0, unit)
        unit = fetch_add(counter, 0, 1)
    restore_floats(old)
