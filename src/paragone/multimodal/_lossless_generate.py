"""Continues documents: text token by token, pictures as their head draws them, each line by itself.

Lines of a batch may be in different states; a line that draws waits for nobody, since pictures
that begin at the same step are drawn together and the others go on with text. What is drawn at
random comes from a generator of each line.

Shapes: B lines, R rows of a picture, n patches, M model width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paragone.language.sampling import Sampling, uniform
from paragone.multimodal._lossless_layout import Scribe, batched
from paragone.multimodal._lossless_rows import Rows
from paragone.multimodal._lossless_trunk import Memory
from paragone.multimodal.documents import Document, Part
from paragone.multimodal.patches import from_numbers

__all__ = ["Asked", "continued"]

_TOGETHER = 128
"""Lines that are continued at once, which bounds the memory."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """How to continue; see `VisionLanguage.generate`."""

    pictures: str
    max_new_tokens: int
    temperature: float
    top_p: float
    guidance: float
    size: tuple[int, int]
    seed: int


class _Line:
    """One document that goes on."""

    def __init__(self, number: int, place: int, scribe: Scribe, asked: Asked):
        self.number, self.scribe, self.left = number, scribe, asked.max_new_tokens
        key = int(uniform(asked.seed, place) * 2**53)
        self.generator = torch.Generator().manual_seed(key)
        self.sampling = Sampling(asked.temperature, top_p=asked.top_p, seed=key)
        self.parts: list[Part] = []
        self.ids: list[int] = []
        self.steps = 0

    def pick(self, scores: np.ndarray) -> int:
        token, _ = self.sampling.pick(scores, [], self.steps)
        self.steps += 1
        return token


class _Session:
    """Lines, and what the model remembers of them."""

    def __init__(self, model: Any, prompts: Sequence[Document], asked: Asked, first: int = 0):
        self.model, self.asked = model, asked
        self.memory = Memory(model.language, len(prompts))
        self.lines = []
        for number, document in enumerate(prompts):
            scribe = model.written(document)
            self.lines.append(_Line(number, first + number, scribe, asked))

    def read(self, lines: Sequence[_Line], keep: bool = True) -> list[Tensor]:
        """What the lines' scribes wrote goes through the model: (T, M) of each."""
        written = [line.scribe.take() for line in lines]
        model = self.model
        batch = batched(written, model.config.numbers, model.device, pack=False)
        hidden = model(batch, self.memory, [line.number for line in lines], keep)
        return [one[: len(x)] for one, x in zip(hidden, written, strict=True)]

    def see(self, lines: Sequence[_Line], grid: tuple[int, int]) -> Any:
        """What a head calls to show rows of the lines' pictures."""

        def shown(rows: Sequence[Rows], keep: bool) -> list[Tensor]:
            for line, one in zip(lines, rows, strict=True):
                line.scribe.picture(one, grid, done=False)
            return self.read(lines, keep)

        return shown

    def draw(self, lines: Sequence[_Line]) -> None:
        """A picture for each of these lines, begin and end marker included."""
        model, (height, width) = self.model, self.asked.size
        config, size = model.config, model.config.patch_size
        grid = (-(-height // size), -(-width // size))
        for line in lines:
            line.scribe.text([config.boi_token_id])
        begun = torch.stack([states[-1] for states in self.read(lines)])
        see, count = self.see(lines, grid), len(lines)
        lengths = [int(self.memory.lengths[line.number]) for line in lines]
        drawn = model.head.draw(
            see, begun, [grid] * count, [line.generator for line in lines],
            guidance=self.asked.guidance, temperature=self.asked.temperature or 1.0,
        )  # fmt: skip
        for line, patches in zip(lines, drawn, strict=True):
            self.say(line)
            line.parts.append(from_numbers(patches, height, width, size))
        if self.asked.pictures == "one":
            return
        # What the head kept is forgotten; the picture is read as it is, clean and of whole levels.
        rows = []
        for line, length in zip(lines, lengths, strict=True):
            self.memory.forget(line.number, length)
            patches, _ = model.patches(line.parts[-1])
            rows.append(model.head.rows(patches, grid, False))
        see(rows, True)
        for line in lines:
            line.scribe.pass_by(grid)
            line.scribe.text([config.eoi_token_id])
            line.left -= grid[0] * grid[1] + 2

    def say(self, line: _Line) -> None:
        """Tokens of text so far become a part."""
        if line.ids:
            line.parts.append(self.model.tokenizer.decode(line.ids))
        line.ids = []

    def write(self, states: list[Tensor], lines: list[_Line]) -> None:
        """Text, and pictures where the model begins one, until all lines have ended."""
        model, asked, config = self.model, self.asked, self.model.config
        size = config.patch_size
        room = -(-asked.size[0] // size) * -(-asked.size[1] // size) + 2
        never = [config.eoi_token_id, config.text_config.bos_token_id,
                 config.text_config.pad_token_id]  # fmt: skip
        while lines:
            last = torch.stack([one[-1] for one in states])
            scores = model.language.lm_head(last).float()
            scores[:, [token for token in never if token is not None]] = -torch.inf
            found = scores.cpu().numpy()
            going, drawing = [], []
            for line, row in zip(lines, found, strict=True):
                if config.boi_token_id is not None and (
                    asked.pictures != "free" or line.left < room
                ):
                    row[config.boi_token_id] = -np.inf
                token = line.pick(row)
                if token in config.text_config.eos:
                    continue
                if token == config.boi_token_id:
                    drawing.append(line)
                    continue
                line.ids.append(token)
                line.scribe.text([token])
                line.left -= 1
                if line.left > 0:
                    going.append(line)
            if drawing:
                self.draw(drawing)
                going = sorted(
                    [*going, *(line for line in drawing if line.left > 0)],
                    key=lambda line: line.number,
                )
            lines = going
            states = self.read(lines) if lines else []


def continued(model: Any, prompts: Sequence[Document], asked: Asked) -> list[Document]:
    """Continues prompts.

    Args:
        model: A `LosslessTransformer` with a tokenizer.
        prompts: Each a document that ends where it goes on.
        asked: How.
    """
    found: list[Document] = []
    for first in range(0, len(prompts), _TOGETHER):
        session = _Session(model, prompts[first : first + _TOGETHER], asked, first)
        states = session.read(session.lines)
        if asked.pictures == "one":
            session.draw(session.lines)
        else:
            session.write(states, list(session.lines))
        for line in session.lines:
            session.say(line)
            found.append(Document(tuple(line.parts) or ("",)))
    return found
