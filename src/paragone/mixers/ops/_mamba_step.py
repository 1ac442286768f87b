"""One token of Mamba and Mamba-2 on the CPU, without gradients and without torch's dispatch.

Decoding a token is mostly reading weights; what stands between the products must not cost more
than they do. Each function takes float32 tensors and calls one kernel, on the calling thread. New
states are new tensors, so that an older one can still be gone on from.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

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
    total,
    zero,
)
from paragone.mixers.ops._mamba_views import dense, flat
from paragone.mixers.ops.scan._decay import decay, spread
from paragone.mixers.ops.scan._forward import sigmoid, soft

__all__ = ["conv_step", "scan_step", "ssd_step"]

_LOG2_E = np.float32(1.4426950408889634)


@njit(nogil=True, error_model="numpy")
def _conv(rows, width, taps, x, x_row, w, bias, state, y, after):
    for row in range(rows):
        for d in range(0, width, WIDTH):
            some = min(WIDTH, width - d)
            found = load_some(bias, d, some)
            for k in range(taps):
                if k < taps - 1:
                    v = load_some(state, (row * (taps - 1) + k) * width + d, some)
                else:
                    v = load_some(x, row * x_row + d, some)
                found = fma(v, load_some(w, k * width + d, some), found)
                if k:
                    store_some(after, (row * (taps - 1) + k - 1) * width + d, v, some)
            store_some(y, row * width + d, found * sigmoid(found), some)


@njit(nogil=True, error_model="numpy")
def _scan(rows, width, count, x, dt, bias, A_log, B, C, row_b, D, z, row_z, state, y, after):
    old = flush_denormals()
    step = np.empty(width + WIDTH, np.float32)
    for row in range(rows):
        for d in range(0, width, WIDTH):
            some = min(WIDTH, width - d)
            s = soft(load_some(dt, row * width + d, some) + load_some(bias, d, some))
            store_some(step, d, s, some)
        for d in range(width):
            s, v, sums = step[d], x[row * width + d], zero()
            for n in range(0, count, WIDTH):
                some, place = min(WIDTH, count - n), (row * width + d) * count + n
                rate = exp(load_some(A_log, d * count + n, some)) * splat(-s * _LOG2_E)
                enters = load_some(B, row * row_b + n, some) * splat(s * v)
                h = fma(decay(rate), load_some(state, place, some), enters)
                store_some(after, place, h, some)
                sums = fma(h, load_some(C, row * row_b + n, some), sums)
            y[row * width + d] = total(sums) + D[d] * v
        for d in range(0, width, WIDTH):
            some = min(WIDTH, width - d)
            gate = load_some(z, row * row_z + d, some)
            value = load_some(y, row * width + d, some) * gate * sigmoid(gate)
            store_some(y, row * width + d, value, some)
    restore_floats(old)


@njit(nogil=True, error_model="numpy")
def _ssd(rows, heads, size, groups, count, x, row_x, dt, row_dt, bias, low, high, A_log, B, C, D,
         state, y, after):  # fmt: skip
    old = flush_denormals()
    for row in range(rows):
        for head in range(heads):
            step = total(soft(splat(dt[row * row_dt + head] + bias[head]))) / np.float32(WIDTH)
            s = splat(min(max(step, low), high))
            keep = decay(s * exp(spread(A_log, head)) * splat(-_LOG2_E))
            b = row * row_x + head // (heads // groups) * count
            for p in range(0, size, WIDTH):
                some = size - p
                v = load_some(x, row * row_x + head * size + p, some)
                sv, out = s * v, spread(D, head) * v
                for n in range(count):
                    place = ((row * heads + head) * count + n) * size + p
                    h = fma(keep, load_some(state, place, some), sv * spread(B, b + n))
                    store_some(after, place, h, some)
                    out = fma(h, spread(C, b + n), out)
                store_some(y, (row * heads + head) * size + p, out, some)
    restore_floats(old)


def conv_step(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Takes x (B, D), weight (D, K), state (B, K - 1, D); returns the silu and the new state."""
    (rows, width), taps = x.shape, weight.shape[1]
    y, after = x.new_empty(rows, width), x.new_empty(rows, taps - 1, width)
    before = dense(state, rows, taps - 1, width)
    _conv(rows, width, taps, flat(x), x.stride(0), dense(weight.t()), dense(bias, width), before,
          flat(y), flat(after))  # fmt: skip
    return y, after


def scan_step(
    x: Tensor, dt: Tensor, bias: Tensor, A_log: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor,
    state: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One token of `selective_scan`: x, dt, z (B, D), B and C (B, N), state (B, D, N)."""
    (rows, width), count = x.shape, A_log.shape[1]
    y, after = x.new_empty(rows, width), x.new_empty(rows, width, count)
    _scan(rows, width, count, dense(x), dense(dt), dense(bias), dense(A_log), flat(B), flat(C),
          B.stride(0), dense(D), flat(z), z.stride(0), dense(state, rows, width, count), flat(y),
          flat(after))  # fmt: skip
    return y, after


def ssd_step(
    u: Tensor, dt: Tensor, bias: Tensor, limit: tuple[float, float], A_log: Tensor, D: Tensor,
    groups: int, state: Tensor | None, count: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One token of `ssd`: u (B, H P + 2 G N) holds x, B and C, dt is (B, H), state (B, H, N, P)."""
    (rows, mixed), heads = u.shape, len(A_log)
    inner = mixed - 2 * groups * count
    size = inner // heads
    y, after = u.new_empty(rows, inner), u.new_empty(rows, heads, count, size)
    low, high = (np.float32(min(v, torch.finfo(torch.float32).max)) for v in limit)
    whole = flat(u)
    _ssd(rows, heads, size, groups, count, whole, u.stride(0), flat(dt), dt.stride(0), dense(bias),
         low, high, dense(A_log), whole[inner:], whole[inner + groups * count :], dense(D),
         dense(state, rows, heads, count, size), flat(y), flat(after))  # fmt: skip
    return y, after
