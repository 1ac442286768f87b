"""The instructions against Python's own arithmetic."""

import struct

import numpy as np
import pytest

from paragone.kernels.intrinsics import (
    count_ones,
    float_of_bits,
    high_product,
    lowest_bit,
    prefetch,
)
from paragone.kernels.jit import njit


@njit(nogil=True)
def lowest(word):
    return lowest_bit(word)


@njit(nogil=True)
def ones(word):
    return count_ones(word)


@njit(nogil=True)
def spelled(bits):
    return float_of_bits(bits)


@njit(nogil=True)
def first_after_asking(array, index):
    prefetch(array, index)
    return array[0]


@pytest.mark.parametrize("kind", [np.uint32, np.int64, np.uint64])
@pytest.mark.parametrize("value", [1, 2, 12, 0x7FFF0000, 0x55555555])
def test_bits(kind, value):
    assert lowest(kind(value)) == (value & -value).bit_length() - 1
    assert ones(kind(value)) == value.bit_count()


@pytest.mark.parametrize("value", [0.0, 1.5, -2e300, 5e-324, np.inf])
def test_float_of_bits(value):
    assert spelled(struct.unpack("<q", struct.pack("<d", value))[0]) == value


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float32])
def test_prefetch_changes_nothing_even_past_the_end(kind):
    array = np.arange(3, 8).astype(kind)
    assert first_after_asking(array, np.uint64(4)) == 3
    assert first_after_asking(array, np.int64(1 << 20)) == 3


@njit(nogil=True)
def upper(x, y):
    return high_product(x, y)


@pytest.mark.parametrize("x", [0, 1, 2**32, 0x9E3779B97F4A7C15, 2**64 - 1])
@pytest.mark.parametrize("y", [1, 3, 2**63 + 5, 2**64 - 1])
def test_high_product(x, y):
    assert upper(np.uint64(x), np.uint64(y)) == x * y >> 64
