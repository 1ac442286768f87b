"""What a browser operator does with its page: where a point is, how long an action may take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paragone.multimodal.agent._gestures import GESTURES, LONGEST, TYPED, Reach, number
from paragone.multimodal.agent.actions import Action, ActionError
from paragone.multimodal.agent.contract import Box, Point, Screen

if TYPE_CHECKING:
    from paragone.multimodal.agent.browser import Browser

__all__ = ["Hands"]


class Hands:
    """What an operator does with a browser's page."""

    def __init__(self, browser: Browser, clip: Box | None):
        self._browser, self._tab = browser, browser._tab
        ratio = browser.device_pixel_ratio
        left, top, right, bottom = clip or (0.0, 0.0, browser.width, browser.height)
        if not (0 <= left < right <= browser.width and 0 <= top < bottom <= browser.height):
            raise ValueError(
                f"clip={clip} is not inside of the view of {browser.width} x {browser.height} CSS "
                "pixels: left, top, right, bottom"
            )
        self._ratio = ratio
        self._left, self._top = round(left * ratio), round(top * ratio)
        self._width = max(round(right * ratio) - self._left, 1)
        self._height = max(round(bottom * ratio) - self._top, 1)
        self._home = browser._source

    def look(self) -> Screen:
        pixels, scroll = self._tab.look()
        rows = slice(self._top, self._top + self._height)
        seen = pixels[rows, self._left : self._left + self._width].copy()
        return Screen(seen, self._ratio, scroll)

    def _css(self, x: float, y: float) -> Point:
        if not (0 <= x <= self._width and 0 <= y <= self._height):
            raise ActionError(
                f"({x:g}, {y:g}) is outside of the screenshot of {self._width} x {self._height} "
                "pixels"
            )
        x, y = min(x, self._width - 0.5), min(y, self._height - 0.5)
        return (x + self._left) / self._ratio, (y + self._top) / self._ratio

    def act(self, action: Action) -> None:
        tab = self._tab
        if action.name in ("finished", "call_user"):
            return
        if action.name == "press_home":
            with tab.asking("press_home"):
                pass
            self._browser._open(*self._home)
        elif action.name == "wait":
            seconds = min(number(action, "time", 2.0, 3600.0), LONGEST)
            tab.act("wait", lambda: tab.quiet.change(seconds), seconds)
        else:
            reach = Reach(self._css, (self._width, self._height), self._ratio)
            doing = GESTURES[action.name](tab.page, action, reach)
            typed = min(len(str(action.arguments.get("content", ""))), TYPED)
            tab.act(action.name, doing, 0.1 * typed)
