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

__all__ = ["response", "response_backward"]

_BLOCK = 64


@njit(nogil=True, error_model="numpy")
def response(counter, units, u, gain, weight, state, lengths, y):
    """y and the last states (in place of the first).

    u, y (B, T, H); gain, weight (2, n4, H') and state (B, 2, n4, H'), with H' whole vectors.
    """
    _, time, width = u.shape
    modes, wide = gain.shape[1], gain.shape[2]
    groups, plane = wide // WIDTH, modes * wide
    rows, sums = np.empty(_BLOCK * WIDTH, np.float32), np.empty(_BLOCK * WIDTH, np.float32)
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        row, h = unit // groups, unit % groups * WIDTH
        left, base = width - h, row * 2 * plane
        for first in range(0, lengths[row], _BLOCK):
            count = min(lengths[row] - first, _BLOCK)
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
                store(state, base + at, r3)
                store(state, base + plane + at, i3)
                at -= wide
                store(state, base + at, r2)
                store(state, base + plane + at, i2)
                at -= wide
                store(state, base + at, r1)
                store(state, base + plane + at, i1)
                at -= wide
                store(state, base + at, r0)
                store(state, base + plane + at, i0)
            for t in range(count):
                store_some(y, (row * time + first + t) * width + h, load(sums, t * WIDTH), left)
        y[row, lengths[row] :, h : h + WIDTH] = 0.0
        unit = fetch_add(counter, 0, 1)


@njit(nogil=True, error_model="numpy")
def _run(rows, count, gain, at, plane, r, i, kept):
    """Advances one mode through a block; keeps the states before each input, if asked to."""
    a, b = load(gain, at), load(gain, plane + at)
    for t in range(count):
        if len(kept):
            store(kept, 2 * t * WIDTH, r)
            store(kept, (2 * t + 1) * WIDTH, i)
        x = load(rows, t * WIDTH)
        r, i = fma(a, r, fma(-b, i, r + x)), fma(a, i, fma(b, r, i))
    return r, i


@njit(nogil=True, error_model="numpy")
def response_backward(
    counter, units, u, gain, weight, state, lengths, dy, du, dgain, dweight, dstate
):  # fmt: skip
    """Gradients; dstate holds that of the last states on entry, of the first ones on return.

    dgain and dweight (B, 2, n, H') are each row's; dgain is that of the pole.
    """
    _, time, width = u.shape
    modes, wide = gain.shape[1], gain.shape[2]
    groups, plane = wide // WIDTH, modes * wide
    rows, grads = np.empty(_BLOCK * WIDTH, np.float32), np.empty(_BLOCK * WIDTH, np.float32)
    sums, kept = np.empty(_BLOCK * WIDTH, np.float32), np.empty(2 * _BLOCK * WIDTH, np.float32)
    nothing = np.empty(0, np.float32)
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        row, h = unit // groups, unit % groups * WIDTH
        left, base = width - h, row * 2 * plane
        blocks = (lengths[row] + _BLOCK - 1) // _BLOCK
        starts = np.empty(max(1, blocks) * modes * 2 * WIDTH, np.float32)
        for n in range(modes):
            at = n * wide + h
            store(starts, 2 * n * WIDTH, load(state, base + at))
            store(starts, (2 * n + 1) * WIDTH, load(state, base + plane + at))
        for block in range(blocks - 1):
            for t in range(_BLOCK):
                place = (row * time + block * _BLOCK + t) * width + h
                store(rows, t * WIDTH, load_some(u, place, left))
            for n in range(modes):
                here = (block * modes + n) * 2 * WIDTH
                r, i = load(starts, here), load(starts, here + WIDTH)
                r, i = _run(rows, _BLOCK, gain, n * wide + h, plane, r, i, nothing)
                store(starts, here + modes * 2 * WIDTH, r)
                store(starts, here + modes * 2 * WIDTH + WIDTH, i)
        for block in range(blocks - 1, -1, -1):
            first = block * _BLOCK
            count = min(lengths[row] - first, _BLOCK)
            for t in range(count):
                place = (row * time + first + t) * width + h
                store(rows, t * WIDTH, load_some(u, place, left))
                store(grads, t * WIDTH, load_some(dy, place, left))
                store(sums, t * WIDTH, zero())
            for n in range(modes):
                at = n * wide + h
                here = (block * modes + n) * 2 * WIDTH
                r, i = load(starts, here), load(starts, here + WIDTH)
                nr, ni = _run(rows, count, gain, at, plane, r, i, kept)
                a, b = load(gain, at), load(gain, plane + at)
                v, w = load(weight, at), load(weight, plane + at)
                lr, li = load(dstate, base + at), load(dstate, base + plane + at)
                gr, gi = load(dgain, base + at), load(dgain, base + plane + at)
                wr, wi = load(dweight, base + at), load(dweight, base + plane + at)
                for t in range(count - 1, -1, -1):
                    g = load(grads, t * WIDTH)
                    wr, wi = fma(nr, g, wr), fma(-ni, g, wi)
                    lr, li = fma(v, g, lr), fma(-w, g, li)
                    store(sums, t * WIDTH, load(sums, t * WIDTH) + lr)
                    nr, ni = load(kept, 2 * t * WIDTH), load(kept, (2 * t + 1) * WIDTH)
                    gr, gi = fma(nr, lr, fma(ni, li, gr)), fma(nr, li, fma(-ni, lr, gi))
                    lr, li = fma(a, lr, fma(b, li, lr)), fma(a, li, fma(-b, lr, li))
                store(dstate, base + at, lr)
                store(dstate, base + plane + at, li)
                store(dgain, base + at, gr)
                store(dgain, base + plane + at, gi)
                store(dweight, base + at, wr)
                store(dweight, base + plane + at, wi)
            for t in range(count):
                place = (row * time + first + t) * width + h
                store_some(du, place, load(sums, t * WIDTH), left)
        du[row, lengths[row] :, h : h + WIDTH] = 0.0
        unit = fetch_add(counter, 0, 1)
