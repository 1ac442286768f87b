r"""Figures of stochastic approximation: coverage of intervals, ranks of KLL, nanoseconds.

    python benchmarks/approximation.py coverage [--problems mean linear] [--replications 2000]
    python benchmarks/approximation.py ranks [--streams 10000]
    python benchmarks/approximation.py speed [--numbers 100000000]
    python benchmarks/approximation.py sizes [--numbers 1000000]

coverage: the share of 95 % intervals that hold the truth, for a mean, a linear model, a logistic
model and a median, by random scaling and by the plug-in covariance; one pass over fresh rows.

ranks: the rank error of KLL (k = 200) at one probability on each of many streams: random, sorted,
reversed, three values, a constant; every one with its own seed. And that of a histogram in value.

speed: CPU time of a number, median of interleaved rounds, with the peers that are installed; and
scalar Robbins-Monro iterations a second over parallel replications.

sizes: bytes of the states, as `to_bytes` writes them, after so many numbers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from paragone.estimation import RunningMean, RunningQuantile, sgd
from paragone.estimation.robbins_monro import replicate
from paragone.estimation.steps import Power

ROUNDS = 5
STEPS = {"mean": 1.0, "linear": 0.5, "logistic": 1.0, "quantile": 2.0}
ROWS = {"mean": 20_000, "linear": 20_000, "logistic": 1.0_000, "quantile": 20_000}


def rows_of(kind: str, n: int, seed: int) -> tuple[Any, np.ndarray]:
    """Fresh rows, and what their coefficients are."""
    rng = np.random.default_rng(seed)
    if kind in ("mean", "quantile"):
        return rng.standard_normal(n), np.zeros(1)
    x = np.column_stack([np.ones(n), rng.standard_normal((n, 2))])
    truth = np.array([-0.5, 0.25, 1.0])
    fitted = x @ truth
    if kind == "linear":
        return (x, fitted + rng.standard_normal(n)), truth
    return (x, (rng.random(n) < 1 / (1 + np.exp(-fitted))).astype(float)), truth


def coverage(replications: int, problems: list[str]) -> None:
    """Prints the coverage of each interval on each problem."""
    for kind in problems:
        n = ROWS[kind]
        kinds = ("scaling",) if kind == "quantile" else ("scaling", "plugin")
        hits: dict[str, list[Any]] = {name: [] for name in kinds}
        for seed in range(replications):
            rows, truth = rows_of(kind, n, seed)
            found = sgd(
                kind, rows, steps=Power(STEPS[kind], 0.0, 0.51), burn_in=n // 20,
                order="sequential", covariance=kind != "quantile",
            )  # fmt: skip
            for name in kinds:
                low, high = found.interval(0.95, kind=name)
                hits[name].append((low <= truth) & (truth <= high))
        for name, held in hits.items():
            shares = np.mean(held, axis=0)
            told = ", ".join(f"{share:.2%}" for share in shares)
            print(f"{kind:9s} {name:8s} n = {n:,}: {told}  ({replications:,} replications)")


def ranks(streams: int) -> None:
    """Prints the share of streams on which KLL keeps its bound, and the largest errors."""
    n = 20_000
    rng = np.random.default_rng(0)
    errors: dict[str, list[float]] = {}
    for seed in range(streams):
        kind = ("random", "sorted", "reversed", "ties", "constant")[seed % 5]
        values = rng.standard_normal(n)
        if kind in ("sorted", "reversed"):
            values = np.sort(values)[:: 1 if kind == "sorted" else -1]
        elif kind == "ties":
            values = np.round(values)
        elif kind == "constant":
            values[:] = 1.0
        stream = RunningQuantile("kll", random_state=seed).update(values)
        at = np.quantile(values, rng.random(), method="inverted_cdf")
        errors.setdefault(kind, []).append(abs(float(stream.cdf(at)) - np.mean(values <= at)))
    every = np.concatenate([np.array(found) for found in errors.values()])
    print(
        f"KLL k = 200, {streams:,} streams of {n:,}: within 1.33 %: {np.mean(every <= 0.0133):.3%}"
    )
    for kind, found in errors.items():
        print(f"  {kind:9s} 99 % below {np.quantile(found, 0.99):.3%}, largest {max(found):.3%}")


def clock(calls: dict[str, tuple[Callable[[], Any], int]]) -> dict[str, float]:
    """Nanoseconds of CPU time a number, median over interleaved rounds."""
    for call, _ in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, (call, count) in calls.items():
            start = time.process_time()
            call()
            times[name].append((time.process_time() - start) / count * 1e9)
    return {name: float(np.median(found)) for name, found in times.items()}


def speed(numbers: int) -> None:
    """Prints nanoseconds a number, ours and the peers'."""
    values = np.random.default_rng(0).standard_normal(numbers)
    some, few = values[: min(numbers, 10_000_000)], values[:200_000].tolist()
    calls: dict[str, tuple[Callable[[], Any], int]] = {
        "RunningMean, four moments": (lambda: RunningMean().update(values), numbers),
        "RunningQuantile histogram": (lambda: RunningQuantile().update(some), len(some)),
        "RunningQuantile kll": (lambda: RunningQuantile("kll").update(some), len(some)),
        "RunningQuantile kll, 1e5": (
            lambda: RunningQuantile("kll").update(some[:100_000]), 100_000),
        "RunningQuantile p2": (lambda: RunningQuantile("p2").update(some), len(some)),
        "numpy mean and var": (lambda: (some.mean(), some.var()), len(some)),
        "numpy quantile": (lambda: np.quantile(some, 0.5), len(some)),
    }  # fmt: skip
    calls.update(_peers(some, few))
    for name, ns in clock(calls).items():
        print(f"{name:28s} {ns:8.2f} ns")
    start = time.process_time()
    replicate("mean", 0.0, 10_000, 2000)
    spent = time.process_time() - start
    print(f"Robbins-Monro replications   {2e7 / spent / 1e6:8.1f} million steps a second")


