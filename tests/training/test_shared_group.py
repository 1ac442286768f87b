"""The shared group against loops over the ranks, gloo and a single process; and ranks that fail.

Ranks are processes (`run_ranks`), or threads of this one where no process is needed: each thread
has its own station, so what passes between them is the same.
"""

import os
import signal
import threading
import time
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.training.ranks import run_ranks
from tests.training.shared_values import OP, drawn, looped, same

from paragone.training import _shared_memory as layout
from paragone.training import shared_group
from paragone.training._shared_collectives import reduced
from paragone.training._warm_collectives import warm_shared_group
from paragone.training.shared_group import MismatchError, SharedGroup, SharedGroupError

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
WHOLES = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)
COMPLEX = (torch.complex64, torch.complex128)
SIZES = (0, 1, 63, 64, 65, 997)
LONG = 2 * layout.LANE // 4 + 5
"""float32 values of which three chunks must be made."""


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """Compiles here, once, what all ranks would compile otherwise."""
    warm_shared_group()


def pairs():
    """All (dtype, op) that a sum over ranks is defined for."""
    for dtype in FLOATS:
        yield from ((dtype, op) for op in (OP.SUM, OP.AVG, OP.PRODUCT, OP.MIN, OP.MAX))
    for dtype in WHOLES:
        whole = (OP.SUM, OP.PRODUCT, OP.MIN, OP.MAX, OP.BAND, OP.BOR, OP.BXOR)
        yield from ((dtype, op) for op in whole)
    yield from ((torch.bool, op) for op in (OP.SUM, OP.MIN, OP.MAX, OP.BAND, OP.BOR, OP.BXOR))
    for dtype in COMPLEX:
        yield from ((dtype, op) for op in (OP.SUM, OP.AVG, OP.PRODUCT))


def check_sums(rank, world, group):
    for dtype, op in pairs():
        for number in SIZES if op == OP.SUM else (65,):
            tensor = drawn(rank, number, dtype)
            group.allreduce([tensor], op).wait()
            same(tensor, looped([drawn(k, number, dtype) for k in range(world)], op))
    for dtype, op in ((torch.float32, OP.AVG), (torch.float32, OP.SUM), (torch.bfloat16, OP.SUM)):
        wanted = looped([drawn(k, LONG, dtype) for k in range(world)], op)
        tensor = drawn(rank, LONG, dtype)
        dist.all_reduce(tensor, op, group=group)
        same(tensor, wanted)
        strided = torch.zeros(LONG, 2, dtype=dtype)
        strided[:, 1] = drawn(rank, LONG, dtype)
        dist.all_reduce(strided[:, 1], op, group=group)
        same(strided[:, 1], wanted)
        assert not strided[:, 0].any()
    # Ranks may keep one tensor in different layouts.
    tensor = drawn(rank, 60, torch.float32).view(3, 4, 5)
    if rank == 1:
        tensor = tensor.transpose(0, 2).contiguous().transpose(0, 2)
    dist.all_reduce(tensor, group=group)
    values = [drawn(k, 60, torch.float32) for k in range(world)]
    same(tensor, looped(values, OP.SUM).view(3, 4, 5))
    number = torch.tensor(float(rank))
    dist.all_reduce(number, group=group)
    assert number == world * (world - 1) / 2
    several = [drawn(rank, n, torch.float32) for n in (3, 0, 7)]
    dist.all_reduce_coalesced(several, group=group)
    same(several[2], looped([drawn(k, 7, torch.float32) for k in range(world)], OP.SUM))
    nan = torch.tensor([float("nan") if rank == world - 1 else 1.0, float("inf"), -0.0])
    dist.all_reduce(nan, group=group)
    assert nan[0].isnan()
    assert nan[1].isinf()
    assert nan[2] == 0


