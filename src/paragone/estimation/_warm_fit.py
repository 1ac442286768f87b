"""Warm-up of one room of the family; see `_warmup`.

A family has two kernels, one of sums over the data and one of single jets; the fit of a few
values of which one is censored leads through both.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from paragone.estimation import families
from paragone.estimation._thinning import binned
from paragone.estimation.fitting import fit
from paragone.estimation.ranking import rank

__all__ = ["CALLS"]


def _fits() -> None:
    for name in families.list():
        family = families.get(name)
        fixed = {"trials": 10.0} if "trials" in family.names else {}
        upper = family.limits(fixed)[1]
        if family.discrete:
            x = np.array([1.0, 2.0, 3.0, 1.0, 4.0, 2.0, 6.0, 1.0])
            x = x if upper > 6.0 else np.array([0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
        else:
            x = 0.5 + np.array([0.21, 0.34, 0.05, 0.13, 0.42, 0.27, 0.18, 0.39])
        try:
            fit(x, family, fixed=fixed, censoring=np.arange(len(x)) == 3)
        except ValueError:
            # Eight values are too few for some family: what it calls is compiled by then.
            continue


def _points() -> None:
    """The kernels of single jets, which narrow windows call."""
    for name in families.list():
        family = families.get(name)
        if hasattr(family, "kernels") and hasattr(family, "shapes"):
            k = len(family.shapes)
            out = np.empty((1, (3, 6, 10)[k]))
            family.kernels[1](np.full(1, 0.5), np.full(max(k, 1), 1.5), out)


def _bins() -> None:
    x = np.linspace(0.5, 2.0, 16)
    binned(x, np.ones(16), (0.5, 2.0), 1.0)


def _ranks() -> None:
    rank([0.21, 0.34, 0.05, 0.13, 0.42, 0.27], ["normal", "beta", "noncentral_t"])


CALLS: tuple[Callable[[], None], ...] = (_fits, _points, _bins, _ranks)
