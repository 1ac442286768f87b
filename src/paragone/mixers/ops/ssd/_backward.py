r"""SSD backward on the CPU: one head of one row after the other, chunks from the last to the first.

With $W_{ij} = G_{ij} e^{c_i - c_j} \Delta_j$ the masked attention of a chunk, S the state before
it, $e_i = e^{c_i}$, $w_j = e^{c_Q - c_j} \Delta_j$ and $S'$ the state after it,

$$ dX = W^\top dY + w B\, dS', \quad dW = dY X^\top, \quad dC = e\, dY S^\top, \quad
   dB = w\, X\, dS'^\top, \quad dS = e_Q\, dS' + (e\, C)^\top dY , $$

and c collects what every exponential it stands in passes back, to be summed from the end.

References:
    Dao and Gu (2024), arXiv:2405.21060, section 6 (the blocks whose products are derived here).

Shapes: as in `reference`; Q tokens of a chunk.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit
from paragone.kernels.simd import (
    WIDTH,
    below,
    flush_denormals,
    fma,
    lanes,
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
from paragone.mixers.ops.ssd._chunk import (
    copied,
    decays_of,
    multiply,
    padded,
    scaled,
    turned,
    weights_of,
    written,
)

__all__ = ["ssd_backward"]


@njit(nogil=True, error_model="numpy", no_cpython_wrapper=True)
def _through_weights(scores, at, row, size, steps, sums, dW, dscores, place, dsteps, dsums):
    """From dW to the gradients of scores, steps and sums of decays."""
    width = padded(row)
    for i in range(size):
        here, edge, across = spread(sums, i), splat(np.float32(i + 1)), zero()
        for j in range(0, row, WIDTH):
            found = zero()
            if j <= i:
                step = load(steps, j)
                grad = load(dW, i * width + j) * decay(here - load(sums, j))
                grad = below(splat(np.float32(j)) + lanes(), edge, grad, zero())
                found = grad * step
                grad = grad * load_some(scores, at + i * row + j, row - j)
                store(dsteps, j, load(dsteps, j) + grad)
                grad = grad * step
                across = across + grad
                store(dsums, j, load(dsums, j) - grad)
            store_some(dscores, place + i * row + j, found, row - j)
        dsums[i] += total(across)


@njit(nogil=True, error_model="numpy", no_cpython_wrapper=True)
def _through_rows(source, at, row, grads, width, size, count, factors, target, place, line, dots):
    """Gradient rows times factors into `target`, and each row's product with its source."""
    for i in range(size):
        factor, dot = splat(factors[i]), zero()
        for n in range(0, count, WIDTH):
            some = count - n
            grad = load(grads, i * width + n)
            dot = fma(grad, load_some(source, at + i * row + n, some), dot)
            store_some(target, place + i * line + n, factor * grad, some)
        dots[i] = total(dot)


@njit(nogil=True, error_model="numpy", no_cpython_wrapper=True)
def _through_decays(q, rate, steps, dsteps, dsums, ddt, place, stride):
    """Sums the gradients of sums of decays from the end; returns the rate's."""
    since, found = np.float32(0), np.float32(0)
    for i in range(q - 1, -1, -1):
        since += dsums[i]
        found += since * steps[i]
        ddt[place + i * stride] = dsteps[i] + rate * since
    return found


