"""Chromium: where it is, how it is started, and how it is ended whatever its pages do.

It is driven over Playwright's pipe, so it ends with the process that drives it. What it may reach
is settled when it starts: names are not resolved and addresses not called, apart from those of this
machine and those that are allowed. A page that hangs is ended by a guard, a thread that ends the
processes in which pages run (they are children of the one that draws) once an answer is overdue;
a pending request then fails instead of waiting for ever.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from paragone._core.errors import MissingPackageError

__all__ = ["Chromium", "Guard", "find_chromium", "why_no_browser"]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WINDOWLESS = ("chromium-headless-shell",)
"""Cannot open a window; it loads and steps a page for some 60 % of the CPU time of the others."""
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
REMEDY = (
    "install Debian's `chromium` (apt-get install chromium), or name another with the environment "
    "variable PARAGONE_CHROMIUM"
)


def find_chromium(executable: str | None = None, *, headless: bool = True) -> str:
    """Returns the path of a Chromium.

    Args:
        executable: A path or a name; None takes PARAGONE_CHROMIUM or the first that is installed.
        headless: Whether one that cannot open a window will do; it comes first then.

    Raises:
        OperatorError: There is none.
    """
    from paragone.multimodal.agent.contract import OperatorError

    named = executable or os.environ.get("PARAGONE_CHROMIUM")
    names = (named,) if named else (*WINDOWLESS, *NAMES) if headless else NAMES
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        what = f"{named} is no program" if named else f"none of {', '.join(names)} is installed"
        raise OperatorError(f"no Chromium: {what}; {REMEDY}")
    return found


def why_no_browser() -> str:
    """Returns why no browser can be driven here, and the remedy; "" where one can be."""
    if importlib.util.find_spec("playwright") is None:
        return "playwright is not installed: pip install 'paragone[agents]'"
    try:
        find_chromium()
    except RuntimeError as error:
        return str(error)
    return ""


def _playwright() -> Any:
    try:
        import playwright.sync_api as playwright
    except ImportError as error:
        raise MissingPackageError(
            "driving a browser needs playwright, which is not installed: "
            "pip install 'paragone[agents]'"
        ) from error
    return playwright


class _Driver(threading.local):
    """Playwright of this thread: it can be started once, however many browsers there are."""

    running: Any = None
    users = 0

    def take(self) -> Any:
        if self.running is None:
            from paragone.multimodal.agent.contract import OperatorError

            playwright = _playwright()
            try:
                self.running = playwright.sync_playwright().start()
            except playwright.Error as error:
                raise OperatorError(
                    "Playwright does not start in a thread whose asyncio loop runs, such as a "
                    f"notebook's: use another thread or a script ({error.message.splitlines()[0]})"
                ) from error
        self.users += 1
        return self.running

    def give(self) -> None:
        self.users -= 1
        if self.users == 0:
            running, self.running = self.running, None
            running.stop()


_DRIVER = _Driver()


def _descendants(root: int) -> dict[int, str]:
    """Command lines of all processes below one, by their ids."""
    parents, commands = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text(encoding="utf-8", errors="replace")
            command = (folder / "cmdline").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        parents[int(folder.name)] = int(status.rpartition(")")[2].split()[1])
        commands[int(folder.name)] = command
    below, found = {root}, {}
    while more := {one for one, parent in parents.items() if parent in below} - below:
        below |= more
        found |= {one: commands[one] for one in more}
    return found


def _end(process: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(process, signal.SIGKILL)


class Guard:
    """Ends a Chromium's pages, and then all of it, when an answer is overdue.

    Args:
        process: Chromium's first process.
    """

    GRACE = 1.5

    def __init__(self, process: int):
        self._process = process
        self._changed = threading.Condition()
        self._due: float | None = None
        self._wakes = float("inf")
        self._over = False
        self.fired = 0
        self._thread = threading.Thread(target=self._watch, daemon=True, name="paragone-guard")
        self._thread.start()

    def _watch(self) -> None:
        with self._changed:
            while not self._over:
                now = time.monotonic()
                if self._due is not None and now >= self._due:
                    self._strike()
                    self._due = now + self.GRACE
                self._wakes = float("inf") if self._due is None else self._due
                self._changed.wait(None if self._due is None else self._due - now)

    def _strike(self) -> None:
        below = _descendants(self._process)
        pages = [one for one, command in below.items() if "--type=renderer" in command]
        for process in pages if pages and not self.fired else [self._process, *below]:
            _end(process)
        self.fired += 1

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Whatever is awaited inside fails once it takes longer."""
        with self._changed:
            outer, self._due = self._due, time.monotonic() + seconds
            self.fired = 0
            if self._due < self._wakes:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._due = outer

    def close(self) -> None:
        """Ends the thread."""
        with self._changed:
            self._over = True
            self._changed.notify()
        self._thread.join()


class Chromium:
    """A running Chromium.

    Args:
        executable: A path or a name (see `find_chromium`).
        headless: Without a window.
        allow: Hosts that pages may reach, besides this machine.
    """

    def __init__(
        self, executable: str | None = None, headless: bool = True, allow: Sequence[str] = ()
    ):
        from paragone.multimodal.agent.contract import OperatorError

        playwright = _playwright()
        path = find_chromium(executable, headless=headless)
        driver = _DRIVER.take()
        hosts = ", ".join(f"EXCLUDE {host}" for host in (*LOOPBACK, *allow))
        try:
            self.browser = driver.chromium.launch(
                executable_path=path,
                headless=headless,
                chromium_sandbox=os.geteuid() != 0,
                args=[
                    f"--host-resolver-rules=MAP * ~NOTFOUND, {hosts}",
                    "--no-proxy-server",
                    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
                    "--disable-smooth-scrolling",
                ],
                ignore_default_args=["--hide-scrollbars", "--disable-popup-blocking"],
            )
        except playwright.Error as error:
            _DRIVER.give()
            first = error.message.splitlines()[0]
            raise OperatorError(f"{path} does not start: {first}") from error
        told = self.browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")
        listed = told["processInfo"]
        self.process = next(int(one["id"]) for one in listed if one["type"] == "browser")
        self.guard = Guard(self.process)
        self._error = playwright.Error
        self._open = True

    @property
    def runs(self) -> bool:
        """Whether it still answers."""
        return self._open and self.browser.is_connected()

    def close(self) -> None:
        """Ends it and all of its processes."""
        if not self._open:
            return
        self._open = False
        below = _descendants(self.process)
        try:
            with contextlib.suppress(self._error), self.guard.within(5.0):
                self.browser.close()
        finally:
            self.guard.close()
            left = _descendants(os.getpid())
            for process in below.keys() & left.keys() | {self.process} & left.keys():
                _end(process)
            _DRIVER.give()
