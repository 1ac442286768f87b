"""Kernels of position-sensitive RoI align on the CPU: bins share their weights, maps keep still.

The mean of a bin's samples is a product of two short rows of weights with the map, made once for
all channels. The way back shares work by image and row of bins, whose maps nobody else writes to:
no atomics, the same sums in the same order whatever the threads.

References:
    He et al. (2017), "Mask R-CNN", arXiv:1703.06870, section 3.

Shapes: N regions, C channels put out, P x Q bins, H x W the map.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit

__all__ = ["max_backward", "max_forward", "mean_backward", "mean_forward", "weigh"]

_F = np.float32
_HALF, _ZERO, _ONE = np.float32(0.5), np.float32(0), np.float32(1)


@njit(nogil=True, error_model="numpy", inline="always")
def _bin(low, high, bins, ratio):
    """Width of a bin and samples in it, in the map's own precision."""
    width = (high - low) / _F(bins)
    return width, ratio if ratio > 0 else max(np.int64(np.ceil(width)), 0)


@njit(nogil=True, error_model="numpy", inline="always")
def _sample(low, width, i, s, count, size):
    """The two cells of a sample and the weight of each."""
    at = low + _F(i) * width + (_F(s) + _HALF) * width / _F(count)
    if not (at >= _F(-1) and at <= _F(size)):
        return 0, 0, _ZERO, _ZERO
    at = max(at, _ZERO)
    first = np.int64(at)
    if first >= size - 1:
        return size - 1, size - 1, _ONE, _ZERO
    part = at - _F(first)
    return first, first + 1, _ONE - part, part


@njit(nogil=True, error_model="numpy")
def weigh(edges, bins, ratio, size, first, last, weights):
    """Cells [first, last) of each bin (N, bins) and their weights (N, bins, size), zero before."""
    for n in range(edges.shape[0]):
        width, count = _bin(edges[n, 0], edges[n, 1], bins, ratio)
        for i in range(bins):
            lowest, highest = size, 0
            for s in range(count):
                a, b, u, v = _sample(edges[n, 0], width, i, s, count, size)
                if u > _ZERO or v > _ZERO:
                    weights[n, i, a] += u / _F(count)
                    weights[n, i, b] += v / _F(count)
                    lowest, highest = min(lowest, a), max(highest, b + 1)
            first[n, i], last[n, i] = lowest, highest


@njit(nogil=True, error_model="numpy", fastmath={"contract"})
def mean_forward(counter, units, x, strides, images, ys, xs, y_ends, x_ends, down, across, out):
    """One region a unit: `out` (N, C, P, Q) from the flat map and its strides."""
    channels, rows, columns = out.shape[1:]
    step = strides[3]
    n = fetch_add(counter, 0, 1)
    while n < units:
        for i in range(rows):
            for j in range(columns):
                x0, x1 = xs[n, j], x_ends[n, j]
                first = images[n] * strides[0] + (i * columns + j) * strides[1] + x0 * step
                a, b, d = _ZERO, _ZERO, _ZERO
                if 1 < x1 - x0 < 4:
                    a, b, d = across[n, j, x0], across[n, j, x0 + 1], across[n, j, x1 - 1]
                for c in range(channels):
                    place, total = first + c * rows * columns * strides[1], _ZERO
                    for y in range(ys[n, i], y_ends[n, i]):
                        line, part = place + y * strides[2], _ZERO
                        # Most bins are two or three cells wide; a loop would cost more than they.
                        if x1 - x0 == 2:
                            part = a * x[line] + b * x[line + step]
                        elif x1 - x0 == 3:
                            part = a * x[line] + b * x[line + step] + d * x[line + 2 * step]
                        else:
                            for w in range(x1 - x0):
                                part += across[n, j, x0 + w] * x[line + w * step]
                        total += down[n, i, y] * part
                    out[n, c, i, j] = total
        n = fetch_add(counter, 0, 1)


