"""`bench`: how fast a method is, as ratios to its peers, and only after its own tests passed.

A speed without correctness is worth nothing, so the method's tests run first (from a checkout,
with pytest); an installed package has no tests, so that there its doctests run instead, and the
result says so. The ratios come from the same lab as every other figure: interleaved runs in fresh
processes, paired within blocks, each with its interval, and quality on the same split beside them.
Trees are measured at equal parameters (`contestants.equal`), in a study of speed of their own.

A ratio tells how many times the peer takes what the method takes: above 1 the method is ahead.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paragone._core import catalog
from paragone._core.errors import MissingPackageError, UsageError
from paragone.lab import guests, session, starts, studies
from paragone.lab._ranking import applies
from paragone.lab.api import command
from paragone.lab.outcome import Difference, Summary
from paragone.lab.result import Study
from paragone.lab.spec import Block, Contestant, Job, Measure, Request, Workload

__all__ = ["Bench", "bench", "peers"]

COSTS = (
    "fit_s", "build_s", "predict_s", "query_s", "approx_s", "solve_s", "step_s", "number_s",
    "call_s", "latency_s", "fit_cpu_s", "build_cpu_s", "query_cpu_s", "solve_cpu_s", "number_cpu_s",
    "call_cpu_s", "fit_peak", "extra", "call_extra",
)  # fmt: skip
"""Times and memories that a table shows, in this order, where both sides have them."""

TEST_SECONDS = 900
_LIBRARIES = {
    "intelex": "sklearnex", "scikit_learn_intelex": "sklearnex", "scikit_learn": "sklearn",
    "xgboost_cpu": "xgboost",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What `paragone bench` found; `str()` is the text.

    Attributes:
        method: Contestant that was measured.
        peers: Those it was measured against.
        tests: What was run before, and that it passed.
        study: The study behind the figures.
        starts: How the method starts cold, cached and warm (empty: nothing is compiled).
    """

    method: str
    peers: tuple[str, ...]
    tests: str
    study: Study
    starts: Sequence[starts.Start] = field(default=())

    @property
    def exit_code(self) -> int:
        return self.study.exit_code

    def __str__(self) -> str:
        summary = self.study.summary
        lines = [f"{self.method} against {', '.join(self.peers)}", self.tests]
        ours = next((c for c in summary.contestants if c.id == self.method), None)
        for workload in summary.workloads:
            if ours is not None and not applies(ours, workload):
                continue
            lines += ["", *_table(summary, workload, self.method, self.peers)]
        if self.starts:
            lines += ["", f"{self.method}, from a cold start", *starts.table(list(self.starts))]
        lines += [
            "",
            "A ratio is the peer's time or memory over the method's, with its 95 % interval.",
        ]
        failed = [row for row in summary.rows if row.status not in ("ok", "missing")]
        lines += [f"{row.title}: {row.status}: {row.message}" for row in failed]
        lines += [note for note in summary.notes if note.startswith("The machine was busy")]
        return "\n".join([*lines, summary.noise.text, f"records: {self.study.folder}"])


def _table(summary: Summary, workload: Workload, method: str, names: Sequence[str]) -> list[str]:
    """One workload: the method's own numbers, then a row of ratios for each peer."""
    from paragone.lab import format as fmt
    from paragone.lab.report import view

    rows = {row.contestant: row for row in summary.tables.get(workload.id, ())}
    ours = rows.get(method)
    if ours is None or not ours.cells:
        return [workload.title, "  nothing finished"]
    known = {m.name: m for m in summary.measures}
    costs = [known[name] for name in COSTS if name in known and name in ours.cells]
    quality = _quality(summary, workload)
    shown = [*costs, *([quality] if quality else [])]
    blocks = (summary.protocol.get("blocks_done") or {}).get(workload.id, 0)
    threads = workload.facts.get("threads") or summary.protocol.get("threads")
    size = view.size_words(workload)
    table = [["", *(m.title for m in shown)]]
    table.append([ours.title, *(fmt.cell(ours.cells.get(m.name), m, 4) for m in shown)])
    for name in names:
        row = rows.get(name)
        cells = [] if row is None else [_ratio(summary, workload, name, method, m) for m in costs]
        if quality and row is not None:
            cells.append(fmt.cell(row.cells.get(quality.name), quality, 4))
        table.append([row.title if row else name, *cells])
    clock = summary.protocol.get("times_judged_by", "wall time")
    head = f"{workload.title} ({size}); {blocks} blocks, {threads} thread{'s' * (threads != 1)}"
    return [f"{head}, ratios by {clock}", *_aligned(table)]


