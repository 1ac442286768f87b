r"""Recording: a person's session in a browser, or a script's, as demonstrations.

Listeners in a world of their own (which the page can neither see nor change) hear every click,
drag, key and turn of the wheel, with the name, the role and the box of the element that it meets.
Before each action stands a screenshot of the quiet page, so a recorded step is what a policy is
given: the instruction, the earlier actions, the last five screenshots, and what was done then. Keys
that follow each other become one `type`, two clicks a `left_double`, a press that moves a `drag`;
the thought names the element.

A script is a function of a Playwright page. `fill`, `check` and the like, which set an element's
state at once, are carried out as clicks and keys, because a screen shows nothing else; what no
hand can do (`select_option`) is refused.

The folder is that of generated demonstrations, and recordings may be added to it.

References:
    Qin et al. (2025), UI-TARS, arXiv:2501.12326, section 4.3 (recorded traces).
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from paragone.multimodal.agent._dom import DomExercise, wanted_of
from paragone.multimodal.agent._recording_events import Heard, Reader
from paragone.multimodal.agent._recording_page import watched
from paragone.multimodal.agent._recording_script import LISTENER
from paragone.multimodal.agent.actions import Action
from paragone.multimodal.agent.contract import Context, Element, Sample, Screen, Wanted
from paragone.multimodal.agent.demonstrations import Demonstrations, DemonstrationWriter

__all__ = ["Recorded", "record"]

_WORLD = "paragone"
_HEARD = "paragoneHeard"
_SAYS = {"click": "press", "type": "type", "drag": "drag", "scroll": "scroll", "hotkey": "key",
         "left_double": 'Double-click "{}".', "right_single": 'Right-click "{}".'}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A recording.

    Args:
        folder: Where its samples are.
        samples: The steps, the last one `finished`.
        number: Of this recording among those of its name in the folder, from 0.
    """

    folder: str
    samples: tuple[Sample, ...]
    number: int


@dataclasses.dataclass(frozen=True)
class _Before:
    screen: Screen
    elements: tuple[Element, ...]


class _Recorder:
    """Hears a page, and keeps what it looked like before each action."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser
        self._exercise = DomExercise(browser, "", oracle="return null;", reward="return null;")
        self.reader = Reader()
        self.now = self._look()
        self._heard = False
        session = browser.page.context.new_cdp_session(browser.page)
        session.on("Runtime.bindingCalled", self._hear)
        session.send("Page.enable")
        session.send("Runtime.enable")
        session.send("Runtime.addBinding", {"name": _HEARD, "executionContextName": _WORLD})
        session.send(
            "Page.addScriptToEvaluateOnNewDocument",
            {"source": LISTENER, "worldName": _WORLD, "runImmediately": True},
        )
        self._session = session

    def _look(self) -> _Before:
        screen = self._exercise.operator.screenshot()
        return _Before(screen, self._exercise.elements())

    def _hear(self, told: Any) -> None:
        if told["name"] == _HEARD:
            self.reader.take(json.loads(told["payload"]), self.now)
            self._heard = True

    def settle(self) -> None:
        """Looks at the page again where something was done since."""
        self._browser.settle()
        if self._heard:
            self._heard = False
            self.now = self._look()

    def between(self) -> None:
        """Before a script's next action."""
        self.settle()
        self.reader.closed()

    def wait(self) -> None:
        """Until the person closes the window."""
        from playwright.sync_api import Error, TimeoutError

        from paragone.multimodal.agent.contract import OperatorError

        page = self._browser.page
        while not page.is_closed():
            try:
                page.wait_for_event("close", timeout=150)
            except TimeoutError:
                try:
                    if self._heard:
                        self.settle()
                except OperatorError:
                    return
            except Error:
                return


