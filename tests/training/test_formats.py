"""Formats and casts: against ml_dtypes and torch bit for bit, and against enumeration."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paragone.training import _cast_reference as reference
from paragone.training import formats
from paragone.training.formats import FORMATS, cast, decode

NARROW = [name for name, f in FORMATS.items() if f.mantissa < 23]
EIGHT = [name for name, f in FORMATS.items() if f.bits == 8]
PEERS = {
    "bf16": "bfloat16", "e5m2": "float8_e5m2", "e4m3": "float8_e4m3fn",
    "e5m2fnuz": "float8_e5m2fnuz", "e4m3fnuz": "float8_e4m3fnuz",
}  # fmt: skip


def patterns():
    """All upper halves of a float32, with lower halves at ties, beside them, and in between."""
    rng = np.random.default_rng(0)
    lower = [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x1000]
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    fixed = [upper | np.uint32(word) for word in lower]
    random = [upper | rng.integers(0, 1 << 16, 1 << 16, dtype=np.uint32) for _ in range(2)]
    return np.concatenate([*fixed, *random]).view(np.float32)


X = patterns()


def same(found, expected):
    """Equal values with equal signs, NaN where NaN."""
    isnan = np.isnan(expected)
    assert np.array_equal(np.isnan(found), isnan)
    assert np.array_equal(found[~isnan].view(np.uint32), expected[~isnan].view(np.uint32))


@pytest.mark.peers
@pytest.mark.parametrize("name", PEERS)
def test_every_class_of_patterns_is_cast_as_by_ml_dtypes(name):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    with np.errstate(all="ignore"):
        expected = X.astype(getattr(ml_dtypes, PEERS[name]))
    codes = cast(X, name, storage=True)
    assert np.array_equal(codes, expected.view(codes.dtype))
    same(cast(X, name), expected.astype(np.float32))
    same(decode(codes, name), expected.astype(np.float32))


def test_fp16_is_numpys():
    with np.errstate(all="ignore"):
        expected = X.astype(np.float16)
    found = cast(X, "fp16", storage=True)
    assert found.dtype == np.float16
    number = ~np.isnan(expected)
    assert np.array_equal(found[number].view(np.uint16), expected[number].view(np.uint16))
    assert np.array_equal(np.isnan(found), ~number)
    same(cast(X, "fp16"), expected.astype(np.float32))


@pytest.mark.parametrize("saturate", [False, True])
@pytest.mark.parametrize("name", NARROW)
def test_kernels_are_their_definition(name, saturate):
    """The loops against plain PyTorch in 64 bits, nearest and at random, for every format."""
    x = torch.from_numpy(X[:: 3 if saturate else 2].copy())
    spec = formats.find(name).spec(saturate)
    same(cast(x, name, saturate=saturate).numpy(), reference.rounded(x, spec).numpy())
    found = cast(x, name, saturate=saturate, rounding="stochastic", seed=5, step=2)
    same(found.numpy(), reference.rounded(x, spec, (5, 2)).numpy())


def grid(name):
    """All finite values of a format, by its equation."""
    f = FORMATS[name]
    values = [
        m * f.min_subnormal if e == 0 else (1 + m / 2**f.mantissa) * 2.0 ** (e - f.bias)
        for e in range(2**f.exponent)
        for m in range(2**f.mantissa)
    ]
    return np.array([v for v in values if v <= f.max])


@pytest.mark.parametrize("name", [*EIGHT, "fp16"])
def test_values_are_those_of_the_equation(name):
    f, values = FORMATS[name], grid(name)
    codes = np.arange(1 << (f.bits - 1)).astype(np.uint8 if f.bits == 8 else np.uint16)
    decoded = decode(codes, name)
    finite = np.isfinite(decoded)
    assert np.array_equal(decoded[finite], values.astype(np.float32))
    assert np.isinf(decoded).sum() == f.infinity
    assert values[-1] == f.max
    assert values[1] == f.min_subnormal
    assert f.min_normal in values
    assert values[values > 1][0] == 1 + f.epsilon
    same(cast(decoded, name), decoded)


@pytest.mark.parametrize("name", [*EIGHT, "fp16"])
def test_a_cast_is_the_nearest_value_by_search(name):
    """Brute force over all values, ties to the even mantissa; and a planted bug is seen."""
    values = grid(name)
    middles = (values[1:] + values[:-1]) / 2
    rng = np.random.default_rng(1)
    x = np.concatenate([middles, values, rng.choice(values, 500) * rng.uniform(0.9, 1.1, 500)])
    x = x[x <= values[-1]].astype(np.float32)
    at = np.searchsorted(middles, x, side="left")
    tie = (at < len(middles)) & (middles[np.minimum(at, len(middles) - 1)] == x)
    at = at + (tie & (at % 2 == 1))
    assert np.array_equal(cast(x, name), values[at].astype(np.float32))
    away = np.searchsorted(middles, x, side="right")
    assert not np.array_equal(cast(x, name), values[away].astype(np.float32))


@pytest.mark.parametrize(
    ("name", "value", "plain", "saturated"),
    [("fp16", 65519.0, 65504.0, 65504.0), ("fp16", 65520.0, np.inf, 65504.0),
     ("fp16", 2.0**-25, 0.0, 0.0), ("fp16", 2.0**-25 * 1.001, 2.0**-24, 2.0**-24),
     ("e4m3", 464.0, 448.0, 448.0), ("e4m3", 465.0, np.nan, 448.0),
     ("e4m3", -np.inf, np.nan, -448.0), ("e5m2", 61440.0, np.inf, 57344.0),
     ("e5m2", 61439.0, 57344.0, 57344.0), ("e4m3fnuz", 248.0, np.nan, 240.0),
     ("tf32", 1 + 2.0**-11, 1.0, 1.0), ("tf32", 1 + 3 * 2.0**-11, 1 + 2.0**-9, 1 + 2.0**-9),
     ("bf16", 3.4e38, np.inf, 3.3895313892515355e38), ("bf16", -np.nan, np.nan, np.nan),
     ("e4m3fnuz", -0.0, 0.0, 0.0), ("e4m3", -1e-9, -0.0, -0.0)],
)  # fmt: skip
def test_corners(name, value, plain, saturated):
    x = torch.tensor([value])
    for expected, found in ((plain, cast(x, name)), (saturated, cast(x, name, saturate=True))):
        same(found.numpy(), np.array([expected], np.float32))


def test_torch_types_shapes_and_odd_sizes():
    rng = np.random.default_rng(2)
    for shape in ((), (0,), (1,), (63,), (64, 3), (65,), (4099,), (2, 3, 5)):
        x = torch.from_numpy(rng.normal(size=shape).astype(np.float32))
        for name in ("bf16", "fp16"):
            stored = cast(x, name, storage=True)
            assert torch.equal(stored, x.to(stored.dtype))
        stored = cast(x, "e4m3", storage=True)
        assert stored.dtype == torch.float8_e4m3fn
        assert torch.equal(stored.float(), cast(x, torch.float8_e4m3fn))
    turned = torch.randn(7, 5).t()
    assert torch.equal(cast(turned, "fp16"), turned.half().float())
    assert cast(torch.ones(3, dtype=torch.bfloat16), "fp16").dtype == torch.float32
    assert cast(np.ones(3), "fp32", storage=True).dtype == np.float32
    assert cast(np.ones(3), "tf32").dtype == np.float64


@given(st.floats(-7e4, 7e4), st.sampled_from(["fp16", "bf16", "tf32"]))
@settings(max_examples=200, deadline=None)
def test_float64_is_rounded_once(value, name):
    """By way of float32 some would be rounded twice; the definition divides in float64."""
    f = FORMATS[name]
    if abs(value) >= f.max:
        return
    exponent = max(np.frexp(value)[1] - 1, 1 - f.bias)
    unit = 2.0 ** (exponent - f.mantissa)
    assert cast(np.array([value]), name)[0] == np.rint(value / unit) * unit


def test_float64_that_lies_just_above_a_tie():
    x = np.array([1 + 2.0**-11 + 2.0**-40, 1 + 2.0**-11, -1 - 2.0**-11 - 2.0**-40])
    assert cast(x, "fp16").tolist() == [1 + 2.0**-10, 1.0, -1 - 2.0**-10]
    assert cast(x.astype(np.float32), "fp16")[0] == 1.0
    assert np.isnan(cast(np.array([np.nan]), "bf16")[0])


@pytest.mark.parametrize("name", ["bf16", "fp16", "e4m3", "e5m2"])
def test_stochastic_rounding_is_unbiased(name):
    f, n = FORMATS[name], 200_000
    for value in (0.3, -1.37, 0.3 * f.min_subnormal, 2.6 * f.min_subnormal):
        x = torch.full((n,), value)
        found = cast(x, name, rounding="stochastic", seed=9).double()
        values = found.unique()
        assert len(values) == 2
        error = abs(float(found.mean() - x[0].double()))
        assert error < 4 * float(values[1] - values[0]) / 2 / n**0.5
    again = cast(x, name, rounding="stochastic", seed=9).double()
    assert torch.equal(found, again)
    other = cast(x, name, rounding="stochastic", seed=9, step=1).double()
    assert not torch.equal(found, other)


def test_gradients_pass_through():
    x = torch.randn(5, requires_grad=True)
    cast(x, "e4m3").square().sum().backward()
    assert torch.equal(x.grad, 2 * cast(x.detach(), "e4m3"))
    with pytest.raises(ValueError, match="detach"):
        cast(x, "bf16", storage=True)


def test_in_place_rounding_counts():
    x = torch.tensor([1e-9, 0.0, 1e9, 1.0, np.inf, -1e-9])
    for block in (x.clone(), torch.stack([x, x], 1)[:, 0]):
        assert formats.round_(block, FORMATS["fp16"]) == (2, 5, 1)
        assert torch.equal(block, x.half().float())


def test_what_is_wrong_is_said():
    for call, words in (
        (lambda: cast(np.ones(2), "fp12"), "fp32, tf32"),
        (lambda: cast(np.ones(2, int), "fp16"), "int64"),
        (lambda: cast(torch.ones(2, dtype=torch.int32), "fp16"), "int32"),
        (lambda: cast(np.ones(2), "fp16", rounding="up"), "stochastic"),
        (lambda: cast(np.ones(2), "fp16", rounding="stochastic", seed=-1), "seed=-1"),
        (lambda: decode(np.ones(2, np.uint16), "e4m3"), "uint8"),
        (lambda: decode(np.ones(2, np.uint8), "tf32"), "8 or 16"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_the_table_names_every_format():
    lines = formats.table().splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(FORMATS)
    assert "65504" in formats.table()


@pytest.mark.parametrize("saturate", [False, True])
@pytest.mark.parametrize("name", EIGHT)
def test_codes_in_one_pass_are_those_of_two(name, saturate):
    """One loop goes from fp32 to the code; the other one rounds, and its values have codes."""
    ends = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 448, 464, 480, 61440], np.float32)
    x = torch.from_numpy(np.concatenate([X, ends]))
    rounded = cast(x, name, saturate=saturate)
    codes = cast(x, name, saturate=saturate, storage=True).view(torch.uint8)
    same(decode(codes.numpy(), name), rounded.numpy())
