"""Which mixer at my length, head size and budget? Costs over length, and what each can learn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from paragone._core.errors import UsageError
from paragone.lab.contestants import mixers
from paragone.lab.spec import Contestant, Measure, Picture, Request, Study, Workload
from paragone.lab.studies import _mixers_findings as findings
from paragone.lab.tasks.splits import FOLDS

__all__ = ["STUDY"]

MEASURES = (
    Measure(name="accuracy", title="accuracy", better="higher", role="quality", margin=0.02,
            relative=False, primary=True, note="Share of the tokens due that were said right, "
            "of test rows, at the rate that was best on the valid rows."),
    Measure(name="bits", title="bits a token", better="lower", role="quality", margin=0.01,
            note="Cross-entropy of the tokens due; of characters, bits per character."),
    Measure(name="forward_s", title="forward", better="lower", role="time", margin=0.05, unit="s",
            primary=True, note="Median wall time of a forward pass over the whole sequence."),
    Measure(name="train_s", title="forward + backward", better="lower", role="time", margin=0.05,
            unit="s", shown=True, note="The same with gradients of all parameters."),
    Measure(name="step_s", title="decode a token", better="lower", role="time", margin=0.05,
            unit="s", shown=True, note="Wall time of one step after the whole sequence."),
    Measure(name="fit_s", title="training", better="lower", role="time", margin=0.05, unit="s",
            note="Wall time of the steps of one training."),
    Measure(name="train_extra", title="extra RAM", better="lower", role="memory", margin=0.05,
            unit="B", primary=True, note="Peak memory of forward + backward beyond what was "
            "resident before."),
    Measure(name="state_bytes", title="state", better="lower", role="memory", margin=0.02,
            unit="B", shown=True, note="Bytes kept to decode after the whole sequence, one row."),
    Measure(name="parameters", title="parameters", better="lower", role="count", margin=0.05,
            primary=True, note="Of the mixer, its block, or the whole model."),
    Measure(name="leak", title="leak", better="lower", role="count", margin=1e-3, relative=False,
            note="Change of earlier outputs, relative to their size, when later inputs change."),
    Measure(name="rate", title="best rate", better="lower", role="count", margin=0.1,
            note="Learning rate chosen on the valid rows."),
)  # fmt: skip

_COSTS = ("forward_s", "train_s", "step_s", "train_extra", "state_bytes", "parameters", "leak")
_LEARNT = ("fit_s", "state_bytes", "parameters", "rate")

LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
QUICK_LENGTHS = (128, 512, 2048)
EQUAL = (512, 2048, 8192)
WIDTH, HEADS = 256, 4
SMALL = {"width": 64, "heads": 2, "layers": 2, "parameters": 24 * 64 * 64, "rows": 32}
"""Model of the problems: two blocks of width 64."""

PROBLEMS: dict[str, tuple[str, Mapping[str, int], int, Mapping[str, int], int]] = {
    "recall": ("Associative recall", {"length": 32, "pairs": 5, "tokens": 12}, 1000,
               {"length": 16, "pairs": 3, "tokens": 8}, 250),
    "copying": ("Selective copying", {"length": 64, "items": 8, "tokens": 8}, 800,
                {"length": 24, "items": 3, "tokens": 8}, 250),
    "induction": ("Induction", {"length": 64, "tokens": 32}, 800,
                  {"length": 32, "tokens": 16}, 300),
    "digits": ("Digits, pixel by pixel", {}, 600, {}, 200),
    "text": ("Characters of Python's sources", {"length": 128}, 400, {"length": 64}, 120),
}  # fmt: skip
"""Kind to title, shape and steps, and both of a quick study."""

RATES, QUICK_RATES = (2e-3, 4e-3), (3e-3,)


def workloads(request: Request) -> list[Workload]:
    """Lengths, then problems; of a user's text that one problem alone."""
    if request.target is not None:
        raise UsageError("--target: a sequence has no column; leave it out")
    if request.data is not None:
        from paragone.lab.problems import read_text

        read_text(request.data)
        path = str(Path(request.data).resolve())
        return [_problem(request, "text", Path(path).stem, path)]
    lengths = QUICK_LENGTHS if request.quick else LENGTHS
    made = [_sweep(request, "width", t) for t in lengths]
    made += [_sweep(request, "parameters", t) for t in (EQUAL[:1] if request.quick else EQUAL)]
    if not request.quick:
        made += [_sweep(request, "state", t) for t in EQUAL]
    kinds = ("recall", "copying") if request.quick else tuple(PROBLEMS)
    return made + [_problem(request, kind, PROBLEMS[kind][0]) for kind in kinds]


