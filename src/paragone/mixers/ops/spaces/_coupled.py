r"""Kernels of modes that are coupled by rank 1 or 2: S4's recurrence in one pass over time.

With t the sums that couple the modes,

$$ t_k = \mathrm{take} \cdot s_{k-1}, \qquad
   s_k = s_{k-1} + \mathrm{gain} \odot s_{k-1} + b\, u_k - \mathrm{give}\, t_k, \qquad
   y_k = c \cdot s_k , $$

lanes are channels, and the sums for the next step are taken while the states of this one are
written, so a step is one sweep over the modes. The backward pass goes through blocks of time from
the last: states anew, adjoints from the end, then the gradients of each mode in registers.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit
from paragone.kernels.simd import WIDTH, fma, load, load_some, store, store_some, zero

__all__ = ["coupled", "coupled_backward"]

_BLOCK = 32


@njit(nogil=True, error_model="numpy")
def _sums(take, rank, s, out):
    """What the states s (n, 2, lane) of a channel group say through take (R, n, 2, lane)."""
    size = len(s)
    for r in range(rank):
        one, two = zero(), zero()
        for at in range(0, size, 2 * WIDTH):
            one = fma(load(take, r * size + at), load(s, at), one)
            two = fma(load(take, r * size + at + WIDTH), load(s, at + WIDTH), two)
        store(out, r * WIDTH, one + two)


@njit(nogil=True, error_model="numpy")
def _forward(gain, b, give, take, c, rank, rows, count, s, t, kept, told, y):
    """A block of steps from s and its sums t; kept gets all states and told all sums, if asked."""
    size = len(s)
    for k in range(count):
        u, t0 = load(rows, k * WIDTH), load(t, 0)
        t1 = load(t, WIDTH) if rank > 1 else t0
        if len(told):
            store(told, 2 * k * WIDTH, t0)
            store(told, (2 * k + 1) * WIDTH, t1)
        y0, y1, n0, n1, m0, m1 = zero(), zero(), zero(), zero(), zero(), zero()
        for at in range(0, size, 2 * WIDTH):
            to = at + WIDTH
            r, i, gr, gi = load(s, at), load(s, to), load(gain, at), load(gain, to)
            x = fma(load(b, at), u, fma(-load(give, at), t0, r))
            z = fma(load(b, to), u, fma(-load(give, to), t0, i))
            if rank > 1:
                x = fma(-load(give, size + at), t1, x)
                z = fma(-load(give, size + to), t1, z)
            x, z = fma(gr, r, fma(-gi, i, x)), fma(gr, i, fma(gi, r, z))
            store(s, at, x)
            store(s, to, z)
            y0, y1 = fma(load(c, at), x, y0), fma(load(c, to), z, y1)
            n0, n1 = fma(load(take, at), x, n0), fma(load(take, to), z, n1)
            if rank > 1:
                m0 = fma(load(take, size + at), x, m0)
                m1 = fma(load(take, size + to), z, m1)
            if len(kept):
                store(kept, (k + 1) * size + at, x)
                store(kept, (k + 1) * size + to, z)
        store(t, 0, n0 + n1)
        store(t, WIDTH, m0 + m1)
        store(y, k * WIDTH, y0 + y1)


@njit(nogil=True, error_model="numpy")
def coupled(counter, units, rank, u, gain, b, give, take, c, state, lengths, y):
    """Y (B, T, H) and the last states, in place of the first.

    gain, b, c (G, n * 2 * lanes), give and take (G, R * n * 2 * lanes), state (B, G, n * 2 * lanes)
    for G groups of channels.
    """
    _, time, width = u.shape
    groups = gain.shape[0]
    rows, outs = np.empty(_BLOCK * WIDTH, np.float32), np.empty(_BLOCK * WIDTH, np.float32)
    t, nothing = np.empty(2 * WIDTH, np.float32), np.empty(0, np.float32)
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        row, group = unit // groups, unit % groups
        h = group * WIDTH
        left, s = width - h, state[row, group]
        _sums(take[group], rank, s, t)
        for first in range(0, lengths[row], _BLOCK):
            count = min(lengths[row] - first, _BLOCK)
            for k in range(count):
                store(rows, k * WIDTH, load_some(u, (row * time + first + k) * width + h, left))
            _forward(gain[group], b[group], give[group], take[group], c[group], rank, rows, count,
                     s, t, nothing, nothing, outs)  # fmt: skip
            for k in range(count):
                store_some(y, (row * time + first + k) * width + h, load(outs, k * WIDTH), left)
        y[row, lengths[row] :, h : h + WIDTH] = 0.0
        unit = fetch_add(counter, 0, 1)


@njit(nogil=True, error_model="numpy")
def _adjoint(gain, b, give, take, c, rank, grads, count, back, adjoints, asked, du):
    """Adjoints of the states of a block, from the last; back is that of the state after it."""
    size = len(back)
    for k in range(count - 1, -1, -1):
        g = load(grads, k * WIDTH)
        d0, d1, n0, n1, m0, m1 = zero(), zero(), zero(), zero(), zero(), zero()
        for at in range(0, size, 2 * WIDTH):
            to = at + WIDTH
            r, i = fma(load(c, at), g, load(back, at)), fma(load(c, to), g, load(back, to))
            store(adjoints, k * size + at, r)
            store(adjoints, k * size + to, i)
            d0, d1 = fma(load(b, at), r, d0), fma(load(b, to), i, d1)
            n0, n1 = fma(load(give, at), r, n0), fma(load(give, to), i, n1)
            if rank > 1:
                m0 = fma(load(give, size + at), r, m0)
                m1 = fma(load(give, size + to), i, m1)
        store(du, k * WIDTH, d0 + d1)
        t0, t1 = -(n0 + n1), -(m0 + m1)
        store(asked, 2 * k * WIDTH, t0)
        store(asked, (2 * k + 1) * WIDTH, t1)
        for at in range(0, size, 2 * WIDTH):
            to = at + WIDTH
            r, i = load(adjoints, k * size + at), load(adjoints, k * size + to)
            x, z = fma(load(take, at), t0, r), fma(load(take, to), t0, i)
            if rank > 1:
                x = fma(load(take, size + at), t1, x)
                z = fma(load(take, size + to), t1, z)
            gr, gi = load(gain, at), load(gain, to)
            store(back, at, fma(gr, r, fma(gi, i, x)))
            store(back, to, fma(gr, i, fma(-gi, r, z)))


@njit(nogil=True, error_model="numpy")
def _gather(rank, count, rows, grads, kept, told, adjoints, asked, dgain, db, dgive, dtake, dc):
    """Adds a block's part to the gradients, mode by mode."""
    size = len(dgain)
    for at in range(0, size, 2 * WIDTH):
        to = at + WIDTH
        for r in range(rank):
            p0, p1, q0, q1 = zero(), zero(), zero(), zero()
            for k in range(count):
                t, a = load(told, (2 * k + r) * WIDTH), load(asked, (2 * k + r) * WIDTH)
                p0 = fma(load(adjoints, k * size + at), t, p0)
                p1 = fma(load(adjoints, k * size + to), t, p1)
                q0, q1 = (
                    fma(load(kept, k * size + at), a, q0),
                    fma(load(kept, k * size + to), a, q1),
                )
            store(dgive, r * size + at, load(dgive, r * size + at) - p0)
            store(dgive, r * size + to, load(dgive, r * size + to) - p1)
            store(dtake, r * size + at, load(dtake, r * size + at) + q0)
            store(dtake, r * size + to, load(dtake, r * size + to) + q1)
        b0, b1, c0, c1 = load(db, at), load(db, to), load(dc, at), load(dc, to)
        g0, g1 = load(dgain, at), load(dgain, to)
        for k in range(count):
            u, g = load(rows, k * WIDTH), load(grads, k * WIDTH)
            lr, li = load(adjoints, k * size + at), load(adjoints, k * size + to)
            sr, si = load(kept, k * size + at), load(kept, k * size + to)
            b0, b1 = fma(lr, u, b0), fma(li, u, b1)
            g0, g1 = fma(sr, lr, fma(si, li, g0)), fma(sr, li, fma(-si, lr, g1))
            c0 = fma(load(kept, (k + 1) * size + at), g, c0)
            c1 = fma(load(kept, (k + 1) * size + to), g, c1)
        store(db, at, b0)
        store(db, to, b1)
        store(dc, at, c0)
        store(dc, to, c1)
        store(dgain, at, g0)
        store(dgain, to, g1)