def check_in_place(rank, world, group):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for number, begin, op in ((LONG, 0, OP.SUM), (99_991, 3, OP.AVG), (8, 1, OP.SUM)):
            whole = shared_group.shared_empty(number + begin, dtype, group)
            tensor = whole[begin:]
            tensor.copy_(drawn(rank, number, dtype))
            dist.all_reduce(tensor, op, group=group)
            same(tensor, looped([drawn(k, number, dtype) for k in range(world)], op))
    # Only one rank's tensor lies in shared memory: then all go through the lanes.
    values = [drawn(k, 50_000, torch.float32) for k in range(world)]
    shared = shared_group.shared_empty((2, 50_000), group=group)
    shared[1].copy_(values[rank])
    tensor = shared[1] if rank == 0 else values[rank].clone()
    dist.all_reduce(tensor, group=group)
    same(tensor, looped(values, OP.SUM))
    # In memory moved by `share`, views move along.
    base = torch.zeros(4, 25_000)
    view = base[1:3]
    shared_group.share(base, group)
    view.view(-1).copy_(values[rank])
    arenas = group._arenas
    assert arenas.find(view.data_ptr(), 200_000)[0] >= 0
    dist.all_reduce(view, group=group)
    same(view.view(-1), looped(values, OP.SUM))
    assert not base[0].any()
    assert not base[3].any()
    # What is gone is not taken for shared, even if its address comes back.
    places = [(a.begin, a.number) for a in arenas._living]
    del shared, tensor, base, view, whole
    assert all(arenas.find(begin, 100_000)[0] < 0 for begin, _ in places)
    arenas._sweep()
    assert not arenas._living
    assert not arenas.bases.any()
    assert shared_group.shared_empty(0, group=group).numel() == 0
    with pytest.raises(MismatchError, match="differ in size"):
        shared_group.shared_empty(10 + rank, group=group)


def check_collectives(rank, world, group):
    for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64):
        for number in (0, 1, 65, 300_007 if dtype == torch.float32 else 997):
            everyone = [drawn(k, number, dtype) for k in range(world)]
            root = number % world
            tensor = everyone[rank].clone()
            dist.broadcast(tensor, root, group=group)
            same(tensor, everyone[root])
            outputs = [torch.zeros(number, dtype=dtype) for _ in range(world)]
            dist.all_gather(outputs, everyone[rank], group=group)
            same(torch.cat(outputs), torch.cat(everyone))
            output = torch.zeros(world * number, dtype=dtype)
            dist.all_gather_into_tensor(output, everyone[rank], group=group)
            same(output, torch.cat(everyone))
            outputs = [torch.zeros(number, 2, dtype=dtype)[:, 0] for _ in range(world)]
            dist.gather(everyone[rank], outputs if rank == root else None, root, group=group)
            if rank == root:
                same(torch.cat(outputs), torch.cat(everyone))
            output = torch.zeros(number, dtype=dtype)
            dist.scatter(output, everyone if rank == root else None, root, group=group)
            same(output, everyone[rank])
            check_reductions(rank, world, group, everyone, dtype, root)


def check_reductions(rank, world, group, everyone, dtype, root):
    number = len(everyone[0])
    tensor = everyone[rank].clone()
    dist.reduce(tensor, root, group=group)
    same(tensor, looped(everyone, OP.SUM) if rank == root else everyone[rank])
    # Rank k gives to rank j the values of rank k, rolled by j.
    parts = [[one.roll(j) for j in range(world)] for one in everyone]
    mine = [parts[k][rank] for k in range(world)]
    for op in (OP.SUM, OP.AVG) if dtype.is_floating_point else (OP.SUM,):
        output = torch.zeros(number, dtype=dtype)
        dist.reduce_scatter(output, parts[rank], op, group=group)
        same(output, looped(mine, op))
        output.zero_()
        dist.reduce_scatter_tensor(output, torch.cat(parts[rank]), op, group=group)
        same(output, looped(mine, op))
    outputs = [torch.zeros(number, dtype=dtype) for _ in range(world)]
    dist.all_to_all(outputs, parts[rank], group=group)
    same(torch.cat(outputs), torch.cat(mine))
    output = torch.zeros(world * number, dtype=dtype)
    dist.all_to_all_single(output, torch.cat(parts[rank]), group=group)
    same(output, torch.cat(mine))


