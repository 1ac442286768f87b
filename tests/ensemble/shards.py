"""Tables and fits for the tests of boosting by several processes, and what each process runs.

python shards.py RANK SIZE FOLDER      fits until its last process hangs
"""

import os
import pickle
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from paragone.ensemble import NewtonBoostingClassifier, NewtonBoostingRegressor
from paragone.ensemble.distributed import LostWorkerError, connect, disconnect

N = 1201


def numbers(seed=0, n=N):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 6))
    X[rng.random(X.shape) < 0.1] = np.nan
    X[:, 5] = rng.integers(0, 4, n)
    return X, np.nan_to_num(X[:, 0]) * np.nan_to_num(X[:, 1]) + X[:, 5] + rng.normal(size=n)


def frame(n=N):
    """Text with rare values, some of them in one part of the rows only."""
    rng = np.random.default_rng(1)
    X, y = numbers(1, n)
    table = pd.DataFrame(X, columns=list("abcdef"))
    table["text"] = rng.choice(["x", "y", "z"], n)
    table.loc[: n // 3, "text"] = "early"
    table.loc[rng.random(n) < 0.1, "text"] = None
    table["many"] = rng.integers(0, 300, n).astype(str)
    return table, y + 2 * (table["text"] == "early") + 0.02 * table["many"].astype(int)


def pseudo_huber(y, raw):
    """A loss of the user's own; rows do not meet in it."""
    u = raw - y
    root = np.sqrt(1 + u * u)
    return u / root, root**-3


def fits():
    """Name: (class, parameters, X, y, weight, arguments of fit)."""
    X, y = numbers()
    sign, three = np.where(y > 1.5, "b", "a"), np.digitize(y, [0.5, 2.5])
    weight = np.random.default_rng(2).integers(0, 4, N) * 0.1
    far, far_y = numbers(3, 400)
    table, z = frame()
    by_label = np.argsort(three, kind="stable")
    c, r = NewtonBoostingClassifier, NewtonBoostingRegressor
    outlier = y.copy()
    outlier[7] = 1e9
    return {
        "binary": (c, {}, X, sign, None, {}),
        "sorted by label": (c, {}, X[by_label], three[by_label], None, {}),
        "held out": (
            c, {"early_stopping_rounds": 2, "learning_rate": 0.9, "n_estimators": 12},
            X, three, None, {},
        ),
        "watched": (
            c, {"early_stopping_rounds": 3, "eval_metric": ["logloss", "auc"]}, X, sign, weight,
            {"eval_set": (far, np.where(far_y > 1.5, "b", "a"))},
        ),
        "sampled": (
            r, {"subsample": 0.6, "colsample_bytree": 0.8, "colsample_bylevel": 0.8,
                "colsample_bynode": 0.8, "max_leaves": 9, "grow_policy": "lossguide"},
            X, y, weight, {},
        ),
        "constrained": (
            r, {"monotone_constraints": (1, 0, 0, 0, 0, 1), "min_samples_leaf": 7,
                "interaction_constraints": [[0, 1], [2, 5]], "objective": "poisson"},
            X, np.exp(np.clip(y, -2, 2)), weight, {},
        ),
        "categories": (r, {"min_data_per_group": 3}, table, z, weight, {}),
        "symmetric": (r, {"grow_policy": "symmetric", "max_depth": 3}, table, z, None, {}),
        "quantiles": (r, {"objective": "quantile", "quantile_alpha": (0.2, 0.8)}, X, y, None, {}),
        "goss": (c, {"sampling_method": "goss"}, X, sign, None, {}),
        "dart": (r, {"booster": "dart", "rate_drop": 0.3, "max_bin": 20}, X, y, None, {}),
        "few bits": (c, {"gradient_bits": 4, "subsample": 0.8}, X, three, None, {}),
        "own loss": (r, {"objective": pseudo_huber, "base_score": 1.0}, X, y, None, {}),
        "outlier": (r, {}, X, outlier, None, {}),
    }  # fmt: skip


def run(name, part=None, **more):
    """Fits a model to the rows of a slice, or to all."""
    cls, params, X, y, weight, arguments = fits()[name]
    part = slice(None) if part is None else part
    X = X.iloc[part] if hasattr(X, "iloc") else X[part]
    weight = None if weight is None else weight[part]
    y = y.iloc[part] if hasattr(y, "iloc") else y[part]
    arguments = dict(arguments)
    if "eval_set" in arguments and "process_group" in more:
        seen, target = arguments["eval_set"]
        rank, size = more.pop("place")
        own = slice(len(seen) * rank // size, len(seen) * (rank + 1) // size)
        arguments["eval_set"] = seen[own], target[own]
    more.pop("place", None)
    model = cls(**{"n_estimators": 3, "max_depth": 3, "random_state": 5, "n_jobs": 1} | params)
    return model.fit(X, y, weight, **arguments, **more)


def content(model):
    """All that the rounds left, as plain arrays."""
    trees = [
        [{name: getattr(tree, name) for name in tree.__slots__} for tree in group]
        for group in model.trees_
    ]
    return {
        "trees": trees, "base": model.base_score_, "weights": model.tree_weights_,
        "results": model.evals_result_, "rounds": model.n_estimators_,
        "best": getattr(model, "best_iteration_", None),
        "classes": getattr(model, "classes_", np.zeros(0)).tolist(),
        "categories": [None if c is None else list(c) for c in model._categories_],
    }  # fmt: skip


def cuts(size):
    """Shards of very different sizes."""
    return [0, 500, N] if size == 2 else [0, 700, 701, N]


def equal_fits(rank, size, folder):
    begin, end = cuts(size)[rank : rank + 2]
    found = {
        name: content(run(
            name, slice(begin, end), process_group=True, timeout=300.0, place=(rank, size)
        ))
        for name in list(fits())[:: 2 if size == 2 else 1]
    }  # fmt: skip
    (folder / f"{size}-{rank}.pickle").write_bytes(pickle.dumps(found))


def refusals(rank, size, folder):
    """Every process must get an error, and the group must stay in use."""
    X, y = numbers()
    X, y = X[rank * 100 : rank * 100 + 100], y[rank * 100 : rank * 100 + 100]
    named = pd.DataFrame(X, columns=list("abcdef"))
    other = named.rename(columns={"c": "other"}) if rank == 1 else named
    text = named.assign(d=named["d"].astype(str) if rank == 1 else named["d"])
    bad = np.where(rank == 1, np.inf, X)
    tries = {
        "width": ({}, X[:, : 6 - rank], y), "name": ({}, other, y), "dtype": ({}, text, y),
        "value": ({}, bad, y), "parameter": ({"max_depth": 3 + rank}, X, y),
        "method": ({"tree_method": "exact"}, X, y), "booster": ({"booster": "gblinear"}, X, y),
        "length": ({}, X, y[: 100 - rank]), "target": ({"objective": "gamma"}, X, np.abs(y) - rank),
    }  # fmt: skip
    messages = {}
    for name, (params, table, target) in tries.items():
        try:
            NewtonBoostingRegressor(n_estimators=2, **params).fit(
                table, target, process_group=True, timeout=300.0
            )
        except ValueError as error:
            messages[name] = str(error)
    (folder / f"refused-{rank}.pickle").write_bytes(pickle.dumps(messages))


class Fatal:
    """Squared loss, until one process is hit by a signal in the middle of round 4."""

    def __init__(self, hit=None, note=None, after=4):
        self.hit, self.note, self.left = hit, note, after
        self.__qualname__ = "fatal"

    def __call__(self, y, raw):
        if self.left == 0 and self.hit is not None:
            self.note.write_text(repr(time.time()))
            os.kill(os.getpid(), self.hit)
        self.left -= 1
        return raw - y, np.ones_like(raw)


def fatal_fit(hit, part, note=None, **more):
    X, y = numbers()
    model = NewtonBoostingRegressor(
        n_estimators=8,
        max_depth=3,
        objective=Fatal(hit, note),
        base_score=0.5,
        random_state=0,
        n_jobs=1,
    )
    return model.fit(X[part], y[part], **more)


def lose(rank, size, folder, signal_number, timeout):
    begin, end = N * rank // size, N * (rank + 1) // size
    hit = signal_number if rank == size - 1 else None
    try:
        fatal_fit(
            hit, slice(begin, end), folder / "when", process_group=True, timeout=timeout,
            checkpoint=folder / "rounds.jsonl",
        )  # fmt: skip
    except LostWorkerError as error:
        told = {
            "seconds": time.time() - float((folder / "when").read_text()),
            "rounds": error.rounds, "missing": error.missing,
            "model": content(error.model), "message": str(error),
        }  # fmt: skip
        (folder / f"lost-{rank}.pickle").write_bytes(pickle.dumps(told))
    # Not to wait for the lost one at exit.
    os._exit(0)


def equal(rank, size, folder):
    join(rank, size, folder)
    equal_fits(rank, size, folder)
    if size == 2:
        refusals(rank, size, folder)
    disconnect()


def kill(rank, size, folder):
    join(rank, size, folder)
    lose(rank, size, folder, signal.SIGKILL, 200.0)


def hang(rank, size, folder):
    join(rank, size, folder)
    lose(rank, size, folder, signal.SIGSTOP, 2.0)


def join(rank, size, folder):
    connect(rank=rank, world_size=size, init_method=f"file://{folder}/meet-{size}", timeout=300.0)


if __name__ == "__main__":
    hang(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
