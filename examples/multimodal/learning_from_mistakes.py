"""
Learning from one's own mistakes
================================

An agent that only imitates has never seen what its own errors lead to. Here a small agent learns to
click the square that is named, then leads by itself; where it errs, the page's judge says what was
right. Right actions are then preferred to its own wrong ones. The "page" is a drawn picture, so
that no browser is needed; on real pages, `train_agent` does all of this in one call.
"""

import numpy as np
import torch

from paragone.multimodal import UITars
from paragone.multimodal.agent import Action, Context, Sample, Screen, Wanted, imitate, prefer, run
from paragone.multimodal.agent.bootstrap import bootstrap
from paragone.multimodal.agent.reflection import find_mistakes

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 70, 220)}
BOXES = [(4.0, 4.0, 27.0, 27.0), (36.0, 4.0, 59.0, 27.0), (4.0, 36.0, 27.0, 59.0)]


# %%
# A task makes exercises from seeds. An exercise has an instruction and an operator, which is all
# that the agent gets, and a judge: what is the reward, what would be right to do now?
class Page:
    """Operator and judge of one exercise."""

    actions = frozenset({"click"})

    def __init__(self, seed):
        draws = np.random.default_rng(seed)
        self.order = [str(name) for name in draws.permutation(list(COLOURS))]
        self.name = str(draws.choice(list(COLOURS)))
        self.instruction = f"Click the {self.name} square."
        self.operator, self.clicked = self, None

    def screenshot(self):
        pixels = np.full((64, 64, 3), 255, np.uint8)
        for name, (left, top, right, bottom) in zip(self.order, BOXES, strict=True):
            pixels[int(top) : int(bottom), int(left) : int(right)] = COLOURS[name]
        return Screen(pixels)

    def execute(self, action):
        self.clicked = action.point

    def reward(self):
        if self.clicked is None:
            return None
        left, top, right, bottom = self.wanted().box
        x, y = self.clicked
        return float(left <= x <= right and top <= y <= bottom)

    def wanted(self):
        left, top, right, bottom = box = BOXES[self.order.index(self.name)]
        centre = ((left + right) / 2, (top + bottom) / 2)
        return Wanted(Action("click", {"start_box": centre}, thought=f"Find {self.name}."), box)

    def elements(self):
        return ()

    def close(self):
        pass


class Squares:
    """The task: exercises by their seeds."""

    name, max_steps = "squares", 2

    def start(self, browser, seed):
        return Page(seed)


class NoBrowser:
    """What real tasks are opened in."""

    def restart(self):
        pass


task, browser = Squares(), NoBrowser()


# %%
# Demonstrations, and some imitation: too little to be sure of the colours.
def demonstration(seed):
    """What the judge does, as a sample."""
    page = task.start(browser, seed)
    return Sample(Context(page.instruction, (page.screenshot(),)), page.wanted(), seed=seed)


def success(agent, seeds=range(1_000_000, 1_000_040)):
    """Share of exercises that the page rewards."""
    done = 0
    for seed in seeds:
        page = task.start(browser, seed)
        run(agent, page, page.instruction, max_steps=1, done=lambda p=page: p.reward() is not None)
        done += page.reward() == 1.0
    return done / len(seeds)


shown = [demonstration(seed) for seed in range(200)]
agent = UITars.for_samples(shown, "tiny", generator=torch.Generator().manual_seed(0))
imitate(agent, shown, steps=40, batch=16, lr=3e-3, perception=0, augment=False, held_out=0.0)
print(f"after imitation: {success(agent):.0%} of 40 unseen exercises")

# %%
# The agent leads through exercises of its own. Each mistake is confirmed by the page: an action
# that merely differs from the judge's, and is as good, is none.
mistakes = find_mistakes(agent, [task], browser, range(500_000, 500_060))
print(f"{len(mistakes)} mistakes in 60 exercises")
first = mistakes[0]
wrong = first.rejected[0]
print(first.context.instruction, "right:", first.wanted.box, "rejected:", wrong.name, wrong.point)

# %%
# Preference: right over wrong, and beside it the likelihood of what is right, here and in the
# demonstrations. Pairs alone would teach which of two places is the worse one, and little else.
done = prefer(agent, [*mistakes, *shown], steps=30, batch=16, lr=3e-3, sft=1.0)
print(f"{done.pairs} pairs: margin {done.margin:.2f}, {done.accuracy:.0%} the right way round")
print(f"after preference: {success(agent):.0%}")

# %%
# Where a page can only say whether it is done, an agent learns from its own successes: they pass
# filters, and each filter tells how many episodes it has refused.
found = bootstrap(agent, [task], browser, range(700_000, 700_020), temperature=1.0)
print(found)
