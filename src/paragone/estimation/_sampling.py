"""Runs NUTS chains in threads; each chain has its own stream, so threads change nothing."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numba import types

from paragone.estimation import _nuts
from paragone.estimation._adaptation import windows
from paragone.estimation._density import SIGNATURE, Target
from paragone.estimation._random import streams

__all__ = ["compile_sampler", "run_nuts"]

_F, _I = types.float64, types.int64
_ARGUMENTS = (
    types.FunctionType(SIGNATURE),
    _F[::1], _I[::1], types.uint64[:, ::1], _F[:, ::1], types.uint64[::1],
    _F[::1], types.boolean, _I[::1], _I, types.boolean, _I, _F, _F[::1], _F[:, ::1], _F[:, ::1],
    _F[::1],
)  # fmt: skip


def compile_sampler() -> float:
    """Makes the sampler, or takes it from the disk; returns the seconds."""
    start = time.perf_counter()
    _nuts.sample_chain.compile(_ARGUMENTS)
    return time.perf_counter() - start


def run_nuts(
    target: Target, seed: int, chains: int, draws: int, tune: int, start: np.ndarray | None,
    dense: bool, max_depth: int, accept: float, workers: int | None, python: bool,
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, float], tuple[int, int]]:  # fmt: skip
    """Returns rows (chains, draws, m), statistics (chains, draws), seconds and gradients."""
    compiling = compile_sampler()
    m = target.layout.m
    rows, told = np.empty((chains, draws, m)), np.empty((chains, draws, len(_nuts.COLUMNS)))
    spent, states, plan = np.zeros((chains, 1)), streams(seed, chains), windows(tune)
    points = np.zeros((chains, m)) if start is None else np.array(start, float)

    def one(c: int) -> int:
        return _nuts.sample_chain(
            *target.problem, states[c], points[c], start is not None, plan, tune, dense,
            max_depth, accept, np.ones(m), rows[c], told[c], spent[c],
        )  # fmt: skip

    begin = time.perf_counter()
    # Threads that wait for the interpreter's lock gain nothing.
    threads = 1 if python else min(chains, workers or os.cpu_count() or 1)
    if threads == 1:
        done = [one(c) for c in range(chains)]
    else:
        with ThreadPoolExecutor(threads) as pool:
            done = list(pool.map(one, range(chains)))
    took = time.perf_counter() - begin
    target.check()
    if not all(done) and draws:
        where = "at the start given" if start is not None else "at 100 random points in [-2, 2]"
        raise ValueError(
            f"the log density is not finite {where}: give init a point inside the support"
        )
    stats: dict[str, Any] = {name: told[..., i] for i, name in enumerate(_nuts.COLUMNS)}
    tuning, sampling = int(spent.sum()), int(stats["leapfrogs"].sum())
    target.gradients += tuning + sampling
    share = tuning / max(1, tuning + sampling)
    times = {"compile": compiling, "tune": took * share, "sample": took * (1 - share)}
    return rows, stats, times, (tuning, sampling)
