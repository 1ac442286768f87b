"""How fast is a step of AdamW: one large tensor, many small ones, 16 and 8 bits?"""

from __future__ import annotations

from paragone._core.errors import UsageError
from paragone.lab.claims import faster
from paragone.lab.contestants import optimizer_speed
from paragone.lab.spec import Contestant, Measure, Request, Study, Workload

__all__ = ["STUDY"]

MEASURES = (
    Measure(name="call_s", title="a step", better="lower", role="time", margin=0.05, unit="s",
            primary=True, shown=True, note="Median wall time of a step, after a first one."),
    Measure(name="call_cpu_s", title="step CPU", better="lower", role="time", margin=0.05,
            unit="s", note="CPU time of a step."),
    Measure(name="error", title="error", better="lower", role="count", margin=1e-4,
            relative=False, primary=True, shown=True, note="Distance to the first step in "
            "float64, relative to the parameters: shows that the work was equal."),
    Measure(name="call_extra", title="extra RAM", better="lower", role="memory", margin=0.05,
            unit="B", primary=True, note="Peak memory of parameters, states and steps beyond the "
            "numbers given."),
    Measure(name="import_s", title="import", better="lower", role="time", margin=0.05, unit="s",
            note="Wall time to import the contestant."),
    Measure(name="first_call_s", title="first step", better="lower", role="time", margin=0.05,
            unit="s", note="Makes parameters and states, loads, compiles."),
)  # fmt: skip

SHAPES = (
    ("m1", "1 M parameters, one tensor", 1, 1 << 20, "plain"),
    ("m15", "15 M parameters, one tensor", 1, 15_000_000, "plain"),
    ("small", "500 tensors of 2,048", 500, 2048, "plain"),
    ("bf16", "15 M parameters in bf16", 1, 15_000_000, "half"),
    ("pass", "15 M: unscale, clip, step, bf16 copy", 1, 15_000_000, "pass"),
    ("pass_small", "500 x 2,048: unscale, clip, step, bf16 copy", 500, 2048, "pass"),
    ("blocks", "2 M parameters, 8-bit states", 1, 2_000_000, "blocks"),
)
QUICK = ("m1", "small", "blocks")


def workloads(request: Request) -> list[Workload]:
    """Sizes from a small model's pieces to more than any cache; one round of each way."""
    if request.data is not None or request.target is not None:
        raise UsageError("--data: a study of speed makes its own numbers; leave it out")
    rows = request.options.get("rows")
    made = []
    for id, title, count, size, way in SHAPES:
        if rows:
            size = max(1, int(rows) // count)
        if request.quick and not request.options.get("bench") and id not in QUICK:
            continue
        made.append(Workload(
            id=id, title=title, load="paragone.lab.contestants.steppers:numbers",
            params={"count": count, "size": size, "way": way},
            facts={"way": way, "tensors": count, "rows": count * size},
        ))  # fmt: skip
    return made


def contestants(request: Request) -> list[Contestant]:
    """Ours, PyTorch's three forms, bitsandbytes."""
    return optimizer_speed.contestants()


STUDY = Study(
    id="optimizer_speed",
    family="training",
    question="How long does a step of AdamW take, and which form is fastest?",
    task="paragone.lab.tasks.sweep:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="adamw",
    options={"reference": "paragone.lab.contestants.steppers:truth"},
    claims=(
        faster("A fused step is faster than one operation after another.",
               "PyTorch, torch.optim documentation", "torch_fused", "torch_loop", 1.0, "call_s"),
        faster("foreach on a CPU gains nothing over the loop: each operation is still a call for "
               "each tensor.", "PyTorch issue tracker", "torch_loop", "torch_foreach", 0.95,
               "call_s"),
    ),
    preload=("numpy", "torch", "paragone.lab.tasks.sweep", "paragone.lab.contestants.steppers"),
    blocks=(3, 5),
    quick_blocks=(1, 2),
)  # fmt: skip