def _wanted(heard: Heard, ratio: float, words: random.Random) -> Wanted:
    """The action of what was heard, with a thought, in pixels of the screenshot."""
    told = dict(heard.arguments)
    said = _SAYS[heard.name]
    if heard.name == "click" and not heard.label.get("name"):
        said = "Click here."
    box = heard.label.get("box") if "start_box" in told else None
    found: dict[str, Any] = {
        "kind": heard.name, "name": heard.label.get("name", ""),
        "say": said.format(heard.label.get("name", "")) if "{}" in said else said,
        "box": None if box is None else [x * ratio for x in box],
        "point": [x * ratio for x in told["start_box"]] if "start_box" in told else None,
        "end": [x * ratio for x in told["end_box"]] if "end_box" in told else None,
        **{name: told[name] for name in ("content", "key", "direction") if name in told},
    }  # fmt: skip
    wanted = wanted_of(found, words)
    assert wanted is not None
    return wanted


def _samples(
    recorder: _Recorder, instruction: str, task: str, number: int, ratio: float, screenshots: int
) -> list[Sample]:
    words = random.Random(number)
    samples: list[Sample] = []
    screens: list[Screen] = []
    history: list[Action] = []
    end = Wanted(Action("finished", {"content": ""}, thought="It is done."))
    steps = [(one.before, _wanted(one, ratio, words)) for one in recorder.reader.actions]
    for before, wanted in [*steps, (recorder.now, end)]:
        screens.append(before.screen)
        context = Context(instruction, tuple(screens[-screenshots:]), tuple(history))
        samples.append(
            Sample(context, wanted, before.elements, (), task, number, len(history))
        )  # fmt: skip
        history.append(wanted.action)
    return samples


def record(
    url: str,
    folder: str | Path,
    *,
    instruction: str,
    script: Callable[[Any], None] | None = None,
    name: str = "session",
    width: int = 1280,
    height: int = 720,
    device_pixel_ratio: float = 1.0,
    screenshots: int = 5,
    executable: str | None = None,
    headless: bool | None = None,
    allow: tuple[str, ...] = (),
) -> Recorded:
    """Records a session as demonstrations.

    Args:
        url: An address, a file or HTML text.
        folder: For `Demonstrations`; what it holds stays.
        instruction: What is done in the session, as an agent will be told.
        script: A function of a Playwright page; without it a window opens, and the recording ends
            when a person closes it.
        name: The samples' task is "recorded:" and this.
        width: Of the view, in CSS pixels.
        height: Of the view.
        device_pixel_ratio: Pixels of a screenshot to one CSS pixel.
        screenshots: The last ones that a sample holds.
        executable: Chromium's path.
        headless: Without a window; None: with a script.
        allow: Hosts that the page may reach besides this machine.

    Returns:
        The recording.

    Raises:
        ValueError: No instruction, or a script that does what no hand can do.
        OperatorError: There is no Chromium, no screen to open a window on, or no such page.

    Example:
        >>> def script(page):
        ...     page.get_by_role("button", name="Save").click()
    """
    from paragone.multimodal.agent.browser import Browser

    if not instruction.strip():
        raise ValueError("a recording needs an instruction: what is done in it, in words")
    hidden = script is not None if headless is None else headless
    with (
        Browser(
            width=width, height=height, device_pixel_ratio=device_pixel_ratio,
            executable=executable, headless=hidden, allow=allow,
        ) as browser,
        DemonstrationWriter(folder) as writer,
    ):  # fmt: skip
        browser.open(url)
        recorder = _Recorder(browser)
        if script is None:
            recorder.wait()
        else:
            script(watched(browser.page, browser.page, recorder.between))
            recorder.settle()
        task = f"recorded:{name}"
        held = Demonstrations(folder).exercises()
        number = 1 + max((seed for one, seed in held if one == task), default=-1)
        samples = _samples(
            recorder, instruction.strip(), task, number, device_pixel_ratio, screenshots
        )
        for sample in samples:
            writer.add(sample)
    return Recorded(str(folder), tuple(samples), number)
