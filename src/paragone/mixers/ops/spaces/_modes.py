r"""Kernels of diagonal modes: sums of powers (Vandermonde), and scans of complex states.

Lanes are lags in the sums and modes in the scans. Powers run on in float32 for a block of lags and
start anew in each block from a float64 value. A scan adds $(e^z - 1) s$ to s: for slow modes the
small number $e^z - 1$ is known well, where $e^z$ itself would be rounded to a wrong time scale;
and after each `BLOCK` steps it adds what the rounded pole lost on the state before them,
$(e^{64 z} - \hat a^{64}) s$, so that no error grows with the length.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit
from paragone.kernels.simd import WIDTH, fma, load, load_some, splat, store, store_some, total, zero

__all__ = ["BLOCK", "GROUP", "scan", "scan_backward", "vandermonde", "vandermonde_backward"]

_VECTORS = 32
BLOCK = 64
"""Steps after which what the rounding of poles has lost is added."""
GROUP = 8 * WIDTH
"""Modes of a unit of `scan`."""


@njit(nogil=True, error_model="numpy")
def _lane_powers(pole, scratch, at):
    """Puts pole^0 .. pole^(WIDTH-1) into scratch as two vectors; returns pole^WIDTH."""
    power = 1.0 + 0.0j
    for lane in range(WIDTH):
        scratch[at + lane], scratch[at + WIDTH + lane] = power.real, power.imag
        power *= pole
    return power


@njit(nogil=True, error_model="numpy")
def vandermonde(counter, units, rate, weight, out):
    """out[h, l] = Re sum_n weight e^(rate l); rate, weight (H, n4) complex128, out (H, L)."""
    modes, length = rate.shape[1], out.shape[1]
    scratch = np.empty(8 * WIDTH, np.float32)
    block = _VECTORS * WIDTH
    start, jump = np.empty(modes, np.complex128), np.empty(modes, np.complex128)
    step = np.empty(modes, np.complex128)
    lanes = np.empty(modes * 2 * WIDTH, np.float32)
    rows = np.empty(block, np.float32)
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        for n in range(modes):
            step[n] = _lane_powers(np.exp(rate[unit, n]), lanes, n * 2 * WIDTH)
            start[n], jump[n] = weight[unit, n], np.exp(rate[unit, n] * block)
        for first in range(0, length, block):
            count = min(length - first, block)
            rows[:] = 0.0
            vectors = (count + WIDTH - 1) // WIDTH
            for n in range(0, modes, 4):
                for j in range(4):
                    wr, wi = (
                        splat(np.float32(start[n + j].real)),
                        splat(np.float32(start[n + j].imag)),
                    )
                    at = (n + j) * 2 * WIDTH
                    pr, pi = load(lanes, at), load(lanes, at + WIDTH)
                    store(scratch, 2 * j * WIDTH, wr * pr - wi * pi)
                    store(scratch, (2 * j + 1) * WIDTH, wr * pi + wi * pr)
                    start[n + j] *= jump[n + j]
                r0, i0 = load(scratch, 0), load(scratch, WIDTH)
                r1, i1 = load(scratch, 2 * WIDTH), load(scratch, 3 * WIDTH)
                r2, i2 = load(scratch, 4 * WIDTH), load(scratch, 5 * WIDTH)
                r3, i3 = load(scratch, 6 * WIDTH), load(scratch, 7 * WIDTH)
                a0, b0 = splat(np.float32(step[n].real)), splat(np.float32(step[n].imag))
                a1, b1 = splat(np.float32(step[n + 1].real)), splat(np.float32(step[n + 1].imag))
                a2, b2 = splat(np.float32(step[n + 2].real)), splat(np.float32(step[n + 2].imag))
                a3, b3 = splat(np.float32(step[n + 3].real)), splat(np.float32(step[n + 3].imag))
                for v in range(vectors):
                    acc = load(rows, v * WIDTH) + ((r0 + r1) + (r2 + r3))
                    store(rows, v * WIDTH, acc)
                    r0, i0 = fma(a0, r0, -(b0 * i0)), fma(a0, i0, b0 * r0)
                    r1, i1 = fma(a1, r1, -(b1 * i1)), fma(a1, i1, b1 * r1)
                    r2, i2 = fma(a2, r2, -(b2 * i2)), fma(a2, i2, b2 * r2)
                    r3, i3 = fma(a3, r3, -(b3 * i3)), fma(a3, i3, b3 * r3)
            out[unit, first : first + count] = rows[:count]
        unit = fetch_add(counter, 0, 1)


@njit(nogil=True, error_model="numpy")
def vandermonde_backward(counter, units, rate, grad, sums, moments):
    """sums[h, n] = sum_l e^(rate l) grad_l and moments with l grad_l; (H, n2) complex128."""
    modes, length = rate.shape[1], grad.shape[1]
    block = _VECTORS * WIDTH
    lanes = np.empty(2 * WIDTH, np.float32)
    g, lg = np.zeros(block, np.float32), np.zeros(block, np.float32)
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        sums[unit], moments[unit] = 0.0, 0.0
        for first in range(0, length, block):
            count = min(length - first, block)
            for lag in range(count):
                g[lag] = grad[unit, first + lag]
                lg[lag] = g[lag] * np.float32(lag)
            g[count:], lg[count:] = 0.0, 0.0
            vectors = (count + WIDTH - 1) // WIDTH
            for n in range(0, modes, 2):
                step = _lane_powers(np.exp(rate[unit, n]), lanes, 0)
                r0, i0 = load(lanes, 0), load(lanes, WIDTH)
                a0, b0 = splat(np.float32(step.real)), splat(np.float32(step.imag))
                step = _lane_powers(np.exp(rate[unit, n + 1]), lanes, 0)
                r1, i1 = load(lanes, 0), load(lanes, WIDTH)
                a1, b1 = splat(np.float32(step.real)), splat(np.float32(step.imag))
                u0, v0, u1, v1 = zero(), zero(), zero(), zero()
                x0, y0, x1, y1 = zero(), zero(), zero(), zero()
                for v in range(vectors):
                    gv, lv = load(g, v * WIDTH), load(lg, v * WIDTH)
                    u0, v0 = fma(r0, gv, u0), fma(i0, gv, v0)
                    x0, y0 = fma(r0, lv, x0), fma(i0, lv, y0)
                    u1, v1 = fma(r1, gv, u1), fma(i1, gv, v1)
                    x1, y1 = fma(r1, lv, x1), fma(i1, lv, y1)
                    r0, i0 = fma(a0, r0, -(b0 * i0)), fma(a0, i0, b0 * r0)
                    r1, i1 = fma(a1, r1, -(b1 * i1)), fma(a1, i1, b1 * r1)
                for j in range(2):
                    s = complex(total(u0), total(v0)) if j == 0 else complex(total(u1), total(v1))
                    m = complex(total(x0), total(y0)) if j == 0 else complex(total(x1), total(y1))
                    back = np.exp(rate[unit, n + j] * first)
                    sums[unit, n + j] += back * s
                    moments[unit, n + j] += back * (m + first * s)
        unit = fetch_add(counter, 0, 1)


@njit(nogil=True, error_model="numpy")
def scan(counter, units, time, modes, x, gain, drift, state, out):
    """All states of s_t = s + gain s + x_t; x, out (B, T, 2, n), gain (2, n), state (B, 2, n).

    All arrays are flat. `drift` is what BLOCK steps with the rounded gain lack.
    """
    wide = GROUP
    groups = (modes + wide - 1) // wide
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        row, low = unit // groups, unit % groups * wide
        high = min(low + wide, modes)
        before = row * 2 * modes
        for t in range(time):
            here = (row * time + t) * 2 * modes
            source = state if t == 0 else out
            for n in range(low, high, WIDTH):
                left = high - n
                sr, si = (
                    load_some(source, before + n, left),
                    load_some(source, before + modes + n, left),
                )
                gr, gi = load_some(gain, n, left), load_some(gain, modes + n, left)
                xr, xi = load_some(x, here + n, left), load_some(x, here + modes + n, left)
                store_some(out, here + n, fma(gr, sr, fma(-gi, si, sr + xr)), left)
                store_some(out, here + modes + n, fma(gr, si, fma(gi, sr, si + xi)), left)
            if t % BLOCK == BLOCK - 1:
                back = here - BLOCK * 2 * modes if t >= BLOCK else row * 2 * modes
                source = state if t < BLOCK else out
                for n in range(low, high, WIDTH):
                    left = high - n
                    sr, si = (
                        load_some(source, back + n, left),
                        load_some(source, back + modes + n, left),
                    )
                    gr, gi = load_some(drift, n, left), load_some(drift, modes + n, left)
                    r, i = load_some(out, here + n, left), load_some(out, here + modes + n, left)
                    store_some(out, here + n, fma(gr, sr, fma(-gi, si, r)), left)
                    store_some(out, here + modes + n, fma(gr, si, fma(gi, sr, i)), left)
            before = here
        unit = fetch_add(counter, 0, 1)


@njit(nogil=True, error_model="numpy")
def scan_backward(
    counter, units, time, modes, gain, drift, state, states, grad, dx, dgain, dstate
):  # fmt: skip
    """Gradients in flat arrays; dgain (B, 2, n) is that of the pole; it and dstate start as 0."""
    old = np.zeros(2 * GROUP, np.float32)
    wide = GROUP
    groups = (modes + wide - 1) // wide
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        row, low = unit // groups, unit % groups * wide
        high = min(low + wide, modes)
        first = row * 2 * modes
        old[:] = 0.0
        for t in range(time - 1, -1, -1):
            here = (row * time + t) * 2 * modes
            earlier = first if t == 0 else here - 2 * modes
            source = state if t == 0 else states
            for n in range(low, high, WIDTH):
                left = high - n
                gr, gi = load_some(gain, n, left), load_some(gain, modes + n, left)
                lr, li = (
                    load_some(dstate, first + n, left),
                    load_some(dstate, first + modes + n, left),
                )
                lr = lr + load_some(grad, here + n, left)
                li = li + load_some(grad, here + modes + n, left)
                store_some(dx, here + n, lr, left)
                store_some(dx, here + modes + n, li, left)
                sr, si = (
                    load_some(source, earlier + n, left),
                    load_some(source, earlier + modes + n, left),
                )
                ar = load_some(dgain, first + n, left)
                ai = load_some(dgain, first + modes + n, left)
                store_some(dgain, first + n, fma(sr, lr, fma(si, li, ar)), left)
                store_some(dgain, first + modes + n, fma(sr, li, fma(-si, lr, ai)), left)
                lr, li = fma(gr, lr, fma(gi, li, lr)), fma(gr, li, fma(-gi, lr, li))
                if (time - t) % BLOCK == 0:
                    at = 2 * (n - low)
                    gr, gi = load_some(drift, n, left), load_some(drift, modes + n, left)
                    sr, si = load(old, at), load(old, at + WIDTH)
                    lr, li = fma(gr, sr, fma(gi, si, lr)), fma(gr, si, fma(-gi, sr, li))
                    store(old, at, lr)
                    store(old, at + WIDTH, li)
                store_some(dstate, first + n, lr, left)
                store_some(dstate, first + modes + n, li, left)
        unit = fetch_add(counter, 0, 1)
