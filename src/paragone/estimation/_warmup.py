"""Small calls that lead through every compiled kernel of the family, for `paragone warmup`."""

from __future__ import annotations

from collections.abc import Callable

from paragone.estimation import _warm_fit, _warm_model, _warm_posterior, _warm_streams

__all__ = ["CALLS"]

CALLS: dict[str, tuple[Callable[[], None], ...]] = {
    "bayesian_estimation": (*_warm_fit.CALLS, *_warm_posterior.CALLS, *_warm_model.CALLS),
    "stochastic_approximation": _warm_streams.CALLS,
}
