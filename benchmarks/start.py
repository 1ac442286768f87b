"""How long before the first answer: cold, cached and warm calls, and the latency of one row.

Three tables.

- **Start.** Each estimator in fresh processes on 1,000 x 10 rows, with an empty folder for
  compiled code (cold), then with the filled one (cached, the median of several processes), and
  the second call of that process (warm). Imports are told apart. The goal: a cached first `fit`
  costs at most 0.6 s more than the second.
- **One row.** Time of `predict` and `predict_proba` on an array (1, 20), 100 trees, one thread,
  for ours and the rivals that are installed, interleaved in one process: the median over rounds
  of each round's mean, in microseconds of the calling thread's clock.
- **Small fits.** 100 rounds on 1,000 x 10 against the rivals: equal leaves, rate, bins, least
  sizes; one thread; CPU seconds, interleaved, medians of paired ratios.

With `--no-cold` the kernels that are on the disk are used (run `paragone warmup` first).

Run it:  python benchmarks/start.py [--out] [--only start,row,fit] [--repeats 5] [--no-cold]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["fits", "rows", "starts"]

HERE = Path(__file__).resolve().parent
STEMS = ("DecisionTree", "Bagging", "RandomForest", "AdaBoost", "GradientBoosting",
         "NewtonBoosting", "Stacking", "Voting")  # fmt: skip
PROBE = """
import sys, time, json, warnings
warnings.filterwarnings("ignore")
name = sys.argv[1]
a = time.perf_counter()
import numpy as np
import paragone.ensemble as e
make = getattr(e, name)
b = time.perf_counter()
random = np.random.default_rng(0)
X = random.normal(size=(1000, 10))
y = X[:, 0] + 0.3 * random.normal(size=1000)
kind = "Classifier" if name.endswith("Classifier") else "Regressor"
if kind == "Classifier":
    y = (y > 0).astype(int)
def model():
    if name.startswith(("Stacking", "Voting")):
        members = [("tree", getattr(e, "DecisionTree" + kind)(max_depth=3)),
                   ("boosted", getattr(e, "NewtonBoosting" + kind)(n_estimators=10))]
        return make(members)
    return make()
def timed(call):
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return result, time.perf_counter() - wall, time.process_time() - cpu
# The members of a committee are imported by now too.
model()
out = {"import": b - a}
for turn in ("first", "second"):
    fitted, out[turn], out[turn + "_cpu"] = timed(lambda: model().fit(X, y))
    _, out[turn + "_predict"], out[turn + "_predict_cpu"] = timed(lambda: fitted.predict(X))
