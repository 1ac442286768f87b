"""
Scoring an agent
================

How often does an agent succeed, how sure is that, and what would chance have done? A task of one's
own needs little: something to look at, something that acts, and a reward. Here the page is drawn,
so that no browser is needed; `paragone agent score` does the same with MiniWoB++, generated pages
and your own ones in Chromium.
"""

import numpy as np

from paragone.multimodal.agent import Action, Coordinates, Screen, Wanted, score
from paragone.multimodal.agent.contract import Element

COLOURS = {"red": (200, 0, 0), "green": (0, 160, 0), "blue": (0, 0, 220)}


# %%
# An exercise is both sides of a page: what an agent gets (`screenshot` and `execute`), and what the
# judge knows (the reward, what is right, what is there).
class Buttons:
    """Three buttons in an order that the seed decides; one colour is asked for."""

    actions = frozenset({"click"})

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.order = [str(name) for name in rng.permutation(list(COLOURS))]
        self.asked, self.clicked = str(rng.choice(self.order)), ""
        self.instruction = f"Click the {self.asked} button."
        self.operator = self

    def box(self, name):
        left = 10.0 + 40 * self.order.index(name)
        return (left, 15.0, left + 25, 35.0)

    def screenshot(self):
        pixels = np.full((50, 130, 3), 255, np.uint8)
        for name in self.order:
            left, top, right, bottom = map(int, self.box(name))
            pixels[top:bottom, left:right] = COLOURS[name]
        return Screen(pixels)

    def execute(self, action):
        x, y = action.point
        for name in self.order:
            left, top, right, bottom = self.box(name)
            if left <= x <= right and top <= y <= bottom:
                self.clicked = name

    def reward(self):
        return float(self.clicked == self.asked) if self.clicked else None

    def wanted(self):
        left, top, right, bottom = box = self.box(self.asked)
        return Wanted(Action("click", {"start_box": ((left + right) / 2, (top + bottom) / 2)}), box)

    def elements(self):
        return tuple(Element(name, "button", self.box(name)) for name in self.order)

    def close(self):
        pass


class Task:
    """Makes exercises; one seed always gives the same."""

    name, max_steps = "drawn:buttons", 5

    def start(self, browser, seed):
        return Buttons(seed)


# %%
# An agent reads the instruction and sees pixels, nothing else. This one knows two colours of three.
class Agent:
    """Clicks where it sees the colour that is asked for, if it knows it."""

    dialect, screenshots = "ui-tars-1.5", 1

    def __init__(self):
        self.known = {name: COLOURS[name] for name in ("red", "blue")}

    def coordinates(self, screen):
        return Coordinates.of(screen, model="pixels")

    def propose(self, context):
        word = next((name for name in self.known if name in context.instruction), "red")
        same = (context.screens[-1].pixels == self.known[word]).all(-1)
        y, x = np.argwhere(same).mean(0)
        return f"Thought: {word} is there.\nAction: click(start_box='({x:.0f},{y:.0f})')"


class NoBrowser:
    """The page is drawn, so there is nothing to start or to end."""

    def __enter__(self):
        return self

    def __exit__(self, *told):
        pass

    def restart(self):
        pass


agent = Agent()
found = score(lambda exercise: agent, [Task()], episodes=40, agent="two of three",
              browser=NoBrowser)  # fmt: skip
mean, low, high = found.interval
print(f"agent: {mean:.0%} [{low:.0%}, {high:.0%}], ended by {found.outcomes}")

# %%
# The rows beside it met the very same exercises, so their differences are paired: what one of them
# finds easy, so may the other, and the interval is narrower than two intervals side by side.
for name in ("random-click", "first-widget", "oracle"):
    other = score(name, [Task()], episodes=40, browser=NoBrowser)
    print(f"{name}: {other.success:.0%}; the agent stands at {found.difference(other)}")

# %%
# Failures are listed, never skipped.
asked = {one.instruction for one in found.failures}
print(f"{len(found.failures)} failures, all of them: {', '.join(sorted(asked))}")
