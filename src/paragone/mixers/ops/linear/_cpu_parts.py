r"""What the chunk kernels are made of: products by tiles, features, decays, transposes.

A chunk is computed in the frame of its first token. With $b_t$ the sum of the gates behind the
first token up to t (so $b = 0$ there) and $a$ the first token's own gate,

$$ \tilde q_t = c\,\phi(q_t) \odot e^{b_t}, \quad \tilde k_t = \phi(k_t) \odot e^{-b_t}, \quad
   \tilde S = e^{a} \odot S , $$

a gated chunk is an ungated one in $\tilde q, \tilde k, \tilde S$, and its last state times
$e^{b_C}$ is the state behind it. A chunk ends before any $|b|$ exceeds `SPAN`, so that products
of both factors stay within float32; gates of zero multiply by one and change no bit.

Arrays are flat float32; rows are padded to `HALF` a tile, with zeros.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import carray

from paragone.kernels.atomics import pointer
from paragone.kernels.jit import njit
from paragone.kernels.simd import (
    WIDTH,
    absolute,
    below,
    exp,
    fma,
    largest,
    load,
    load_some,
    maximum,
    splat,
    store,
    store_some,
    total,
    zero,
)
from paragone.kernels.tiles import TILE_COLUMNS, tile

__all__ = [
    "RESULTS", "ROWS", "SPAN", "Given", "Shape", "decays", "dot", "features", "floats", "given",
    "lower", "multiply", "padded", "scale_rows", "slopes", "unpack",
]  # fmt: skip

ROWS = 4
"""Rows of a tile: chunks, keys and values come in multiples of it more often than of six."""
RESULTS = 33
"""Where the addresses of results begin among a call's words, behind the `Shape` and `Given`."""
SPAN = 40.0
"""Most that a gate may sum up to inside a chunk, on either side of zero."""


class Shape(NamedTuple):
    """Sizes, options and strides of a call, in the order in which a kernel gets them.

    `gate`: 0 none, 1 a head, 2 a channel; `map`: place in `FUSED`; `ragged`: whether lengths count.
    """

    heads: int
    time: int
    keys: int
    values: int
    gate: int
    delta: int
    normalize: int
    map: int
    chunk: int
    ragged: int
    q_row: int
    q_head: int
    q_time: int
    k_row: int
    k_head: int
    k_time: int
    v_row: int
    v_head: int
    v_time: int
    g_row: int
    g_head: int
    g_time: int
    b_row: int
    b_head: int
    b_time: int


class Given(NamedTuple):
    """The arrays that every kernel gets, flat; what was not given is never read."""

    q: Any
    k: Any
    v: Any
    gate: Any
    beta: Any
    lengths: Any
    memory: Any
    norm: Any


HALF = TILE_COLUMNS // 2
"""Columns of half a tile; rows are padded to a multiple of it."""
_tile, _row = tile(ROWS), tile(1)
_half, _half_row = tile(ROWS, HALF // WIDTH), tile(1, HALF // WIDTH)
_options: Any = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True}


@njit(**_options)
def unpack(w):
    """(words): the `Shape` that an array of int64 stands for."""
    return Shape(
        w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8], w[9], w[10], w[11], w[12], w[13],
        w[14], w[15], w[16], w[17], w[18], w[19], w[20], w[21], w[22], w[23], w[24],
    )  # fmt: skip


@njit(**_options)
def floats(address):
    """(address): the float32 numbers there, as a flat array without end."""
    return carray(pointer(address), (1 << 40,), np.float32)


@njit(**_options)
def given(words):
    """(words): the `Given` whose addresses stand behind the `Shape`."""
    w = words[25:]
    lengths = carray(pointer(w[5]), (1 << 40,), np.int64)
    return Given(
        floats(w[0]), floats(w[1]), floats(w[2]), floats(w[3]), floats(w[4]), lengths,
        floats(w[6]), floats(w[7]),
    )  # fmt: skip


@njit(**_options)
def padded(size):
    """(size): the next multiple of half a tile's columns."""
    return (size + HALF - 1) // HALF * HALF


@njit(**_options)
def multiply(a, a_at, a_row, a_k, b, b_at, b_k, c, c_at, c_row, rows, columns, depth, add):
    """C (rows x columns, a multiple of `HALF`) = or += A B; A by two strides, B by rows."""
    for j in range(0, columns, TILE_COLUMNS):
        whole, i = columns - j > HALF, 0
        while i + ROWS <= rows:
            if whole:
                _tile(a, a_at + i * a_row, a_row, a_k, b, b_at + j, b_k,
                      c, c_at + i * c_row + j, c_row, depth, add)  # fmt: skip
            else:
                _half(a, a_at + i * a_row, a_row, a_k, b, b_at + j, b_k,
                      c, c_at + i * c_row + j, c_row, depth, add)  # fmt: skip
            i += ROWS
        while i < rows:
            if whole:
                _row(a, a_at + i * a_row, a_row, a_k, b, b_at + j, b_k,
                     c, c_at + i * c_row + j, c_row, depth, add)  # fmt: skip
            else:
                _half_row(a, a_at + i * a_row, a_row, a_k, b, b_at + j, b_k,
                          c, c_at + i * c_row + j, c_row, depth, add)  # fmt: skip
            i += 1


