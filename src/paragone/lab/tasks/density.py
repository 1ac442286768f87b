r"""One run of an estimator: fit small samples of one law, predict fresh values, judge.

A contestant is a class with `fit(sample)` (`lab.samples.Sample`), `logpdf(x)`, the log density
that it predicts for a fresh value, and, if it has them, `params` and `interval(level)`, by name.

Each of r samples is fitted on its own. With f the predicted density, $f_0$ the true one and $x_j$
fresh values,

$$ \text{log\_loss} = -\tfrac1{rm} \sum \log f(x_j), \qquad
   \text{excess} = \text{log\_loss} + \tfrac1m \sum \log f_0(x_j), $$

so that `excess` estimates the Kullback-Leibler divergence to the truth. `coverage` is the share of
95 % intervals that hold the true parameter, `intervals` their number, `error` the root mean square
of (estimate - truth) in units of the true scale. Of a column the truth is
not known: `log_loss` on the rows that the split holds back is all there is.

A density is cut at e^-50, so that one value that a contestant thinks impossible does not decide
alone.

Values: `log_loss`, `excess`, `coverage`, `intervals`, `width` (of the
intervals, in the same units), `error`, `fit_s`, `fit_cpu_s` (of one sample), `import_s`,
`first_call_s`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from paragone.lab.build import load_inputs, resolve_target
from paragone.lab.probe import Probe
from paragone.lab.samples import Sample, log_density, true_law
from paragone.lab.spec import Job

__all__ = ["LEVEL", "one_call", "run", "samples_of"]

LEVEL = 0.95
_FLOOR = -50.0
_ENOUGH = 0.5


def samples_of(job: Job) -> tuple[list[Sample], list[np.ndarray]]:
    """The samples of this block, and for each the values to predict."""
    facts, inputs = job.workload.facts, load_inputs(job)
    each = int(facts["samples"])
    if len(inputs) == 1:
        return _splits(job, inputs[0], each)
    values, censored, fresh = inputs
    rows = [(job.block.index * each + i) % len(values) for i in range(each)]
    found = [_sample(facts, values[i], censored[i], job.block.seed + i) for i in rows]
    return found, [fresh] * each


def _splits(job: Job, column: np.ndarray, each: int) -> tuple[list[Sample], list[np.ndarray]]:
    """Random splits of a column into n values to learn from and the others to predict."""
    facts, n = job.workload.facts, int(job.workload.facts["n"])
    samples, held = [], []
    for i in range(each):
        rng = np.random.default_rng([int(facts["split_seed"]), job.block.index, i])
        rows = rng.permutation(len(column))
        part = column[rows[:n]]
        samples.append(_sample(facts, part, np.zeros(n, bool), job.block.seed + i))
        held.append(column[rows[n:]])
    return samples, held


def _sample(facts: Mapping[str, Any], values: np.ndarray, cut: np.ndarray, seed: int) -> Sample:
    pair = facts.get("pair")
    prior = {name: tuple(term) for name, term in facts["prior"].items()}
    return Sample(
        values=np.ascontiguousarray(values), censored=cut if cut.any() else None,
        family=str(facts["family"]), names=tuple(facts["names"]), prior=prior,
        pair=(pair[0], pair[1]) if pair else None, seed=int(seed),
    )  # fmt: skip


def run(job: Job, probe: Probe) -> None:
    """Performs one run; see the module's text."""
    with probe.phase("load"):
        samples, fresh = samples_of(job)
    probe.digest("data", *[s.values for s in samples], *fresh)
    with probe.phase("import"):
        make = resolve_target(job.contestant.make)
        make(**job.contestant.params)
    with probe.phase("first_call"):
        first = make(**job.contestant.params)
        first.fit(samples[0])
        first.logpdf(fresh[0][:2])
    fitted, walls, cpus = [], [], []
    with probe.phase("fit"):
        for sample in samples:
            model = make(**job.contestant.params)
            wall, cpu = _timed(model, sample, job)
            fitted.append(model)
            walls.append(wall)
            cpus.append(cpu)
    probe.value("fit_s", float(np.median(walls)))
    probe.value("fit_cpu_s", float(np.median(cpus)))
    _judge(probe, job, fitted, fresh)


def _timed(model: Any, sample: Sample, job: Job) -> tuple[float, float]:
    """Seconds of a fit; of a short one the median of several."""
    found: list[tuple[float, float]] = []
    repeated = bool(job.workload.facts.get("bench"))
    while not found or (repeated and len(found) < 7 and sum(w for w, _ in found) < _ENOUGH):
        wall, cpu = time.perf_counter(), time.process_time()
        model.fit(sample)
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
    walls, cpus = zip(*found, strict=True)
    return float(np.median(walls)), float(np.median(cpus))


def _judge(probe: Probe, job: Job, fitted: list[Any], fresh: list[np.ndarray]) -> None:
    facts = job.workload.facts
    rows = [_logs(model, x) for model, x in zip(fitted, fresh, strict=True)]
    logs = float(np.mean(np.concatenate(rows)))
    probe.value("log_loss", -logs)
    truth = facts.get("theta")
    if not truth:
        return
    exact = log_density(true_law(str(facts["family"]), truth), fresh[0])
    probe.value("excess", float(exact.mean()) - logs)
    units = {name: float(facts["units"][name]) for name in facts["names"]}
    if all(hasattr(model, "params") for model in fitted):
        errors = [(m.params[k] - truth[k]) / units[k] for m in fitted for k in facts["names"]]
        probe.value("error", float(np.sqrt(np.mean(np.square(errors)))))
    if all(hasattr(model, "interval") for model in fitted):
        held, width = [], []
        for model in fitted:
            ends = model.interval(LEVEL)
            for name in facts["names"]:
                low, high = ends[name]
                held.append(low <= truth[name] <= high)
                width.append((high - low) / units[name])
        probe.value("coverage", float(np.mean(held)))
        probe.value("intervals", float(len(held)))
        probe.value("width", float(np.median(width)))


def _logs(model: Any, x: np.ndarray) -> np.ndarray:
    found = np.asarray(model.logpdf(x), np.float64)
    if found.shape != x.shape or np.isnan(found).any():
        raise ValueError(
            f"logpdf of {len(x)} values gave shape {found.shape}, {int(np.isnan(found).sum())} of "
            "them NaN: one number for each is expected"
        )
    return np.maximum(found, _FLOOR)


def one_call(job: Job) -> Any:
    """Returns what, called, imports the contestant and returns one fit of the first sample."""
    samples, _ = samples_of(job)

    def load() -> Any:
        make = resolve_target(job.contestant.make)
        return lambda: make(**job.contestant.params).fit(samples[0])

    return load
