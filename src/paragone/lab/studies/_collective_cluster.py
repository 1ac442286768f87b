"""The simulated cluster of the study `collectives`: its links, times and best algorithms.

Nodes of 8 ranks: inside, 2 microseconds and 150 GB/s a flow; across, 8 microseconds and 25 GB/s a
flow, with one card of 50 GB/s for the 8 ranks of a node. Round numbers of a cluster of today; the
flat machine has the same links between nodes, and one rank on each.
"""

from __future__ import annotations

from functools import lru_cache

from paragone.training.collectives import Machine, choose, simulate

__all__ = ["CLUSTER", "FLAT", "RANKS", "SIMULATED", "SIZES", "best", "seconds"]

CLUSTER = Machine(
    alpha=8e-6, beta=1 / 25e9, gamma=1 / 500e9, ranks_per_node=8, local_alpha=2e-6,
    local_beta=1 / 150e9, nic_beta=1 / 50e9,
)  # fmt: skip
FLAT = Machine(alpha=8e-6, beta=1 / 25e9, gamma=1 / 500e9)
RANKS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
SIZES = tuple(1 << k for k in range(8, 31, 2))
SIMULATED = {
    "ring": "ring", "tree": "two trees", "halving_doubling": "halving-doubling",
    "hierarchical": "hierarchical",
}  # fmt: skip


@lru_cache(maxsize=4096)
def seconds(name: str, ranks: int, nbytes: int, machine: Machine = CLUSTER) -> float:
    """Simulated time of an algorithm."""
    return simulate(name, ranks=ranks, bytes=nbytes, machine=machine).seconds


@lru_cache(maxsize=4096)
def best(ranks: int, nbytes: int, machine: Machine = CLUSTER) -> str:
    """The algorithm of least simulated time."""
    return choose(ranks, nbytes, machine, tuple(SIMULATED)).algorithm
