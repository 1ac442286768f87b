"""How long does an estimate of a training step's memory take, as the model grows deeper?"""

from __future__ import annotations

from paragone._core.errors import UsageError
from paragone.lab.contestants import memory
from paragone.lab.spec import Contestant, Measure, Request, Study, Workload

__all__ = ["STUDY"]

MEASURES = (
    Measure(name="call_s", title="an answer", better="lower", role="time", margin=0.05, unit="s",
            primary=True, note="Wall time of an answer, after a first one."),
    Measure(name="call_cpu_s", title="CPU", better="lower", role="time", margin=0.05, unit="s",
            note="CPU time of an answer."),
    Measure(name="error", title="error", better="lower", role="count", margin=0.005,
            relative=False, primary=True, shown=True, note="Distance from what a real step took, "
            "as a share of it."),
    Measure(name="call_extra", title="extra RAM", better="lower", role="memory", margin=0.05,
            unit="B", primary=True, note="Peak memory beyond what was resident before."),
    Measure(name="first_call_s", title="first answer", better="lower", role="time", margin=0.05,
            unit="s", note="The first answer: imports and caches."),
)  # fmt: skip

_MODELS = (("mlp", "MLP"), ("gpt", "GPT-2, 2 layers"), ("llama", "Llama, 4 layers"))


def workloads(request: Request) -> list[Workload]:
    """Three small models."""
    if request.data is not None or request.target is not None:
        raise UsageError("--data: a study of speed makes its own models; leave it out")
    return [
        Workload(
            id=name, title=title, load="paragone.lab.training_steps:question",
            params={"name": name}, facts={"kind": "measured", "name": name},
        )
        for name, title in (_MODELS[1:] if request.quick else _MODELS)
    ]  # fmt: skip


def contestants(request: Request) -> list[Contestant]:
    """Ours and torch's tracker."""
    return memory.for_speed()


STUDY = Study(
    id="memory_speed",
    family="training",
    question="How long does an estimate of a training step's memory take?",
    task="paragone.lab.tasks.sweep:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="memory",
    preload=("numpy", "torch", "torch._dynamo", "torch.profiler", "paragone.lab.tasks.sweep"),
    blocks=(3, 5),
    quick_blocks=(1, 2),
    options={"reference": "paragone.lab.training_steps:answer"},
)  # fmt: skip
