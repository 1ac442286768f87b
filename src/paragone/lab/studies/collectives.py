"""Which all-reduce? Real ranks on this machine, then a simulated cluster."""

from __future__ import annotations

from paragone._core.errors import UsageError
from paragone.lab.contestants import collectives
from paragone.lab.spec import Contestant, Measure, Picture, Request, Study, Workload
from paragone.lab.studies import _collective_findings as findings

__all__ = ["STUDY"]

MEASURES = (
    Measure(name="call_s", title="all-reduce", better="lower", role="time", margin=0.05, unit="s",
            primary=True, note="Wall time of a call on the slowest rank; median over calls."),
    Measure(name="bus_gbs", title="bus GB/s", better="higher", role="count", margin=0.05,
            shown=True, note="2 (P - 1) / P bytes over the time of a call, in 10^9 bytes a second: "
            "what the busiest link carries at least."),
    Measure(name="call_cpu_s", title="CPU", better="lower", role="time", margin=0.05, unit="s",
            note="CPU time of a call, all ranks together."),
    Measure(name="call_extra", title="extra RAM", better="lower", role="memory", margin=0.05,
            unit="B", primary=True, note="Peak memory of a rank during the calls, tensor aside."),
    Measure(name="error", title="error", better="lower", role="count", margin=1e-5,
            relative=False, primary=True, note="Largest distance to the true sum, relative to the "
            "largest value: shows that the work was equal."),
    Measure(name="start_s", title="start", better="lower", role="time", margin=0.05, unit="s",
            note="Until the ranks have met and opened what they need."),
    Measure(name="import_s", title="import", better="lower", role="time", margin=0.05, unit="s",
            note="Wall time to import the contestant."),
)  # fmt: skip

SIZES = (1 << 10, 1 << 14, 1 << 18, 1 << 22, 1 << 26)
QUICK = (1 << 10, 1 << 18, 1 << 22)
BENCH = (1 << 10, 1 << 20, 1 << 24, 1 << 26)


def words(nbytes: int) -> str:
    """A size in binary units."""
    unit, name = next((u, n) for u, n in ((1 << 20, "MiB"), (1 << 10, "KiB")) if nbytes >= u)
    return f"{nbytes // unit} {name}"


def workloads(request: Request) -> list[Workload]:
    """Tensors of growing size on 2, 3 and 4 ranks."""
    if request.data is not None or request.target is not None:
        raise UsageError("--data: this study makes its own tensors; leave it out")
    if request.options.get("bench"):
        pairs = [(ranks, n) for ranks in (2, 4) for n in BENCH]
    elif request.quick:
        pairs = [(2, n) for n in QUICK] + [(4, n) for n in QUICK]
    else:
        pairs = [(ranks, n) for ranks in (2, 3, 4) for n in SIZES]
    return [
        Workload(
            id=f"p{ranks}-{n}", title=f"{words(n)} on {ranks} ranks",
            load="paragone.lab.tasks.collective:describe", params={"ranks": ranks, "bytes": n},
            facts={"ranks": ranks, "bytes": n, "columns": 1, "rows": n // 4},
            axis={f"bytes on {ranks} ranks": n},
        )
        for ranks, n in pairs
    ]  # fmt: skip


def contestants(request: Request) -> list[Contestant]:
    """Shared memory, our algorithms over gloo's messages, gloo itself, and the floor."""
    return collectives.contestants()


STUDY = Study(
    id="collectives",
    family="training",
    question="Which all-reduce, at which size and on how many ranks?",
    task="paragone.lab.tasks.collective:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="ring",
    claims=findings.CLAIMS,
    findings=findings.findings,
    pictures=(
        Picture(id="sizes", title="Time by size on the real ranks",
                draw="paragone.lab.studies._collective_pictures:sizes"),
        Picture(id="cluster", title="Time by number of ranks on a simulated cluster",
                draw="paragone.lab.studies._collective_pictures:scaling"),
        Picture(id="map", title="Which algorithm on the simulated cluster",
                draw="paragone.lab.studies._collective_pictures:best"),
    ),
    preload=("numpy", "torch", "torch.distributed", "paragone.lab.tasks.collective",
             "paragone.lab.contestants.reducers"),
    blocks=(2, 5),
    quick_blocks=(1, 1),
)  # fmt: skip
