"""Drawn pages to learn from: coloured squares that an instruction names, and words to copy."""

from __future__ import annotations

import numpy as np

from paragone.multimodal.agent.actions import Action
from paragone.multimodal.agent.contract import Context, Element, Sample, Screen, Wanted

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 30), "blue": (40, 60, 220)}
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def word(rng: np.random.Generator, letters: int = 5) -> str:
    return "".join(LETTERS[int(i)] for i in rng.integers(26, size=letters))


def squares(rng: np.random.Generator, side: int = 48) -> Sample:
    """A page with three squares; one of them is to be clicked."""
    pixels = np.full((side, side, 3), 250, np.uint8)
    cells = rng.permutation(9)[:3]
    elements = []
    for name, cell in zip(COLOURS, cells, strict=True):
        left, top = 16 * (int(cell) % 3) + 2, 16 * (int(cell) // 3) + 2
        pixels[top : top + 12, left : left + 12] = COLOURS[name]
        elements.append(Element(name, "button", (left, top, left + 12, top + 12)))
    one = elements[int(rng.integers(3))]
    x, y = (one.box[0] + one.box[2]) / 2, (one.box[1] + one.box[3]) / 2
    action = Action("click", {"start_box": (x, y)}, thought=f"The {one.text} one.")
    context = Context(f"Click the {one.text} square.", (Screen(pixels),))
    return Sample(context, Wanted(action, one.box), tuple(elements), task="squares")


def typing(rng: np.random.Generator, side: int = 48) -> Sample:
    """A page on which a word of the instruction is to be typed."""
    pixels = np.full((side, side, 3), 250, np.uint8)
    pixels[4:14, 4:28:3] = 30
    text = word(rng)
    past = Action("click", {"start_box": (20.0, 20.0)}, thought="The field.")
    action = Action("type", {"content": text}, thought="Type it.")
    context = Context(f'Enter "{text}" now.', (Screen(pixels),), (past,))
    label = Element("Name:", "text", (4, 4, 28, 14))
    return Sample(context, Wanted(action), (label,), task="typing")


def samples(count: int, seed: int = 0) -> list[Sample]:
    rng = np.random.default_rng(seed)
    makers = (squares, typing)
    made = [makers[i % 2](rng) for i in range(count)]
    return [Sample(**{**vars(one), "seed": i}) for i, one in enumerate(made)]
