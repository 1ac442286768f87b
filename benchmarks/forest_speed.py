"""How fast are the forests, trees, AdaBoost, bagging and stacks, against what a user can install?

Each case meets its peer on the same rows, with the same trees, columns a node and threads, in one
process, by turns (ours, peer, ours, ...; the first turn, which compiles, loads or warms up, is
left out). A figure is the peer's time over ours, in seconds of CPU, so that a busy machine counts
less: the Hodges-Lehmann estimate over the turns with its 95 % signed-rank interval, which is wide
below six turns. Quality is that of the last turn on rows held out: the area under the ROC curve
for two classes, accuracy for more, R^2 for numbers. With `--only` the other rows of the files
written before are kept.

The tables: "adult-like", 32,561 x 14, drawn to the shape of the census table (few values in most
columns, a quarter of the rows in the second class); "Higgs-like", 28 continuous columns, hard to
tell; California housing and scikit-learn's own tables are real.

Run it:  python benchmarks/forest_speed.py [--turns 7] [--threads 1] [--only forest] [--out DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import datasets
from sklearn import ensemble as sk
from sklearn import tree as sk_tree
from sklearn.metrics import accuracy_score, r2_score, roc_auc_score

from paragone import ensemble as ours
from paragone.lab.statistics.timing import paired_log_ratio

__all__ = ["Case", "adult_like", "cases", "higgs_like", "measure"]

HERE = Path(__file__).resolve().parent


def adult_like(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns (n, 14) and two classes, in the shape of the census table."""
    r = np.random.default_rng(seed)
    age = np.clip(r.gamma(6, 6.5, n).astype(int), 17, 90)
    schooling = np.clip(r.normal(10, 2.6, n).round(), 1, 16)
    hours = np.where(r.random(n) < 0.47, 40, np.clip(r.normal(40, 12, n).round(), 1, 99))
    weight = np.exp(r.normal(12, 0.5, n)).round()
    gain = np.where(r.random(n) < 0.083, np.exp(r.normal(8.8, 1, n)).round(-2), 0)
    loss = np.where(r.random(n) < 0.047, r.normal(1870, 360, n).round(-1), 0)
    sizes = (9, 7, 15, 6, 5, 2, 42)
    groups = [r.choice(k, n, p=r.dirichlet(np.full(k, 0.7))) for k in sizes]
    effects = [r.normal(0, 0.6, k) for k in sizes]
    z = 0.05 * (age - 38) - 0.0009 * (age - 45) ** 2 + 0.33 * (schooling - 10)
    z += 0.03 * (hours - 40) + 1.8 * (gain > 5000) + 0.5 * (loss > 1800) - 1.8
    z += sum(effect[group] for effect, group in zip(effects, groups, strict=True))
    X = np.column_stack([age, weight, schooling, gain, loss, hours, r.random(n).round(1), *groups])
    return X, (z + 0.8 * r.logistic(size=n) > 0).astype(int)


