r"""Batch norm with its activation over maps in channels-last order: a matrix of places x channels.

Forward reads the map once for $\mu$ and $\sigma^2$, and once more to write y. Backward keeps
nothing but x: it computes $\hat x = (x - \mu)/\sigma$, $z = \gamma \hat x + \beta$ and
$\delta = \phi'(z) \, \partial y$ twice, once for the sums and once for

$$ \partial\beta = \sum_i \delta_i, \quad \partial\gamma = \sum_i \delta_i \hat x_i, \quad
   \partial x_i = \frac{\gamma}{\sigma} \Big( \delta_i - \frac{\partial\beta}{n}
                  - \hat x_i \frac{\partial\gamma}{n} \Big) . $$

Sums are taken in float32 over a block of places and in float64 over the blocks; deviations of a
block are from its own first place, so a large common offset costs no digit. Blocks depend on the
shape alone, hence results do not depend on the number of threads.

A call's kernels share one array of addresses, for arrays would take longer to unpack than a small
map takes to compute: x, y, statistics (3, C), weight, bias, parts, running mean and variance; in
the backward pass x, dy, statistics, weight, bias, parts, gradients of weight and bias, dx.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray  # pyright: ignore[reportPrivateImportUsage]

from paragone.kernels.atomics import fetch_add, pointer
from paragone.kernels.jit import njit
from paragone.kernels.lean import sigmoid
from paragone.kernels.simd import (
    WIDTH,
    below,
    fma,
    load_some,
    maximum,
    minimum,
    splat,
    store_some,
    zero,
)

__all__ = ["activated", "differentiate", "gradient_sums", "moments", "normalise", "settle_moments",
           "settle_sums"]  # fmt: skip

_options: Any = {"nogil": True, "error_model": "numpy"}
_inner: Any = {**_options, "no_cpython_wrapper": True, "forceinline": True}
_MANY, _FEW = 8, 2


@njit(**_inner)
def _floats(address):
    return carray(pointer(address), (1 << 40,), np.float32)


@njit(**_inner)
def activated(z, family, times, low, high):
    """phi(z): a clamp (0), a hard sigmoid (1) or a sigmoid (2), `times` z if it is 1."""
    if family == 0:
        return minimum(splat(high), maximum(splat(low), z))
    if family == 1:
        gate = fma(z, splat(np.float32(1 / 6)), splat(np.float32(0.5)))
        gate = minimum(splat(np.float32(1.0)), maximum(zero(), gate))
    else:
        gate = sigmoid(z)
    return gate * z if times else gate


@njit(**_inner)
def _slope(z, family, times, low, high):
    """phi'(z)."""
    one = splat(np.float32(1.0))
    if family == 0:
        return below(splat(low), z, below(z, splat(high), one, zero()), zero())
    if family == 1:
        three, sixth = splat(np.float32(3.0)), splat(np.float32(1 / 6))
        inside = fma(z, splat(np.float32(1 / 3)), splat(np.float32(0.5))) if times else sixth
        above = one if times else zero()
        return below(-three, z, below(z, three, inside, above), zero())
    gate = sigmoid(z)
    rest = one - gate
    return gate * fma(z, rest, one) if times else gate * rest


@njit(**_inner)
def _moments_of(x, at, rows, size, shift, sums, squares, c, n):
    s, total, square = load_some(shift, c, n), load_some(sums, c, n), load_some(squares, c, n)
    for k in range(rows):
        d = load_some(x, at + k * size + c, n) - s
        total = total + d
        square = fma(d, d, square)
    store_some(sums, c, total, n)
    store_some(squares, c, square, n)


