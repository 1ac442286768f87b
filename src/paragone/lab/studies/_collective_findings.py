"""What only the study `collectives` can say: where the lead changes hands, here and on a cluster.

Times of real ranks come from the summary. The simulated cluster is `_collective_cluster`; it is
imported when a sentence needs it, as it loads the methods.
"""

from __future__ import annotations

import itertools
import statistics
from functools import lru_cache

from paragone.lab import format as fmt
from paragone.lab import growth
from paragone.lab.claims import seen
from paragone.lab.contestants.collectives import ALGORITHMS
from paragone.lab.outcome import Summary

__all__ = ["CLAIMS", "findings"]

_LARGE = 1 << 20
_OVER_MESSAGES = (*ALGORITHMS, "naive")
_NAMES = {**ALGORITHMS, "naive": "to one rank and back"}


def _axis(ranks: int) -> str:
    return f"bytes on {ranks} ranks"


def _ranks(summary: Summary) -> list[int]:
    return sorted({int(w.facts["ranks"]) for w in summary.workloads})


def _curve(summary: Summary, ranks: int, name: str) -> dict[int, float]:
    """Bytes to seconds of a call."""
    return {int(x): y for x, y in growth.along(summary, _axis(ranks), name, "call_s")}


def _size(nbytes: float) -> str:
    unit, name = (1 << 20, "MiB") if nbytes >= 1 << 20 else (1 << 10, "KiB")
    return f"{nbytes / unit:.3g} {name}" if nbytes >= 1 << 10 else f"{nbytes:.0f} B"


def _times(ratio: float) -> str:
    return f"{ratio:.0f}x" if ratio >= 9.95 else f"{ratio:.1f}x"


def _leads(leaders: list[tuple[int, str]]) -> str:
    """Runs of one leader along sizes, as words."""
    runs = [(name, [size for size, _ in group])
            for name, group in itertools.groupby(leaders, key=lambda pair: pair[1])]  # fmt: skip
    if len(runs) == 1:
        return f"{_NAMES.get(runs[0][0], runs[0][0])} at every size"
    words = [f"{_NAMES.get(name, name)} up to {_size(sizes[-1])}" for name, sizes in runs[:-1]]
    last, sizes = runs[-1]
    return ", ".join([*words, f"{_NAMES.get(last, last)} from {_size(sizes[0])}"])


def _here(summary: Summary) -> list[str]:
    found = []
    for ranks in _ranks(summary):
        curves = {name: _curve(summary, ranks, name) for name in _OVER_MESSAGES}
        sizes = sorted({n for curve in curves.values() for n in curve})
        leaders = [(n, min((c[n], name) for name, c in curves.items() if n in c)[1]) for n in sizes]
        if leaders:
            found.append(f"Over gloo's messages on {ranks} ranks of this machine the fastest is "
                         f"{_leads(leaders)}.")  # fmt: skip
    return found


def _ratios(summary: Summary, name: str, other: str) -> dict[tuple[int, int], float]:
    """(ranks, bytes) to how many times as long `other` takes."""
    found = {}
    for ranks in _ranks(summary):
        mine, theirs = _curve(summary, ranks, name), _curve(summary, ranks, other)
        found.update({(ranks, n): theirs[n] / mine[n] for n in mine.keys() & theirs.keys()})
    return found


def _shared(summary: Summary) -> list[str]:
    ratios = _ratios(summary, "all_reduce", "gloo_all_reduce")
    words = []
    for ranks in sorted({ranks for ranks, _ in ratios}):
        sizes = sorted(n for r, n in ratios if r == ranks)
        parts = [f"{_times(ratios[ranks, n])} at {_size(n)}" for n in sizes]
        words.append(f"on {ranks} ranks {', '.join(parts)}")
    return [f"Shared memory against gloo: {'; '.join(words)}."] if words else []


@lru_cache(maxsize=8)
def _fitted(timings: tuple[tuple[str, int, int, float], ...]) -> tuple[float, float, float, float]:
    from paragone.training.collectives import fit

    found = fit(timings)
    return found.machine.alpha, found.machine.beta, found.error, found.large_error


def _fit(summary: Summary, ranks: int) -> tuple[float, float, float, float] | None:
    timings = tuple(
        (name, ranks, n, seconds)
        for name in ("ring", "halving_doubling", "naive")
        for n, seconds in sorted(_curve(summary, ranks, name).items())
    )
    return _fitted(timings) if len(timings) >= 8 else None


def _links(summary: Summary) -> list[str]:
    words = []
    for ranks in _ranks(summary):
        fitted = _fit(summary, ranks)
        if fitted is not None and fitted[1] > 0:
            alpha, beta, error, _ = fitted
            words.append(f"{fmt.seconds(alpha)} a message and {1e-9 / beta:.2g} GB/s on {ranks} "
                         f"ranks (median error on the half left out {error:.0%})")  # fmt: skip
    return [f"Fitted to ring, halving-doubling and naive: {'; '.join(words)}."] if words else []


