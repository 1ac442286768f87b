"""Newton boosting against LightGBM, XGBoost and scikit-learn on the same work.

One artificial table like HIGGS (28 float32 columns, two classes, AUC of good models about 0.77)
is learned by each library with the same number of trees, leaves (leaf-wise), bins, learning rate,
least rows and penalty, with the same number of threads; binning is part of the fit. What each of
them does in a run is measured in turn, several times, so that a busy machine slows them alike:

- fit and prediction: process (CPU) time and clock time; printed are the median of the ratios
  theirs / ours over the repeats, and their least and largest;
- quality: AUC on fresh rows, averaged over seeds that change the data;
- memory: the largest resident size of a child process that only loads the table and fits, less
  that of one that only imports and loads.

The first fit (on at most 20,000 rows), which compiles or loads kernels, is printed apart.

    python benchmarks/boosting_speed.py --rows 800000 --leaves 31 255 --threads 1 --repeats 3
    python benchmarks/boosting_speed.py --rows 1000 5000 30000 --leaves 31 --least-rows 20 --seeds 5

With `--files` nothing is compared: the table is written to Parquet in row groups of 10,000, and
printed are the bytes a row that `fit_files` adds to the anonymous memory of the process.

    python benchmarks/boosting_speed.py --files --rows 800000 --trees 5
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

TREES = 100
TEST_ROWS = 200_000
PEERS = ("lightgbm", "xgboost", "sklearn")


def table(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns float32 (rows, 28) and int32 classes: products, waves, and skewed columns."""
    law, rng = np.random.default_rng(12345), np.random.default_rng(seed)
    X = rng.standard_normal((rows, 28), dtype=np.float32)
    score = X @ law.normal(size=28).astype(np.float32) * 0.15
    for _ in range(14):
        a, b = law.integers(0, 28, 2)
        score += np.float32(0.35 * law.normal()) * X[:, a] * X[:, b]
    for _ in range(6):
        a = law.integers(0, 28)
        score += np.float32(0.4 * law.normal()) * np.sin(3 * X[:, a])
    X[:, 20:] = np.exp(0.7 * X[:, 20:])
    y = (rng.random(rows) < 1 / (1 + np.exp(-0.75 * score))).astype(np.int32)
    return X, y


def make(name: str, leaves: int, threads: int, least_rows: int, trees: int) -> Any:
    """Returns an estimator with the common settings."""
    if name.startswith("paragone"):
        from paragone.ensemble import NewtonBoostingClassifier

        bits = int(name.partition(":")[2] or 0)
        return NewtonBoostingClassifier(
            n_estimators=trees, max_leaves=leaves, max_depth=0, grow_policy="lossguide",
            learning_rate=0.1, max_bin=255, reg_lambda=1.0, min_child_weight=1e-3,
            min_samples_leaf=least_rows, gradient_bits=bits, n_jobs=threads, random_state=0,
        )  # fmt: skip
    if name.startswith("lightgbm"):
        import lightgbm

        return lightgbm.LGBMClassifier(
            n_estimators=trees, num_leaves=leaves, max_depth=-1, learning_rate=0.1, max_bin=255,
            reg_lambda=1.0, min_child_weight=1e-3, min_child_samples=least_rows, n_jobs=threads,
            verbose=-1, use_quantized_grad=name.endswith(":q"),
        )  # fmt: skip
    if name == "xgboost":
        import xgboost

        # It has no least number of rows; the least weight stands for it nowhere.
        return xgboost.XGBClassifier(
            n_estimators=trees, max_leaves=leaves, max_depth=0, grow_policy="lossguide",
            learning_rate=0.1, max_bin=255, reg_lambda=1.0, min_child_weight=1e-3,
            tree_method="hist", n_jobs=threads,
        )  # fmt: skip
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        max_iter=trees, max_leaf_nodes=leaves, learning_rate=0.1, max_bins=255,
        l2_regularization=1.0, min_samples_leaf=least_rows, early_stopping=False,
    )  # fmt: skip


def stopwatch(work: Any, *arguments: Any) -> tuple[float, float]:
    """Returns CPU and clock seconds of work(*arguments)."""
    cpu, clock = time.process_time(), time.perf_counter()
    work(*arguments)
    return time.process_time() - cpu, time.perf_counter() - clock


def measure(rows: int, leaves: int, args: argparse.Namespace) -> dict[str, Any]:
    """Fits and predicts in turn; returns the seconds, AUCs and ratios of every library."""
    from sklearn.metrics import roc_auc_score

    names = ["paragone", *args.peers]
    found = {name: {"fit": [], "predict": [], "auc": [], "first": 0.0} for name in names}
    for seed in range(max(args.repeats, args.seeds)):
        X, y = table(rows, seed)
        X_test, y_test = table(TEST_ROWS, 1000 + seed)
        for name in names:
            model = make(name, leaves, args.threads, args.least_rows, args.trees)
            if seed == 0:
                # Enough rows that every kernel, serial and parallel, is compiled or loaded.
                found[name]["first"] = stopwatch(model.fit, X[:20_000], y[:20_000])[0]
                model.predict_proba(X_test)
            fit = stopwatch(model.fit, X, y)
            predict = stopwatch(model.predict_proba, X_test)
            found[name]["auc"].append(roc_auc_score(y_test, model.predict_proba(X_test)[:, 1]))
            if seed < args.repeats:
                found[name]["fit"].append(fit)
                found[name]["predict"].append(predict)
    return found


