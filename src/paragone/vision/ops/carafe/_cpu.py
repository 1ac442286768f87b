"""Reassembly of CARAFE on the CPU: channels across the lanes, four output pixels at a time.

Maps are NHWC; the kernels of an input pixel stand together, (s * s, k * k). The s * s output
pixels of an input pixel see the same neighbourhood, so each vector that is loaded from it serves
four of them, and two vectors each make eight sums that stay in registers. Taps outside of the map
are passed over.

Forward and to the kernels a unit of work is a row of the map. To the maps it is a block of
channels: what an output pixel gives back goes to all of its neighbours, which no other unit
touches.

Layout `at`: B, H, W, C, G, s, k, then the steps of (image, row, column) of x, and of the
gradient of y.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit
from paragone.kernels.simd import WIDTH, fma, load_some, splat, store_some, total, zero

__all__ = ["PAIR", "forward", "to_kernels", "to_maps"]

PAIR = 2 * WIDTH
"""Channels of a block."""


@njit(nogil=True, error_model="numpy", forceinline=True, no_cpython_wrapper=True)
def _window(place, size, side):
    """First and last tap that lie inside of the map."""
    half = side // 2
    return max(0, half - place), min(side, size + half - place)


@njit(nogil=True, error_model="numpy", forceinline=True, no_cpython_wrapper=True)
def _four(first, block, taps):
    """Where the kernels of four pixels begin; beyond the last one it stands in."""
    last = block - 1
    return (first * taps, min(first + 1, last) * taps, min(first + 2, last) * taps,
            min(first + 3, last) * taps)  # fmt: skip


@njit(nogil=True, error_model="numpy", forceinline=True, no_cpython_wrapper=True)
def _place(at, steps, b, row, column, pixel):
    """Where an output pixel of the input pixel (row, column) begins."""
    scale = at[5]
    i, j = pixel // scale, pixel % scale
    return b * steps[0] + (row * scale + i) * steps[1] + (column * scale + j) * steps[2]


@njit(nogil=True, error_model="numpy", forceinline=True, no_cpython_wrapper=True)
def _put(at, out, b, row, column, pixel, block, c, y, some, rest, left, right):
    if pixel < block:
        place = _place(at, out, b, row, column, pixel) + c
        store_some(y, place, left, some)
        store_some(y, place + WIDTH, right, rest)


@njit(nogil=True, error_model="numpy")
def forward(counter, units, at, x, kernels, y):
    """Computes y, NHWC without gaps."""
    height, width, channels, groups, scale, side = at[1], at[2], at[3], at[4], at[5], at[6]
    block, taps, wide = scale * scale, side * side, channels // groups
    out = np.array([height * width * block * channels, width * scale * channels, channels])
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        b, row = unit // height, unit % height
        top, bottom = _window(row, height, side)
        for column in range(width):
            start, stop = _window(column, width, side)
            corner = b * at[7] + (row - side // 2) * at[8] + (column - side // 2) * at[9]
            for g in range(groups):
                own = ((unit * width + column) * groups + g) * block * taps
                for pixel in range(0, block, 4):
                    p0, p1, p2, p3 = _four(pixel, block, taps)
                    for c in range(g * wide, (g + 1) * wide, PAIR):
                        some, rest = (g + 1) * wide - c, (g + 1) * wide - c - WIDTH
                        a0, a1, a2, a3 = zero(), zero(), zero(), zero()
                        b0, b1, b2, b3 = zero(), zero(), zero(), zero()
                        for u in range(top, bottom):
                            line, t = corner + u * at[8] + c, own + u * side
                            for v in range(start, stop):
                                left = load_some(x, line + v * at[9], some)
                                right = load_some(x, line + v * at[9] + WIDTH, rest)
                                w = splat(kernels[p0 + t + v])
                                a0, b0 = fma(w, left, a0), fma(w, right, b0)
                                w = splat(kernels[p1 + t + v])
                                a1, b1 = fma(w, left, a1), fma(w, right, b1)
                                w = splat(kernels[p2 + t + v])
                                a2, b2 = fma(w, left, a2), fma(w, right, b2)
                                w = splat(kernels[p3 + t + v])
                                a3, b3 = fma(w, left, a3), fma(w, right, b3)
                        _put(at, out, b, row, column, pixel, block, c, y, some, rest, a0, b0)
                        _put(at, out, b, row, column, pixel + 1, block, c, y, some, rest, a1, b1)
                        _put(at, out, b, row, column, pixel + 2, block, c, y, some, rest, a2, b2)
                        _put(at, out, b, row, column, pixel + 3, block, c, y, some, rest, a3, b3)
        unit = fetch_add(counter, 0, 1)


@njit(nogil=True, error_model="numpy", forceinline=True, no_cpython_wrapper=True)
def _given(at, dy, b, row, column, pixel, block, c, some):
    """A vector of the gradient of an output pixel; zeros beyond the last pixel."""
    if pixel >= block:
        return zero()
    return load_some(dy, _place(at, at[10:13], b, row, column, pixel) + c, some)


@njit(nogil=True, error_model="numpy")
def to_maps(counter, units, at, kernels, dy, dx):
    """Adds the gradient of x to dx, NHWC without gaps, zeros at the start."""
    height, width, channels, groups, scale, side = at[1], at[2], at[3], at[4], at[5], at[6]
    block, taps, wide = scale * scale, side * side, channels // groups
    blocks = (wide + PAIR - 1) // PAIR
    line = width * channels
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        b, g, c = unit // (groups * blocks), unit // blocks % groups, unit % blocks * PAIR
        some, rest = wide - c, wide - c - WIDTH
        c += g * wide
        for row in range(height):
            top, bottom = _window(row, height, side)
            for column in range(width):
                start, stop = _window(column, width, side)
                corner = (b * height + row - side // 2) * line + (column - side // 2) * channels + c
                own = (((b * height + row) * width + column) * groups + g) * block * taps
                for pixel in range(0, block, 4):
                    p0, p1, p2, p3 = _four(pixel, block, taps)
                    a0 = _given(at, dy, b, row, column, pixel, block, c, some)
                    a1 = _given(at, dy, b, row, column, pixel + 1, block, c, some)
                    a2 = _given(at, dy, b, row, column, pixel + 2, block, c, some)
                    a3 = _given(at, dy, b, row, column, pixel + 3, block, c, some)
                    c += WIDTH
                    b0 = _given(at, dy, b, row, column, pixel, block, c, rest)
                    b1 = _given(at, dy, b, row, column, pixel + 1, block, c, rest)
                    b2 = _given(at, dy, b, row, column, pixel + 2, block, c, rest)
                    b3 = _given(at, dy, b, row, column, pixel + 3, block, c, rest)
                    c -= WIDTH
                    for u in range(top, bottom):
                        place, t = corner + u * line, own + u * side
                        for v in range(start, stop):
                            to = place + v * channels
                            left, right = load_some(dx, to, some), load_some(dx, to + WIDTH, rest)
                            w0, w1 = splat(kernels[p0 + t + v]), splat(kernels[p1 + t + v])
                            w2, w3 = splat(kernels[p2 + t + v]), splat(kernels[p3 + t + v])
                            left = fma(w3, a3, fma(w2, a2, fma(w1, a1, fma(w0, a0, left))))
                            right = fma(w3, b3, fma(w2, b2, fma(w1, b1, fma(w0, b0, right))))
                            store_some(dx, to, left, some)
                            store_some(dx, to + WIDTH, right, rest)
        unit = fetch_add(counter, 0, 1)


@njit(nogil=True, error_model="numpy")
def to_kernels(counter, units, at, x, dy, dkernels):
    """Computes the gradient of the kernels; taps outside of the map must be zeros before."""
    height, width, channels, groups, scale, side = at[1], at[2], at[3], at[4], at[5], at[6]
    block, taps, wide = scale * scale, side * side, channels // groups
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        b, row = unit // height, unit % height
        top, bottom = _window(row, height, side)
        for column in range(width):
            start, stop = _window(column, width, side)
            corner = b * at[7] + (row - side // 2) * at[8] + (column - side // 2) * at[9]
            for g in range(groups):
                own = ((unit * width + column) * groups + g) * block * taps
                end = (g + 1) * wide
                for pixel in range(0, block, 4):
                    p0, p1, p2, p3 = _four(pixel, block, taps)
                    q0, q1 = p0 // taps, p1 // taps
                    q2, q3 = p2 // taps, p3 // taps
                    q0 = _place(at, at[10:13], b, row, column, q0)
                    q1 = _place(at, at[10:13], b, row, column, q1)
                    q2 = _place(at, at[10:13], b, row, column, q2)
                    q3 = _place(at, at[10:13], b, row, column, q3)
                    for u in range(top, bottom):
                        for v in range(start, stop):
                            near = corner + u * at[8] + v * at[9]
                            a0, a1, a2, a3 = zero(), zero(), zero(), zero()
                            for c in range(g * wide, end, WIDTH):
                                some = end - c
                                value = load_some(x, near + c, some)
                                a0 = fma(value, load_some(dy, q0 + c, some), a0)
                                a1 = fma(value, load_some(dy, q1 + c, some), a1)
                                a2 = fma(value, load_some(dy, q2 + c, some), a2)
                                a3 = fma(value, load_some(dy, q3 + c, some), a3)
                            t = own + u * side + v
                            dkernels[p3 + t] = total(a3)
                            dkernels[p2 + t] = total(a2)
                            dkernels[p1 + t] = total(a1)
                            dkernels[p0 + t] = total(a0)
        unit = fetch_add(counter, 0, 1)
