"""Selective scan forward: channels across the lanes, states in the first cache, one pass.

A unit of work is a row and `BLOCK` channels. Time goes in chunks of `KEPT` tokens; the states at
the start of each chunk can be kept for the way back.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit
from paragone.kernels.simd import (
    WIDTH,
    absolute,
    exp,
    flush_denormals,
    fma,
    load,
    load_some,
    maximum,
    restore_floats,
    splat,
    store,
    store_some,
    zero,
)
from paragone.mixers.ops.scan._decay import decay, spread, touch

__all__ = ["BLOCK", "KEPT", "LN2", "scan_forward", "sigmoid", "soft"]

BLOCK = 128
KEPT = 32
LN2 = np.float32(0.6931471805599453)
ATANH = tuple(np.float32(v) for v in (2.0, 2 / 3, 2 / 5, 2 / 7, 2 / 9))


@njit(nogil=True, error_model="numpy", forceinline=True, no_cpython_wrapper=True)
def soft(v):
    """softplus: max(v, 0) + log1p(e), e = exp(-|v|), and log1p(e) = 2 artanh(e / (e + 2))."""
    e = exp(-absolute(v))
    r = e / (e + splat(np.float32(2)))
    q = r * r
    p = fma(q, splat(ATANH[4]), splat(ATANH[3]))
    p = fma(q, fma(q, fma(q, p, splat(ATANH[2])), splat(ATANH[1])), splat(ATANH[0]))
    return maximum(v, zero()) + r * p


@njit(nogil=True, error_model="numpy", forceinline=True, no_cpython_wrapper=True)
def sigmoid(v):
    one = splat(np.float32(1))
    return one / (one + exp(-v))


@njit(nogil=True, error_model="numpy")
def scan_forward(
    counter, units, at, x, dt, A, B, C, D, z, bias, lengths, state, y, kept, softplus, gated, keep
):  # fmt: skip
    """A is (N, D) and in units of log2, `state` (rows, N, D) is replaced by the last one."""
    width, count, time = at[0], at[1], at[2]
    blocks = (width + BLOCK - 1) // BLOCK
    chunks = (time + KEPT - 1) // KEPT
    h, rates = np.empty((2, count * WIDTH), np.float32)
    old = flush_denormals()
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        row, first = unit // blocks, unit % blocks * BLOCK
        end = min(first + BLOCK, width)
        for start in range(0, lengths[row], KEPT):
            stop = min(start + KEPT, lengths[row])
            for d in range(first, end, WIDTH):
                some = min(WIDTH, width - d)
                for n in range(count):
                    value = load_some(state, (row * count + n) * width + d, some)
                    store(h, n * WIDTH, value)
                    store(rates, n * WIDTH, load_some(A, n * width + d, some))
                    if keep:
                        place = ((row * chunks + start // KEPT) * count + n) * width + d
                        store_some(kept, place, value, some)
                skip, shift = load_some(D, d, some), load_some(bias, d, some)
                jump = 0 if d + WIDTH < end else KEPT
                step = WIDTH if d + WIDTH < end else first - d
                ahead_x, ahead_dt = jump * at[4] + step, jump * at[6] + step
                ahead_z = jump * at[12] + step
                for t in range(start, stop):
                    place = row * at[5] + t * at[6] + d
                    touch(dt, place + ahead_dt)
                    s = load_some(dt, place, some) + shift
                    if softplus:
                        s = soft(s)
                    place = row * at[3] + t * at[4] + d
                    touch(x, place + ahead_x)
                    v = load_some(x, place, some)
                    sv, out = s * v, skip * v
                    b, c = row * at[7] + t * at[8], row * at[9] + t * at[10]
                    for n in range(count):
                        a = decay(s * load(rates, n * WIDTH))
                        new = fma(a, load(h, n * WIDTH), sv * spread(B, b + n))
                        store(h, n * WIDTH, new)
                        out = fma(new, spread(C, c + n), out)
                    if gated:
                        place = row * at[11] + t * at[12] + d
                        touch(z, place + ahead_z)
                        gate = load_some(z, place, some)
                        out = out * gate * sigmoid(gate)
                    store_some(y, (row * time + t) * width + d, out, some)
                for n in range(count):
                    place = (row * count + n) * width + d
                    store_some(state, place, load(h, n * WIDTH), some)
        unit = fetch_add(counter, 0, 1)
    restore_floats(old)
