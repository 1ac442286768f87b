r"""Selective scan backward: states are computed again from those kept, chunk by chunk.

With $g_t$ the gradient of the ungated output and $G_t = g_t C_t + e^{\Delta_{t+1} A} G_{t+1}$ that
of the state, every other gradient is a sum over what the reverse loop has in hand. Gradients of B
and C are sums over channels: the lanes of `BLOCK` channels are added up in place, then across, and
the caller adds the blocks, always in the same order.

References:
    Gu and Dao (2023), "Mamba", arXiv:2312.00752, section 3.3.2 (recomputation).

Shapes: as in `reference`; W lanes.
"""

from __future__ import annotations

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
from paragone.mixers.ops.scan._decay import decay, spread
from paragone.mixers.ops.scan._forward import BLOCK, KEPT, LN2, sigmoid, soft

__all__ = ["scan_backward"]


@njit(nogil=True, error_model="numpy", forceinline=True, no_cpython_wrapper=True)
def _again(at, row, start, stop, d, some, x, dt, B, C, D, z, bias, dy, dz, softplus, gated,
           rates, states, decays, steps, grads, sum_c):  # fmt: skip
    """The forward pass of a chunk for W channels: states, decays, g, and the gate's gradient."""
    count, time = at[1], at[2]
    skip, shift = load_some(D, d, some), load_some(bias, d, some)
    for t in range(start, stop):
        i = t - start
        s = load_some(dt, row * at[5] + t * at[6] + d, some) + shift
        if softplus:
            s = soft(s)
        store(steps, i * WIDTH, s)
        v = load_some(x, row * at[3] + t * at[4] + d, some)
        g = load_some(dy, row * at[13] + t * at[14] + d, some)
        gate, share, sv, out = zero(), zero(), s * v, skip * v
        if gated:
            gate = load_some(z, row * at[11] + t * at[12] + d, some)
            share = sigmoid(gate)
        whole = g
        if gated:
            g = g * gate * share
        store(grads, i * WIDTH, g)
        b, c = row * at[7] + t * at[8], row * at[9] + t * at[10]
        for n in range(count):
            a = decay(s * load(rates, n * WIDTH))
            here = (i * count + n) * WIDTH
            new = fma(a, load(states, here), sv * spread(B, b + n))
            store(decays, here, a)
            store(states, here + count * WIDTH, new)
            out = fma(new, spread(C, c + n), out)
            store(sum_c, here, fma(new, g, load(sum_c, here)))
        if gated:
            slope = share * fma(gate, splat(np.float32(1)) - share, splat(np.float32(1)))
            store_some(dz, (row * time + t) * at[0] + d, whole * out * slope, some)


@njit(nogil=True, error_model="numpy", forceinline=True, no_cpython_wrapper=True)
def _back(at, row, start, stop, d, some, x, dt, B, C, D, bias, dx, ddt, softplus,
          rates, states, decays, steps, grads, sum_b, carried, sum_a, sums):  # fmt: skip
    """The reverse loop of a chunk for W channels."""
    count, time = at[1], at[2]
    skip, shift = load_some(D, d, some), load_some(bias, d, some)
    sum_skip, sum_shift = load(sums, 0), load(sums, WIDTH)
    for t in range(stop - 1, start - 1, -1):
        i = t - start
        s, g = load(steps, i * WIDTH), load(grads, i * WIDTH)
        v = load_some(x, row * at[3] + t * at[4] + d, some)
        sv, into, span = s * v, zero(), zero()
        b, c = row * at[7] + t * at[8], row * at[9] + t * at[10]
        for n in range(count):
            here = (i * count + n) * WIDTH
            a = load(decays, here)
            grad = fma(g, spread(C, c + n), load(carried, n * WIDTH))
            into = fma(grad, spread(B, b + n), into)
            store(sum_b, here, fma(grad, sv, load(sum_b, here)))
            grad = grad * a
            store(carried, n * WIDTH, grad)
            rate = grad * load(states, here)
            span = fma(rate, load(rates, n * WIDTH), span)
            store(sum_a, n * WIDTH, fma(rate, s, load(sum_a, n * WIDTH)))
        store_some(dx, (row * time + t) * at[0] + d, fma(into, s, g * skip), some)
        grad = fma(into, v, span * splat(LN2))
        if softplus:
            grad = grad * sigmoid(load_some(dt, row * at[5] + t * at[6] + d, some) + shift)
        store_some(ddt, (row * time + t) * at[0] + d, grad, some)
        sum_skip, sum_shift = fma(g, v, sum_skip), sum_shift + grad
    store(sums, 0, sum_skip)
    store(sums, WIDTH, sum_shift)


