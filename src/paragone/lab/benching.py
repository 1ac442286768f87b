"""`bench`: how fast a method is, as a ratio to a peer, and only after its own tests passed.

A speed without correctness is worth nothing, so the method's tests run first (from a checkout,
with pytest); an installed package has no tests, so that there its doctests run instead, and the
result says so. The ratio comes from the same lab as every other figure: interleaved runs in
fresh processes, paired within blocks, with an interval, and with the quality beside it.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paragone._core import catalog
from paragone._core.errors import UsageError
from paragone.lab import guests, session, studies
from paragone.lab.result import Study
from paragone.lab.spec import Contestant, Request

__all__ = ["Bench", "bench"]

RATIOS = ("fit_s", "fit_cpu_s", "predict_s", "latency_s", "fit_peak")
TEST_SECONDS = 900


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What `paragone bench` found; `str()` is the text.

    Attributes:
        method: Contestant that was measured.
        peer: The one it was measured against.
        tests: What was run before, and that it passed.
        study: The study behind the figures.
    """

    method: str
    peer: str
    tests: str
    study: Study

    @property
    def exit_code(self) -> int:
        return self.study.exit_code

    def __str__(self) -> str:
        from paragone.lab import verdict

        summary = self.study.summary
        lines = [f"{self.method} against {self.peer}", self.tests]
        for workload in summary.workloads:
            lines += ["", workload.title]
            for name in (workload.primary, *RATIOS):
                found = [
                    d for d in summary.differences
                    if (d.workload, d.measure) == (workload.id, name)
                    and {d.a, d.b} == {self.method, self.peer}
                ]  # fmt: skip
                lines += [f"  {verdict.sentence(d, summary)}" for d in found]
        lines += ["", summary.noise.text, f"records: {self.study.folder}"]
        return "\n".join(lines)


def bench(
    method: str,
    against: str | None = None,
    *,
    repeats: str | int = "7-15",
    threads: int | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: Callable[[Any], None] | None = None,
) -> Bench:
    """Tests a method, then measures it against a peer.

    Raises:
        UsageError: No such method or peer, or the method's tests fail.
    """
    row = catalog.find(method)
    if row.study not in studies.ids():
        raise UsageError(
            f"{row.id} has no study to be measured in yet ({row.study!r} is not built)"
        )
    known = studies.load(row.study).contestants(Request())
    ours = guests.pick(known, [method])[0]
    peer = _peer(known, ours, against)
    tests = _tested(row, ours)
    prepared = session.prepare(session.Wanted(
        study=row.study, methods=(ours.id,), entries=(peer.id,), quick=True, repeats=repeats,
        threads=threads, out=out or Path("runs") / f"bench-{ours.id}",
    ))  # fmt: skip
    study = session.execute(prepared, progress)
    return Bench(method=ours.id, peer=peer.id, tests=tests, study=study)


def _peer(known: list[Contestant] | Any, ours: Contestant, against: str | None) -> Contestant:
    if against is not None:
        return guests.entered(against, known)
    rivals = [c for c in known if c.origin == "rival" and guests.installed(c)]
    same = [c for c in rivals if c.id in (f"sklearn_{ours.id}", ours.method)]
    named = [c for c in rivals if c.id == ours.method]
    found = named or same
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
        module = _module(row, ours)
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


def _module(row: catalog.Method, ours: Contestant) -> str:
    from paragone.lab.listing import module_of

    paths = [path for path in row.paths if path.startswith(ours.make.replace("{kind}", ""))]
    return module_of((paths or list(row.paths))[0])


def _test_files(row: catalog.Method, ours: Contestant) -> list[Path]:
    root = Path(__file__).resolve().parents[3]
    name = _module(row, ours).rpartition(".")[2]
    path = root / "tests" / row.family / f"test_{name}.py"
    return [path] if (root / "pyproject.toml").is_file() and path.is_file() else []
