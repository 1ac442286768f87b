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
N^\top \lambda)$ with $N = -\mathrm{tril}_<(\bar K \tilde K^\top)$, which gives $\delta V = \lambda$,
$\delta\beta_t = \lambda_t^\top w_t / \beta_t$, and products as above with $-\bar K$ for
$\tilde Q$ and $\lambda$ for $\delta O$. A gate's gradient is a sum from the end,

$$ \delta g_t = \delta g_{t+1} + q_t \odot \delta q_t - k_t \odot \delta k_t , $$

where keys that read count like queries; it starts anew at each chunk from
$\sum_e S \odot \delta S$. States are kept at every C tokens: as much memory as the values take.

References:
    Yang et al. (2024), arXiv:2312.06635, section 4.3 and appendix C (gradient of the gate).
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
from paragone.mixers.ops.linear._cpu_forward import (
    TINY,
    advance,
    copy_rows,
    load_chunk,
    room,
    row_sum,
    solve,
)
from paragone.mixers.ops.linear._cpu_parts import (
    ROWS,
    dot,
    features,
    lower,
    multiply,
    padded,
    scale_rows,
    slopes,
    unpack,
)
from paragone.mixers.ops.linear._cpu_turn import transpose

__all__ = ["backward"]

_options: Any = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True}


@njit(**_options)
def _into_frame(shape, s, z, first):
    if shape.gate:
        scale_rows(s, padded(shape.values), padded(shape.values), first, shape.keys)
        for d in range(shape.keys):
            z[d] *= first[d]


@njit(**_options)
def _places(shape, row, head, t, at):
    at[0] = row * shape.k_row + head * shape.k_head + t * shape.k_time
    at[1] = row * shape.v_row + head * shape.v_head + t * shape.v_time
    at[2] = row * shape.g_row + head * shape.g_head + t * shape.g_time


@njit(**_options)
def _outputs(shape, n, do, out, at, a, qs, z, dn, dd):
    """Gradients behind the division: of its numerators `dn`, and of its sums `dd`."""
    D, E = shape.keys, shape.values
    dp, ep, cp = padded(D), padded(E), padded(shape.chunk)
    copy_rows(do, at, E, dn, ep, n, E)
    for i in range(n):
        dd[i] = np.float32(0.0)
        if shape.normalize:
            weights = dot(qs, i * dp, z, 0, D) + row_sum(a, i * cp, i + 1)
            factor = np.float32(1.0) / max(weights, TINY)
            if weights > TINY:
                dd[i] = -factor * dot(do, at + i * E, out, at + i * E, E)
            for e in range(0, ep, WIDTH):
                store(dn, i * ep + e, load(dn, i * ep + e) * splat(factor))


@njit(**_options)
def _solve_back(shape, beta, at, n, nl, du, lam, ws, dbeta, dbeta_at):
    """Delta rule: from the gradient of U to that of the values, `lam`, and of beta."""
    E, ep, cp = shape.values, padded(shape.values), padded(shape.chunk)
    block = (n - 1) // ROWS * ROWS
    while block >= 0:
        rows, end = min(ROWS, n - block), min(block + ROWS, n)
        multiply(nl, end * cp + block, 1, cp, lam, end * ep, ep, du, block * ep, ep, rows, ep,
                 n - end, 1)  # fmt: skip
        for r in range(end - 1, block - 1, -1):
            strength = splat(beta[at + r * shape.b_time])
            found = zero()
            for e in range(0, ep, WIDTH):
                value = load(du, r * ep + e)
                for j in range(r + 1, end):
                    value = fma(splat(nl[j * cp + r]), load(lam, j * ep + e), value)
                store(lam, r * ep + e, strength * value)
                m = max(min(WIDTH, E - e), 0)
                found = fma(value, load_some(ws, r * ep + e, m), found)
            dbeta[dbeta_at + r] = total(found)
        block -= ROWS


@njit(**_options)
def _queries(shape, n, da, ks, dn, st, dx):
    """dX = dA K + dN S^T, for queries or for keys that read."""
    D, E = shape.keys, shape.values
    dp, ep, cp = padded(D), padded(E), padded(shape.chunk)
    multiply(dn, 0, ep, 1, st, 0, dp, dx, 0, dp, n, dp, E, 0)
    for i in range(0, n, ROWS):
        rows = min(ROWS, n - i)
        multiply(da, i * cp, cp, 1, ks, 0, dp, dx, i * dp, dp, rows, dp, i + rows, 1)


@njit(**_options)
def _upper(shape, n, a, x, x_row, columns, y):
    """Y += A^T X for A below the diagonal."""
    cp = padded(shape.chunk)
    for i in range(0, n, ROWS):
        rows = min(ROWS, n - i)
        multiply(a, i * cp + i, 1, cp, x, i * x_row, x_row, y, i * x_row, x_row, rows, columns,
                 n - i, 1)  # fmt: skip


