"""MLE, MAP or full Bayes: which should I trust, and from how many samples on is it no matter?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paragone._core.errors import UsageError
from paragone.lab import samples
from paragone.lab.contestants import estimators
from paragone.lab.spec import Contestant, Measure, Picture, Request, Study, Workload
from paragone.lab.studies import _estimator_findings as findings

__all__ = ["STUDY"]

MEASURES = (
    Measure(name="log_loss", title="log loss", better="lower", role="quality", margin=0.005,
            relative=False, primary=True,
            note="Mean of -log predicted density of fresh values; 0.005 nats do not matter."),
    Measure(name="excess", title="excess", better="lower", role="count", margin=0.005,
            relative=False, primary=True, shown=True,
            note="Log loss beyond that of the true law: the divergence from it, in nats."),
    Measure(name="coverage", title="95 % covers", better="higher", role="count", margin=0.02,
            relative=False, shown=True,
            note="Share of the 95 % intervals that hold the true parameter: 0.95 is right."),
    Measure(name="error", title="error", better="lower", role="count", margin=0.05, shown=True,
            note="Root mean square error of the parameters, in units of the true scale."),
    Measure(name="width", title="width", better="lower", role="count", margin=0.05,
            note="Median width of the 95 % intervals, in the same units."),
    Measure(name="fit_s", title="fit", better="lower", role="time", margin=0.05, unit="s",
            primary=True, note="Wall time to fit one sample, after a first call."),
    Measure(name="fit_cpu_s", title="fit CPU", better="lower", role="time", margin=0.05, unit="s",
            note="CPU time to fit one sample, all threads."),
    Measure(name="import_s", title="import", better="lower", role="time", margin=0.05, unit="s",
            note="Wall time to import the contestant."),
    Measure(name="first_call_s", title="first call", better="lower", role="time", margin=0.05,
            unit="s", note="A fit and a prediction of it: loads, compiles, caches."),
    Measure(name="fit_peak", title="peak RAM", better="lower", role="memory", margin=0.05,
            unit="B", primary=True, note="Peak resident memory of the process during the fits."),
)  # fmt: skip

SIZES = (5, 20, 100, 1_000, 10_000)
QUICK = (5, 50, 1_000)
_QUICK_SAMPLED = {(QUICK[0], "right"), (QUICK[0], "wrong")}
"""Where `--quick` draws by NUTS, a second for each sample."""

HELD = 1_000
BENCH = 100_000
BLOCKS = 5
SAMPLES, FEW = 10, 6
"""Samples of a block, and of a block of `--quick`."""

TRUTH: dict[str, dict[str, Any]] = {
    "normal": {"theta": {"loc": 10.0, "scale": 2.0}, "units": {"loc": 2.0, "scale": 2.0}},
    "weibull": {"theta": {"shape": 1.5, "scale": 10.0}, "units": {"shape": 1.5, "scale": 10.0}},
    "gamma": {"theta": {"shape": 2.0, "scale": 3.0}, "units": {"shape": 2.0, "scale": 3.0}},
    "student_t": {"theta": {"df": 4.0, "loc": 1.0, "scale": 2.0},
                  "units": {"df": 4.0, "loc": 2.0, "scale": 2.0}},
    "poisson": {"theta": {"mu": 3.0}, "units": {"mu": 3.0**0.5}},
    "negative_binomial": {"theta": {"n": 3.0, "p": 0.3}, "units": {"n": 3.0, "p": 0.3}},
    "skew_normal": {"theta": {"shape": 3.0, "loc": 5.0, "scale": 2.0},
                    "units": {"shape": 3.0, "loc": 2.0, "scale": 2.0}},
    "log_logistic": {"theta": {"c": 3.0, "scale": 2.0}, "units": {"c": 3.0, "scale": 2.0}},
    "inverse_gamma": {"theta": {"a": 3.0, "scale": 2.0}, "units": {"a": 3.0, "scale": 2.0}},
    "nakagami": {"theta": {"nu": 2.0, "scale": 3.0}, "units": {"nu": 2.0, "scale": 3.0}},
}  # fmt: skip

PRIORS: dict[str, dict[str, Any]] = {
    "right": {"loc": ["normal", 9.0, 3.0], "scale": ["half_normal", 4.0]},
    "weak": {"loc": ["normal", 0.0, 100.0], "scale": ["half_t", 3.0, 100.0]},
    "wrong": {"loc": ["normal", 4.0, 1.0], "scale": ["half_normal", 4.0]},
}
PAIRS: dict[str, tuple[str, dict[str, float]]] = {
    "right": ("normal", {"mean": 9.0, "count": 0.5, "shape": 2.0, "scale": 6.0}),
    "weak": ("normal", {"mean": 0.0, "count": 1e-4, "shape": 0.05, "scale": 0.05}),
    "wrong": ("normal", {"mean": 4.0, "count": 5.0, "shape": 2.0, "scale": 6.0}),
}
OTHER: dict[str, dict[str, Any]] = {
    "weibull": {"shape": ["gamma", 3.0, 2.0], "scale": ["gamma", 3.0, 0.3]},
    "gamma": {"shape": ["gamma", 2.0, 1.0], "scale": ["gamma", 3.0, 1.0]},
    "student_t": {"df": ["lognormal", 1.6, 0.7], "loc": ["normal", 0.0, 5.0],
                  "scale": ["half_normal", 5.0]},
    "poisson": {"mu": ["gamma", 2.0, 0.5]},
    "negative_binomial": {"n": ["gamma", 2.0, 0.5], "p": ["beta", 1.0, 1.0]},
}  # fmt: skip
SEARCHED = (
    "weibull", "student_t", "skew_normal", "log_logistic", "inverse_gamma", "nakagami",
)  # fmt: skip
"""Families whose likelihood must be climbed, in SciPy too, for `bench`."""

LIMIT = 12.0
"""Lifetimes above it are censored: 27 % of the Weibull law here."""


def workloads(request: Request) -> list[Workload]:
    """The user's column; else sweeps of n by three priors, other laws, and real columns."""
    if request.data is not None:
        return _given(request)
    if request.target is not None:
        raise UsageError("--target names a column: give its file with --data")
    if request.options.get("bench"):
        rows = int(request.options.get("rows") or BENCH)
        return [_bench(request, family, rows) for family in SEARCHED]
    if request.quick:
        return [
            *[_normal(request, "right", n) for n in QUICK],
            *[_normal(request, "wrong", n) for n in (QUICK[0], QUICK[-1])],
            _law(request, "weibull", 20),
            _column(request, "radius", 10),
        ]
    return [
        *[_normal(request, prior, n) for prior in PRIORS for n in SIZES],
        *[_law(request, family, n) for family in OTHER for n in (20, 200)],
        *[_column(request, name, n) for name in ("radius", "glucose") for n in (10, 100)],
    ]


