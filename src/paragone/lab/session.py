"""From what a user asked for to a finished study: check everything, run, summarise, report.

`prepare` raises for everything that can be wrong with a request before the first run starts,
so that a typing error costs a second and not a study.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paragone._core.errors import MissingPackageError, UsageError
from paragone.lab import format as fmt
from paragone.lab import guests, studies, units
from paragone.lab.api import command
from paragone.lab.result import Plan, Study, shown
from paragone.lab.spec import Contestant, Request, Workload
from paragone.lab.spec import Study as Question

__all__ = [
    "Prepared", "Wanted", "draw_pictures", "execute", "plan", "prepare",
    "shortened",
]  # fmt: skip

PICTURE_SECONDS = 120


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The arguments of `paragone.compare`, as given."""

    study: str
    data: Any = None
    target: str | None = None
    methods: tuple[str, ...] = ()
    entries: tuple[str, ...] = ()
    objects: tuple[Any, ...] = ()
    budget: str | float | None = None
    repeats: str | int = "auto"
    prefer: str = "quality"
    max_latency: str | float | None = None
    max_memory: str | float | None = None
    quick: bool = False
    tune: int = 0
    task: str = "auto"
    device: str = "auto"
    threads: int | None = None
    seed: int = 0
    out: str | os.PathLike[str] | None = None
    fresh: bool = False
    engine: str = "local"
    prompts: str | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What only some studies understand, such as `rows` of a bench."""
    command: str = ""
    """The shell line that does this again, where it is not `compare`."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A checked request, ready to run."""

    question: Question
    request: Request
    contestants: tuple[Contestant, ...]
    missing: tuple[Contestant, ...]
    workloads: tuple[Workload, ...]
    folder: Path
    command: str
    budget: float | None
    repeats: int | tuple[int, int] | None
    engine: str
    run_limit: float | None = None
    grace: float = 0.0
    """Seconds by which the first block may pass the budget."""
    notes: tuple[str, ...] = ()
    """What who asks must know of how it was understood; told before the runs."""
    remarks: tuple[str, ...] = ()
    """What a reader must know of how it was asked for; stands under the verdict."""


def prepare(wanted: Wanted, *, dry: bool = False) -> Prepared:
    """Checks everything that a user can get wrong.

    Args:
        wanted: The arguments of `compare`.
        dry: Whether nothing will run; then the study's folder is not touched.

    Raises:
        UsageError: Something is wrong; one line says what, and what was expected.
    """
    question = studies.load(wanted.study)
    if wanted.data is not None and set(question.inputs) == {"none"}:
        raise UsageError(f"study {question.id!r} takes no --data")
    if wanted.prompts is not None and "prompts" not in question.inputs:
        raise UsageError(f"study {question.id!r} takes no --prompts")
    budget = units.seconds(wanted.budget, "--budget")
    repeats = units.repeats(wanted.repeats)
    for name, value, least in (
        ("--tune", wanted.tune, 0), ("--threads", wanted.threads, 1), ("--seed", wanted.seed, 0)
    ):  # fmt: skip
        if value is not None and value < least:
            raise UsageError(f"{name} {value}: at least {least} is expected")
    options = {
        "task": wanted.task, "prefer": wanted.prefer,
        "max_latency": units.seconds(wanted.max_latency, "--max-latency"),
        "max_memory": units.size(wanted.max_memory, "--max-memory"), **wanted.options,
    }  # fmt: skip
    if wanted.prompts is not None:
        options["prompts"] = wanted.prompts
    folder = Path(wanted.out or Path("runs") / _name(question, wanted)).expanduser().resolve()
    # Contestants first: a misspelt name should not wait for a large file.
    scratch = Path(tempfile.mkdtemp(prefix="paragone-")) if dry else folder
    running, missing, notes, named = _contestants(question, wanted, scratch)
    if wanted.fresh and not dry:
        _move_aside(folder)
    data, target = _stored(wanted, scratch)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    request = Request(
        data=data, target=target, quick=wanted.quick, seed=wanted.seed,
        threads=wanted.threads or cores or 1, device=_device(wanted.device), tune=wanted.tune,
        cache=str(scratch / "data"), options=options,
    )  # fmt: skip
    workloads = tuple(question.workloads(request))
    running, idle = _taking_part(running, workloads, named)
    notes += idle
    if dry:
        shutil.rmtree(scratch)
    ids = [c.id for c in running]
    if question.reference not in ids:
        question = dataclasses.replace(question, reference=_reference(running))
    return Prepared(
        question=question, request=request, contestants=tuple(running), missing=tuple(missing),
        workloads=workloads, folder=folder, command=wanted.command or _command(wanted),
        budget=budget, repeats=repeats, engine=wanted.engine, notes=tuple(notes),
    )  # fmt: skip


