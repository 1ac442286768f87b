"""A world without a browser for tests of scores: coloured buttons on a drawn page."""

import contextlib
import os
import time

import numpy as np

from paragone.multimodal.agent.actions import Action
from paragone.multimodal.agent.contract import Element, OperatorError, Screen, Wanted

COLOURS = {"red": (200, 0, 0), "green": (0, 160, 0), "blue": (0, 0, 220)}
ROWS, COLUMNS = 40, 90


class FakeBrowser:
    """Counts how often it was started."""

    def __init__(self, **options):
        self.starts = 0

    def __enter__(self):
        self.starts += 1
        return self

    def __exit__(self, *told):
        self.starts = -1

    def restart(self):
        self.starts += 1


class Page:
    """Buttons side by side; both the operator and the judge's side of an exercise."""

    actions = frozenset({"click", "type", "wait"})

    def __init__(self, seed, clicks, trouble=""):
        rng = np.random.default_rng(seed)
        self.order = [str(name) for name in rng.permutation(list(COLOURS))]
        self.todo = self.order[::-1][:clicks] if clicks > 1 else [str(rng.choice(self.order))]
        self.instruction = "Click " + ", then ".join(self.todo) + "."
        self.failed, self.trouble, self.closed = False, trouble, False
        self.shut = False

    @property
    def operator(self):
        return self

    def box(self, name):
        left = 5.0 + 30 * self.order.index(name)
        return (left, 10.0, left + 20, 30.0)

    def screenshot(self):
        if self.trouble == "blind":
            raise OperatorError("the page is gone")
        if self.trouble == "hangs":
            time.sleep(600)
        if self.trouble == "dies":
            os._exit(7)
        pixels = np.full((ROWS, COLUMNS, 3), 255, np.uint8)
        for name in self.order:
            left, top, right, bottom = map(int, self.box(name))
            pixels[top:bottom, left:right] = COLOURS[name]
        pixels[0, : len(self.todo)] = 0
        return Screen(pixels)

    def execute(self, action):
        if action.name == "click":
            x, y = action.point
            for name in self.order:
                left, top, right, bottom = self.box(name)
                if left <= x <= right and top <= y <= bottom:
                    self.failed |= not self.todo or self.todo.pop(0) != name

    def reward(self):
        if self.trouble == "judge":
            raise OperatorError("the judge sees nothing")
        return 0.0 if self.failed else None if self.todo else 1.0

    @contextlib.contextmanager
    def sealed(self):
        self.shut = True
        yield
        self.shut = False

    def wanted(self):
        if self.shut:
            raise OperatorError("it is the agent's turn")
        if self.failed or not self.todo:
            return None
        left, top, right, bottom = box = self.box(self.todo[0])
        action = Action("click", {"start_box": ((left + right) / 2, (top + bottom) / 2)},
                        thought=f"Click {self.todo[0]}.")  # fmt: skip
        return Wanted(action, box)

    def elements(self):
        title = Element("Buttons", "text", (0.0, 0.0, 90.0, 8.0))
        return (title, *(Element(name, "button", self.box(name)) for name in self.order))

    def close(self):
        self.closed = True


class Buttons:
    """A task of so many clicks; some seeds are in trouble.

    Args:
        name: Of the task.
        clicks: 1: one of three at random; 2: the last two from the right.
        troubles: Seed to "start", "blind", "judge", "hangs" or "dies".
    """

    max_steps = 6

    def __init__(self, name="fake:buttons", clicks=1, troubles=None):
        self.name, self.clicks, self.troubles = name, clicks, troubles or {}

    def start(self, browser, seed):
        trouble = self.troubles.get(seed, "")
        if trouble == "start":
            raise OperatorError("the page does not start")
        return Page(seed, self.clicks, trouble)


class Stubborn:
    """Says that it has finished at once; as an agent that a page has talked into it."""

    dialect, screenshots = "ui-tars-1.5", 1

    def __init__(self, exercise):
        self.exercise = exercise

    def coordinates(self, screen):
        from paragone.multimodal.agent.coordinates import Coordinates

        return Coordinates.of(screen, model="pixels")

    def propose(self, context):
        return "Thought: All is done.\nAction: finished(content='')"


class Mumbling(Stubborn):
    """Writes what is no action."""

    def propose(self, context):
        return "__import__('os').system('true')"


class Cheating(Stubborn):
    """Looks into the page, which an agent must not."""

    def propose(self, context):
        return f"Thought: {self.exercise.wanted()}\nAction: wait()"