@njit(nogil=True, error_model="numpy", fastmath={"contract"})
def mean_backward(
    counter, units, grad, order, starts, ys, xs, y_ends, x_ends, down, across, strides, back
):  # fmt: skip
    """One image and row of bins a unit; `back` is the flat gradient of the map, zero before."""
    channels, rows, columns = grad.shape[1:]
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        image, i = unit // rows, unit % rows
        for at in range(starts[image], starts[image + 1]):
            n = order[at]
            for c in range(channels):
                for j in range(columns):
                    k = (c * rows + i) * columns + j
                    place = image * strides[0] + k * strides[1]
                    x0, x1 = xs[n, j], x_ends[n, j]
                    for y in range(ys[n, i], y_ends[n, i]):
                        line, part = place + y * strides[2], grad[n, c, i, j] * down[n, i, y]
                        for w in range(x0, x1):
                            back[line + w * strides[3]] += part * across[n, j, w]
        unit = fetch_add(counter, 0, 1)


@njit(nogil=True, error_model="numpy")
def max_forward(counter, units, x, strides, images, edges, ratio, height, width, out, best):
    """One region a unit; `best` (N, C, P, Q) says which sample won, -1 where there is none."""
    channels, rows, columns = out.shape[1:]
    n = fetch_add(counter, 0, 1)
    while n < units:
        high, many_y = _bin(edges[n, 1], edges[n, 3], rows, ratio)
        wide, many_x = _bin(edges[n, 0], edges[n, 2], columns, ratio)
        for i in range(rows):
            for j in range(columns):
                for c in range(channels):
                    out[n, c, i, j], best[n, c, i, j] = _ZERO, -1
                for s in range(many_y * many_x):
                    a, b, u, v = _sample(edges[n, 1], high, i, s // many_x, many_y, height)
                    e, f, g, h = _sample(edges[n, 0], wide, j, s % many_x, many_x, width)
                    for c in range(channels):
                        k = (c * rows + i) * columns + j
                        place = images[n] * strides[0] + k * strides[1]
                        up, low = place + a * strides[2], place + b * strides[2]
                        value = u * (g * x[up + e * strides[3]] + h * x[up + f * strides[3]])
                        value += v * (g * x[low + e * strides[3]] + h * x[low + f * strides[3]])
                        if best[n, c, i, j] < 0 or value > out[n, c, i, j]:
                            out[n, c, i, j], best[n, c, i, j] = value, s
        n = fetch_add(counter, 0, 1)


@njit(nogil=True, error_model="numpy")
def max_backward(
    counter, units, grad, best, order, starts, edges, ratio, height, width, strides, back
):  # fmt: skip
    """One image and row of bins a unit: the gradient goes to the cells of the sample that won."""
    channels, rows, columns = grad.shape[1:]
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        image, i = unit // rows, unit % rows
        for at in range(starts[image], starts[image + 1]):
            n = order[at]
            high, many_y = _bin(edges[n, 1], edges[n, 3], rows, ratio)
            wide, many_x = _bin(edges[n, 0], edges[n, 2], columns, ratio)
            for c in range(channels):
                for j in range(columns):
                    s, slope = best[n, c, i, j], grad[n, c, i, j]
                    if s < 0:
                        continue
                    a, b, u, v = _sample(edges[n, 1], high, i, s // many_x, many_y, height)
                    e, f, g, h = _sample(edges[n, 0], wide, j, s % many_x, many_x, width)
                    k = (c * rows + i) * columns + j
                    place = image * strides[0] + k * strides[1]
                    up, low = place + a * strides[2], place + b * strides[2]
                    back[up + e * strides[3]] += slope * u * g
                    back[up + f * strides[3]] += slope * u * h
                    back[low + e * strides[3]] += slope * v * g
                    back[low + f * strides[3]] += slope * v * h
        unit = fetch_add(counter, 0, 1)
