r"""How fast and how high is `fit` beside `scipy.stats.<family>.fit`?

    python benchmarks/mle.py [--n 100000] [--rounds 3] [--draws 1000] [--families gamma,weibull]
                             [--limit 60] [--seed 2026] [--out]

Speed: for each continuous family both fit the same n values drawn from it, with the same
parameters free, in turns; a figure is the median over the rounds of SciPy's CPU time divided by
ours (which includes the standard errors). A SciPy fit that takes longer than `--limit` seconds is
run once. "SciPy searches" marks families for which SciPy calls its optimiser rather than a formula
or a root finder of its own; the headline is the median over the families that both must search,
and the median over those without a closed form here stands beside it.

Height: `--draws` random (family, theta, n) with n from 15 to 3,000; how often our log-likelihood is
lower than SciPy's by more than 1e-6. Three-parameter families whose likelihood is unbounded are
told apart: there a higher value is nearer to the singularity, not better.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from paragone.estimation import families, fit
from paragone.estimation.families import Data, Family

HERE = Path(__file__).resolve().parent


def truth(family: Family, random: np.random.Generator | None = None) -> np.ndarray:
    """Parameters of the family: unremarkable ones, or random ones."""
    theta = []
    for each in family.parameters:
        if each.name in ("loc", "mu", "lower") and each.lower < 0.0:
            value = 1.0 if random is None else random.normal() * 3.0
        elif each.name == "upper":
            value = theta[-1] + (2.0 if random is None else np.exp(random.normal()))
        elif each.name == "xi":
            value = 0.15 if random is None else random.uniform(-0.4, 0.6)
        elif each.name == "nc":
            value = 1.0 if random is None else random.normal()
        elif each.lower < 0.0:
            value = 2.0 if random is None else random.normal() * 4.0
        elif each.name == "scale":
            value = 2.0 if random is None else np.exp(random.normal())
        elif each.name == "df":
            value = 4.0 if random is None else np.exp(random.uniform(np.log(1.0), np.log(30.0)))
        else:
            value = 1.6 if random is None else np.exp(random.uniform(np.log(0.5), np.log(5.0)))
        theta.append(value)
    return np.array(theta)


def rival(family: Family, x: np.ndarray, **options: Any) -> tuple[float, tuple[float, ...]]:
    """SciPy's fit of the same free parameters: (log-likelihood, its parameters)."""
    law = getattr(stats, family.scipy)
    held: dict[str, Any] = dict(options)
    if family.name != "uniform" and "loc" not in family.names:
        held["floc"] = 0.0
    if family.name == "beta":
        held["fscale"] = 1.0
    theta = law.fit(x, **held)
    return float(law.logpdf(x, *theta).sum()), theta


def searches(family: Family) -> bool:
    """Whether SciPy calls its optimiser to fit this family."""
    from scipy import optimize

    calls = []

    def spy(*args: Any, **options: Any) -> Any:
        calls.append(1)
        return optimize.fmin(*args, **options)

    rival(family, family.rvs(truth(family), 60, 0), optimizer=spy)
    return bool(calls)


def closed(family: Family) -> bool:
    """Whether the maximum is a formula here."""
    x = family.rvs(truth(family), 50, 0)
    return family.closed_form(family.prepare(Data(x, np.ones(50)))) is not None


def timed(call: Any) -> tuple[float, Any]:
    """CPU seconds of a call, and what it returned."""
    begin = time.process_time()
    result = call()
    return time.process_time() - begin, result


def speed(name: str, n: int, rounds: int, limit: float) -> dict[str, Any]:
    """One family's times and log-likelihoods."""
    family = families.get(name)
    x = family.rvs(truth(family), n, 1)
    fit(x, family)
    ours, theirs = [], []
    found: Any = None
    height = -np.inf
    for _ in range(rounds):
        first, found = timed(lambda: fit(x, family))
        second, found = timed(lambda: fit(x, family))
        ours.append(min(first, second))
        if not theirs or theirs[0] < limit:
            spent, (height, _) = timed(lambda: rival(family, x))
            theirs.append(spent)
    return {
        "family": name, "ours_ms": 1e3 * float(np.median(ours)),
        "scipy_ms": 1e3 * float(np.median(theirs)),
        "ratio": float(np.median(theirs) / np.median(ours)), "higher": found.loglik - height,
        "closed": closed(family), "searches": searches(family), "rule": found.rule,
    }  # fmt: skip


