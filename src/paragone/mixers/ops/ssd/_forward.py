"""SSD forward on the CPU: one head of one row after the other, chunk by chunk."""

from __future__ import annotations

import numpy as np

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit
from paragone.kernels.simd import (
    WIDTH,
    flush_denormals,
    load,
    restore_floats,
    splat,
    store,
)
from paragone.mixers.ops.ssd._chunk import (
    copied,
    decays_of,
    multiply,
    padded,
    scaled,
    weights_of,
    written,
)

__all__ = ["ssd_forward"]


@njit(nogil=True, error_model="numpy")
def ssd_forward(counter, units, at, x, dt, A, scores, B, C, state, y, kept, keep):
    """`state` (rows, H, N, P) is replaced by the last; `kept` gets those before each chunk."""
    time, heads, size, groups, count, chunk = at[0], at[1], at[2], at[3], at[4], at[5]
    chunks, wide, pad = (time + chunk - 1) // chunk, padded(size), padded(chunk)
    S, out = np.empty(count * wide, np.float32), np.empty(chunk * wide, np.float32)
    v, weights = np.empty(chunk * wide, np.float32), np.empty(chunk * pad, np.float32)
    rows = np.empty(chunk * count, np.float32)
    steps, sums, since, until = np.empty((4, pad), np.float32)
    old = flush_denormals()
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        row, head = unit // heads, unit % heads
        group = head // (heads // groups)
        copied(state, unit * count * size, size, count, size, S)
        for start in range(0, time, chunk):
            q, index = min(chunk, time - start), start // chunk
            place_x = row * at[6] + start * at[7] + head * at[8]
            place_b = row * at[11] + start * at[12] + group * at[13]
            place_c = row * at[14] + start * at[15] + group * at[16]
            if keep:
                place = ((row * chunks + index) * heads + head) * count * size
                written(S, count, size, kept, place, size)
            faded = decays_of(dt, row * at[9] + start * at[10] + head, at[10], A[head], q, steps,
                              sums, since, until)  # fmt: skip
            place = ((row * chunks + index) * groups + group) * chunk * chunk
            weights_of(scores, place, chunk, q, steps, sums, weights)
            copied(x, place_x, at[7], q, size, v)
            multiply(weights, 0, pad, 1, v, wide, out, wide, q, wide, q, 0, True, False)
            scaled(C, place_c, at[15], q, count, since, rows)
            multiply(rows, 0, count, 1, S, wide, out, wide, q, wide, count, 1, False, False)
            for i in range(q):
                until[i] *= steps[i]
            place = ((row * time + start) * heads + head) * size
            written(out, q, size, y, place, heads * size)
            for i in range(0, count * wide, WIDTH):
                store(S, i, load(S, i) * splat(faded))
            scaled(B, place_b, at[12], q, count, until, rows)
            multiply(rows, 0, 1, count, v, wide, S, wide, count, wide, q, 1, False, False)
        written(S, count, size, state, unit * count * size, size)
        unit = fetch_add(counter, 0, 1)
    restore_floats(old)