@njit(**_options)
def moments(counter, units, words, rows, size, block):
    """Mean and sum of squared deviations of each block and channel."""
    x, parts = _floats(words[0]), _floats(words[5])
    sums, squares = np.empty(size, np.float32), np.empty(size, np.float32)
    shift, whole = np.empty(size, np.float32), size - size % WIDTH
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        first, last = unit * block, min((unit + 1) * block, rows)
        for c in range(size):
            sums[c], squares[c], shift[c] = 0.0, 0.0, x[first * size + c]
        for row in range(first, last, _MANY):
            many = min(_MANY, last - row)
            for c in range(0, whole, WIDTH):
                _moments_of(x, row * size, many, size, shift, sums, squares, c, WIDTH)
            if whole < size:
                _moments_of(x, row * size, many, size, shift, sums, squares, whole, size - whole)
        share = np.float32(1.0) / np.float32(last - first)
        for c in range(size):
            mean = sums[c] * share
            parts[2 * unit * size + c] = shift[c] + mean
            parts[(2 * unit + 1) * size + c] = max(squares[c] - sums[c] * mean, np.float32(0.0))
        unit = fetch_add(counter, 0, 1)


@njit(**_options)
def settle_moments(words, rows, size, block, eps, momentum):
    """Joins the blocks into mean, variance and 1 / deviation, and moves the running statistics.

    Without parts (address 0) the running statistics are taken as they are.
    """
    stats, parts = _floats(words[2]), _floats(words[5])
    running_mean, running_var = _floats(words[6]), _floats(words[7])
    units = (rows + block - 1) // block
    sums, squares = np.zeros(size), np.zeros(size)
    if words[5] == 0:
        for c in range(size):
            sums[c], squares[c] = running_mean[c], running_var[c]
    else:
        for unit in range(units):
            many = min(block, rows - unit * block)
            for c in range(size):
                sums[c] += many * np.float64(parts[2 * unit * size + c])
        for c in range(size):
            sums[c] /= rows
        for unit in range(units):
            many = min(block, rows - unit * block)
            for c in range(size):
                off = np.float64(parts[2 * unit * size + c]) - sums[c]
                squares[c] += np.float64(parts[(2 * unit + 1) * size + c]) + many * off * off
        for c in range(size):
            squares[c] /= rows
            if words[6] != 0:
                unbiased = squares[c] * (rows / (rows - 1))
                running_mean[c] += momentum * (sums[c] - running_mean[c])
                running_var[c] += momentum * (unbiased - running_var[c])
    for c in range(size):
        stats[c], stats[size + c] = sums[c], squares[c]
        stats[2 * size + c] = 1.0 / np.sqrt(squares[c] + eps)


@njit(**_inner)
def _normalise_of(x, y, at, rows, size, stats, scale, bias, c, n, family, times, low, high):
    m, a, b = load_some(stats, c, n), load_some(scale, c, n), load_some(bias, c, n)
    for k in range(rows):
        place = at + k * size + c
        z = fma(load_some(x, place, n) - m, a, b)
        store_some(y, place, activated(z, family, times, low, high), n)


@njit(**_options)
def normalise(counter, units, words, rows, size, block, family, times, low, high):
    """Writes y."""
    x, y, stats = _floats(words[0]), _floats(words[1]), _floats(words[2])
    weight, bias = _floats(words[3]), _floats(words[4])
    scale, whole = np.empty(size, np.float32), size - size % WIDTH
    for c in range(size):
        scale[c] = stats[2 * size + c] * weight[c]
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        # From the last block to the first: what the pass before has read last is still near.
        first = (units - 1 - unit) * block
        last = min(first + block, rows)
        for row in range(first, last, _FEW):
            many, at = min(_FEW, last - row), row * size
            for c in range(0, whole, WIDTH):
                _normalise_of(x, y, at, many, size, stats, scale, bias, c, WIDTH,
                              family, times, low, high)  # fmt: skip
            if whole < size:
                _normalise_of(x, y, at, many, size, stats, scale, bias, whole, size - whole,
                              family, times, low, high)  # fmt: skip
        unit = fetch_add(counter, 0, 1)


@njit(**_inner)
def _sums_of(x, dy, at, rows, size, stats, weight, bias, dbias, dweight, c, n,
             family, times, low, high):  # fmt: skip
    m, r = load_some(stats, c, n), load_some(stats, 2 * size + c, n)
    w, b = load_some(weight, c, n), load_some(bias, c, n)
    total, along = load_some(dbias, c, n), load_some(dweight, c, n)
    for k in range(rows):
        place = at + k * size + c
        h = (load_some(x, place, n) - m) * r
        d = load_some(dy, place, n) * _slope(fma(h, w, b), family, times, low, high)
        total = total + d
        along = fma(d, h, along)
    store_some(dbias, c, total, n)
    store_some(dweight, c, along, n)