def _cluster() -> list[str]:
    from paragone.lab.studies import _collective_cluster as cluster

    found = []
    for ranks in (64, 4096):
        leaders = [(n, cluster.best(ranks, n)) for n in cluster.SIZES]
        found.append(f"On {ranks:,} simulated ranks, 8 on a node that share a card, the fastest is "
                     f"{_leads(leaders)}.")  # fmt: skip
    leaders = [(n, cluster.best(1000, n, cluster.FLAT)) for n in cluster.SIZES]
    found.append(f"On 1,000 simulated ranks with a card each it is {_leads(leaders)}.")
    return found


def findings(summary: Summary) -> list[str]:
    """Sentences that follow the verdict."""
    return [*_here(summary), *_shared(summary), *_links(summary), *_cluster()]


def _optimal(summary: Summary) -> tuple[str, bool] | None:
    words, holds = [], True
    for ranks in _ranks(summary):
        curves = {name: _curve(summary, ranks, name) for name in _OVER_MESSAGES}
        sizes = [n for n in curves["ring"] if n >= _LARGE]
        if not sizes:
            continue
        n = max(sizes)
        time, name = min((c[n], name) for name, c in curves.items() if n in c)
        words.append(f"{ranks} ranks, {_size(n)}: {curves['ring'][n] / time:.2g}x the best "
                     f"({_NAMES[name]})")  # fmt: skip
        holds &= curves["ring"][n] <= 1.15 * time
    return ("; ".join(words), holds) if words else None


def _small_trees(_: Summary) -> tuple[str, bool] | None:
    from paragone.lab.studies import _collective_cluster as cluster

    times = {a: cluster.seconds(a, 4096, 1 << 10) for a in cluster.SIMULATED}
    words = ", ".join(f"{_NAMES[a]} {fmt.seconds(t)}" for a, t in times.items())
    return f"4,096 simulated ranks, 1 KiB: {words}", times["tree"] < times["ring"] / 10


def _between(_: Summary) -> tuple[str, bool] | None:
    """Whether there are sizes between those of the trees and those of the ring."""
    from paragone.lab.studies import _collective_cluster as cluster

    rings, words, holds = ("ring", "hierarchical"), [], True
    for machine, ranks in ((cluster.FLAT, 1000), (cluster.CLUSTER, 4096)):
        leaders = [(n, cluster.best(ranks, n, machine)) for n in cluster.SIZES]
        kinds = [kind for kind, _ in itertools.groupby(name for _, name in leaders)]
        words.append(f"{ranks:,} ranks, {machine.ranks_per_node} on a node: {_leads(leaders)}")
        place = {kind: i for i, kind in enumerate(kinds)}
        large = max((place[kind] for kind in rings if kind in place), default=-1)
        holds &= place.get("tree", 99) < place.get("halving_doubling", -1) < large
    return "; ".join(words), holds


def _ten(summary: Summary) -> tuple[str, bool] | None:
    ratios = _ratios(summary, "all_reduce", "gloo_all_reduce")
    small = [ratio for (_, n), ratio in ratios.items() if n <= 1 << 10]
    large = [ratio for (_, n), ratio in ratios.items() if n >= _LARGE]
    if not small or not large:
        return None
    return (
        f"1 KiB: {_times(min(small))} to {_times(max(small))}, 1 MiB up: {_times(min(large))} to "
        f"{_times(max(large))}", min(small) >= 10 and min(large) >= 2,
    )  # fmt: skip


def _predicted(summary: Summary) -> tuple[str, bool] | None:
    found = {ranks: _fit(summary, ranks) for ranks in _ranks(summary)}
    errors = {ranks: fitted[3] for ranks, fitted in found.items() if fitted is not None}
    errors = {ranks: error for ranks, error in errors.items() if error == error}
    if not errors:
        return None
    words = ", ".join(f"{error:.0%} on {ranks} ranks" for ranks, error in errors.items())
    return f"median error from 1 MiB on, half left out: {words}", (
        statistics.median(errors.values()) <= 0.10
    )


CLAIMS = (
    seen("The ring moves the fewest bytes, so that for large tensors nothing is faster (within "
         "15 %).", "Patarasuk and Yuan (2009), theorem 1", _optimal),
    seen("Trees win by far over the ring for small messages on many ranks (ten times).",
         "Sanders, Speck and Träff (2009); NCCL 2.4, massively scale your training", _small_trees),
    seen("Halving-doubling is best between the sizes of trees and of rings.",
         "Thakur, Rabenseifner and Gropp (2005), section 4.5", _between),
    seen("Shared memory on one host beats gloo 10x at 1 KB and 2x from 1 MB on.",
         "DeepSpeed, pull request 5391 (8x and 47x on a server)", _ten),
    seen("Two numbers, a message's and a byte's time, predict times within 10 % from 1 MiB on.",
         "Hockney (1994), the communication challenge for MPP", _predicted),
)  # fmt: skip
