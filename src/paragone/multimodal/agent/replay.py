r"""Replays: what an agent saw, thought and did, as one picture or as one page.

`film_strip` puts the screens of an episode side by side, each with the mark of its action;
`write_replay` makes one HTML file of any number of episodes that asks no network for anything,
works without JavaScript (which adds the arrow keys), and holds each different screen once. All that
an agent or a page has said is hostile: it is escaped, and the page's own policy allows no script,
style or image but those that were written here. A film of n panels (the steps, and the end where a
screenshot or an error is left of it) in c columns has

$$ \lceil n / c \rceil \text{ rows}, \qquad c = \min(n, 4) . $$

Cost: a film about 15 ms a step; a page the PNG files of its screens.

References:
    W3C (2016), "Content Security Policy Level 3", section 2.3 (hashes in place of "unsafe-inline").

Shapes: H rows and W columns of pixels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from paragone.multimodal.agent._marks import drawn, in_words, marks, printable, unit
from paragone.multimodal.agent._replay_page import replay_page
from paragone.multimodal.agent.contract import Screen
from paragone.multimodal.agent.loop import Episode, Step

__all__ = ["film_strip", "write_replay"]

_PANEL, _TALLEST, _COLUMNS, _GAP, _INSIDE = 360, 480, 4, 24, 10
_PAPER, _CARD, _INK, _SOFT, _EDGE = "#eef0f4", "#ffffff", "#14181f", "#586172", "#d5dae2"
_GOOD, _BAD = "#00694d", "#b3261e"
_LONGEST = 400


def write_replay(
    episodes: Episode | Sequence[Episode], path: str | os.PathLike[str], *, title: str = "Replay"
) -> Path:
    """Writes episodes as one HTML file.

    Args:
        episodes: One, or any number.
        path: Of the file; its folder is made if it is not there.
        title: Of the page.

    Returns:
        The path.
    """
    from paragone.training.run_folder import write_whole

    shown = [episodes] if isinstance(episodes, Episode) else list(episodes)
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    write_whole(place, replay_page(shown, title).encode("utf-8"))
    return place


def film_strip(episode: Episode) -> np.ndarray:
    """One picture of an episode: its screens in rows, with marks, thoughts and the outcome.

    Args:
        episode: Of any length; without a step, the picture holds the outcome alone.

    Returns:
        (H, W, 3) uint8.
    """
    panels = [_step_panel(number, step) for number, step in enumerate(episode.steps, 1)]
    if episode.last is not None or episode.error or not panels:
        panels.append(_end_panel(episode))
    columns = min(len(panels), _COLUMNS)
    rows = [panels[at : at + columns] for at in range(0, len(panels), columns)]
    wide = columns * (_PANEL + 2 * _INSIDE) + (columns + 1) * _GAP
    head = _head(episode, wide)
    high = head.height + sum(max(one.height for one in row) + _GAP for row in rows)
    page = Image.new("RGB", (wide, high), _PAPER)
    page.paste(head, (0, 0))
    top = head.height
    for row in rows:
        tall = max(one.height for one in row)
        for number, panel in enumerate(row):
            left = _GAP + number * (_PANEL + 2 * _INSIDE + _GAP)
            pen = ImageDraw.Draw(page)
            corners = (left, top, left + _PANEL + 2 * _INSIDE - 1, top + tall - 1)
            pen.rounded_rectangle(corners, 10, _CARD, _EDGE)
            page.paste(panel.crop((4, 4, panel.width - 4, panel.height - 4)), (left + 4, top + 4))
        top += tall + _GAP
    return np.asarray(page)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


class _Words:
    """Lines of text, wrapped, of several sizes and colours."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.lines: list[tuple[str, int, str]] = []

    def add(self, text: str, size: int, colour: str, most: int) -> None:
        """Adds a text in at most so many lines; the last one ends in an ellipsis if need be."""
        font = _font(size)
        text = " ".join(text.split())
        text = printable(text if len(text) <= _LONGEST else text[:_LONGEST] + "…")
        lines: list[str] = []
        rest = text
        while rest and len(lines) < most:
            cut = _fitting(font, rest, self.width)
            if cut < len(rest) and len(lines) == most - 1:
                dots = font.getlength("…")
                lines.append(rest[: _fitting(font, rest, self.width - dots, words=False)] + "…")
                break
            lines.append(rest[:cut].rstrip())
            rest = rest[cut:].lstrip()
        self.lines += [(line, size, colour) for line in lines]

    @property
    def height(self) -> int:
        """Rows that the lines need."""
        return sum(round(1.4 * size) for _, size, _ in self.lines)

    def draw(self, pen: ImageDraw.ImageDraw, left: int, top: int) -> None:
        """Writes the lines."""
        for line, size, colour in self.lines:
            pen.text((left, top), line, fill=colour, font=_font(size))
            top += round(1.4 * size)