def _simulated(
    request: Request, id: str, title: str, family: str, n: int, prior: Mapping[str, Any],
    axis: Mapping[str, float], limit: float = 0.0, **facts: Any,
) -> Workload:  # fmt: skip
    each = FEW if request.quick else SAMPLES
    if n >= 10_000:
        each = 3
    truth = TRUTH[family]
    known = {
        "rows": n, "columns": 1, "n": n, "family": family, "names": list(truth["theta"]), **truth,
        "prior": dict(prior), "samples": each, "closed": False, "bench": False,
        "whole": False, "rivals": True,
        "sampled": not (request.quick and limit), "quick": request.quick, **facts,
    }  # fmt: skip
    return Workload(
        id=id, title=title, load="paragone.lab.samples:simulate",
        params={"family": family, "theta": truth["theta"], "n": n, "seed": request.seed,
                "samples": known["samples"] * BLOCKS, "held": HELD, "limit": limit},
        facts=known, axis=axis,
    )  # fmt: skip


def _normal(request: Request, prior: str, n: int) -> Workload:
    axis = {"right": "n", "weak": "n_weak", "wrong": "n_wrong"}[prior]
    name, values = PAIRS[prior]
    return _simulated(
        request, f"normal-{prior}-n{n}", f"Normal, {prior} prior", "normal", n, PRIORS[prior],
        {axis: n}, closed=True, pair=[name, values],
        sampled=not request.quick or (n, prior) in _QUICK_SAMPLED,
        rivals=not request.quick or prior == "right",
    )  # fmt: skip


def _law(request: Request, family: str, n: int) -> Workload:
    cut = family == "weibull"
    title = {"weibull": "Weibull lifetimes, 27 % censored", "gamma": "Gamma",
             "student_t": "Student's t, 4 degrees of freedom", "poisson": "Poisson counts",
             "negative_binomial": "Negative binomial counts"}[family]  # fmt: skip
    pair = ["poisson", {"shape": 2.0, "rate": 0.5}] if family == "poisson" else None
    return _simulated(
        request, f"{family}-n{n}", title, family, n, OTHER[family], {f"n_{family}": n},
        LIMIT if cut else 0.0, pair=pair, closed=pair is not None,
        whole=family in ("poisson", "negative_binomial"),
    )  # fmt: skip


