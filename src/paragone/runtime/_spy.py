"""Stacks of another process's Python threads, as py-spy sees them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Spied", "dump", "program"]

_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Spied:
    """A Python thread of another process: `calls` are (function, file, line), innermost first."""

    ident: int
    name: str
    holds_gil: bool
    calls: tuple[tuple[str, str, int], ...]


def program() -> str | None:
    """Path of py-spy: beside this interpreter, or on the search path."""
    beside = Path(sys.executable).parent / "py-spy"
    return str(beside) if beside.is_file() else shutil.which("py-spy")


def dump(pid: int) -> tuple[dict[int, Spied], str]:
    """Returns native id to what was seen, and what could not be seen."""
    tool = program()
    if tool is None:
        return {}, "Python stacks of another process need py-spy: pip install py-spy"
    try:
        done = subprocess.run(
            [tool, "dump", "--json", "--pid", str(pid)],
            capture_output=True, text=True, timeout=_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {}, f"py-spy gave no answer within {_SECONDS:.0f} s"
    if done.returncode:
        return {}, f"no Python stacks: {_reason(done.stderr)}"
    return {row["os_thread_id"]: _spied(row) for row in json.loads(done.stdout)}, ""


def _spied(row: dict[str, Any]) -> Spied:
    calls = tuple((call["name"], call["filename"], call["line"]) for call in row["frames"])
    return Spied(row["thread_id"], row["thread_name"] or "", bool(row["owns_gil"]), calls)


def _reason(text: str) -> str:
    """py-spy's own words, without their heading."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line.removeprefix("Error:").strip() for line in lines if "Error:" in line] or lines
    reason = told[0] if told else "py-spy said nothing"
    if "find python version" in reason:
        return "py-spy finds no Python in this process"
    denied = "ermission denied" in text or "Operation not permitted" in text
    return f"{reason} (reading another process needs its owner's rights or root)" if denied \
        else f"py-spy: {reason}"  # fmt: skip