from numba.np.ufunc import parallel
from paragone.kernels.jit import TALLY
out |= TALLY | {"threads": parallel._is_initialized}
print(json.dumps(out))
"""


def _probe(name: str, cache: str) -> dict[str, Any]:
    environ = {**os.environ, "NUMBA_CACHE_DIR": cache} if cache else None
    done = subprocess.run(
        [sys.executable, "-c", PROBE, name], env=environ, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def starts(repeats: int, cold: bool = True, only: str = "") -> list[dict[str, Any]]:
    """Returns one entry for each estimator."""
    found = []
    every = [stem + kind for stem in STEMS for kind in ("Classifier", "Regressor")]
    for name in only.split(",") if only else every:
        with tempfile.TemporaryDirectory() as cache:
            first = _probe(name, cache) if cold else None
            if not cold:
                cache = os.environ.get("NUMBA_CACHE_DIR", "")
            later = [_probe(name, cache) for _ in range(repeats)]
        middle = {k: statistics.median(run[k] for run in later) for k in later[0]}
        assert not any(run["compiled"] for run in later), f"{name}: run `paragone warmup` first"
        found.append({
            "estimator": name, "import_s": middle["import"],
            "cold_fit_s": first and first["first"], "cold_compiled": first and first["compiled"],
            "cached_fit_s": middle["first"], "warm_fit_s": middle["second"],
            "extra_s": statistics.median(r["first"] - r["second"] for r in later),
            "extra_cpu_s": statistics.median(r["first_cpu"] - r["second_cpu"] for r in later),
            "extra_predict_s": statistics.median(
                r["first_predict"] - r["second_predict"] for r in later
            ),
            "loaded": middle["loaded"], "threads_started": any(r["threads"] for r in later),
        })  # fmt: skip
        told = found[-1]
        print(
            f"  {name}: {told['extra_s']:.3f} s more, {told['extra_cpu_s']:.3f} of CPU",
            file=sys.stderr,
        )
    return found


def _rivals(classify: bool, trees: int) -> dict[str, Any]:
    """Installed rivals with one thread and `trees` trees: name to an unfitted model."""
    from sklearn import ensemble as sk

    kind = "Classifier" if classify else "Regressor"
    found: dict[str, Any] = {
        "sklearn HGB": getattr(sk, f"HistGradientBoosting{kind}")(
            max_iter=trees, max_leaf_nodes=31, learning_rate=0.1, early_stopping=False,
            min_samples_leaf=20,
        ),
        "sklearn forest": getattr(sk, f"RandomForest{kind}")(
            trees, n_jobs=1, random_state=0, max_features="sqrt"
        ),
    }  # fmt: skip
    try:
        import lightgbm

        found["LightGBM"] = getattr(lightgbm, f"LGBM{kind}")(
            n_estimators=trees, num_leaves=31, learning_rate=0.1, n_jobs=1, verbose=-1,
            min_child_samples=20,
        )  # fmt: skip
    except ImportError:
        pass
    try:
        import xgboost

        found["XGBoost"] = getattr(xgboost, f"XGB{kind}")(
            n_estimators=trees, max_leaves=31, max_depth=0, grow_policy="lossguide",
            learning_rate=0.1, n_jobs=1, tree_method="hist",
        )  # fmt: skip
    except ImportError:
        pass
    try:
        from sklearnex import ensemble as intelex

        found["intelex forest"] = getattr(intelex, f"RandomForest{kind}")(
            trees, n_jobs=1, random_state=0, max_features="sqrt"
        )
    except ImportError:
        pass
    return found


def _ours(classify: bool, trees: int) -> dict[str, Any]:
    from paragone import ensemble as own

    kind = "Classifier" if classify else "Regressor"
    return {
        "Newton boosting": getattr(own, f"NewtonBoosting{kind}")(
            n_estimators=trees, max_leaves=31, max_depth=0, grow_policy="lossguide",
            learning_rate=0.1, min_child_weight=1e-3, min_samples_leaf=20, n_jobs=1,
        ),
        "Gradient boosting": getattr(own, f"GradientBoosting{kind}")(
            n_estimators=trees, max_leaf_nodes=31, max_depth=None, n_jobs=1, min_samples_leaf=20
        ),
        "Random forest": getattr(own, f"RandomForest{kind}")(
            trees, n_jobs=1, random_state=0, max_features="sqrt"
        ),
    }  # fmt: skip


def _task(n: int, p: int, classify: bool) -> tuple[Any, Any]:
    import numpy as np

    random = np.random.default_rng(0)
    X = random.normal(size=(n, p))
    y = X[:, 0] + X[:, 1] * X[:, 2] + 0.3 * random.normal(size=n)
    return X, (y > 0).astype(int) if classify else y


def rows(repeats: int) -> list[dict[str, Any]]:
    """Returns the latency of one row for each model and call."""
    found = []
    for classify in (True, False):
        X, y = _task(5000, 20, classify)
        models = {**_ours(classify, 100), **_rivals(classify, 100)}
        fitted = {name: model.fit(X, y) for name, model in models.items()}
        calls: dict[tuple[str, str], Callable[[Any], Any]] = {}
        for name, model in fitted.items():
            for call in ("predict", "predict_proba") if classify else ("predict",):
                calls[name, call] = getattr(model, call)
        row = X[:1].copy()
        times: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
        for _ in range(3 * repeats):
            for key, call in calls.items():
                times[key].append(_latency(call, row))
        for (name, call), seen in times.items():
            found.append({
                "task": "classes" if classify else "numbers", "model": name, "call": call,
                "median_us": statistics.median(seen), "least_us": min(seen),
            })  # fmt: skip
    return found


def _latency(call: Callable[[Any], Any], row: Any) -> float:
    call(row)
    count, spent = 0, 0.0
    # In the thread's own time, so that other processes count little; at least 2 ms of it.
    while spent < 2e-3:
        begin = time.thread_time()
        for _ in range(20):
            call(row)
        spent += time.thread_time() - begin
        count += 20
    return 1e6 * spent / count


def fits(repeats: int) -> list[dict[str, Any]]:
    """Returns CPU seconds of small fits, and the rivals' as ratios to ours."""
    found = []
    for classify in (True, False):
        X, y = _task(1000, 10, classify)
        ours = {"Newton boosting": _ours(classify, 100)["Newton boosting"]}
        rivals = {k: m for k, m in _rivals(classify, 100).items() if "forest" not in k}
        models = {**ours, **rivals}
        times: dict[str, list[float]] = {name: [] for name in models}
        for turn in range(2 * repeats + 1):
            for name, model in models.items():
                begin = time.process_time()
                model.fit(X, y)
                if turn:
                    times[name].append(time.process_time() - begin)
        for name, seen in times.items():
            ratios = [t / o for t, o in zip(seen, times["Newton boosting"], strict=True)]
            found.append({
                "task": "classes" if classify else "numbers", "model": name,
                "fit_cpu_ms": 1e3 * statistics.median(seen),
                "ratio": statistics.median(ratios),
            })  # fmt: skip
    return found


def _markdown(title: str, table: list[dict[str, Any]]) -> str:
    def word(value: Any) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    lines = [f"## {title}", "", "| " + " | ".join(table[0]) + " |", "|" + "---|" * len(table[0])]
    lines += ["| " + " | ".join(map(word, row.values())) + " |" for row in table]
    return "\n".join([*lines, ""])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="start,row,fit", help="tables, commas in between")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", action="store_true", help="write benchmarks/results/start.*")
    parser.add_argument("--estimators", default="", help="of the start, commas in between; all")
    parser.add_argument("--no-cold", action="store_true", help="measure with what is compiled")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    only, tables = chosen.only.split(","), {}
    if "start" in only:
        tables["Start, 1,000 x 10"] = starts(chosen.repeats, not chosen.no_cold, chosen.estimators)
    if "row" in only:
        tables["One row, 100 trees, 20 columns, one thread"] = rows(chosen.repeats)
    if "fit" in only:
        tables["Fits of 100 rounds on 1,000 x 10, one thread"] = fits(chosen.repeats)
    text = "\n".join(_markdown(title, table) for title, table in tables.items())
    print(text)
    if chosen.out:
        folder = HERE / "results"
        (folder / "start.md").write_text(f"# The first answer\n\n{text}", encoding="utf-8")
        (folder / "start.json").write_text(json.dumps(tables, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