_CHOSEN = ("crew", "quick")
"""Needs that say who a short study has time for, not what a contestant can do."""


def _taking_part(
    running: Sequence[Contestant], workloads: Sequence[Workload], named: Container[str]
) -> tuple[list[Contestant], list[str]]:
    """Lets those whom the user named take part where they can, and tells who takes no part.

    Raises:
        UsageError: All were named, and none can run here.
    """
    from paragone.lab._ranking import applies

    found, short, unable = [], [], []
    for contestant in running:
        able = {k: v for k, v in contestant.needs.items() if k not in _CHOSEN}
        freed = dataclasses.replace(contestant, needs=able)
        if not any(applies(contestant, w) for w in workloads):
            if not any(applies(freed, w) for w in workloads):
                unable += [freed] if contestant.id in named else []
            elif contestant.id in named:
                contestant = freed
            else:
                short.append(contestant.id)
        found.append(contestant)
    notes = [
        f"{c.title} takes no part: it needs "
        + fmt.join([f"{k} {' or '.join(map(str, v))}" for k, v in c.needs.items()])
        for c in unable
    ]
    if unable and len(unable) == len(running):
        raise UsageError("; ".join(notes))
    if short:
        notes.append(f"not in so short a study unless named by --methods: {', '.join(short)}")
    return found, notes


def _reference(running: Sequence[Contestant]) -> str:
    """Whose duplicate measures the noise: the first that does real work."""
    return next((c.id for c in running if c.id != "baseline"), "")


def _name(question: Question, wanted: Wanted) -> str:
    parts = [question.id]
    if wanted.data is not None:
        given = isinstance(wanted.data, str | os.PathLike)
        parts.append(Path(wanted.data).stem if given else "data")
    parts += ["quick"] if wanted.quick else []
    parts += [f"tune{wanted.tune}"] if wanted.tune else []
    return "-".join(parts)


def _contestants(
    question: Question, wanted: Wanted, folder: Path
) -> tuple[list[Contestant], list[Contestant], list[str], set[str]]:
    asked = Request(quick=wanted.quick, options=wanted.options)
    known = [*question.contestants(asked), *guests.announced(question.id)]
    chosen = guests.pick(known, wanted.methods) if wanted.methods else list(known)
    further = [guests.entered(entry, known) for entry in wanted.entries]
    further += [guests.from_object(thing, folder / "contestants") for thing in wanted.objects]
    taken = {c.id: c for c in chosen}
    for contestant in further:
        if taken.get(contestant.id) == contestant:
            continue
        name, title, number = contestant.id, contestant.title, 2
        while name in taken:
            name, title = f"{contestant.id}_{number}", f"{contestant.title} ({number})"
            number += 1
        taken[name] = dataclasses.replace(contestant, id=name, title=title)
    running = [guests.titled(c) for c in taken.values() if guests.installed(c)]
    missing = [guests.titled(c) for c in taken.values() if not guests.installed(c)]
    if wanted.methods and missing:
        lines = "; ".join(f"{c.id} ({c.install})" for c in missing)
        raise MissingPackageError(f"not installed: {lines}")
    if not running:
        raise UsageError("no contestant is installed")
    notes = guests.shadowed(known, wanted.methods, wanted.entries)
    named = set(taken) - ({c.id for c in chosen} if not wanted.methods else set())
    return running, missing, notes, named