@njit(nogil=True, error_model="numpy")
def coupled_backward(
    counter, units, rank, u, gain, b, give, take, c, state, lengths, dy,
    du, dgain, db, dgive, dtake, dc, dstate,
):  # fmt: skip
    """Gradients, each row's own (B, G, ...) and starting as 0; dstate as in `_response`."""
    _, time, width = u.shape
    groups, size = gain.shape[0], gain.shape[1]
    rows, grads = np.empty(_BLOCK * WIDTH, np.float32), np.empty(_BLOCK * WIDTH, np.float32)
    outs, t = np.empty(_BLOCK * WIDTH, np.float32), np.empty(2 * WIDTH, np.float32)
    told, asked = (
        np.empty(2 * _BLOCK * WIDTH, np.float32), np.empty(2 * _BLOCK * WIDTH, np.float32)
    )  # fmt: skip
    kept = np.empty((_BLOCK + 1) * size, np.float32)
    adjoints, nothing = np.empty(_BLOCK * size, np.float32), np.empty(0, np.float32)
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        row, group = unit // groups, unit % groups
        h = group * WIDTH
        left, blocks = width - h, (lengths[row] + _BLOCK - 1) // _BLOCK
        s = state[row, group].copy()
        starts = np.empty((max(1, blocks), size), np.float32)
        for block in range(blocks):
            starts[block] = s
            _sums(take[group], rank, s, t)
            if block < blocks - 1:
                for k in range(_BLOCK):
                    place = (row * time + block * _BLOCK + k) * width + h
                    store(rows, k * WIDTH, load_some(u, place, left))
                _forward(gain[group], b[group], give[group], take[group], c[group], rank, rows,
                         _BLOCK, s, t, nothing, nothing, outs)  # fmt: skip
        for block in range(blocks - 1, -1, -1):
            first = block * _BLOCK
            count = min(lengths[row] - first, _BLOCK)
            for k in range(count):
                place = (row * time + first + k) * width + h
                store(rows, k * WIDTH, load_some(u, place, left))
                store(grads, k * WIDTH, load_some(dy, place, left))
            s[:] = starts[block]
            kept[:size] = s
            _sums(take[group], rank, s, t)
            _forward(gain[group], b[group], give[group], take[group], c[group], rank, rows, count,
                     s, t, kept, told, outs)  # fmt: skip
            _adjoint(gain[group], b[group], give[group], take[group], c[group], rank, grads, count,
                     dstate[row, group], adjoints, asked, outs)  # fmt: skip
            _gather(rank, count, rows, grads, kept, told, adjoints, asked, dgain[row, group],
                    db[row, group], dgive[row, group], dtake[row, group],
                    dc[row, group])  # fmt: skip
            for k in range(count):
                place = (row * time + first + k) * width + h
                store_some(du, place, load(outs, k * WIDTH), left)
        du[row, lengths[row] :, h : h + WIDTH] = 0.0
        unit = fetch_add(counter, 0, 1)
