"""The helper that starts ranks: results in order, failures and hangs end in bounded time."""

import os
import time

import pytest
from tests.training.ranks import RankError, run_ranks


def sums(rank, world, factor):
    import torch
    import torch.distributed as dist

    x = torch.full((3,), float(rank + 1))
    dist.all_reduce(x)
    return rank, factor * float(x.sum())


def fails(rank, world):
    import torch.distributed as dist

    if rank == 1:
        raise ValueError("rank one is broken")
    dist.barrier()


def sleeps(rank, world):
    if rank:
        time.sleep(60)


def dies(rank, world):
    import torch.distributed as dist

    # The other one is connected by then.
    dist.barrier()
    if rank:
        os._exit(7)
    return "alive"


def test_results_come_in_the_order_of_ranks():
    assert run_ranks(3, sums, 2) == [(rank, 36.0) for rank in range(3)]


def test_the_first_traceback_comes_back():
    with pytest.raises(RankError, match="rank one is broken"):
        run_ranks(2, fails, timeout=20)


def test_ranks_that_hang_are_killed():
    with pytest.raises(RankError, match=r"ranks \[1\] of 2 did not end"):
        run_ranks(2, sleeps, timeout=4)


def test_a_dead_rank_is_named_or_counts_as_none():
    with pytest.raises(RankError, match="rank 1 died with code 7"):
        run_ranks(2, dies, timeout=20)
    assert run_ranks(2, dies, timeout=20, dead_ok=True) == ["alive", None]
