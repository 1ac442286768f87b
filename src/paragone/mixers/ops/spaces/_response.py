"""Kernels of a channel's response: one input, diagonal modes, one output, in one pass over time.

Lanes are channels. A block of time is read once; for each group of modes the state, its gain and
its weights stay in registers through the block, and outputs are added up in a small buffer. The
backward pass keeps the states at the starts of blocks, goes through the blocks from the last, and
works out the states inside a block anew. Memory: nothing of size T x n.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit
from paragone.kernels.simd import WIDTH, fma, load, load_some, store, store_some, zero
from paragone.mixers.ops.spaces._modes import BLOCK

__all__ = ["response", "response_backward"]


@njit(nogil=True, error_model="numpy")
def _keep(state, place, plane, drift, at, count, r, i):
    """Replaces a state by that after a block, with what the rounded pole lost on it."""
    if count == BLOCK:
        sr, si = load(state, place), load(state, place + plane)
        gr, gi = load(drift, at), load(drift, at + drift.size // 2)
        r, i = fma(gr, sr, fma(-gi, si, r)), fma(gr, si, fma(gi, sr, i))
    store(state, place, r)
    store(state, place + plane, i)


@njit(nogil=True, error_model="numpy")
def response(counter, units, u, gain, drift, weight, state, lengths, y):
    """Y and the last states (in place of the first).

    u, y (B, T, H); gain, drift, weight (2, n4, H') and state (B, 2, n4, H'), with H' whole vectors.
    """
    _, time, width = u.shape
    modes, wide = gain.shape[1], gain.shape[2]
    groups, plane = wide // WIDTH, modes * wide
    rows, sums = np.empty(BLOCK * WIDTH, np.float32), np.empty(BLOCK * WIDTH, np.float32)
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        row, h = unit // groups, unit % groups * WIDTH
        left, base = width - h, row * 2 * plane
        for first in range(0, lengths[row], BLOCK):
            count = min(lengths[row] - first, BLOCK)
            for t in range(count):
                store(rows, t * WIDTH, load_some(u, (row * time + first + t) * width + h, left))
                store(sums, t * WIDTH, zero())
            for n in range(0, modes, 4):
                at = n * wide + h
                r0, i0 = load(state, base + at), load(state, base + plane + at)
                a0, b0 = load(gain, at), load(gain, plane + at)
                v0, w0 = load(weight, at), load(weight, plane + at)
                at += wide
                r1, i1 = load(state, base + at), load(state, base + plane + at)
                a1, b1 = load(gain, at), load(gain, plane + at)
                v1, w1 = load(weight, at), load(weight, plane + at)
                at += wide
                r2, i2 = load(state, base + at), load(state, base + plane + at)
                a2, b2 = load(gain, at), load(gain, plane + at)
                v2, w2 = load(weight, at), load(weight, plane + at)
                at += wide
                r3, i3 = load(state, base + at), load(state, base + plane + at)
                a3, b3 = load(gain, at), load(gain, plane + at)
                v3, w3 = load(weight, at), load(weight, plane + at)
                for t in range(count):
                    x = load(rows, t * WIDTH)
                    r0, i0 = fma(a0, r0, fma(-b0, i0, r0 + x)), fma(a0, i0, fma(b0, r0, i0))
                    r1, i1 = fma(a1, r1, fma(-b1, i1, r1 + x)), fma(a1, i1, fma(b1, r1, i1))
                    r2, i2 = fma(a2, r2, fma(-b2, i2, r2 + x)), fma(a2, i2, fma(b2, r2, i2))
                    r3, i3 = fma(a3, r3, fma(-b3, i3, r3 + x)), fma(a3, i3, fma(b3, r3, i3))
                    acc = fma(v0, r0, fma(-w0, i0, load(sums, t * WIDTH)))
                    acc = fma(v1, r1, fma(-w1, i1, acc))
                    more = fma(v2, r2, -(w2 * i2))
                    more = fma(v3, r3, fma(-w3, i3, more))
                    store(sums, t * WIDTH, acc + more)
                _keep(state, base + at, plane, drift, at, count, r3, i3)
                at -= wide
                _keep(state, base + at, plane, drift, at, count, r2, i2)
                at -= wide
                _keep(state, base + at, plane, drift, at, count, r1, i1)
                at -= wide
                _keep(state, base + at, plane, drift, at, count, r0, i0)
            for t in range(count):
                store_some(y, (row * time + first + t) * width + h, load(sums, t * WIDTH), left)
        y[row, lengths[row] :, h : h + WIDTH] = 0.0
        unit = fetch_add(counter, 0, 1)


@njit(nogil=True, error_model="numpy")
def _start(starts, state, base, drift, gain, rows, u, row, time, width, h, left, blocks):
    """Puts the states at the start of every block into starts (block, n, 2, lane)."""
    modes, wide = gain.shape[1], gain.shape[2]
    plane, size = modes * wide, modes * 2 * WIDTH
    for n in range(modes):
        store(starts, 2 * n * WIDTH, load(state, base + n * wide + h))
        store(starts, (2 * n + 1) * WIDTH, load(state, base + plane + n * wide + h))
    for block in range(blocks - 1):
        for t in range(BLOCK):
            place = (row * time + block * BLOCK + t) * width + h
            store(rows, t * WIDTH, load_some(u, place, left))
        for n in range(0, modes, 2):
            at, here = n * wide + h, block * size + 2 * n * WIDTH
            r0, i0 = load(starts, here), load(starts, here + WIDTH)
            r1, i1 = load(starts, here + 2 * WIDTH), load(starts, here + 3 * WIDTH)
            a0, b0 = load(gain, at), load(gain, plane + at)
            a1, b1 = load(gain, at + wide), load(gain, plane + at + wide)
            for t in range(BLOCK):
                x = load(rows, t * WIDTH)
                r0, i0 = fma(a0, r0, fma(-b0, i0, r0 + x)), fma(a0, i0, fma(b0, r0, i0))
                r1, i1 = fma(a1, r1, fma(-b1, i1, r1 + x)), fma(a1, i1, fma(b1, r1, i1))
            for j in range(2):
                if j == 1:
                    r0, i0 = r1, i1
                    here, at = here + 2 * WIDTH, at + wide
                sr, si = load(starts, here), load(starts, here + WIDTH)
                gr, gi = load(drift, at), load(drift, plane + at)
                store(starts, here + size, fma(gr, sr, fma(-gi, si, r0)))
                store(starts, here + size + WIDTH, fma(gr, si, fma(gi, sr, i0)))


@njit(nogil=True, error_model="numpy")
def response_backward(
    counter, units, u, gain, drift, weight, state, lengths, dy, du, dgain, dweight, dstate
):  # fmt: skip
    """Gradients; dstate holds that of the last states on entry, of the first ones on return.

    dgain and dweight (B, 2, n2, H') are each row's and start as 0; dgain is that of the pole.
    """
    _, time, width = u.shape
    modes, wide = gain.shape[1], gain.shape[2]
    groups, plane = wide // WIDTH, modes * wide
    rows, grads = np.empty(BLOCK * WIDTH, np.float32), np.empty(BLOCK * WIDTH, np.float32)
    sums, kept = np.empty(BLOCK * WIDTH, np.float32), np.empty(4 * BLOCK * WIDTH, np.float32)
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        row, h = unit // groups, unit % groups * WIDTH
        left, base = width - h, row * 2 * plane
        blocks = (lengths[row] + BLOCK - 1) // BLOCK
        starts = np.empty(max(1, blocks) * modes * 2 * WIDTH, np.float32)
        _start(starts, state, base, drift, gain, rows, u, row, time, width, h, left, blocks)
        for block in range(blocks - 1, -1, -1):
            first = block * BLOCK
            count = min(lengths[row] - first, BLOCK)
            for t in range(count):
                place = (row * time + first + t) * width + h
                store(rows, t * WIDTH, load_some(u, place, left))
                store(grads, t * WIDTH, load_some(dy, place, left))
                store(sums, t * WIDTH, zero())
            for n in range(0, modes, 2):
                at, next_at = n * wide + h, (n + 1) * wide + h
                here = (block * modes + n) * 2 * WIDTH
                r0, i0 = load(starts, here), load(starts, here + WIDTH)
                r1, i1 = load(starts, here + 2 * WIDTH), load(starts, here + 3 * WIDTH)
                a0, b0 = load(gain, at), load(gain, plane + at)
                a1, b1 = load(gain, next_at), load(gain, plane + next_at)
                for t in range(count):
                    store(kept, 4 * t * WIDTH, r0)
                    store(kept, (4 * t + 1) * WIDTH, i0)
                    store(kept, (4 * t + 2) * WIDTH, r1)
                    store(kept, (4 * t + 3) * WIDTH, i1)
                    x = load(rows, t * WIDTH)
                    r0, i0 = fma(a0, r0, fma(-b0, i0, r0 + x)), fma(a0, i0, fma(b0, r0, i0))
                    r1, i1 = fma(a1, r1, fma(-b1, i1, r1 + x)), fma(a1, i1, fma(b1, r1, i1))
                v0, w0 = load(weight, at), load(weight, plane + at)
                v1, w1 = load(weight, next_at), load(weight, plane + next_at)
                l0, m0 = load(dstate, base + at), load(dstate, base + plane + at)
                l1, m1 = load(dstate, base + next_at), load(dstate, base + plane + next_at)
                x0, y0, x1, y1 = zero(), zero(), zero(), zero()
                p0, q0, p1, q1 = zero(), zero(), zero(), zero()
                for t in range(count - 1, -1, -1):
                    g = load(grads, t * WIDTH)
                    p0, q0 = fma(r0, g, p0), fma(-i0, g, q0)
                    p1, q1 = fma(r1, g, p1), fma(-i1, g, q1)
                    l0, m0 = fma(v0, g, l0), fma(-w0, g, m0)
                    l1, m1 = fma(v1, g, l1), fma(-w1, g, m1)
                    store(sums, t * WIDTH, load(sums, t * WIDTH) + (l0 + l1))
                    r0, i0 = load(kept, 4 * t * WIDTH), load(kept, (4 * t + 1) * WIDTH)
                    r1, i1 = load(kept, (4 * t + 2) * WIDTH), load(kept, (4 * t + 3) * WIDTH)
                    x0, y0 = fma(r0, l0, fma(i0, m0, x0)), fma(r0, m0, fma(-i0, l0, y0))
                    x1, y1 = fma(r1, l1, fma(i1, m1, x1)), fma(r1, m1, fma(-i1, l1, y1))
                    l0, m0 = fma(a0, l0, fma(b0, m0, l0)), fma(a0, m0, fma(-b0, l0, m0))
                    l1, m1 = fma(a1, l1, fma(b1, m1, l1)), fma(a1, m1, fma(-b1, l1, m1))
                _finish(
                    dstate, dgain, dweight, base, plane, at, drift, count, l0, m0, x0, y0, p0, q0
                )
                _finish(
                    dstate,
                    dgain,
                    dweight,
                    base,
                    plane,
                    next_at,
                    drift,
                    count,
                    l1,
                    m1,
                    x1,
                    y1,
                    p1,
                    q1,
                )
            for t in range(count):
                place = (row * time + first + t) * width + h
                store_some(du, place, load(sums, t * WIDTH), left)
        du[row, lengths[row] :, h : h + WIDTH] = 0.0
        unit = fetch_add(counter, 0, 1)


@njit(nogil=True, error_model="numpy")
def _finish(dstate, dgain, dweight, base, plane, at, drift, count, lr, li, x, y, p, q):
    """Takes over what one mode's gradients were after a block."""
    place = base + at
    if count == BLOCK:
        sr, si = load(dstate, place), load(dstate, place + plane)
        gr, gi = load(drift, at), load(drift, at + plane)
        lr, li = fma(gr, sr, fma(gi, si, lr)), fma(gr, si, fma(-gi, sr, li))
    store(dstate, place, lr)
    store(dstate, place + plane, li)
    store(dgain, place, load(dgain, place) + x)
    store(dgain, place + plane, load(dgain, place + plane) + y)
    store(dweight, place, load(dweight, place) + p)
    store(dweight, place + plane, load(dweight, place + plane) + q)
