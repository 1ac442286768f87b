"""The links between ranks: what a message, a byte and an addition take, inside a node and across.

Units: seconds, bytes, seconds a byte; 1e-10 s a byte are 10 GB/s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["LOOPBACK", "Machine"]


@dataclass(frozen=True)
class Machine:
    """Ranks on equal links, or on nodes of several ranks that share the node's way out.

    Args:
        alpha: Seconds of an empty message; between nodes where there are several ranks on one.
        beta: Seconds a byte of a single flow, likewise.
        gamma: Seconds to add a byte.
        ranks_per_node: Ranks of a node; rank r is on node `r // ranks_per_node`.
        local_alpha: Seconds of an empty message inside a node (None: `alpha`).
        local_beta: Seconds a byte inside a node (None: `beta`).
        nic_beta: Seconds a byte that a node's network card takes in each direction, for all of
            the node's ranks together (None: `beta`, one flow fills it).

    Raises:
        ValueError: A negative or infinite time, or no rank on a node.

    Example:
        >>> Machine(alpha=5e-6, beta=4e-11, ranks_per_node=8, local_alpha=2e-6).levels
        2
    """

    alpha: float
    beta: float
    gamma: float = 0.0
    ranks_per_node: int = 1
    local_alpha: float | None = None
    local_beta: float | None = None
    nic_beta: float | None = None

    def __post_init__(self) -> None:
        times = (self.alpha, self.beta, self.gamma, *self.inside, self.nic)
        if not all(math.isfinite(time) and time >= 0 for time in times):
            raise ValueError(f"{self}: give finite times from 0 up")
        if self.ranks_per_node < 1:
            raise ValueError(f"ranks_per_node={self.ranks_per_node}: at least 1 is needed")

    @property
    def levels(self) -> int:
        """2 where several ranks share a node, else 1."""
        return 1 if self.ranks_per_node == 1 else 2

    @property
    def inside(self) -> tuple[float, float]:
        """Seconds of an empty message and of a byte inside a node."""
        return (
            self.alpha if self.local_alpha is None else self.local_alpha,
            self.beta if self.local_beta is None else self.local_beta,
        )

    @property
    def nic(self) -> float:
        """Seconds a byte of the network card."""
        return self.beta if self.nic_beta is None else self.nic_beta


LOOPBACK = Machine(alpha=1.5e-4, beta=8e-10, gamma=1e-10)
"""Gloo's `isend` and `irecv` between a few ranks of one host."""
