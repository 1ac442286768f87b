r"""How many effective draws does a CPU-second of NUTS give, beside nutpie?

    python benchmarks/nuts.py [--rounds 5] [--models eight_schools,funnel] [--start] [--out]

Both run 4 chains x (1000 + 1000) on the same model, data and priors, one thread, target 0.8 and
their own default metric (nutpie's is diagonal, ours learns correlations too), each with its
compilation done before. In each round both do every model with a fresh seed, in random order. The
figure of a run is the least bulk ESS over all parameters (computed by the same function) divided
by the processor's seconds; a line gives the medians over rounds and the median ratio. nutpie
returns its raw trace, so that no conversion to ArviZ is timed; "ours" includes the constrained
draws. "ready" is the time to compile: nutpie's from a PyMC model, in every process anew; ours once
and for all, then from the disk.

With --start: fresh processes from interpreter start to printed summary of eight schools.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
COLD = """
from paragone.estimation import Model
print(Model("eight_schools").sample(random_state=1).summary())
"""


def data() -> dict[str, dict[str, Any]]:
    """Data of each model, simulated."""
    rng = np.random.default_rng(2026)
    X = rng.normal(size=(400, 8))
    beta = rng.normal(size=8) * 0.5
    eta = X @ beta + 0.3
    group = rng.integers(0, 60, 900)
    floor = rng.integers(0, 2, 900).astype(float)
    radon = rng.normal(size=60)[group] * 0.4 + 1.4 - 0.6 * floor + rng.normal(size=900) * 0.7
    ability, hard = rng.normal(size=100), rng.normal(size=20)
    answers = rng.random((100, 20)) < 1 / (1 + np.exp(-(ability[:, None] - hard)))
    series = np.zeros(300)
    for t in range(1, 300):
        series[t] = 0.2 + 0.7 * series[t - 1] + rng.normal()
    spread = np.geomspace(1e-3, 1e3, 50)
    return {
        "eight_schools": {},
        "linear_regression": {"X": X, "y": eta + rng.normal(size=400)},
        "logistic_regression": {"X": X, "y": (rng.random(400) < 1 / (1 + np.exp(-eta))) * 1},
        "poisson_regression": {"X": X, "y": rng.poisson(np.exp(eta))},
        "robust_regression": {"X": X, "y": eta + rng.standard_t(4, 400)},
        "hierarchical": {"y": radon, "group": group, "x": floor},
        "item_response": {"y": answers.astype(int)},
        "autoregression": {"y": series, "order": 1},
        "normal": {"y": rng.normal(3, 2, 200)},
        "multivariate_normal": {"mean": np.zeros(50), "covariance": np.diag(spread)},
        "counts": {"y": [3, 14, 15, 92, 65, 35]},
    }


def in_pymc(name: str, given: dict[str, Any]) -> Any:
    """The same model in PyMC."""
    import pymc as pm

    X, y = given.get("X"), given.get("y")
    with pm.Model() as model:
        if name == "eight_schools":
            shown = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
            sigma = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])
            mu, tau = pm.Normal("mu", 0, 5), pm.HalfCauchy("tau", 5)
            theta = pm.Normal("theta_trans", 0, 1, shape=8)
            pm.Normal("y", mu + tau * theta, sigma, observed=shown)
        elif name.endswith("_regression"):
            scale = 10 if name in ("linear_regression", "robust_regression") else 2.5
            eta = pm.Normal("alpha", 0, scale) + pm.math.dot(
                X, pm.Normal("beta", 0, scale, shape=8)
            )
            if name == "linear_regression":
                pm.Normal("y", eta, pm.HalfCauchy("sigma", 2.5), observed=y)
            elif name == "robust_regression":
                pm.StudentT("y", nu=4, mu=eta, sigma=pm.HalfCauchy("sigma", 2.5), observed=y)
            elif name == "logistic_regression":
                pm.Bernoulli("y", logit_p=eta, observed=y)
            else:
                pm.Poisson("y", mu=pm.math.exp(eta), observed=y)
        elif name == "hierarchical":
            mu, tau = pm.Normal("mu", 0, 10), pm.HalfCauchy("tau", 2.5)
            slope, sigma = pm.Normal("beta", 0, 10), pm.HalfCauchy("sigma", 2.5)
            level = mu + tau * pm.Normal("effect", 0, 1, shape=int(given["group"].max()) + 1)
            pm.Normal("y", level[given["group"]] + slope * given["x"], sigma, observed=y)
        elif name == "item_response":
            ability = pm.Normal("ability", 0, 1, shape=100)
            power = pm.math.exp(pm.Normal("log_discrimination", 0, 0.5, shape=20))
            eta = power * (ability[:, None] - pm.Normal("difficulty", 0, 2, shape=20))
            pm.Bernoulli("y", logit_p=eta, observed=y)
        elif name == "autoregression":
            mean = pm.Normal("alpha", 0, 10) + pm.Normal("beta", 0, 10) * y[:-1]
            pm.Normal("y", mean, pm.HalfCauchy("sigma", 2.5), observed=y[1:])
        elif name == "normal":
            pm.Normal("y", pm.Normal("mu", 0, 10), pm.HalfCauchy("sigma", 2.5), observed=y)
        elif name == "multivariate_normal":
            pm.MvNormal("x", given["mean"], cov=given["covariance"])
        else:
            pm.Multinomial("y", sum(y), pm.Dirichlet("p", np.ones(len(y))), observed=y)
    return model


def raw_draws(trace: Any, names: set[str]) -> np.ndarray:
    """Arrow's record batches of nutpie as (chains, draws, n), parameters alone."""
    import pyarrow

    chains = []
    for batch in trace.get_arrow_trace()[0]:
        table = pyarrow.record_batch(batch)
        columns = []
        for name in table.schema.names:
            if name in names:
                column = table.column(name)
                values = column.flatten() if hasattr(column, "flatten") else column
                columns.append(np.asarray(values).reshape(len(column), -1))
        chains.append(np.concatenate(columns, axis=1)[-1000:])
    return np.stack(chains)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", default="")
    parser.add_argument("--start", action="store_true")
    parser.add_argument("--out", action="store_true")
    asked = parser.parse_args()
    lines = start_times() if asked.start else compare(asked.rounds, asked.models)
    print("\n".join(lines))
    if asked.out:
        name = "nuts_start.md" if asked.start else "nuts.md"
        (HERE / "results" / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def compare(rounds: int, only: str) -> list[str]:
    """Effective draws a CPU-second of both, by model."""
    import nutpie

    from paragone.estimation import Model, diagnostics

    cases = data()
    models, rivals, made = {}, {}, {}
    for name in only.split(",") if only else cases:
        begin = time.perf_counter()
        rivals[name] = nutpie.compile_pymc_model(in_pymc(name, cases[name]))
        theirs = time.perf_counter() - begin
        begin = time.perf_counter()
        models[name] = Model(name, data=cases[name] or None)
        models[name].sample(draws=1, tune=1, workers=1, random_state=1)
        made[name] = (time.perf_counter() - begin, theirs)
        nutpie.sample(rivals[name], draws=20, tune=20, chains=1, cores=1, progress_bar=False)
    figures: dict[str, list[tuple[float, ...]]] = {name: [] for name in models}
    for r in range(rounds):
        for name, model in models.items():
            found = {}
            turns = ["ours", "nutpie"]
            random.Random(f"{r}{name}").shuffle(turns)
            for turn in turns:
                begin = time.process_time()
                if turn == "ours":
                    draws = model.sample(random_state=100 + r, workers=1)
                    took = time.process_time() - begin
                    names = [each.name for each in model.parameters]
                    worth = min(float(np.min(draws.ess[each])) for each in names)
                    grads = sum(draws.gradients)
                else:
                    trace = nutpie.sample(
                        rivals[name], draws=1000, tune=1000, chains=4, cores=1, seed=100 + r,
                        progress_bar=False, return_raw_trace=True,
                    )  # fmt: skip
                    took = time.process_time() - begin
                    names = {each.name for each in model.parameters}
                    worth = float(np.min(diagnostics.ess_bulk(raw_draws(trace, names))))
                    grads = 0
                found[turn] = (worth, took, grads)
            figures[name].append((*found["ours"], *found["nutpie"]))
    return table(figures, made)


def table(figures: dict[str, list[tuple[float, ...]]], made: Any) -> list[str]:
    """The lines of the result."""
    import numba
    import nutpie

    from paragone.kernels.jit import TALLY

    lines = [
        "# NUTS: effective draws a CPU-second, beside nutpie",
        "",
        f"`python benchmarks/nuts.py`, nutpie {nutpie.__version__}, Numba {numba.__version__}, "
        f"NumPy {np.__version__}; one thread, 4 chains x (1000 + 1000), medians over rounds.",
        f"Kernels compiled in this process: {TALLY['compiled']}, taken from the disk: "
        f"{TALLY['loaded']}.",
        "",
        "| model | min ESS ours | s ours | min ESS nutpie | s nutpie | ESS/s, ratio | range | "
        "ready s ours | ready s nutpie |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    middle = statistics.median
    every = []
    for name, rows in figures.items():
        ratios = [(a / b) / (c / d) for a, b, _, c, d, _ in rows]
        every.append(middle(ratios))
        ess, cpu, _, ess2, cpu2, _ = (middle(column) for column in zip(*rows, strict=True))
        lines.append(
            f"| {name} | {ess:.0f} | {cpu:.3f} | {ess2:.0f} | {cpu2:.3f} | {middle(ratios):.1f} | "
            f"{min(ratios):.1f}-{max(ratios):.1f} | {made[name][0]:.2f} | {made[name][1]:.1f} |"
        )
    lines += ["", f"Median ratio {middle(every):.1f}, least {min(every):.1f}."]
    return lines


def start_times() -> list[str]:
    """Seconds from the start of the interpreter to the printed summary, cold and with a cache."""
    clock, cpu = [], []
    with tempfile.TemporaryDirectory() as folder:
        settings = {**os.environ, "NUMBA_CACHE_DIR": folder, "PYTHONPYCACHEPREFIX": folder}
        settings.pop("PYTHONDONTWRITEBYTECODE", None)
        for _ in range(6):
            before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            subprocess.run([sys.executable, "-W", "ignore", "-c", COLD], check=True, env=settings,
                           capture_output=True)  # fmt: skip
            clock.append(time.perf_counter() - begin)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    load = json.dumps([round(value, 2) for value in os.getloadavg()])
    middle, least, most = statistics.median(cpu[1:]), min(cpu[1:]), max(cpu[1:])
    warm = f"{middle:.2f} s (median of 5, {least:.2f} to {most:.2f})"
    return [
        "# Eight schools from the start of Python to the printed summary, 4 x (1000 + 1000)",
        "",
        "`python benchmarks/nuts.py --start`",
        "",
        f"CPU time: empty cache {cpu[0]:.2f} s; from the disk {warm}. By the clock, at a load "
        f"average of {load} on {os.cpu_count()} cores: {clock[0]:.2f} s and "
        f"{statistics.median(clock[1:]):.2f} s.",
    ]


if __name__ == "__main__":
    main()
