"""Sampling: each filter by hand, compiled draws against the definition, and their frequencies."""

import numpy as np
import pytest
from scipy import stats

from paragone.kernels import backends
from paragone.language import sampling
from paragone.language.sampling import Sampling, log_probability, uniform

FLAT = np.log(np.array([0.1, 0.4, 0.2, 0.25, 0.05], np.float32))


def kept(**options) -> list[int]:
    return np.flatnonzero(Sampling(seed=0, **options).probabilities(FLAT)).tolist()


def test_filters_by_hand():
    assert kept() == [0, 1, 2, 3, 4]
    assert kept(top_k=2) == [1, 3]
    assert kept(top_k=0) == kept(top_k=99) == [0, 1, 2, 3, 4]
    assert kept(top_p=0.4) == [1]
    assert kept(top_p=0.41) == [1, 3]
    assert kept(top_p=0.0) == kept(top_p=0) == [1]
    assert kept(top_p=1.0) == kept(top_p=1) == [0, 1, 2, 3, 4]
    assert kept(min_p=0.45) == [1, 2, 3]
    assert kept(min_p=1.0) == [1]
    # Surprise is nearest to the entropy, 1.415, at 0.25 (1.386), then at 0.2 (1.609).
    assert kept(typical_p=0.3) == [2, 3]
    # After the first two, 0.4 and 0.25, are left, top_p looks at 0.4 / 0.65 = 0.615.
    assert kept(top_k=2, top_p=0.61) == [1]
    assert kept(top_k=2, top_p=0.62) == [1, 3]


def test_probabilities_by_hand():
    p = np.exp(FLAT.astype(float))
    np.testing.assert_allclose(Sampling(1.0).probabilities(FLAT), p, rtol=1e-6)
    np.testing.assert_allclose(Sampling(0.5).probabilities(FLAT), p**2 / (p**2).sum(), rtol=1e-6)
    thin = Sampling(1.0, top_k=2).probabilities(FLAT)
    np.testing.assert_allclose(thin, [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0], rtol=1e-6)


def test_penalties_by_hand():
    logits = np.array([2.0, -1.0, 0.5, 3.0])
    given = Sampling(repetition_penalty=2.0, presence_penalty=0.25, frequency_penalty=0.5,
                     logit_bias={2: -np.inf, 0: 1.0})  # fmt: skip
    # Tokens 0 and 1 are the prompt's; 1 was generated twice, 3 once.
    found = given.scores(logits, [0, 1, 1, 1, 3], prompt=2)
    np.testing.assert_allclose(
        found, [2 / 2 + 1, -1 * 2 - 0.25 - 2 * 0.5, -np.inf, 3 / 2 - 0.25 - 0.5]
    )


def test_ties_go_to_the_lowest_id():
    even = np.zeros(6, np.float32)
    assert Sampling(0).pick(even)[0] == 0
    assert Sampling(0, logit_bias={0: -1.0}).pick(even)[0] == 1
    assert np.flatnonzero(Sampling(1, top_k=2).probabilities(even)).tolist() == [0, 1]
    for step in range(20):
        assert Sampling(1, top_k=2, seed=step).pick(even, (), step)[0] in (0, 1)
        assert Sampling(1, top_p=0.0, seed=step).pick(even, (), step)[0] == 0


@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 1009])
def test_compiled_draws_are_those_of_the_definition(size):
    rng = np.random.default_rng(size)
    for case in range(40):
        logits = rng.standard_normal(size).astype(np.float32) * rng.choice([0.1, 1, 5])
        logits = np.round(logits) if case % 3 == 0 else logits
        history = rng.integers(0, size, 12)
        options = {
            "top_k": (None, 1, 5, size)[rng.integers(4)],
            "top_p": (None, 0, 0.3, 0.9, 1)[rng.integers(5)],
            "min_p": (None, 0.1, 1)[rng.integers(3)],
            "typical_p": (None, None, 0.2, 0.9)[rng.integers(4)],
            "temperature": float(rng.choice([0, 0.5, 1, 2])),
        }
        if case % 2:
            options |= {"repetition_penalty": 1.3, "presence_penalty": 0.3,
                        "frequency_penalty": -0.2, "logit_bias": {size - 1: 1.5}}  # fmt: skip
        given = Sampling(seed=case, **options)
        p = given.probabilities(logits, history, 4)
        edges = np.cumsum(p)
        for step in range(4):
            token, log_prob = given.pick(logits, history, step, 4)
            u = uniform(given.key, step) if given.temperature else 0.5
            assert p[token] > 0
            assert edges[token] - p[token] - 1e-5 <= u <= edges[token] + 1e-5
            wanted = log_probability(logits, token, given.temperature)
            assert log_prob == pytest.approx(wanted, abs=1e-5)


def test_frequencies():
    given = Sampling(0.8, top_p=0.9, seed=5)
    p = given.probabilities(FLAT)
    drawn = np.bincount([given.pick(FLAT, (), step)[0] for step in range(4000)], minlength=5)
    assert drawn[p == 0].sum() == 0
    assert stats.chisquare(drawn[p > 0], 4000 * p[p > 0]).pvalue > 1e-3


def test_draws_are_even_and_free_of_each_other():
    draws = np.array([[uniform(seed, step) for step in range(200)] for seed in range(50)])
    assert stats.kstest(draws.reshape(-1), "uniform").pvalue > 1e-3
    pairs = np.corrcoef(draws[:, :-1].reshape(-1), draws[:, 1:].reshape(-1))[0, 1]
    seeds = np.corrcoef(draws[:-1].reshape(-1), draws[1:].reshape(-1))[0, 1]
    assert abs(pairs) < 0.04
    assert abs(seeds) < 0.04
    assert uniform(-1, 0) == uniform(2**64 - 1, 0) != uniform(0, 0)


def test_without_a_compiler_the_draw_is_the_same(monkeypatch):
    given = Sampling(0.7, top_k=4, seed=3)
    compiled = [given.pick(FLAT, [1], step)[0] for step in range(50)]
    monkeypatch.setattr(sampling, "why_not", lambda name: "off")
    assert [given.pick(FLAT, [1], step)[0] for step in range(50)] == compiled
    assert backends.why_not("numba") is None


@pytest.mark.parametrize(
    "options",
    [{"temperature": -1}, {"temperature": np.inf}, {"temperature": np.nan}, {"top_k": -1},
     {"top_p": 1.1}, {"min_p": -0.1}, {"typical_p": 2}, {"repetition_penalty": 0}],
    ids=str,
)  # fmt: skip
def test_what_is_out_of_range_is_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Sampling(**options)


def test_a_seed_is_drawn_where_none_is_given():
    assert Sampling().key != Sampling().key
    assert Sampling(seed=4).key == 4
    assert Sampling(seed=-1).key == 2**64 - 1
