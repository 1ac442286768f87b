"""All-reduce algorithms against a sum in float64, stepped in random order without processes."""

import functools
import math
import operator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.training.network import HangError, close, contributions, run, serial

from paragone.training import collectives
from paragone.training.collectives.execution import check_op, reduced, spread
from paragone.training.collectives.schedules import Round, Schedule, broadcast_schedule, schedule

RANKS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 16)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32,
          torch.uint8, torch.bool, torch.complex64)  # fmt: skip


def plans(p):
    yield from (schedule(name, p) for name in ("ring", "halving_doubling", "bcube", "naive"))
    yield from (schedule("tree", p, chunks=k) for k in (1, 3))
    yield from (schedule("hierarchical", p, ranks_per_node=k) for k in range(1, p + 1) if p % k < 1)


def part(plan, rank, flat, **options):
    yield from reduced(plan, rank, flat, **options)
    yield from spread(plan, rank, flat)


def all_reduce(plan, rows, seed=0, **options):
    """What each rank holds afterwards, and its messages."""
    held = [row.clone() for row in rows]
    seen = run([part(plan, r, held[r], **options) for r in range(plan.ranks)], seed)
    return held, seen


@pytest.mark.parametrize("p", RANKS)
def test_every_algorithm_gives_the_sum_and_the_same_bits_on_all_ranks(p):
    for plan in plans(p):
        for n in {0, 1, p - 1, p + 1, 61}:
            rows = contributions(p, n)
            held, _ = all_reduce(plan, rows, seed=n)
            assert len(held) == p
            assert all(torch.equal(held[0], other) for other in held[1:])
            close(held[0], rows, "sum")


@pytest.mark.parametrize("p", RANKS)
def test_ordered_sums_are_the_serial_sum_bit_for_bit(p):
    rows = contributions(p, 37) * torch.logspace(-6, 6, p)[torch.randperm(p)][:, None]
    free = 0
    for plan in plans(p):
        for op in ("sum", "avg"):
            held, _ = all_reduce(plan, rows, seed=p, op=op, ordered=True)
            assert all(torch.equal(serial(rows, op), one) for one in held)
        free += not torch.equal(all_reduce(plan, rows)[0][0], serial(rows))
    assert free > 0 or p < 4, "the rows are too tame to show an order"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_types_and_operations(dtype):
    for p, ordered in ((3, False), (5, True)):
        for op in ("sum", "avg", "max", "min", "prod"):
            if check_op(op, dtype):
                continue
            rows = contributions(p, 11, dtype)
            for plan in plans(p):
                held, _ = all_reduce(plan, rows, op=op, ordered=ordered)
                assert held[0].dtype == dtype
                assert all(torch.equal(held[0], other) for other in held[1:])
                if dtype.is_complex and op == "prod":
                    assert torch.allclose(held[0], serial(rows, op), 1e-5)
                elif ordered or not (dtype.is_floating_point or dtype.is_complex):
                    assert torch.equal(held[0], serial(rows, op).to(dtype))
                elif op != "prod":
                    close(held[0], rows, op)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_of_16_bits_are_rounded_once(dtype):
    p = 9
    rows = torch.full((p, 40), 1.0, dtype=dtype)
    rows[0] = 256.0 if dtype == torch.bfloat16 else 2048.0
    exact = rows.double().sum(0).to(dtype)
    naive = functools.reduce(operator.add, list(rows))
    assert not torch.equal(naive, exact), "adding in 16 bits must lose here"
    for plan in plans(p):
        for ordered in (False, True):
            held, _ = all_reduce(plan, rows, ordered=ordered)
            assert all(torch.equal(exact, one) for one in held)


def steps_and_bytes(p, n, plan):
    """(most steps, most bytes that a rank sends) by formula; n bytes, divisible by all."""
    log, core = p.bit_length() - 1, 1 << (p.bit_length() - 1)
    share = 2 * (p - 1) / p * n
    if plan.name == "ring":
        return 2 * (p - 1), share
    if plan.name == "halving_doubling":
        fold = core < p
        return 2 * (log + fold), 2 * (core - 1) / core * n + fold * n
    if plan.name == "naive":
        return 2 * (p - 1), (p - 1) * n
    return None


