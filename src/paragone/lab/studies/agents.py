"""Which agent for my pages: which encoder, how much history, with reflection, which resolution?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paragone._core.errors import UsageError
from paragone._core.lazy import resolve
from paragone.lab.contestants import agents
from paragone.lab.spec import Contestant, Measure, Picture, Request, Study, Workload
from paragone.lab.studies import _agents_findings as findings

__all__ = ["STUDY"]

MEASURES = (
    Measure(name="accuracy", title="success", better="higher", role="quality", margin=0.02,
            relative=False, primary=True, note="Share of exercises never seen in training that "
            "the page itself gives its full reward, in a real browser."),
    Measure(name="in_box", title="single steps, offline", better="higher", role="quality",
            margin=0.02, relative=False, shown=True, note="Share of single steps on a teacher's "
            "screenshots that are right: what is easily measured, and flatters."),
    Measure(name="unseen", title="success, unseen words", better="higher", role="quality",
            margin=0.05, relative=False, note="Of exercises whose instruction training never "
            "had."),
    Measure(name="step_s", title="a step", better="lower", role="time", margin=0.05, unit="s",
            primary=True, note="Wall time of a step: screenshot, decision, action, and the wait "
            "until the page is quiet. By CPU time it leaves out Chromium's own."),
    Measure(name="policy_s", title="decision", better="lower", role="time", margin=0.05, unit="s",
            shown=True, note="The agent's part of a step."),
    Measure(name="train_extra", title="training RAM", better="lower", role="memory", margin=0.1,
            unit="B", primary=True, note="Peak memory of training beyond what was resident."),
    Measure(name="steps", title="steps", better="lower", role="count", margin=0.05, shown=True,
            primary=True, note="Of an episode; an agent that does not know takes many."),
    Measure(name="parameters", title="parameters", better="lower", role="count", margin=0.01,
            shown=True, note="Of all that is used."),
    Measure(name="seen", title="samples seen", better="higher", role="count", margin=0.05,
            note="Each as often as it came, in the same CPU time."),
    Measure(name="train_cpu_s", title="training CPU", better="lower", role="count", margin=0.1,
            unit="s", note="CPU time of training, a browser's not included."),
    Measure(name="instructions_unseen", title="unseen words", better="higher", role="count",
            margin=0.05, relative=False, note="Share of exercises whose instruction training "
            "never had."),
)  # fmt: skip

_LEARN = ("accuracy", "in_box", "unseen", "step_s", "policy_s", "train_extra", "steps",
          "parameters", "seen", "train_cpu_s", "instructions_unseen")  # fmt: skip
_POSSIBLE = ("accuracy", "steps", "step_s")

CLICKS = "miniwob:click-test-2,click-dialog-2,click-tab,focus-text-2,click-button,click-widget"
SEVERAL = (
    "miniwob:click-button-sequence,click-checkboxes,enter-text,login-user,click-tab-2-easy,"
    "focus-text-2"
)
"""Tasks of several steps, and one of a single step."""
QUICK_TASKS = "miniwob:click-test,focus-text-2,click-tab"

SECONDS, QUICK_SECONDS = 300.0, 18.0
SEEDS, QUICK_SEEDS = 100, 24
"""Exercises of each task that are demonstrated."""
EPISODES, QUICK_EPISODES = 20, 6
HELD, QUICK_HELD = 8, 4
QUICK_SIZES: dict[str, Any] = {
    "stem": 32, "stem_blocks": 1, "width": 64, "encoder_layers": 1, "layers": 2,
}  # fmt: skip
"""Sizes that learn something in the seconds of the short form."""
_LOAD = "paragone.lab.tasks._agents_lessons:"


def workloads(request: Request) -> list[Workload]:
    """Tasks of one step and of several, or the user's; and what is possible on them."""
    if request.target is not None:
        raise UsageError("--target: what is wanted is in the demonstrations; leave it out")
    if request.data is not None:
        return _given(request)
    if request.quick:
        return _both(request, "quick", "Three tasks of MiniWoB++", QUICK_TASKS.split(","))
    return [
        *_both(request, "clicks", "MiniWoB++, one step", CLICKS.split(",")),
        *_both(request, "several", "MiniWoB++, several steps", SEVERAL.split(",")),
    ]


