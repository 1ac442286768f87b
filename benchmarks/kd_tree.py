r"""How fast is the k-d tree beside SciPy's, pykdtree and scikit-learn's?

    python benchmarks/kd_tree.py [--points 1000000] [--dims 2,3,8,16] [--threads 1]
                                 [--rounds 5] [--rivals scipy,pykdtree] [--out]

Builds over uniform and clustered points and over a real scan (milk carton, float32), then answers
k = 1 and 10 nearest neighbours (k = 2 and 10 where the scan asks for itself) and a radius that
holds some ten points. All work is interleaved: in each round every contestant does the same task
once, in random order. A rival's figure is the median over the rounds of its time divided by ours;
above 1 we are faster. With one thread the time is the processor's (the machine may be shared),
with more it is the clock's; builds of the rivals use one thread always. "vs best" is the least of
the rivals' figures. Quality is the share of indices equal to SciPy's; in float32 and with ties a
few may differ. Compilation is warmed up by a small tree and not part of any time.

The first column of a line gives our own time; "csr" asks `query_radius` for flat arrays in place
of an array object a query.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
QUERIES = {1: 200_000, 2: 200_000, 3: 200_000, 8: 10_000, 16: 500}


def scan() -> np.ndarray | None:
    """Points of a real scan, float32 (n, 3), or None where the data are absent."""
    folder = os.environ.get("PARAGONE_DATA", HERE.parent.parent / "shared" / "data")
    path = Path(folder) / "tabular" / "milk_carton_point_cloud.npz"
    if not path.exists():
        return None
    cloud = np.load(path)["xyz"]
    return np.ascontiguousarray(cloud[np.isfinite(cloud).all(axis=1)])


def points_and_queries(kind: str, n: int, d: int, q: int) -> tuple[np.ndarray, np.ndarray]:
    """Uniform points, or 100 Gaussian clusters of deviation 0.02; queries of the same law."""
    rng = np.random.default_rng([n, d])
    if kind == "uniform":
        return rng.random((n, d)), rng.random((q, d))
    centres = rng.random((100, d))
    draw = lambda m: centres[rng.integers(0, 100, m)] + rng.normal(0, 0.02, (m, d))  # noqa: E731
    return draw(n), draw(q)


def contestants(rivals: list[str], threads: int) -> dict[str, dict[str, Callable[..., Any]]]:
    """Each library's build, k-NN and radius search."""
    from paragone.neighbors import KDTree

    found: dict[str, dict[str, Callable[..., Any]]] = {
        "ours": {
            "build": lambda x: KDTree(x, workers=threads),
            "knn": lambda tree, x, k: tree.query(x, k=k, workers=threads)[1],
            "radius": lambda tree, x, r: tree.query_radius(x, r, workers=threads),
            "csr": lambda tree, x, r: tree.query_radius(x, r, workers=threads, output="csr"),
        }
    }
    if "scipy" in rivals:
        from scipy.spatial import cKDTree

        found["scipy"] = {
            "build": cKDTree,
            "knn": lambda tree, x, k: tree.query(x, k=k, workers=threads)[1],
            "radius": lambda tree, x, r: tree.query_ball_point(x, r, workers=threads),
        }
    if "pykdtree" in rivals:
        from pykdtree.kdtree import KDTree as Py

        found["pykdtree"] = {"build": Py, "knn": lambda tree, x, k: tree.query(x, k=k)[1]}
    if "sklearn" in rivals:
        from sklearn.neighbors import KDTree as Sk

        found["sklearn"] = {
            "build": Sk,
            "knn": lambda tree, x, k: tree.query(x, k=k, return_distance=False),
            "radius": lambda tree, x, r: tree.query_radius(x, r),
        }
    return found