def check_odds_and_ends(rank, world, group):
    # Uneven pieces: rank k sends j + 1 rows, filled with k, to rank j.
    rows = torch.full((world * (world + 1) // 2, 3), float(rank))
    output = torch.zeros(world * (rank + 1), 3)
    dist.all_to_all_single(
        output, rows, [rank + 1] * world, [j + 1 for j in range(world)], group=group
    )
    same(output, torch.arange(float(world)).repeat_interleave(rank + 1)[:, None].expand(-1, 3))
    objects = [None] * world
    dist.all_gather_object(objects, {"rank": rank, "long": "x" * 10 * rank}, group=group)
    assert [one["rank"] for one in objects] == list(range(world))
    told = [rank] if rank == 1 else [None]
    dist.broadcast_object_list(told, 1, group=group)
    assert told == [1]
    work = dist.all_reduce(torch.ones(3), group=group, async_op=True)
    assert work.is_completed()
    assert work.wait()
    same(work.get_future().wait()[0], torch.full((3,), float(world)))
    dist.barrier(group=group)
    doubled = torch.ops._c10d_functional.all_reduce(torch.ones(4), "sum", group.group_name)
    same(torch.ops._c10d_functional.wait_tensor(doubled), torch.full((4,), float(world)))
    gathered = torch.ops._c10d_functional.all_gather_into_tensor(
        torch.full((2,), float(rank)), world, group.group_name
    )
    wanted = torch.arange(float(world)).repeat_interleave(2)
    same(torch.ops._c10d_functional.wait_tensor(gathered), wanted)
    with pytest.raises(ValueError, match="AVG needs floats"):
        dist.all_reduce(torch.ones(3, dtype=torch.int64), dist.ReduceOp.AVG, group=group)
    with pytest.raises(ValueError, match="dense tensor on the CPU"):
        group.allreduce([torch.ones(3).to_sparse()])
    with pytest.raises(ValueError, match="values of"):
        group.all_gather_single(torch.zeros(3), torch.zeros(3))
    with pytest.raises(ValueError, match="no shared group"):
        shared_group.shared_empty(3)


def check_messages(rank, world, group):
    right, left = (rank + 1) % world, (rank - 1) % world
    # Everyone sends far more than the boxes hold before anyone receives.
    for number in (0, 1, 700_001):
        got = torch.empty(number)
        works = [
            dist.isend(drawn(rank, number, torch.float32), right, group=group),
            dist.irecv(got, left, group=group),
        ]
        for work in works:
            work.wait()
        same(got, drawn(left, number, torch.float32))
    # Tags are taken in any order; messages with one tag in theirs.
    if rank == 0:
        for tag, value in ((1, 10), (2, 20), (1, 11), (3, 30)):
            dist.send(torch.full((70_000,), value), 1, tag=tag, group=group)
    if rank == 1:
        for tag, value in ((3, 30), (1, 10), (2, 20), (1, 11)):
            got = torch.zeros(2, 70_000, dtype=torch.int64)
            dist.recv(got.T[:, 1], 0, tag=tag, group=group)
            assert (got[1] == value).all()
            assert not got[0].any()
    got = torch.zeros(1)
    if rank == 0:
        senders = [dist.recv(got, None, tag=9, group=group) for _ in range(world - 1)]
        assert sorted(senders) == list(range(1, world))
    else:
        dist.send(torch.ones(1), 0, tag=9, group=group)
    works = dist.batch_isend_irecv(
        [
            dist.P2POp(dist.isend, torch.full((5,), rank), right, group=group),
            dist.P2POp(dist.irecv, (got := torch.zeros(5, dtype=torch.int64)), left, group=group),
        ]
    )
    [work.wait() for work in works]
    assert (got == left).all()
    # A message goes on while its rank waits in a collective.
    if rank == 0:
        work = dist.isend(torch.ones(900_000), 1, group=group)
    if rank == 1:
        got = torch.zeros(900_000)
        dist.recv(got, 0, group=group)
        assert got.all()
    dist.barrier(group=group)
    if rank == 0:
        dist.send(torch.ones(3), 1, group=group)
    if rank == 1:
        with pytest.raises(MismatchError, match="receives 16 bytes"):
            dist.recv(torch.zeros(4), 0, group=group)


def check_mismatches(rank, world, group):
    odd = rank == world - 1
    tensor = torch.ones(1000 if odd else 100_000)
    calls = (
        lambda: dist.all_reduce(tensor, group=group),
        lambda: dist.all_reduce(torch.ones(3, dtype=torch.int32 if odd else None), group=group),
        lambda: dist.all_reduce(
            torch.ones(3), dist.ReduceOp.MAX if odd else dist.ReduceOp.SUM, group=group
        ),
        lambda: dist.broadcast(torch.ones(3), 1 if odd else 0, group=group),
        lambda: dist.barrier(group=group) if odd else dist.broadcast(tensor, 0, group=group),
        lambda: dist.all_gather([tensor] * world, tensor, group=group),
    )
    for call in calls:
        with pytest.raises(MismatchError, match=f"rank {world - 1}"):
            call()
    tensor = torch.ones(5)
    dist.all_reduce(tensor, group=group)
    assert (tensor == world).all()


def all_checks(rank, world):
    group = shared_group.new_group(timeout=timedelta(seconds=40))
    assert (group.rank(), group.size(), dist.get_backend(group)) == (rank, world, "shared")
    for check in (
        check_sums, check_in_place, check_collectives, check_odds_and_ends, check_messages,
        check_mismatches,
    ):  # fmt: skip
        check(rank, world, group)
    part = shared_group.new_group([0, world - 1])
    assert (part is None) == (rank not in (0, world - 1))
    if part is not None:
        tensor = torch.ones(3)
        part.all_reduce(tensor)
        assert (tensor == 2).all()
    dist.destroy_process_group(group)
    with pytest.raises(SharedGroupError, match="was destroyed"):
        group.barrier()
    return sorted(name for name in os.listdir("/dev/shm") if "torch" in name or "paragone" in name)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_agree_with_a_loop_over_the_ranks(world):
    assert run_ranks(world, all_checks, timeout=100) == [[]] * world


def die_in_the_middle(rank, world):
    group = shared_group.new_group(timeout=timedelta(seconds=60))
    tensor = torch.ones(300_000)
    group.all_reduce(tensor)
    if rank == 1:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
        group.recv([torch.ones(1)], 0).wait()
    begun = time.monotonic()
    with pytest.raises(SharedGroupError, match=r"rank 1 \(process \d+\) has died"):
        group.all_reduce(tensor)
    waited = time.monotonic() - begun
    with pytest.raises(SharedGroupError, match="is broken"):
        group.barrier()
    return waited, [name for name in os.listdir("/dev/shm") if "paragone" in name]


def test_a_killed_rank_is_noticed_at_once_and_leaves_nothing():
    results = run_ranks(3, die_in_the_middle, timeout=40, dead_ok=True)
    assert results[1] is None
    for waited, left in (results[0], results[2]):
        assert waited < 10
        assert left == []


def end_badly(rank, world):
    """Several groups, each of which ends in its own way; how long each error took to come."""
    waits = []

    def failing(pattern, call, kind=SharedGroupError):
        begun = time.monotonic()
        with pytest.raises(kind, match=pattern):
            call()
        waits.append(time.monotonic() - begun)

    # Rank 1 does not come: rank 0 gives up, and rank 1 learns of it when it comes.
    group = shared_group.new_group(timeout=timedelta(seconds=30))
    if rank == 0:
        short = timedelta(seconds=0.4)
        failing(
            r"waited \d\.\d s for rank 1 \(timeout 0\.4 s\)",
            lambda: dist.barrier(group=group, timeout=short),
        )
    dist.barrier()
    if rank == 1:
        failing("rank 1 did not come within the timeout of rank 0", group.barrier)
    # Rank 1 leaves.
    group = shared_group.new_group(timeout=timedelta(seconds=30))
    if rank == 1:
        group.shutdown()
    else:
        failing("rank 1 has left", group.barrier)
    # A message that nobody sends, a message to a rank that has left.
    group = shared_group.new_group(timeout=timedelta(seconds=30))
    if rank == 0:
        work = group.recv([torch.zeros(1)], 1)
        failing("waited", lambda: work.wait(timedelta(seconds=0.2)))
    dist.barrier()
    # Ctrl-C while rank 0 waits: it comes out at once, and rank 1 hears of it.
    group = shared_group.new_group(timeout=timedelta(seconds=30))
    if rank == 0:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        failing("", group.barrier, KeyboardInterrupt)
    dist.barrier()
    if rank == 1:
        failing("rank 0 broke off", group.barrier)
    # Not the same host.
    identity = layout.identity
    layout.identity = lambda: {**identity(), "host": f"host {rank}", "name": f"name{rank}"}
    failing(r"rank 1 \(name1\) runs on another host or container", shared_group.new_group)
    layout.identity = identity
    return waits


def test_every_wait_ends():
    for waits in run_ranks(2, end_badly, timeout=60):
        assert len(waits) in (3, 5)
        assert max(waits) < 10


def miss_a_rank(rank, world):
    store = dist.distributed_c10d._get_default_store()
    begun = time.monotonic()
    if rank == 0:
        with pytest.raises(SharedGroupError, match=r"rank 1 of 2 did not come within 0\.5 s"):
            SharedGroup(dist.PrefixStore("lonely", store), 0, 2, timedelta(seconds=0.5))
    return time.monotonic() - begun


def test_a_missing_rank_is_an_error_in_time():
    assert max(run_ranks(2, miss_a_rank, timeout=40)) < 10


class Threads:
    """Ranks that are threads of this process."""

    def __init__(self, world):
        store = dist.HashStore()
        self.world, self.groups = world, [None] * world

        def make(rank):
            self.groups[rank] = SharedGroup(store, rank, world, timedelta(seconds=30))

        self.do(make)

    def do(self, call):
        errors = []

        def guarded(rank):
            try:
                call(rank)
            except (RuntimeError, ValueError, AssertionError) as error:
                errors.append(error)

        threads = [threading.Thread(target=guarded, args=(k,)) for k in range(self.world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        if errors:
            raise errors[0]


@pytest.fixture(scope="module")
def three():
    return Threads(3)


@settings(max_examples=30, deadline=None)
@given(
    number=st.integers(0, 5000),
    pair=st.sampled_from(list(pairs())),
    seed=st.integers(0, 99),
    late=st.integers(0, 2),
)
def test_sums_are_those_of_the_loop_whoever_comes_last(three, number, pair, seed, late):
    dtype, op = pair
    values = [drawn(k, number, dtype, seed) for k in range(3)]
    found = [value.clone() for value in values]

    def call(rank):
        if rank == late:
            time.sleep(0.001)
        three.groups[rank].all_reduce(found[rank], op)

    three.do(call)
    for tensor in found:
        same(tensor, looped(values, op))


def test_the_oracle_catches_a_sum_in_another_order(three):
    values = [drawn(k, 4097, torch.float32) for k in range(3)]
    out = torch.empty(4097)
    reduced(values, OP.SUM, out)
    same(out, looped(values, OP.SUM))
    reduced(values[::-1], OP.SUM, out)
    with pytest.raises(AssertionError):
        same(out, looped(values, OP.SUM))


def test_sixteen_bits_are_rounded_once():
    parts = [torch.tensor([1.0], dtype=torch.bfloat16)] + [torch.tensor([2**-9]).bfloat16()] * 2
    out = torch.empty(1, dtype=torch.bfloat16)
    reduced(parts, OP.SUM, out)
    # Rounded after each addition it would stay 1.
    assert out == torch.tensor(1 + 2**-8).bfloat16()
    assert float(parts[0] + parts[1]) == 1


def test_one_rank_alone():
    group = SharedGroup(dist.HashStore(), 0, 1, timedelta(seconds=5))
    tensor = torch.arange(5.0)
    group.all_reduce(tensor, dist.ReduceOp.AVG)
    same(tensor, torch.arange(5.0))
    output = torch.zeros(5)
    group.all_gather_single(output, tensor)
    same(output, tensor)
    group.shutdown()


def test_words_of_ranks_lie_apart_and_lanes_behind_them():
    for world in (1, 2, 7):
        assert layout.lanes_at(world) % 4096 == 0
        assert layout.lanes_at(world) >= 8 * layout.channels_at(world)
    assert layout.DESCRIPTORS + 32 <= layout.RANK_WORDS
    assert len(np.unique([layout.ARRIVED // 16, layout.BELL // 16, layout.DESCRIPTORS // 16])) == 3


def test_a_process_number_used_again_is_another_process():
    mine = layout.start_time(os.getpid())
    assert layout.alive(os.getpid(), mine)
    assert not layout.alive(os.getpid(), mine - 1)
    assert layout.start_time(2**22 + 1) == -1
