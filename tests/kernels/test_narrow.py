"""Narrow floats against NumPy, ml_dtypes and arithmetic on fractions; the random words as such."""

import struct
from fractions import Fraction

import numpy as np
import pytest

from paragone.kernels import narrow
from paragone.kernels.jit import njit


@njit(nogil=True, error_model="numpy")
def nearest(bits, words, seed, step, out):
    """Rows of `out`: bf16, fp16, stochastic bf16 and fp16."""
    for i in range(bits.size):
        out[0, i] = narrow.bf16_nearest(bits[i])
        out[1, i] = narrow.fp16_nearest(bits[i])
        out[2, i] = narrow.bf16_stochastic(bits[i], words[i])
        out[3, i] = narrow.fp16_stochastic(bits[i], words[i])
        words[i] = narrow.random_bits(seed, step, i)


@njit(nogil=True, error_model="numpy")
def wide(halves, out):
    for i in range(halves.size):
        out[0, i] = narrow.bf16_wide(halves[i])
        out[1, i] = narrow.fp16_wide(halves[i])


@njit(nogil=True, error_model="numpy")
def draw(seed, step, first, out):
    for i in range(out.size):
        out[i] = narrow.random_bits(seed, step, first + i)


def rounded(bits, words=None):
    bits = np.atleast_1d(np.asarray(bits, np.uint32))
    words = np.zeros(bits.size, np.uint32) if words is None else np.array(words, np.uint32)
    out = np.zeros((4, bits.size), np.uint16)
    nearest(bits, words, 0, 0, out)
    return out


def patterns():
    """All upper halves of a float32, with lower halves at ties, beside them, and in between."""
    rng = np.random.default_rng(0)
    lower = [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x0FFF, 0x1000, 0x1001, 0x2000, 0x3000]
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    fixed = [upper | np.uint32(word) for word in lower]
    return np.concatenate([*fixed, upper | rng.integers(0, 1 << 16, 1 << 16, dtype=np.uint32)])


def as_half(bits):
    with np.errstate(all="ignore"):
        return bits.view(np.float32).astype(np.float16)


@pytest.mark.peers
def test_every_upper_half_becomes_the_bf16_of_ml_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    bits = patterns()
    with np.errstate(all="ignore"):
        expected = bits.view(np.float32).astype(ml_dtypes.bfloat16).view(np.uint16)
    assert np.array_equal(rounded(bits)[0], expected)


def test_every_upper_half_becomes_numpys_fp16():
    bits = patterns()
    found, expected = rounded(bits)[1], as_half(bits)
    isnan = np.isnan(expected)
    assert np.array_equal(found[~isnan], expected.view(np.uint16)[~isnan])
    # Of a NaN only the sign is kept, not the payload.
    assert np.array_equal(found[isnan], 0x7E00 | (bits[isnan] >> 16 & 0x8000))


def test_every_half_widens_to_itself():
    halves = np.arange(1 << 16).astype(np.uint16)
    out = np.zeros((2, halves.size), np.uint32)
    wide(halves, out)
    assert np.array_equal(out[0], halves.astype(np.uint32) << 16)
    expected = halves.view(np.float16).astype(np.float32).view(np.uint32)
    number = ~np.isnan(halves.view(np.float16))
    assert np.array_equal(out[1][number], expected[number])
    assert np.isnan(out[1].view(np.float32)[~number]).all()
    back = rounded(out[1])[1]
    assert np.array_equal(back[number], halves[number])


