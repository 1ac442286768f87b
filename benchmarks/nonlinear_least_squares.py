"""Right digits on NIST's 27 nonlinear problems from both starts, against SciPy; and the CPU time.

    python benchmarks/nonlinear_least_squares.py

SciPy is called as people call it (`curve_fit`, defaults) and at its best (`least_squares` with
tolerances of 1e-15 and central differences, both methods, the lower minimum). Data come as
decimals; ours reads them into extended precision, as one of the 27 (Lanczos1) needs.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import optimize

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "estimation"))

from test_least_squares import MODELS, PROBLEMS, digits, problem  # noqa: E402

from paragone.estimation import nonlinear_least_squares  # noqa: E402

OUT = ROOT / "benchmarks" / "results" / "nonlinear_least_squares.md"
REPEATS = 3

Found = tuple[np.ndarray, np.ndarray]


def ours(name: str, start: list[float]) -> Found:
    """Our fit, in the precision of the decimals."""
    x, y = problem(name)
    found = nonlinear_least_squares(MODELS[name], start, x, y)
    return found.params, found.standard_errors


def curve_fit(name: str, start: list[float]) -> Found:
    """SciPy as people call it."""
    x, y = problem(name, np.float64)
    theta, covariance = optimize.curve_fit(
        lambda x, *b: MODELS[name](b, x).astype(float), x, y, start
    )
    return theta, np.sqrt(np.diag(covariance))


def least_squares(name: str, start: list[float]) -> Found:
    """SciPy at its best, without derivatives given."""
    x, y = problem(name, np.float64)
    tight = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15, "max_nfev": 20_000, "x_scale": "jac"}
    found = []
    for method, jac in (("lm", "3-point"), ("trf", "3-point")):
        try:
            found.append(
                optimize.least_squares(
                    lambda b: np.asarray(MODELS[name](b, x) - y, dtype=float),
                    start,
                    method=method,
                    jac=jac,
                    **tight,
                )
            )
        except (ValueError, np.linalg.LinAlgError):
            continue
    best = min(found, key=lambda result: result.cost)
    variance = 2 * best.cost / (y.size - len(start))
    return best.x, np.sqrt(np.diag(np.linalg.pinv(best.jac.T @ best.jac)) * variance)


def main() -> None:
    """Runs all 54 starts and writes the table."""
    sides: dict[str, Callable[[str, list[float]], Found]] = {
        "paragone": ours, "scipy curve_fit": curve_fit, "scipy least_squares": least_squares,
    }  # fmt: skip
    lres = {side: np.zeros((54, 2)) for side in sides}
    seconds = {side: np.zeros(REPEATS) for side in sides}
    starts = [(name, start) for name in sorted(MODELS) for start in PROBLEMS[name]["starts"]]
    for repeat in range(REPEATS):
        for row, (name, start) in enumerate(starts):
            for side, call in sides.items():
                before = time.process_time()
                with warnings.catch_warnings(), np.errstate(all="ignore"):
                    warnings.simplefilter("ignore")
                    try:
                        theta, errors = call(name, start)
                    except (RuntimeError, ValueError):
                        theta = errors = np.full(len(start), np.nan)
                seconds[side][repeat] += time.process_time() - before
                for k, (got, key) in enumerate(((theta, "params"), (errors, "standard_errors"))):
                    lres[side][row, k] = np.nan_to_num(digits(got, PROBLEMS[name][key]))
    lines = [
        "# NIST nonlinear regression: right digits from 54 starts",
        "",
        "`python benchmarks/nonlinear_least_squares.py`; LRE is the number of right digits, at its",
        "worst over a problem's parameters. CPU seconds for all 54, one thread, median of "
        f"{REPEATS}.",
        "",
        "| | parameters, LRE >= 6 | >= 8 | standard errors, LRE >= 6 | >= 8 | CPU s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for side, table in lres.items():
        theta, errors = table.T
        lines.append(
            f"| {side} | {np.sum(theta >= 6)}/54 | {np.sum(theta >= 8)}/54 "
            f"| {np.sum(errors >= 6)}/54 | {np.sum(errors >= 8)}/54 "
            f"| {np.median(seconds[side]):.2f} |"
        )
    print("\n".join(lines))
    OUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
