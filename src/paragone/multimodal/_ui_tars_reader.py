r"""Reading screens without the decoder: words to patches, and patches to words.

Every element of a page says two things of its screen that need no sentence. Its words, as the mean
of their embeddings, must find its patches, and one of its patches must name its words:

$$ \ell_{\text{find}} = -\log \sum_{p \in \text{box}} \mathrm{softmax}_p
   \frac{\langle W_a \bar e, k_p \rangle}{\sqrt M}, \qquad
   \ell_{\text{read}} = -\frac1n \sum_{i=1}^{n} \log \mathrm{softmax}(E\, W_b f_p)_{w_i} . $$

So keys and embeddings come into one space long before the decoder has learned to ask, and all
elements of a screen together cost less than one sentence.

Cost: a product with the keys and one with the vocabulary an element.

References:
    Radford et al. (2021), CLIP, arXiv:2103.00020, section 2.3 (words and pictures in one space).
    Qin et al. (2025), UI-TARS, arXiv:2501.12326, section 4.2 (all elements of a screen).

Shapes: n elements, P fine patches, M width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paragone.multimodal._ui_tars_language import Language, Memory
from paragone.multimodal._ui_tars_screens import right_patches
from paragone.multimodal._ui_tars_words import Words
from paragone.multimodal.agent.contract import Box, Sample

__all__ = ["Elements", "Reader", "pointed", "read_elements"]

_LONGEST = 8
_MOST = 16


@dataclasses.dataclass(frozen=True)
class Elements:
    """Elements of the screens of a batch.

    Attributes:
        screen: (n,), in rising order.
        tokens: (n, 8) of their texts, filled up with 0.
        boxes: Of each, all places where that text stands.
    """

    screen: Tensor
    tokens: Tensor
    boxes: tuple[tuple[Box, ...], ...]


def read_elements(
    samples: Sequence[Sample], words: Words, scales: Sequence[tuple[float, float]],
    device: torch.device,
) -> Elements:  # fmt: skip
    """The texts of all screens and where they stand; long ones are left out.

    Args:
        samples: With elements.
        words: Vocabulary.
        scales: From pixels of each screenshot to those of the model.
        device: Where tensors go.
    """
    screen, lines, boxes = [], [], []
    for at, (one, (across, down)) in enumerate(zip(samples, scales, strict=True)):
        places: dict[str, list[Box]] = {}
        for element in one.elements:
            left, top, right, bottom = element.box
            places.setdefault(element.text or element.role, []).append(
                (left * across, top * down, right * across, bottom * down)
            )
        held = 0
        for text, found in places.items():
            tokens = words.encode(text)
            if 0 < len(tokens) <= _LONGEST and held < _MOST:
                held += 1
                screen.append(at)
                lines.append(tokens + [0] * (_LONGEST - len(tokens)))
                boxes.append(tuple(found))
    return Elements(
        torch.tensor(screen, dtype=torch.long, device=device),
        torch.tensor(lines, dtype=torch.long, device=device).view(-1, _LONGEST),
        tuple(boxes),
    )


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
    """Two matrices between words and patches.

    Args:
        width: Width M.
        where: Device and type.
    """

    def __init__(self, width: int, where: dict[str, Any]) -> None:
        super().__init__()
        self.find = nn.Linear(width, width, bias=False, **where)
        self.read = nn.Linear(width, width, bias=False, **where)

    def forward(
        self, elements: Elements, memory: Memory, language: Language, patch: int,
        rng: np.random.Generator,
    ) -> tuple[Tensor, int]:  # fmt: skip
        """Sum of the losses, two an element, and how many they are.

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
        mean = (language.embedding(elements.tokens) * said[..., None]).sum(1) / counts
        logs = pointed(self.find(mean), memory, elements.screen).log_softmax(-1)
        right = right_patches(elements.boxes, memory, elements.screen, patch)
        found = torch.logsumexp(logs.masked_fill(~right, -torch.inf), -1)
        draws = torch.from_numpy(rng.random(right.shape)).to(right.device)
        chosen = (draws * right).argmax(1)
        features = self.read(memory.fine[elements.screen, chosen])
        names = language.written(features).float().log_softmax(-1).gather(1, elements.tokens)
        read = (names * said).sum(1) / counts[:, 0]
        return -(found.sum() + read.sum()), 2 * many