@njit(**_options)
def lower(x, x_row, y, y_row, c, c_row, n, depth, strict):
    """C = X Y below the diagonal, and on it unless `strict`; in blocks of rows, above it zeros.

    X is n x depth, Y depth x n; what stands beyond a block's own columns is not touched.
    """
    for i in range(0, n, ROWS):
        rows = min(ROWS, n - i)
        multiply(x, i * x_row, x_row, 1, y, 0, y_row, c, i * c_row, c_row, rows, padded(i + rows),
                 depth, 0)  # fmt: skip
        for r in range(rows):
            for j in range(i + r + (0 if strict else 1), i + rows):
                c[(i + r) * c_row + j] = 0.0


@njit(**_options)
def dot(x, x_at, y, y_at, size):
    """Sum of x y over `size` floats."""
    found = zero()
    for d in range(0, size, WIDTH):
        n = min(WIDTH, size - d)
        found = fma(load_some(x, x_at + d, n), load_some(y, y_at + d, n), found)
    return total(found)


@njit(**_options)
def scale_rows(x, x_row, columns, factors, rows):
    """Row i of X times factors[i]."""
    for i in range(rows):
        factor = splat(factors[i])
        for j in range(0, columns, WIDTH):
            store(x, i * x_row + j, load(x, i * x_row + j) * factor)


@njit(**_options)
def _mapped(value, kind):
    if kind == 1:
        return below(zero(), value, value + splat(np.float32(1.0)), exp(value))
    if kind == 2:
        return below(value, zero(), zero(), value)
    return value


@njit(**_options)
def _slope(value, kind):
    one = splat(np.float32(1.0))
    if kind == 1:
        return below(zero(), value, one, exp(value))
    if kind == 2:
        return below(zero(), value, one, zero())
    return one


@njit(**_options)
def features(x, x_at, out, out_at, size, kind, factor, gated, decay, decay_at):
    """One row: out = factor phi(x), times the row of `decay` if gated; kind as in `FUSED`."""
    whole, factors = size - size % WIDTH, splat(factor)
    for d in range(0, whole, WIDTH):
        value = _mapped(load(x, x_at + d), kind) * factors
        if gated:
            value = value * load(decay, decay_at + d)
        store(out, out_at + d, value)
    if whole < size:
        value = _mapped(load_some(x, x_at + whole, size - whole), kind) * factors
        if gated:
            value = value * load(decay, decay_at + whole)
        store_some(out, out_at + whole, value, size - whole)


@njit(**_options)
def slopes(x, x_at, grad, grad_at, out, out_at, size, kind, factor):
    """One row: out = factor phi'(x) grad."""
    whole, factors = size - size % WIDTH, splat(factor)
    for d in range(0, whole, WIDTH):
        value = _slope(load(x, x_at + d), kind) * factors
        store(out, out_at + d, value * load(grad, grad_at + d))
    if whole < size:
        value = _slope(load_some(x, x_at + whole, size - whole), kind) * factors
        store_some(out, out_at + whole, value * load(grad, grad_at + whole), size - whole)


@njit(**_options)
def decays(gate, at, step, kind, most, size, row, up, down, first, last):
    """Decays of a chunk that begins at `at`; returns its length, at most `most`.

    Rows of `up` are e^b, those of `down` e^-b; `first` is e^a and `last` e^b of the last token.
    Kind 1 is a gate for all channels, 2 one for each.
    """
    b = np.zeros(row, np.float32)
    for d in range(0, size, WIDTH):
        n = min(WIDTH, size - d)
        own = splat(gate[at]) if kind == 1 else load_some(gate, at + d, n)
        store_some(first, d, exp(own), n)
    length = 0
    while length < most:
        if length:
            high = zero()
            for d in range(0, size, WIDTH):
                n = min(WIDTH, size - d)
                place = at + length * step
                own = splat(gate[place]) if kind == 1 else load_some(gate, place + d, n)
                own = own + load_some(b, d, n)
                store_some(b, d, own, n)
                high = maximum(high, absolute(own))
            if largest(high) > SPAN:
                break
        for d in range(0, size, WIDTH):
            n = min(WIDTH, size - d)
            value = load_some(b, d, n)
            store_some(up, length * row + d, exp(value), n)
            store_some(down, length * row + d, exp(-value), n)
        length += 1
    for d in range(0, size, WIDTH):
        n = min(WIDTH, size - d)
        store_some(last, d, load_some(up, (length - 1) * row + d, n), n)
    return length