def _facts(request: Request) -> dict[str, Any]:
    quick = request.quick
    return {
        "seconds": QUICK_SECONDS if quick else SECONDS, "threads": 1,
        "episodes": QUICK_EPISODES if quick else EPISODES, "crew": "quick" if quick else "all",
        "max_seconds": 60.0,
    }  # fmt: skip


def _both(request: Request, id: str, title: str, names: Sequence[str]) -> list[Workload]:
    """Where agents learn and are led, and where only the oracle is."""
    numbers = {"seeds": QUICK_SEEDS if request.quick else SEEDS,
               "held": QUICK_HELD if request.quick else HELD}  # fmt: skip
    folder = Path(request.cache) / "agents" / f"{id}-{numbers['seeds']}-{numbers['held']}"
    digest = ""
    if request.cache:
        found = resolve(_LOAD + "collected")(folder, list(names), **numbers)
        title += f", {found['samples']:,} steps demonstrated"
    params = {"cache": str(folder), "names": list(names), **numbers}
    return _pair(request, id, title, "load", params, digest)


def _pair(
    request: Request, id: str, title: str, load: str, params: Mapping[str, Any], digest: str
) -> list[Workload]:
    facts = _facts(request)
    learn = Workload(
        id=id, title=f"{title}, {facts['seconds']:g} s of training", load=_LOAD + load,
        params=params, digest=digest, facts={**facts, "part": "learn"}, measures=_LEARN,
        primary="accuracy",
    )  # fmt: skip
    possible = Workload(
        id=f"{id}-possible", title=f"{title}: what is possible", load=_LOAD + load, params=params,
        digest=digest, facts={**facts, "part": "possible"}, measures=_POSSIBLE,
        primary="accuracy", counts=False,
    )  # fmt: skip
    return [learn, possible]


def _given(request: Request) -> list[Workload]:
    """Demonstrations of the user's, or HTML pages that are tasks."""
    data = str(request.data)
    names, taught = resolve(_LOAD + "find_tasks")(data)
    name = Path(data).expanduser().resolve().name
    if not taught:
        return _both(request, "data", f"{name}: pages", names)
    held = QUICK_HELD if request.quick else HELD
    params = {"cache": str(Path(request.cache) / "agents" / "data"), "names": names, "held": held,
              "data": str(Path(data).expanduser().resolve())}  # fmt: skip
    return _pair(request, "data", f"{name}: demonstrations", "stored", params, "")


def contestants(request: Request) -> list[Contestant]:
    """One agent, changed in one respect at a time, and the rows beside every score."""
    return agents.contestants(QUICK_SIZES if request.quick else {})


_DRAW = "paragone.lab.studies._agents_pictures:"

STUDY = Study(
    id="agents",
    family="multimodal",
    question="Which agent for my pages: which encoder, how much history, with reflection, which "
             "resolution?",
    task="paragone.lab.tasks.agents:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="random_click",
    inputs=("demonstrations", "pages"),
    claims=findings.CLAIMS,
    answer=findings.answer,
    findings=findings.findings,
    pictures=(
        Picture(id="strips", title="Agents at work: a success and a failure of each",
                draw=_DRAW + "strips"),
        Picture(id="offline", title="Single steps offline against episodes in a browser",
                draw=_DRAW + "offline"),
        Picture(id="losses", title="Training loss over CPU time", draw=_DRAW + "losses"),
    ),
    preload=("numpy", "torch", "PIL.Image", "paragone.lab.sequences",
             "paragone.lab.tasks.agents"),
    blocks=(1, 3),
    quick_blocks=(1, 1),
)  # fmt: skip
