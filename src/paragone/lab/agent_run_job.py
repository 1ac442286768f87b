"""`agent run`: a trained agent at work on a page or a desktop, as the shell calls it.

Importing this module loads the standard library alone; the function imports what it needs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import re
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paragone._core.errors import UsageError
from paragone._core.lazy import resolve

__all__ = ["Led", "run"]

_MOST_PIXELS = 8192


@dataclasses.dataclass(frozen=True)
class Led:
    """How an agent fared.

    Attributes:
        outcome: As in `Episode`.
        steps: How many.
        seconds: Of the whole.
        error: Why it failed ("" for no error).
        out: Folder with episode.json, replay.html and film.png.
    """

    outcome: str
    steps: int
    seconds: float
    error: str
    out: str

    @property
    def exit_code(self) -> int:
        return 0 if self.outcome == "finished" else 1

    def json(self) -> str:
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)

    def __str__(self) -> str:
        from paragone.multimodal.agent._marks import printable

        steps = f"{self.steps} step{'s' * (self.steps != 1)}"
        lines = [f"{self.outcome} after {steps}, {self.seconds:.1f} s"]
        if self.error:
            lines.append(printable(self.error))
        return "\n".join([*lines, f"replay: {Path(self.out) / 'replay.html'}"])


def run(
    agent: str,
    page: str,
    instruction: str,
    *,
    out: str | None = None,
    steps: int = 25,
    seconds: float | None = None,
    size: str = "1280x720",
    dpr: float = 1.0,
    device: str = "auto",
    threads: int | None = None,
    headed: bool = False,
    desktop: bool = False,
) -> Led:
    """Leads an agent through a page; it sees screenshots alone.

    Args:
        agent: A trained agent's folder, such as runs/agent, or that of a published UI-TARS.
        page: An address (a host other than this machine is allowed for this run), a file, or HTML.
        instruction: What is to be done, in words.
        out: Folder of episode.json, replay.html and film.png; runs/AGENT-run-N without it.
        steps: Most steps.
        seconds: Most seconds.
        size: Columns and rows of the view in CSS pixels, such as 1280x720.
        dpr: Pixels of a screenshot to one CSS pixel.
        device: Where the agent runs.
        threads: Threads of torch.
        headed: Show the browser's window.
        desktop: Open the page in a window on a desktop in memory (with --headed: on yours), and
            let the agent see and use all of that desktop, the browser's own buttons included.
    """
    view = _checked(page, instruction, steps, seconds, size, dpr, threads)
    where, host = _source(page)
    place = _place(out, agent)
    policy = _agent(agent, device, threads)
    from paragone.multimodal.agent.contract import OperatorError
    from paragone.multimodal.agent.loop import Episode
    from paragone.multimodal.agent.loop import run as lead

    opened = (_on_desktop if desktop else _in_browser)(where, host, view, dpr, headed)
    try:
        with opened as operator:
            numbers = itertools.count(1)
            episode = lead(
                policy, operator, instruction, max_steps=steps, max_seconds=seconds,
                on_step=lambda step: _tell(next(numbers), step), folder=place,
            )  # fmt: skip
    except KeyboardInterrupt:
        if (place / "episode.json").is_file():
            _shown(Episode.load(place), place)
            print(f"replay: {place / 'replay.html'}", flush=True)
        raise
    except (OperatorError, ValueError) as error:
        raise UsageError(str(error)) from error
    _shown(episode, place)
    return Led(episode.outcome, len(episode.steps), episode.seconds, episode.error, str(place))


def _checked(
    page: str, instruction: str, steps: int, seconds: float | None, size: str, dpr: float,
    threads: int | None,
) -> tuple[int, int]:  # fmt: skip
    """Columns and rows of the view."""
    if not page.strip():
        raise UsageError("the page is empty; name an address, a file or HTML")
    if not instruction.strip():
        raise UsageError("the instruction is empty; say what is to be done")
    if steps < 1:
        raise UsageError(f"--steps {steps}: at least 1")
    if seconds is not None and not seconds > 0:
        raise UsageError(f"--seconds {seconds:g}: more than 0")
    if not 0.25 <= dpr <= 8:
        raise UsageError(f"--dpr {dpr:g}: from 0.25 to 8")
    if threads is not None and threads < 1:
        raise UsageError(f"--threads {threads}: at least 1")
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size.strip().lower())
    if found is None:
        raise UsageError(f"--size {size!r} is not understood; write columns x rows like 1280x720")
    view = int(found[1]), int(found[2])
    if not all(1 <= one <= _MOST_PIXELS for one in view):
        raise UsageError(f"--size {size}: from 1 to {_MOST_PIXELS} pixels each way")
    return view


def _source(page: str) -> tuple[str, str]:
    """What the browser opens, and the host that it may reach for it ("" for none)."""
    if "<" in page:
        return page, ""
    file = Path(page)
    with contextlib.suppress(OSError):
        if file.is_file():
            return file.resolve().as_uri(), ""
        if file.is_dir():
            raise UsageError(f"{page}: a folder; name one of its HTML files")
    if re.match(r"[\w.-]+:\d+(/|$)|localhost(/|$)", page):
        page = f"http://{page}"
    parts = urllib.parse.urlsplit(page)
    if parts.scheme == "file":
        return page, ""
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{page}: no such file; an address begins with http:// or https://")
    return page, parts.hostname


def _place(out: str | None, agent: str) -> Path:
    """The run's folder; without a name, the first that is free."""
    if out is not None:
        place = Path(out)
        if place.exists() and not place.is_dir():
            raise UsageError(f"--out {out}: a file; name a folder")
        return place
    base = f"runs/{Path(agent).resolve().name}-run"
    names = (Path(f"{base}-{number}") for number in itertools.count(1))
    return next(one for one in names if not one.exists())


