"""How fast is an array of float32 cast to 16 and to 8 bits?"""

from __future__ import annotations

from paragone._core.errors import UsageError
from paragone.lab.contestants import precision
from paragone.lab.spec import Contestant, Measure, Request, Study, Workload

__all__ = ["STUDY"]

MEASURES = (
    Measure(name="error", title="error", better="lower", role="quality", margin=1e-9,
            relative=False, primary=True, note="Distance to the nearest values of the format, "
            "relative: 0 where every number is the right one."),
    Measure(name="call_s", title="a cast", better="lower", role="time", margin=0.05, unit="s",
            primary=True, shown=True, note="Median wall time of a cast into a new array."),
    Measure(name="call_cpu_s", title="cast CPU", better="lower", role="time", margin=0.05,
            unit="s", note="CPU time of a cast."),
    Measure(name="call_extra", title="extra RAM", better="lower", role="memory", margin=0.05,
            unit="B", primary=True, note="Peak memory during the calls beyond the numbers."),
    Measure(name="import_s", title="import", better="lower", role="time", margin=0.05, unit="s",
            note="Wall time to import the contestant."),
    Measure(name="first_call_s", title="first call", better="lower", role="time", margin=0.05,
            unit="s", note="Loads, compiles, caches."),
)  # fmt: skip

ROWS = 1_000_000


def workloads(request: Request) -> list[Workload]:
    """A million normal numbers (or as many as asked for) to each format."""
    if request.data is not None or request.target is not None:
        raise UsageError("--data: a study of speed makes its own numbers; leave it out")
    rows = int(request.options.get("rows") or ROWS)
    return [
        Workload(
            id=format,
            title=f"float32 to {format}",
            load="paragone.lab.contestants.casters:numbers",
            params={"rows": rows, "format": format},
            facts={"rows": rows, "format": format},
        )
        for format in ("bf16", "fp16", "e4m3", "e5m2")
    ]


def contestants(request: Request) -> list[Contestant]:
    """Paragone, torch, ml_dtypes."""
    return precision.for_speed()


STUDY = Study(
    id="cast_speed",
    family="training",
    question="How fast does each cast float32 to 16 and 8 bits?",
    task="paragone.lab.tasks.sweep:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="mixed_precision",
    options={"reference": "paragone.lab.contestants.casters:truth"},
    preload=("numpy", "torch", "paragone.lab.tasks.sweep", "paragone.lab.contestants.casters"),
    blocks=(3, 7),
    quick_blocks=(1, 3),
)