def _fitting(
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str, width: float, words: bool = True
) -> int:
    """How many characters fit into a width, ending between words where that is possible."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle]) <= width else (low, middle - 1)
    if words and low < len(text):
        space = text.rfind(" ", 0, low + 1)
        low = space if space > 0 else low
    return low


def _head(episode: Episode, wide: int) -> Image.Image:
    words = _Words(wide - 2 * _GAP)
    words.add(episode.instruction, 24, _INK, 3)
    count = len(episode.steps)
    facts = f"{episode.verdict}, {count} step{'s' * (count != 1)}, {episode.seconds:.1f} s"
    words.add(facts, 16, _SOFT, 1)
    head = Image.new("RGB", (wide, words.height + 2 * _GAP), _PAPER)
    words.draw(ImageDraw.Draw(head), _GAP, _GAP)
    return head


def _step_panel(number: int, step: Step) -> Image.Image:
    words = _Words(_PANEL)
    said = "; ".join(in_words(action) for action in step.actions) or "no action"
    words.add(f"{number}. {said}", 17, _INK, 2)
    thought = next((one.thought for one in step.actions if one.thought), "")
    words.add(thought, 14, _SOFT, 3)
    if step.error:
        words.add(step.error, 14, _BAD, 3)
    unchanged = ", the screen stayed as it was" if step.changed is False else ""
    words.add(f"{1000 * step.seconds:.0f} ms{unchanged}", 13, _SOFT, 1)
    return _panel(step.screen, step, words)


def _end_panel(episode: Episode) -> Image.Image:
    words = _Words(_PANEL)
    words.add(episode.verdict, 17, _GOOD if episode.good else _BAD, 1)
    words.add(episode.error, 14, _BAD, 3)
    return _panel(episode.last, None, words)


def _panel(screen: Screen | None, step: Step | None, words: _Words) -> Image.Image:
    width, high = _PANEL, 0
    shown = None
    if screen is not None:
        rows, columns = screen.size
        scale = min(_PANEL / columns, _TALLEST / rows)
        width, high = max(1, round(columns * scale)), max(1, round(rows * scale))
        way = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
        shown = Image.fromarray(screen.pixels).resize((width, high), way)
        for action in step.actions if step is not None else ():
            shown = drawn(shown, marks(action, high, width, scale), unit(high, width))
    panel = Image.new(
        "RGB", (_PANEL + 2 * _INSIDE, 3 * _INSIDE + high + words.height), _CARD
    )  # fmt: skip
    pen = ImageDraw.Draw(panel)
    if shown is not None:
        left = _INSIDE + (_PANEL - width) // 2
        panel.paste(shown, (left, _INSIDE))
        pen.rectangle((left - 1, _INSIDE - 1, left + width, _INSIDE + high), outline=_EDGE)
    words.draw(pen, _INSIDE, 2 * _INSIDE + high - _INSIDE * (shown is None))
    return panel
