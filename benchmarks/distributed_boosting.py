"""Two processes against one on the same rows: time of a fit, and whether the models are equal.

    python benchmarks/distributed_boosting.py --out benchmarks/results/distributed_boosting.json

Each process has one thread and is a fresh interpreter. Data are made before the clock starts (a
Higgs-like table: 28 columns, two classes), kernels are compiled, and the processes have met; the
clock covers `fit` with binning, from the last process that is ready to the last that is done.
One and two processes take turns; the figure is the median of the ratios of a turn.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def rows(begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows `begin` to `end` of the table, the same whoever asks: made in blocks of 10,000."""
    parts = []
    for block in range(begin // 10_000, -(-end // 10_000)):
        rng = np.random.default_rng([7, block])
        X = rng.normal(size=(10_000, 28)).astype(np.float32)
        score = X[:, 0] * X[:, 1] + np.sin(2 * X[:, 2]) + 0.5 * X[:, 3:8].sum(axis=1)
        y = (score + rng.normal(size=10_000) > 0).astype(np.int64)
        low, high = max(begin, block * 10_000), min(end, block * 10_000 + 10_000)
        own = slice(low - block * 10_000, high - block * 10_000)
        parts.append((X[own], y[own]))
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


def work(rank: int, size: int, count: int, folder: Path, params: dict) -> None:
    """What one process does; it writes its times and the digest of its model."""
    from paragone.ensemble import NewtonBoostingClassifier
    from paragone.ensemble.distributed import connect, disconnect

    connect(rank=rank, world_size=size, init_method=f"file://{folder}/meet-{size}")
    more = {"process_group": True} if size > 1 else {}
    X, y = rows(count * rank // size, count * (rank + 1) // size)
    # A first fit loads or compiles every kernel; its rows suffice for all that depends on size.
    NewtonBoostingClassifier(**params | {"n_estimators": 2}).fit(X[:20_000], y[:20_000], **more)
    if size > 1:
        import torch.distributed as dist

        dist.barrier()
    begun, cpu = time.time(), time.process_time()
    model = NewtonBoostingClassifier(**params).fit(X, y, **more)
    ended, cpu = time.time(), time.process_time() - cpu
    digest = hashlib.sha256()
    for group in model.trees_:
        for tree in group:
            for name in tree.__slots__:
                digest.update(np.ascontiguousarray(getattr(tree, name)).tobytes())
    told = {"begun": begun, "ended": ended, "cpu": cpu, "model": digest.hexdigest()[:16]}
    (folder / f"told-{size}-{rank}.json").write_text(json.dumps(told))
    disconnect()


def turn(size: int, options: argparse.Namespace) -> dict:
    """Runs `size` processes; returns wall and CPU seconds and the models' digests."""
    environment = os.environ | dict.fromkeys(
        ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"
    )
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            subprocess.Popen(
                [sys.executable, __file__, "--rows", str(options.rows), "--rounds",
                 str(options.rounds), "--leaves", str(options.leaves), "--work", str(rank),
                 str(size), folder],
                env=environment,
            )
            for rank in range(size)
        ]  # fmt: skip
        codes = [process.wait() for process in processes]
        if any(codes):
            raise RuntimeError(f"a process of {size} ended with {codes}")
        told = [json.loads((Path(folder) / f"told-{size}-{r}.json").read_text())
                for r in range(size)]  # fmt: skip
    return {
        "wall": max(t["ended"] for t in told) - max(t["begun"] for t in told),
        "cpu": sum(t["cpu"] for t in told), "models": sorted({t["model"] for t in told}),
    }  # fmt: skip


def main() -> None:
    """Takes turns and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--leaves", type=int, default=31)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    params = {
        "n_estimators": options.rounds, "max_leaves": options.leaves, "max_depth": 0,
        "grow_policy": "lossguide", "learning_rate": 0.1, "n_jobs": 1, "random_state": 0,
    }  # fmt: skip
    if options.work:
        rank, size, folder = options.work
        work(int(rank), int(size), options.rows, Path(folder), params)
        return
    turns = []
    for i in range(options.turns):
        load = os.getloadavg()[0]
        one, two = turn(1, options), turn(2, options)
        same = one["models"] == two["models"] and len(one["models"]) == 1
        turns.append({"one": one, "two": two, "same": same, "load before": load})
        print(
            f"turn {i}: one {one['wall']:.2f} s, two {two['wall']:.2f} s, "
            f"ratio {two['wall'] / one['wall']:.3f}, CPU {one['cpu']:.2f} and {two['cpu']:.2f} s, "
            f"same model: {same}, load before {load:.1f}",
            flush=True,
        )
    ratio = statistics.median(t["two"]["wall"] / t["one"]["wall"] for t in turns)
    print(f"median ratio {ratio:.3f}")
    if options.out:
        settings = {"rows": options.rows, "columns": 28, "params": params, "cores": os.cpu_count()}
        result = {"settings": settings, "turns": turns, "median ratio": ratio}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
