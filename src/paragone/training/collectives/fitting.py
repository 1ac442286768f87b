r"""The machine behind measured times: alpha and beta by least relative error.

With the closed forms of `costs` a time is linear in what is sought,

$$ t_i \approx a_i \alpha + b_i \beta, \qquad
   \min_{\alpha, \beta \ge 0} \sum_i \left( \frac{a_i \alpha + b_i \beta}{t_i} - 1 \right)^2 , $$

so that small and large messages count alike. Every algorithm adds half of the bytes that it
moves, so no measurement tells $\gamma$ from $\beta$: what is found is $\beta + \gamma / 2$. Every
other time of each algorithm, by size, is left out of the fit and predicted.

Shapes: N measurements.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from paragone.training.collectives.costs import coefficients, default_chunks
from paragone.training.collectives.machine import Machine

__all__ = ["Fit", "Timing", "fit"]


class Timing(NamedTuple):
    """One measured all-reduce."""

    algorithm: str
    ranks: int
    bytes: int
    seconds: float
    chunks: int | None = None
    """Pieces of each half for "tree" (None: as `all_reduce` cuts this size)."""
    ranks_per_node: int = 1


@dataclass(frozen=True)
class Fit:
    """A machine, and how well it predicts times that it was not fitted to.

    Attributes:
        machine: alpha and beta; additions are in beta.
        error: Median of `|predicted / measured - 1|` over the times left out.
        large_error: The same over those of at least 1 MiB (NaN: none).
        fitted: Number of times fitted.
        held_out: Number of times left out.
    """

    machine: Machine
    error: float
    large_error: float
    fitted: int
    held_out: int

    def predict(self, timing: Timing) -> float:
        """Seconds that this machine takes for the same call."""
        return float(np.dot(_row(timing), (self.machine.alpha, self.machine.beta)))


def _row(timing: Timing) -> tuple[float, float]:
    chunks = timing.chunks or (default_chunks(timing.bytes) if timing.algorithm == "tree" else 1)
    return coefficients(
        timing.algorithm, timing.ranks, timing.bytes, chunks=chunks,
        ranks_per_node=timing.ranks_per_node,
    )[:2]  # fmt: skip


def _least_squares(rows: np.ndarray) -> tuple[float, float]:
    """Minimises |rows x - 1| over x >= 0: the free solution, or the better edge."""
    scale = np.maximum(rows.max(axis=0), 1e-300)
    rows = rows / scale
    free = np.linalg.lstsq(rows, np.ones(len(rows)), rcond=None)[0]
    if free.min() < 0:
        edges = [np.eye(2)[i] * max(column.sum(), 0) / max(column @ column, 1e-300)
                 for i, column in enumerate(rows.T)]  # fmt: skip
        free = min(edges, key=lambda x: float(np.square(rows @ x - 1).sum()))
    return float(free[0] / scale[0]), float(free[1] / scale[1])


def fit(measurements: Iterable[Timing | tuple[Any, ...]]) -> Fit:
    """Finds the machine on which these all-reduces took the times that they took.

    Args:
        measurements: Timings (or tuples of their fields), of two sizes at least; of one number
            of ranks where these share cores or links.

    Raises:
        ValueError: Fewer than four timings, or one that is not above 0.

    Example:
        >>> true = [("ring", 4, 2**k, 6e-5 + 1.5e-9 * 2**k) for k in range(10, 24)]
        >>> found = fit(true)
        >>> round(found.machine.alpha * 1e6, 3), found.error < 1e-6
        (10.0, True)
    """
    given: list[tuple[Any, ...]] = [tuple(one) for one in measurements]
    timings = sorted((Timing(*one) for one in given), key=lambda t: (t[0], t[1], t[2]))
    if len(timings) < 4:
        raise ValueError(f"{len(timings)} timings: at least 4 are needed, of several sizes")
    bad = [t for t in timings if not 0 < t.seconds < float("inf") or t.ranks < 2]
    if bad:
        raise ValueError(f"{bad[0]}: give times above 0 of at least 2 ranks")
    known, tested = timings[::2], timings[1::2]
    rows = np.array([_row(t) for t in known]) / np.array([[t.seconds] for t in known])
    alpha, beta = _least_squares(rows)
    machine = Machine(alpha=alpha, beta=beta)
    found = Fit(machine, 0.0, 0.0, len(known), len(tested))
    errors = np.array([abs(found.predict(t) / t.seconds - 1) for t in tested])
    large = np.array([t.bytes >= 1 << 20 for t in tested])
    return Fit(
        machine, float(np.median(errors)),
        float(np.median(errors[large])) if large.any() else float("nan"), len(known), len(tested),
    )  # fmt: skip