def _quality(summary: Summary, workload: Workload) -> Measure | None:
    """What says that the work was equal: the measure that ranks quality, or its count."""
    known = {m.name: m for m in summary.measures}
    if workload.primary in known:
        return known[workload.primary]
    counts = [m for m in summary.measures if m.role in ("quality", "count")]
    return next((m for m in counts if m.primary), None)


def _ratio(summary: Summary, workload: Workload, peer: str, method: str, measure: Measure) -> str:
    from paragone.lab import verdict

    try:
        found = verdict.pairwise(summary, peer, method, measure.name, workload.id)
    except ValueError:
        return "--"
    return _shown(found)


def _shown(found: Difference) -> str:
    from paragone.lab import format as fmt

    if found.estimate is None:
        return "--"
    text = fmt.ratio(found.estimate)
    if found.low is None or found.high is None:
        return text
    return f"{text} [{fmt.ratio(found.low)[:-1]}, {fmt.ratio(found.high)[:-1]}]"


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    columns = max(len(row) for row in table)
    full = [[*row, *[""] * (columns - len(row))] for row in table]
    wide = [max(len(row[j]) for row in full) for j in range(columns)]
    lines = []
    for row in full:
        cells = [text.ljust(w) if j == 0 else text.rjust(w)
                 for j, (text, w) in enumerate(zip(row, wide, strict=True))]  # fmt: skip
        lines.append((" " + "  ".join(cells)).rstrip())
    return [lines[0], " " + "─" * (max(map(len, lines)) - 1), *lines[1:]]


def bench(
    method: str,
    against: Sequence[str] = (),
    *,
    rows: int | None = None,
    leaves: int | None = None,
    repeats: str | int = "7-15",
    threads: int | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: Callable[[Any], None] | None = None,
) -> Bench:
    """Tests a method, then measures it against its peers.

    Args:
        method: Catalogue id, alias, or contestant's id.
        against: Peers: ids, libraries, or FILE.py:Name; empty: the method's first rival.
        rows: Rows of the tables, or points.
        leaves: Leaves of each tree of a gradient boosting.
        repeats: Blocks.
        threads: Threads that all may use.
        out: Folder of the records.
        progress: Called with each event.

    Raises:
        UsageError: No such method or peer, or the method's tests fail.
    """
    row = catalog.find(method)
    if row.study not in studies.ids():
        raise UsageError(
            f"{row.id} has no study to be measured in yet ({row.study!r} is not built)"
        )
    question = studies.load(studies.load(row.study).speed.get(row.id, row.study))
    if leaves is not None and question.id != "boosting_speed":
        raise UsageError(f"--leaves {leaves}: only gradient boostings take it, not {row.id}")
    options = {"bench": True, "rows": rows, "leaves": leaves}
    known = list(question.contestants(Request(options=options)))
    ours = guests.pick(known, [method])[0]
    found = peers(known, ours, against)
    tests = _tested(row, ours)
    prepared = session.prepare(session.Wanted(
        study=question.id, methods=(ours.id,), quick=True, repeats=repeats, threads=threads,
        entries=tuple(c.note.removeprefix("from ") if c.origin == "guest" else c.id
                      for c in found if c.origin != "paragone"),
        objects=tuple(c for c in found if c.origin == "paragone"), options=options,
        out=out or Path("runs") / _name(ours, rows, leaves),
        command=command("bench", method, against=",".join(against), rows=rows, leaves=leaves,
                        repeats=repeats, threads=threads, out=out),
    ))  # fmt: skip
    study = session.execute(prepared, progress)
    return Bench(
        method=ours.id, peers=tuple(c.id for c in found), tests=tests, study=study,
        starts=starts.measure(_job(prepared, ours)) if _compiles(row) else (),
    )  # fmt: skip


def _name(ours: Contestant, rows: int | None, leaves: int | None) -> str:
    parts = [f"n{rows}"] * bool(rows) + [f"leaves{leaves}"] * bool(leaves)
    return "-".join(["bench", ours.id, *parts])


def _compiles(row: catalog.Method) -> bool:
    """Whether the method's own package uses Numba, by its sources."""
    package = Path(catalog.__file__).parent.parent / row.family
    return any("numba" in path.read_text(encoding="utf-8") for path in package.rglob("*.py"))


def _job(prepared: session.Prepared, ours: Contestant) -> Job:
    workload = next((w for w in prepared.workloads if applies(ours, w)), prepared.workloads[0])
    return Job(
        key="", task=prepared.question.task, contestant=ours, workload=workload,
        block=Block(workload=workload.id, index=0, split=0, seed=prepared.request.seed),
        threads=prepared.request.threads, options=dict(prepared.question.options),
    )  # fmt: skip


