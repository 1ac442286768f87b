"""Closed forms against the simulator, the simulator against a slow one, fits against the truth."""

import heapq
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paragone.training.collectives import (
    ALGORITHMS,
    Machine,
    Timing,
    bandwidth,
    choose,
    coefficients,
    cost,
    fit,
    simulate,
)  # fmt: skip
from paragone.training.collectives.costs import best_chunks, default_chunks
from paragone.training.collectives.schedules import schedule

FLAT = Machine(alpha=5e-6, beta=4e-11, gamma=1e-11)
NODES = Machine(
    alpha=5e-6, beta=4e-11, gamma=1e-11, ranks_per_node=4, local_alpha=1e-6, local_beta=5e-12
)


def flat_cost(name, p, n, machine=FLAT, chunks=None):
    return cost(name, ranks=p, bytes=n, alpha=machine.alpha, beta=machine.beta,
                gamma=machine.gamma, chunks=chunks)  # fmt: skip


def slow(name, p, n, machine, chunks=1, start=None):
    """The model of `simulation` with one event after the other, in Python; the oracle."""
    plan = schedule(name, p, chunks=chunks, ranks_per_node=machine.ranks_per_node)
    ready = [0.0] * p if start is None else list(start)
    cards = {}
    for adds, rounds in ((True, plan.reduce), (False, plan.spread)):
        for one in (part for part in rounds for _ in range(part.repeat)):
            out, into = list(ready), list(ready)
            pairs = zip(one.source, one.target, strict=True)
            queue = [(ready[s], i, s, t) for i, (s, t) in enumerate(pairs)]
            heapq.heapify(queue)
            size = one.width * n / plan.blocks
            while queue:
                _, _, s, t = heapq.heappop(queue)
                a, b = (rank // machine.ranks_per_node for rank in (s, t))
                if a == b and machine.ranks_per_node > 1:
                    begin = max(out[s], into[t])
                    end = begin + machine.inside[0] + size * machine.inside[1]
                else:
                    ways = [("out", a), ("in", b)]
                    begin = max(out[s], into[t], *(cards.get(way, 0.0) for way in ways))
                    cards.update(dict.fromkeys(ways, begin + size * machine.nic))
                    end = begin + machine.alpha + size * max(machine.beta, machine.nic)
                out[s], into[t] = end, end + adds * size * machine.gamma
            ready = list(map(max, out, into))
    return ready


@pytest.mark.parametrize("p", [1, 2, 3, 4, 5, 8, 12, 17, 64, 100])
@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "hierarchical"])
def test_closed_forms_are_what_the_simulator_takes_on_equal_links(name, p):
    for n in (0, 1000, 3_000_000):
        for chunks in (1, 7) if name == "tree" else (None,):
            run = simulate(name, ranks=p, bytes=n, machine=FLAT, chunks=chunks)
            formula = flat_cost(name, p, n, chunks=chunks)
            if name == "tree":
                assert run.seconds <= formula * (1 + 1e-9)
                assert run.seconds >= 0.6 * formula
            elif name == "bcube":
                assert run.seconds == pytest.approx(formula, rel=0.35)
            else:
                assert run.seconds == pytest.approx(formula, rel=1e-9)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_simulator_agrees_with_the_slow_one(name):
    rng = np.random.default_rng(4)
    for p in (4, 8, 12, 20):
        for n in (100, 10**6):
            for start in (None, rng.exponential(1e-5, p)):
                run = simulate(name, ranks=p, bytes=n, machine=NODES, chunks=3, start=start)
                assert run.finish == pytest.approx(slow(name, p, n, NODES, 3, start), rel=1e-9)
    if name == "ring":
        late = np.zeros(8)
        late[3] = 1.0
        assert simulate(name, ranks=8, bytes=100, machine=NODES, start=late).seconds > 1.0


