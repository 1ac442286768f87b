"""`warmup`: compiles every kernel once, so that no later process has to.

A family that has kernels names small calls for each of its methods in `_warmup.CALLS`. Making
these calls compiles what is not on the disk yet and loads the rest; so a second run tells what
is there, an interrupted one goes on where it was, and a new family is found without being named.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paragone._core import catalog
from paragone._core.errors import UsageError

__all__ = ["Warmed", "Warming", "warm"]

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
    from paragone.kernels.backends import cache_folder, why_not
    from paragone.lab.protocol import Event

    reason = why_not("numba")
    folder = cache_folder(Path(catalog.__file__).parent.parent / "__init__.py")
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
