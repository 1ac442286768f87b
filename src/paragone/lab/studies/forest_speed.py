"""How fast do random forests train and predict at equal work, as rows and threads grow?"""

from __future__ import annotations

from paragone.lab import claims
from paragone.lab.contestants import equal
from paragone.lab.spec import Contestant, Request, Study, Workload
from paragone.lab.studies import _speed

__all__ = ["STUDY"]

SIZES = (1_000, 10_000, 100_000)
QUICK = (1_000, 10_000)
MIDDLE = 10_000

CLAIMS = (
    claims.grows(
        "A forest of B trees on n rows is grown in time B m n log n, m features a node.",
        "Louppe (2014), Understanding random forests, section 5.1.3",
        ("random_forest", "sklearn_random_forest"), "rows", "fit_s", 1.25),
)  # fmt: skip


def workloads(request: Request) -> list[Workload]:
    """Tables of growing size, and the middle one with fewer threads."""
    return _speed.workloads(request, QUICK if request.quick else SIZES, MIDDLE)


def contestants(request: Request) -> list[Contestant]:
    """Ours and the rivals at equal parameters."""
    further = equal.forest_like() if request.options.get("bench") else []
    return [*equal.forests(), *further]


STUDY = Study(
    id="forest_speed",
    family="ensemble",
    question="How fast does each random forest train and predict at equal work?",
    task="paragone.lab.tasks.supervised:run",
    measures=_speed.MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="random_forest",
    claims=CLAIMS,
    findings=_speed.findings,
    preload=_speed.PRELOAD,
    blocks=(3, 5),
    quick_blocks=(1, 1),
)
