"""A Playwright page that says when it is about to be acted on, and acts as a person would.

`fill`, `check` and the like set the state of an element at once. Whoever watches a screen sees no
such thing, so they are carried out as clicks and keys here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["watched"]

_ACTING = frozenset({
    "click", "dblclick", "tap", "press", "drag_to", "drag_and_drop", "down", "wheel", "hover",
    "insert_text", "type", "move",
})  # fmt: skip
_REFUSED = frozenset({"select_option", "dispatch_event", "set_input_files", "focus", "blur"})
_KEYED = frozenset({"fill", "clear", "press_sequentially", "check", "uncheck", "set_checked"})


def watched(thing: Any, page: Any, before: Callable[[], None]) -> Any:
    """Wraps a page, a locator, a mouse or a keyboard of Playwright.

    Args:
        thing: What is wrapped.
        page: The page itself.
        before: Called before each action.
    """
    return _Watched(thing, page, before)


class _Watched:
    def __init__(self, thing: Any, page: Any, before: Callable[[], None]) -> None:
        self._thing, self._page, self._before = thing, page, before

    def __getattr__(self, name: str) -> Any:
        kind = type(self._thing).__name__
        if name in _REFUSED:
            raise ValueError(
                f"{name} sets what no screen shows being done; a recorded script clicks and types"
            )
        of_element = kind in ("Locator", "ElementHandle")
        if name == "wheel":
            return self._wheel
        if name in _KEYED or (name in ("type", "press") and kind != "Keyboard"):
            return self._keyed(name, of_element)
        value = getattr(self._thing, name)
        if name in _ACTING and callable(value):
            return self._acting(value, of_element)
        return self._wrap(value)

    def _wrap(self, value: Any) -> Any:
        if type(value).__module__.startswith("playwright."):
            return watched(value, self._page, self._before)
        if callable(value) and getattr(value, "__self__", None) is self._thing:
            return lambda *told, **more: self._wrap(value(*map(_bare, told), **more))
        return value

    def _acting(self, doing: Callable[..., Any], of_element: bool) -> Callable[..., Any]:
        def act(*told: Any, **more: Any) -> Any:
            if of_element:
                self._reach(self._thing)
            elif told and isinstance(told[0], str) and type(self._thing).__name__ == "Page":
                self._reach(self._page.locator(told[0]))
            self._before()
            return self._wrap(doing(*map(_bare, told), **more))

        return act

    def _keyed(self, name: str, of_element: bool) -> Callable[..., None]:
        """A method that sets an element's state, by clicks and keys."""

        def act(*told: Any) -> None:
            element = self._thing if of_element else self._page.locator(told[0])
            value = (told if of_element else told[1:] or ("",))[0] if told else ""
            keyboard = self._page.keyboard
            if name in ("check", "uncheck", "set_checked"):
                state = {"check": True, "uncheck": False}.get(name, bool(value))
                if element.is_checked() != state:
                    self._reach(element)
                    self._step(element.click)
                return
            if not element.evaluate("(e) => e === document.activeElement"):
                self._reach(element)
                self._step(element.click)
            if name == "press":
                self._step(lambda: keyboard.press(value))
                return
            if name in ("fill", "clear") and element.input_value():
                self._step(lambda: keyboard.press("Control+A"))
                if not value:
                    self._step(lambda: keyboard.press("Delete"))
            if value:
                self._step(lambda: keyboard.type(value))

        return act

    def _wheel(self, right: float, down: float) -> None:
        """Turns the wheel by half of the view at a time, which is what an action `scroll` does."""
        view = self._page.viewport_size
        for step, x, y in ((right, view["width"] / 2, 0), (down, 0, view["height"] / 2)):
            sign = 1 if step > 0 else -1
            for _ in range(max(round(abs(step) / (x + y)), 1) if step else 0):
                self._before()
                self._page.mouse.wheel(sign * x, sign * y)

    def _reach(self, element: Any) -> None:
        """Scrolls to an element that is out of view, as far as the wheel leads there."""
        view = self._page.viewport_size
        element.wait_for(state="visible")
        for _ in range(40):
            box = element.bounding_box()
            middle = box["y"] + box["height"] / 2
            if 0 <= middle < view["height"]:
                break
            was = box["y"]
            self._before()
            self._page.mouse.move(view["width"] / 2, view["height"] / 2)
            self._wheel(0, view["height"] / (2 if middle > 0 else -2))
            self._before()
            if element.bounding_box()["y"] == was:
                break

    def _step(self, doing: Callable[[], Any]) -> None:
        self._before()
        doing()


def _bare(value: Any) -> Any:
    return value._thing if isinstance(value, _Watched) else value
