"""How often the bootstrap test of `rank` rejects a true family, and what ranking costs.

    python benchmarks/rank.py [--draws 199] [--samples 1000] [--rate normal,gamma] [--speed]

For each family, samples are drawn from it, fitted and tested at 5 %: the share of rejections has
the standard error sqrt(0.05 * 0.95 / samples). "plug-in" is the share that the table for a known
law (Stephens 1974: A^2 > 2.492) would reject: near 0, since a fitted law lies nearer the data.
"""

import argparse
import time

import numpy as np

from paragone.estimation import families, rank

THETA = {
    "normal": (1.0, 2.0),
    "gamma": (2.0, 1.5),
    "weibull": (1.5, 2.0),
    "gumbel_r": (0.0, 1.0),
    "lognormal": (0.7, 0.0),
    "logistic": (0.0, 1.0),
    "inverse_gaussian": (0.8, 1.0),
    "log_logistic": (3.0, 1.0),
    "poisson": (4.0,),
    "negative_binomial": (2.0, 0.4),
}


def rejections(name: str, n: int, samples: int, draws: int, seed: int) -> tuple[float, float]:
    """Shares rejected by the bootstrap and by the table of a known law."""
    family, theta = families.get(name), np.array(THETA[name])
    random = np.random.default_rng(seed)
    low = plug_in = 0
    for _ in range(samples):
        x = family.rvs(theta, n, random)
        row = rank(x, [name], bootstrap=draws, random_state=random).rows[0]
        low += row.p_value <= 0.05
        plug_in += row.statistic > 2.492
    return low / samples, plug_in / samples


def speed() -> None:
    """CPU time of a ranking and of 1,000 refits."""
    x = np.random.default_rng(0).gamma(2.0, 3.0, 10_000)
    rank(x[:200])
    for gof in (None, "ad"):
        times = []
        for _ in range(5):
            start = time.process_time()
            rank(x, gof=gof)
            times.append(time.process_time() - start)
        print(f"all continuous families, n = 10,000, gof={gof}: {1e3 * np.median(times):.0f} ms")
    for name in THETA:
        x = families.get(name).rvs(np.array(THETA[name]), 1000, 1)
        rank(x, [name], bootstrap=2)
        start = time.process_time()
        rank(x, [name], bootstrap=1000, random_state=0)
        print(f"{name}: 1,000 refits at n = 1,000 {time.process_time() - start:.2f} s")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=199)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--n", type=int, default=50)
    parser.add_argument("--rate", default=",".join(THETA))
    parser.add_argument("--speed", action="store_true")
    options = parser.parse_args()
    if options.speed:
        speed()
        return
    for name in options.rate.split(","):
        start = time.process_time()
        rate, plug_in = rejections(name, options.n, options.samples, options.draws, 1)
        spent = time.process_time() - start
        print(
            f"{name:20} n={options.n} rejected {100 * rate:.2f} %, by the table of a known law "
            f"{100 * plug_in:.2f} % ({options.samples} x {options.draws} draws, {spent:.0f} s)",
            flush=True,
        )


if __name__ == "__main__":
    main()