def _peers(some: np.ndarray, few: list[float]) -> dict[str, tuple[Callable[[], Any], int]]:
    calls: dict[str, tuple[Callable[[], Any], int]] = {}
    try:
        from river import stats

        def river(make: Callable[[], Any]) -> None:
            made = make()
            for value in few:
                made.update(value)

        calls["river Var"] = (lambda: river(stats.Var), len(few))
        calls["river Quantile"] = (lambda: river(lambda: stats.Quantile(0.5)), len(few))
    except ImportError:
        print("river is not installed")
    try:
        import datasketches

        calls["DataSketches KLL"] = (
            lambda: datasketches.kll_doubles_sketch(200).update(some), len(some)
        )  # fmt: skip
    except ImportError:
        print("datasketches is not installed")
    return calls


def sizes(numbers: int) -> None:
    """Prints how long the states of a stream are, saved."""
    values = np.random.default_rng(0).lognormal(size=numbers)
    streams = {"RunningMean": RunningMean()}
    streams |= {f"RunningQuantile {kind}": RunningQuantile(kind)
                for kind in ("histogram", "kll", "p2")}  # fmt: skip
    for name, stream in streams.items():
        print(f"{name:28s} {len(stream.update(values).to_bytes()):8,} bytes")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["coverage", "ranks", "speed", "sizes"])
    parser.add_argument("--problems", nargs="+", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--replications", type=int, default=2000)
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--numbers", type=int, default=100_000_000)
    asked = parser.parse_args()
    if asked.what == "coverage":
        coverage(asked.replications, asked.problems)
    elif asked.what == "ranks":
        ranks(asked.streams)
    elif asked.what == "sizes":
        sizes(asked.numbers)
    else:
        speed(asked.numbers)


if __name__ == "__main__":
    main()
