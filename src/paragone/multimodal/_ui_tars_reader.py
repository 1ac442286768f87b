r"""Reading screens without the decoder: words to patches, and patches to words.

Every element of a page says three things of its screen that need no sentence. Its words, as the
mean of their embeddings, must find its patches; one of its patches must name its words; and where
it is a plain line of text, each of its words does the same, and the patch under each of its letters
must name that letter:

$$ \ell_{\text{find}} = -\log \sum_{p \in \text{box}} \mathrm{softmax}_p
   \frac{\langle W_a \bar e, k_p \rangle}{\sqrt M}, \qquad
   \ell_{\text{read}} = -\frac1n \sum_{i=1}^{n} \log \mathrm{softmax}(E\, W_b f_p)_{w_i}, \qquad
   \ell_{\text{spell}} = -\frac1m \sum_{j=1}^{m} \log \mathrm{softmax}(W_c f_{p(j)})_{c_j} . $$

So keys and embeddings come into one space long before the decoder has learned to ask, strings that
nobody has seen are told apart by their letters, and all elements of a screen together cost less
than one sentence. Where a letter stands is computed from the line's box and the usual widths of
letters, which is right to a pixel or two; $W_c$ has one half for letters in the left half of a
patch and one for those in the right half.

Cost: a product with the keys and one with the vocabulary an element.

References:
    Radford et al. (2021), CLIP, arXiv:2103.00020, section 2.3 (words and pictures in one space).
    Qin et al. (2025), UI-TARS, arXiv:2501.12326, section 4.2 (all elements of a screen).

Shapes: n elements, P fine patches, M width.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone.multimodal._ui_tars_language import Language, Memory
from paragone.multimodal._ui_tars_screens import right_patches
from paragone.multimodal._ui_tars_words import Words
from paragone.multimodal.agent.contract import Box, Sample

__all__ = ["Elements", "Reader", "letter_places", "pointed", "read_elements", "word_boxes"]

_LONGEST = 8
_MOST = 16
_PLAIN = ("text", "link")
"""Roles of elements whose box is that of their text."""
_NARROW, _BROAD = frozenset("fijlrtI.,:;'!|()[]/ "), frozenset("mwMW@%")
"""Letters that are about half and one and a half as wide as the others."""


@dataclasses.dataclass(frozen=True)
class Elements:
    """Elements of the screens of a batch.

    Attributes:
        screen: (n,), in rising order.
        tokens: (n, 8) of their texts, filled up with 0.
        boxes: Of each, all places where that text stands.
        lines: Of the (m,) letters of lines of text: screen, line and character.
        places: (m, 2) x and y of these letters.
    """

    screen: Tensor
    tokens: Tensor
    boxes: tuple[tuple[Box, ...], ...]
    lines: Tensor
    places: Tensor


def read_elements(
    samples: Sequence[Sample], words: Words, scales: Sequence[tuple[float, float]],
    device: torch.device, rng: np.random.Generator,
) -> Elements:  # fmt: skip
    """Texts of all screens and where they stand; long ones and some of very many are left out.

    Args:
        samples: With elements.
        words: Vocabulary.
        scales: From pixels of each screenshot to those of the model.
        device: Where tensors go.
        rng: Of the texts that are kept where there are many.
    """
    screen, lines, boxes = [], [], []
    letters: list[tuple[int, int, int]] = []
    spots: list[tuple[float, float]] = []
    for at, (one, (across, down)) in enumerate(zip(samples, scales, strict=True)):
        places: dict[str, list[Box]] = {}
        for element in one.elements:
            left, top, right, bottom = element.box
            box = (left * across, top * down, right * across, bottom * down)
            parts = [(element.text or element.role, box)]
            if element.role in _PLAIN and element.text:
                parts = word_boxes(element.text, box)
                line = letters[-1][1] + 1 if letters else 0
                for c, place in zip(element.text, letter_places(element.text, box), strict=True):
                    if c in words.letters and not c.isspace():
                        letters.append((at, line, words.letters[c]))
                        spots.append(place)
                if len(parts) > 1:
                    parts.append((element.text, box))
            for text, part in parts:
                places.setdefault(text, []).append(part)
        tokens = {text: words.encode(text) for text in places}
        short = [text for text, known in tokens.items() if 0 < len(known) <= _LONGEST]
        kept = short if len(short) <= _MOST else rng.choice(short, _MOST, replace=False).tolist()
        for text in kept:
            screen.append(at)
            lines.append(tokens[text] + [0] * (_LONGEST - len(tokens[text])))
            boxes.append(tuple(places[text]))
    return Elements(
        torch.tensor(screen, dtype=torch.long, device=device),
        torch.tensor(lines, dtype=torch.long, device=device).view(-1, _LONGEST),
        tuple(boxes),
        torch.tensor(letters, dtype=torch.long, device=device).view(-1, 3),
        torch.tensor(spots, dtype=torch.float32, device=device).view(-1, 2),
    )


def _edges(text: str, box: Box) -> list[float]:
    """X of the left edge of each letter of a line that fills a box, and of the last one's right."""
    widths = [
        0.55 if c in _NARROW else 1.45 if c in _BROAD else 1.15 if c.isupper() else 1.0
        for c in text
    ]
    by = (box[2] - box[0]) / sum(widths)
    return [box[0] + by * before for before in itertools.accumulate(widths, initial=0.0)]


