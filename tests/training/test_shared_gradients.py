"""DDP and FSDP over the shared group: the mean of gradients in the order of the ranks."""

import importlib
import os
import sys
import traceback

import pytest
import torch
import torch.distributed as dist
from tests.training.ranks import run_ranks
from tests.training.shared_values import OP, drawn, looped, same

from paragone.training import shared_group
from paragone.training._warm_collectives import warm_shared_group


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """Compiles here, once, what all ranks would compile otherwise."""
    warm_shared_group()


def network():
    torch.manual_seed(3)
    layers = torch.nn.Linear(20, 33), torch.nn.Tanh(), torch.nn.Linear(33, 2)
    return torch.nn.Sequential(*layers)


def gradients(model, ranks):
    """Gradients after three steps; DDP makes its buckets anew after the first.

    With several ranks: what they find together, the mean in the order of the ranks.
    """
    for step in range(3):
        found = []
        for rank in ranks:
            model.zero_grad(set_to_none=True)
            x = drawn(rank, 140, torch.float32, step).view(7, 20)
            model(x).square().mean().backward()
            found.append([parameter.grad for parameter in model.parameters()])
        means = found[0]
        if len(ranks) > 1:
            means = [looped(values, OP.AVG) for values in zip(*found, strict=True)]
        with torch.no_grad():
            for parameter, mean in zip(model.parameters(), means, strict=True):
                parameter -= 0.1 * mean
    return [mean.clone() for mean in means]


def train(rank, world, place):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    dist.init_process_group(
        "cpu:shared", init_method=f"file://{place}", rank=rank, world_size=world
    )
    wanted = gradients(network(), range(world))
    plain = gradients(DistributedDataParallel(network()), [rank])
    found = []
    for view in (False, True):
        model = DistributedDataParallel(
            network(), gradient_as_bucket_view=view, bucket_cap_mb=0.002
        )
        shared_group.share_gradients(model)
        found.append(gradients(model, [rank]))
        find = dist.group.WORLD._arenas.find
        assert view == all(find(p.grad.data_ptr(), 1)[0] >= 0 for p in model.parameters())
    sharded = fully_shard(network(), mesh=init_device_mesh("cpu", (world,)))
    found.append([g.full_tensor() for g in gradients(sharded, [rank])])
    for several in found:
        assert len(several) == len(wanted) == 4
        for one, other in zip(several, wanted, strict=True):
            same(one, other)
    # DDP's own way divides first.
    torch.testing.assert_close(plain, wanted)
    dist.destroy_process_group()


def train_all(rank, world, place):
    """Forks three ranks from one process, which has imported for them what takes seconds."""
    for name in ("torch._dynamo", "torch.distributed.fsdp", "torch.nn.parallel"):
        importlib.import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1
    children = []
    for child in range(3):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                train(child, 3, place)
                code = 0
            finally:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(code)
        children.append(pid)
    return [os.waitpid(pid, 0)[1] for pid in children]


def test_ddp_and_fsdp_find_the_mean_in_the_order_of_the_ranks(tmp_path):
    place = str(tmp_path / "store")
    assert run_ranks(1, train_all, place, timeout=100, init=False) == [[0, 0, 0]]
