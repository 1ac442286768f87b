"""Estimators as classes with `fit(sample)`, `logpdf(x)`, `params` and `interval(level)`.

Each library is imported in its own run alone. The classes of rivals do what their users do: the
defaults of their fit, the standard errors that they give, or none.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from paragone.lab.samples import LAWS, Sample, log_density

__all__ = [
    "Bayes", "Lifelines", "MaximumAPosteriori", "MaximumLikelihood", "PyMC", "ScipyFit",
    "Statsmodels",
]  # fmt: skip


class MaximumLikelihood:
    """`paragone.estimation.fit(method="mle")`, with Wald intervals or profiles."""

    def __init__(self, intervals: str = "wald") -> None:
        from paragone.estimation import fit

        self._fit, self._kind = fit, intervals

    def fit(self, sample: Sample) -> None:
        self.found = self._fit(sample.values, sample.family, censoring=sample.censored)

    @property
    def params(self) -> dict[str, float]:
        return self.found.params

    def logpdf(self, x: np.ndarray) -> np.ndarray:
        return self.found.family.logpdf(x, self.found.params)

    def interval(self, level: float) -> dict[str, tuple[float, float]]:
        return self.found.interval(level, self._kind)


class MaximumAPosteriori(MaximumLikelihood):
    """`fit(method="map")`: the mode of the density of the parameters themselves."""

    def fit(self, sample: Sample) -> None:
        self.found = self._fit(
            sample.values, sample.family, "map", sample.prior, censoring=sample.censored
        )


class Bayes:
    """`fit(method="bayes")` by one of its engines; predicts with the posterior predictive."""

    def __init__(self, engine: str = "nuts") -> None:
        from paragone.estimation import conjugate, fit

        self._fit, self._conjugate, self._engine = fit, conjugate, engine

    def fit(self, sample: Sample) -> None:
        prior: Any = sample.prior
        if self._engine == "conjugate":
            if sample.pair is None:
                raise ValueError("this law with this prior has no closed form")
            name, values = sample.pair
            prior = self._conjugate.prior(name, **values)
        self.found = self._fit(
            sample.values, sample.family, "bayes", prior, censoring=sample.censored,
            engine=self._engine, random_state=sample.seed,
        )  # fmt: skip

    @property
    def params(self) -> dict[str, float]:
        return self.found.params

    def logpdf(self, x: np.ndarray) -> np.ndarray:
        return self.found.predictive.logpdf(x)

    def interval(self, level: float) -> dict[str, tuple[float, float]]:
        return self.found.interval(level, "equal_tailed")


class ScipyFit:
    """`scipy.stats.<law>.fit` with what is known held fixed; no standard errors."""

    def __init__(self) -> None:
        from scipy import stats

        self._stats = stats

    def fit(self, sample: Sample) -> None:
        name, names = LAWS[sample.family]
        law = getattr(self._stats, name)
        held = {} if "loc" in sample.names else {"floc": 0.0}
        data: Any = sample.values
        if sample.censored is not None:
            data = self._stats.CensoredData.right_censored(data, sample.censored)
        found = law.fit(data, **held)
        shapes = [s.strip() for s in law.shapes.split(",")] if law.shapes else []
        named = dict(zip([*shapes, "loc", "scale"], map(float, found), strict=True))
        self._law = law(*found)
        if sample.family == "lognormal":
            named["mu"] = float(np.log(named["scale"]))
        self.params = {ours: named[theirs] for ours, theirs in names.items()}

    def logpdf(self, x: np.ndarray) -> np.ndarray:
        return self._law.logpdf(x)


class Statsmodels:
    """`GenericLikelihoodModel` on the log density of SciPy: numerical derivatives, Wald intervals.

    Positive parameters are estimated as their logs, the start is that of the moments, as its
    users write it.
    """

    def __init__(self) -> None:
        from scipy import special, stats
        from statsmodels.base.model import GenericLikelihoodModel

        self._stats, self._base, self._expit = stats, GenericLikelihoodModel, special.expit

    def fit(self, sample: Sample) -> None:
        name, names = LAWS[sample.family]
        free = ("loc", "mu") if sample.family == "lognormal" else ("loc",)
        law, inner = getattr(self._stats, name), sample.names
        density = law.logpdf if hasattr(law, "pdf") else law.logpmf

        def unpack(u: np.ndarray) -> dict[str, float]:
            return {k: float(v if k in free else self._expit(v) if k == "p" else np.exp(v))
                    for k, v in zip(inner, u, strict=True)}  # fmt: skip

        def arguments(theta: dict[str, float]) -> dict[str, float]:
            found = {names[k]: v for k, v in theta.items()}
            if sample.family == "lognormal":
                found["scale"] = float(np.exp(found.pop("mu")))
            return found

        cut = sample.censored

        class Likelihood(self._base):
            def loglikeobs(self, params: np.ndarray) -> np.ndarray:
                given = arguments(unpack(params))
                log = density(self.endog, **given)
                return log if cut is None else np.where(cut, law.logsf(self.endog, **given), log)

        x = sample.values
        logs = np.log(x) if x.min() > 0 else x
        start = {"loc": x.mean(), "scale": np.log(x.std()), "shape": 0.0, "df": np.log(5.0),
                 "mu": logs.mean(), "sigma": np.log(logs.std()), "n": 0.0, "p": 0.0}  # fmt: skip
        if sample.family == "poisson":
            start["mu"] = np.log(max(x.mean(), 0.1))
        if "loc" not in inner:
            start["scale"] = np.log(x.mean())
        # Its users' way: the first parameter is a constant column's, the others are extra.
        model = Likelihood(x, np.ones((len(x), 1)), extra_params_names=list(inner[1:]))
        first = np.array([start.get(k, 0.0) for k in inner])
        found = model.fit(start_params=first, disp=False, method="bfgs", maxiter=500)
        self.params = unpack(found.params)
        self._law, self._names = law(**arguments(self.params)), inner
        self._ends, self._free = (lambda level: found.conf_int(alpha=1 - level)), free

    def logpdf(self, x: np.ndarray) -> np.ndarray:
        return log_density(self._law, x)

    def interval(self, level: float) -> dict[str, tuple[float, float]]:
        return {
            k: tuple(
                map(
                    float,
                    ends if k in self._free else self._expit(ends) if k == "p" else np.exp(ends),
                )
            )
            for k, ends in zip(self._names, self._ends(level), strict=True)
        }  # pyright: ignore[reportReturnType]


class Lifelines:
    """`lifelines.WeibullFitter`: autograd derivatives, Wald intervals."""

    def __init__(self) -> None:
        from lifelines import WeibullFitter

        self._make = WeibullFitter

    def fit(self, sample: Sample) -> None:
        seen = None if sample.censored is None else ~sample.censored
        self._found = self._make().fit(sample.values, seen)
        self.params = {"shape": float(self._found.rho_), "scale": float(self._found.lambda_)}

    def logpdf(self, x: np.ndarray) -> np.ndarray:
        from scipy import stats

        return stats.weibull_min(self.params["shape"], scale=self.params["scale"]).logpdf(x)

    def interval(self, level: float) -> dict[str, tuple[float, float]]:
        from scipy import stats

        wide = stats.norm.ppf(0.5 + level / 2) * self._found.summary["se(coef)"]
        return {
            name: (self.params[name] - wide[key], self.params[name] + wide[key])
            for name, key in (("shape", "rho_"), ("scale", "lambda_"))
        }


class PyMC:
    """PyMC's NUTS on the same likelihood and prior; predicts by the mixture over its draws."""

    def __init__(self, draws: int = 500, tune: int = 500) -> None:
        import pymc

        self._pymc, self._sizes = pymc, {"draws": draws, "tune": tune}

    def fit(self, sample: Sample) -> None:
        pm = self._pymc
        kinds: dict[str, Any] = {
            "normal": lambda name, a, b: pm.Normal(name, a, b),
            "half_normal": lambda name, a: pm.HalfNormal(name, a),
            "half_t": lambda name, a, b: pm.HalfStudentT(name, nu=a, sigma=b),
            "lognormal": lambda name, a, b: pm.LogNormal(name, a, b),
            "gamma": lambda name, a, b: pm.Gamma(name, alpha=a, beta=b),
        }
        with pm.Model():
            each = {name: kinds[term[0]](name, *term[1:]) for name, term in sample.prior.items()}
            law: Any = {
                "normal": lambda: pm.Normal.dist(each["loc"], each["scale"]),
                "weibull": lambda: pm.Weibull.dist(alpha=each["shape"], beta=each["scale"]),
                "gamma": lambda: pm.Gamma.dist(alpha=each["shape"], beta=1 / each["scale"]),
            }[sample.family]()
            if sample.censored is None:
                logs = pm.logp(law, sample.values)
            else:
                seen = ~sample.censored
                pm.Potential("cut", pm.math.log1mexp(pm.logcdf(law, sample.values[~seen])).sum())
                logs = pm.logp(law, sample.values[seen])
            pm.Potential("data", logs.sum())
            found = pm.sample(
                **self._sizes, chains=4, cores=1, progressbar=False, random_seed=sample.seed,
                compute_convergence_checks=False,
            )  # fmt: skip
        self._draws = {name: found.posterior[name].to_numpy().ravel() for name in sample.names}
        self._family = sample.family

    @property
    def params(self) -> dict[str, float]:
        return {name: float(each.mean()) for name, each in self._draws.items()}

    def logpdf(self, x: np.ndarray) -> np.ndarray:
        from paragone.lab.samples import true_law

        rows = [
            true_law(self._family, {k: float(v[i]) for k, v in self._draws.items()}).logpdf(x)
            for i in range(0, len(next(iter(self._draws.values()))), 8)
        ]
        return np.logaddexp.reduce(rows, axis=0) - np.log(len(rows))

    def interval(self, level: float) -> dict[str, tuple[float, float]]:
        ends = [(1 - level) / 2, (1 + level) / 2]
        return {
            name: tuple(map(float, np.quantile(each, ends))) for name, each in self._draws.items()
        }  # pyright: ignore[reportReturnType]