@njit(**_options)
def _gates(shape, n, qs, dq, kn, dkn, ks, dk, carry, dgate, at):
    """Gradients of the gates of a chunk; `carry` comes from behind it."""
    D, dp = shape.keys, padded(shape.keys)
    for i in range(n - 1, -1, -1):
        whole = zero()
        for d in range(0, D, WIDTH):
            p = i * dp + d
            value = fma(load(qs, p), load(dq, p), load(carry, d))
            value = value - load(ks, p) * load(dk, p)
            if shape.delta:
                value = fma(load(kn, p), load(dkn, p), value)
            store(carry, d, value)
            if shape.gate == 2:
                store_some(dgate, at + i * D + d, value, min(WIDTH, D - d))
            whole = whole + value
        if shape.gate == 1:
            dgate[at + i] = total(whole)


@njit(**_options)
def _write(shape, n, dx, up, dk, dkn, down, q, q_at, k, k_at, dq_out, dk_out, at, scale):
    """Gradients of queries and keys, out of the frame and through the feature map."""
    D, dp, one = shape.keys, padded(shape.keys), np.float32(1.0)
    for i in range(n):
        for d in range(0, D, WIDTH):
            p = i * dp + d
            if shape.gate:
                store(dx, p, load(dx, p) * load(up, p))
                store(dk, p, load(dk, p) * load(down, p))
                if shape.delta:
                    store(dk, p, load(dk, p) - load(dkn, p) * load(up, p))
            elif shape.delta:
                store(dk, p, load(dk, p) - load(dkn, p))
        slopes(q, q_at + i * shape.q_time, dx, i * dp, dq_out, at + i * D, D, shape.map, scale)
        slopes(k, k_at + i * shape.k_time, dk, i * dp, dk_out, at + i * D, D, shape.map, one)


@njit(**_options)
def _norms(shape, n, dd, da, qs, dq, z, dk, dz):
    """The normaliser's part: the column of ones in V, whose gradient is `dd`."""
    D, dp = shape.keys, padded(shape.keys)
    for d in range(0, D, WIDTH):
        z_d, dz_d = load(z, d), load(dz, d)
        for i in range(n):
            p = i * dp + d
            store(dk, p, load(dk, p) + dz_d)
        for i in range(n):
            p, slope = i * dp + d, splat(dd[i])
            store(dq, p, fma(slope, z_d, load(dq, p)))
            dz_d = fma(slope, load(qs, p), dz_d)
        store(dz, d, dz_d)