@njit(nogil=True, error_model="numpy")
def ssd_backward(
    counter, units, at, x, dt, A, scores, B, C, kept, dy, dstate, dx, ddt, dA, dscores, dB, dC
):  # fmt: skip
    """`dstate` is replaced by the first state's; dA, dscores, dB, dC are those of one head."""
    time, heads, size, groups, count, chunk = at[0], at[1], at[2], at[3], at[4], at[5]
    chunks, wide, pad, deep = (
        (time + chunk - 1) // chunk,
        padded(size),
        padded(chunk),
        padded(count),
    )
    dS, S = np.empty((2, count * wide), np.float32)
    v, g, out = np.empty((3, chunk * wide), np.float32)
    weights, dW = np.empty((2, chunk * pad), np.float32)
    rows, found = np.empty(chunk * count, np.float32), np.empty(chunk * deep, np.float32)
    v_turned, S_turned = np.empty(size * pad, np.float32), np.empty(size * deep, np.float32)
    steps, sums, since, until, dsteps, dsums, dots = np.empty((7, pad), np.float32)
    old = flush_denormals()
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        row, head = unit // heads, unit % heads
        group = head // (heads // groups)
        copied(dstate, unit * count * size, size, count, size, dS)
        for index in range(chunks - 1, -1, -1):
            start = index * chunk
            q, line = min(chunk, time - start), heads * count
            place_x = row * at[6] + start * at[7] + head * at[8]
            place_b = row * at[11] + start * at[12] + group * at[13]
            place_c = row * at[14] + start * at[15] + group * at[16]
            place_g = row * at[17] + start * at[18] + head * at[19]
            place_s = ((row * chunks + index) * groups + group) * chunk * chunk
            place_k = ((row * chunks + index) * heads + head) * count * size
            place_n = ((row * time + start) * heads + head) * count
            faded = decays_of(dt, row * at[9] + start * at[10] + head, at[10], A[head], q, steps,
                              sums, since, until)  # fmt: skip
            dsteps[:] = 0
            dsums[:] = 0
            weights_of(scores, place_s, chunk, q, steps, sums, weights)
            copied(x, place_x, at[7], q, size, v)
            copied(dy, place_g, at[18], q, size, g)
            copied(kept, place_k, size, count, size, S)
            turned(v, 0, wide, q, size, v_turned)
            multiply(g, 0, wide, 1, v_turned, padded(q), dW, pad, q, padded(q), size, 0, False,
                     False)  # fmt: skip
            place = ((row * chunks + index) * heads + head) * chunk * chunk
            _through_weights(scores, place_s, chunk, q, steps, sums, dW, dscores, place, dsteps,
                             dsums)  # fmt: skip
            turned(S, 0, wide, count, size, S_turned)
            multiply(g, 0, wide, 1, S_turned, deep, found, deep, q, deep, size, 0, False, False)
            _through_rows(C, place_c, at[15], found, deep, q, count, since, dC, place_n, line, dots)
            for i in range(q):
                dsums[i] += since[i] * dots[i]
            turned(dS, 0, wide, count, size, S_turned)
            multiply(v, 0, wide, 1, S_turned, deep, found, deep, q, deep, size, 0, False, False)
            for i in range(q):
                since[i], until[i] = until[i], until[i] * steps[i]
            _through_rows(B, place_b, at[12], found, deep, q, count, until, dB, place_n, line, dots)
            for i in range(q):
                dsteps[i] += since[i] * dots[i]
                dsums[i] -= until[i] * dots[i]
                dsums[q - 1] += until[i] * dots[i]
            multiply(weights, 0, 1, pad, g, wide, out, wide, q, wide, q, 0, False, True)
            scaled(B, place_b, at[12], q, count, until, rows)
            multiply(rows, 0, count, 1, dS, wide, out, wide, q, wide, count, 1, False, False)
            place = ((row * time + start) * heads + head) * size
            written(out, q, size, dx, place, heads * size)
            dot = zero()
            for i in range(0, count * wide, WIDTH):
                grad = load(dS, i)
                dot = fma(grad, load(S, i), dot)
                store(dS, i, grad * splat(faded))
            dsums[q - 1] += faded * total(dot)
            for i in range(0, q, WIDTH):
                store(since, i, decay(load(sums, i)))
            scaled(C, place_c, at[15], q, count, since, rows)
            multiply(rows, 0, 1, count, g, wide, dS, wide, count, wide, q, 1, False, False)
            place = (row * time + start) * heads + head
            dA[unit] += _through_decays(q, A[head], steps, dsteps, dsums, ddt, place, heads)
        written(dS, count, size, dstate, unit * count * size, size)
        unit = fetch_add(counter, 0, 1)
    restore_floats(old)