@njit(nogil=True, error_model="numpy", forceinline=True, no_cpython_wrapper=True)
def _across(sums, first, total_first, many, out):
    for i in range(many):
        out[total_first + i] = total(load(sums, first + i * WIDTH))


@njit(nogil=True, error_model="numpy")
def scan_backward(
    counter, units, at, x, dt, A, B, C, D, z, bias, lengths, kept, dy, dstate,
    dx, ddt, dA, dB, dC, dD, dz, dbias, softplus, gated,
):  # fmt: skip
    """`dstate` is replaced by the first state's gradient; dA, dD, dbias are sums of a row."""
    width, count, time = at[0], at[1], at[2]
    blocks, chunks = (width + BLOCK - 1) // BLOCK, (time + KEPT - 1) // KEPT
    lane = count * WIDTH
    decays, sum_b, sum_c = np.empty((3, KEPT * lane), np.float32)
    states = np.empty((KEPT + 1) * lane, np.float32)
    steps, grads = np.empty((2, KEPT * WIDTH), np.float32)
    rates, carried, sum_a = np.empty((3, lane), np.float32)
    sums = np.empty(2 * WIDTH, np.float32)
    old = flush_denormals()
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        row, block = unit // blocks, unit % blocks
        first = block * BLOCK
        end = min(first + BLOCK, width)
        for start in range((lengths[row] - 1) // KEPT * KEPT, -1, -KEPT):
            stop = min(start + KEPT, lengths[row])
            sum_b[:] = 0
            sum_c[:] = 0
            for d in range(first, end, WIDTH):
                some = min(WIDTH, width - d)
                for n in range(count):
                    place, line = n * WIDTH, (row * count + n) * width + d
                    store(rates, place, load_some(A, n * width + d, some))
                    at_kept = ((row * chunks + start // KEPT) * count + n) * width + d
                    store(states, place, load_some(kept, at_kept, some))
                    store(carried, place, load_some(dstate, line, some))
                    store(sum_a, place, load_some(dA, line, some))
                store(sums, 0, load_some(dD, row * width + d, some))
                store(sums, WIDTH, load_some(dbias, row * width + d, some))
                _again(at, row, start, stop, d, some, x, dt, B, C, D, z, bias, dy, dz, softplus,
                       gated, rates, states, decays, steps, grads, sum_c)  # fmt: skip
                _back(at, row, start, stop, d, some, x, dt, B, C, D, bias, dx, ddt, softplus,
                      rates, states, decays, steps, grads, sum_b, carried, sum_a, sums)  # fmt: skip
                for n in range(count):
                    line = (row * count + n) * width + d
                    store_some(dstate, line, load(carried, n * WIDTH), some)
                    store_some(dA, line, load(sum_a, n * WIDTH), some)
                store_some(dD, row * width + d, load(sums, 0), some)
                store_some(dbias, row * width + d, load(sums, WIDTH), some)
            place = (unit * time + start) * count
            _across(sum_b, 0, place, (stop - start) * count, dB)
            _across(sum_c, 0, place, (stop - start) * count, dC)
        unit = fetch_add(counter, 0, 1)
    restore_floats(old)