def heights(names: list[str], draws: int, seed: int) -> dict[str, Any]:
    """How often our likelihood is lower than SciPy's on random draws."""
    random = np.random.default_rng(seed)
    told: dict[str, Any] = {"compared": 0, "lower": [], "unbounded": 0, "scipy_failed": 0}
    told["higher"] = told["stuck"] = 0
    for _ in range(draws):
        name = str(random.choice(names))
        family = families.get(name)
        theta = truth(family, random)
        n = int(np.exp(random.uniform(np.log(15), np.log(3000))))
        x = family.rvs(theta, n, random)
        low, high = family.limits({})[:2]
        x = np.clip(x, np.nextafter(low, np.inf), np.nextafter(high, -np.inf))
        found = fit(x, family)
        told["stuck"] += not found.converged
        try:
            height, peer = rival(family, x)
        except (stats.FitError, RuntimeError, ValueError, FloatingPointError):
            told["scipy_failed"] += 1
            continue
        if not np.isfinite(height):
            told["scipy_failed"] += 1
            continue
        # Beyond xi = -1 the extreme-value laws have no bound either.
        xi = {"generalized_pareto": peer[0], "generalized_extreme_value": -peer[0]}.get(name, 0.0)
        if found.rule in ("maximum spacing", "interior local maximum") or xi < -1.0:
            told["unbounded"] += 1
            continue
        told["compared"] += 1
        told["higher"] += found.loglik > height + 1e-3
        if found.loglik < height - 1e-6:
            row = (name, theta.tolist(), n, found.loglik - height, [*map(float, peer)])
            told["lower"].append(row)
            print("lower:", row, found)
    return told


def report(rows: list[dict[str, Any]], told: dict[str, Any], options: argparse.Namespace) -> str:
    """The tables as Markdown."""
    lines = [
        f"Maximum likelihood at n = {options.n:,}: SciPy's CPU time / ours, {options.rounds} "
        "interleaved rounds, one thread.", "",
        f"`python benchmarks/mle.py --n {options.n} --rounds {options.rounds} --draws "
        f"{options.draws} --out`", "",
        "| family | ours (ms) | SciPy (ms) | ratio | loglik - SciPy's | closed | SciPy searches |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in sorted(rows, key=lambda row: -row["ratio"]):
        lines.append(
            f"| {row['family']} | {row['ours_ms']:.2f} | {row['scipy_ms']:.1f} | "
            f"{row['ratio']:.1f}x | {row['higher']:.2g} | {'yes' if row['closed'] else ''} | "
            f"{'yes' if row['searches'] else ''} |"
        )
    searched = [row["ratio"] for row in rows if not row["closed"]]
    simplex = [row["ratio"] for row in rows if not row["closed"] and row["searches"]]
    if simplex:
        lines += [
            "", f"Median over {len(simplex)} families that both must search: "
            f"{np.median(simplex):.0f}x; over {len(searched)} without closed form here: "
            f"{np.median(searched):.0f}x.",
        ]  # fmt: skip
    if told:
        lines += [
            "", f"Random draws: {told['compared']} compared, {len(told['lower'])} lower than "
            f"SciPy by more than 1e-6, {told['higher']} higher by more than 1e-3; "
            f"{told['unbounded']} unbounded (not compared), {told['scipy_failed']} where SciPy "
            f"failed, {told['stuck']} where ours did not converge.",
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--families", default="")
    parser.add_argument("--limit", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--out", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    names = options.families.split(",") if options.families else families.continuous()
    rows = []
    for name in names if options.rounds else []:
        rows.append(speed(name, options.n, options.rounds, options.limit))
        print(json.dumps(rows[-1]), flush=True)
    told = heights(names, options.draws, options.seed) if options.draws else {}
    text = report(rows, told, options)
    print(text)
    if options.out:
        (HERE / "results" / "mle.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
