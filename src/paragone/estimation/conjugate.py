r"""Conjugate pairs: posteriors, predictives and evidences in closed form, updated as data come.

A prior is conjugate to a likelihood when prior times likelihood has the prior's form: seeing data
then only changes a few numbers. In the exponential family $p(x \mid \theta) = h(x)
e^{\eta(\theta) \cdot T(x) - A(\theta)}$ the prior $p(\theta) = e^{\eta \cdot \tau - \nu A} /
Z(\tau, \nu)$ becomes, after n observations,

$$ \tau_n = \tau + \sum_i T(x_i), \qquad \nu_n = \nu + n, \qquad
   p(x_1 \dots x_n) = \frac{Z(\tau_n, \nu_n)}{Z(\tau, \nu)} \prod_i h(x_i), \qquad
   p(x_{n+1} \mid x_1 \dots x_n) = \frac{Z(\tau_n + T(x_{n+1}), \nu_n + 1)}{Z(\tau_n, \nu_n)}
   h(x_{n+1}) . $$

So a posterior is again a prior, batches may come one by one, and the order of data does not
matter. The pairs are data: `list()` names them, `describe(name)` says what each takes.

Cost: O(n) once an observation; a posterior holds a few numbers, or a matrix.

References:
    Raiffa and Schlaifer (1961), Applied Statistical Decision Theory, chapters 3 and 7-13.
    Diaconis and Ylvisaker (1979), "Conjugate priors for exponential families", section 2.
    Gelman et al. (2013), Bayesian Data Analysis, 3rd ed., chapters 2-3.

Shapes: n observations, p columns of a vector.
"""

from __future__ import annotations

import builtins
import difflib
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from paragone._core.random import RandomState, as_generator
from paragone.estimation import _laws
from paragone.estimation._conjugate_bounds import PAIRS as _BOUNDS
from paragone.estimation._conjugate_forms import Joint, Pair, checked
from paragone.estimation._conjugate_regression import PAIRS as _REGRESSIONS
from paragone.estimation._conjugate_scalar import PAIRS as _SCALARS
from paragone.estimation._conjugate_vectors import PAIRS as _VECTORS
from paragone.estimation._laws import Law
from paragone.estimation._vector_laws import VectorLaw

__all__ = ["Conjugate", "Law", "VectorLaw", "describe", "list", "pair", "prior"]

_PAIRS = {pair.name: pair for pair in (*_SCALARS, *_BOUNDS, *_VECTORS, *_REGRESSIONS)}
_DRAWS = 20_000


def list() -> tuple[str, ...]:
    """Names of all pairs, for `prior` and `describe`.

    Example:
        >>> "poisson" in list()
        True
    """
    return tuple(_PAIRS)


def pair(name: str) -> Pair:
    """Returns the functions of a pair.

    Raises:
        ValueError: No such pair; the message names the nearest ones.
    """
    if name not in _PAIRS:
        near = difflib.get_close_matches(name, _PAIRS, n=3) or builtins.list(_PAIRS)
        raise ValueError(f"no conjugate pair {name!r}: use one of {', '.join(near)}")
    return _PAIRS[name]


def describe(name: str) -> str:
    """One line: likelihood, prior, and what `prior` takes.

    Example:
        >>> describe("poisson")
        'Poisson, with exposures: rate ~ gamma(shape, rate)'
    """
    found = pair(name)
    known = f"; known: {', '.join(found.known)}" if found.known else ""
    unknowns, hyper = ", ".join(found.parameters), ", ".join(found.hyper)
    return f"{found.likelihood}: {unknowns} ~ {found.prior}({hyper}){known}"


