"""`agent record` and `agent generate`: what agents learn from, as the shell asks for it.

Importing this module loads the standard library alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paragone._core.errors import UsageError

__all__ = ["Generated", "Recording", "generate", "record", "sized"]


@dataclass(frozen=True)
class Generated:
    """A folder of demonstrations; `str()` is what the shell prints."""

    folder: str
    samples: int
    fresh: int
    episodes: int
    succeeded: int
    slipped: int
    seconds: float
    tasks: dict[str, int]
    failures: tuple[str, ...] = field(default=())

    def json(self) -> str:
        return json.dumps({
            "folder": self.folder, "samples": self.samples, "fresh": self.fresh,
            "episodes": self.episodes, "succeeded": self.succeeded, "slipped": self.slipped,
            "seconds": round(self.seconds, 1), "tasks": self.tasks, "failures": self.failures,
        })  # fmt: skip

    def __str__(self) -> str:
        from paragone.lab import format as fmt

        head = f"{self.folder}: {self.samples} samples of {len(self.tasks)} tasks"
        if not self.fresh:
            return f"{head}, as many as were asked for; nothing was to be done\n{self._next()}"
        led = self.episodes - self.slipped
        share = fmt.percent(self.succeeded / led) if led else "none"
        lines = [
            f"{head}, {self.fresh} of them new in {fmt.seconds(self.seconds)} "
            f"({self.fresh / max(self.seconds, 1e-9):.1f} a second)",
            f"the teacher did {self.succeeded} of {led} exercises ({share})"
            + (f"; {self.slipped} more ended by a wrong action" if self.slipped else ""),
            *(f"failed: {one}" for one in self.failures[:5]),
        ]
        if len(self.failures) > 5:
            lines.append(f"and {len(self.failures) - 5} more; see {self.folder}/episodes.jsonl")
        return "\n".join([*lines, self._next()])

    def _next(self) -> str:
        return f"next: paragone agent train --demonstrations {self.folder}"


@dataclass(frozen=True)
class Recording:
    """A recorded session; `str()` is what the shell prints."""

    folder: str
    instruction: str
    steps: tuple[str, ...]
    samples: int

    def json(self) -> str:
        return json.dumps({
            "folder": self.folder, "instruction": self.instruction, "steps": self.steps,
            "samples": self.samples,
        })  # fmt: skip

    def __str__(self) -> str:
        steps = [f"{at:3d}  {step}" for at, step in enumerate(self.steps, 1)]
        return "\n".join([
            f"{self.folder}: {len(self.steps)} steps of {self.instruction!r}; "
            f"the folder holds {self.samples} samples",
            *steps,
            f"next: paragone agent train --demonstrations {self.folder}",
        ])  # fmt: skip


def sized(text: str, name: str = "--size") -> tuple[int, int]:
    """Width and height of a text such as 320x240.

    Raises:
        UsageError: Another text, or a side of less than 16 or more than 8192 pixels.

    Example:
        >>> sized("320x240")
        (320, 240)
    """
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text.strip().lower())
    sides = (int(found[1]), int(found[2])) if found else (0, 0)
    if not all(16 <= side <= 8192 for side in sides):
        raise UsageError(f"{name}: {text!r} is no size in pixels such as 320x240")
    return sides


def generate(
    *,
    tasks: str = "pages:all",
    count: int = 2000,
    out: str = "runs/demonstrations",
    workers: int = 2,
    noise: float = 0.1,
    seed: int = 0,
    size: str | None = None,
    progress: Callable[[Any], None] | None = None,
) -> Generated:
    """Generates exercises and demonstrations of them. The same call continues, also after Ctrl-C.

    Each exercise runs in a real browser, led by what its page's own DOM says is right.

    Args:
        tasks: Such as pages:all, pages:form,table, miniwob:12 or file:FOLDER with one's own pages.
        count: Samples that the folder is to hold.
        out: Folder of the demonstrations.
        workers: Browsers that run side by side.
        noise: Share of the steps before which a wrong action is taken, so that what is right after
            mistakes is seen, too.
        seed: Of the first exercise; seeds from 1,000,000 on are for tests.
        size: Of generated pages, such as 320x240; 160x160 without it.
        progress: Called after each exercise.
    """
    from paragone._core.errors import MissingPackageError
    from paragone.multimodal.agent.contract import OperatorError

    if size is not None:
        wide, high = sized(size)
        tasks = _with_size(tasks, f"@{wide}x{high}")
    try:
        from paragone.multimodal.agent.collecting import collect
        from paragone.multimodal.agent.demonstrations import Demonstrations

        done = collect(
            tasks, count, folder=out, workers=workers, first_seed=seed, noise=noise,
            progress=progress,
        )  # fmt: skip
        held = Demonstrations(out).tasks()
    except (UsageError, MissingPackageError):
        raise
    except (ValueError, OSError, OperatorError) as error:
        raise UsageError(str(error)) from error
    return Generated(
        out, done.samples, done.fresh, done.episodes, done.succeeded, done.slipped, done.seconds,
        dict(held), done.failures,
    )  # fmt: skip


def _with_size(tasks: str, size: str) -> str:
    """The names of pages with a size."""
    named, prefix = [], ""
    for one in tasks.split(","):
        prefix = one.partition(":")[0].strip() if ":" in one else prefix
        named.append(one + size if prefix == "pages" and "@" not in one else one)
    return ",".join(named)


def record(
    url: str,
    *,
    instruction: str = "",
    out: str = "runs/recordings",
    script: str | None = None,
    name: str = "session",
    size: str = "1280x720",
    dpr: float = 1.0,
    allow: str = "",
) -> Recording:
    """Records a browser session as demonstrations: a person's, or a script's.

    A window opens, and the recording ends when it is closed; with a script there is no window.

    Args:
        url: Address or HTML file.
        instruction: What is done in the session, as an agent will be told.
        out: Folder of the demonstrations; what it holds stays.
        script: A function of a Playwright page in a Python file, such as session.py:save.
        name: Of the session's task.
        size: Of the browser's view.
        dpr: Pixels of a screenshot to one CSS pixel.
        allow: Hosts besides this machine that the page may reach, such as example.org,cdn.org.
    """
    from paragone._core.errors import MissingPackageError
    from paragone.multimodal.agent.contract import OperatorError

    wide, high = sized(size)
    function = None if script is None else _function(script)
    if not instruction.strip():
        raise UsageError("--instruction: say what is done in the session, as an agent will be told")
    try:
        from paragone.multimodal.agent.demonstrations import Demonstrations
        from paragone.multimodal.agent.recording import record as run

        done = run(
            url, out, instruction=instruction, script=function, name=name, width=wide, height=high,
            device_pixel_ratio=dpr, allow=tuple(h.strip() for h in allow.split(",") if h.strip()),
        )  # fmt: skip
        count = len(Demonstrations(out))
    except (UsageError, MissingPackageError):
        raise
    except (ValueError, OSError, OperatorError) as error:
        raise UsageError(str(error)) from error
    steps = tuple(_told(one.wanted.action) for one in done.samples)
    return Recording(out, instruction, steps, count)


def _told(action: Any) -> str:
    """An action in a few words."""
    what = [repr(action.arguments[k]) for k in ("content", "key", "direction")
            if action.arguments.get(k)]  # fmt: skip
    return " ".join([action.name, *what, f" {action.thought}"]).rstrip()


def _function(told: str) -> Callable[[Any], None]:
    """The function of a Python file."""
    import importlib.util

    path, _, name = told.rpartition(":")
    if not path or not Path(path).is_file():
        raise UsageError(f"--script: {told!r} is no function of a file, such as session.py:save")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"--script: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(f"--script: {path} has no function {name!r}")

    def script(page: Any) -> None:
        function(page)

    return script
