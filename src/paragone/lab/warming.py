"""`warmup`: compiles every kernel once, so that no later process has to.

A family that has kernels names small calls for each of its methods in `_warmup.CALLS`. Making
these calls compiles what is not on the disk yet and loads the rest; so a second run tells what
is there, an interrupted one goes on where it was, and a new family is found without being named.

What has been gone through without an error is noted beside the compiled code, with the state of
the source: `cold` tells at once what is worth a warm-up, and `warm_apart` gives each family a
process of its own, as many at a time as there are cores.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import paragone
from paragone._core import catalog
from paragone._core.errors import UsageError

__all__ = ["Warmed", "Warming", "cold", "source_state", "warm", "warm_apart"]

_PACKAGE = Path(paragone.__file__).parent
_LOOK = 0.05
_FAILURES = (
    ArithmeticError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Warmed:
    """One method.

    Attributes:
        method: Its id.
        seconds: How long its calls took.
        compiled: Kernels that were compiled and kept.
        cached: Kernels that were on the disk.
        error: Why its calls ended early; "" if they did not.
    """

    method: str
    seconds: float
    compiled: int
    cached: int
    error: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Warming:
    """What `warmup` did; `str()` is the table.

    Attributes:
        rows: One entry a method, in the order of the catalogue.
        folder: Where compiled code is kept; None if nowhere.
    """

    rows: tuple[Warmed, ...]
    folder: str | None

    @property
    def exit_code(self) -> int:
        return 1 if self.folder is None or any(row.error for row in self.rows) else 0

    def json(self) -> str:
        return json.dumps({"folder": self.folder, "methods": [asdict(r) for r in self.rows]})

    def __str__(self) -> str:
        wide = max(len(row.method) for row in self.rows)
        lines = [f"{'method':<{wide}}  seconds  compiled  on disk"]
        for row in self.rows:
            numbers = f"{row.seconds:>7.1f}  {row.compiled:>8}  {row.cached:>7}"
            lines.append(f"{row.method:<{wide}}  {numbers}  {row.error}".rstrip())
        if self.folder is None:
            lines.append("no folder is writable: set NUMBA_CACHE_DIR, or kernels compile anew")
        else:
            lines.append(f"compiled code: {self.folder} and such folders below")
        return "\n".join(lines)


def _calls() -> dict[str, tuple[str, tuple[Callable[[], None], ...]]]:
    """Method id to its family and its calls, for every built family with kernels."""
    found = {}
    for family in catalog.FAMILIES:
        name = f"paragone.{family}._warmup"
        if importlib.util.find_spec(name) is not None:
            module = importlib.import_module(name)
            package = importlib.import_module(f"paragone.{family}")
            # Imports are no compilation: they come before the clock starts.
            for public in package.__all__:
                getattr(package, public)
            found |= {method: (family, calls) for method, calls in module.CALLS.items()}
    order = {method.id: method.number for method in catalog.methods()}
    return dict(sorted(found.items(), key=lambda item: order[item[0]]))


def _chosen(name: str | None, known: dict[str, Any]) -> list[str]:
    if name is None:
        return list(known)
    if name in catalog.FAMILIES:
        chosen = [method for method, (family, _) in known.items() if family == name]
    else:
        chosen = [method for method in known if method == catalog.find(name).id]
    if not chosen:
        raise UsageError(f"{name} has nothing to compile; `paragone warmup` does all that has")
    return chosen


def warm(name: str | None, progress: Callable[[Any], None] | None = None) -> Warming:
    """Calls what compiles the kernels of a family, a method, or all.

    Raises:
        UsageError: No such family or method, or one without kernels.
    """
    from paragone.kernels.backends import why_not
    from paragone.lab.protocol import Event

    reason = why_not("numba")
    folder = _folder()
    if reason is not None and folder is not None:
        raise UsageError(reason)
    known = _calls()
    chosen = _chosen(name, known)
    tell = progress or (lambda event: None)
    began = time.perf_counter()
    rows: list[Warmed] = []
    tell(Event(kind="study", planned=len(chosen)))
    for done, method in enumerate(chosen):
        place: dict[str, Any] = {"contestant": method, "workload": "its kernels"}
        tell(Event(kind="start", done=done, planned=len(chosen), **place))
        row = _one(method, known[method][1])
        rows.append(row)
        status = "failed" if row.error else "ok"
        tell(Event(
            kind="run", elapsed=row.seconds, status=status, message=row.error, done=done + 1,
            planned=len(chosen), **place,
        ))  # fmt: skip
    if not any(row.error for row in rows):
        _note(known, chosen)
    elapsed = time.perf_counter() - began
    tell(Event(
        kind="end", elapsed=elapsed, status="ready", done=len(rows), planned=len(chosen)
    ))  # fmt: skip
    return Warming(rows=tuple(rows), folder=None if folder is None else str(folder))


def _one(method: str, calls: tuple[Callable[[], None], ...]) -> Warmed:
    from paragone.kernels.jit import TALLY

    before, began, error = TALLY.copy(), time.perf_counter(), ""
    for call in calls:
        # The rest is worth compiling, whatever went wrong here.
        try:
            call()
        except _FAILURES as failure:
            error = f"{type(failure).__name__}: {failure}"
    return Warmed(
        method=method, seconds=round(time.perf_counter() - began, 2),
        compiled=TALLY["compiled"] - before["compiled"],
        cached=TALLY["loaded"] - before["loaded"], error=error,
    )  # fmt: skip


def _folder() -> Path | None:
    from paragone.kernels.backends import cache_folder

    return cache_folder(_PACKAGE / "__init__.py")


def source_state() -> str:
    """What changes with any source of this package."""
    newest = max(path.stat().st_mtime_ns for path in _PACKAGE.rglob("*.py"))
    return f"{paragone.__version__} {newest}"


def _state() -> str:
    return f"{source_state()} numba {importlib.metadata.version('numba')}"


def _note(known: dict[str, Any], chosen: Sequence[str]) -> None:
    """Notes which families have been gone through as a whole."""
    folder = _folder()
    for family in {known[method][0] for method in chosen}:
        whole = {method for method, (one, _) in known.items() if one == family}
        if folder is not None and whole <= set(chosen):
            (folder / f"warm-{family}").write_text(_state(), encoding="utf-8")


def cold(families: Collection[str]) -> list[str]:
    """Returns those that have kernels which no warm-up has gone through as they are now.

    Args:
        families: Such as "ensemble".
    """
    from paragone.kernels.backends import why_not

    folder = _folder()
    if folder is None or why_not("numba") is not None:
        return []
    state, found = _state(), []
    for family in catalog.FAMILIES:
        note = folder / f"warm-{family}"
        known = note.exists() and note.read_text(encoding="utf-8") == state
        kernels = importlib.util.find_spec(f"paragone.{family}._warmup") is not None
        if family in families and kernels and not known:
            found.append(family)
    return found


def warm_apart(families: Collection[str]) -> Iterator[str]:
    """Warms families in processes of their own, and yields each when it is through.

    One that fails is yielded, too: whatever needs it later will say why.
    """
    waiting = list(families)
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < _cores():
                family = waiting.pop(0)
                running[family] = subprocess.Popen(
                    [sys.executable, "-P", "-m", "paragone", "warmup", family, "--json"],
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
            through = [family for family, process in running.items() if process.poll() is not None]
            for family in through:
                del running[family]
                yield family
            time.sleep(_LOOK)
    finally:
        for process in running.values():
            process.terminate()
            process.wait()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
