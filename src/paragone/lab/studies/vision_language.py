"""Which way to put pictures into a language model: encoder, codebook or raw patches?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paragone._core.errors import UsageError
from paragone._core.lazy import resolve
from paragone.lab.contestants import vision_language
from paragone.lab.spec import Contestant, Measure, Picture, Request, Study, Workload
from paragone.lab.studies import _vision_language_findings as findings
from paragone.lab.tasks.splits import FOLDS

__all__ = ["STUDY"]

MEASURES = (
    Measure(name="accuracy", title="captions right", better="higher", role="quality", margin=0.02,
            relative=False, primary=True, note="Share of held-out pictures whose caption is read "
            "letter by letter as it is."),
    Measure(name="drawn", title="drawn as asked", better="higher", role="quality", margin=0.02,
            relative=False, shown=True, note="Share of drawn pictures that a judge takes for what "
            "was asked: a support vector machine fitted on the real ones; where captions are no "
            "classes, whether the picture is nearer to the real one of its caption than to that "
            "of another."),
    Measure(name="apart", title="drawn from real", better="lower", role="quality", margin=0.02,
            relative=False, shown=True, note="Energy distance between the drawn and the real "
            "pictures of a caption, as a share of its largest value; 0: alike, in their variety, "
            "too."),
    Measure(name="caption_loss", title="caption loss", better="lower", role="quality", margin=0.02,
            note="Nats a token of held-out captions."),
    Measure(name="stable_loss", title="last loss", better="lower", role="quality", margin=0.02,
            note="Training loss at the end of a run at a fixed rate; 99 where it is no number."),
    Measure(name="read_s", title="reading", better="lower", role="time", margin=0.05, unit="s",
            primary=True, note="Wall time of a caption, in batches of 64 pictures."),
    Measure(name="draw_s", title="drawing", better="lower", role="time", margin=0.05, unit="s",
            shown=True, note="Wall time of a drawn picture, in batches of 64."),
    Measure(name="call_s", title="a batch seen", better="lower", role="time", margin=0.05, unit="s",
            note="Wall time of the encoder over pictures of mixed sizes."),
    Measure(name="train_extra", title="training RAM", better="lower", role="memory", margin=0.1,
            unit="B", primary=True, note="Peak memory of training beyond what was resident."),
    Measure(name="call_extra", title="RAM of a batch", better="lower", role="memory", margin=0.1,
            unit="B", note="Peak memory of the encoder beyond what was given."),
    Measure(name="parameters", title="parameters", better="lower", role="count", margin=0.01,
            primary=True, shown=True, note="Of all that is trained, a codebook's coder included."),
    Measure(name="seen", title="documents seen", better="higher", role="count", margin=0.05,
            shown=True, note="Each as often as it came, in the same CPU time."),
    Measure(name="spread", title="variety", better="higher", role="count", margin=0.05,
            note="Mean distance of two drawn pictures of a caption by that of two real ones."),
    Measure(name="judge", title="the judge itself", better="higher", role="count", margin=0.01,
            relative=False, note="Share of real held-out pictures that the judge gets right."),
    Measure(name="first_stage_s", title="first stage", better="lower", role="count", margin=0.05,
            unit="s", note="CPU time of training a codebook: a part of the budget."),
    Measure(name="diverged", title="diverged", better="lower", role="count", margin=0.01,
            relative=False, note="Whether the loss at the end was no number, or a quarter and 0.1 "
            "above the lowest."),
    Measure(name="score", title="largest score", better="lower", role="count", margin=0.05,
            note="Of attention, before the softmax, in training."),
    Measure(name="error", title="error", better="lower", role="count", margin=1e-4,
            relative=False, note="Distance to the result in float64, relative to its size."),
)  # fmt: skip

_READ = ("accuracy", "caption_loss", "read_s", "train_extra", "parameters", "seen",
         "first_stage_s")  # fmt: skip
_BOTH = (*_READ[:2], "drawn", "apart", "draw_s", *_READ[2:], "spread", "judge")
_STABLE = ("stable_loss", "diverged", "score", "parameters")
_PACKING = ("call_s", "call_extra", "error")

PARAMETERS = 200_000
SECONDS, QUICK_SECONDS = 120.0, 15.0
WORD_SECONDS = 240.0
RATE, BATCH = 3e-3, 32
MULTIPLES, QUICK_MULTIPLES = (1, 10, 100), (100,)
"""Rates of the question of stability, as multiples of `RATE`."""
STEPS, QUICK_STEPS = 300, 100

_CALLS = "paragone.lab.contestants.vision_language_calls:"
_SCENES = "paragone.lab.tasks._vision_language_scenes:"


def workloads(request: Request) -> list[Workload]:
    """Digits or the user's pictures; small text, rates that are too high, and packing."""
    if request.target is not None:
        raise UsageError("--target: the text of a picture is its caption; leave it out")
    quick = request.quick
    if request.data is not None:
        return [_given(request), _packing(quick)]
    seconds = QUICK_SECONDS if quick else SECONDS
    made = [_learn(
        "digits", f"Handwritten digits, {seconds:g} s of training", "digits", {}, seconds=seconds,
        crew="quick" if quick else "all", judged=200 if quick else 350, drawn=100 if quick else 300,
        measures=_BOTH,
    )]  # fmt: skip
    if not quick:
        made.append(_learn(
            "words", f"Small rendered words, {WORD_SECONDS:g} s of training", "words", {},
            seconds=WORD_SECONDS, crew="words", drawing=False, judged=200, unseen=True,
            measures=_READ, splits=1,
        ))  # fmt: skip
    multiples = QUICK_MULTIPLES if quick else MULTIPLES
    return [*made, *(_stable(multiple, quick) for multiple in multiples), _packing(quick)]