def higgs_like(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns (n, 28) of continuous columns and two classes that are hard to tell."""
    r = np.random.default_rng(seed)
    X = r.normal(size=(n, 28))
    X[:, 8], X[:, 12] = X[:, 8].round(), np.exp(X[:, 12]).round()
    z = 0.7 * X[:, 0] * X[:, 1] + 0.6 * np.sin(2 * X[:, 2]) + 0.5 * X[:, 3] ** 2 - 0.5
    z += 0.4 * X[:, 4] * (X[:, 5] > 0.7) + 0.3 * X[:, 6] + 0.3 * X[:, 7] * X[:, 8]
    return X, (z + r.logistic(size=n) > 0).astype(int)


def housing() -> tuple[np.ndarray, np.ndarray]:
    """Returns California housing."""
    root = Path(os.environ.get("PARAGONE_DATA", HERE.parent.parent / "shared" / "data"))
    table = np.genfromtxt(root / "tabular" / "cal_housing.csv", delimiter=",", skip_header=1)
    table = table[~np.isnan(table).any(axis=1)]
    return table[:, :-1], table[:, -1] / 1e5


def _bundled(name: str) -> tuple[np.ndarray, np.ndarray]:
    return getattr(datasets, f"load_{name}")(return_X_y=True)


DATA: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
    "adult-like 32k x 14": lambda: adult_like(40_000),
    "Higgs-like 80k x 28": lambda: higgs_like(90_000),
    "Higgs-like 20k x 28": lambda: higgs_like(25_000),
    "California 16k x 8": housing,
    "digits": lambda: _bundled("digits"),
    "breast cancer": lambda: _bundled("breast_cancer"),
}
HELD_OUT = {
    "adult-like 32k x 14": 7_439, "Higgs-like 80k x 28": 10_000, "Higgs-like 20k x 28": 5_000,
    "California 16k x 8": 4_000,
}  # fmt: skip


@dataclass(slots=True)
class Case:
    """One comparison: `make()` returns a fresh estimator of ours, `peer()` of the other side."""

    name: str
    data: str
    peer_name: str
    goal: str
    make: Callable[[], Any]
    peer: Callable[[], Any]
    invert: bool = False
    notes: str = ""


def _intelex(kind: str) -> Any:
    from sklearnex import ensemble  # pyright: ignore[reportMissingImports]

    return getattr(ensemble, kind)


def forest_cases(threads: int) -> Iterator[Case]:
    """The forests against scikit-learn and its extension for Intel's library."""
    try:
        _intelex("RandomForestClassifier")
        peers = ("intelex", "scikit-learn")
    except ImportError:
        peers = ("scikit-learn",)
    for data, trees in (
        ("adult-like 32k x 14", 30), ("Higgs-like 80k x 28", 10), ("California 16k x 8", 20),
        ("digits", 100), ("breast cancer", 100),
    ):  # fmt: skip
        kind = (
            "RandomForestRegressor" if data.startswith("California") else "RandomForestClassifier"
        )
        for method in ("hist", "exact"):
            for peer in peers:
                own, rival = getattr(ours, kind), getattr(sk, kind)
                if peer == "intelex":
                    rival = _intelex(kind)
                options = {"n_estimators": trees, "n_jobs": threads, "random_state": 0}
                goal = ">= 2" if peer == "intelex" else ">= 4"
                own_options = {**options, "tree_method": method}
                yield Case(
                    f"forest {method}", data, peer, goal,
                    lambda own=own, options=own_options: own(**options),
                    lambda rival=rival, options=options: rival(**options),
                )  # fmt: skip


def tree_cases() -> Iterator[Case]:
    """Single trees and bagging."""
    for data in ("adult-like 32k x 14", "Higgs-like 20k x 28", "California 16k x 8"):
        kind = "Regressor" if data.startswith("California") else "Classifier"
        own, rival = (getattr(m, f"DecisionTree{kind}") for m in (ours, sk_tree))
        bag, bag_rival = (getattr(m, f"Bagging{kind}") for m in (ours, sk))
        for method, goal in (("exact", ">= 3"), ("hist", ">= 10")):
            yield Case(
                f"tree {method}", data, "scikit-learn", goal,
                lambda own=own, method=method: own(tree_method=method),
                lambda rival=rival: rival(random_state=0),
            )  # fmt: skip
            yield Case(
                f"bagging {method}", data, "scikit-learn", ">= 8",
                lambda own=own, bag=bag, method=method: bag(
                    own(tree_method=method), 10, n_jobs=1, random_state=0
                ),
                lambda bag=bag_rival: bag(n_estimators=10, random_state=0),
            )  # fmt: skip


def boost_cases() -> Iterator[Case]:
    """AdaBoost, exact gradient boosting, and what a stack costs beside one fit."""
    yield Case(
        "AdaBoost SAMME, 50 stumps", "adult-like 32k x 14", "scikit-learn", ">= 15",
        lambda: ours.AdaBoostClassifier(n_jobs=1), lambda: sk.AdaBoostClassifier(random_state=0),
    )  # fmt: skip
    yield Case(
        "AdaBoost.R2, 50 trees of depth 3", "California 16k x 8", "scikit-learn", ">= 10",
        lambda: ours.AdaBoostRegressor(max_depth=3, n_jobs=1, random_state=0),
        lambda: sk.AdaBoostRegressor(random_state=0),
    )  # fmt: skip
    for data, kind in (
        ("Higgs-like 20k x 28", "Classifier"), ("California 16k x 8", "Regressor")
    ):  # fmt: skip
        own, rival = (getattr(m, f"GradientBoosting{kind}") for m in (ours, sk))
        yield Case(
            "gradient boosting exact", data, "scikit-learn", ">= 5",
            lambda own=own: own(tree_method="exact", n_estimators=50, n_jobs=1),
            lambda rival=rival: rival(n_estimators=50, random_state=0),
        )  # fmt: skip
    for data in ("Higgs-like 20k x 28", "Higgs-like 80k x 28"):
        member = ours.GradientBoostingClassifier(n_jobs=1, random_state=0)
        yield Case(
            "5-fold stack / one fit", data, "one fit of ours", "<= 4",
            lambda member=member: ours.StackingClassifier([("member", member)], cv=5, n_jobs=1),
            lambda: ours.GradientBoostingClassifier(n_jobs=1, random_state=0), invert=True,
        )  # fmt: skip


def cases(threads: int) -> Iterator[Case]:
    """All cases."""
    yield from forest_cases(threads)
    yield from tree_cases()
    yield from boost_cases()


def _quality(model: Any, X: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Returns the quality on rows held out, and the seconds of prediction."""
    start = time.process_time()
    said = model.predict_proba(X) if hasattr(model, "predict_proba") else model.predict(X)
    took = time.process_time() - start
    if said.ndim == 1:
        return float(r2_score(y, said)), took
    if said.shape[1] == 2:
        return float(roc_auc_score(y, said[:, 1])), took
    return float(accuracy_score(y, said.argmax(axis=1))), took


def _split(data: str) -> tuple[np.ndarray, ...]:
    X, y = DATA[data]()
    order = np.random.default_rng(0).permutation(len(y))
    held = HELD_OUT.get(data, len(y) // 4)
    train, test = order[held:], order[:held]
    return X[train], y[train], X[test], y[test]


def _ratio(peer: list[float], own: list[float]) -> list[float]:
    effect = paired_log_ratio(np.array(peer), np.array(own))
    return [float(np.exp(v)) for v in (effect.estimate, effect.low, effect.high)]


def measure(case: Case, turns: int) -> dict[str, Any]:
    """Runs one case; returns its figures."""
    X, y, X_test, y_test = _split(case.data)
    fits: tuple[list[float], list[float]] = ([], [])
    asks: tuple[list[float], list[float]] = ([], [])
    quality, sizes = [0.0, 0.0], [0, 0]
    for turn in range(turns + 1):
        for side, make in enumerate((case.make, case.peer)):
            model = make()
            start = time.process_time()
            model.fit(X, y)
            took = time.process_time() - start
            quality[side], asked = _quality(model, X_test, y_test)
            if turn:
                fits[side].append(took)
                asks[side].append(asked)
            if turn == turns:
                sizes[side] = len(pickle.dumps(model))
    one, two = (fits[0], fits[1]) if case.invert else (fits[1], fits[0])
    return {
        "case": case.name, "data": case.data, "against": case.peer_name, "goal": case.goal,
        "fit": _ratio(one, two), "fit_seconds": float(np.median(fits[0])),
        "predict": _ratio(asks[1], asks[0]), "predict_seconds": float(np.median(asks[0])),
        "quality": quality, "bytes": sizes,
    }  # fmt: skip


OUT_OF_BAG = "forest with / without out-of-bag score"


def out_of_bag_cost(turns: int) -> dict[str, Any]:
    """How much longer a fit with the out-of-bag score takes."""
    X, y, _, _ = _split("adult-like 32k x 14")
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns + 1):
        for side, oob in enumerate((True, False)):
            model = ours.RandomForestClassifier(
                50, tree_method="hist", oob_score=oob, n_jobs=1, random_state=0
            )
            start = time.process_time()
            model.fit(X, y)
            if turn:
                times[side].append(time.process_time() - start)
    return {"case": OUT_OF_BAG, "fit": _ratio(*times)}


def _row(r: dict[str, Any]) -> str:
    fit, ask = (f"{v[0]:.2f} [{v[1]:.2f}, {v[2]:.2f}]" for v in (r["fit"], r["predict"]))
    own, peer = r["quality"]
    size = r["bytes"][1] / max(1, r["bytes"][0])
    return (
        f"| {r['case']} | {r['data']} | {r['against']} | {r['goal']} | {fit} | "
        f"{1e3 * r['fit_seconds']:.0f} | {ask} | {own:.4f} / {peer:.4f} | {size:.1f} |"
    )


def _foot(r: dict[str, Any]) -> str:
    share = "{:.3f} [{:.3f}, {:.3f}]".format(*r["fit"])
    return f"\nA fit with the out-of-bag score takes {share} of one without."


HEAD = (
    "| case | data | against | goal | fit, ratio | ours, ms | predict, ratio | quality ours / peer "
    "| file, ratio |\n|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    """Prints the table and, with --out, writes it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="of the forests")
    parser.add_argument("--only", default="", help="part of the cases' names or data")
    parser.add_argument("--out", type=Path, help="folder for forest_speed.md and .json")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(HEAD, flush=True)
    results = []
    for case in cases(args.threads):
        if args.only in f"{case.name} {case.data} {case.peer_name}":
            results.append(measure(case, args.turns))
            print(_row(results[-1]), flush=True)
    if args.only in OUT_OF_BAG:
        results.append(out_of_bag_cost(args.turns))
        print(_foot(results[-1]))
    if args.out is not None:
        _write(args.out, results, args.turns, args.threads)


def _write(folder: Path, results: list[dict[str, Any]], turns: int, threads: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "forest_speed.json"
    known = {}
    for r in (json.loads(path.read_text()) if path.exists() else []) + results:
        known[r["case"], r.get("data"), r.get("against")] = r
    command = f"python benchmarks/forest_speed.py --turns {turns} --threads {threads}"
    lines = [f"`{command}`: CPU seconds, ratios with 95 % intervals.", "", HEAD]
    lines += [_row(r) for r in known.values() if "quality" in r]
    lines += [_foot(r) for r in known.values() if "quality" not in r]
    (folder / "forest_speed.md").write_text("\n".join(lines) + "\n")
    path.write_text(json.dumps(list(known.values()), indent=1) + "\n")


if __name__ == "__main__":
    main()
