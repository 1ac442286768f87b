"""A page that is a picture, and policies that read their answers from a list."""

import numpy as np

from paragone.multimodal.agent.contract import OperatorError, Screen
from paragone.multimodal.agent.coordinates import Coordinates

ROWS, COLUMNS = 90, 120


class FakePage:
    """A button that turns green, a switch that goes to and fro, a field that shows its length."""

    actions = frozenset({"click", "type", "wait", "drag", "scroll", "hotkey"})
    button, switch = (10, 10, 50, 30), (70, 10, 110, 30)

    def __init__(self, fails=(), breaks=None):
        self.fails, self.breaks = list(fails), breaks
        self.pressed = self.on = False
        self.text, self.done, self.shots, self.closed = "", [], 0, 0

    def screenshot(self):
        self.shots += 1
        if self.fails and self.fails.pop(0):
            raise OperatorError(f"no picture {self.shots}")
        pixels = np.full((ROWS, COLUMNS, 3), 240, np.uint8)
        for (left, top, right, bottom), on in ((self.button, self.pressed), (self.switch, self.on)):
            pixels[top:bottom, left:right] = (20, 160, 60) if on else (150, 150, 160)
        pixels[50:60, 10 : 10 + len(self.text)] = 0
        return Screen(pixels)

    def execute(self, action):
        self.done.append(action)
        if action.name == self.breaks:
            raise OperatorError("the page is gone")
        if action.name == "type":
            self.text += action.arguments["content"]
        if action.name == "click":
            x, y = action.point
            for name in ("button", "switch"):
                left, top, right, bottom = getattr(self, name)
                if left <= x < right and top <= y < bottom:
                    if name == "button":
                        self.pressed = True
                    else:
                        self.on = not self.on

    def close(self):
        self.closed += 1


class Scripted:
    """Answers from a list, the last one again and again; keeps the contexts that it was given."""

    def __init__(self, *texts, screenshots=5, space="pixels", dialect="ui-tars-1.5"):
        self.texts, self.space = list(texts), space
        self.dialect, self.screenshots = dialect, screenshots
        self.contexts = []

    def coordinates(self, screen):
        resized = (10 * ROWS, 10 * COLUMNS) if self.space == "resized" else None
        return Coordinates.of(screen, self.space, resized)

    def propose(self, context):
        self.contexts.append(context)
        text = self.texts[min(len(self.contexts), len(self.texts)) - 1]
        if isinstance(text, BaseException):
            raise text
        return text


def click(x, y, thought="There it is."):
    return f"Thought: {thought}\nAction: click(start_box='({x},{y})')"


BUTTON, SWITCH, NOWHERE = click(30, 20), click(90, 20), click(60, 80)
FINISHED = "Thought: All is done.\nAction: finished(content='done')"