def _agent(agent: str, device: str, threads: int | None) -> Any:
    folder = Path(agent)
    if not folder.is_dir():
        raise UsageError(f"{agent}: no such folder; paragone agent train --out {agent} makes one")
    if not (folder / "config.json").is_file():
        raise UsageError(f"{agent}: no config.json in it, so no trained agent")
    import torch

    from paragone.lab.language_models import place_of

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {device}: torch finds no GPU here; auto takes what there is")
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        return resolve("paragone.multimodal.ui_tars:UITars").from_pretrained(
            agent, device=place_of(device)
        )
    except (ValueError, OSError, RuntimeError) as error:
        raise UsageError(f"{agent}: {error}") from error


@contextlib.contextmanager
def _in_browser(
    page: str, host: str, view: tuple[int, int], dpr: float, headed: bool
) -> Iterator[Any]:
    from paragone.multimodal.agent.browser import Browser

    allow = (host,) if host else ()
    with Browser(width=view[0], height=view[1], device_pixel_ratio=dpr, headless=not headed,
                 allow=allow) as browser:  # fmt: skip
        browser.open(page)
        yield browser.operator()


@contextlib.contextmanager
def _on_desktop(
    page: str, host: str, view: tuple[int, int], dpr: float, headed: bool
) -> Iterator[Any]:
    import tempfile

    from paragone.multimodal.agent._chromium import find_chromium
    from paragone.multimodal.agent.desktop import DesktopOperator

    reached = ", ".join(f"EXCLUDE {one}" for one in ("localhost", "127.0.0.1", host) if one)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if "<" in page:
            file = Path(folder) / "page.html"
            file.write_text(page, encoding="utf-8", errors="replace")
            page = file.as_uri()
        command = [
            find_chromium(headless=False), f"--user-data-dir={folder}/profile", "--no-first-run",
            "--no-default-browser-check", "--window-position=0,0",
            f"--window-size={view[0]},{view[1]}", f"--force-device-scale-factor={dpr:g}",
            f"--host-resolver-rules=MAP * ~NOTFOUND, {reached}", "--no-proxy-server",
            *(["--no-sandbox", "--test-type"] if os.geteuid() == 0 else []), page,
        ]  # fmt: skip
        start = None if headed else f"{view[0]}x{view[1]}"
        operator = DesktopOperator(start=start, command=command)
        try:
            yield operator
        finally:
            operator.close()


def _tell(number: int, step: Any) -> None:
    """One step, as it happens; nothing in it can steer a terminal."""
    from paragone.multimodal.agent._marks import in_words, printable

    said = "; ".join(in_words(action) for action in step.actions) or "no action"
    unchanged = ", nothing changed" if step.changed is False else ""
    print(f"{number:3}  {said}  ({1000 * step.seconds:.0f} ms{unchanged})", flush=True)
    thought = next((one.thought for one in step.actions if one.thought), "")
    for line in filter(None, (thought, step.error)):
        print(f"     {printable(' '.join(line.split()))}", flush=True)


def _shown(episode: Any, place: Path) -> None:
    from paragone.multimodal._pictures_out import save_png
    from paragone.multimodal.agent.replay import film_strip, write_replay

    write_replay(episode, place / "replay.html", title=f"Replay of {place.name}")
    save_png(film_strip(episode), place / "film.png")
