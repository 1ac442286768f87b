"""Is each ensemble as good as its counterpart elsewhere, with the same settings, on real data sets?

Every estimator meets its counterparts in scikit-learn, LightGBM and XGBoost on the same splits of
real data (8 data sets with classes, 6 with numbers), with the same parameters, not each library's
defaults. A data set's figure is the mean
over its splits of the paired difference ours - theirs, in accuracy-like units: log loss for
classes, and the root mean squared error over the target's standard deviation for numbers; both
lower is better, so a positive difference is a loss of ours. Printed for each pair:

- the mean difference over data sets, and over all splits a 95 % interval after Nadeau & Bengio
  (2003): the variance of a mean over J overlapping splits is (1/J + n_test/n_train) times the
  sample variance, here pooled over data sets;
- Wilcoxon's signed-rank p (one-sided: ours is worse) over the data sets' means;
- "worse" if p < 0.05 and the interval lies above zero, else "not worse".

One setting has to be converted: for K > 2 classes ours (like XGBoost) takes the softmax's second
derivative as 2 p (1 - p), LightGBM K / (K - 1) p (1 - p), scikit-learn p (1 - p). Against the
latter two, our learning rate, L2 penalty and least child weight are multiplied by the ratio, which
makes the steps equal. LightGBM gets `min_data_in_bin=1`, since no other library has such a limit.

Run it:  python benchmarks/ensemble_quality.py [--splits 5] [--rows 1200] [--seed 0]

References:
    Nadeau & Bengio (2003), "Inference for the generalization error", Machine Learning 52.
    Demsar (2006), "Statistical comparisons of classifiers over multiple data sets", JMLR 7.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student
from scipy.stats import wilcoxon
from sklearn import datasets as sk_datasets
from sklearn import ensemble as sk
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import log_loss, root_mean_squared_error
from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from threadpoolctl import threadpool_limits

from paragone import ensemble as ours

__all__ = ["DATA", "Pair", "compare", "pairs"]

HERE = Path(__file__).resolve().parent
TEST_SHARE = 0.25


def _folder() -> Path:
    return Path(os.environ.get("PARAGONE_DATA", HERE.parent.parent / "shared" / "data")) / "tabular"


def _bundled(name: str) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    return lambda: getattr(sk_datasets, f"load_{name}")(return_X_y=True)


def _stats(name: str, target: str) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    def load() -> tuple[np.ndarray, np.ndarray]:
        import statsmodels.api as sm

        frame = getattr(sm.datasets, name).load_pandas().data
        return frame.drop(columns=target).to_numpy(np.float64), frame[target].to_numpy()

    return load


def _fair() -> tuple[np.ndarray, np.ndarray]:
    X, affairs = _stats("fair", "affairs")()
    return X, (affairs > 0).astype(int)


def _higgs() -> tuple[np.ndarray, np.ndarray]:
    table = np.loadtxt(_folder() / "binary.train", max_rows=4000)
    return table[:, 1:], table[:, 0].astype(int)


def _higgs_number() -> tuple[np.ndarray, np.ndarray]:
    X, y = _higgs()
    return X, y.astype(np.float64)


def _housing() -> tuple[np.ndarray, np.ndarray]:
    table = np.genfromtxt(_folder() / "cal_housing.csv", delimiter=",", skip_header=1)
    return table[:, :-1], np.log(table[:, -1])


def _agaricus() -> tuple[np.ndarray, np.ndarray]:
    table, y = sk_datasets.load_svmlight_file(str(_folder() / "agaricus.txt.train"))
    return table.toarray(), y.astype(int)


@dataclass(frozen=True)
class Data:
    """A data set: how to load it, and whether its target is a class."""

    load: Callable[[], tuple[np.ndarray, np.ndarray]]
    classes: bool


DATA = {
    "iris": Data(_bundled("iris"), True),
    "wine": Data(_bundled("wine"), True),
    "breast_cancer": Data(_bundled("breast_cancer"), True),
    "digits": Data(_bundled("digits"), True),
    "fair": Data(_fair, True),
    "anes96": Data(_stats("anes96", "vote"), True),
    "higgs": Data(_higgs, True),
    "agaricus": Data(_agaricus, True),
    "diabetes": Data(_bundled("diabetes"), False),
    "randhie": Data(_stats("randhie", "mdvis"), False),
    "cal_housing": Data(_housing, False),
    "fair (number)": Data(_stats("fair", "affairs"), False),
    "anes96 (income)": Data(_stats("anes96", "income"), False),
    "higgs (0 or 1)": Data(_higgs_number, False),
}


@dataclass(frozen=True)
class Pair:
    """Ours, theirs, with the same settings; each makes a fresh estimator from a seed.

    `ratio` gives, for K > 2 classes, our second derivative of the softmax over theirs.
    """

    name: str
    peer: str
    ours: Callable[[int], Any]
    theirs: Callable[[int], Any]
    classes: bool
    ratio: Callable[[int], float] = lambda count: 1.0


def _lightgbm(kind: str, **params: Any) -> Callable[[int], Any]:
    def make(seed: int) -> Any:
        import lightgbm

        return getattr(lightgbm, f"LGBM{kind}")(
            random_state=seed, n_jobs=1, verbosity=-1, deterministic=True, force_row_wise=True,
            min_data_in_bin=1,
            **params,
        )  # fmt: skip

    return make


def _xgboost(kind: str, **params: Any) -> Callable[[int], Any]:
    def make(seed: int) -> Any:
        import xgboost

        return getattr(xgboost, f"XGB{kind}")(random_state=seed, n_jobs=1, **params)

    return make


def _from(module: Any, name: str, **params: Any) -> Callable[[int], Any]:
    def make(seed: int) -> Any:
        fresh = {key: value(seed) if callable(value) else value for key, value in params.items()}
        return getattr(module, name)(random_state=seed, **fresh)

    return make


def _last_of_classes(seed: int) -> Any:
    return LogisticRegression(max_iter=2000)


def _last_of_numbers(seed: int) -> Any:
    return RidgeCV()


def _members(module: Any, kind: str) -> Callable[[int], list[tuple[str, Any]]]:
    """Two members with equal settings, of ours or of scikit-learn."""

    def make(seed: int) -> list[tuple[str, Any]]:
        forest = getattr(module, f"RandomForest{kind}")(20, random_state=seed)
        boost = getattr(module, f"GradientBoosting{kind}")(n_estimators=20, random_state=seed)
        return [("forest", forest), ("boost", boost)]

    return make


def pairs() -> Iterator[Pair]:
    """Every estimator with each counterpart, small and equal settings."""
    for kind in ("Classifier", "Regressor"):
        classes = kind == "Classifier"
        both: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
            ("RandomForest", "sklearn", {"n_estimators": 50}, {"n_estimators": 50}),
            ("AdaBoost", "sklearn", {"n_estimators": 30}, {"n_estimators": 30}),
            ("GradientBoosting", "sklearn", {"n_estimators": 50}, {"n_estimators": 50}),
        ]
        for stem, peer, mine, other in both:
            name = stem + kind
            yield Pair(name, peer, _from(ours, name, **mine), _from(sk, name, **other), classes)
        tree = {"min_samples_leaf": 10}
        peer_tree = DecisionTreeClassifier if classes else DecisionTreeRegressor
        yield Pair(
            f"DecisionTree{kind}", "sklearn", _from(ours, f"DecisionTree{kind}", **tree),
            lambda seed, make=peer_tree, params=tree: make(random_state=seed, **params), classes,
        )  # fmt: skip
        yield Pair(
            f"Bagging{kind}", "sklearn",
            _from(ours, f"Bagging{kind}", n_estimators=30),
            _from(sk, f"Bagging{kind}", n_estimators=30), classes,
        )  # fmt: skip
        last = (
            (lambda seed: LogisticRegression(max_iter=2000)) if classes else lambda seed: RidgeCV()
        )
        for stem, extra in (("Stacking", {"final_estimator": last, "cv": 3}), ("Voting", {})):
            if stem == "Voting" and classes:
                extra = {"voting": "soft"}
            yield Pair(
                stem + kind, "sklearn",
                _from(ours, stem + kind, estimators=_members(ours, kind), **extra),
                _without_seed(getattr(sk, stem + kind), estimators=_members(sk, kind), **extra),
                classes,
            )  # fmt: skip
        yield from _newton_pairs(kind, classes)


def _without_seed(make: Any, **params: Any) -> Callable[[int], Any]:
    return lambda seed: make(**{k: v(seed) if callable(v) else v for k, v in params.items()})


def _newton_pairs(kind: str, classes: bool) -> Iterator[Pair]:
    name = f"NewtonBoosting{kind}"
    shared = {"n_estimators": 40, "learning_rate": 0.1, "reg_lambda": 1.0}
    depth = {"max_depth": 4, "min_child_weight": 1.0, **shared}
    yield Pair(
        name, "xgboost hist", _from(ours, name, **depth),
        _xgboost(kind, tree_method="hist", max_bin=255, **depth), classes,
    )  # fmt: skip
    yield Pair(
        name, "xgboost exact", _from(ours, name, tree_method="exact", **depth),
        _xgboost(kind, tree_method="exact", **depth), classes,
    )  # fmt: skip
    leaves = {"min_child_weight": 1e-3, **shared}
    yield Pair(
        name, "lightgbm",
        _from(ours, name, grow_policy="lossguide", max_leaves=15, max_depth=0,
              min_samples_leaf=20, **leaves),
        _lightgbm(kind, num_leaves=15, min_child_samples=20, **leaves), classes,
        lambda count: 2.0 * (count - 1) / count,
    )  # fmt: skip
    yield Pair(
        name, "sklearn hist",
        _from(ours, name, grow_policy="lossguide", max_leaves=15, max_depth=0,
              min_samples_leaf=20, n_estimators=40, learning_rate=0.1, reg_lambda=0.0,
              min_child_weight=1e-3),
        _from(sk, f"HistGradientBoosting{kind}", max_iter=40, learning_rate=0.1,
              max_leaf_nodes=15, min_samples_leaf=20, l2_regularization=0.0,
              early_stopping=False), classes, lambda count: 2.0,
    )  # fmt: skip


def _loss(model: Any, X: np.ndarray, y: np.ndarray, classes: bool) -> float:
    if classes:
        share = np.clip(model.predict_proba(X), 1e-3, 1.0)
        return float(log_loss(y, share / share.sum(axis=1, keepdims=True), labels=model.classes_))
    return float(root_mean_squared_error(y, model.predict(X)))


def _same_step(pair: Pair, model: Any, y: np.ndarray) -> Any:
    count = len(np.unique(y)) if pair.classes else 0
    ratio = pair.ratio(count) if count > 2 else 1.0
    if ratio != 1.0:
        scaled = ("learning_rate", "reg_lambda", "min_child_weight")
        model.set_params(**{name: getattr(model, name) * ratio for name in scaled})
    return model


def differences(pair: Pair, X: np.ndarray, y: np.ndarray, splits: int, seed: int) -> np.ndarray:
    """Ours - theirs on each split, lower is better; the same splits and seeds for both."""
    chooser = StratifiedShuffleSplit if pair.classes else ShuffleSplit
    plan = chooser(n_splits=splits, test_size=TEST_SHARE, random_state=seed)
    scale = 1.0 if pair.classes else float(np.std(y))
    found = []
    # Peers' OpenMP threads would spin against each other on a busy machine.
    with threadpool_limits(1):
        for number, (train, test) in enumerate(plan.split(X, y)):
            losses = []
            for model in (_same_step(pair, pair.ours(number), y), pair.theirs(number)):
                model.fit(X[train], y[train])
                losses.append(_loss(model, X[test], y[test], pair.classes) / scale)
            found.append(losses[0] - losses[1])
    return np.array(found)


def compare(pair: Pair, names: list[str], splits: int, rows: int, seed: int = 0) -> dict[str, Any]:
    """The verdict on one pair over the named data sets (those of its kind of target)."""
    rng = np.random.default_rng(seed)
    each = {}
    for name in names:
        if DATA[name].classes != pair.classes:
            continue
        X, y = _cached(name)
        chosen = rng.permutation(len(X))[:rows]
        if pair.classes and "xgboost" in pair.peer:
            # XGBoost takes labels 0 to K - 1 only.
            y = np.unique(y, return_inverse=True)[1]
        each[name] = differences(pair, X[chosen], y[chosen], splits, seed)
    return summary(pair, each)


def summary(pair: Pair, each: dict[str, np.ndarray]) -> dict[str, Any]:
    """Mean, interval and test over the data sets of one pair."""
    means = np.array([values.mean() for values in each.values()])
    count, splits = len(each), len(next(iter(each.values())))
    inflation = 1 / splits + TEST_SHARE / (1 - TEST_SHARE)
    variance = np.mean([values.var(ddof=1) for values in each.values()]) * inflation
    half = student.ppf(0.975, count * (splits - 1)) * np.sqrt(variance / count)
    middle = float(means.mean())
    worse = 1.0
    if np.any(np.abs(means) > 1e-12):
        worse = float(wilcoxon(means, alternative="greater", method="auto").pvalue)
    small = count < 5
    verdict = "worse" if middle - half > 0 and (worse < 0.05 or small) else "not worse"
    return {
        "estimator": pair.name, "peer": pair.peer, "difference": middle,
        "low": middle - half, "high": middle + half, "p_worse": worse, "verdict": verdict,
        "data": {name: float(values.mean()) for name, values in each.items()},
    }  # fmt: skip


_LOADED: dict[str, tuple[np.ndarray, np.ndarray]] = {}


def _cached(name: str) -> tuple[np.ndarray, np.ndarray]:
    if name not in _LOADED:
        _LOADED[name] = DATA[name].load()
    return _LOADED[name]


def _table(results: list[dict[str, Any]]) -> str:
    lines = [
        "| estimator | against | ours - theirs | 95 % interval | p (worse) | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for r in results:
        interval = f"[{r['low']:+.4f}, {r['high']:+.4f}]"
        lines.append(
            f"| {r['estimator']} | {r['peer']} | {r['difference']:+.4f} | {interval} | "
            f"{r['p_worse']:.3f} | {r['verdict']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Runs all pairs and writes the table beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1200, help="at most so many of a data set")
    parser.add_argument("--seed", type=int, default=0, help="of rows and splits")
    parser.add_argument("--only", default="", help="part of the estimators' names")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message="X does not have valid feature names")
    began, results = time.process_time(), []
    for pair in pairs():
        if args.only not in pair.name:
            continue
        start = time.process_time()
        results.append(compare(pair, list(DATA), args.splits, args.rows, args.seed))
        took = time.process_time() - start
        print(_table(results[-1:]).splitlines()[-1], f"{took:.1f} s", flush=True)
    args.out.mkdir(exist_ok=True)
    head = (
        f"Log loss (classes) or RMSE / std (numbers), {args.splits} splits, at most {args.rows} "
        f"rows, the same settings on both sides; {len(DATA)} data sets; lower is better.\n\n"
        f"`python benchmarks/ensemble_quality.py --splits {args.splits} --rows {args.rows} "
        f"--seed {args.seed}`\n\n"
    )
    print("\n" + _table(results))
    print(f"{time.process_time() - began:.0f} CPU seconds")
    if not args.only:
        (args.out / "ensemble_quality.md").write_text(head + _table(results) + "\n")
        (args.out / "ensemble_quality.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
