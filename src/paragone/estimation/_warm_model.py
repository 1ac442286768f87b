"""Warm-up of one room of the family; see `_warmup`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["CALLS"]

_X = np.arange(12.0).reshape(6, 2) % 5
_DATA: dict[str, dict[str, Any]] = {
    "autoregression": {"y": [1.0, 2.0, 1.0, 3.0, 2.0]},
    "counts": {"y": [1, 2, 3]},
    "eight_schools": {},
    "eight_schools_centred": {},
    "funnel": {"d": 2},
    "hierarchical": {"y": [1.0, 2.0, 1.0, 3.0], "group": [0, 0, 1, 1]},
    "item_response": {"y": [[0, 1], [1, 0], [1, 1]]},
    "linear_regression": {"X": _X, "y": _X[:, 0]},
    "logistic_regression": {"X": _X, "y": [0, 1, 0, 1, 1, 0]},
    "mixture": {"y": [1.0, 2.0, 4.0, 4.5]},
    "multivariate_normal": {"mean": [0.0, 1.0], "covariance": np.eye(2)},
    "normal": {"y": [1.0, 2.0, 4.0]},
    "poisson_regression": {"X": _X, "y": [0, 1, 0, 2, 1, 3]},
    "robust_regression": {"X": _X, "y": _X[:, 1]},
}


def _built_in() -> None:
    from paragone.estimation.model import Model

    for name, data in _DATA.items():
        model = Model(name, data=data)
        model.target(np.zeros(model.layout.m))
    Model("normal", data=_DATA["normal"]).sample(draws=8, tune=40, chains=2, random_state=1)


def _python() -> None:
    from paragone.estimation._density import Target
    from paragone.estimation.model import Model, Parameter

    model = Model(lambda x: (-0.5 * x @ x, -x), [Parameter("x", (2,))])
    model.sample(draws=4, tune=4, chains=1, random_state=1)
    known = model.target
    rows = Target(known.f, known.reals, known.integers, known.layout,
                  vectorised=lambda x: (-0.5 * (x**2).sum(axis=1), -x))  # fmt: skip
    rows.rows(np.zeros((2, 2)))


CALLS: tuple[Callable[[], None], ...] = (_built_in, _python)