def _stored(wanted: Wanted, folder: Path) -> tuple[str | None, str | None]:
    """Data given in Python becomes a file, so that every run can read it."""
    if wanted.data is None or isinstance(wanted.data, str | os.PathLike):
        return (str(wanted.data) if wanted.data is not None else None), wanted.target
    from paragone.lab._read import read_object

    frame, target = read_object(wanted.data, wanted.target)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    path = folder / "data" / "given.parquet"
    frame.write_parquet(path)
    return str(path), target


def _device(device: str) -> str:
    if device != "auto":
        return device
    return "cuda" if Path("/proc/driver/nvidia/version").exists() and _has_cuda() else "cpu"


def _has_cuda() -> bool:
    return shutil.which("nvidia-smi") is not None and importlib.util.find_spec("triton") is not None


def _move_aside(folder: Path) -> None:
    if not (folder / "study.json").exists() and not (folder / "records.jsonl").exists():
        return
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old{number}")).exists():
        number += 1
    folder.rename(aside)


def _command(wanted: Wanted) -> str:
    data = wanted.data
    if data is not None and not isinstance(data, str | os.PathLike):
        data = "DATA"
    return command(
        "compare", wanted.study, data=data, target=wanted.target,
        methods=",".join(wanted.methods), with_=wanted.entries, budget=wanted.budget,
        repeats=None if wanted.repeats == "auto" else wanted.repeats,
        prefer=None if wanted.prefer == "quality" else wanted.prefer,
        max_latency=wanted.max_latency, max_memory=wanted.max_memory, quick=wanted.quick,
        tune=wanted.tune or None, task=None if wanted.task == "auto" else wanted.task,
        prompts=wanted.prompts,
        device=None if wanted.device == "auto" else wanted.device, threads=wanted.threads,
        seed=wanted.seed or None, out=wanted.out,
        engine=None if wanted.engine == "local" else wanted.engine,
    )  # fmt: skip


def shortened(
    prepared: Prepared, contestants: Sequence[str] = (), workloads: Sequence[str] = ()
) -> Prepared:
    """The same request with these contestants and workloads alone; () keeps all of them.

    Guests stay: who brings a contestant wants to see it.
    """

    def kept(one: Contestant) -> bool:
        return not contestants or one.id in contestants or one.origin == "guest"

    running = tuple(c for c in prepared.contestants if kept(c))
    places = tuple(w for w in prepared.workloads if not workloads or w.id in workloads)
    if not running or not places:
        raise UsageError(f"study {prepared.question.id!r}: nothing of its short form is here")
    question = prepared.question
    if question.reference not in [c.id for c in running]:
        question = dataclasses.replace(question, reference=_reference(running))
    return dataclasses.replace(
        prepared, question=question, contestants=running, workloads=places,
        missing=tuple(c for c in prepared.missing if kept(c)),
    )  # fmt: skip


def execute(
    prepared: Prepared, progress: Callable[[Any], None] | None = None, *, told: bool = True
) -> Study:
    """Runs the study (or what is left of it) and writes its reports.

    Args:
        prepared: The checked request.
        progress: Called with each event.
        told: Whether standard error first says how each input was read.
    """
    from paragone.lab import protocol
    from paragone.lab.diagnose import environment
    from paragone.lab.store import export_parquet
    from paragone.lab.summary import unsettled

    if progress is not None and told:
        print("\n".join(_understood(prepared)), file=sys.stderr, flush=True)
    protocol.execute(
        prepared.question, prepared.request, prepared.contestants, prepared.workloads,
        prepared.folder, budget=prepared.budget, grace=prepared.grace, repeats=prepared.repeats,
        engine=prepared.engine, on_event=progress, unsettled=unsettled,
        run_limit=prepared.run_limit, notes=prepared.remarks,
        missing=prepared.missing, command=prepared.command, environment=environment(),
    )  # fmt: skip
    draw_pictures(prepared.question, prepared.folder)
    study = Study(prepared.folder)
    from paragone.lab.report.html import write_html

    write_html(study.summary, prepared.folder)
    export_parquet(prepared.folder)
    return study


