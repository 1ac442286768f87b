"""How fast are the operations of mixers: linear attention, scans, gated units, Performer, HiPPO?"""

from __future__ import annotations

from paragone._core.errors import UsageError
from paragone.lab.contestants import mixers
from paragone.lab.spec import Contestant, Measure, Request, Study, Workload

__all__ = ["MEASURES", "STUDY"]

MEASURES = (
    Measure(name="call_s", title="a call", better="lower", role="time", margin=0.05, unit="s",
            primary=True, shown=True, note="Median wall time of a call, after a first one."),
    Measure(name="call_cpu_s", title="CPU", better="lower", role="time", margin=0.05, unit="s",
            note="CPU time of a call."),
    Measure(name="error", title="error", better="lower", role="count", margin=1e-4,
            relative=False, primary=True, shown=True, note="Distance to the result in float64, "
            "relative to its size: shows that the work was equal, where the note does not say "
            "that it is other work."),
    Measure(name="call_extra", title="extra RAM", better="lower", role="memory", margin=0.05,
            unit="B", primary=True, note="Peak memory of the calls beyond what was given."),
    Measure(name="import_s", title="import", better="lower", role="time", margin=0.05, unit="s",
            note="Wall time to import the contestant."),
    Measure(name="first_call_s", title="first call", better="lower", role="time", margin=0.05,
            unit="s", note="Makes modules, loads, compiles."),
)  # fmt: skip

Shape = tuple[str, str, str, str, int, int, int]

SHAPES: tuple[Shape, ...] = (
    ("linear-128", "Linear attention, 128 tokens, 8 heads", "linear", "forward", 128, 8, 64),
    ("linear-2k", "Linear attention, 2,048 tokens, 8 heads", "linear", "forward", 2048, 8, 64),
    ("linear-2k-both", "The same with gradients", "linear", "both", 2048, 8, 64),
    ("linear-16k", "Linear attention, 16,384 tokens, 1 head", "linear", "forward", 16384, 1, 64),
    ("scan-512", "Selective scan, 512 tokens, 512 x 16", "scan", "forward", 512, 512, 16),
    ("scan-512-both", "The same with gradients", "scan", "both", 512, 512, 16),
    ("scan-2k", "Selective scan, 2,048 tokens, 512 x 16", "scan", "forward", 2048, 512, 16),
    ("mamba", "Mamba block, 1,024 tokens, width 256", "mamba", "forward", 1024, 256, 0),
    ("mamba-both", "The same with the gradient of x", "mamba", "both", 1024, 256, 0),
    ("gau", "Two gated units, 1,024 tokens, width 512", "gau", "forward", 1024, 512, 0),
    ("gau-both", "The same with the gradient of x", "gau", "both", 1024, 512, 0),
    ("kernel", "S4D kernel, 4,096 lags, 256 x 32", "kernel", "forward", 4096, 256, 32),
    ("performer", "Performer, 2,048 tokens, width 256", "performer", "forward", 2048, 256, 0),
    ("linformer", "Linformer, 1,024 tokens, width 256", "linformer", "forward", 1024, 256, 0),
    ("legs", "LegS, 2,000 samples, order 64", "legs", "forward", 2000, 1, 64),
)
"""Id, title, operation, way, length, width and size."""

QUICK = ("linear-128", "linear-2k", "scan-512", "mamba", "gau", "kernel", "performer", "legs")


def workloads(request: Request) -> list[Workload]:
    """Each operation at one length or more; `--rows` sets the length of all."""
    if request.data is not None or request.target is not None:
        raise UsageError("--data: a study of speed makes its own numbers; leave it out")
    rows, made = request.options.get("rows"), []
    for id, title, op, way, length, width, size in SHAPES:
        if request.quick and not request.options.get("bench") and id not in QUICK:
            continue
        time = int(rows or length)
        made.append(Workload(
            id=id, title=title if time == length else f"{title.partition(',')[0]}, {time:,}",
            load="paragone.lab.contestants.mixers_calls:inputs",
            params={"op": op, "way": way, "length": time, "width": width, "size": size},
            facts={"op": op, "way": way, "length": time, "width": width},
        ))  # fmt: skip
    return made


def contestants(request: Request) -> list[Contestant]:
    """Ours by catalogue id, and what each is measured against."""
    return mixers.for_speed()


STUDY = Study(
    id="mixers_speed",
    family="mixers",
    question="How long does an operation of a mixer take, against the same in other libraries?",
    task="paragone.lab.tasks.sweep:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="linear_attention",
    options={"reference": "paragone.lab.contestants.mixers_calls:truth", "most_calls": 200},
    preload=("numpy", "numba", "torch", "torch._dynamo", "paragone.lab.tasks.sweep",
             "paragone.lab.contestants.mixers_calls"),
    blocks=(3, 5),
    quick_blocks=(1, 2),
)  # fmt: skip
