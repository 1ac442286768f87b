r"""What a collective costs, in closed form: messages, bytes on the busiest link, additions.

A message of n bytes takes $\alpha + n \beta$ and keeps its sender's way out and its receiver's
way in busy for that time; adding n bytes takes $n \gamma$. With P ranks, $Q = 2^{\lfloor \log_2 P
\rfloor}$, D the depth of the trees, k chunks, L ranks of a node and $M = P / L$:

$$ T_{\text{ring}} = 2(P-1)\,\alpha + 2\tfrac{P-1}{P}\, n\beta + \tfrac{P-1}{P}\, n\gamma $$
$$ T_{\text{halving}} = 2 \log_2 Q\,\alpha + 2\tfrac{Q-1}{Q}\, n\beta + \tfrac{Q-1}{Q}\, n\gamma
   \quad (+\; 2\alpha + 2 n\beta + n\gamma \text{ if } Q < P) $$
$$ T_{\text{tree}} \le 2 (D + k - 1) \left(2\alpha + \tfrac{n\beta}{k}\right)
   + (D + k - 1) \tfrac{n\gamma}{k} $$
$$ T_{\text{naive}} = 2(P-1)(\alpha + n\beta) + (P-1)\, n\gamma $$

Every one grows with n. Times between ranks that differ in distance, and links that several ranks
share, are what `simulate` is for.

Units: seconds, bytes, seconds a byte. A bandwidth in GB/s is decimal, $10^9$ bytes; sizes such as
1 MiB are binary.

References:
    Thakur, Rabenseifner and Gropp (2005), section 4.5 (ring, halving-doubling).
    Sanders, Speck and Träff (2009), section 3 (two trees).
    NVIDIA, nccl-tests, doc/PERFORMANCE.md (bus bandwidth).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from paragone.training.collectives.schedules import ALGORITHMS, bcube_factors

__all__ = ["Bandwidth", "bandwidth", "best_chunks", "coefficients", "cost", "default_chunks"]

_MOST_CHUNKS = 128
_SEGMENT = 1 << 20


class Bandwidth(NamedTuple):
    """GB/s (decimal) as a caller sees it, and as the busiest link does."""

    algorithm: float
    bus: float


def default_chunks(nbytes: int) -> int:
    """Pieces of each half of a tensor that is cut up: of 1 MiB at least, 64 at most."""
    return max(1, min(64, nbytes // 2 // _SEGMENT))


def _depth(ranks: int) -> int:
    """Depth of the deeper of the two trees: floor(log2 P), one more where leaves hang lower."""
    return ranks.bit_length() - 1


def best_chunks(ranks: int, nbytes: float, alpha: float, beta: float) -> int:
    """The k that makes `cost` of "tree" least, from 1 to 128.

    Where additions count, give beta + gamma / 2 as `beta`.
    """
    if alpha <= 0:
        return _MOST_CHUNKS
    ideal = math.sqrt(max(_depth(ranks) - 1, 0) * nbytes * beta / (2 * alpha))
    around = {min(max(k, 1), _MOST_CHUNKS) for k in (math.floor(ideal), math.ceil(ideal))}
    depth = _depth(ranks) - 1
    return min(sorted(around), key=lambda k: 2 * alpha * k + nbytes * beta * depth / k)


def coefficients(
    algorithm: str, ranks: int, nbytes: float, *, chunks: int = 1, ranks_per_node: int = 1
) -> tuple[float, float, float]:
    r"""Returns what multiplies $\alpha$, $\beta$ and $\gamma$: messages, bytes, bytes added.

    Args:
        algorithm: One of those of `all_reduce`.
        ranks: P.
        nbytes: Size n of the tensor.
        chunks: k of "tree".
        ranks_per_node: L of "hierarchical".

    Example:
        >>> coefficients("ring", 4, 1000)
        (6.0, 1500.0, 750.0)
    """
    p, n = ranks, float(nbytes)
    if p < 1 or n < 0 or chunks < 1:
        raise ValueError(f"ranks={ranks}, bytes={nbytes}, chunks={chunks}: need >= 1, >= 0, >= 1")
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm={algorithm!r} is none of {', '.join(ALGORITHMS)}")
    if p == 1:
        return 0.0, 0.0, 0.0
    match algorithm:
        case "ring":
            share = (p - 1) / p * n
            return 2.0 * (p - 1), 2 * share, share
        case "halving_doubling":
            steps = p.bit_length() - 1
            core = 1 << steps
            share, fold = (core - 1) / core * n, 0.0 if core == p else 1.0
            return 2.0 * (steps + fold), 2 * (share + fold * n), share + fold * n
        case "tree":
            rounds = _depth(p) + chunks - 1
            # Two ranks: each is a leaf once and a root once, one message a round each way.
            most = 1 if p == 2 else 2
            moved = rounds * most * n / (2 * chunks)
            return 2.0 * rounds * most, 2 * moved, moved
        case "bcube":
            factors = bcube_factors(p)
            share = (p - 1) / p * n
            return 2.0 * sum(f - 1 for f in factors), 2 * share, share
        case "hierarchical":
            local = ranks_per_node
            if local < 1 or p % local:
                raise ValueError(f"ranks_per_node={local} does not divide {p} ranks; use a divisor")
            nodes = p // local
            share = (local - 1) / local * n + (nodes - 1) / nodes * n / local
            return 2.0 * (local - 1 + nodes - 1), 2 * share, share
    return 2.0 * (p - 1), 2.0 * (p - 1) * n, (p - 1) * n


def cost(
    algorithm: str,
    *,
    ranks: int,
    bytes: float,
    alpha: float,
    beta: float,
    gamma: float = 0.0,
    chunks: int | None = None,
    ranks_per_node: int = 1,
) -> float:
    r"""Seconds of an all-reduce on links that are all alike.

    Prefer it to `simulate` for a first look, on one host or one switch.

    Args:
        algorithm: One of those of `all_reduce`.
        ranks: P.
        bytes: Size n of the tensor.
        alpha: Seconds of an empty message.
        beta: Seconds a byte, $1 / (10^9 \cdot \text{GB/s})$.
        gamma: Seconds to add a byte.
        chunks: k of "tree" (None: the best one).
        ranks_per_node: L of "hierarchical".

    Raises:
        ValueError: An unknown algorithm, or a number out of range.

    Example:
        >>> round(cost("ring", ranks=64, bytes=2**20, alpha=1e-5, beta=1e-10) * 1e6)
        1466
    """
    if min(alpha, beta, gamma) < 0 or not math.isfinite(alpha + beta + gamma):
        raise ValueError(f"alpha={alpha}, beta={beta}, gamma={gamma}: give finite times from 0 up")
    if algorithm == "tree" and chunks is None:
        chunks = best_chunks(max(ranks, 1), bytes, alpha, beta + gamma / 2)
    messages, moved, added = coefficients(
        algorithm, ranks, bytes, chunks=chunks or 1, ranks_per_node=ranks_per_node
    )
    return messages * alpha + moved * beta + added * gamma


_SHARES = {
    "all_reduce": lambda p: 2 * (p - 1) / p,
    "reduce_scatter": lambda p: (p - 1) / p,
    "all_gather": lambda p: (p - 1) / p,
    "all_to_all": lambda p: (p - 1) / p,
    "broadcast": lambda p: 1.0,
}


def bandwidth(collective: str, *, ranks: int, bytes: float, seconds: float) -> Bandwidth:
    """Bandwidth in GB/s, as NCCL's tests report it.

    The bus bandwidth is what the busiest link carried at least; it does not depend on the number
    of ranks and can be held against the hardware's.

    Args:
        collective: "all_reduce", "reduce_scatter", "all_gather", "all_to_all" or "broadcast".
        ranks: P.
        bytes: Size of the whole tensor.
        seconds: Time of one call.

    Example:
        >>> bandwidth("all_reduce", ranks=2, bytes=2**30, seconds=0.1)
        Bandwidth(algorithm=10.73741824, bus=10.73741824)
    """
    if collective not in _SHARES:
        raise ValueError(f"collective={collective!r} is none of {', '.join(_SHARES)}")
    if seconds <= 0 or ranks < 1:
        raise ValueError(f"seconds={seconds}, ranks={ranks}: give a time above 0, ranks from 1 up")
    algorithm = bytes / seconds / 1e9
    return Bandwidth(algorithm, algorithm * _SHARES[collective](ranks))
