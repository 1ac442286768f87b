"""Estimation: maximum likelihood, maximum a posteriori, full Bayes, stochastic approximation.

Start with `fit(data, family)`, or with `rank(data)` when the family is not known; `Model` takes
any log density. `RunningMean`, `RunningQuantile` and `RobbinsMonro` read streams.
"""

from paragone._core.lazy import lazy_exports

_TARGETS = {
    "fit": "paragone.estimation.fitting:fit",
    "Fit": "paragone.estimation.fitting:Fit",
    "rank": "paragone.estimation.ranking:rank",
    "families": "paragone.estimation.families",
    "conjugate": "paragone.estimation.conjugate",
    "Posterior": "paragone.estimation.posterior:Posterior",
    "Model": "paragone.estimation.model:Model",
    "Parameter": "paragone.estimation.model:Parameter",
    "builtin": "paragone.estimation.builtin",
    "diagnostics": "paragone.estimation.diagnostics",
    "nonlinear_least_squares": "paragone.estimation.least_squares:nonlinear_least_squares",
    "RunningMean": "paragone.estimation.running_mean:RunningMean",
    "RunningQuantile": "paragone.estimation.running_quantile:RunningQuantile",
    "RobbinsMonro": "paragone.estimation.robbins_monro:RobbinsMonro",
    "KieferWolfowitz": "paragone.estimation.kiefer_wolfowitz:KieferWolfowitz",
    "SPSA": "paragone.estimation.kiefer_wolfowitz:SPSA",
    "sgd": "paragone.estimation.gradient_descent:sgd",
    "steps": "paragone.estimation.steps",
}

__getattr__, __dir__ = lazy_exports(__name__, _TARGETS)

__all__ = [*_TARGETS]  # pyright: ignore[reportUnsupportedDunderAll]