_MODES = {"width": "", "parameters": ", blocks of equal parameters", "state": ", equal states"}


def _sweep(request: Request, mode: str, length: int) -> Workload:
    axis = "length" if mode == "width" else f"length, equal {mode}"
    inner = mode != "width" or length not in (QUICK_LENGTHS[0], QUICK_LENGTHS[-1])
    crew = "few" if request.quick and inner else "all"
    return Workload(
        id=f"t{length}" + ("" if mode == "width" else f"-{mode}"),
        title=f"{length:,} tokens{_MODES[mode]}",
        load="paragone.lab.sequences:noise", params={"length": length, "width": WIDTH},
        facts={
            "part": "sweep", "mode": mode, "length": length, "width": WIDTH, "heads": HEADS,
            "order": "any", "long": length > 4096, "quick": request.quick, "crew": crew,
            "parameters": 12 * WIDTH * WIDTH, "state_bytes": 4 * WIDTH * WIDTH // HEADS,
        },
        axis={axis: length}, measures=_COSTS, primary="forward_s",
    )  # fmt: skip


def _problem(request: Request, kind: str, title: str, path: str = "") -> Workload:
    _, shape, steps, quick_shape, quick_steps = PROBLEMS[kind]
    shape, steps = (quick_shape, quick_steps) if request.quick else (shape, steps)
    measures = ("bits", "accuracy") if kind == "text" else ("accuracy", "bits")
    return Workload(
        id="data" if path else kind, title=title, load="paragone.lab.sequences:load",
        params={"kind": kind, **shape, **({"path": path} if path else {})},
        facts={
            **SMALL, "part": "learn", "kind": kind, "quick": request.quick,
            "crew": "learners" if request.quick else "all", "long": False,
            "order": "any" if kind == "digits" else "causal", "steps": steps,
            "rates": list(QUICK_RATES if request.quick else RATES),
            # The models are small: a second thread would wait longer than it works.
            "threads": 1,
        },
        splits=FOLDS, measures=(*measures, *_LEARNT), primary=measures[0],
    )  # fmt: skip


def contestants(request: Request) -> list[Contestant]:
    """All of ours by name, and other libraries."""
    return mixers.contestants()


_DRAW = "paragone.lab.studies._mixers_pictures:"

STUDY = Study(
    id="mixers",
    family="mixers",
    question="Which mixer at my length, head size and budget?",
    task="paragone.lab.tasks.sequence:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="mha",
    speed={name: "mixers_speed" for name in ("linear_attention", "performer",
                                             "gated_attention_unit", "state_space")},
    inputs=("text",),
    claims=findings.CLAIMS,
    findings=findings.findings,
    pictures=(
        Picture(id="crossings", title="Time of a forward pass by length, and who overtakes whom",
                draw=_DRAW + "crossings"),
        Picture(id="pairs", title="Every pair of mixers: where one overtakes the other",
                draw=_DRAW + "matrix"),
        Picture(id="maps", title="Where a trained model looks: recall of pairs",
                draw=_DRAW + "maps"),
        Picture(id="memory", title="What a HiPPO memory of 32 numbers keeps of the past",
                draw=_DRAW + "memory"),
        Picture(id="ranks", title="Rank of the attention matrix: softmax and feature maps",
                draw=_DRAW + "ranks"),
    ),
    preload=("numpy", "numba", "torch", "torch._dynamo", "sklearn.datasets",
             "paragone.lab.sequences", "paragone.lab.tasks.sequence"),
    blocks=(2, 4),
    quick_blocks=(1, 1),
)  # fmt: skip
