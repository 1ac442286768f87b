"""Vectors against NumPy, lane by lane: every operation, tails, special values, 16-bit storage."""

import numpy as np
import pytest
import torch

from paragone.kernels.jit import njit
from paragone.kernels.simd import (
    WIDTH,
    absolute,
    below,
    exp,
    exp2,
    fill_some,
    flush_denormals,
    fma,
    lanes,
    largest,
    load,
    load_bf16,
    load_bf16_some,
    load_fp16,
    load_fp16_some,
    load_some,
    log2,
    maximum,
    minimum,
    restore_floats,
    splat,
    sqrt,
    store,
    store_bf16,
    store_bf16_some,
    store_fp16,
    store_fp16_some,
    store_some,
    total,
    zero,
)  # fmt: skip
from paragone.kernels.tiles import TILE_COLUMNS, TILE_ROWS, tile

TINY = float(np.finfo(np.float32).tiny)
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, TINY, -TINY, 128, 127.5, -126, -126.5],
                   np.float32)  # fmt: skip


@njit(nogil=True, error_model="numpy")
def apply(which, x, y, n):
    for i in range(0, n, WIDTH):
        v = load_some(x, i, n - i)
        if which == 0:
            v = exp2(v)
        elif which == 1:
            v = exp(v)
        elif which == 2:
            v = log2(v)
        elif which == 3:
            v = sqrt(absolute(v))
        else:
            v = -v
        store_some(y, i, v, n - i)


@njit(nogil=True, error_model="numpy")
def join(which, x, y, out, n):
    for i in range(0, n, WIDTH):
        a, b = load_some(x, i, n - i), load_some(y, i, n - i)
        if which == 0:
            v = a + b
        elif which == 1:
            v = a - b
        elif which == 2:
            v = a * b
        elif which == 3:
            v = a / b
        elif which == 4:
            v = maximum(a, b)
        elif which == 5:
            v = minimum(a, b)
        elif which == 6:
            v = fma(a, b, splat(np.float32(0.5)))
        else:
            v = below(a, b, a, zero())
        store_some(out, i, v, n - i)


@njit(nogil=True, error_model="numpy")
def fold(x, out):
    v = load(x, 1)
    v += lanes()
    v *= splat(np.float32(2.0))
    v -= zero()
    store(out, 1, fill_some(v, splat(np.float32(-7.0)), 3))
    return total(v), largest(v)


def run(which, x):
    y = np.full(len(x) + 3, 9, np.float32)
    apply(which, x, y, len(x))
    assert (y[len(x) :] == 9).all(), "wrote past the end"
    return y[: len(x)]


@pytest.mark.parametrize(("which", "truth"), [(0, np.exp2), (1, np.exp)])
def test_powers_are_right_within_two_ulp_and_end_in_zero_and_infinity(which, truth):
    x = np.random.default_rng(0).uniform(-150, 150, 20_011).astype(np.float32)
    x = np.concatenate([x, SPECIAL])
    with np.errstate(over="ignore"):
        exact = truth(x.astype(np.float64))
    found = run(which, x)
    plain = (exact >= 1.0001 * TINY) & (exact < 3.4e38)
    assert np.abs(found[plain] / exact[plain] - 1).max() < 2 * 2.0**-23
    assert (found[exact < 0.999 * TINY] == 0).all()
    assert np.isinf(found[exact > 3.5e38]).all()
    assert np.isnan(found[np.isnan(x)]).all()


def test_logarithm_is_right_within_two_ulp():
    random = np.random.default_rng(1)
    x = np.concatenate([np.exp2(random.uniform(-126, 127, 9973)), random.uniform(0.5, 2, 5000),
                        [1.0, TINY, 3.4e38]]).astype(np.float32)  # fmt: skip
    exact = np.log2(x.astype(np.float64))
    error = np.abs(run(2, x) - exact)
    assert (error <= 2 * 2.0**-23 * np.abs(exact)).all()
    ends = run(2, np.array([0, -0.0, 1e-40, -1, np.inf, np.nan, -np.inf], np.float32))
    assert ends[:3].tolist() == [-np.inf] * 3
    assert np.isnan(ends[[3, 5, 6]]).all()
    assert ends[4] == np.inf


def test_plain_operations_are_numpys():
    random = np.random.default_rng(2)
    x, y = random.normal(size=(2, 3 * WIDTH + 5)).astype(np.float32)
    out = np.empty_like(x)
    fused = (x.astype(np.float64) * y + 0.5).astype(np.float32)
    expected = [x + y, x - y, x * y, x / y, np.maximum(x, y), np.minimum(x, y), fused,
                np.where(x < y, x, 0)]  # fmt: skip
    for which, wanted in enumerate(expected):
        join(which, x, y, out, len(x))
        np.testing.assert_array_equal(out, wanted.astype(np.float32))
    np.testing.assert_array_equal(run(3, x), np.sqrt(np.abs(x)))
    np.testing.assert_array_equal(run(4, x), -x)