def draw_pictures(question: Question, folder: Path) -> None:
    """Draws the study's pictures in a process of their own; one that fails is left out.

    They are drawn again only when records have come since.
    """
    target, records = folder / "pictures", folder / "records.jsonl"
    paths = {picture.draw: target / f"{picture.id}.svg" for picture in question.pictures}
    stamp = target / "drawn"
    if not paths or (stamp.exists() and stamp.stat().st_mtime > records.stat().st_mtime):
        return
    target.mkdir(exist_ok=True)
    words = [word for draw, path in paths.items() for word in (draw, str(path))]
    with open(target / "log.txt", "w", encoding="utf-8") as log:
        try:
            subprocess.run(
                [sys.executable, "-m", "paragone.lab.drawing", str(folder), *words],
                stdout=log, stderr=log, timeout=PICTURE_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            log.write(f"stopped after {PICTURE_SECONDS} s\n")
    stamp.touch()


def plan(prepared: Prepared) -> Plan:
    """Says what a study would do."""
    from paragone.lab._ranking import applies

    present = [
        [c.id for c in prepared.contestants if applies(c, workload)]
        for workload in prepared.workloads
    ]
    question = prepared.question
    least, most = question.quick_blocks if prepared.request.quick else question.blocks
    if prepared.repeats is not None:
        given = prepared.repeats
        least, most = given if isinstance(given, tuple) else (given, given)
    lines = [question.question, f"folder: {shown(prepared.folder)}", "", "data sets"]
    lines += [f"  {line}" for line in _understood(prepared)]
    taking = [c for c in prepared.contestants if any(c.id in ids for ids in present)]
    lines += ["", f"contestants ({len(taking)})"]
    lines += [f"  {c.id:<22} {c.title:<28} {c.note}".rstrip() for c in taking]
    if prepared.missing:
        lines += ["", "not installed"]
        lines += [f"  {c.id:<22} {c.install}" for c in prepared.missing]
    each = [len(ids) + (question.reference in ids) for ids in present]
    runs = sum(each)
    shape = f"{min(each)} to {max(each)}" if min(each) < max(each) else str(each[0])
    tuning = f"{prepared.request.tune} trials each" if prepared.request.tune else "defaults"
    lines += [
        "",
        f"blocks: {least} to {most} for each data set, {shape} runs each "
        "(one of them a hidden duplicate)",
        f"runs: {runs * least} to {runs * most}, {prepared.request.threads} threads each, {tuning}",
        f"time: {_forecast(prepared, runs, least, most)}",
        f"command: {prepared.command}",
    ]
    return Plan(
        text="\n".join(lines), contestants=tuple(c.id for c in prepared.contestants),
        workloads=tuple(w.id for w in prepared.workloads),
        missing=tuple(c.id for c in prepared.missing),
    )  # fmt: skip


def _understood(prepared: Prepared) -> list[str]:
    """How each input was read: its size, its task, and what the reader must know."""
    lines = []
    for workload in prepared.workloads:
        facts = workload.facts
        words = [workload.title]
        if "rows" in facts and "columns" in facts:
            words.append(f"{facts['rows']:,} x {facts['columns']}")
        if facts.get("classes"):
            words.append(f"classification of {facts['target']!r} into {facts['classes']}")
        elif "target" in facts:
            words.append(f"regression of {facts['target']!r}")
        if facts.get("categorical"):
            words.append(f"{facts['categorical']} categorical columns")
        if facts.get("missing"):
            words.append(f"{100 * facts['missing']:.2g} % missing")
        lines.append(", ".join(words))
        lines += [f"  {note}" for note in facts.get("notes", ())]
    return [*lines, *prepared.notes]


def _forecast(prepared: Prepared, runs: int, least: int, most: int) -> str:
    from paragone.lab.store import read_records

    known = (prepared.folder / "study.json").exists()
    records = read_records(prepared.folder) if known else []
    walls = [sum(phase["wall"] for phase in record["phases"].values()) for record in records]
    if walls:
        mean = sum(walls) / len(walls) + 0.1
        low, high = (
            mean * max(runs * least - len(walls), 0),
            mean * max(runs * most - len(walls), 0),
        )
        found = f"{fmt.seconds(low)} to {fmt.seconds(high)} from here, by {len(walls)} past runs"
    else:
        found = "known after the first block"
    if prepared.budget:
        found += f"; at most {fmt.seconds(prepared.budget)}"
    return found
