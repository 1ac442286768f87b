"""Families of distributions, by name.

`get("gamma")` finds a family by its name, an alias or SciPy's name; `list()` names all of them.
Each is a `Family`: density, distribution function and quantiles as functions of theta, and exact
derivatives of the log-likelihood for `paragone.estimation.fit`.

References:
    Johnson, Kotz and Balakrishnan (1994, 1995), Continuous univariate distributions, volumes 1, 2.
    Johnson, Kemp and Kotz (2005), Univariate discrete distributions.

Example:
    >>> from paragone.estimation import families
    >>> float(families.get("norm").cdf(0.0, {"loc": 0.0, "scale": 1.0}))
    0.5
"""

from __future__ import annotations

import builtins
import difflib
import importlib
from functools import cache

from paragone.estimation.families._family import Data, Family
from paragone.estimation.families._parameter import Parameter, positive, real, unit

__all__ = [
    "Data", "Family", "Parameter", "continuous", "discrete", "get", "list", "positive", "real",
    "unit",
]  # fmt: skip

_MODULES = (
    "normal", "symmetric", "gumbel", "weibull", "gamma", "pareto", "skew_normal", "uniform",
    "extreme", "inverse", "log_logistic", "generalized", "beta", "noncentral_t",
    "counts", "mixtures",
)  # fmt: skip


@cache
def _table() -> dict[str, Family]:
    """Families by name, in the order of the modules."""
    table: dict[str, Family] = {}
    for module in _MODULES:
        for family in importlib.import_module(f"{__name__}.{module}").FAMILIES:
            assert family.name not in table, family.name
            table[family.name] = family
    return table


@cache
def _aliases() -> dict[str, str]:
    found: dict[str, str] = {}
    for name, family in _table().items():
        for alias in (name, family.scipy, *family.aliases):
            # Two- and three-parameter forms share SciPy's name: the first one has it.
            found.setdefault(_plain(alias), name)
    return {alias: name for alias, name in found.items() if alias}


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(" ", "_")


def get(name: str | Family) -> Family:
    """Returns a family by name, alias, SciPy's name, or as it is.

    Raises:
        ValueError: No family has this name; the nearest ones are told.
    """
    if isinstance(name, Family):
        return name
    if not isinstance(name, str):
        raise ValueError(f"family={name!r} is no name and no Family: see families.list()")
    known = _aliases()
    if _plain(name) not in known:
        near = [known[each] for each in difflib.get_close_matches(_plain(name), known)]
        hint = f"did you mean {', '.join(dict.fromkeys(near))}?" if near else "see families.list()"
        raise ValueError(f"there is no family {name!r}: {hint}")
    return _table()[known[_plain(name)]]


def list() -> builtins.list[str]:
    """Names of all families, the continuous ones first."""
    return continuous() + discrete()


def continuous() -> builtins.list[str]:
    """Names of the continuous families."""
    return [name for name, family in _table().items() if not family.discrete]


def discrete() -> builtins.list[str]:
    """Names of the discrete families."""
    return [name for name, family in _table().items() if family.discrete]