def test_shared_cards_slow_halving_down_and_rings_use_one_flow_a_node():
    fast = Machine(alpha=1e-6, beta=4e-11, ranks_per_node=8, local_alpha=1e-6, local_beta=1e-12)
    n = 1 << 28
    times = {a: simulate(a, ranks=64, bytes=n, machine=fast).seconds for a in ALGORITHMS}
    assert times["hierarchical"] < times["ring"] < times["halving_doubling"] < times["naive"]
    ring = simulate("ring", ranks=64, bytes=n, machine=fast)
    assert ring.network_bytes == pytest.approx(8 * 2 * 63 / 64 * n)
    levels = simulate("hierarchical", ranks=64, bytes=n, machine=fast)
    assert levels.network_bytes == pytest.approx(64 * 2 * 7 / 8 * n / 8)
    assert ring.messages == 64 * 126


def test_thousands_of_ranks_are_followed_exactly():
    for name in ("ring", "halving_doubling", "tree"):
        run = simulate(name, ranks=4096, bytes=1 << 20, machine=FLAT)
        chunks = best_chunks(4096, 1 << 20, FLAT.alpha, FLAT.beta + FLAT.gamma / 2)
        assert run.seconds == pytest.approx(
            flat_cost(name, 4096, 1 << 20, chunks=chunks), rel=0.05 if name == "tree" else 1e-9
        )


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(ALGORITHMS), p=st.integers(1, 300), n=st.integers(0, 10**9),
    more=st.integers(1, 10**6), alpha=st.floats(1e-7, 1e-3), beta=st.floats(1e-12, 1e-8),
    gamma=st.sampled_from([0.0, 1e-10]),
)  # fmt: skip
def test_costs_grow_with_the_size(name, p, n, more, alpha, beta, gamma):
    if name == "bcube" and max([1, *(f for f in range(2, p + 1) if p % f == 0
                                     and all(f % d for d in range(2, f)))]) > 64:  # fmt: skip
        with pytest.raises(ValueError, match="prime factor"):
            cost(name, ranks=p, bytes=n, alpha=alpha, beta=beta)
        return
    options = {"ranks": p, "alpha": alpha, "beta": beta, "gamma": gamma}
    small, large = cost(name, bytes=n, **options), cost(name, bytes=n + more, **options)
    assert 0 <= small <= large * (1 + 1e-12)
    assert (p == 1) == (large == 0)


def test_known_values():
    assert cost("ring", ranks=4, bytes=1e6, alpha=1e-3, beta=1e-9) == pytest.approx(7.5e-3)
    assert cost("halving_doubling", ranks=8, bytes=800, alpha=1, beta=0.01) == pytest.approx(20.0)
    assert cost("halving_doubling", ranks=5, bytes=400, alpha=1, beta=0, gamma=0) == 6
    assert cost("naive", ranks=3, bytes=10, alpha=1, beta=1, gamma=2) == 4 * 11 + 2 * 20
    assert cost("tree", ranks=8, bytes=0, alpha=1, beta=1, chunks=1) == 12
    assert coefficients("hierarchical", 8, 800, ranks_per_node=4) == (8.0, 1400.0, 700.0)
    assert bandwidth("all_reduce", ranks=8, bytes=1e9, seconds=1) == (1.0, 1.75)
    assert bandwidth("all_gather", ranks=8, bytes=2**30, seconds=1).bus == pytest.approx(
        0.9395240960
    )
    assert [default_chunks(n) for n in (1, 2**22, 2**33)] == [1, 2, 64]


def test_choice_is_the_simulated_best():
    machines = [NODES, Machine(alpha=2e-5, beta=1e-10, ranks_per_node=8, local_alpha=1e-6,
                               local_beta=1e-11, nic_beta=2e-11)]  # fmt: skip
    for machine in machines:
        for p in (8, 24, 64, 256):
            for n in (1 << 8, 1 << 14, 1 << 20, 1 << 26):
                found = choose(p, n, machine)
                every = {a: simulate(a, ranks=p, bytes=n, machine=machine).seconds
                         for a in ALGORITHMS}  # fmt: skip
                assert every[found.algorithm] == min(every.values()) == found.seconds
    for p in (2, 5, 16, 63):
        for n in (100, 10**5, 10**8):
            found = choose(p, n, FLAT)
            every = [simulate(a, ranks=p, bytes=n, machine=FLAT).seconds for a in ALGORITHMS
                     if a != "hierarchical"]  # fmt: skip
            taken = simulate(found.algorithm, ranks=p, bytes=n, machine=FLAT).seconds
            assert taken <= 1.05 * min(every), "more than 5 % of regret"