def peers(
    known: Sequence[Contestant], ours: Contestant, against: Sequence[str]
) -> list[Contestant]:
    """Returns the contestants that are meant by `--against`.

    A name is a contestant's id, or a library: then its contestant that does what ours does.

    Args:
        known: The study's contestants.
        ours: The one that is measured.
        against: Names; empty: the first installed rival of the same method.

    Raises:
        UsageError: A name says nothing here.
        MissingPackageError: The peer is known but not installed.
    """
    if not against:
        return [_usual(known, ours)]
    found = [_peer(known, ours, name) for name in against]
    return list({c.id: c for c in found}.values())


def _peer(known: Sequence[Contestant], ours: Contestant, name: str) -> Contestant:
    key = re.sub(r"\W", "_", name.strip().lower())
    same = [c for c in known if c.id == key and c.id != ours.id]
    if not same and ":" not in name:
        library = _LIBRARIES.get(key, key)
        offered = [c for c in known if c.origin == "rival" and library in _libraries(c)]
        same = [c for c in offered if _task(c) == ours.id] or _unpaired(offered, known)
    if same and not guests.installed(same[0]):
        raise MissingPackageError(f"{same[0].id} is not installed: {same[0].install}")
    return same[0] if same else guests.entered(name, known)


def _task(contestant: Contestant) -> str:
    """What a rival does, without its library: "gbdt" of "sklearn_gbdt"."""
    return contestant.id.partition("_")[2]


def _unpaired(offered: Sequence[Contestant], known: Sequence[Contestant]) -> list[Contestant]:
    """Leaves out a library's counterparts of our other methods."""
    ours = {c.id for c in known if c.origin == "paragone"}
    return [c for c in offered if _task(c) not in ours] or list(offered)


def _libraries(contestant: Contestant) -> set[str]:
    """Names by which people call the library behind a contestant."""
    distribution = re.sub(r"\W", "_", contestant.distribution.lower())
    top = contestant.make.partition(":")[0].split(".")[0]
    return {_LIBRARIES.get(distribution, distribution), distribution, top} - {"paragone", ""}


def _usual(known: Sequence[Contestant], ours: Contestant) -> Contestant:
    rivals = [c for c in known if c.origin == "rival" and guests.installed(c)]
    found = [c for c in rivals if c.id == ours.method]
    found += [c for c in rivals if _task(c) == ours.id]
    if not found:
        choices = ", ".join(c.id for c in rivals)
        raise UsageError(f"name the peer of {ours.id} with --against: {choices}")
    return found[0]


def _tested(row: catalog.Method, ours: Contestant) -> str:
    """Runs the method's own tests; returns what was run."""
    files = _test_files(row, ours)
    if files and importlib.util.find_spec("pytest") is not None:
        what = ", ".join(path.name for path in files)
        command = [sys.executable, "-m", "pytest", "-q", "-x", *map(str, files)]
        done = _run(command, files[0].parents[2])
        told = f"tests passed: {what} ({_last(done.stdout)})"
    else:
        module = _modules(row, ours)[0]
        what = f"doctests of {module}"
        code = (
            f"import doctest, {module} as m; r = doctest.testmod(m); "
            "print(f'{r.attempted} examples'); raise SystemExit(bool(r.failed))"
        )
        done = _run([sys.executable, "-c", code], Path.cwd())
        why = "pytest is not installed" if files else "an installed package has no tests"
        told = f"{why}; {what}: {_last(done.stdout)}"
    if done.returncode:
        raise UsageError(
            f"{ours.id} fails {what}, so its speed means nothing: {_last(done.stdout)}"
        )
    return told


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=TEST_SECONDS, check=False
    )


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["nothing printed"])[-1].strip("= ")


def _modules(row: catalog.Method, ours: Contestant) -> list[str]:
    """The module that the contestant is made of; where an adapter makes it, all of the row."""
    from paragone.lab.listing import module_of

    paths = [path for path in row.paths if path.startswith(ours.make.replace("{kind}", ""))]
    return list(dict.fromkeys(module_of(path) for path in paths[:1] or row.paths))


def _test_files(row: catalog.Method, ours: Contestant) -> list[Path]:
    root = Path(__file__).resolve().parents[3]
    names = [name.rpartition(".")[2] for name in _modules(row, ours)]
    paths = [root / "tests" / row.family / f"test_{name}.py" for name in names]
    return [path for path in paths if path.is_file()] if (root / "pyproject.toml").is_file() else []
