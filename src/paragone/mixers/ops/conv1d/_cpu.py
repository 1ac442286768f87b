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

__all__ = ["BLOCK", "conv_backward", "conv_forward"]

BLOCK = 128


@njit(nogil=True, error_model="numpy", forceinline=True, no_cpython_wrapper=True)
def _sum(at, row, t, d, some, x, state, w, bias):
    width, taps = at[0], at[1]
    found = load_some(bias, d, some)
    for k in range(taps):
        i = t + k - taps + 1
        if i >= 0:
            v = load_some(x, row * at[3] + i * at[4] + d, some)
        else:
            v = load_some(state, (row * (taps - 1) + i + taps - 1) * width + d, some)
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
        for t in range(time):
            for d in range(first, end, WIDTH):
                some = min(WIDTH, width - d)
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
