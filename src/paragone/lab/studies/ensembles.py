"""Which ensemble of trees should I use, for my table, on my machine?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paragone._core.errors import UsageError
from paragone.lab import claims, data, datasets
from paragone.lab.contestants import ensembles
from paragone.lab.spec import Contestant, Measure, Picture, Request, Study, Workload
from paragone.lab.tasks import splits

__all__ = ["STUDY"]

QUICK = ("breast_cancer", "diabetes")
QUICK_ROWS = 5000

_CLASSES = ("log_loss", "accuracy", "auc", "brier")
_NUMBERS = ("rmse", "mae", "r2")

MEASURES = (
    Measure(name="log_loss", title="log loss", better="lower", role="quality", margin=0.01,
            primary=True, note="Mean of -log p(true class), p clipped to 1e-6."),
    Measure(name="rmse", title="RMSE", better="lower", role="quality", margin=0.01,
            note="Root of the mean squared error, in units of the target."),
    Measure(name="accuracy", title="accuracy", better="higher", role="quality", margin=0.005,
            relative=False, note="Share of rows whose likeliest class is the true one."),
    Measure(name="auc", title="AUC", better="higher", role="quality", margin=0.005,
            relative=False, note="Area under the ROC curve; mean of one against rest."),
    Measure(name="brier", title="Brier", better="lower", role="quality", margin=0.01,
            note="Mean squared distance of the probabilities to the truth."),
    Measure(name="mae", title="MAE", better="lower", role="quality", margin=0.01,
            note="Mean absolute error."),
    Measure(name="r2", title="R2", better="higher", role="quality", margin=0.01,
            relative=False, note="Share of the target's variance that is explained."),
    Measure(name="fit_s", title="fit", better="lower", role="time", margin=0.05, unit="s",
            primary=True, note="Wall time of one fit, after a first call."),
    Measure(name="predict_s", title="predict", better="lower", role="time", margin=0.05, unit="s",
            note="Wall time to predict the whole test part."),
    Measure(name="latency_s", title="one row", better="lower", role="time", margin=0.05,
            unit="s", note="Median wall time to predict a single row."),
    Measure(name="fit_cpu_s", title="fit CPU", better="lower", role="time", margin=0.05, unit="s",
            note="CPU time of the fit, all threads and children."),
    Measure(name="import_s", title="import", better="lower", role="time", margin=0.05, unit="s",
            note="Wall time to import and build the contestant."),
    Measure(name="first_call_s", title="first call", better="lower", role="time", margin=0.05,
            unit="s", note="A fit of few rounds and a prediction: loads, compiles, caches."),
    Measure(name="fit_peak", title="peak RAM", better="lower", role="memory", margin=0.05,
            unit="B", primary=True, note="Peak resident memory of the process during the fit."),
    Measure(name="predict_peak", title="predict RAM", better="lower", role="memory", margin=0.05,
            unit="B", note="Peak resident memory during the prediction."),
)  # fmt: skip

CLAIMS = (
    claims.usually_better(
        "Bagging an unstable learner makes it better than one tree.",
        "Breiman (1996), Bagging predictors", "bagging", "decision_tree"),
    claims.usually_better(
        "Random features at each node make bagged trees better still.",
        "Breiman (2001), Random forests, sections 1 and 5", "random_forest", "bagging"),
    claims.usually_better(
        "Random forests compare favourably to AdaBoost.",
        "Breiman (2001), Random forests, abstract", "random_forest", "adaboost"),
    claims.usually_better(
        "Second-order boosting with regularised leaves is better than gradient boosting.",
        "Chen and Guestrin (2016), XGBoost, section 2", "newton_boosting", "gbdt"),
    claims.not_worse(
        "Stacking is at least as good as its best member.",
        "Wolpert (1992), Stacked generalization; van der Laan et al. (2007), Super learner",
        "stacking", ("random_forest", "newton_boosting")),
)  # fmt: skip


def workloads(request: Request) -> list[Workload]:
    """The user's table, or the bundled ones."""
    cache = Path(request.cache)
    if request.data is not None:
        schema = data.prepare(
            request.data, request.target, cache / "table",
            task=request.options.get("task", "auto"),
            limit=QUICK_ROWS if request.quick else 0, seed=request.seed,
        )  # fmt: skip
        name = Path(request.data).stem
        return [_workload("data", name, cache / "table", schema, request)]
    if request.target is not None:
        raise UsageError("--target needs --data: the bundled tables know their targets")
    names = QUICK if request.quick else datasets.available()
    return [
        _workload(
            name, datasets.BUNDLED[name][1], cache / name,
            datasets.bundled(name, cache / name), request,
        )
        for name in names
    ]  # fmt: skip


def _workload(
    id: str, title: str, folder: Path, schema: Mapping[str, Any], request: Request
) -> Workload:
    facts = {**schema["facts"], "split_seed": request.seed}
    count, share = splits.plan(facts["rows"])
    regression = facts["kind"] == "Regressor"
    quality = _NUMBERS if regression else _CLASSES
    return Workload(
        id=id, title=title, load="paragone.lab.data:load", params={"folder": str(folder)},
        facts=facts, digest=schema["digest"], splits=count, test_share=share,
        primary="rmse" if regression else "log_loss",
        measures=(*quality, *(m.name for m in MEASURES if m.role != "quality")),
    )  # fmt: skip


def contestants(request: Request) -> list[Contestant]:
    """Ours, the rivals, and the baseline."""
    return ensembles.contestants()


STUDY = Study(
    id="ensembles",
    family="ensemble",
    question="Which ensemble of trees predicts best here, and what does it cost?",
    task="paragone.lab.tasks.supervised:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="random_forest",
    inputs=("table",),
    claims=CLAIMS,
    speed={
        "xgboost": "boosting_speed", "gbdt": "boosting_speed", "adaboost": "boosting_speed",
        "random_forest": "forest_speed", "bagging": "forest_speed",
    },
    pictures=(
        Picture(id="surfaces", title="What each method learns of the two columns that matter most",
                draw="paragone.lab.studies._ensemble_pictures:surfaces"),
        Picture(id="importances", title="Columns by the gain of their splits",
                draw="paragone.lab.studies._ensemble_pictures:importances"),
        Picture(id="rounds", title="Error on unseen rows as trees are added",
                draw="paragone.lab.studies._ensemble_pictures:rounds"),
    ),
    preload=("numpy", "scipy.sparse", "scipy.stats", "sklearn.base", "sklearn.metrics",
             "sklearn.model_selection", "sklearn.pipeline", "sklearn.preprocessing",
             "sklearn.linear_model", "sklearn.impute", "paragone.lab.tasks.supervised"),
    blocks=(5, 30),
    quick_blocks=(1, 1),
)  # fmt: skip