def test_folds_and_lanes():
    x = np.random.default_rng(3).normal(size=WIDTH + 1).astype(np.float32)
    out = np.zeros(WIDTH + 2, np.float32)
    v = (x[1:] + np.arange(WIDTH, dtype=np.float32)) * 2
    sum_, most = fold(x, out)
    assert sum_ == pytest.approx(v.astype(np.float64).sum(), rel=1e-6)
    assert most == v.max()
    assert out.tolist() == [0, *v[:3], *[-7.0] * (WIDTH - 3), 0]


@njit(nogil=True, error_model="numpy")
def copy16(kind, source, target, n):
    whole = n - n % WIDTH
    for i in range(0, whole, WIDTH):
        if kind == 0:
            store_bf16(target, i, load_bf16(source, i))
        else:
            store_fp16(target, i, load_fp16(source, i))
    if kind == 0:
        store_bf16_some(target, whole, load_bf16_some(source, whole, n - whole), n - whole)
    else:
        store_fp16_some(target, whole, load_fp16_some(source, whole, n - whole), n - whole)


@njit(nogil=True, error_model="numpy")
def narrow16(kind, x, target, n):
    for i in range(0, n, WIDTH):
        if kind == 0:
            store_bf16_some(target, i, load_some(x, i, n - i), n - i)
        else:
            store_fp16_some(target, i, load_some(x, i, n - i), n - i)


@pytest.mark.parametrize(("kind", "dtype"), [(0, torch.bfloat16), (1, torch.float16)])
def test_sixteen_bits_round_as_torch_does(kind, dtype):
    words = np.arange(65536, dtype=np.uint16)[:65_531]
    back = np.zeros_like(words)
    copy16(kind, words, back, len(words))
    wide = torch.from_numpy(words.view(np.int16)).view(dtype)
    again = torch.from_numpy(back.view(np.int16)).view(dtype)
    assert torch.equal(again[~wide.isnan()], wide[~wide.isnan()])
    assert again[wide.isnan()].isnan().all()
    x = np.random.default_rng(4).integers(0, 2**32, 20_003, dtype=np.uint32).view(np.float32)
    found = np.zeros(len(x), np.uint16)
    narrow16(kind, x, found, len(x))
    wanted = torch.from_numpy(x).to(dtype)
    got = torch.from_numpy(found.view(np.int16)).view(dtype)
    assert torch.equal(got[~wanted.isnan()], wanted[~wanted.isnan()])
    assert got[wanted.isnan()].isnan().all()


@njit(nogil=True, error_model="numpy")
def halves(x, flush):
    old = flush_denormals() if flush else np.uint32(0)
    count = 0
    while x > 0:
        x = np.float32(x * np.float32(0.5))
        count += 1
    if flush:
        restore_floats(old)
    return count


def test_denormals_are_flushed_only_where_asked():
    assert halves(np.float32(1.0), False) == 150
    assert halves(np.float32(1.0), True) in (127, 150)
    assert halves(np.float32(1.0), False) == 150


PRODUCTS = tuple(tile(rows) for rows in range(1, TILE_ROWS + 1))
one, six = PRODUCTS[0], PRODUCTS[-1]


@njit(nogil=True, error_model="numpy")
def multiply(rows, a, a_at, a_row, a_k, b, c, depth, add):
    if rows == 1:
        one(a, a_at, a_row, a_k, b, 3, TILE_COLUMNS + 2, c, 1, TILE_COLUMNS + 5, depth, add)
    else:
        six(a, a_at, a_row, a_k, b, 3, TILE_COLUMNS + 2, c, 1, TILE_COLUMNS + 5, depth, add)


@pytest.mark.parametrize("depth", [0, 1, 2, 17])
@pytest.mark.parametrize("rows", [1, TILE_ROWS])
def test_tile_is_a_matrix_product(rows, depth):
    random = np.random.default_rng(depth)
    a = random.normal(size=(rows, depth + 1)).astype(np.float32)
    b = random.normal(size=3 + depth * (TILE_COLUMNS + 2)).astype(np.float32)
    panel = np.array([b[3 + k * (TILE_COLUMNS + 2) :][:TILE_COLUMNS] for k in range(depth)])
    wanted = a[:, 1:].astype(np.float64) @ panel.reshape(depth, TILE_COLUMNS)
    for turned in (False, True):
        given = np.ascontiguousarray(a.T) if turned else a
        strides = (1, rows) if turned else (depth + 1, 1)
        start = rows if turned else 1
        c = np.full(1 + rows * (TILE_COLUMNS + 5), np.nan, np.float32)
        for add in (0, 1):
            multiply(rows, given, start, *strides, b, c, depth, add)
            found = np.array([c[1 + i * (TILE_COLUMNS + 5) :][:TILE_COLUMNS] for i in range(rows)])
            np.testing.assert_allclose(found, (1 + add) * wanted, rtol=1e-5, atol=1e-5)
        edges = [c[1 + i * (TILE_COLUMNS + 5) + TILE_COLUMNS :][:5] for i in range(rows)]
        assert np.isnan(np.concatenate(edges)).all()
        assert np.isnan(c[0])
