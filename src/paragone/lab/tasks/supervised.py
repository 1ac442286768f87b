"""One run of a supervised estimator on one split of one table.

The order is fixed: load and digest the data; split and digest the split; import and build the
contestant; a first call, with few rounds, which loads, compiles and fills caches; the search
(`--tune N`); the timed fit; the timed prediction; the latency of single rows; the metrics.
Only fit, prediction and latency are called steady state. The test part is not touched before
the timed prediction, except by its size: the first call predicts on training rows.

Tuning gives every contestant N trials on one inner split: the defaults first, then random
points of the contestant's own space. The best on the inner split is refit on the whole
training part.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from paragone._core.lazy import resolve
from paragone.lab import data as tables
from paragone.lab.spec import Job
from paragone.lab.tasks import metrics
from paragone.lab.tasks.estimators import Prepared, cheapen, draw_parameters, prepare
from paragone.lab.tasks.splits import FOLDS, split

if TYPE_CHECKING:
    from paragone.lab.probe import Probe

__all__ = ["one_call", "run"]

LATENCY_CALLS = 200
LATENCY_SECONDS = 0.08
SHORT_FIT = 0.1
WARM_ROWS = 512
INNER_FOLDS = 4


def run(job: Job, probe: Probe) -> None:
    """Performs the run and leaves its numbers with the probe."""
    from joblib import parallel_config

    # Worker processes would pay for their start in every fit of a small forest.
    with parallel_config("threading", n_jobs=job.threads):
        _run(job, probe)


def _run(job: Job, probe: Probe) -> None:
    table: tables.Table = resolve(job.workload.load)(**job.workload.params)
    probe.digest("data", table.values, table.categorical, table.target)
    train, test = _split(job, table)
    probe.digest("split", train, test)
    known, codes = np.unique(table.target[train], return_inverse=True)
    target = codes.astype(np.int64) if table.classes is not None else table.target[train]
    features = np.ascontiguousarray(table.values[train])
    unseen = np.ascontiguousarray(table.values[test])
    with probe.phase("import"):
        build = _builder(job, table)
        build({})
    with probe.phase("first_call"):
        _warm_up(build, features, target)
    chosen: dict[str, Any] = {}
    if job.tune:
        with probe.phase("tune"):
            chosen = _search(job, build, table, train, known)
        probe.value("trials", job.tune)
    model = _timed_fit(probe, lambda: build(chosen), features, target)
    given = _timed_predict(probe, model, unseen)
    _latency(probe, model, unseen)
    _score(probe, model, given, table, known, test)
    if job.tune:
        text = json.dumps(chosen, sort_keys=True).encode()
        probe.array("parameters", np.frombuffer(text, np.uint8))


def _split(job: Job, table: tables.Table) -> tuple[np.ndarray, np.ndarray]:
    return split(
        table.target, job.block.split, stratified=table.classes is not None,
        seed=int(job.workload.facts.get("split_seed", 0)),
        folds=int(job.workload.facts.get("folds", FOLDS)),
    )  # fmt: skip


def one_call(job: Job) -> Callable[[], Callable[[], None]]:
    """Returns what, called, imports the contestant and returns one fit with one prediction."""
    table: tables.Table = resolve(job.workload.load)(**job.workload.params)
    train, test = _split(job, table)
    features, unseen = (np.ascontiguousarray(table.values[rows]) for rows in (train, test))
    target = table.target[train]
    if table.classes is not None:
        target = np.unique(target, return_inverse=True)[1].astype(np.int64)

    def load() -> Callable[[], None]:
        build = _builder(job, table)
        build({})

        def call() -> None:
            model = build({})
            model.fit(features, target)
            model.predict(unseen)
            model.predict(unseen[:1])

        return call

    return load


def _builder(job: Job, table: tables.Table) -> Callable[[Mapping[str, Any]], Prepared]:
    from paragone.lab.build import build

    missing = bool(np.isnan(table.values).any())

    def make(parameters: Mapping[str, Any]) -> Prepared:
        estimator = build(job.contestant, job.workload.facts)
        if parameters:
            estimator.set_params(**parameters)
        return prepare(
            estimator, categorical=table.categorical, missing=missing, seed=job.block.seed,
            threads=job.threads,
        )  # fmt: skip

    return make


def _warm_up(build: Callable[..., Prepared], features: np.ndarray, target: np.ndarray) -> None:
    """Fits and predicts once, with few rounds; compiled code sees the real shapes."""
    import sys

    model = build({})
    cheapen(model.estimator)
    compiled = "numba" in sys.modules or "torch" in sys.modules
    if not compiled and len(features) > WARM_ROWS:
        order = np.argsort(target, kind="stable")
        rows = np.sort(order[np.linspace(0, len(order) - 1, WARM_ROWS).astype(np.int64)])
        features, target = features[rows], target[rows]
        if target.dtype.kind == "i":
            target = np.unique(target, return_inverse=True)[1]
    model.fit(features, target)
    model.predict(features)
    model.predict(features[:1])


def _timed_fit(
    probe: Probe, build: Callable[[], Prepared], features: np.ndarray, target: np.ndarray
) -> Prepared:
    """Fits; when that was very short, its time is the median of three fits."""
    model = build()
    with probe.phase("fit"):
        start = time.perf_counter(), time.process_time()
        model.fit(features, target)
        took = [(time.perf_counter() - start[0], time.process_time() - start[1])]
    if took[0][0] < SHORT_FIT:
        for _ in range(2):
            again = build()
            start = time.perf_counter(), time.process_time()
            again.fit(features, target)
            took.append((time.perf_counter() - start[0], time.process_time() - start[1]))
        probe.value("fit_s", float(np.median([wall for wall, _ in took])))
        probe.value("fit_cpu_s", float(np.median([cpu for _, cpu in took])))
    return model


def _timed_predict(probe: Probe, model: Prepared, unseen: np.ndarray) -> np.ndarray:
    """Predicts; when that was very short, its time is the median of three predictions."""
    with probe.phase("predict"):
        start = time.perf_counter()
        given = model.predict(unseen)
        took = [time.perf_counter() - start]
    if took[0] < SHORT_FIT:
        for _ in range(2):
            start = time.perf_counter()
            model.predict(unseen)
            took.append(time.perf_counter() - start)
        probe.value("predict_s", float(np.median(took)))
    probe.value("predict_row_s", float(np.median(took)) / len(unseen))
    return given


def _latency(probe: Probe, model: Prepared, unseen: np.ndarray) -> None:
    times = []
    end = time.perf_counter() + LATENCY_SECONDS
    for i in range(LATENCY_CALLS):
        row = unseen[i % len(unseen)][None, :]
        start = time.perf_counter()
        model.predict(row)
        stop = time.perf_counter()
        times.append(stop - start)
        if stop > end:
            break
    probe.value("latency_s", float(np.median(times)))


def _columns(model: Prepared) -> np.ndarray:
    return np.asarray(model.estimator.classes_).astype(np.int64)


def _metrics(
    model: Prepared, given: np.ndarray, truth: np.ndarray, known: np.ndarray, num_classes: int
) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """Returns the metrics, the loss of each example, and the clean predictions.

    Without `predict_proba` the predicted class counts as certain, like a fully grown tree's.
    """
    if not num_classes:
        guesses = np.asarray(given, np.float64).reshape(len(truth), -1)
        guesses = guesses[:, 0] if guesses.shape[1] == 1 else guesses
        return *metrics.regression(guesses, truth), guesses
    if model.gives_probabilities:
        chances = metrics.probabilities(given, known[_columns(model)], num_classes)
    else:
        chances = np.eye(num_classes)[known[np.asarray(given).astype(np.int64)]]
    return *metrics.classification(chances, truth), chances


def _score(
    probe: Probe, model: Prepared, given: np.ndarray, table: tables.Table, known: np.ndarray,
    test: np.ndarray,
) -> None:  # fmt: skip
    count = len(table.classes) if table.classes is not None else 0
    truth = table.target[test]
    values, losses, clean = _metrics(model, given, truth, known, count)
    for name, value in values.items():
        probe.value(name, value)
    probe.array("example_loss", losses)
    probe.array("prediction", clean.astype(np.float32))
    if count:
        probe.array("correct", clean.argmax(axis=1) == truth)


def _search(
    job: Job, build: Callable[..., Prepared], table: tables.Table, train: np.ndarray,
    known: np.ndarray,
) -> dict[str, Any]:  # fmt: skip
    """Returns the best of `job.tune` trials on one inner split (lowest primary loss)."""
    inner, held = split(
        table.target[train], job.block.split, stratified=table.classes is not None,
        seed=1 + int(job.workload.facts.get("split_seed", 0)), folds=INNER_FOLDS,
    )  # fmt: skip
    inner, held = train[inner], train[held]
    seen, target = np.unique(table.target[inner], return_inverse=True)
    count = len(table.classes) if table.classes is not None else 0
    if not count:
        target = table.target[inner]
    generator = np.random.default_rng([job.block.seed, job.block.split])
    best, winner = np.inf, {}
    for trial in range(job.tune):
        drawn = draw_parameters(job.contestant.space, generator) if trial else {}
        model = build(drawn)
        try:
            model.fit(table.values[inner], target)
            found = _metrics(
                model, model.predict(table.values[held]), table.target[held], seen, count
            )
        except ValueError:
            if not trial:
                raise
            continue
        loss = found[0]["log_loss" if count else "rmse"]
        if loss < best:
            best, winner = loss, drawn
    return winner
