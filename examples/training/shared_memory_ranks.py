"""
Ranks of one host that share memory
===================================

Two processes learn handwritten digits together: each sees half of every batch, and the mean of
their gradients is formed where both can see it. Over gloo the same gradients would travel through
the loopback network.
"""

import multiprocessing
import tempfile
import time

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits

from paragone.training import shared_group

digits = load_digits()
x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)

# %%
# A tensor in shared memory is summed without a copy, and the sum has the same bits on each rank.
# A shared group can stand beside gloo, as here; `init_process_group("shared")` does without.


def compare(rank, group):
    """Prints how long the mean of a megabyte takes, at best."""
    own, other = torch.ones(1 << 18), torch.ones(1 << 18)
    shared = shared_group.shared_empty(1 << 18, group=group).fill_(1)
    ways = (("gloo", own, None), ("shared", other, group), ("shared, in place", shared, group))
    for name, tensor, kind in ways:
        times = []
        for _ in range(7):
            dist.barrier(group=group)
            begun = time.perf_counter()
            dist.all_reduce(tensor, dist.ReduceOp.SUM, group=kind)
            times.append(time.perf_counter() - begun)
        if rank == 0:
            print(f"sum of 1 MB: {1e6 * min(times):6.0f} us, {name}")


# %%
# Gradients of all parameters lie in one shared tensor, so that one sum in place is the whole
# exchange of a step. With `DistributedDataParallel` this is `shared_group.share_gradients(model)`.


def learn(rank, group):
    """Descends for six epochs; returns the share of unseen digits that are right."""
    torch.manual_seed(0)
    weights = [torch.randn(64, 256) / 8, torch.zeros(256), torch.randn(256, 10) / 16]
    flat = shared_group.shared_empty(sum(w.numel() for w in weights), group=group).zero_()
    for weight, part in zip(weights, flat.split([w.numel() for w in weights]), strict=True):
        weight.requires_grad_().grad = part.view(weight.shape)

    def scores(points):
        return torch.relu(points @ weights[0] + weights[1]) @ weights[2]

    for _ in range(6):
        for batch in torch.randperm(1500).split(100):
            flat.zero_()
            mine = batch[rank::2]
            torch.nn.functional.cross_entropy(scores(x[mine]), y[mine]).backward()
            dist.all_reduce(flat, dist.ReduceOp.AVG, group=group)
            with torch.no_grad():
                for weight in weights:
                    weight -= 0.5 * weight.grad
    with torch.no_grad():
        right = (scores(x[1500:]).argmax(1) == y[1500:]).float().mean()
    everyone = [torch.empty(64, 256) for _ in range(2)]
    dist.all_gather(everyone, weights[0].detach(), group=group)
    return float(right), torch.equal(*everyone)


# %%
# Under torchrun the ranks come from outside; here this process forks them.


def main(rank, place):
    """What one rank does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=2)
    group = shared_group.new_group()
    compare(rank, group)
    right, same = learn(rank, group)
    if rank == 0:
        print(f"{right:.1%} of unseen digits are right; the ranks' weights are equal: {same}")
    dist.destroy_process_group()


if __name__ == "__main__":
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        place = f"file://{folder}/store"
        ranks = [fork.Process(target=main, args=(rank, place)) for rank in range(2)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
    assert all(process.exitcode == 0 for process in ranks)
