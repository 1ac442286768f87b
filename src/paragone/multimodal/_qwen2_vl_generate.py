r"""Texts that Qwen2-VL goes on with, and what need not be read again.

$$ x_{t+1} \sim p(\cdot \mid \text{pictures}, x_{\le t}), \qquad p(\text{marker}) = 0 . $$

An agent's prompt grows at its end: what the last step read is still true of the next up to the
first token, or picture, that differs. A `Reading` takes back what comes after that and reads only
the rest; features of pictures that are seen again are kept, too, since they do not depend on the
text.

Cost: of a step, reading what is new; without it, the whole prompt.

References:
    Pope et al. (2022), arXiv:2211.05102, section 2 (reading a prompt, then token by token).

Shapes: B rows, T time, L patches, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paragone.language.sampling import Drawing, Sampling
from paragone.multimodal._qwen2_vl_config import MARKERS
from paragone.multimodal._qwen2_vl_positions import Grid

__all__ = ["Reading", "Span", "follow"]

Span = tuple[int, int, bytes]
"""First token of a picture, the one behind its last, and what tells it from others."""


@torch.no_grad()
def follow(
    model: Any,
    logits: Tensor,
    state: Any,
    *,
    most: int,
    stop: Sequence[int],
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    words: int | None = None,
) -> tuple[list[list[int]], Any]:
    """New tokens of each row, without the one that ended it.

    Args:
        model: A `Qwen2VL`.
        logits: (B, V) scores behind what was read.
        state: What was read.
        most: Most tokens of a row.
        stop: Tokens that end a row.
        temperature: 0 takes the most likely token.
        top_p: Share of probability that is drawn from.
        seed: Of all draws; what a row draws depends on it and on the row's number alone.
        words: Tokens that there are; the head may have more, which fill it up (None: as many).

    Returns:
        Tokens of each row, and the state behind the last token that was read.
    """
    rows, vocabulary = logits.shape
    samplings = [
        Sampling(temperature=temperature, top_p=top_p, seed=(seed << 24) + at) for at in range(rows)
    ]
    # The draw's history serves penalties, of which there are none.
    drawing = Drawing(samplings, [[] for _ in range(rows)], max(most, 1), vocabulary)
    banned = [getattr(model.config, name) for name in MARKERS]
    found: list[list[int]] = [[] for _ in range(rows)]
    open_, tokens = np.arange(rows), np.zeros(rows, np.int64)
    for step in range(most):
        scores = logits.float().cpu().numpy()[open_]
        scores[:, banned] = -np.inf
        if words is not None:
            scores[:, words:] = -np.inf
        drawn, _ = drawing.pick(scores, open_)
        tokens[open_] = drawn
        going = ~np.isin(drawn, list(stop))
        for row, token in zip(open_[going], drawn[going], strict=True):
            found[row].append(int(token))
        open_ = open_[going]
        if not len(open_) or step + 1 == most:
            break
        out = model.read(torch.from_numpy(tokens).to(logits.device)[:, None], None, state=state)
        logits, state = out.logits[:, -1], out.state
    return found, state


class Reading:
    """One text at a time, read on from where it is the one before.

    Args:
        model: A `Qwen2VL`.

    Attributes:
        read: How many tokens the last call had to read.
        seen: How many pictures the last call had to look at.
    """

    def __init__(self, model: Any):
        self.model = model
        self.read = self.seen = 0
        self.forget()

    def forget(self) -> None:
        """Gives back what is remembered."""
        self._ids: list[int] = []
        self._spans_read: list[Span] = []
        self._state: Any = None
        self._features: dict[bytes, Tensor] = {}

    @torch.no_grad()
    def follow(
        self,
        ids: Sequence[int],
        keys: Sequence[bytes],
        grids: Sequence[Grid],
        look: Callable[[int], Tensor],
        **options: Any,
    ) -> list[int]:
        """New tokens behind a text.

        Args:
            ids: Its tokens, a placeholder for each merged token of a picture.
            keys: What tells the pictures apart, in the order of the text; equal pictures have
                equal keys.
            grids: Their grids of patches.
            look: Called with the number of a picture: its patches (L, C 2 p^2).
            options: As in `follow`.

        Raises:
            PlaceholderError: Placeholders that are not those of the pictures.
        """
        model = self.model
        row = torch.tensor([list(ids)], device=model.device)
        at, _ = model.places(row, grids)
        spans = self._spans(row[0], keys, grids)
        keep = self._common(ids, spans)
        fresh = [number for number, (first, _, _) in enumerate(spans) if first >= keep]
        self._look(keys, grids, fresh, look)
        state = model.new_state(1, len(ids) + options.get("most", 0))
        if keep:
            state = self._state.truncate(keep, int(at[0, 0, keep]))
        features = [self._features[keys[number]] for number in fresh]
        self._state = None
        out = model.read(
            row[:, keep:], torch.cat(features) if features else None,
            [grids[number] for number in fresh], state=state, last=True,
        )  # fmt: skip
        found, state = follow(model, out.logits[:, -1], out.state, **options)
        self.read = len(ids) - keep
        self._ids, self._spans_read = [*ids, *found[0]][: state.longest], spans
        self._state = state
        return found[0]

    def _look(
        self, keys: Sequence[bytes], grids: Sequence[Grid], fresh: Sequence[int], look: Any
    ) -> None:
        """Features of pictures that are new; those of pictures that are gone are given back."""
        self._features = {key: x for key, x in self._features.items() if key in keys}
        self.seen = 0
        for number in fresh:
            if keys[number] not in self._features:
                values = look(number).to(self.model.device)
                self._features[keys[number]] = self.model.features(values, [grids[number]])
                self.seen += 1

    def _spans(self, row: Tensor, keys: Sequence[bytes], grids: Sequence[Grid]) -> list[Span]:
        """Where the placeholders of each picture begin and end, and its key."""
        c = self.model.config
        spots = ((row == c.image_token_id) | (row == c.video_token_id)).nonzero()[:, 0].tolist()
        found, at = [], 0
        for key, (t, h, w) in zip(keys, grids, strict=True):
            count = t * h * w // c.vision_config.merge**2
            found.append((spots[at], spots[at] + count, key))
            at += count
        return found

    def _common(self, ids: Sequence[int], spans: Sequence[Span]) -> int:
        """How many tokens are as they were; at least one is left to be read."""
        if self._state is None:
            return 0
        most = min(len(ids) - 1, len(self._ids))
        keep = next((n for n in range(most) if ids[n] != self._ids[n]), most)
        for number, (first, end, key) in enumerate(spans):
            if first >= keep:
                break
            if end > keep or self._spans_read[number : number + 1] != [(first, end, key)]:
                return first
        return keep
