"""
Which all-reduce?
=================

Two ranks add a model's gradients with several algorithms. Their times give the machine's two
numbers, a message and a byte; from these a cluster is priced.
"""

# %%
# The ranks
# ---------
# ``torchrun --nproc-per-node 2`` would start them; here two processes of this script meet through
# a file. The gradients are those of a small network on scikit-learn's digits, flattened.
import os
import tempfile
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from sklearn.datasets import load_digits

from paragone.training import collectives

SIZES = [1 << k for k in range(10, 23, 2)]
ALGORITHMS = ["ring", "halving_doubling", "naive"]


def gradients(rank: int, world: int) -> torch.Tensor:
    """Of one batch for each rank: every `world`-th digit."""
    digits = load_digits()
    x = torch.tensor(digits.data[rank::world], dtype=torch.float32) / 16
    y = torch.tensor(digits.target[rank::world])
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 200), torch.nn.ReLU(), torch.nn.Linear(200, 10))
    torch.nn.functional.cross_entropy(model(x), y).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def rank_main(rank: int, world: int, folder: str) -> None:
    """What each rank does: the same mean with every algorithm, then times by size."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=world)
    mine, means, rows = gradients(rank, world), {}, []
    for name in ALGORITHMS:
        trace = collectives.Trace()
        means[name] = collectives.all_reduce(
            mine.clone(), name, op="avg", ordered=True, trace=trace
        )
        if rank == 0:
            machine = collectives.LOOPBACK
            priced = collectives.cost(
                name, ranks=world, bytes=mine.nbytes, alpha=machine.alpha, beta=machine.beta
            )
            print(f"{name:17} {trace.steps} steps, {trace.sent:,} bytes sent", end="")
            print(f", priced at {1e6 * priced:.0f} microseconds on a loopback")
    assert all(torch.equal(means["ring"], mean) for mean in means.values())
    for name in ALGORITHMS:
        for nbytes in SIZES:
            x, best = torch.zeros(nbytes // 4), float("inf")
            for _ in range(6):
                start = time.perf_counter()
                collectives.all_reduce(x, name, check=False)
                best = min(best, time.perf_counter() - start)
            rows.append((name, world, nbytes, best))
    if rank == 0:
        torch.save(rows, f"{folder}/rows.pt")
    dist.destroy_process_group()


# %%
# The machine's two numbers
# -------------------------
# Half of the times are fitted, the other half is predicted.
if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(rank_main, (2, folder), nprocs=2, start_method="fork")
        rows = torch.load(f"{folder}/rows.pt")
    found = collectives.fit(rows)
    print(f"a message {found.machine.alpha * 1e6:.0f} us, {1e-9 / found.machine.beta:.2g} GB/s; "
          f"median error of what was left out {found.error:.0%}")  # fmt: skip

    # %%
    # A cluster with such links, and one of today
    # -------------------------------------------
    # Eight ranks on a node share a network card.
    today = collectives.Machine(
        alpha=8e-6, beta=1 / 25e9, ranks_per_node=8, local_alpha=2e-6, local_beta=1 / 150e9,
        nic_beta=1 / 50e9,
    )  # fmt: skip
    for title, machine in (("links of this machine", found.machine), ("nodes of 8", today)):
        for nbytes in (1 << 10, 1 << 20, 1 << 28):
            choice = collectives.choose(512, nbytes, machine)
            print(f"512 ranks, {title}, {nbytes:>11,} bytes: {choice.algorithm:17}"
                  f"{choice.seconds * 1e3:9.2f} ms")  # fmt: skip