def prior(name: str, **values: Any) -> Conjugate:
    r"""Returns the prior of a pair, to be updated with data.

    Prefer it to sampling whenever the model is in `list()`: no error of simulation, the evidence
    at no cost, and streams. `conjugate-models` has updates and predictives, but no evidence, no
    intervals of highest density and no joint laws.

    Args:
        name: One of `list()`.
        values: Hyper-parameters, and what the likelihood takes as known; see `describe`. The
            "normal" pair, for one, takes mean, count, shape and scale: $\sigma^2$ is inverse
            gamma (shape, scale), and the mean is normal with variance $\sigma^2$ / count.

    Raises:
        ValueError: No such pair, a value that is missing, not taken or out of range.

    Example:
        >>> posterior = prior("poisson", shape=2, rate=1).update([3, 5, 4])
        >>> posterior.mean
        3.5
    """
    found = pair(name)
    kinds = {**found.hyper, **found.known}
    given = {**found.defaults, **values}
    missing, extra = kinds.keys() - given.keys(), given.keys() - kinds.keys()
    if missing or extra:
        what = f"needs {', '.join(sorted(missing))}" if missing else f"has no {min(extra)}"
        raise ValueError(f"prior {name!r} {what}; it is {describe(name)}")
    done = {key: checked(kind, key, given[key]) for key, kind in kinds.items()}
    hyper = {key: done[key] for key in found.hyper}
    if np.ndim(hyper.get("scale", 0.0)) == 2 and hyper["df"] <= len(hyper["scale"]) - 1:
        raise ValueError(
            f"df={hyper['df']:g} must exceed {len(hyper['scale']) - 1}, the columns less 1"
        )
    sizes = {len(v) for v in done.values() if isinstance(v, np.ndarray)}
    if len(sizes) > 1:
        raise ValueError(f"prior {name!r}: vectors and matrices of different sizes {sizes}")
    return Conjugate(found, hyper, {key: done[key] for key in found.known})


