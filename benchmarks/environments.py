r"""How fast do our vector environments step beside Gymnasium's and EnvPool's?

    python benchmarks/environments.py [--rounds 7] [--counts 1,64,1024,16384]
                                      [--worlds FrozenLake-v1,Taxi-v4] [--out]

Everybody steps the same toy-text worlds through the same call, `step(actions)` to the five arrays
(observations, rewards, terminations, truncations, infos), with random actions drawn before, whole
numbers in arrays; episodes begin again by themselves (EnvPool with one thread). Contestants are
interleaved: in each round each runs once, in random order. A figure is the median over the rounds
of processor time a step; a ratio is the median of the rounds' ratios. Compilation is done by a
first step and not part of any time. "alone" is one environment without a vector around it, and
Gymnasium's with the wrappers that `gymnasium.make` puts on. Above 1,024 Gymnasium, whose cost an
environment stays the same, is left out: to make them takes longer than all the rest.

The trajectories are the same as Gymnasium's under the same seeds (`tests/reinforcement`).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np

from paragone.reinforcement import make, make_vec

HERE = Path(__file__).resolve().parent
TASKS = {
    "FrozenLake-v1": ("FrozenLake-v1", 4), "Taxi-v4": ("Taxi-v3", 6),
    "CliffWalking-v1": ("CliffWalking-v0", 4), "Blackjack-v1": ("Blackjack-v1", 2),
}  # fmt: skip

PACKAGES = ("gymnasium", "envpool", "numba")


def vectors(name: str, n: int) -> dict[str, Callable[[np.ndarray], object]]:
    """Each library's `step` over n environments, after a reset."""
    found = {"ours": make_vec(name, n)}
    if n <= 1024:
        found["gymnasium"] = gymnasium.make_vec(name, n, vectorization_mode="sync")
    for env in found.values():
        env.reset(seed=0)
    steps = {kind: env.step for kind, env in found.items()}
    try:
        import envpool
    except ImportError:
        return steps
    pool = envpool.make(TASKS[name][0], env_type="gymnasium", num_envs=n, num_threads=1)
    pool.reset()
    return {**steps, "envpool": pool.step}


def alone(name: str) -> dict[str, Callable[[int], None]]:
    """Each library's loop over one environment, resets included."""

    def loop(env: gymnasium.Env) -> Callable[[int], None]:
        actions = np.random.default_rng(1).integers(0, TASKS[name][1], 1 << 16).tolist()

        def run(steps: int) -> None:
            env.reset()
            for i in range(steps):
                _, _, terminated, truncated, _ = env.step(actions[i & 0xFFFF])
                if terminated or truncated:
                    env.reset()

        return run

    return {"ours": loop(make(name)), "gymnasium": loop(gymnasium.make(name))}


def cost(step: Callable[[np.ndarray], object], actions: list[np.ndarray], calls: int) -> float:
    """Seconds of processor time for one step of one environment."""
    before = time.process_time()
    for i in range(calls):
        step(actions[i % len(actions)])
    return (time.process_time() - before) / (calls * len(actions[0]))


def measure(name: str, n: int, rounds: int) -> dict[str, list[float]]:
    """Costs of each library in each round, each of about 0.2 s."""
    random = np.random.default_rng(n)
    actions = [random.integers(0, TASKS[name][1], n) for _ in range(16)]
    steps = vectors(name, n)
    given = {
        k: [a.astype(np.int32 if k == "envpool" else np.int64) for a in actions] for k in steps
    }
    calls, times = {}, {kind: [] for kind in steps}
    for kind, step in steps.items():
        step(given[kind][0])
        calls[kind] = max(2, int(0.2 / max(cost(step, given[kind], 3) * n, 1e-6)))
    for _ in range(rounds):
        for kind in random.permutation(list(steps)):
            times[kind].append(cost(steps[kind], given[kind], calls[kind]))
    return times


def line(title: str, times: dict[str, list[float]]) -> str:
    """One row of the table: our speed, and how many times slower the others are."""
    ours = np.array(times["ours"])
    cells = [f"{1e-6 / np.median(ours):.2f}"]
    for kind in ("gymnasium", "envpool"):
        if kind in times:
            theirs = np.array(times[kind])
            ratio = np.median(theirs / ours)
            cells.append(f"{1e-6 / np.median(theirs):.3f} ({ratio:.3g}x)")
        else:
            cells.append("-")
    return f"| {title} | " + " | ".join(cells) + " |"


def version(package: str) -> str:
    """Name and version of a contestant, or that it is missing."""
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"no {package}"


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--counts", default="1,64,1024,16384")
    parser.add_argument("--worlds", default=",".join(TASKS))
    parser.add_argument("--out", action="store_true", help="write results/environments.md")
    given = parser.parse_args()
    rows = [
        "Millions of steps a second of one core, and how many times slower the others are.",
        "",
        f"`python benchmarks/environments.py --rounds {given.rounds} --counts {given.counts} "
        f"--worlds {given.worlds}`, processor time; {', '.join(map(version, PACKAGES))}; load "
        f"{os.getloadavg()[0]:.0f} on {os.cpu_count()} cores at the start.",
        "",
        "| world, environments | ours | Gymnasium | EnvPool, 1 thread |",
        "|---|---|---|---|",
    ]
    print("\n".join(rows), flush=True)
    for name in given.worlds.split(","):
        runs, times = alone(name), {"ours": [], "gymnasium": []}
        for _ in range(given.rounds):
            for kind, run in runs.items():
                before = time.process_time()
                run(20_000)
                times[kind].append((time.process_time() - before) / 20_000)
        rows.append(line(f"{name}, alone", times))
        print(rows[-1], flush=True)
        for n in map(int, given.counts.split(",")):
            rows.append(line(f"{name}, {n}", measure(name, n, given.rounds)))
            print(rows[-1], flush=True)
    if given.out:
        (HERE / "results" / "environments.md").write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
