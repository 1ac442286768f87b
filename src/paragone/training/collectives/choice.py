r"""Which all-reduce to take for a number of ranks and a size, on a given machine.

On equal links the closed forms of `costs` decide. Where ranks share a node's network card, the
candidates are simulated, the most promising first; one whose closed form with the best of all
links, $T(\min \alpha, \min \beta)$, is above the best time so far is left out, so that the answer
is the simulated best.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from paragone.training.collectives.costs import cost
from paragone.training.collectives.machine import Machine
from paragone.training.collectives.schedules import ALGORITHMS
from paragone.training.collectives.simulation import simulate

__all__ = ["Choice", "choose"]


class Choice(NamedTuple):
    """What to take.

    Attributes:
        algorithm: For `all_reduce`.
        seconds: What it is predicted to take.
        others: (seconds, algorithm) of those that were looked at, ascending.
    """

    algorithm: str
    seconds: float
    others: tuple[tuple[float, str], ...]


@lru_cache(maxsize=1024)
def choose(
    ranks: int, bytes: int, machine: Machine, algorithms: tuple[str, ...] = ALGORITHMS
) -> Choice:
    """Names the algorithm that takes the least time.

    Args:
        ranks: P.
        bytes: Size of the tensor.
        machine: The links; `fit` finds them from measurements.
        algorithms: Among which to choose; those that cannot take P ranks are passed over.

    Raises:
        ValueError: None of the algorithms can take this number of ranks.

    Example:
        >>> cluster = Machine(alpha=1e-5, beta=1e-10)
        >>> choose(63, 2**30, cluster).algorithm, choose(64, 256, cluster).algorithm
        ('bcube', 'halving_doubling')
    """
    bounds = []
    for name in algorithms:
        if name == "hierarchical" and machine.levels == 1:
            continue
        try:
            bounds.append((_bound(name, ranks, bytes, machine), name))
        except ValueError:
            continue
    if not bounds:
        raise ValueError(f"none of {', '.join(algorithms)} can take {ranks} ranks; add 'ring'")
    if machine.levels == 1:
        found = sorted(bounds)
        return Choice(found[0][1], found[0][0], tuple(found))
    found = []
    for bound, name in sorted(bounds):
        if found and bound > min(found)[0]:
            break
        run = simulate(name, ranks=ranks, bytes=bytes, machine=machine)
        found.append((run.seconds, name))
    found.sort()
    return Choice(found[0][1], found[0][0], tuple(found))


def _bound(name: str, ranks: int, nbytes: int, machine: Machine) -> float:
    """What it takes at least: its own cost on links all as good as the best."""
    local_alpha, local_beta = machine.inside
    several = machine.levels == 2
    time = cost(
        name, ranks=ranks, bytes=nbytes,
        alpha=min(machine.alpha, local_alpha) if several else machine.alpha,
        beta=min(machine.beta, local_beta) if several else machine.beta,
        gamma=machine.gamma, ranks_per_node=machine.ranks_per_node,
    )  # fmt: skip
    # The closed form of the trees counts the busiest rank in every round, which is above the
    # time that they take; half of it is safely below.
    return time / 2 if several and name == "tree" else time