class Conjugate:
    """A prior or posterior in closed form; made by `prior`, never changed: `update` returns a new.

    With one unknown, `mean` and its like are a number (or an array, for a vector); with several
    they are a dict from unknown to value.
    """

    def __init__(
        self, pair: Pair, hyper: Mapping[str, Any], known: Mapping[str, Any],
        log_evidence: float = 0.0, n: float = 0.0,
    ) -> None:  # fmt: skip
        self._pair, self._hyper, self._known = pair, dict(hyper), dict(known)
        self._log_evidence, self._n = log_evidence, n

    def __repr__(self) -> str:
        values = {**self._hyper, **self._known}
        inner = ", ".join(f"{k}={np.array2string(np.asarray(v), precision=6)}"
                          for k, v in values.items())  # fmt: skip
        return f"Conjugate({self.name!r}, {inner})"

    @property
    def name(self) -> str:
        """Name of the pair."""
        return self._pair.name

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the unknowns."""
        return self._pair.parameters

    @property
    def hyper(self) -> dict[str, Any]:
        """Hyper-parameters as they stand now."""
        return dict(self._hyper)

    @property
    def known(self) -> dict[str, Any]:
        """What the likelihood takes as known."""
        return dict(self._known)

    @property
    def n(self) -> float:
        """Sum of the weights of all observations since the prior."""
        return self._n

    @property
    def log_evidence(self) -> float:
        """Log density of all data seen since the prior, the unknowns integrated out."""
        return self._log_evidence

    def statistics(self, data: Any, *, weights: Any = None, **details: Any) -> dict[str, Any]:
        """Sufficient statistics of data, as `update` takes them.

        Args:
            data: Observations (n,) or rows (n, p).
            weights: Frequencies (n,); weight 2 is the row twice.
            details: What the pair takes beside the data: `exposure` (Poisson), `trials`
                (binomial), `censored` (True: known to exceed the value), `design` (regression).

        Raises:
            ValueError: Data empty, not finite or outside the support; bad weights or details.
        """
        extra = details.keys() - set(self._pair.details)
        if extra:
            taken = ", ".join(self._pair.details) or "none"
            raise ValueError(f"{self.name!r} takes no {min(extra)!r}; details: {taken}")
        if self._pair.width:
            details["width"] = len(self._hyper[self._pair.width])
        return self._pair.count(data, self._known, weights, **details)

    def update(
        self, data: Any = None, *, statistics: Mapping[str, Any] | None = None,
        weights: Any = None, **details: Any,
    ) -> Conjugate:  # fmt: skip
        """Returns the posterior after seeing data; updating again continues from there.

        Args:
            data: As for `statistics`.
            statistics: In place of data; without its key `log_base`, the log factor of the
                likelihood that holds no unknown, the evidence becomes NaN.
            weights: Frequencies (n,).
            details: See `statistics`.

        Raises:
            ValueError: Neither or both of data and statistics, or see `statistics`.
        """
        if (data is None) == (statistics is None):
            raise ValueError("give either data or statistics, and not both")
        if statistics is None:
            found = self.statistics(data, weights=weights, **details)
        else:
            found = dict(statistics)
            missing = [key for key in self._pair.sufficient if key not in found]
            if missing:
                raise ValueError(f"statistics of {self.name!r} need {', '.join(missing)} too")
        base = found.get("log_base", np.nan)
        gained = self._pair.evidence(self._hyper, found, self._known) + base
        return Conjugate(
            self._pair, self._pair.absorb(self._hyper, found, self._known), self._known,
            self._log_evidence + float(gained), self._n + float(found.get("n", np.nan)),
        )  # fmt: skip

    @cached_property
    def _joint(self) -> Joint:
        return self._pair.joint(self._hyper, self._known)

    def _told(self, values: Mapping[str, Any]) -> Any:
        return values[self.parameters[0]] if len(self.parameters) == 1 else dict(values)

    @property
    def mean(self) -> Any:
        """Mean of each unknown; inf or NaN if there is none."""
        return self._told(self._joint.mean)

    @property
    def var(self) -> Any:
        """Variance of each unknown."""
        return self._told(self._joint.var)

    @property
    def sd(self) -> Any:
        """Standard deviation of each unknown."""
        return self._told({k: np.sqrt(v) for k, v in self._joint.var.items()})

    @property
    def mode(self) -> Any:
        """Joint mode in the unknowns as they are named; NaN if not unique or on the boundary."""
        return self._told(self._joint.mode)

    def logpdf(self, *unknowns: Any) -> Any:
        """Joint log density of the unknowns, given in the order of `parameters`."""
        if len(unknowns) != len(self.parameters):
            raise ValueError(f"{len(unknowns)} values for {', '.join(self.parameters)}")
        return self._joint.log_density(*unknowns)

    def marginal(self, name: str | None = None, index: Any = None) -> Law:
        """Law of one unknown number.

        Args:
            name: Unknown; may be left out if there is one.
            index: Element of a vector, or (row, column) of a matrix. Elements off the diagonal
                have no closed form: their law is that of 20,000 draws.
        """
        if name is None and len(self.parameters) == 1:
            name = self.parameters[0]
        if name is None or name not in self.parameters:
            raise ValueError(f"unknown={name!r}: use one of {', '.join(self.parameters)}")
        laws = self._joint.marginals[name]
        if isinstance(laws, Law):
            return laws
        if index is None:
            raise ValueError(f"{name} has shape {laws.shape}: give the index of an element")
        if laws[index] is None:
            return _laws.from_draws(self._draws[name][(slice(None), *index)])
        return laws[index]

    @cached_property
    def _draws(self) -> dict[str, np.ndarray]:
        drawn = self._joint.draw(np.random.default_rng(0), _DRAWS)
        return dict(zip(self.parameters, drawn, strict=True))

    def _each(self, ask: Any) -> Any:
        found = {}
        for name in self.parameters:
            laws = self._joint.marginals[name]
            if isinstance(laws, Law):
                found[name] = ask(laws)
            else:
                told = [ask(self.marginal(name, at)) for at in np.ndindex(laws.shape)]
                found[name] = np.array(told).reshape(laws.shape + np.shape(told[0]))
        return self._told(found)

    def quantile(self, q: float) -> Any:
        """Quantile of each unknown on its own."""
        return self._each(lambda law: law.quantile(q))

    def interval(self, level: float = 0.95, kind: str = "hpd") -> Any:
        """Credible interval of each unknown on its own; see `Law.interval`.

        Args:
            level: Posterior probability, between 0 and 1.
            kind: "hpd" (shortest) or "equal_tailed".

        Returns:
            (low, high), or an array whose last axis holds them.
        """
        return self._each(lambda law: law.interval(level, kind))

    def rvs(self, size: Any = None, random_state: RandomState = None) -> Any:
        """Draws of the unknowns."""
        drawn = self._joint.draw(as_generator(random_state), size)
        return self._told(dict(zip(self.parameters, drawn, strict=True)))

    def predictive(self, **details: Any) -> Law | VectorLaw:
        """Law of the next observation, the unknowns integrated out.

        Args:
            details: What the next observation has of its own: `exposure` (Poisson), `trials`
                (binomial, multinomial), `draws` (hypergeometric), `design` (regression).
        """
        return self._pair.predictive(self._hyper, self._known, **details)

    def summary(self) -> str:
        """A table: mean, standard deviation and 95 % interval of each unknown."""
        lines = [f"{describe(self.name)}; n = {self.n:g}, log evidence = {self.log_evidence:.6g}"]
        for name in self.parameters:
            laws = self._joint.marginals[name]
            places = [None] if isinstance(laws, Law) else np.ndindex(laws.shape)
            for at in places:
                law = self.marginal(name, at)
                low, high = law.interval()
                label = name if at is None else f"{name}{builtins.list(at)}"
                lines.append(f"{label:<20}{law.mean:>12.6g} +- {law.sd:<12.6g}"
                             f"[{low:.6g}, {high:.6g}]")  # fmt: skip
        return "\n".join(lines)