@njit(**_options)
def gradient_sums(counter, units, words, rows, size, block, family, times, low, high):
    """Gradients of bias and weight by blocks."""
    x, dy, stats = _floats(words[0]), _floats(words[1]), _floats(words[2])
    weight, bias, parts = _floats(words[3]), _floats(words[4]), _floats(words[5])
    dbias, dweight = np.empty(size, np.float32), np.empty(size, np.float32)
    whole = size - size % WIDTH
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        first, last = unit * block, min((unit + 1) * block, rows)
        dbias[:] = 0.0
        dweight[:] = 0.0
        for row in range(first, last, _FEW):
            many, at = min(_FEW, last - row), row * size
            for c in range(0, whole, WIDTH):
                _sums_of(x, dy, at, many, size, stats, weight, bias, dbias, dweight, c, WIDTH,
                         family, times, low, high)  # fmt: skip
            if whole < size:
                _sums_of(x, dy, at, many, size, stats, weight, bias, dbias, dweight, whole,
                         size - whole, family, times, low, high)  # fmt: skip
        for c in range(size):
            parts[2 * unit * size + c] = dbias[c]
            parts[(2 * unit + 1) * size + c] = dweight[c]
        unit = fetch_add(counter, 0, 1)


@njit(**_options)
def settle_sums(words, units, size):
    """Joins the blocks."""
    parts, dweight, dbias = _floats(words[5]), _floats(words[6]), _floats(words[7])
    sums, along = np.zeros(size), np.zeros(size)
    for unit in range(units):
        for c in range(size):
            sums[c] += parts[2 * unit * size + c]
            along[c] += parts[(2 * unit + 1) * size + c]
    for c in range(size):
        dbias[c], dweight[c] = sums[c], along[c]


@njit(**_inner)
def _differentiate_of(x, dy, dx, at, rows, size, stats, weight, bias, level, tilt, c, n,
                      family, times, low, high):  # fmt: skip
    m, r = load_some(stats, c, n), load_some(stats, 2 * size + c, n)
    w, b = load_some(weight, c, n), load_some(bias, c, n)
    flat, slant = load_some(level, c, n), load_some(tilt, c, n)
    scale = r * w
    for k in range(rows):
        place = at + k * size + c
        h = (load_some(x, place, n) - m) * r
        d = load_some(dy, place, n) * _slope(fma(h, w, b), family, times, low, high)
        store_some(dx, place, scale * (d - flat - h * slant), n)


@njit(**_options)
def differentiate(counter, units, words, rows, size, block, family, times, low, high, batch):
    """Writes dx.

    `batch` is 1 if the statistics were those of the batch, 0 if they were constants.
    """
    x, dy, stats = _floats(words[0]), _floats(words[1]), _floats(words[2])
    weight, bias = _floats(words[3]), _floats(words[4])
    dweight, dbias, dx = _floats(words[6]), _floats(words[7]), _floats(words[8])
    level, tilt = np.empty(size, np.float32), np.empty(size, np.float32)
    whole = size - size % WIDTH
    for c in range(size):
        level[c], tilt[c] = batch * dbias[c] / rows, batch * dweight[c] / rows
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        first = (units - 1 - unit) * block
        last = min(first + block, rows)
        for row in range(first, last, _FEW):
            many, at = min(_FEW, last - row), row * size
            for c in range(0, whole, WIDTH):
                _differentiate_of(x, dy, dx, at, many, size, stats, weight, bias, level, tilt,
                                  c, WIDTH, family, times, low, high)  # fmt: skip
            if whole < size:
                _differentiate_of(x, dy, dx, at, many, size, stats, weight, bias, level, tilt,
                                  whole, size - whole, family, times, low, high)  # fmt: skip
        unit = fetch_add(counter, 0, 1)
