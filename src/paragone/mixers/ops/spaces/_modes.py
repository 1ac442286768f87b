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
def _get(array, at, left):
    return load(array, at) if left >= WIDTH else load_some(array, at, left)


@njit(nogil=True, error_model="numpy")
def _put(array, at, value, left):
    if left >= WIDTH:
        store(array, at, value)
    else:
        store_some(array, at, value, left)


@njit(nogil=True, error_model="numpy")
def _collect(array, first, modes, low, high, out):
    """The modes low to high of planes that start at `first`, as vectors of both planes in turn."""
    for n in range(low, high, WIDTH):
        store(out, 2 * (n - low), load_some(array, first + n, high - n))
        store(out, 2 * (n - low) + WIDTH, load_some(array, first + modes + n, high - n))


@njit(nogil=True, error_model="numpy")
def scan(counter, units, time, modes, x, gain, drift, state, out):
    """All states of s_t = s + gain s + x_t; x, out (B, T, 2, n), gain (2, n), state (B, 2, n).

    All arrays are flat. `drift` is what BLOCK steps with the rounded gain lack.
    """
    groups = (modes + GROUP - 1) // GROUP
    now, old = np.empty(2 * GROUP, np.float32), np.empty(2 * GROUP, np.float32)
    near, lost = np.empty(2 * GROUP, np.float32), np.empty(2 * GROUP, np.float32)
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        row, low = unit // groups, unit % groups * GROUP
        high = min(low + GROUP, modes)
        _collect(state, row * 2 * modes, modes, low, high, now)
        _collect(gain, 0, modes, low, high, near)
        _collect(drift, 0, modes, low, high, lost)
        old[:] = now
        for t in range(time):
            here = (row * time + t) * 2 * modes
            renew = t % BLOCK == BLOCK - 1
            for n in range(low, high, WIDTH):
                at, left = 2 * (n - low), high - n
                sr, si = load(now, at), load(now, at + WIDTH)
                gr, gi = load(near, at), load(near, at + WIDTH)
                r = fma(gr, sr, fma(-gi, si, sr + _get(x, here + n, left)))
                i = fma(gr, si, fma(gi, sr, si + _get(x, here + modes + n, left)))
                if renew:
                    sr, si = load(old, at), load(old, at + WIDTH)
                    gr, gi = load(lost, at), load(lost, at + WIDTH)
                    r, i = fma(gr, sr, fma(-gi, si, r)), fma(gr, si, fma(gi, sr, i))
                    store(old, at, r)
                    store(old, at + WIDTH, i)
                store(now, at, r)
                store(now, at + WIDTH, i)
                _put(out, here + n, r, left)
                _put(out, here + modes + n, i, left)
        unit = fetch_add(counter, 0, 1)


@njit(nogil=True, error_model="numpy")
def scan_backward(
    counter, units, time, modes, gain, drift, state, states, grad, dx, dgain, dstate
):  # fmt: skip
    """Gradients in flat arrays; dgain (B, 2, n) is that of the pole."""
    groups = (modes + GROUP - 1) // GROUP
    now, old = np.empty(2 * GROUP, np.float32), np.empty(2 * GROUP, np.float32)
    near, lost = np.empty(2 * GROUP, np.float32), np.empty(2 * GROUP, np.float32)
    sums = np.empty(2 * GROUP, np.float32)
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        row, low = unit // groups, unit % groups * GROUP
        high = min(low + GROUP, modes)
        first = row * 2 * modes
        _collect(gain, 0, modes, low, high, near)
        _collect(drift, 0, modes, low, high, lost)
        now[:], old[:], sums[:] = 0.0, 0.0, 0.0
        for t in range(time - 1, -1, -1):
            here = (row * time + t) * 2 * modes
            earlier = first if t == 0 else here - 2 * modes
            source = state if t == 0 else states
            renew = (time - t) % BLOCK == 0
            for n in range(low, high, WIDTH):
                at, left = 2 * (n - low), high - n
                lr = load(now, at) + _get(grad, here + n, left)
                li = load(now, at + WIDTH) + _get(grad, here + modes + n, left)
                _put(dx, here + n, lr, left)
                _put(dx, here + modes + n, li, left)
                sr, si = _get(source, earlier + n, left), _get(source, earlier + modes + n, left)
                gr, gi = load(near, at), load(near, at + WIDTH)
                store(sums, at, fma(sr, lr, fma(si, li, load(sums, at))))
                store(sums, at + WIDTH, fma(sr, li, fma(-si, lr, load(sums, at + WIDTH))))
                r, i = fma(gr, lr, fma(gi, li, lr)), fma(gr, li, fma(-gi, lr, li))
                if renew:
                    sr, si = load(old, at), load(old, at + WIDTH)
                    gr, gi = load(lost, at), load(lost, at + WIDTH)
                    r, i = fma(gr, sr, fma(gi, si, r)), fma(gr, si, fma(-gi, sr, i))
                    store(old, at, r)
                    store(old, at + WIDTH, i)
                store(now, at, r)
                store(now, at + WIDTH, i)
        for n in range(low, high, WIDTH):
            at, left = 2 * (n - low), high - n
            _put(dstate, first + n, load(now, at), left)
            _put(dstate, first + modes + n, load(now, at + WIDTH), left)
            _put(dgain, first + n, load(sums, at), left)
            _put(dgain, first + modes + n, load(sums, at + WIDTH), left)
        unit = fetch_add(counter, 0, 1)
