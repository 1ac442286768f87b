"""Warm-up of one room of the family; see `_warmup`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from paragone.estimation.gradient_descent import sgd
from paragone.estimation.robbins_monro import replicate
from paragone.estimation.running_mean import RunningMean, rolling
from paragone.estimation.running_quantile import RunningQuantile

__all__ = ["CALLS"]


def _numbers(n: int = 100) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(n)


def _moments() -> None:
    values = np.append(_numbers(), np.nan)
    RunningMean(nan_policy="omit").update(values).update(values, weights=np.ones(101)).var()
    rolling(values, 5)


def _quantiles() -> None:
    # Long enough for k=8 that its sampler runs.
    values = _numbers(70_000)
    for method in ("histogram", "kll", "p2"):
        RunningQuantile(method, k=8).update(values).quantile(0.5)


def _descent() -> None:
    values = _numbers()
    sgd("mean", values)
    sgd("linear", (values, values), batch=8)
    replicate("mean", 0.0, 3, 2)
    replicate(lambda w, eta: w - eta, 0.0, 3, 2)


CALLS: tuple[Callable[[], None], ...] = (_moments, _quantiles, _descent)