def peak_memory(name: str, rows: int, leaves: int, args: argparse.Namespace) -> float:
    """Returns the MiB that a fit adds to the largest resident size of a process of its own."""
    sizes = []
    for fit in ("0", "1"):
        command = [sys.executable, __file__, "--child", name, fit, "--rows", str(rows)]
        command += ["--leaves", str(leaves), "--threads", str(args.threads), "--trees", "10"]
        command += ["--least-rows", str(args.least_rows)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        sizes.append(float(done.stdout.split()[-1]))
    return sizes[1] - sizes[0]


def child(name: str, fit: bool, args: argparse.Namespace) -> None:
    """Prints the largest resident size of this process, in MiB."""
    X, y = table(args.rows[0], 0)
    # What a small fit brings along (kernels, threads, libraries) is no cost of the data.
    make(name, 3, args.threads, args.least_rows, 2).fit(X[:2000].copy(), y[:2000].copy())
    Path("/proc/self/clear_refs").write_text("5")
    if fit:
        make(name, args.leaves[0], args.threads, args.least_rows, args.trees).fit(X, y)
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def bytes_a_row(rows: int, leaves: int, args: argparse.Namespace) -> float:
    """Returns what fitting from files takes at its peak, beyond what a small fit has left."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def resident() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) * 1024

    def watch() -> None:
        while not done.wait(0.002):
            seen.append(resident())

    with tempfile.TemporaryDirectory(prefix="boosting-") as folder:
        small, large = Path(folder, "small.parquet"), Path(folder, "large.parquet")
        for path, count in ((small, 2000), (large, rows)):
            X, y = table(count, 0)
            columns = {f"c{j}": X[:, j] for j in range(X.shape[1])} | {"y": y}
            pq.write_table(pa.table(columns), path, row_group_size=10_000)
        del X, y, columns
        cache = Path(folder, "bins")
        make("paragone", 3, args.threads, 1, 2).fit_files(small, target="y", cache=cache)
        model = make("paragone", leaves, args.threads, args.least_rows, args.trees)
        before, done = resident(), threading.Event()
        seen = [before]
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            model.fit_files(large, target="y", cache=cache)
        finally:
            done.set()
            watcher.join()
    return (max(seen) - before) / rows


def report(found: dict[str, Any], memory: dict[str, float], title: str) -> str:
    """Returns a table in Markdown."""
    lines = [f"### {title}", ""]
    lines.append("| | fit, CPU s | fit ratio | predict, CPU s | predict ratio | AUC | fit MiB |")
    lines.append("|---|---|---|---|---|---|---|")
    ours = found["paragone"]
    for name, own in found.items():
        cells = [name]
        for key in ("fit", "predict"):
            mine, theirs = np.array(ours[key])[:, 0], np.array(own[key])[:, 0]
            ratio = theirs / mine
            cells.append(f"{np.median(theirs):.3f}")
            cells.append(f"{np.median(ratio):.2f} ({ratio.min():.2f}-{ratio.max():.2f})")
        cells.append(f"{np.mean(own['auc']):.5f}")
        cells.append(f"{memory[name]:.0f}" if name in memory else "")
        lines.append("| " + " | ".join(cells) + " |")
    firsts = ", ".join(f"{name} {own['first']:.1f}" for name, own in found.items())
    return "\n".join([*lines, "", f"First fit, CPU seconds: {firsts}.", ""])


def main() -> None:
    """Reads the command line, measures, prints and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[800_000])
    parser.add_argument("--leaves", type=int, nargs="+", default=[31])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--trees", type=int, default=TREES)
    parser.add_argument("--least-rows", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=1)
    also = "also lightgbm:q (quantised) and paragone:4 (ours with 4 bits)"
    parser.add_argument("--peers", nargs="*", default=list(PEERS), help=also)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--files", action="store_true", help="memory of fitting from files")
    parser.add_argument("--out", type=Path, help="folder for boosting_speed.md and .json")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    # scikit-learn asks OpenMP, so all are held to the same number before anything starts it.
    os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = str(args.threads)
    if args.child:
        child(args.child[0], args.child[1] == "1", args)
        return
    if args.files:
        if len(args.rows) > 1:
            parser.error("--files takes one --rows: a second fit would use what the first one left")
        rows = args.rows[0]
        print(f"{rows:,} x 28: {bytes_a_row(rows, args.leaves[0], args):.0f} bytes a row")
        return
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
    texts, results = [], {}
    for rows in args.rows:
        for leaves in args.leaves:
            found = measure(rows, leaves, args)
            memory = {}
            if not args.no_memory:
                memory = {name: peak_memory(name, rows, leaves, args) for name in found}
            title = (
                f"{rows:,} x 28, {args.trees} trees of {leaves} leaves, {args.threads} thread(s), "
                f"at least {args.least_rows} rows a leaf"
            )
            texts.append(report(found, memory, title))
            results[title] = {"measured": found, "memory": memory}
            print(texts[-1], flush=True)
    if args.out:
        command = "python benchmarks/boosting_speed.py " + " ".join(
            word for word in sys.argv[1:] if word not in ("--out", str(args.out))
        )
        page = args.out / "boosting_speed.md"
        old = page.read_text() if page.exists() else "# Speed of boosting\n"
        page.write_text(f"{old}\n`{command}`\n\n" + "\n".join(texts))
        numbers = args.out / "boosting_speed.json"
        past = json.loads(numbers.read_text()) if numbers.exists() else {}
        numbers.write_text(json.dumps(past | results, indent=1) + "\n")


if __name__ == "__main__":
    main()
