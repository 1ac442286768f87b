"""The collectives on 2, 3 and 4 real gloo ranks: values, traces, groups at once, errors in time."""

import os
import threading
import time

import pytest
import torch
import torch.distributed as dist
from tests.training.network import close, contributions, serial
from tests.training.ranks import run_ranks

from paragone.training import collectives

REAL = ((0, torch.float32), (1, torch.float64), (1001, torch.bfloat16), (4099, torch.float32),
        (97, torch.bool), (60, torch.complex128))  # fmt: skip


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