def timings(alpha, beta, gamma, noise, seed=0):
    rng = np.random.default_rng(seed)
    true = Machine(alpha=alpha, beta=beta, gamma=gamma)
    for name in ("ring", "halving_doubling", "naive", "tree"):
        for n in 2 ** np.arange(10, 27):
            chunks = default_chunks(n) if name == "tree" else None
            exact = flat_cost(name, 3, int(n), true, chunks)
            yield Timing(name, 3, int(n), exact * math.exp(rng.normal(0, noise)))


def test_fit_finds_the_machine_and_says_how_well():
    found = fit(timings(2e-4, 1e-9, 3e-10, 0.0))
    assert found.machine.alpha == pytest.approx(2e-4, rel=1e-6)
    assert found.machine.beta == pytest.approx(1e-9 + 3e-10 / 2, rel=1e-6)
    assert all(b == 2 * g for a in ALGORITHMS for _, b, g in [coefficients(a, 6, 1e6, chunks=5)])
    assert found.error < 1e-6
    assert found.fitted + found.held_out == 68
    noisy = fit(timings(2e-4, 1e-9, 3e-10, 0.1))
    assert 0.02 < noisy.error < 0.1
    assert noisy.large_error < 0.1
    assert noisy.machine.alpha == pytest.approx(2e-4, rel=0.1)
    wrong = fit([(t.algorithm, t.ranks, t.bytes, t.seconds + 1e-3 * (t.bytes > 5000)) for t in
                 timings(2e-4, 1e-9, 3e-10, 0.0)])  # fmt: skip
    assert wrong.error > 0.1, "times of another model must not fit"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: cost("star", ranks=4, bytes=1, alpha=1, beta=1), "none of ring"),
        (lambda: cost("ring", ranks=0, bytes=1, alpha=1, beta=1), "ranks=0"),
        (lambda: cost("ring", ranks=4, bytes=-1, alpha=1, beta=1), "bytes=-1"),
        (lambda: cost("ring", ranks=4, bytes=1, alpha=-1, beta=1), "alpha=-1"),
        (lambda: cost("ring", ranks=4, bytes=1, alpha=math.inf, beta=1), "finite"),
        (lambda: coefficients("hierarchical", 6, 1, ranks_per_node=4), "does not divide 6"),
        (lambda: Machine(alpha=1, beta=-1), "finite times"),
        (lambda: Machine(alpha=1, beta=1, ranks_per_node=0), "ranks_per_node=0"),
        (lambda: simulate("ring", ranks=10**6, bytes=1, machine=FLAT), "ranks=1000000"),
        (lambda: simulate("ring", ranks=3, bytes=1, machine=FLAT, start=np.zeros(2)), "shape"),
        (lambda: coefficients("bcube", 2 * 67, 1), "prime factor of 67"),
        (lambda: choose(67, 10, FLAT, ("bcube",)), "add 'ring'"),
        (lambda: bandwidth("sort", ranks=2, bytes=1, seconds=1), "none of all_reduce"),
        (lambda: bandwidth("all_reduce", ranks=2, bytes=1, seconds=0), "seconds=0"),
        (lambda: fit([("ring", 2, 8, 1.0)] * 3), "at least 4"),
        (lambda: fit([("ring", 2, 8, 0.0)] * 4), "times above 0"),
        (lambda: fit([("ring", 1, 8, 1.0)] * 4), "at least 2 ranks"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
