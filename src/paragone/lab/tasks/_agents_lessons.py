r"""What the study `agents` teaches from: one set of demonstrations, the same for all contestants.

A teacher that reads the page leads each exercise of the tasks, with some wrong steps among the
right ones, and every step becomes a sample. That is done once, before the runs: all contestants
read the same folder, whose digest every run computes again. Exercises of training have seeds from
0 on, those of the test from 1,000,000 on; of the latter a few are led by the teacher, too, so that
single steps can be judged offline beside the closed loop.

A seed is new, but few words are: an instruction such as "Click the button OK" comes again. So the
instructions of training are kept, and successes on other ones are counted apart.

Shapes: none.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paragone._core.errors import MissingPackageError, UsageError
from paragone._core.lazy import resolve

__all__ = ["FIRST_TEST_SEED", "Lessons", "collected", "find_tasks", "load", "opened", "stored"]

FIRST_TEST_SEED = 1_000_000
_AGENT = "paragone.multimodal.agent."
_NOISE = 0.1
"""Probability that the teacher takes a wrong step first."""


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """What a contestant learns from.

    Attributes:
        samples: Steps, with what is right at each; read when they are asked for.
        held: Steps of test exercises, to judge single steps.
        tasks: Tasks of the exercises.
        seeds: How many exercises of each task were demonstrated; later seeds are free to use.
        instructions: All that training was told.
        digest: Of the demonstrations' bytes.
        open_browser: Opens the judge's browser, a context.
    """

    samples: Sequence[Any]
    held: Sequence[Any]
    tasks: Sequence[Any]
    seeds: int
    instructions: frozenset[str]
    digest: str
    open_browser: Callable[[], Any]

    def identity(self) -> tuple[Any, ...]:
        """What says whether two sets of lessons are the same."""
        return self.digest, [task.name for task in self.tasks], self.seeds


def opened(names: Sequence[str]) -> list[Any]:
    """Tasks by their names.

    Args:
        names: For `open_tasks`.

    Raises:
        UsageError: One that there is not.
    """
    try:
        return list(resolve(_AGENT + "open_tasks:open_tasks")(list(names)))
    except ValueError as error:
        raise UsageError(str(error)) from error


@contextmanager
def _browser() -> Iterator[Any]:
    """A browser, or one line about what is missing.

    Raises:
        UsageError: No Playwright or no Chromium.
    """
    try:
        made = resolve(_AGENT + "browser:Browser")()
        page = made.__enter__()
    except (MissingPackageError, resolve(_AGENT + "contract:OperatorError")) as error:
        words = " ".join(str(error).split())
        raise UsageError(f"the study agents needs a browser: {words}") from error
    try:
        yield page
    finally:
        made.__exit__(None, None, None)


def _taught(
    tasks: Sequence[Any], seeds: range, folder: Path, noise: float, screenshots: int
) -> int:
    """Writes the demonstrations of exercises; returns how many the teacher did not finish."""
    lead = resolve(_AGENT + "demonstrations:demonstrate")
    trouble = resolve(_AGENT + "contract:OperatorError")
    writer = resolve(_AGENT + "demonstrations:DemonstrationWriter")(folder)
    failed = 0
    with _browser() as browser:
        for seed in seeds:
            for task in tasks:
                try:
                    samples, reward = lead(task, browser, seed, screenshots=screenshots,
                                           noise=noise, random_state=seed)  # fmt: skip
                except trouble:
                    browser.restart()
                    samples, reward = [], 0.0
                failed += reward < 1
                # What led nowhere teaches nothing: only exercises that ended well are kept.
                for sample in samples if reward >= 1 else ():
                    writer.add(sample)
    writer.close()
    return failed


def _digest(folder: Path) -> str:
    total = hashlib.blake2b(digest_size=16)
    with (folder / "samples.jsonl").open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def collected(
    folder: Path, names: Sequence[str], seeds: int, held: int, screenshots: int = 5
) -> dict[str, Any]:
    """Demonstrations of exercises, made once.

    Args:
        folder: Where they are kept; found there again by the next call.
        names: Of the tasks.
        seeds: Exercises of each task to learn from.
        held: Exercises of each task to judge single steps by.
        screenshots: The last ones that a sample holds.

    Returns:
        Digest, samples, and how many exercises the teacher did not finish.

    Raises:
        UsageError: No browser, an unknown task, or a teacher that finishes nothing.
    """
    told = folder / "told.json"
    if told.is_file():
        return json.loads(told.read_text(encoding="utf-8"))
    tasks = opened(names)
    partial = folder.with_name(f"{folder.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    failed = _taught(tasks, range(seeds), partial / "train", _NOISE, screenshots)
    first = FIRST_TEST_SEED
    _taught(tasks, range(first, first + held), partial / "held", 0.0, screenshots)
    for part in ("train", "held"):
        path = partial / part / "samples.jsonl"
        if not path.is_file() or not path.stat().st_size:
            raise UsageError(
                f"{', '.join(names)}: the teacher finished none of {seeds} exercises of each; it "
                "needs tasks that say what is right (wanted)"
            )
    count = len(resolve(_AGENT + "demonstrations:Demonstrations")(partial / "train"))
    found = {
        "digest": _digest(partial / "train"), "samples": count, "failed": failed,
        "tasks": [task.name for task in tasks],
    }  # fmt: skip
    (partial / "told.json").write_text(json.dumps(found), encoding="utf-8")
    if told.is_file():
        # Another process was quicker.
        shutil.rmtree(partial)
        return json.loads(told.read_text(encoding="utf-8"))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return found


def _instructions(folder: Path) -> frozenset[str]:
    found = set()
    with (folder / "samples.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            found.add(" ".join(str(json.loads(line)["instruction"]).split()))
    return frozenset(found)


def load(cache: str, names: Sequence[str], seeds: int, held: int, screenshots: int = 5) -> Lessons:
    """Lessons that were collected before, or are now.

    Args:
        cache: Folder of what can be made again.
        names: Of the tasks.
        seeds: Exercises of each task to learn from.
        held: Exercises of each task to judge single steps by.
        screenshots: The last ones that a sample holds.
    """
    folder = Path(cache)
    folder.parent.mkdir(parents=True, exist_ok=True)
    collected(folder, names, seeds, held, screenshots)
    read = resolve(_AGENT + "demonstrations:Demonstrations")
    return Lessons(
        samples=read(folder / "train"), held=read(folder / "held"), tasks=opened(names),
        seeds=seeds, instructions=_instructions(folder / "train"),
        digest=_digest(folder / "train"), open_browser=_browser,
    )  # fmt: skip


def find_tasks(data: str) -> tuple[list[str], bool]:
    """The tasks that a user's folder holds, and whether it holds demonstrations of them.

    Args:
        data: A folder of demonstrations (`samples.jsonl`), or of HTML pages that are tasks.

    Raises:
        UsageError: Neither.
    """
    folder = Path(data).expanduser()
    if (folder / "samples.jsonl").is_file():
        names = list(resolve(_AGENT + "demonstrations:Demonstrations")(folder).tasks())
        if not names:
            raise UsageError(f"{data}: no samples in samples.jsonl")
        opened(names)
        return names, True
    if folder.is_dir() and any(folder.glob("*.htm*")):
        return [f"file:{folder.resolve()}"], False
    raise UsageError(
        f"{data}: expected a folder of demonstrations (samples.jsonl, as paragone agent record and "
        "generate write it) or of HTML pages that are tasks"
    )


def stored(cache: str, data: str, names: Sequence[str], held: int) -> Lessons:
    """Lessons from demonstrations of the user's.

    Args:
        cache: Folder of what can be made again.
        data: Folder of the demonstrations.
        names: Of their tasks.
        held: Exercises of each task to judge single steps by.
    """
    read, folder = resolve(_AGENT + "demonstrations:Demonstrations"), Path(data)
    beside = Path(cache)
    if not (beside / "held" / "samples.jsonl").is_file():
        first = FIRST_TEST_SEED
        _taught(opened(names), range(first, first + held), beside / "held", 0.0, 5)
    samples = read(folder)
    seeds = 1 + max((seed for _, seed in samples.exercises()), default=0)
    judged = read(beside / "held") if (beside / "held" / "samples.jsonl").stat().st_size else ()
    return Lessons(
        samples=samples, held=judged, tasks=opened(names), seeds=min(seeds, FIRST_TEST_SEED // 2),
        instructions=_instructions(folder), digest=_digest(folder), open_browser=_browser,
    )  # fmt: skip
