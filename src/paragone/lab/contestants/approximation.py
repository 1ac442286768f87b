"""The rivals of the studies `approximation` and `stream_speed`: strings only."""

from __future__ import annotations

from typing import Any

from paragone.lab.spec import Contestant

__all__ = ["contestants", "for_speed"]

_HERE = "paragone.lab.contestants.streamers:"
_METHOD = "stochastic_approximation"
_SGD = "paragone.estimation:sgd"
_QUANTILE = "paragone.estimation:RunningQuantile"
_MEAN = "paragone.estimation:RunningMean"
_NUMBERS = {"problem": ["mean", "quantile"]}
_MODELS = {"problem": ["linear", "logistic"]}
_STREAMS: dict[str, Any] = {}
_ONLY_QUANTILE = {"problem": ["quantile"]}
_ROOT = {"problem": ["root"]}
_FULL = {"quick": [False]}


def _ours(id: str, title: str, name: str, note: str, needs: Any, **params: Any) -> Contestant:
    return Contestant(
        id=id, title=title, make=_HERE + name, params=params, method=_METHOD, note=note,
        needs=needs,
    )  # fmt: skip


def _rival(id: str, title: str, name: str, distribution: str, **more: Any) -> Contestant:
    return Contestant(
        id=id, title=title, make=_HERE + name, origin="rival", distribution=distribution,
        install=f"pip install {distribution}", **more,
    )  # fmt: skip


def _descents() -> list[Contestant]:
    def one(id: str, title: str, note: str, needs: Any = _STREAMS, **params: Any) -> Contestant:
        return _ours(id, title, "descend", note, needs, target=_SGD, **params)

    return [
        one("sgd_average", "averaged SGD", "one pass, a_k = k^-0.6, average of the path",
            averaging=True),
        one("sgd_last", "SGD, last iterate", "one pass, a_k = k^-0.6, no average"),
        one("sgd_harmonic", "SGD, a_k = 1/k", "one pass, a_k = 1 / k, no average", c=1.0),
        one("sgd_constant", "SGD, a_k = 0.05", "one pass, constant step, no average",
            a=0.05, c=0.0),
        one("sgd_constant_average", "averaged SGD, a_k = 0.05",
            "one pass, constant step, average of the path", {**_STREAMS, **_FULL},
            a=0.05, c=0.0, averaging=True),
        one("sgd_batch", "averaged SGD, m = 32", "one pass in batches of 32, averaged",
            batch=32, averaging=True),
        Contestant(
            id="sgd_full", title="full batch, 60 steps", make=_HERE + "descend", method=_METHOD,
            params={"target": _SGD, "batch": "full", "c": 0.0, "epochs": 60}, origin="baseline",
            note="every row in memory, 60 passes, a_k = 1: no way for data that arrive once",
        ),
    ]  # fmt: skip


def contestants() -> list[Contestant]:
    """Step policies, batches, recursions, sketches, rivals, and all rows at once."""
    return [
        *_descents(),
        _ours("robbins_monro", "Robbins-Monro", "find_root",
              "a Python call a row; averaged; bounds that expand", {**_NUMBERS, **_FULL},
              target="paragone.estimation:RobbinsMonro", bounds="expanding"),
        _ours("root_expanding", "Robbins-Monro, expanding bounds", "find_root",
              "averaged; sent back to the start when it leaves bounds that grow", _ROOT,
              target="paragone.estimation:RobbinsMonro", bounds="expanding"),
        _ours("root_box", "Robbins-Monro, box", "find_root",
              "averaged; projected to [-4, 4]", _ROOT,
              target="paragone.estimation:RobbinsMonro", bounds="box"),
        _ours("root_plain", "Robbins-Monro, no bounds", "find_root",
              "averaged; nothing brings it back", _ROOT,
              target="paragone.estimation:RobbinsMonro"),
        _ours("kiefer_wolfowitz", "Kiefer-Wolfowitz", "find_minimum",
              "two losses a step, one row each; averaged", {**_NUMBERS, **_FULL},
              target="paragone.estimation:KieferWolfowitz", a=1.0, c=1.0, width=1.0 / 6.0),
        _ours("spsa", "SPSA", "find_minimum", "two losses a step, one row each; averaged",
              {**_NUMBERS, **_FULL}, target="paragone.estimation:SPSA", a=1.0, b=10.0, c=0.602,
              width=0.101),
        _ours("histogram", "running histogram", "sketch", "reads once; relative error 0.4 %",
              _ONLY_QUANTILE, target=_QUANTILE, method="histogram"),
        _ours("kll", "running KLL", "sketch", "reads once; k = 200", _ONLY_QUANTILE,
              target=_QUANTILE, method="kll"),
        _ours("p2", "running P2", "sketch", "reads once; five markers",
              {**_ONLY_QUANTILE, **_FULL},
              target=_QUANTILE, method="p2"),
        _ours("running_mean", "running mean", "sketch", "reads once", {"problem": ["mean"]},
              target=_MEAN, method=""),
        _rival("sklearn_sgd", "sklearn SGD", "sklearn_sgd", "scikit-learn",
               needs={**_MODELS, **_FULL}, note="one partial_fit, its default steps"),
        _rival("sklearn_sgd_average", "sklearn SGD, averaged", "sklearn_sgd", "scikit-learn",
               needs=_MODELS, params={"average": True},
               note="one partial_fit, its default steps, average=True"),
        _rival("river", "river {version}", "river_quantile", "river", needs=_NUMBERS,
               note="one call a row: P2 for quantiles, Welford for means"),
        _rival("datasketches_kll", "DataSketches KLL", "sketch_datasketches", "datasketches",
               needs=_ONLY_QUANTILE, note="reads once; k = 200"),
        Contestant(
            id="all_at_once", title="all rows at once (NumPy)", make=_HERE + "all_at_once",
            origin="baseline", distribution="numpy", install="pip install numpy",
            note="every row in memory: mean, sorted array, least squares, Newton",
        ),
    ]  # fmt: skip


def for_speed() -> list[Contestant]:
    """Running moments and quantiles on the same long arrays."""
    return [
        _ours(_METHOD, "paragone", "speed_ours",
              "RunningMean with four moments; RunningQuantile by the method of the workload", {},
              target=_QUANTILE, sketch=_MEAN),
        _rival("river", "river {version}", "speed_river", "river",
               note="one call a number: Var; Quantile (P2)"),
        _rival("datasketches", "DataSketches {version}", "speed_datasketches", "datasketches",
               needs={"problem": ["median"]}, note="KLL, k = 200, arrays"),
        Contestant(
            id="numpy", title="NumPy", make=_HERE + "speed_numpy", origin="baseline",
            distribution="numpy", install="pip install numpy",
            note="all at once: mean and var in two calls; quantile by partition",
        ),
    ]  # fmt: skip