@pytest.mark.parametrize("p", RANKS[1:])
def test_steps_and_bytes_are_those_of_the_formula(p):
    n = 5040 * 16
    for plan in plans(p):
        _, seen = all_reduce(plan, torch.ones(p, n // 4))
        steps = [len({step for step, *_ in messages}) for messages in seen]
        sent = [sum(b for _, kind, _, b in messages if kind == "send") for messages in seen]
        got = [sum(b for _, kind, _, b in messages if kind == "receive") for messages in seen]
        assert sum(sent) == sum(got)
        assert sum(sent) >= 2 * (p - 1) * n - 1e-6, "fewer bytes than any algorithm needs"
        formula = steps_and_bytes(p, n, plan)
        if formula is not None:
            assert (max(steps), max(sent)) == formula
        if plan.name in ("ring", "bcube", "hierarchical"):
            assert set(sent) == set(got) == {2 * (p - 1) / p * n}, "a rank idles"
        if plan.name == "ring":
            assert set(steps) == {2 * (p - 1)}
        if plan.name == "tree" and p > 2:
            assert max(sent) <= 2 * n
            assert max(got) <= 2 * n


@pytest.mark.parametrize("p", [*RANKS, 11, 13, 24])
def test_no_rank_receives_where_it_sends_from(p):
    for plan in (*plans(p), *(broadcast_schedule(a, p, p - 1, chunks=4) for a in ("chain",))):
        for one in (*plan.reduce, *plan.spread):
            for turn in {0, 1, one.repeat - 1}:
                first = one.first_blocks(turn)
                assert len(one.source) == len(one.target) == len(first)
                assert not (one.source == one.target).any()
                for rank in range(p):
                    sends, receives = one.of(rank)
                    out = {b for m in sends for b in range(first[m], first[m] + one.width)}
                    into = [b for m in receives for b in range(first[m], first[m] + one.width)]
                    assert (plan.reduce and one in plan.reduce) or len(set(into)) == len(into)
                    assert not out & set(into)


def test_planted_bugs_are_caught():
    ring = schedule("ring", 4)
    rows = contributions(4, 8)
    late = Schedule("ring", 4, 4, ring.owner, (ring.spread[0],), ring.spread)
    held, _ = all_reduce(late, rows)
    with pytest.raises(AssertionError):
        close(held[0], rows, "sum")
    one = ring.reduce[0]
    left = Round(one.source, one.source - 1 + 4 * (one.source == 0), one.offset, 1, 0, -1, 4, 3)
    with pytest.raises(AssertionError):
        close(all_reduce(Schedule("ring", 4, 4, ring.owner, (left,), ring.spread), rows)[0][0],
              rows, "sum")  # fmt: skip
    short = [part(ring, r, torch.ones(8 if r else 12)) for r in range(4)]
    with pytest.raises(HangError, match="wants"):
        run(short)

    def in_place(rank, flat):
        for sends, receives in part(ring, rank, flat):
            yield sends, [(peer, flat[: len(t)]) for peer, t in receives]

    held = [row.clone() for row in rows]
    run([in_place(r, held[r]) for r in range(4)], seed=1)
    with pytest.raises(AssertionError):
        close(held[0], rows, "sum")


@pytest.mark.parametrize("p", [1, 2, 3, 6, 8])
def test_halves_of_an_all_reduce(p):
    rows = contributions(p, 5 * p, torch.float64)
    for name in ("ring", "bcube", "halving_doubling"):
        plan = schedule(name, p)
        if not plan.in_order:
            assert name == "halving_doubling"
            continue
        held = [row.clone() for row in rows]
        run([reduced(plan, r, held[r]) for r in range(p)])
        for r in range(p):
            close(held[r][5 * r : 5 * r + 5], rows[:, 5 * r : 5 * r + 5], "sum")
        run([spread(plan, r, held[r]) for r in range(p)])
        assert all(torch.equal(held[0], one) for one in held)


@pytest.mark.parametrize("p", RANKS)
def test_broadcasts(p):
    for name, source in (("binomial", 0), ("binomial", p - 1), ("chain", p // 2)):
        plan = broadcast_schedule(name, p, source, chunks=3)
        rows = contributions(p, 10)
        held = [row.clone() for row in rows]
        seen = run([spread(plan, r, held[r]) for r in range(p)], seed=p)
        assert all(torch.equal(rows[source], one) for one in held)
        assert sum(b for messages in seen for _, k, _, b in messages if k == "send") == 40 * (p - 1)
        if name == "binomial" and p > 1:
            assert len(plan.spread) == math.ceil(math.log2(p))


@settings(max_examples=40, deadline=None)
@given(
    p=st.integers(1, 12), n=st.integers(0, 50), seed=st.integers(0, 10**6),
    op=st.sampled_from(["sum", "max", "min", "prod"]), ordered=st.booleans(),
    dtype=st.sampled_from([torch.int32, torch.int64, torch.uint8, torch.bool]),
    pick=st.integers(0, 10**6),
)  # fmt: skip
def test_whole_numbers_are_exact_in_any_order(p, n, seed, op, ordered, dtype, pick):
    choices = list(plans(p))
    rows = contributions(p, n, dtype, seed)
    held, _ = all_reduce(choices[pick % len(choices)], rows, seed, op=op, ordered=ordered)
    assert all(torch.equal(serial(rows, op).to(dtype), one) for one in held)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: schedule("star", 4), "none of ring"),
        (lambda: schedule("ring", 0), "at least 1"),
        (lambda: schedule("tree", 4, chunks=0), "chunks=0"),
        (lambda: schedule("hierarchical", 6, ranks_per_node=4), "does not divide 6"),
        (lambda: schedule("bcube", 67), "prime factor of 67"),
        (lambda: broadcast_schedule("star", 4), "none of binomial"),
        (lambda: broadcast_schedule("chain", 4, 4), "source=4"),
        (lambda: collectives.all_reduce(torch.ones(2)), "init_process_group"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
    assert "integer" in check_op("avg", torch.int64) or "avg" in check_op("avg", torch.int64)
    assert "no order" in check_op("max", torch.complex64)
    assert "none of" in check_op("xor", torch.int64)
