"""A desktop of X11: screenshots through XCB, hands through `xdotool`.

It drives the display that one works at, or a display of its own in memory (`Xvfb`), which no one
sees and whose programs cannot touch the rest of the desktop. A point is a pixel of the screenshot;
the pointer goes to

$$ (\\lfloor x \\rfloor, \\lfloor y \\rfloor) . $$

X11 does not tell when a program has finished drawing, so a desktop counts as quiet once two
screenshots, a twentieth of a second apart, are equal, or when `quiet` seconds are over. Text of any
language is typed; characters that the keyboard does not have are put on a spare key for as long
as it takes.

Cost: some 10 ms for a screenshot of 1280 x 720, 5 ms for an action, and 50 to 100 ms to be quiet.

References:
    Qin et al. (2025), UI-TARS, arXiv:2501.12326, table 1 (the desktop's actions).
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import select
import shutil
import subprocess
import threading
import time
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from paragone.multimodal.agent._gestures import LONGEST, PRESSED, Reach, number, scrolled_by, texts
from paragone.multimodal.agent._keys import typed_keysym, x11_keys
from paragone.multimodal.agent.actions import Action, ActionError
from paragone.multimodal.agent.contract import OperatorError, Point, Screen

__all__ = ["DesktopOperator", "why_no_desktop"]

STEPS = 8
NOTCH = 120
PAUSE = 0.05
TAKEN = 200
REMEDY = "install Debian's `xvfb` and `xdotool` (apt-get install xvfb xdotool)"


def why_no_desktop(own: bool = True) -> str:
    """Returns why no desktop can be driven here, and the remedy; "" where one can be.

    Args:
        own: Whether a display of its own is wanted (Xvfb), or the one of DISPLAY.
    """
    from PIL import features

    missing = [name for name in ("xdotool", *(["Xvfb"] if own else [])) if not shutil.which(name)]
    if missing:
        return f"{' and '.join(missing)} is not installed: {REMEDY}"
    if not features.check("xcb"):
        return "this Pillow was built without XCB: pip install --force-reinstall pillow"
    if not own and not os.environ.get("DISPLAY"):
        return "DISPLAY is not set: give display=, or start= for a display in memory"
    return ""


class DesktopOperator:
    """An agent's hands and eyes on a desktop of X11.

    Prefer `BrowserOperator` for web pages: it knows when a page is quiet, and an agent reaches the
    page alone, not the browser's own buttons.

    Args:
        display: Such as ":1"; None takes DISPLAY, or a display of its own with `start`.
        start: Size of a display of its own, "1280x720"; it ends with the operator.
        command: A program to run there; it ends with the operator.
        actions: Names of those actions that it may carry out (None: all).
        quiet: Seconds for which a screen that goes on changing is waited for.

    Attributes:
        actions: Names of the actions that it carries out. `scroll` turns the wheel by one notch
            for each 120 pixels of half the screen (or of `amount`), at a point or in the middle;
            `wait` ends when the screen has changed and is quiet again, or after `time` seconds (2,
            at most 60); `finished` and `call_user` do nothing.

    Raises:
        ValueError: A size that is none, or an action that does not exist.
        OperatorError: A program that is missing or does not start, or a display that is not there.

    Example:
        >>> with DesktopOperator(start="640x480", command=["xclock"]) as operator:  # doctest: +SKIP
        ...     operator.execute(Action("hotkey", {"key": "alt F4"}))
    """

    ACTIONS = frozenset(
        {
            "click", "left_double", "right_single", "long_press", "drag", "hotkey", "type",
            "scroll", "wait", "finished", "call_user",
        }
    )  # fmt: skip

    def __init__(
        self,
        display: str | None = None,
        *,
        start: str | None = None,
        command: Sequence[str] = (),
        actions: Collection[str] | None = None,
        quiet: float = 1.0,
    ):
        unknown = set(actions or ()) - self.ACTIONS
        if unknown:
            raise ValueError(f"a desktop has no {sorted(unknown)}; it has {sorted(self.ACTIONS)}")
        if start is not None and not re.fullmatch(r"[1-9]\d{1,4}x[1-9]\d{1,4}", start):
            raise ValueError(f"start={start!r} is no size such as '1280x720'")
        self.actions = self.ACTIONS if actions is None else frozenset(actions)
        self._quiet = quiet
        self._running: list[subprocess.Popen[Any]] = []
        self._program: subprocess.Popen[Any] | None = None
        self._closed = threading.Event()
        why = why_no_desktop(own=start is not None) if display is None or start else ""
        if why:
            raise OperatorError(f"no desktop: {why}")
        try:
            self._display = self._serve(start) if start else display or os.environ["DISPLAY"]
            self._size = self._first(10.0 if start else 0.0).shape[:2]
            if command:
                self._program = self._start([*command])
                self._change(10.0)
        except OperatorError:
            self.close()
            raise

    def _start(self, command: list[str], **options: Any) -> subprocess.Popen[Any]:
        # The kernel ends it with us, even where we are killed.
        leash = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        display = {"DISPLAY": self._display} if hasattr(self, "_display") else {}
        if shutil.which(command[0]) is None:
            raise OperatorError(f"{command[0]} is not installed")
        started = subprocess.Popen(
            [*leash, *command], env=os.environ | display, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options,
        )  # fmt: skip
        self._running.append(started)
        return started

    def _serve(self, size: str) -> str:
        """Starts Xvfb and returns the display that it found free."""
        ours, its = os.pipe()
        try:
            command = ["Xvfb", "-displayfd", str(its), "-screen", "0", f"{size}x24"]
            self._start([*command, "-nolisten", "tcp", "-noreset"], pass_fds=(its,))
            os.close(its)
            its = -1
            told = ""
            while not told.endswith("\n") and select.select([ours], [], [], 20.0)[0]:
                part = os.read(ours, 16).decode()
                told += part or "\n"
        finally:
            for one in (ours, its):
                if one >= 0:
                    os.close(one)
        if not told.strip():
            raise OperatorError("Xvfb does not start; try `Xvfb :99 -screen 0 1280x720x24`")
        return f":{told.strip()}"

    def _grab(self) -> np.ndarray:
        from PIL import ImageGrab

        if self._closed.is_set():
            raise OperatorError("the operator is closed")
        try:
            with ImageGrab.grab(xdisplay=self._display) as picture:
                return np.asarray(picture.convert("RGB"))
        except OSError as error:
            raise OperatorError(f"display {self._display} does not answer: {error}") from error

    def _first(self, seconds: float) -> np.ndarray:
        """The first screenshot; Xvfb tells its number a little before it answers."""
        end = time.monotonic() + seconds
        while True:
            try:
                return self._grab()
            except OperatorError:
                if time.monotonic() >= end:
                    raise
                self._closed.wait(0.01)

    def _do(self, *words: Any, typed: str | None = None, seconds: float = 0.0) -> None:
        command = ["xdotool", *map(str, words)]
        try:
            done = subprocess.run(
                command, env=os.environ | {"DISPLAY": self._display}, capture_output=True,
                input=typed, text=True, timeout=10.0 + seconds, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise OperatorError(f"xdotool {words[0]}: {error}") from error
        if done.returncode:
            raise OperatorError(f"xdotool {words[0]}: {done.stderr.strip()[:300]}")

    def _settle(self, limit: float) -> np.ndarray:
        end = time.monotonic() + limit
        before = self._grab()
        while True:
            self._closed.wait(PAUSE)
            now = self._grab()
            if np.array_equal(before, now) or time.monotonic() >= end:
                return now
            before = now

    def _change(self, seconds: float) -> None:
        """Waits until something changes, at most so many seconds."""
        end, first = time.monotonic() + seconds, self._grab()
        while time.monotonic() < end and np.array_equal(first, self._grab()) and not self._over():
            self._closed.wait(min(PAUSE, max(end - time.monotonic(), 0.0)))

    def _over(self) -> bool:
        return self._program is not None and self._program.poll() is not None

    def screenshot(self) -> Screen:
        """What is seen now, once the screen is quiet.

        Raises:
            OperatorError: A display or a program that is gone.
        """
        screen = self._settle(self._quiet)
        if self._program is not None and self._over():
            raise OperatorError(f"the program ended with code {self._program.returncode}")
        return Screen(screen)

    def execute(self, action: Action) -> None:
        """Carries an action out.

        Args:
            action: Points are in pixels of the screenshot.

        Raises:
            ActionError: An action that this operator does not have, or arguments that it cannot
                have, such as a point outside of the screenshot; nothing is done then.
            OperatorError: A display that is gone.
        """
        if action.name not in self.actions:
            raise ActionError(
                f"a desktop has no action {action.name[:80]!r} here; it has "
                f"{', '.join(sorted(self.actions))}"
            )
        if self._closed.is_set():
            raise OperatorError("the operator is closed")
        if action.name in ("finished", "call_user"):
            return
        if action.name == "wait":
            self._change(min(number(action, "time", 2.0, 3600.0), LONGEST))
        elif action.name == "hotkey":
            self._do("key", "--clearmodifiers", x11_keys(texts(action, "key")))
        elif action.name == "type":
            self._type(texts(action, "content").replace("\r\n", "\n"))
        else:
            self._point(action)

    def _type(self, text: str) -> None:
        keys = [typed_keysym(one) for one in text]
        for at in range(0, len(keys), TAKEN):
            part = keys[at : at + TAKEN]
            # A program must hear of a spare key's new letter before the key is pressed.
            delay = 12 if text[at : at + TAKEN].isascii() else 40
            self._do("key", "--delay", delay, *part, seconds=0.1 * len(part))

    def _point(self, action: Action) -> None:
        reach = Reach(self._pixel, (self._size[1], self._size[0]), 1.0)
        middle = self._pixel(self._size[1] / 2, self._size[0] / 2)
        free = action.name == "scroll" and "start_box" not in action.arguments
        x, y = middle if free else reach.at(action)
        move = ["mousemove", x, y]
        if action.name == "click":
            self._do(*move, "click", 1)
        elif action.name == "left_double":
            self._do(*move, "click", "--repeat", 2, "--delay", 40, 1)
        elif action.name == "right_single":
            self._do(*move, "click", 3)
        elif action.name == "long_press":
            held = min(number(action, "time", PRESSED, 3600.0), LONGEST)
            self._do(*move, "mousedown", 1, "sleep", held, "mouseup", 1, seconds=held)
        elif action.name == "scroll":
            right, down = scrolled_by(action, reach.seen)
            button = 4 + (down > 0) if down or not right else 6 + (right > 0)
            notches = min(math.ceil((abs(right) + abs(down)) / NOTCH), 1000)
            if notches:
                self._do(*move, "click", "--repeat", notches, "--delay", 5, button, seconds=9.0)
        else:
            end = reach.at(action, "end_box")
            parts = [k / STEPS for k in range(1, STEPS + 1)]
            places = [(round(x + (end[0] - x) * k), round(y + (end[1] - y) * k)) for k in parts]
            way = [word for at in places for word in ("sleep", 0.01, "mousemove", *at)]
            self._do(*move, "mousedown", 1, *way, "sleep", 0.01, "mouseup", 1)

    def _pixel(self, x: float, y: float) -> Point:
        height, width = self._size
        if not (0 <= x <= width and 0 <= y <= height):
            raise ActionError(f"({x:g}, {y:g}) is outside of the screen of {width} x {height}")
        return min(int(x), width - 1), min(int(y), height - 1)

    def close(self) -> None:
        """Ends what it started; more than once is as good as once."""
        self._closed.set()
        while self._running:
            started = self._running.pop()
            started.terminate()
            try:
                started.wait(3.0)
            except subprocess.TimeoutExpired:
                started.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    started.wait(3.0)

    def __enter__(self) -> DesktopOperator:
        return self

    def __exit__(self, *why: object) -> None:
        self.close()
