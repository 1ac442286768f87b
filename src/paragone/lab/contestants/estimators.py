"""The rivals of the study `estimators`, ours first: strings only, nothing is imported here."""

from __future__ import annotations

from typing import Any

from paragone.lab.spec import Contestant

__all__ = ["contestants"]

_HERE = "paragone.lab.contestants.fitters:"
_METHOD = "bayesian_estimation"
_PAIR = {"closed": [True], "bench": [False]}
_SAMPLED = {"sampled": [True], "bench": [False]}
_FULL = {"quick": [False], "bench": [False]}


def _ours(id: str, title: str, name: str, note: str, **more: Any) -> Contestant:
    return Contestant(
        id=id,
        title=title,
        make=_HERE + name,
        note=note,
        method=_METHOD if id == "mle" else "",
        **more,
    )


def _rival(id: str, title: str, name: str, distribution: str, note: str, **more: Any) -> Contestant:
    return Contestant(
        id=id, title=title, make=_HERE + name, origin="rival", distribution=distribution,
        install=f"pip install {distribution}", note=note, **more,
    )  # fmt: skip


def contestants() -> list[Contestant]:
    """Returns maximum likelihood, MAP, full Bayes by its engines, and the rivals."""
    return [
        _ours("mle", "paragone MLE", "MaximumLikelihood", "plug-in law; Wald intervals"),
        _ours("mle_profile", "paragone MLE, profile", "MaximumLikelihood",
              "plug-in law; likelihood-ratio intervals", params={"intervals": "profile"},
              needs=_FULL),
        _ours("map", "paragone MAP", "MaximumAPosteriori",
              "mode of the density of the parameters; Laplace intervals",
              needs={"bench": [False]}),
        _ours("bayes_conjugate", "paragone conjugate", "Bayes",
              "full Bayes in closed form, with a conjugate prior of like width",
              params={"engine": "conjugate"}, needs=_PAIR),
        _ours("bayes_laplace", "paragone Laplace", "Bayes",
              "full Bayes by a normal at the mode, in logs of positive parameters",
              params={"engine": "laplace"}, needs={"bench": [False]}),
        _ours("bayes_variational", "paragone variational", "Bayes",
              "full Bayes by the normal nearest to the posterior", params={"engine": "variational"},
              needs={**_SAMPLED, **_FULL}),
        _ours("bayes_nuts", "paragone NUTS", "Bayes", "full Bayes, 4 chains of 500 draws",
              params={"engine": "nuts"}, needs=_SAMPLED),
        _rival("scipy", "scipy {version} fit", "ScipyFit", "scipy", "plug-in law; no intervals",
               needs={"whole": [False], "rivals": [True]}),
        _rival("statsmodels", "statsmodels {version}", "Statsmodels", "statsmodels",
               "GenericLikelihoodModel, numerical derivatives; Wald intervals",
               needs={"rivals": [True]}),
        _rival("lifelines", "lifelines {version}", "Lifelines", "lifelines",
               "WeibullFitter; Wald intervals", needs={"family": ["weibull"]}),
        _rival("pymc", "pymc {version}", "PyMC", "pymc", "NUTS, 4 chains of 500 draws",
               needs={**_SAMPLED, **_FULL, "family": ["normal", "weibull", "gamma"]}),
    ]  # fmt: skip
