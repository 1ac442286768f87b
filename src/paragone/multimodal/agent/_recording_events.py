"""From what a page's listeners heard to actions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["Heard", "Reader"]

_FAR = 5.0
_KEYS = {" ": "space", "ArrowUp": "up", "ArrowDown": "down", "ArrowLeft": "left",
         "ArrowRight": "right", "Escape": "esc"}  # fmt: skip
_MODIFIERS = ("Control", "Shift", "Alt", "Meta", "AltGraph", "CapsLock", "Dead", "Process")


@dataclasses.dataclass
class Heard:
    """An action as it was heard.

    Args:
        name: Of the action.
        before: What was known of the page before it.
        label: Name, role and box of its element, in CSS pixels.
        arguments: Of the action; points in CSS pixels of the view.
    """

    name: str
    before: Any
    label: Mapping[str, Any]
    arguments: dict[str, Any]


class Reader:
    """Makes actions of events, one after the other.

    Attributes:
        actions: Those that were heard; the last one may still grow.
    """

    def __init__(self) -> None:
        self.actions: list[Heard] = []
        self._down: tuple[Mapping[str, Any], Any] | None = None
        self._open = False

    def closed(self) -> None:
        """What follows is an action of its own."""
        self._open = False

    def take(self, event: Mapping[str, Any], before: Any) -> None:
        """Reads an event; `before` is what was known of the page before it."""
        kind = event["type"]
        if kind == "keydown":
            self._key(event, before)
        elif kind in ("beforeinput", "compositionend"):
            if event["data"]:
                self._text(event["data"], event, before)
        elif kind == "wheel":
            self._wheel(event, before)
        elif kind == "pointerdown":
            self._down = (event, before)
        elif kind in ("pointerup", "dragend") and self._down is not None:
            self._up(event)
        elif kind == "dblclick":
            self._twice()

    def _add(self, name: str, before: Any, label: Mapping[str, Any], **arguments: Any) -> None:
        self.actions.append(Heard(name, before, label, arguments))
        self._open = True

    def _up(self, event: Mapping[str, Any]) -> None:
        assert self._down is not None
        down, before = self._down
        self._down = None
        start, end = (down["x"], down["y"]), (event["x"], event["y"])
        if down["button"] == 2:
            self._add("right_single", before, down, start_box=start)
        elif down["button"] == 0 and math.dist(start, end) > _FAR:
            self._add("drag", before, down, start_box=start, end_box=end)
        elif down["button"] == 0:
            self._add("click", before, down, start_box=start)

    def _twice(self) -> None:
        if len(self.actions) > 1 and [one.name for one in self.actions[-2:]] == ["click"] * 2:
            self.actions.pop()
            self.actions[-1].name = "left_double"

    def _wheel(self, event: Mapping[str, Any], before: Any) -> None:
        across = abs(event["dx"]) > abs(event["dy"])
        step = event["dx"] if across else event["dy"]
        direction = ("left", "right") if across else ("up", "down")
        towards = direction[step > 0]
        last = self.actions[-1] if self.actions and self._open else None
        if last is not None and last.name == "scroll" and last.arguments["direction"] == towards:
            last.arguments["amount"] += abs(step)
            return
        point = (event["x"], event["y"])
        self._add("scroll", before, event, start_box=point, direction=towards, amount=abs(step))

    def _text(self, text: str, event: Mapping[str, Any], before: Any) -> None:
        last = self.actions[-1] if self.actions else None
        same = last is not None and last.name == "type" and last.label["name"] == event["name"]
        told = last.arguments if last is not None and same else None
        if told is not None and not told["content"].endswith("\n"):
            told["content"] += text
        else:
            self._add("type", before, event, content=text)

    def _key(self, event: Mapping[str, Any], before: Any) -> None:
        key = event["key"]
        if key in _MODIFIERS:
            return
        last = self.actions[-1] if self.actions else None
        told = last.arguments if last is not None and last.name == "type" else None
        held = event["ctrl"] or event["alt"] or event["meta"]
        if len(key) == 1 and not held:
            # What is written in a field is heard as text, also where no key has it.
            if not event["written"]:
                self._text(key, event, before)
        elif key == "Enter" and told and not held and not event["shift"]:
            told["content"] += "\n"
        elif key == "Backspace" and told and not held and len(told["content"]) > 1:
            told["content"] = told["content"][:-1]
        else:
            names = [name for name in ("ctrl", "alt", "shift", "meta") if event[name]]
            self._add("hotkey", before, event, key=" ".join([*names, _KEYS.get(key, key.lower())]))