@njit(nogil=True, error_model="numpy")
def backward(
    counter, units, q, k, v, gate, beta, lengths, memory_0, norm_0, out, do, dmemory, dnorm,
    dq, dk, dv, dgate, dbeta, dmemory_0, dnorm_0, words, scale,
):  # fmt: skip
    """Fills the gradients, dense like `out`; `do` is dense, too."""
    old = flush_denormals()
    shape = unpack(words)
    H, T, D, E, C = shape.heads, shape.time, shape.keys, shape.values, shape.chunk
    dp, ep, cp = padded(D), padded(E), padded(C)
    qs, ks, kn, up, down = room(cp * dp), room(cp * dp), room(cp * dp), room(cp * dp), room(cp * dp)
    us, ws, dn, du, lam = room(cp * ep), room(cp * ep), room(cp * ep), room(cp * ep), room(cp * ep)
    dqs, dks, dkn, ut, kt = room(cp * dp), room(cp * dp), room(cp * dp), room(ep * cp), room(dp * cp)
    a, nl, da, dnl, dd = room(cp * cp), room(cp * cp), room(cp * cp), room(cp * cp), room(cp)
    s, ds, st, dst = room(dp * ep), room(dp * ep), room(ep * dp), room(ep * dp)
    z, dz, first, last, carry = room(dp), room(dp), room(dp), room(dp), room(dp)
    at, size = np.zeros(3, np.int64), dp * ep + dp
    starts, inner = room(((T + C - 1) // C + 1) * size), room((C + 1 if shape.gate else 2) * size)
    sizes = np.zeros(C + 1, np.int64)
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        row, head = unit // H, unit % H
        time = lengths[row] if shape.ragged else T
        copy_rows(memory_0, unit * D * E, E, s, ep, D, E)
        copy_rows(dmemory, unit * D * E, E, ds, ep, D, E)
        if shape.normalize:
            copy_rows(norm_0, unit * D, D, z, dp, 1, D)
            copy_rows(dnorm, unit * D, D, dz, dp, 1, D)
        strength = row * shape.b_row + head * shape.b_head
        # Round 0 keeps the state at every C tokens; round 1 goes back over them.
        for step in range(2 * ((time + C - 1) // C)):
            segments = (time + C - 1) // C
            segment = step if step < segments else 2 * segments - 1 - step
            t, end, parts = segment * C, min(segment * C + C, time), 0
            if step < segments:
                starts[segment * size : segment * size + dp * ep] = s
                starts[segment * size + dp * ep : (segment + 1) * size] = z
            else:
                s[:] = starts[segment * size : segment * size + dp * ep]
                z[:] = starts[segment * size + dp * ep : (segment + 1) * size]
            while t < end:
                inner[parts * size : parts * size + dp * ep] = s
                inner[parts * size + dp * ep : (parts + 1) * size] = z
                _places(shape, row, head, t, at)
                n = load_chunk(shape, k, v, gate, at, end - t, ks, kn, kt, us, up, down, first, last)
                _into_frame(shape, s, z, first)
                if shape.delta:
                    lower(kn, dp, kt, cp, nl, cp, n, D, True)
                    solve(shape, beta, strength + t * shape.b_time, n, kn, nl, s, us, ws)
                advance(shape, n, ks, us, s, z, last)
                sizes[parts] = n
                parts, t = parts + 1, t + n
            if step < segments:
                continue
            inner[parts * size : parts * size + dp * ep] = s
            inner[parts * size + dp * ep : (parts + 1) * size] = z
            for part in range(parts - 1, -1, -1):
                n = sizes[part]
                t -= n
                behind = (part + 1) * size
                for d in range(D):
                    found = dot(inner, behind + d * ep, ds, d * ep, E)
                    if shape.normalize:
                        found += inner[behind + dp * ep + d] * dz[d]
                    carry[d] = found
                s[:] = inner[part * size : part * size + dp * ep]
                z[:] = inner[part * size + dp * ep : (part + 1) * size]
                _places(shape, row, head, t, at)
                load_chunk(shape, k, v, gate, at, n, ks, kn, kt, us, up, down, first, last)
                _into_frame(shape, s, z, first)
                _into_frame(shape, ds, dz, last)
                q_at = row * shape.q_row + head * shape.q_head + t * shape.q_time
                for i in range(n):
                    features(q, q_at + i * shape.q_time, qs, i * dp, D, shape.map, scale,
                             shape.gate > 0, up, i * dp)  # fmt: skip
                lower(qs, dp, kt, cp, a, cp, n, D, False)
                if shape.delta:
                    lower(kn, dp, kt, cp, nl, cp, n, D, True)
                    solve(shape, beta, strength + t * shape.b_time, n, kn, nl, s, us, ws)
                place = unit * T + t
                _outputs(shape, n, do, out, place * E, a, qs, z, dn, dd)
                multiply(ks, 0, dp, 1, ds, 0, ep, du, 0, ep, n, ep, D, 0)
                _upper(shape, n, a, dn, ep, ep, du)
                transpose(us, ep, n, E, ut, cp)
                transpose(s, ep, D, E, st, dp)
                transpose(ds, ep, D, E, dst, dp)
                lower(dn, ep, ut, cp, da, cp, n, E, False)
                if shape.normalize:
                    for i in range(n):
                        for j in range(i + 1):
                            da[i * cp + j] += dd[i]
                _queries(shape, n, da, ks, dn, st, dqs)
                multiply(us, 0, ep, 1, dst, 0, dp, dks, 0, dp, n, dp, E, 0)
                _upper(shape, n, da, qs, dp, dp, dks)
                multiply(qs, 0, 1, dp, dn, 0, ep, ds, 0, ep, D, ep, n, 1)
                if shape.normalize:
                    _norms(shape, n, dd, da, qs, dqs, z, dks, dz)
                if shape.delta:
                    _solve_back(shape, beta, strength + t * shape.b_time, n, nl, du, lam, ws,
                                dbeta, place)  # fmt: skip
                    lower(lam, ep, ut, cp, dnl, cp, n, E, True)
                    _queries(shape, n, dnl, ks, lam, st, dkn)
                    _upper(shape, n, dnl, kn, dp, dp, dks)
                    multiply(kn, 0, 1, dp, lam, 0, ep, ds, 0, ep, D, ep, n, 1)
                    du, lam = lam, du
                for i in range(n):
                    for e in range(E):
                        dv[(place + i) * E + e] = du[i * ep + e]
                if shape.gate:
                    _gates(shape, n, qs, dqs, kn, dkn, ks, dks, carry, dgate,
                           place * (D if shape.gate == 2 else 1))  # fmt: skip
                _write(shape, n, dqs, up, dks, dkn, down, q, q_at, k, at[0], dq, dk, place * D,
                       scale)  # fmt: skip
                _into_frame(shape, ds, dz, first)
        for d in range(D):
            for e in range(E):
                dmemory_0[unit * D * E + d * E + e] = ds[d * ep + e]
            if shape.normalize:
                dnorm_0[unit * D + d] = dz[d]
        unit = fetch_add(counter, 0, 1)
    restore_floats(old)
