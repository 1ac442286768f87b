"""Running moments against exact fractions, NIST's certified values, NumPy and SciPy."""

import json
import math
import pickle
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paragone.estimation import RunningMean, _moments
from paragone.estimation.running_mean import rolling

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "nist_univariate.json").read_text(encoding="utf-8")
)
# Digits of the certified deviation that the numbers as stored allow.
DIGITS = {"Lew": 14, "Lottery": 14, "Mavro": 12, "Michelso": 13}


def exact(values):
    """Mean, central sums M2, M3, M4 of floats as they are, without rounding."""
    numbers = [Fraction(float(v)) for v in values]
    mean = sum(numbers) / len(numbers)
    return (mean, *(sum((v - mean) ** p for v in numbers) for p in (2, 3, 4)))


def check(stream, values, rtol=1e-13):
    n = len(values)
    mean, m2, m3, m4 = exact(values)
    assert stream.count == n
    spread = math.sqrt(float(m2 / n))
    assert stream.mean == pytest.approx(float(mean), rel=1e-15, abs=1e-15 * spread)
    assert stream.var(0) == pytest.approx(float(m2 / n), rel=rtol, abs=1e-300)
    assert (stream.min, stream.max) == (min(values), max(values))
    if m2:
        scale = float(m2 / n)
        assert stream.skewness == pytest.approx(float(m3 / n) / scale**1.5, rel=1e-9, abs=1e-9)
        assert stream.kurtosis == pytest.approx(float(m4 / n) / scale**2 - 3, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 997, 2047, 2048, 2049, 5003])
@pytest.mark.parametrize("offset", [0.0, 1e6, -1e9])
def test_moments_are_those_of_exact_fractions(n, offset):
    values = np.random.default_rng(n).gamma(2.0, size=n) + offset
    check(RunningMean().update(values), values)
    check(RunningMean().update(values[::-1]), values)


def zigzag(first, low, high):
    return np.array([first] + [low, high] * 500)


NIST = {
    # name: (values, certified mean, certified standard deviation, least digits of the latter)
    "NumAcc1": (np.array([10000001.0, 10000003.0, 10000002.0]), 10000002.0, 1.0, 15),
    "NumAcc2": (zigzag(1.2, 1.1, 1.3), 1.2, 0.1, 14),
    "NumAcc3": (zigzag(1000000.2, 1000000.1, 1000000.3), 1000000.2, 0.1, 9.4),
    "NumAcc4": (zigzag(10000000.2, 10000000.1, 10000000.3), 10000000.2, 0.1, 8.2),
}  # fmt: skip
for name, one in GOLDEN["sets"].items():
    values = np.array([(one["offset"] * one["per"] + v) / one["per"] for v in one["numbers"]])
    NIST[name] = (values, one["mean"], one["deviation"], DIGITS[name])


def digits(found, certified):
    return 15.0 if found == certified else -math.log10(abs(found - certified) / abs(certified))


@pytest.mark.parametrize("name", NIST)
def test_nist_univariate_to_the_ceiling_of_the_numbers_as_stored(name):
    values, mean, deviation, least = NIST[name]
    stream = sum(RunningMean().update(part) for part in np.array_split(values, 3))
    assert digits(stream.mean, mean) >= 14.5
    assert digits(stream.std, deviation) >= least
    # What rounding of the data themselves leaves of the certified digits is no more than this.
    floor = math.sqrt(float(exact(values)[1] / (len(values) - 1)))
    assert stream.std == pytest.approx(floor, rel=3e-15)


def test_the_oracle_catches_a_sum_of_squares():
    values = NIST["NumAcc4"][0]
    naive = (np.sum(values**2) - np.sum(values) ** 2 / len(values)) / (len(values) - 1)
    assert digits(math.sqrt(max(naive, 0.0)), 0.1) < 1


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.lists(st.integers(0, 3000), min_size=1, max_size=6),
    st.sampled_from([0.0, 1e6, -1e12]),
)  # fmt: skip
def test_parts_and_their_order_change_nothing(seed, sizes, offset):
    rng = np.random.default_rng(seed)
    parts = [rng.standard_normal(n) + offset for n in sizes]
    streams = [RunningMean().update(part) for part in parts]
    left = sum(streams[1:], streams[0] + RunningMean())
    right = streams[-1]
    for stream in streams[-2::-1]:
        right = stream + right
    every = np.concatenate(parts)
    assert left.count == right.count == len(every)
    if len(every) > 1:
        whole = RunningMean().update(every)
        for stream in (left, right):
            assert stream.mean == pytest.approx(whole.mean, rel=1e-15, abs=1e-15)
            assert stream.variance == pytest.approx(whole.variance, rel=1e-12)
            if len(every) > 9:
                assert stream.skewness == pytest.approx(whole.skewness, abs=1e-11)
                assert stream.kurtosis == pytest.approx(whole.kurtosis, rel=1e-11)