def _bench(request: Request, family: str, rows: int) -> Workload:
    return _simulated(
        request, f"{family}-n{rows}", f"{family} law", family, rows, {}, {}, samples=1, bench=True
    )


_COLUMNS = {
    "radius": ("Mean radius of 569 tumours", 569, "gamma", 14.0, 3.5),
    "glucose": ("Blood sugar of 442 patients", 442, "normal", 91.0, 11.0),
}


def _column(request: Request, name: str, n: int) -> Workload:
    title, rows, family, middle, spread = _COLUMNS[name]
    return _of_column(
        request, f"{name}-n{n}", f"{title}, {family}", family, n, middle, spread,
        "paragone.lab.samples:column", {"name": name}, {"rows": rows},
    )  # fmt: skip


def _of_column(
    request: Request, id: str, title: str, family: str, n: int, middle: float, spread: float,
    load: str, params: Mapping[str, Any], facts: Mapping[str, Any],
) -> Workload:  # fmt: skip
    """Learn from n values of a column, predict the others; the prior knows orders of magnitude."""
    place, size = _order(middle), _order(spread)
    prior = {
        "normal": {"loc": ["normal", 0.0, 10 * place], "scale": ["half_t", 3.0, 10 * size]},
        "gamma": {"shape": ["lognormal", 1.0, 2.0], "scale": ["half_t", 3.0, 10 * size]},
    }[family]
    pair = ["normal", {"mean": 0.0, "count": 1e-2 * (size / place) ** 2, "shape": 0.05,
                       "scale": 0.05 * size**2}]  # fmt: skip
    known = {
        "columns": 1, "n": n, "family": family, "names": list(prior), "prior": prior,
        "quick": request.quick,
        "samples": 2 * (FEW if request.quick else SAMPLES), "split_seed": request.seed,
        "closed": family == "normal", "sampled": not request.quick, "bench": False,
        "whole": False, "rivals": True,
        "pair": pair if family == "normal" else None, **facts,
    }  # fmt: skip
    digest = str(known.pop("digest", ""))
    return Workload(
        id=id, title=f"{title}, {n} seen", load=load, params=dict(params), facts=known,
        digest=digest,
    )  # fmt: skip


def _order(value: float) -> float:
    """The power of ten next to a size: all that a weak prior may know."""
    return 10.0 ** round(math.log10(abs(value))) if value else 1.0


def _given(request: Request) -> list[Workload]:
    folder = Path(request.cache) / "column"
    found = samples.prepare_column(request.data or "", request.target, folder)
    family = "gamma" if found.pop("positive") else "normal"
    why = "all values are positive" if family == "gamma" else "not all values are positive"
    found["notes"] = [
        f"{why}: the law is a {family}; paragone.estimation.rank(x) tells which laws fit better"
    ]
    middle, spread = found.pop("middle"), found.pop("spread")
    sizes = [n for n in ((10, 100) if request.quick else (10, 30, 100, 1000))
             if n <= found["rows"] // 2]  # fmt: skip
    name = found.pop("name")
    return [
        _of_column(request, f"data-n{n}", f"{name}, {family}", family, n, middle, spread,
                   "paragone.lab.samples:load_column", {"path": str(folder)}, found)
        for n in sizes
    ]  # fmt: skip


def contestants(request: Request) -> list[Contestant]:
    """Maximum likelihood, MAP, full Bayes, and the rivals."""
    return estimators.contestants()


STUDY = Study(
    id="estimators",
    family="estimation",
    question="MLE, MAP or full Bayes: which should I trust, and from what n on is it no matter?",
    task="paragone.lab.tasks.density:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="mle",
    inputs=("table", "none"),
    claims=findings.CLAIMS,
    findings=findings.findings,
    pictures=(
        Picture(id="posterior", title="Prior, likelihood and posterior as data come",
                draw="paragone.lab.studies._estimator_pictures:posterior"),
        Picture(id="excess", title="Excess log loss over the number of samples",
                draw="paragone.lab.studies._estimator_pictures:excess"),
        Picture(id="coverage", title="Coverage of 95 % intervals over the number of samples",
                draw="paragone.lab.studies._estimator_pictures:coverage"),
    ),
    preload=("numpy", "scipy.stats", "scipy.optimize", "sklearn.datasets",
             "paragone.lab.tasks.density"),
    blocks=(3, BLOCKS),
    quick_blocks=(2, 2),
)  # fmt: skip
