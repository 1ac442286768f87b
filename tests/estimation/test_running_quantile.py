"""Running quantiles against the sorted array, the proved bounds, and the published table of P2."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paragone.estimation import RunningQuantile, _sketch
from paragone.estimation._compactor import Compactor

# Jain and Chlamtac (1985), table I: the observations, and the median after each from the sixth
# on as the algorithm of box 1 gives it (the table prints two decimals: 0.74 ... 4.44); heights of
# all markers at the end. The table's misprints (0.5 for 0.15) are those known to its users.
TABLE = [0.02, 0.15, 0.74, 3.39, 0.83, 22.37, 10.15, 15.43, 38.62, 15.92, 34.60, 10.28, 1.47, 0.40,
         0.05, 11.39, 0.27, 0.42, 0.09, 11.37]  # fmt: skip
MEDIANS = [0.74, 0.74, 0.74, 2.178333333, 4.752685185, 4.752685185, 9.274704861, 9.274704861,
           9.274704861, 9.274704861, 6.297302001, 6.297302001, 6.297302001, 6.297302001,
           4.440634353, 4.440634353]  # fmt: skip
MARKERS = [0.02, 0.493895, 4.44063, 17.2039, 38.62]
PLACES = [1, 6, 10, 16, 20]
Q = np.linspace(0, 1, 201)


def streams(n, seed=0):
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal(n)
    return {
        "normal": normal,
        "sorted": np.sort(normal),
        "reversed": np.sort(normal)[::-1],
        "ties": rng.integers(0, 3, n).astype(float),
        "constant": np.full(n, 7.0),
        "wide": rng.lognormal(0, 20, n) * rng.choice([-1.0, 1.0], n),
        "zigzag": np.where(np.arange(n) % 2, normal, 100 - normal),
    }


def rank_errors(stream, values):
    """Largest error of a rank, as a share; a quantile may be anywhere among equal numbers."""
    ordered = np.sort(values)
    at = np.quantile(values, Q, method="inverted_cdf")
    true = np.searchsorted(ordered, at, side="right") / len(values)
    found = stream.quantile(Q)
    low = np.searchsorted(ordered, found, side="left") / len(values)
    high = np.searchsorted(ordered, found, side="right") / len(values)
    by_quantile = np.maximum(low - Q, Q - high).clip(0)
    return max(np.abs(stream.cdf(at) - true).max(), by_quantile.max())


@pytest.mark.parametrize("kind", streams(10))
@pytest.mark.parametrize("relative_error", [0.3, 0.005, 1e-4])
def test_histogram_keeps_its_relative_error(kind, relative_error):
    values = streams(3001)[kind]
    stream = RunningQuantile(relative_error=relative_error)
    for part in np.split(values, [0, 1, 64, 65]):
        stream.update(part)
    true = np.quantile(values, Q, method="inverted_cdf")
    assert (np.abs(stream.quantile(Q) - true) <= relative_error * np.abs(true)).all()
    assert stream.quantile(0.0) == stream.min == values.min()
    assert stream.quantile(1.0) == stream.max == values.max()


def test_zeros_negatives_subnormals_and_infinities():
    tiny, huge = 5e-324, np.finfo(float).max
    values = np.array([-np.inf, -huge, -1.0, -2.3e-308, -tiny, -0.0, 0.0, 0.0, tiny, 1e-310,
                       2.3e-308, 1e-300, 1.0, huge, np.inf])  # fmt: skip
    stream = RunningQuantile(relative_error=0.005).update(values[::-1])
    for rank, value in enumerate(values, 1):
        found = stream.quantile(rank / len(values))
        if math.isinf(value):
            assert found == value
        else:
            assert abs(found - value) <= max(0.005 * abs(value), 2.3e-308)
    assert stream.cdf(0.0) == 10 / 15 or stream.cdf(0.0) == 8 / 15
    assert stream.rank([-np.inf, np.inf]).tolist() == [1, 15]
    only = RunningQuantile().update([0.0, np.inf])
    assert only.quantile([0.5, 1.0]).tolist() == [0.0, np.inf]


def test_histogram_ranks():
    values = np.random.default_rng(1).standard_normal(20_000)
    stream = RunningQuantile(relative_error=0.001).update(values)
    at = np.linspace(-3, 3, 50)
    true = np.searchsorted(np.sort(values), at, side="right")
    assert np.abs(stream.rank(at) - true).max() < 15
    assert stream.rank([-9.0, 9.0]).tolist() == [0, 20_000]


@pytest.mark.parametrize("kind", streams(10))
@pytest.mark.parametrize("n", [1, 255, 256, 257, 5003, 300_007])
def test_kll_keeps_its_rank_error(kind, n):
    values = streams(n)[kind]
    stream = RunningQuantile("kll").update(values)
    assert stream._engine.items()[1].sum() == stream.count == n
    assert rank_errors(stream, values) <= (stream.rank_error if n >= 256 else 1e-12)
    assert (stream.min, stream.max) == (values.min(), values.max())
    assert len(stream.to_bytes()) < 24_000


def test_kll_rank_error_is_within_the_bound_in_99_of_100_streams():
    # benchmarks/approximation.py does the same with 10,000 streams.
    rng = np.random.default_rng(2)
    values = np.sort(rng.random(20_000))
    at = np.quantile(values, 0.37, method="inverted_cdf")
    true = np.searchsorted(values, at, side="right") / len(values)
    errors = []
    for seed in range(200):
        stream = RunningQuantile("kll", random_state=seed).update(values)
        errors.append(stream.cdf(at) - true)
    assert RunningQuantile("kll").rank_error <= 0.0133
    assert np.mean(np.abs(errors) <= 0.0133) >= 0.99
    assert abs(np.mean(errors)) < 4 * np.std(errors) / 200**0.5 + 1e-9


def test_kll_far_beyond_its_levels():
    # With k=8 the sampler works from some thousands on.
    values = np.random.default_rng(3).standard_normal(400_000)
    stream = RunningQuantile("kll", k=8).update(values[:7])
    for part in np.array_split(values[7:], 13):
        stream.update(part)
    assert stream._engine.height >= 4
    assert stream._engine.items()[1].sum() == stream.count == 400_000
    assert rank_errors(stream, values) <= stream.rank_error
    assert len(stream.to_bytes()) < 8000


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.sampled_from([0, 1, 63, 64, 65, 997, 20_011, 66_001]), min_size=1, max_size=5),
    st.sampled_from(["kll", "histogram"]),
)
def test_merging_keeps_weights_and_bounds(seed, sizes, method):
    rng = np.random.default_rng(seed)
    parts = [rng.standard_normal(n) * 10.0 ** rng.integers(-3, 3) for n in sizes]
    made = [RunningQuantile(method, k=20).update(part) for part in parts]
    before = [one.to_bytes() for one in made]
    stream = sum(made)
    assert [one.to_bytes() for one in made] == before
    values = np.concatenate(parts)
    assert stream.count == len(values)
    if method == "histogram":
        whole = RunningQuantile().update(values)
        assert len(values) == 0 or (whole.quantile(Q) == stream.quantile(Q)).all()
    elif len(values):
        assert stream._engine.items()[1].sum() == len(values)
        assert rank_errors(stream, values) <= 1.5 * stream.rank_error


def test_the_same_seed_gives_the_same_state():
    values = np.random.default_rng(4).standard_normal(100_000)
    states = {seed: RunningQuantile("kll", random_state=seed).update(values).to_bytes()
              for seed in (0, 1)}  # fmt: skip
    assert RunningQuantile("kll", random_state=0).update(values).to_bytes() == states[0]
    assert states[0] != states[1]


def test_parts_with_the_same_seed_do_not_err_alike():
    # 64 parts whose coins fell alike would add their errors up; the bound would be left behind.
    values = np.random.default_rng(5).permutation(64 * 600).astype(float)
    stream = sum(RunningQuantile("kll").update(part) for part in np.array_split(values, 64))
    assert rank_errors(stream, values) <= stream.rank_error


def test_p2_is_the_published_table():
    stream = RunningQuantile("p2")
    found = []
    for value in TABLE:
        stream.update_one(value)
        found.append(stream.quantile(0.5))
    assert found[4:] == pytest.approx(MEDIANS, rel=1e-9)
    assert stream._engine.heights[0] == pytest.approx(MARKERS, rel=1e-5)
    assert stream._engine.places[0].tolist() == PLACES
    whole = RunningQuantile("p2", quantiles=[0.5, 0.9]).update(TABLE)
    assert whole.quantile(0.5) == found[-1]


def test_p2_with_few_numbers_is_the_sample_quantile():
    for n in range(1, 6):
        values = TABLE[:n][::-1]
        stream = RunningQuantile("p2", quantiles=(0.1, 0.5, 0.9)).update(values)
        for q in (0.1, 0.5, 0.9):
            assert stream.quantile(q) == np.quantile(values, q, method="inverted_cdf")


def test_p2_comes_near_and_refuses_the_rest():
    values = np.random.default_rng(6).standard_normal(50_000)
    stream = RunningQuantile("p2", quantiles=(0.1, 0.9)).update(values)
    for q in (0.1, 0.9):
        assert stream.quantile(q) == pytest.approx(np.quantile(values, q), abs=0.02)
    with pytest.raises(ValueError, match="cannot be joined"):
        stream.merge(stream)
    with pytest.raises(ValueError, match="name it at the start"):
        stream.quantile(0.5)
    with pytest.raises(ValueError, match="knows no ranks"):
        stream.cdf(0.0)


@pytest.mark.parametrize("method", ["histogram", "kll", "p2"])
def test_nan_as_the_policy_says(method):
    values = np.random.default_rng(7).standard_normal(3000)
    values[[5, 2999]] = np.nan
    stream = RunningQuantile(method)
    frozen = values.copy()
    frozen.flags.writeable = False
    for bad in (values, frozen):
        with pytest.raises(ValueError, match="2 NaN"):
            stream.update(bad)
    with pytest.raises(ValueError, match="1 NaN"):
        stream.update_one(np.nan)
    assert stream.count == 0
    assert math.isnan(stream.quantile(0.5))
    omit = RunningQuantile(method, nan_policy="omit").update(values)
    assert (omit.count, omit.missing) == (2998, 2)
    assert omit.quantile(0.5) == RunningQuantile(method).update(values[~np.isnan(values)]).quantile(
        0.5
    )
    spoiled = RunningQuantile(method, nan_policy="propagate").update(values)
    assert math.isnan(spoiled.quantile(0.5))
    assert math.isnan(spoiled.min)


@pytest.mark.parametrize("method", ["histogram", "kll", "p2"])
@pytest.mark.parametrize("n", [0, 3, 70, 9001])
def test_state_comes_back(method, n):
    values = np.random.default_rng(8).standard_normal(n)
    stream = RunningQuantile(method, nan_policy="omit", random_state=5).update(values)
    state = stream.to_bytes()
    again = pickle.loads(pickle.dumps(stream))
    more = np.random.default_rng(9).standard_normal(2000)
    assert again.update(more).to_bytes() == stream.update(more).to_bytes()
    assert repr(again) == repr(stream)
    for wrong in (b"", b"xxxx" + state[4:], state[:-3]):
        with pytest.raises(ValueError, match=r"no RunningQuantile|cut short"):
            RunningQuantile.from_bytes(wrong)


def test_one_by_one_and_from_a_file(tmp_path):
    values = np.random.default_rng(10).standard_normal(2000).round(4)
    one = RunningQuantile("histogram")
    for value in values:
        one.update_one(value)
    (tmp_path / "x.csv").write_text("v\n" + "\n".join(map(str, values.tolist())))
    read = RunningQuantile("histogram").read(tmp_path / "x.csv", "v")
    assert one.to_bytes() == read.to_bytes()


def test_bad_arguments_say_what_to_do():
    some = RunningQuantile("kll").update([1.0])
    for make, words in [
        (lambda: RunningQuantile("gk"), "none of histogram, kll, p2"),
        (lambda: RunningQuantile(relative_error=0.0), "within 1e-5 and 0.5"),
        (lambda: RunningQuantile("kll", k=3), "within 8 and 65535"),
        (lambda: RunningQuantile("p2", quantiles=[1.0]), "within 0 and 1"),
        (lambda: RunningQuantile(nan_policy="drop"), "none of raise"),
        (lambda: some.quantile(1.5), "no probability"),
        (lambda: some.rank(np.nan), "no rank"),
        (lambda: some.merge(RunningQuantile("kll", k=100)), "same method and accuracy"),
        (lambda: some.merge(RunningQuantile()), "same method and accuracy"),
        (lambda: RunningQuantile().rank_error, "bounds no rank"),
    ]:
        with pytest.raises(ValueError, match=words):
            make()


@pytest.mark.peers
def test_datasketches_is_no_better():
    datasketches = pytest.importorskip("datasketches", reason="datasketches is not installed")
    values = np.random.default_rng(11).standard_normal(100_000)
    ours, theirs = [], []
    true = np.searchsorted(np.sort(values), 0.0) / len(values)
    for seed in range(30):
        peer = datasketches.kll_doubles_sketch(200)
        peer.update(values)
        theirs.append(peer.get_rank(0.0) - true)
        ours.append(RunningQuantile("kll", random_state=seed).update(values).cdf(0.0) - true)
    assert np.std(ours) < 1.5 * np.std(theirs)


def test_the_oracle_catches_coins_that_always_fall_alike(monkeypatch):
    # A planted bug: always the second of two is kept. Ranks drift to one side.
    values = np.random.default_rng(12).permutation(300_000).astype(float)
    good = RunningQuantile("kll").update(values[:200_000])
    plain = _sketch.add_runs

    def loaded(runs, halved, level, half, half_full, levels, full, random):
        for run in runs:
            random[0] = np.uint64(0xFFFFFFFFFFFFFFFF)
            plain(run[None], halved, level, half, half_full, levels, full, random)

    monkeypatch.setattr(_sketch, "add_runs", loaded)
    biased = Compactor(200, 0)
    biased.take(values[:200_000])
    at = np.linspace(20_000, 280_000, 40)
    true = np.searchsorted(np.sort(values[:200_000]), at, side="right")
    drift = (biased.ranks(at) - true) / 200_000
    fair = good.cdf(at) - true / 200_000
    assert abs(drift.mean()) > 3 * abs(fair.mean())