def test_counts_beyond_32_bits_stay_exact():
    stream = RunningMean().update([1.0, 3.0])
    for _ in range(34):
        stream.merge(RunningMean.from_bytes(stream.to_bytes()))
    assert stream.count == 2**35
    assert stream.total_weight == 2.0**35
    assert (stream.mean, stream.var(0)) == (2.0, 1.0)
    stream.update_one(2.0)
    assert stream.count == 2**35 + 1


def test_one_by_one_is_the_same():
    values = np.random.default_rng(0).standard_normal(1000)
    stream = RunningMean()
    for value in values:
        stream.update_one(value)
    assert stream.count == 1000
    check(stream, values)


@pytest.mark.parametrize("columns", [None, 3])
def test_weights_repeat_and_zero_drops(columns):
    rng = np.random.default_rng(1)
    values = rng.standard_normal(500 if columns is None else (500, columns)) + 5.0
    weights = rng.integers(0, 4, 500)
    stream = RunningMean(columns).update(values, weights=weights)
    repeated = RunningMean(columns).update(np.repeat(values, weights, axis=0))
    assert stream.total_weight == repeated.count == weights.sum()
    for name in ("mean", "variance", "skewness", "kurtosis", "min", "max"):
        np.testing.assert_allclose(getattr(stream, name), getattr(repeated, name), rtol=1e-11)
    if columns:
        np.testing.assert_allclose(stream.covariance, repeated.covariance, rtol=1e-11)
    spoiled = values.copy()
    spoiled[weights == 0] = np.nan
    assert np.all(RunningMean(columns).update(spoiled, weights=weights).mean == stream.mean)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_covariance_is_numpys(d):
    rng = np.random.default_rng(d)
    rows = rng.standard_normal((9001, d)) @ rng.standard_normal((d, d)) + 1e4
    stream = RunningMean(d).update(rows[:7]) + RunningMean(d).update(rows[7:])
    stream.update(rows[0])
    every = np.concatenate([rows, rows[:1]])
    np.testing.assert_allclose(stream.covariance, np.cov(every.T).reshape(d, d), rtol=1e-10)
    np.testing.assert_allclose(stream.mean, every.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(stream.variance, np.diag(stream.covariance), rtol=1e-12)


@pytest.mark.parametrize("place", [0, 2047, 2048, 4999])
def test_nan_as_the_policy_says(place):
    values = np.random.default_rng(2).standard_normal(5000)
    values[place] = np.nan
    stream = RunningMean().update([1.0])
    with pytest.raises(ValueError, match="1 NaN"):
        stream.update(values)
    with pytest.raises(ValueError, match="1 NaN"):
        stream.update_one(np.nan)
    assert (stream.count, stream.mean) == (1, 1.0)
    omit = RunningMean(nan_policy="omit").update(values)
    assert (omit.count, omit.missing) == (4999, 1)
    check(omit, np.delete(values, place))
    spoiled = RunningMean(nan_policy="propagate").update(values).update([1.0, 2.0])
    assert spoiled.count == 5002
    assert math.isnan(spoiled.mean)
    assert math.isnan(spoiled.variance)
    assert math.isnan(spoiled.max)
    rows = np.ones((4, 2))
    rows[1, 0] = np.nan
    table = RunningMean(2, nan_policy="omit").update(rows)
    assert (table.count, table.missing) == (3, 1)
    assert np.isnan(RunningMean(2, nan_policy="propagate").update(rows).covariance).all()


def test_infinities_and_overflow():
    stream = RunningMean().update([1.0, np.inf, 2.0])
    assert stream.mean == stream.max == np.inf
    assert math.isnan(stream.variance)
    stream.update([-np.inf])
    assert math.isnan(stream.mean)
    large = RunningMean().update([1.7e308, 1.7e308, 1.6e308])
    assert large.mean == pytest.approx(5 / 3 * 1e308)


def test_nothing_one_and_constants():
    empty = RunningMean()
    assert empty.count == 0
    assert math.isnan(empty.mean)
    assert math.isnan(empty.variance)
    assert empty.update([]).count == 0
    one = RunningMean().update(3.0)
    assert one.mean == 3.0
    assert math.isnan(one.variance)
    assert RunningMean().update(np.full(5000, 0.1)).variance == 0.0
    assert math.isnan(RunningMean().update([2.0, 2.0]).skewness)


@pytest.mark.parametrize("columns", [None, 2])
def test_state_is_small_and_comes_back(columns):
    rng = np.random.default_rng(3)
    stream = RunningMean(columns, nan_policy="omit")
    stream.update(rng.standard_normal(100 if columns is None else (100, columns)))
    state = stream.to_bytes()
    assert len(state) <= 128 or columns
    for again in (RunningMean.from_bytes(state), pickle.loads(pickle.dumps(stream))):
        assert again.to_bytes() == state
        assert again.nan_policy == "omit"
        assert repr(again) == repr(stream)
    for wrong in (b"", b"xxxx" + state[4:], state[:-1]):
        with pytest.raises(ValueError, match="bytes"):
            RunningMean.from_bytes(wrong)


def test_bad_arguments_say_what_to_do():
    for make, words in [
        (lambda: RunningMean(0), "columns=0"),
        (lambda: RunningMean(nan_policy="skip"), "none of raise"),
        (lambda: RunningMean(2).update(np.ones((3, 3))), r"give \(n, 2\)"),
        (lambda: RunningMean().update([1.0], weights=[1.0, 2.0]), "2 weights for 1"),
        (lambda: RunningMean().update([1.0], weights=[-1.0]), "weight is -1"),
        (lambda: RunningMean().merge(RunningMean(2)), "same columns"),
        (lambda: RunningMean().covariance, "no covariance"),
        (lambda: rolling([1.0], 2), "does not fit 1"),
        (lambda: rolling([[1.0]], 1), "one dimension"),
    ]:
        with pytest.raises(ValueError, match=words):
            make()


def test_read_only_arrays_and_odd_strides():
    values = np.random.default_rng(4).standard_normal(140_001)
    expected = RunningMean().update(values)
    frozen = values.copy()
    frozen.flags.writeable = False
    assert RunningMean().update(frozen).mean == pytest.approx(expected.mean, rel=1e-13)
    check(RunningMean().update(values[:3000:3].astype(np.float32)),
          values[:3000:3].astype(np.float32).astype(float))  # fmt: skip


def test_files_larger_than_a_piece(tmp_path):
    values = np.random.default_rng(5).standard_normal((70_003, 2)).round(6)
    np.save(tmp_path / "x.npy", values)
    lines = "\n".join(f"{a},t{i % 3},{b}" for i, (a, b) in enumerate(values[:3000].tolist()))
    (tmp_path / "x.csv").write_text(f'a,"kind",b\n{lines}\n')
    seen = []
    table = RunningMean(2).read(tmp_path / "x.npy", progress=lambda *done: seen.append(done))
    np.testing.assert_allclose(table.mean, values.mean(axis=0), rtol=1e-11)
    assert seen == [(65536, 70003), (70003, 70003)]
    assert RunningMean().read(tmp_path / "x.csv", "b").mean == pytest.approx(
        values[:3000, 1].mean(), rel=1e-12
    )
    assert RunningMean().read(iter(values[:9000, 0].tolist())).count == 9000
    assert RunningMean(2).read(iter([values[:5], values[5:9]])).count == 9
    with pytest.raises(ValueError, match="no column 'c' among a, kind, b"):
        RunningMean().read(tmp_path / "x.csv", "c")
    with pytest.raises(ValueError, match="line 2"):
        RunningMean().read(tmp_path / "x.csv", "kind")
    with pytest.raises(ValueError, match="no such file"):
        RunningMean().read(tmp_path / "y.csv")
    with pytest.raises(ValueError, match="no known kind"):
        RunningMean().read(tmp_path / "y.txt")


def test_an_empty_cell_is_missing(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n3,\n\n5,6\n")
    stream = RunningMean(nan_policy="omit").read(tmp_path / "x.csv", "b")
    assert (stream.count, stream.missing, stream.mean) == (2, 1, 4.0)


@pytest.mark.parametrize("window", [1, 2, 7, 50, 1000])
def test_rolling_windows_are_exact(window):
    values = np.random.default_rng(6).standard_normal(1000)
    values[10], values[500] = 1e12, np.nan
    means, variances = rolling(values, window)
    views = np.lib.stride_tricks.sliding_window_view(values, window)
    np.testing.assert_allclose(means, views.mean(axis=1), rtol=1e-12, atol=1e-12)
    if window > 1:
        np.testing.assert_allclose(variances, views.var(axis=1, ddof=1), rtol=1e-10)
    assert np.isnan(means).sum() == min(window, 500, len(means))


@pytest.mark.peers
def test_peers_agree():
    stats = pytest.importorskip("river.stats", reason="river is not installed")
    scipy_stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(7).gamma(3.0, size=3000) + 100.0
    stream, var = RunningMean().update(values), stats.Var()
    for value in values:
        var.update(value)
    assert stream.variance == pytest.approx(var.get(), rel=1e-10)
    assert stream.skewness == pytest.approx(scipy_stats.skew(values), rel=1e-9)
    assert stream.kurtosis == pytest.approx(scipy_stats.kurtosis(values), rel=1e-9)


def test_the_oracle_catches_a_mean_of_one_float(monkeypatch):
    # A planted bug: the second half of the mean is dropped at every merge.
    values = np.random.default_rng(8).standard_normal(3_000) * 1e-6 + 1e9
    parts = np.array_split(values, 1000)

    def error():
        stream = sum(RunningMean().update(part) for part in parts)
        return abs(Fraction(stream._states[0, 1]) + Fraction(stream._states[0, 2])
                   - exact(values)[0])  # fmt: skip

    good = error()
    plain = _moments.merge

    def careless(a, b):
        plain(a, b)
        a[_moments.LO] = 0.0

    monkeypatch.setattr(_moments, "merge", careless)
    assert error() > 100 * good
