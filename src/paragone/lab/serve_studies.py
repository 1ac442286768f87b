"""What the page can start: every study's question, its contestants, and the form that asks.

Questions are read from the studies' source, and contestants are listed by a process of their own:
the server itself imports no study, and with it no torch, as it must not disturb what is measured.
"""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paragone._core.errors import UsageError
from paragone.lab import studies, units

__all__ = ["Lister", "Sketch", "asked", "sketches"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_PREFER = ("quality", "speed", "memory")


@dataclass(frozen=True)
class Sketch:
    """A study, as far as its source tells without being run.

    Attributes:
        id: Its name.
        family: The package whose methods meet.
        question: As an engineer would ask it.
        inputs: What data it takes; ("none",) for none.
    """

    id: str
    family: str = ""
    question: str = ""
    inputs: tuple[str, ...] = ("none",)

    @property
    def takes_data(self) -> bool:
        """Whether it takes data of one's own."""
        return set(self.inputs) != {"none"}

    @property
    def speed(self) -> bool:
        """Whether it measures kernels, as `bench` does."""
        return self.id.endswith("_speed")


@functools.cache
def sketches() -> dict[str, Sketch]:
    """All studies by name."""
    return {name: _sketch(name) for name in studies.ids()}


def _sketch(name: str) -> Sketch:
    source = Path(studies.__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    found: dict[str, Any] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "STUDY":
            assert isinstance(node.value, ast.Call)
            for word in node.value.keywords:
                if word.arg in {"family", "question", "inputs"}:
                    found[word.arg] = ast.literal_eval(word.value)
    return Sketch(name, **found)


class Lister:
    """Lists contestants in the background: a study that needs torch takes seconds to read."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "paragone-lister")
        self._found: dict[str, Future[list[dict[str, Any]]]] = {}

    def contestants(self, study: str, wait: bool = False) -> list[dict[str, Any]] | None:
        """Returns id, title, origin and note of each, and why one is missing; None: not yet.

        Args:
            study: A study's name.
            wait: Return only when they are known.

        Raises:
            UsageError: The study cannot be read; the message says why.
        """
        found = self._found.get(study)
        if found is None:
            found = self._found[study] = self._pool.submit(_listed, study)
        return found.result() if wait or found.done() else None

    def close(self) -> None:
        """Reads no further study."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _listed(study: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-P", "-m", __name__, study], capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise UsageError(f"{study}: the study cannot be read ({last})")
    return json.loads(done.stdout)


def _describe(study: str) -> list[dict[str, Any]]:
    from paragone.lab import guests
    from paragone.lab.spec import Request

    question = studies.load(study)
    known = [*question.contestants(Request(quick=True)), *guests.announced(study)]
    return [
        {
            "id": c.id, "title": guests.titled(c).title, "origin": c.origin, "note": c.note,
            "missing": "" if guests.installed(c) else c.install or "not installed",
        }
        for c in known
    ]  # fmt: skip


def asked(
    sketch: Sketch, fields: Mapping[str, Sequence[str]], known: Sequence[str], room: Path
) -> tuple[tuple[str, ...], Path]:
    """What follows `compare`, and the study's folder, from a filled form.

    Args:
        sketch: The study.
        fields: The form's fields, each with all its values.
        known: Ids of the contestants that can be chosen.
        room: Folder of all studies, absolute.

    Raises:
        UsageError: A field cannot be used; one line says which and why.
    """
    given = {name: values[-1].strip() for name, values in fields.items() if values}
    words = [sketch.id]
    if given.get("quick"):
        words.append("--quick")
    data = given.get("data", "")
    if data:
        words += _data(sketch, data)
    for option, kind in (("target", "table"), ("prompts", "prompts")):
        if value := given.get(option):
            if kind not in sketch.inputs:
                raise UsageError(f"{sketch.id} takes no {option}")
            words.append(f"--{option}={value}")
    words += _methods([v.strip() for v in fields.get("methods", ()) if v.strip()], known)
    if prefer := given.get("prefer"):
        if prefer not in _PREFER:
            raise UsageError(f"prefer {prefer!r}: one of {', '.join(_PREFER)} is expected")
        words += [] if prefer == "quality" else [f"--prefer={prefer}"]
    if budget := given.get("budget"):
        units.seconds(budget, "time budget")
        words.append(f"--budget={budget}")
    for option, least in (("threads", 1), ("seed", 0)):
        if value := given.get(option):
            if not (value.isascii() and value.isdigit() and int(value) >= least):
                raise UsageError(f"{option} {value!r}: a whole number from {least} is expected")
            words.append(f"--{option}={value}")
    folder = room / (given.get("name") or _usual(sketch, data, bool(given.get("quick"))))
    if not _NAME.fullmatch(folder.name) or folder.parent != room or folder.is_symlink():
        raise UsageError(
            f"name {given.get('name', folder.name)!r}: letters, digits, '.', '-' and '_' make a "
            "name, at most 80 of them"
        )
    near = Path(os.path.relpath(folder))
    words.append(f"--out={folder if '..' in near.parts else near}")
    return tuple(words), folder


def _data(sketch: Sketch, data: str) -> list[str]:
    if not sketch.takes_data:
        raise UsageError(f"{sketch.id} takes no data of one's own")
    path = Path(data).expanduser()
    if path.exists():
        return [f"--data={path.absolute()}"]
    if "/" in data or path.suffix:
        raise UsageError(f"data {data!r}: there is no such file or folder on this machine")
    return [f"--data={data}"]  # such as the name of an environment


def _methods(chosen: Sequence[str], known: Sequence[str]) -> list[str]:
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise UsageError(f"no contestant {unknown[0]!r} is installed for this study")
    every = not chosen or set(chosen) == set(known)
    return [] if every else [f"--methods={','.join(chosen)}"]


def _usual(sketch: Sketch, data: str, quick: bool) -> str:
    """The name that `compare` gives the folder by itself, without what a name cannot hold."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(data).stem) if data else ""
    return "-".join(filter(None, (sketch.id, stem, "quick" if quick else "")))


if __name__ == "__main__":
    os.nice(19)  # what is being measured meanwhile goes first
    print(json.dumps(_describe(sys.argv[1])))
