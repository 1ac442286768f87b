"""All-reduce algorithms against a sum in float64, without processes and on 2, 3 and 4 ranks."""

import functools
import math
import operator
import os
import threading
import time

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.training.network import HangError, run
from tests.training.ranks import run_ranks

from paragone.training import collectives
from paragone.training.collectives.execution import check_op, reduced, spread
from paragone.training.collectives.schedules import Round, Schedule, broadcast_schedule, schedule

RANKS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 16)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32,
          torch.uint8, torch.bool, torch.complex64)  # fmt: skip


REAL = ((0, torch.float32), (1, torch.float64), (1001, torch.bfloat16), (4099, torch.float32),
        (97, torch.bool), (60, torch.complex128))  # fmt: skip


def plans(p):
    yield from (schedule(name, p) for name in ("ring", "halving_doubling", "bcube", "naive"))
    yield from (schedule("tree", p, chunks=k) for k in (1, 3))
    yield from (schedule("hierarchical", p, ranks_per_node=k) for k in range(1, p + 1) if p % k < 1)


def contributions(p, n, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(1000 * p + n + seed)
    x = torch.randn(p, n, generator=generator, dtype=torch.float64)
    if dtype == torch.bool:
        return x > 0
    if not (dtype.is_floating_point or dtype.is_complex):
        return (5 * x).abs().to(dtype)
    return x.to(dtype) * (1 + 1j) if dtype.is_complex else x.to(dtype)


def part(plan, rank, flat, **options):
    yield from reduced(plan, rank, flat, **options)
    yield from spread(plan, rank, flat)


def all_reduce(plan, rows, seed=0, **options):
    """What each rank holds afterwards, and its messages."""
    held = [row.clone() for row in rows]
    seen = run([part(plan, r, held[r], **options) for r in range(plan.ranks)], seed)
    return held, seen


def serial(rows, op="sum"):
    """The loop over ranks that all algorithms stand for, 16-bit numbers in float32."""
    wide = rows.dtype in (torch.float16, torch.bfloat16) and op in ("sum", "avg", "prod")
    rows = rows.float() if wide else rows
    boolean = {"sum": operator.or_, "prod": operator.and_}
    call = {
        "sum": operator.add, "avg": operator.add, "prod": operator.mul, "max": torch.maximum,
        "min": torch.minimum, **(boolean if rows.dtype == torch.bool else {}),
    }[op]  # fmt: skip
    total = functools.reduce(call, list(rows))
    return (total / len(rows) if op == "avg" else total).to(torch.promote_types(*[rows.dtype] * 2))


def close(found, rows, op):
    """Within the rounding of the type of what float64 gives."""
    exact = serial(rows.to(torch.complex128 if rows.is_complex() else torch.float64), op)
    scale = rows.abs().to(torch.float64).sum(0) + 1
    eps = torch.finfo(rows.dtype).eps
    assert torch.all((found.to(exact.dtype) - exact).abs() <= len(rows) * eps * scale)


@pytest.mark.parametrize("p", RANKS)
def test_every_algorithm_gives_the_sum_and_the_same_bits_on_all_ranks(p):
    for plan in plans(p):
        for n in {0, 1, 2, p - 1, p, p + 1, 61}:
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


def refused(call, words, kind=ValueError):
    """Seconds until the error came."""
    start = time.monotonic()
    with pytest.raises(kind, match=words):
        call()
    return time.monotonic() - start


def real_values(rank, world):
    algorithms = ("ring", "tree", "halving_doubling", "bcube", "hierarchical", "naive", "auto")
    for number, name in enumerate(algorithms):
        for n, dtype in REAL:
            rows = contributions(world, n, dtype, number)
            x = rows[rank].clone()
            found = collectives.all_reduce(x, name, ordered=True)
            assert found is x
            assert torch.equal(x, serial(rows).to(dtype))
        rows = contributions(world, 210, torch.float64)
        x = rows[rank].clone().view(10, 21)
        collectives.all_reduce(x.T, name, op="avg", chunks=2 if name == "tree" else None)
        close(x.view(-1), rows, "avg")
    wide = torch.zeros(6, 6)
    collectives.all_reduce(wide[::2, 1:4].add_(rank + 1), "ring")
    assert wide.sum() == 9 * world * (world + 1) / 2
    assert wide[1::2].sum() == wide[:, 0].sum() == 0
    plain = torch.arange(7.0) + rank
    mean = plain.clone()
    dist.all_reduce(plain, op=dist.ReduceOp.AVG)
    assert torch.allclose(collectives.all_reduce(mean, op="avg"), plain)


def real_halves(rank, world):
    rows = contributions(world, 6 * world, torch.float64)
    for name in ("ring", "bcube"):
        whole, share = rows[rank].clone(), torch.empty(2, 3, dtype=torch.float64)
        collectives.reduce_scatter(share, whole, name, ordered=True)
        assert torch.equal(whole, rows[rank])
        assert torch.equal(share.view(-1), serial(rows)[6 * rank :][:6])
        everything = torch.empty(world, 6, dtype=torch.float64)
        collectives.all_gather(everything, share, name)
        assert torch.equal(everything.view(-1), serial(rows))
    x = rows[rank].clone()
    collectives.broadcast(x, world - 1, "chain", chunks=4)
    collectives.broadcast(x.view(world, 6), world - 1)
    assert torch.equal(x, rows[world - 1])


def real_traces(rank, world):
    n = 5040 * 4
    for name in ("ring", "halving_doubling"):
        trace = collectives.Trace()
        collectives.all_reduce(torch.ones(n // 4), name, trace=trace)
        if name == "ring":
            assert trace.steps == 2 * (world - 1)
            assert trace.sent == trace.received == 2 * (world - 1) / world * n
            right, left = (rank + 1) % world, (rank - 1) % world
            assert {(m.kind, m.peer) for m in trace.messages} == {
                ("send", right),
                ("receive", left),
            }
    trace = collectives.Trace()
    collectives.all_reduce(torch.ones(n // 4), "ring", trace=trace, ordered=True)
    assert trace.sent == 2 * (world - 1) / world * n
    collectives.all_reduce(torch.ones(0), trace=(empty := collectives.Trace()), check=False)
    assert not empty.messages


def real_groups(rank, world):
    """Two groups at the same time, from two threads, each in its own order of sizes."""
    groups = [dist.new_group(range(world)) for _ in range(2)]
    problems = []

    def work(number, group):
        try:
            for turn in range(8):
                rows = contributions(world, 500 * (turn + 1) + number, seed=number)
                x = rows[rank].clone()
                collectives.all_reduce(x, ("ring", "tree")[number], group, ordered=True)
                assert torch.equal(x, serial(rows)), (number, turn)
        except BaseException as reason:
            problems.append(reason)

    threads = [threading.Thread(target=work, args=one) for one in enumerate(groups)]
    _ = [thread.start() for thread in threads]
    _ = [thread.join() for thread in threads]
    assert not problems, problems
    pair = dist.new_group([0, 1])
    if rank < 2:
        assert collectives.all_reduce(torch.ones(3), group=pair).tolist() == [2.0] * 3
    else:
        refused(lambda: collectives.all_reduce(torch.ones(3), group=pair), "not in the group")


def real_errors(rank, world):
    last = rank == world - 1
    call, x, half = collectives.all_reduce, torch.ones(3), torch.ones(2 * world + 1)
    other, whole = (x.double() if last else x), (x.int() if last else x)
    cases = [
        (lambda: call(torch.ones(4, 2 + (not last))), rf"rank {world - 1}: all_reduce 4x2"),
        (lambda: call(other), "float64"),
        (lambda: call(x, op="max" if last else "sum"), "max"),
        (lambda: call(x, "tree" if last else "ring"), "tree"),
        (lambda: call(whole, op="avg"), f"avg.*on rank {world - 1}"),
        (lambda: call(x, "x" if last else "ring"), f"none of.*on rank {world - 1}"),
        (lambda: call(x.to_sparse()), "give a dense one"),
        (lambda: collectives.reduce_scatter(x[:2], half), f"of {world} times"),
        (lambda: collectives.broadcast(x) if last else call(x), "broadcast"),
        (lambda: call(x, timeout=-1), "timeout=-1"),
    ]
    assert max(refused(*case) for case in cases) < 20
    assert call(x).tolist() == [world] * 3, "a refused call must not disturb the next"


def real(rank, world):
    for check in (real_values, real_halves, real_traces, real_groups, real_errors):
        check(rank, world)
    return rank


@pytest.mark.parametrize("world", [2, 3, 4])
def test_on_real_ranks(world):
    assert run_ranks(world, real, timeout=100) == list(range(world))


def one_is_dead(rank, world):
    if rank == 1:
        os._exit(3)
    x = torch.ones(1 << 16)
    call = lambda: [collectives.all_reduce(x, timeout=2) for _ in range(50)]  # noqa: E731
    return refused(call, f"rank {rank} of 3", collectives.CollectiveError)


def one_is_missing(rank, world):
    if rank == 1:
        time.sleep(2.5)
        return 0.0
    call = lambda: collectives.all_reduce(torch.ones(9), timeout=1)  # noqa: E731
    return refused(call, "is dead, too late", collectives.CollectiveError)


def test_dead_and_missing_ranks_are_errors_in_bounded_time():
    dead = run_ranks(3, one_is_dead, timeout=30, dead_ok=True)
    assert dead[1] is None
    assert max(dead[0], dead[2]) < 10
    assert max(run_ranks(2, one_is_missing, timeout=30)) < 10