def test_a_nan_of_low_payload_stays_one_and_the_oracle_sees_who_lost_it():
    bits = np.array([0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32)
    found = rounded(bits, np.full(4, 0xFFFFFFFF))
    for row, kind in zip(found, (np.uint32, None) * 2, strict=True):
        values = (row.astype(np.uint32) << 16).view(np.float32) if kind else row.view(np.float16)
        assert np.isnan(values).all()
        assert np.array_equal(np.signbit(values), [False, True, False, True])
    naive = ((bits.astype(np.uint64) + 0x7FFF) >> 16).astype(np.uint16)
    values = (naive.astype(np.uint32) << 16).view(np.float32)
    assert not np.isnan(values).all()


@pytest.mark.parametrize(
    ("value", "code"),
    [(2.0**-24, 1), (2.0**-25, 0), (1.5 * 2.0**-24, 2), (2.0**-25 * 1.0001, 1), (65519.0, 0x7BFF),
     (65520.0, 0x7C00), (-65520.0, 0xFC00), (-0.0, 0x8000), (2.0**-14 * 0.99999, 0x400)],
)  # fmt: skip
def test_corners_of_fp16(value, code):
    assert rounded(np.float32(value).view(np.uint32))[1, 0] == code


def exact(bits):
    return Fraction(struct.unpack("<f", struct.pack("<I", bits))[0])


@pytest.mark.parametrize("row", [2, 3], ids=["bf16", "fp16"])
@pytest.mark.parametrize("value", [1.2345, -3.1e-5, 2.0**-24 * 3.3, 2.0**-24 * 0.2, 1.0, -0.0])
def test_stochastic_rounding_is_unbiased_and_keeps_what_is_exact(row, value):
    """Words that are evenly spread give each neighbour its exact share, up to the last word."""
    bits = int(np.float32(value).view(np.uint32))
    count = 1 << 16
    words = (np.arange(count, dtype=np.uint64) * 65537).astype(np.uint32)
    found = rounded(np.full(count, bits, np.uint32), words)[row]
    codes, shares = np.unique(found, return_counts=True)
    values = [
        exact(int(c) << 16) if row == 2 else Fraction(float(np.uint16(c).view(np.float16)))
        for c in codes
    ]
    truth, gap = exact(bits), abs(values[-1] - values[0])
    assert len(codes) <= 2
    mean = sum(v * int(n) for v, n in zip(values, shares, strict=True)) / count
    assert abs(mean - truth) <= gap / count * 2
    assert len(codes) == 2 or values[0] == truth


def test_stochastic_overflow_and_infinity():
    bits = np.array([65503.9, 65520.0, 65535.0, 65536.0, np.inf, -np.inf], np.float32)
    none, full = (rounded(bits.view(np.uint32), np.full(6, w))[3] for w in (0, 0xFFFFFFFF))
    assert none.tolist() == [0x7BFE, 0x7BFF, 0x7BFF, 0x7C00, 0x7C00, 0xFC00]
    assert full.tolist() == [0x7BFF, 0x7C00, 0x7C00, 0x7C00, 0x7C00, 0xFC00]
    assert rounded(bits.view(np.uint32), np.full(6, 0xFFFFFFFF))[2, 4:].tolist() == [0x7F80, 0xFF80]


def words(seed, step, first, count):
    out = np.zeros(count, np.uint32)
    draw(seed, step, first, out)
    return out


def test_words_depend_on_their_place_alone():
    whole = words(3, 5, 0, 1000)
    assert np.array_equal(words(3, 5, 700, 300), whole[700:])
    assert len(np.unique(words(3, 5, 0, 200_000))) == 200_000
    assert words(3, 5, 1 << 32, 4).tolist() != whole[:4].tolist()


def test_words_look_random():
    """Even bits, even bytes, and no bond between neighbours, steps, seeds or their sums."""
    n = 1 << 18
    base = words(1, 1, 0, n)
    others = [words(1, 2, 0, n), words(2, 1, 0, n), words(1, 1, 1, n), words(1, 1, 1 << 32, n),
              words(0, 0, 0, n)]  # fmt: skip
    for found in (base, *others):
        bits = np.unpackbits(found.view(np.uint8)).reshape(n, 32).mean(axis=0)
        assert np.abs(bits - 0.5).max() < 5 * 0.5 / n**0.5
        for byte in found.view(np.uint8).reshape(n, 4).T:
            squares = (np.bincount(byte, minlength=256) - n / 256) ** 2 / (n / 256)
            assert abs(squares.sum() - 255) < 5 * (2 * 255) ** 0.5
    for other in others:
        same = np.unpackbits((base ^ other).view(np.uint8)).mean()
        assert abs(same - 0.5) < 5 * 0.5 / (32 * n) ** 0.5
        centred = (base - 2.0**31) @ (other - 2.0**31) / (n * 2.0**64 / 12)
        assert abs(centred) < 5 / n**0.5
