"""
An agent that sees only screenshots
===================================

UITars is given an instruction and a screenshot, and writes a thought and an action with a place on
the screen. Here: pages with buttons are drawn, a small model learns from them for a few seconds,
and is asked about pages that it has not seen. With a browser, demonstrations come from real pages
(`paragone agent generate`), and `paragone.multimodal.agent.run` carries out what it says.
"""

import numpy as np
import torch
from PIL import Image, ImageDraw

from paragone.multimodal import UITars
from paragone.multimodal.agent import parse
from paragone.multimodal.agent.contract import (
    Action,
    Context,
    Element,
    Sample,
    Screen,
    Wanted,
)
from paragone.multimodal.agent.imitation import imitate

# %%
# A page: three buttons at places of their own, one of which is to be clicked. The box says where a
# click would be right, and the elements what else can be read on the screen.
COLOURS = ("red", "green", "blue", "orange", "gray")


def page(rng: np.random.Generator, seed: int) -> Sample:
    """Draws a page and says what is right on it."""
    image = Image.new("RGB", (64, 64), "white")
    draw = ImageDraw.Draw(image)
    elements = []
    for row, label in enumerate(rng.permutation(COLOURS)[:3]):
        left, top = int(rng.integers(2, 36)), 2 + 21 * row
        box = (left, top, left + 26, top + 16)
        draw.rectangle(box, fill=str(label), outline="black")
        draw.text((left + 7, top + 2), "OK", fill="white")
        elements.append(Element(str(label), "button", box))
    one = elements[int(rng.integers(3))]
    middle = ((one.box[0] + one.box[2]) / 2, (one.box[1] + one.box[3]) / 2)
    action = Action("click", {"start_box": middle}, thought=f"The {one.text} one.")
    context = Context(f"Press the {one.text} button.", (Screen(np.asarray(image)),))
    return Sample(context, Wanted(action, one.box), tuple(elements), task="buttons", seed=seed)


rng = np.random.default_rng(0)
pages = [page(rng, seed) for seed in range(400)]

# %%
# The vocabulary comes from the demonstrations; words that are not in it are spelled. Imitation
# holds out some exercises and judges by them: right is a click inside the box.
model = UITars.for_samples(pages, "tiny", generator=torch.Generator().manual_seed(0))
print(f"{sum(p.numel() for p in model.parameters()):,} weights, {len(model.words)} tokens")
found = imitate(model, pages, steps=80, batch=16, perception=2, held_out=0.1, augment=False)
print(f"held-out pages: {found.metrics['right']:.0%} right after {found.samples} presentations")

# %%
# What it says is a text of the dialect "ui-tars-1.5", and can always be parsed: names and marks
# come from a grammar, and contents are copied or written. Places are pixels of the image as the
# model sees it; `coordinates` carries them to the screenshot and on to CSS pixels.
new = page(rng, 999)
text = model.propose(new.context)
(action,) = parse(text, dialect=model.dialect)
x, y = model.coordinates(new.context.screens[-1]).to_css(*action.point)
print(new.context.instruction)
print(text)
print(f"in CSS pixels: {x:.1f}, {y:.1f}; right in {new.wanted.box}")