def _learn(
    id: str, title: str, load: str, params: Mapping[str, Any], *, measures: tuple[str, ...],
    digest: str = "", primary: str = "accuracy", splits: int = FOLDS, **facts: Any,
) -> Workload:  # fmt: skip
    return Workload(
        id=id, title=title, load=_SCENES + load, params=params, digest=digest,
        facts={"part": "learn", "rate": RATE, "batch": BATCH, "parameters": PARAMETERS,
               "threads": 1, **facts},
        measures=measures, primary=primary, splits=splits,
        test_share=1 / (FOLDS - 1) if splits > 1 else 0.0, counts=id != "words",
    )  # fmt: skip


def _stable(multiple: int, quick: bool) -> Workload:
    steps = QUICK_STEPS if quick else STEPS
    return Workload(
        id=f"rate-{multiple}", title=f"Chameleon at {multiple} times the rate, {steps} steps",
        load=_SCENES + "digits",
        facts={"part": "stable", "rate": RATE * multiple, "multiple": multiple, "batch": BATCH,
               "parameters": PARAMETERS, "steps": steps, "threads": 1,
               "crew": "stable-quick" if quick else "stable"},
        measures=_STABLE, primary="stable_loss", axis={"multiple": multiple}, counts=False,
    )  # fmt: skip


def _packing(quick: bool) -> Workload:
    width, layers, heads, count = (192, 3, 4, 12) if quick else (384, 6, 6, 16)
    return Workload(
        id="packing", title=f"{count} pictures of mixed sizes, {layers} blocks of width {width}",
        load=_CALLS + "inputs",
        params={"op": "see", "width": width, "layers": layers, "heads": heads, "count": count},
        facts={"part": "packing", "pictures": count, "crew": "packing", "threads": 1},
        measures=_PACKING, counts=False,
    )  # fmt: skip


def _given(request: Request) -> Workload:
    """The user's pictures with captions, decoded once to one size."""
    size, seconds = (32, 3 * QUICK_SECONDS) if request.quick else (64, 3 * SECONDS)
    folder = Path(request.cache) / "scene"
    found = resolve(_SCENES + "lay_down")(str(request.data), folder, size)
    words = f"{found['pictures']:,} pictures, {found['distinct']:,} captions"
    return _learn(
        "data", f"{Path(str(request.data)).stem}: {words}, {seconds:g} s of training", "stored",
        {"folder": str(folder)}, digest=found["digest"], measures=_BOTH,
        primary="accuracy" if found["classes"] else "caption_loss", seconds=seconds,
        crew="quick" if request.quick else "all", judged=200, drawn=64 if request.quick else 200,
        notes=found["notes"], classes=found["classes"],
    )  # fmt: skip


def contestants(request: Request) -> list[Contestant]:
    """Three architectures and their heads, norms left out, and ways to batch pictures."""
    return vision_language.contestants()


_DRAW = "paragone.lab.studies._vision_language_pictures:"

STUDY = Study(
    id="vision_language",
    family="multimodal",
    question="Which way to put pictures into a language model: encoder, codebook or raw patches?",
    task="paragone.lab.tasks.vision_language:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="packed",
    inputs=("images", "captions"),
    claims=findings.CLAIMS,
    answer=findings.answer,
    findings=findings.findings,
    speed={name: "vision_speed" for name in ("kimi_vl", "chameleon", "lossless_images")},
    options={"reference": _CALLS + "truth", "most_calls": 12},
    pictures=(
        Picture(id="drawn", title="Drawn pictures, under real ones", draw=_DRAW + "drawn"),
        Picture(id="read", title="What was read", draw=_DRAW + "read"),
        Picture(id="rebuilt", title="Pictures as a codebook gives them back",
                draw=_DRAW + "rebuilt"),
        Picture(id="attention", title="Where the encoder looks", draw=_DRAW + "attention"),
        Picture(id="losses", title="Loss of captions over CPU time", draw=_DRAW + "losses"),
        Picture(id="stability", title="Loss at rates that are too high", draw=_DRAW + "stability"),
    ),
    preload=("numpy", "numba", "torch", "torch._dynamo", "sklearn.datasets", "sklearn.svm",
             "scipy.spatial.distance", "paragone.lab.sequences", "paragone.lab.tasks.image",
             "paragone.lab.tasks.vision_language",
             "paragone.lab.contestants.vision_language_calls"),
    blocks=(2, 4),
    quick_blocks=(1, 1),
)  # fmt: skip