def letter_places(text: str, box: Box) -> list[tuple[float, float]]:
    """X and y of the centre of each letter of a line that fills a box.

    Args:
        text: At least one letter.
        box: Left, top, right and bottom.

    Example:
        >>> [round(x) for x, _ in letter_places("imi", (0, 0, 25, 10))]
        [3, 12, 22]
    """
    y = (box[1] + box[3]) / 2
    return [((left + right) / 2, y) for left, right in itertools.pairwise(_edges(text, box))]


def word_boxes(text: str, box: Box) -> list[tuple[str, Box]]:
    """The words of a line that fills a box, and the boxes of each.

    Args:
        text: At least one letter.
        box: Left, top, right and bottom.

    Example:
        >>> found = word_boxes("an oak", (0, 0, 60, 9))
        >>> [(word, round(box[0]), round(box[2])) for word, box in found]
        [('an', 0, 22), ('oak', 28, 60)]
    """
    edges = _edges(text, box)
    return [
        (part[0], (edges[part.start()], box[1], edges[part.end()], box[3]))
        for part in re.finditer(r"\S+", text)
    ]


def pointed(query: Tensor, memory: Memory, screen: Tensor) -> Tensor:
    """Logits (n, P) of patches for queries (n, M) to screens (n,), in rising order."""
    # Questions of a screen stand side by side, so that no screen's keys are written out twice.
    order = torch.arange(len(screen), device=screen.device)
    slot = order - torch.searchsorted(screen, screen)
    shape = (len(memory.keys), int(slot.max()) + 1, query.shape[-1])
    asked = query.new_zeros(shape).index_put((screen, slot), query)
    logits = (asked @ memory.keys.transpose(1, 2))[screen, slot].float()
    logits = logits * query.shape[-1] ** -0.5
    if memory.present is None:
        return logits
    return logits.masked_fill(~memory.present[screen], torch.finfo(logits.dtype).min)


class Reader(nn.Module):
    """Three matrices between words and patches.

    Args:
        width: Width M.
        letters: How many characters there are.
        where: Device and type.
    """

    def __init__(self, width: int, letters: int, where: dict[str, Any]) -> None:
        super().__init__()
        self.find = nn.Linear(width, width, bias=False, **where)
        self.read = nn.Linear(width, width, bias=False, **where)
        self.spell = nn.Linear(width, 2 * letters, bias=False, **where)

    def forward(
        self, elements: Elements, memory: Memory, language: Language, patch: int,
        rng: np.random.Generator,
    ) -> tuple[Tensor, int]:  # fmt: skip
        """Sum of the losses, two an element and one a line, and how many they are.

        Args:
            elements: What is seen.
            memory: Screens.
            language: Has the embeddings.
            patch: Pixels of a fine patch's side.
            rng: Of the patch that is read.
        """
        many = len(elements.boxes)
        if not many:
            return memory.keys.new_zeros(()), 0
        said = elements.tokens > 0
        counts = said.sum(1, keepdim=True)
        known = functional.embedding(elements.tokens, memory.table)
        mean = (known * said[..., None]).sum(1) / counts
        logs = pointed(self.find(mean), memory, elements.screen).log_softmax(-1)
        right = right_patches(elements.boxes, memory, elements.screen, patch)
        found = torch.logsumexp(logs.masked_fill(~right, -torch.inf), -1)
        draws = torch.from_numpy(rng.random(right.shape)).to(right.device)
        chosen = (draws * right).argmax(1)
        features = self.read(memory.fine[elements.screen, chosen])
        names = language.written(features, memory).float().log_softmax(-1)
        names = names.gather(1, elements.tokens)
        read = (names * said).sum(1) / counts[:, 0]
        spelled, count = self._spelled(elements, memory, patch)
        return spelled - found.sum() - read.sum(), 2 * many + count

    def _spelled(self, elements: Elements, memory: Memory, patch: int) -> tuple[Tensor, int]:
        """Sum over lines of the mean loss of their letters, and how many lines."""
        if not len(elements.lines):
            return memory.keys.new_zeros(()), 0
        screen, line, letter = elements.lines.unbind(1)
        column, row = (elements.places / patch).long().unbind(1)
        columns, rows = memory.columns[screen], memory.rows[screen]
        seen = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
        at = (row * columns + column)[seen]
        right = (elements.places[seen, 0] / patch % 1 >= 0.5).long()
        halves = self.spell(memory.fine[screen[seen], at]).unflatten(-1, (2, -1))
        logs = halves[torch.arange(len(at), device=at.device), right].float().log_softmax(-1)
        lost = -logs.gather(1, letter[seen, None])[:, 0]
        count = int(line[-1]) + 1
        sums = lost.new_zeros(2, count).index_add(
            1, line[seen], torch.stack([lost, torch.ones_like(lost)])
        )
        return (sums[0] / sums[1].clamp(min=1)).sum(), count