def interleaved(
    tasks: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float]
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Runs all tasks `rounds` times in random order; returns seconds and the last results."""
    rng = np.random.default_rng(0)
    names, seconds, results = list(tasks), {name: [] for name in tasks}, {}
    for _ in range(rounds):
        for name in rng.permutation(names):
            results.pop(name, None)
            start = clock()
            results[name] = tasks[name]()
            seconds[name].append(clock() - start)
    return seconds, results


def line(label: str, seconds: dict[str, list[float]], equal: float | None) -> dict[str, Any]:
    """One row of the table."""
    ours = np.array(seconds["ours"])
    ratios = {
        name: float(np.median(np.array(times) / ours))
        for name, times in seconds.items()
        if name not in ("ours", "csr")
    }
    row = {"case": label, "seconds": float(np.median(ours)), "ratios": ratios, "equal": equal}
    row["best"] = min(ratios.values()) if ratios else None
    if "csr" in seconds:
        row["csr"] = float(np.median(np.array(seconds["csr"])))
    return row


def measure(
    label: str, x: np.ndarray, queries: np.ndarray, ks: tuple[int, int], who: dict[str, Any],
    rounds: int, clock: Callable[[], float],
) -> list[dict[str, Any]]:  # fmt: skip
    """Build, both k-NN tasks and the radius search on one set of points."""
    seconds, trees = interleaved(
        {name: (lambda one=one: one["build"](x)) for name, one in who.items()}, rounds, clock
    )
    rows = [line(f"{label} build", seconds, None)]
    for k in ks:
        tasks = {
            name: (lambda one=one, name=name, k=k: one["knn"](trees[name], queries, k))
            for name, one in who.items()
        }
        seconds, found = interleaved(tasks, rounds, clock)
        equal = float(np.mean(found["ours"] == found["scipy"])) if "scipy" in found else None
        rows.append(line(f"{label} k={k}", seconds, equal))
    radius = float(np.median(trees["ours"].query(queries[:1000], k=[10])[0]))
    some = queries[: max(1, len(queries) // 4)]
    tasks = {
        name: (lambda one=one, name=name: one["radius"](trees[name], some, radius))
        for name, one in who.items()
        if "radius" in one
    }
    tasks["csr"] = lambda: who["ours"]["csr"](trees["ours"], some, radius)
    seconds, found = interleaved(tasks, rounds, clock)
    equal = None
    if "scipy" in found:
        pairs = zip(found["ours"], found["scipy"], strict=True)
        equal = float(np.mean([np.array_equal(a, np.sort(b)) for a, b in pairs]))
    rows.append(line(f"{label} radius", seconds, equal))
    return rows


def table(rows: list[dict[str, Any]], rivals: list[str]) -> str:
    """The rows as Markdown."""
    lines = [
        "| case | ours (s) | " + " | ".join(rivals) + " | vs best | indices equal |",
        "|---" * (4 + len(rivals)) + "|",
    ]
    for row in rows:
        cells = [f"{row['ratios'][name]:.2f}x" if name in row["ratios"] else "-" for name in rivals]
        equal = "-" if row["equal"] is None else f"{row['equal']:.6g}"
        own = f"{row['seconds']:.4f}" + (f" (csr {row['csr']:.4f})" if "csr" in row else "")
        lines.append(
            f"| {row['case']} | {own} | {' | '.join(cells)} | {row['best']:.2f}x | {equal} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--dims", default="2,3,8,16", help="columns; 0 is the scan")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rivals", default="scipy,pykdtree")
    parser.add_argument("--out", action="store_true", help="write benchmarks/results/kd_tree.*")
    options = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != str(options.threads):
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
        os.execv(sys.executable, [sys.executable, *sys.argv])
    rivals = options.rivals.split(",")
    who = contestants(rivals, options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    for kind in (np.float64, np.float32):
        small = np.random.default_rng(0).random((40_000, 3)).astype(kind)
        measure("warm", small, small[:5000], (1, 2), {"ours": who["ours"]}, 1, clock)
    rows = []
    cloud = scan()
    for d in map(int, options.dims.split(",")):
        told = len(rows)
        if d == 0 and cloud is not None:
            rows += measure("scan f32", cloud, cloud, (2, 10), who, options.rounds, clock)
        elif d:
            for kind in ("uniform", "clustered"):
                count = min(QUERIES.get(d, 1000), options.points)
                x, queries = points_and_queries(kind, options.points, d, count)
                rows += measure(f"d={d} {kind}", x, queries, (1, 10), who, options.rounds, clock)
        lines = table(rows[told:], rivals).splitlines()
        print("\n".join(lines[2:] if told else lines), flush=True)
    if options.out:
        head = (
            f"k-d trees, {options.points:,} points, {options.threads} thread(s), "
            f"{options.rounds} interleaved rounds; figures are the rival's time / ours.\n\n"
            f"`python benchmarks/kd_tree.py {' '.join(sys.argv[1:])}`\n\n"
        )
        name = "kd_tree" if options.threads == 1 else f"kd_tree_{options.threads}_threads"
        (HERE / "results" / f"{name}.md").write_text(head + table(rows, rivals) + "\n")
        (HERE / "results" / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
