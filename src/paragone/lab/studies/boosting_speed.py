"""How fast do gradient boostings train and predict at equal work, as rows and threads grow?"""

from __future__ import annotations

from paragone._core.errors import UsageError
from paragone.lab import claims
from paragone.lab.contestants import equal
from paragone.lab.spec import Contestant, Request, Study, Workload
from paragone.lab.studies import _speed

__all__ = ["STUDY"]

SIZES = (1_000, 10_000, 100_000, 800_000)
QUICK = (1_000, 10_000)
MIDDLE = 100_000
LEAVES = (2, 4096)

CLAIMS = (
    claims.faster(
        "XGBoost runs more than ten times faster than existing popular solutions.",
        "Chen and Guestrin (2016), XGBoost, section 1", "xgboost", "sklearn_gbdt", 10.0),
    claims.faster(
        "Histogram boosting trains over twenty times faster than conventional boosting.",
        "Ke et al. (2017), LightGBM, abstract (there: up to)", "lightgbm", "sklearn_gbdt", 20.0),
    claims.faster(
        "LightGBM trains faster than XGBoost's histograms.",
        "Ke et al. (2017), LightGBM, table 2", "lightgbm", "xgboost", 1.0),
    claims.grows(
        "Training by histograms takes time linear in the rows.",
        "Ke et al. (2017), LightGBM, section 2.1",
        ("newton_boosting", "lightgbm", "xgboost"), "rows", "fit_s", 1.1),
)  # fmt: skip


def workloads(request: Request) -> list[Workload]:
    """Tables of growing size, and the middle one with fewer threads."""
    return _speed.workloads(request, QUICK if request.quick else SIZES, MIDDLE)


def contestants(request: Request) -> list[Contestant]:
    """Ours and the rivals at equal parameters."""
    leaves = int(request.options.get("leaves") or equal.LEAVES)
    if not LEAVES[0] <= leaves <= LEAVES[1]:
        raise UsageError(f"--leaves {leaves}: {LEAVES[0]} to {LEAVES[1]} leaves are expected")
    further = equal.boosting_like() if request.options.get("bench") else []
    return [*equal.boosting(leaves), *further]


STUDY = Study(
    id="boosting_speed",
    family="ensemble",
    question="How fast does each gradient boosting train and predict at equal work?",
    task="paragone.lab.tasks.supervised:run",
    measures=_speed.MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="newton_boosting",
    claims=CLAIMS,
    findings=_speed.findings,
    preload=_speed.PRELOAD,
    blocks=(3, 5),
    quick_blocks=(1, 1),
)
