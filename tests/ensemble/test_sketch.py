import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paragone.ensemble._sketch import summarise


def true_rank_gap(values, weight, answer, wanted):
    """How far the wanted rank lies outside the ranks that `answer` truly covers."""
    below = weight[values < answer].sum()
    upto = weight[values <= answer].sum()
    return max(below - wanted, wanted - upto, 0.0)


def check(summary, values, weight):
    total = weight.sum()
    assert summary.total == pytest.approx(total)
    for x, low, high, own in zip(
        summary.values, summary.low, summary.high, summary.weight, strict=True
    ):
        slack = 1e-9 * total
        assert low <= weight[values < x].sum() + slack
        assert high >= weight[values <= x].sum() - slack
        assert own <= weight[values == x].sum() + slack
    for share in np.linspace(0, 1, 23):
        gap = true_rank_gap(values, weight, summary.query(share), share * total)
        heaviest = max(weight[values == x].sum() for x in np.unique(values))
        assert gap <= summary.error * total + heaviest + 1e-9 * total


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 200), st.integers(3, 20), st.integers(1, 5))
def test_ranks_stay_within_the_proven_error(seed, n, size, blocks):
    rng = np.random.default_rng(seed)
    values = np.round(rng.normal(size=n * blocks), rng.integers(0, 3))
    weight = rng.exponential(size=n * blocks) * (rng.random(n * blocks) < 0.9)
    weight[0] = 1.0
    whole = None
    for block in np.array_split(np.arange(n * blocks), blocks):
        one = summarise(values[block], weight[block]).prune(size)
        whole = one if whole is None else whole.merge(one).prune(size)
    assert len(whole.values) <= size + 1
    check(whole, values[weight > 0], weight[weight > 0])


def test_a_block_is_exact_and_merging_blocks_too():
    rng = np.random.default_rng(0)
    values, weight = np.round(rng.normal(size=500), 1), rng.uniform(1, 2, 500)
    whole = summarise(values, weight)
    merged = summarise(values[:200], weight[:200]).merge(summarise(values[200:], weight[200:]))
    assert whole.error == merged.error == 0
    for name in ("values", "low", "high", "weight"):
        assert getattr(merged, name) == pytest.approx(getattr(whole, name))
    assert whole.high - whole.low == pytest.approx(whole.weight)


def test_empty_input():
    nothing = summarise(np.zeros(0), np.zeros(0))
    some = summarise(np.ones(3), np.ones(3))
    assert nothing.total == 0
    assert nothing.merge(some) is some
    assert some.merge(nothing) is some
