"""Causal depthwise convolution on the CPU: channels across the lanes, forward and backward.

A unit of work is a row and `BLOCK` channels; the taps of a token come from the first cache. Going
back, each token computes its sum anew and adds its share to the gradients of the inputs it saw.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit
from paragone.kernels.simd import (
    WIDTH,
    exp,
    flush_denormals,
    fma,
    load_some,
    restore_floats,
    splat,
    store_some,
)
from paragone.mixers.ops.scan._decay import touch

__all__ = ["BLOCK", "conv_backward", "conv_forward"]

BLOCK = 128
SPAN = 32


@njit(nogil=True, error_model="numpy", forceinline=True, no_cpython_wrapper=True)
def _input(at, row, i, d, some, x, state):
    if i >= 0:
        return load_some(x, row * at[3] + i * at[4] + d, some)
    return load_some(state, (row * (at[1] - 1) + i + at[1] - 1) * at[0] + d, some)


@njit(nogil=True, error_model="numpy", forceinline=True, no_cpython_wrapper=True)
def _four(at, row, start, stop, d, some, x, w, bias, state, y, silu):
    """The usual four taps, with taps and inputs in registers."""
    width, one, shift = at[0], splat(np.float32(1)), load_some(bias, d, some)
    w0, w1 = load_some(w, d, some), load_some(w, width + d, some)
    w2, w3 = load_some(w, 2 * width + d, some), load_some(w, 3 * width + d, some)
    v0 = _input(at, row, start - 3, d, some, x, state)
    v1 = _input(at, row, start - 2, d, some, x, state)
    v2 = _input(at, row, start - 1, d, some, x, state)
    place, line, out = row * at[3] + d, at[4], row * at[2] * width + d
    for t in range(start, stop):
        v3 = load_some(x, place + t * line, some)
        touch(x, place + t * line + WIDTH)
        found = fma(v3, w3, fma(v2, w2, fma(v1, w1, fma(v0, w0, shift))))
        if silu:
            found = found / (one + exp(-found))
        store_some(y, out + t * width, found, some)
        v0, v1, v2 = v1, v2, v3


@njit(nogil=True, error_model="numpy", forceinline=True, no_cpython_wrapper=True)
def _sum(at, row, t, d, some, x, state, w, bias):
    width, taps = at[0], at[1]
    found = load_some(bias, d, some)
    for k in range(taps):
        v = _input(at, row, t + k - taps + 1, d, some, x, state)
        found = fma(v, load_some(w, k * width + d, some), found)
    return found


@njit(nogil=True, error_model="numpy")
def conv_forward(counter, units, at, x, w, bias, state, y, silu):
    width, time = at[0], at[2]
    blocks, one = (width + BLOCK - 1) // BLOCK, splat(np.float32(1))
    old = flush_denormals()
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        row, first = unit // blocks, unit % blocks * BLOCK
        end = min(first + BLOCK, width)
        for start in range(0, time, SPAN):
            stop = min(start + SPAN, time)
            for d in range(first, end, WIDTH):
                some = min(WIDTH, width - d)
                if at[1] == 4:
                    _four(at, row, start, stop, d, some, x, w, bias, state, y, silu)
                    continue
                for t in range(start, stop):
                    found = _sum(at, row, t, d, some, x, state, w, bias)
                    if silu:
                        found = found / (one + exp(-found))
                    store_some(y, (row * time + t) * width + d, found, some)
        unit = fetch_add(counter, 0, 1)
    restore_floats(old)


@njit(nogil=True, error_model="numpy")
def conv_backward(
    counter, units, at, x, w, bias, state, dy, dx, dw, dbias, dstate, silu
):  # fmt: skip
    """All of dx, dw, dbias, dstate are added to; dw (rows, K, D) and dbias (rows, D)."""
    width, taps, time = at[0], at[1], at[2]
    blocks, one = (width + BLOCK - 1) // BLOCK, splat(np.float32(1))
    old = flush_denormals()
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        row, first = unit // blocks, unit % blocks * BLOCK
        end = min(first + BLOCK, width)
        for t in range(time):
            for d in range(first, end, WIDTH):
                some = min(WIDTH, width - d)
                grad = load_some(dy, row * at[5] + t * at[6] + d, some)
                if silu:
                    found = _sum(at, row, t, d, some, x, state, w, bias)
                    share = one / (one + exp(-found))
                    grad = grad * share * fma(found, one - share, one)
                place = row * width + d
                store_some(dbias, place, grad + load_some(dbias, place, some), some)
                for k in range(taps):
                    i = t + k - taps + 1
                    weight = load_some(w, k * width + d, some)
                    if i >= 0:
                        v = load_some(x, row * at[3] + i * at[4] + d, some)
                        place = (row * time + i) * width + d
                        store_some(dx, place, fma(grad, weight, load_some(dx, place, some)), some)
                    else:
                        place = (row * (taps - 1) + i + taps - 1) * width + d
                        v = load_some(state, place, some)
                        value = fma(grad, weight, load_some(dstate, place, some))
                        store_some(dstate, place, value, some)
                    place = (row * taps + k) * width + d
                    store_some(dw, place, fma(grad, v, load_some(dw, place, some)), some)
        unit = fetch_add(counter, 0, 1)
    restore_floats(old)
