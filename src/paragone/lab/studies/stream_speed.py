"""How fast do running moments and quantiles read a long stream of numbers?"""

from __future__ import annotations

from paragone._core.errors import UsageError
from paragone.lab.contestants import approximation
from paragone.lab.spec import Contestant, Measure, Request, Study, Workload

__all__ = ["STUDY"]

QUICK = 200_000
ROWS = 2_000_000

MEASURES = (
    Measure(name="number_s", title="a number", better="lower", role="time", margin=0.05, unit="s",
            primary=True, note="Wall time of a number in a long array, after a first call."),
    Measure(name="number_cpu_s", title="number CPU", better="lower", role="time", margin=0.05,
            unit="s", note="CPU time of a number."),
    Measure(name="lost", title="lost", better="lower", role="count", margin=0.1, relative=False,
            primary=True, shown=True, note="Distance to the exact answer, in standard errors: "
            "shows how far the work was equal."),
    Measure(name="extra", title="extra RAM", better="lower", role="memory", margin=0.05, unit="B",
            primary=True, note="Peak memory during the calls beyond the numbers themselves."),
    Measure(name="import_s", title="import", better="lower", role="time", margin=0.05, unit="s",
            note="Wall time to import the contestant."),
    Measure(name="first_call_s", title="first call", better="lower", role="time", margin=0.05,
            unit="s", note="The first 600 numbers: loads, compiles, caches."),
)  # fmt: skip

KINDS = (
    ("moments", "Mean and variance", "moments", ""),
    ("histogram", "Median, relative error 0.4 % (ours)", "median", "histogram"),
    ("kll", "Median, rank error 1.3 % (ours: KLL)", "median", "kll"),
)


def workloads(request: Request) -> list[Workload]:
    """One long stream of normal numbers for each of the three."""
    if request.data is not None or request.target is not None:
        raise UsageError("--data: a study of speed makes its own numbers; leave it out")
    bench = request.options.get("bench")
    rows = int(request.options.get("rows") or (QUICK if request.quick and not bench else ROWS))
    return [
        Workload(
            id=id, title=title, load="paragone.lab.streams:numbers",
            params={"rows": rows, "problem": problem},
            facts={"rows": rows, "problem": problem, "method": method, "timing": True,
                   "columns": 1},
        )
        for id, title, problem, method in KINDS
    ]  # fmt: skip


def contestants(request: Request) -> list[Contestant]:
    """Ours, the rivals, and NumPy with everything in memory."""
    return approximation.for_speed()


STUDY = Study(
    id="stream_speed",
    family="estimation",
    question="How fast does each read a long stream of numbers for its moments and its median?",
    task="paragone.lab.tasks.stream:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="stochastic_approximation",
    preload=("numpy", "scipy.sparse", "paragone.lab.tasks.stream",
             "paragone.lab.contestants.streamers"),
    blocks=(3, 5),
    quick_blocks=(1, 2),
)  # fmt: skip
