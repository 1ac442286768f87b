"""A small world for tests of learning: four squares; those that are named are to be ticked.

A click ticks a square or takes its tick away; the exercise is done when just the named ones are
ticked. In "fake:click" one is named and the first click decides.
"""

import contextlib
import dataclasses
import os

import numpy as np

from paragone._core.errors import MissingPackageError
from paragone.multimodal.agent.actions import Action, ActionError
from paragone.multimodal.agent.contract import Element, OperatorError, Screen, Wanted

COLOURS = {
    "red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 70, 220), "yellow": (230, 210, 50),
}  # fmt: skip
SIDE, CELL = 32, 16


class Squares:
    """The operator of one exercise, and what its page holds."""

    actions = frozenset({"click", "wait"})

    def __init__(self, colours):
        self.colours, self.ticked, self.closed = colours, set(), False

    def screenshot(self):
        if self.closed:
            raise OperatorError("the page is closed")
        pixels = np.full((SIDE, SIDE, 3), 255, np.uint8)
        for at, name in enumerate(self.colours):
            top, left = CELL * (at // 2), CELL * (at % 2)
            pixels[top + 2 : top + 14, left + 2 : left + 14] = COLOURS[name]
            if name in self.ticked:
                pixels[top + 6 : top + 10, left + 6 : left + 10] = 0
        return Screen(pixels)

    def execute(self, action):
        if self.closed:
            raise OperatorError("the page is closed")
        if action.name not in self.actions:
            raise ActionError(f"{action.name!r} is not here")
        if action.name == "click":
            at = cell_of(action.point)
            box = box_of(at)
            x, y = action.point
            if box[0] <= x <= box[2] and box[1] <= y <= box[3]:
                self.ticked ^= {self.colours[at]}

    def close(self):
        self.closed = True


def cell_of(point):
    x, y = (min(max(int(value // CELL), 0), 1) for value in point)
    return 2 * y + x


def box_of(at):
    top, left = CELL * (at // 2), CELL * (at % 2)
    return (left + 2.0, top + 2.0, left + 13.0, top + 13.0)


class SquaresExercise:
    def __init__(self, names, colours, once):
        self.names, self.once = names, once
        self.instruction = f"tick {' and '.join(names)}"
        self.operator = Squares(colours)

    def reward(self):
        ticked = self.operator.ticked
        if self.once:
            return float(ticked == set(self.names)) if ticked else None
        return 1.0 if ticked == set(self.names) else None

    def wanted(self):
        if self.reward() is not None:
            return None
        extra = [n for n in self.operator.colours if n in self.operator.ticked - set(self.names)]
        missing = [name for name in self.names if name not in self.operator.ticked]
        name = (extra or missing)[0]
        box = box_of(self.operator.colours.index(name))
        point = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        return Wanted(Action("click", {"start_box": point}, thought=f"Tick {name}."), box)

    def elements(self):
        found = enumerate(self.operator.colours)
        return tuple(Element(name, "checkbox", box_of(at)) for at, name in found)

    def close(self):
        self.operator.close()


@dataclasses.dataclass
class SquaresTask:
    name: str = "fake:tick"
    max_steps: int = 6
    breaks: tuple[int, ...] = ()

    def start(self, browser, seed):
        if seed in self.breaks:
            raise OperatorError("the page does not start")
        draws = np.random.default_rng(seed)
        colours = [str(name) for name in draws.permutation(list(COLOURS))]
        once = self.name == "fake:click"
        names = [str(n) for n in draws.choice(list(COLOURS), 1 if once else 2, replace=False)]
        return SquaresExercise(names, colours, once)


class FakeBrowser:
    """What tasks are started in; counts how often it was restarted."""

    def __init__(self, **options):
        self.restarts = 0

    def restart(self):
        self.restarts += 1

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None


@contextlib.contextmanager
def opened(task, seed, browser=None):
    exercise = task.start(browser or FakeBrowser(), seed)
    try:
        yield exercise
    finally:
        exercise.close()


def dying(**options):
    """What opens a browser, and ends its process."""
    os._exit(3)


def missing(**options):
    """What opens a browser where none is installed."""
    raise MissingPackageError("no Chromium here: apt-get install chromium")
