"""Several tokens at once: do guesses make decoding quicker here, and whose?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paragone._core.errors import UsageError
from paragone.lab.contestants import decoding
from paragone.lab.spec import Contestant, Measure, Picture, Request, Study, Workload
from paragone.lab.studies import _decoding_findings as findings

__all__ = ["STUDY"]

MEASURES = (
    Measure(name="gain", title="x plain", better="higher", role="quality", margin=0.03,
            primary=True, note="Speed as a multiple of plain decoding in the same process, by "
            "turns; the CPU's clock with one thread."),
    Measure(name="same", title="same tokens", better="higher", role="count", margin=0.001,
            relative=False, primary=True, shown=True, note="Share of prompts that got exactly the "
            "tokens of plain decoding; checked in every run."),
    Measure(name="share", title="of plain's time", better="lower", role="time", margin=0.03,
            primary=True, note="Time of a token by that of plain decoding in the same process: of "
            "those that are tied, the one with the least is named."),
    Measure(name="token_s", title="a token", better="lower", role="time", margin=0.03, unit="s",
            shown=True, note="Wall time of a token, reading the prompt included."),
    Measure(name="token_cpu_s", title="a token, CPU", better="lower", role="time", margin=0.03,
            unit="s", note="CPU time of the same."),
    Measure(name="extra", title="extra RAM", better="lower", role="memory", margin=0.1, unit="B",
            primary=True, note="Peak memory beyond what was resident with the model alone; where "
            "heads were trained in this very run, training included."),
    Measure(name="per_second", title="tokens/s", better="higher", role="count", margin=0.03,
            shown=True, note="By the same clock."),
    Measure(name="steps", title="tokens a step", better="higher", role="count", margin=0.02,
            shown=True, note="New tokens by passes of the model, as much being drafted as the "
            "controller chose; 1 is plain decoding."),
    Measure(name="full_steps", title="with its plan", better="higher", role="count", margin=0.02,
            shown=True, note="Tokens a step where the plan is fixed: how good the guesses are."),
    Measure(name="full_gain", title="x plain, its plan", better="higher", role="count", margin=0.03,
            note="Speed with the fixed plan: what guesses are worth without a controller."),
    Measure(name="full_same", title="same, its plan", better="higher", role="count", margin=0.001,
            relative=False, note="Share of prompts with the tokens of plain decoding, plan fixed."),
    Measure(name="full_nodes", title="guesses a step", better="lower", role="count", margin=0.01,
            note="Most guesses of a step of the fixed plan."),
    Measure(name="accepted", title="first guess right", better="higher", role="count", margin=0.02,
            relative=False, note="Share of steps of the fixed plan in which one of the first "
            "guesses was agreed to."),
    Measure(name="train_cpu_s", title="training CPU", better="lower", role="count", margin=0.1,
            unit="s", shown=True, note="Of heads or a draft model, its samples included; once, "
            "then kept for the model's hash."),
    Measure(name="train_s", title="training", better="lower", role="count", margin=0.1, unit="s",
            note="Wall time of the same."),
)  # fmt: skip

_QUICK: dict[str, Any] = {"count": 6, "length": 96, "tokens": 250_000}
_FULL: dict[str, Any] = {"count": 16, "length": 160, "tokens": 600_000}
_WAYS = (
    ("greedy", "one text at a time, temperature 0", {"temperature": 0.0}),
    ("drawn", "one text at a time, temperature 0.8", {"temperature": 0.8}),
    ("together", "all prompts as a batch, temperature 0", {"together": True}),
)


def workloads(request: Request) -> list[Workload]:
    """Greedy, drawn and in a batch, by the user's model or a small one."""
    from paragone.lab.drafting_problem import chosen_model, name_of, read_prompts

    if request.target is not None:
        raise UsageError("--target: decoding has none; leave it out")
    params = dict(chosen_model(request.data))
    name = Path(params["model"]).stem if params else "model of Python's sources"
    # A file that is written anew under its name makes other runs.
    stamp: list[Any] = [one for path in params.values() for one in _stamp(Path(path))]
    if prompts := request.options.get("prompts"):
        stamp.append(name_of(read_prompts(prompts)))
        params["prompts"] = str(Path(prompts).expanduser().resolve())
    ways = _WAYS[:1] if request.quick else _WAYS
    return [_workload(request, way, name, params, name_of(stamp)) for way in ways]


def _stamp(path: Path) -> list[int]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [number for file in files for number in (file.stat().st_size, file.stat().st_mtime_ns)]


def _workload(
    request: Request, way: tuple[str, str, dict[str, Any]], name: str, params: dict[str, str],
    stamp: str,
) -> Workload:  # fmt: skip
    id, title, options = way
    quick = request.quick
    facts: dict[str, Any] = {
        "way": id, "crew": "quick" if quick else "all", "budget": 12.0 if quick else 120.0,
        "least": 0.3 if quick else 0.8, "model": name, "stamp": stamp,
    }  # fmt: skip
    if request.data is None:
        # The small model: a second thread would wait longer than it works.
        facts["threads"] = 1
    return Workload(
        id=id, title=f"{name}: {title}", load="paragone.lab.drafting_problem:load",
        params={"cache": str(Path(request.cache) / "decoding"), **(_QUICK if quick else _FULL),
                **options, **params},
        # One question, three ways: a mean over them would be no one's.
        facts=facts, counts=id == "greedy", primary="gain",
    )  # fmt: skip


def contestants(request: Request) -> list[Contestant]:
    """Plain decoding, prompt look-up, a draft model, heads, and rivals with theirs."""
    return decoding.contestants()


_DRAW = "paragone.lab.studies._decoding_pictures:"

STUDY = Study(
    id="decoding",
    family="language",
    question="Which drafter makes this model decode faster on this machine, if any?",
    task="paragone.lab.tasks.decoding:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="plain",
    speed={"medusa": "drafting_speed", "multi_token_prediction": "drafting_speed"},
    inputs=("model", "prompts"),
    claims=findings.CLAIMS,
    answer=findings.answer,
    findings=findings.findings,
    pictures=(
        Picture(id="passes", title="What a pass costs, and what guesses give for it",
                draw=_DRAW + "passes"),
        Picture(id="depth", title="Guesses agreed to, by depth", draw=_DRAW + "depth"),
    ),
    preload=("numpy", "numba", "torch", "torch._dynamo", "paragone.lab.drafting_problem",
             "paragone.lab.tasks.decoding"),
    blocks=(3, 5),
    quick_blocks=(3, 3),
)  # fmt: skip
