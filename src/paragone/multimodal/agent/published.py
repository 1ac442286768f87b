r"""Published agents: a folder of UI-TARS opened as a policy that the loop can lead.

The model is given a conversation in the form that it was trained with (ChatML): the task and the
action space, then screenshots and its own earlier answers in turn, and writes a thought and an
action, greedily:

$$ a_n = \arg\max\, p(\cdot \mid \text{task}, o_{n-4}, \ldots, a_{n-1}, o_n) . $$

Texts of pages, tasks and earlier answers are strangers' texts: words of special tokens within them
are read letter by letter, so that none can end a turn or claim to be a picture; only the marks of
boxes, which UI-TARS 1.0 writes itself, are tokens.

What a step reads is kept for the next: as long as fewer screenshots than the most were seen, only
the last answer and the new screenshot are read; beyond that the oldest one goes, and everything
behind its place is read again, but no screenshot is looked at twice.

Cost: a screenshot of 1280 x 720 pixels is 1,196 tokens; the cache of a token takes 28 KiB (2B),
56 KiB (7B) or 320 KiB (72B) in bfloat16.

References:
    Qin et al. (2025), UI-TARS, arXiv:2501.12326, sections 4.1-4.4 and 5.1.
    Wang et al. (2024), Qwen2-VL, arXiv:2409.12191, section 2.2 (ChatML, tokens of pictures).

Shapes: T tokens, H rows and W columns of a screenshot.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from paragone.multimodal._qwen2_vl_files import is_published as _is_published
from paragone.multimodal._qwen2_vl_generate import Reading
from paragone.multimodal.agent.actions import DIALECTS
from paragone.multimodal.agent.contract import Context, Screen
from paragone.multimodal.agent.coordinates import Coordinates
from paragone.multimodal.agent.prompts import messages
from paragone.multimodal.qwen2_vl import Qwen2VL

__all__ = ["PublishedPolicy", "is_published", "open_published"]

_START, _END, _STOP = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
_BOXES = ("<|box_start|>", "<|box_end|>")
_SYSTEM = "You are a helpful assistant."
_DIALECT_OF = {"qwen2_vl": "ui-tars-1.0", "qwen2_5_vl": "ui-tars-1.5"}


class PublishedPolicy:
    """A Qwen2-VL or Qwen2.5-VL that acts; `open_published` makes one of a folder.

    Prefer `paragone.multimodal.UITars` where an agent is trained for an application of one's own:
    it is a thousand times smaller. Prefer this one for weights that have seen many applications,
    and a GPU.

    Args:
        model: With its processor and tokenizer.
        dialect: Of its texts, a key of `DIALECTS` (None: "ui-tars-1.0" for Qwen2-VL,
            "ui-tars-1.5" for Qwen2.5-VL).
        language: In which it is asked to think.
        request: The first message in place of that of `prompts.messages`, such as the one that a
            model was trained with; {language} and {instruction} in it are filled in (None: the
            latter's).
        platform: Of its action space: "computer" or "phone".
        screenshots: How many screenshots it sees.
        max_new_tokens: Most tokens of an answer.

    Attributes:
        reading: The `Reading` that remembers the last prompt.

    Raises:
        ValueError: A model without tokenizer, a tokenizer without the tokens of conversations and
            pictures, an unknown dialect, or numbers below 1.
    """

    def __init__(
        self,
        model: Qwen2VL,
        *,
        dialect: str | None = None,
        language: str = "English",
        platform: Literal["computer", "phone"] = "computer",
        request: str | None = None,
        screenshots: int = 5,
        max_new_tokens: int = 512,
    ):
        dialect = _DIALECT_OF[model.config.kind] if dialect is None else dialect
        if dialect not in DIALECTS:
            raise ValueError(f"dialect={dialect!r}: expected one of {', '.join(DIALECTS)}")
        if screenshots < 1 or max_new_tokens < 1:
            raise ValueError(
                f"screenshots={screenshots}, max_new_tokens={max_new_tokens}: at least 1 each"
            )
        if model.tokenizer is None:
            raise ValueError(
                "the model has no tokenizer: a tokenizer.json belongs beside its config.json"
            )
        self.model, self.dialect, self.screenshots = model, dialect, screenshots
        self.platform: Literal["computer", "phone"] = platform
        self.language, self.request = language, request
        self.max_new_tokens = max_new_tokens
        self.reading = Reading(model)
        self._ids = _special_ids(model)
        stops = [self._ids[_END], self._ids.get(_STOP), *model.config.text_config.eos]
        self._stop = sorted({one for one in stops if one is not None})
        self._boxes = [word for word in _BOXES if word in self._ids]

    def coordinates(self, screen: Screen) -> Coordinates:
        """From the points of its texts to pixels of this screenshot.

        Args:
            screen: The screenshot.
        """
        resized = self.model.processor.resized(*screen.size)
        return Coordinates.of(screen, model=DIALECTS[self.dialect].space, resized=resized)

    def propose(self, context: Context) -> str:
        """A thought and an action, as text of the dialect.

        Args:
            context: With at least one screenshot.

        Raises:
            ValueError: A prompt that is longer than the model is made for.
        """
        ids, pictures = self.prompt(context)
        room = self.model.config.text_config.max_position_embeddings - len(ids)
        if room < 1:
            raise ValueError(
                f"the prompt takes {len(ids)} tokens, the model is made for {room + len(ids)}: "
                "show fewer screenshots (screenshots=), or smaller ones (max_pixels=)"
            )
        processor = self.model.processor
        found = self.reading.follow(
            ids, [_key(one) for one in pictures], [processor.grid(*x.shape[:2]) for x in pictures],
            lambda number: processor([pictures[number]])[0],
            most=min(self.max_new_tokens, room), stop=self._stop,
            words=len(self.model.tokenizer),
        )  # fmt: skip
        return self._text(found)

    def prompt(self, context: Context) -> tuple[list[int], list[np.ndarray]]:
        """What the model is given for a step.

        Args:
            context: As in `propose`.

        Returns:
            (T,) tokens with a placeholder for each part of a picture, and the pictures (H, W, 3).
        """
        told = messages(
            context, self.dialect, self.platform, self.language, self.screenshots,
            coordinates=self.coordinates,
        )  # fmt: skip
        if self.request is not None:
            words = self.request.replace("{language}", self.language)
            words = words.replace("{instruction}", context.instruction)
            told[0] = {"role": "user", "content": [{"type": "text", "text": words}]}
        told.insert(0, {"role": "system", "content": [{"type": "text", "text": _SYSTEM}]})
        ids: list[int] = []
        pictures: list[np.ndarray] = []
        text = ""
        for message in told:
            ids += [*self._encoded(text), self._ids[_START]]
            text = f"{message['role']}\n"
            for part in message["content"]:
                if part["type"] == "text":
                    text += part["text"]
                    continue
                pictures.append(part["image"])
                ids += [*self._encoded(text), *self._placeholders(pictures[-1])]
                text = ""
            ids += [*self._encoded(text), self._ids[_END]]
            text = "\n"
        ids += [*self._encoded(text), self._ids[_START], *self._encoded("assistant\n")]
        return ids, pictures

    def _placeholders(self, pixels: np.ndarray) -> list[int]:
        c, count = self.model.config, self.model.processor.tokens(*pixels.shape[:2])
        return [c.vision_start_token_id, *[c.image_token_id] * count, c.vision_end_token_id]

    def _encoded(self, text: str) -> list[int]:
        """Tokens of a text in which only the marks of boxes are special."""
        found: list[int] = []
        cut = "|".join(map(re.escape, self._boxes))
        for part in re.split(f"({cut})", text) if cut else [text]:
            if part in self._boxes:
                found.append(self._ids[part])
            elif part:
                found += self.model.tokenizer.encode(part, bos=False, specials=False)
        return found

    def _text(self, ids: Sequence[int]) -> str:
        """The text of tokens, with the marks of boxes."""
        words = {self._ids[word]: word for word in self._boxes}
        stream, text = self.model.tokenizer.stream(), ""
        for one in ids:
            if one in words:
                text += stream.flush() + words[one]
            else:
                text += stream.push(one)
        return text + stream.flush()


def is_published(folder: str | os.PathLike[str]) -> bool:
    """Whether `open_published` is for this folder: its config.json is of the Qwen2-VL family.

    Args:
        folder: Any folder.
    """
    return _is_published(Path(folder))


def open_published(
    folder: str | os.PathLike[str],
    *,
    device: Any = None,
    dtype: torch.dtype | None = None,
    dialect: str | None = None,
    language: str = "English",
    platform: Literal["computer", "phone"] = "computer",
    request: str | None = None,
    screenshots: int = 5,
    max_new_tokens: int = 512,
    max_pixels: int | None = None,
) -> PublishedPolicy:
    """Opens a folder with a published UI-TARS, or another model of the Qwen2-VL family.

    Args:
        folder: With config.json, safetensors, tokenizer.json and preprocessor_config.json.
        device: Where to put the weights (None: the CPU).
        dtype: Their type (None: that of the file, bfloat16 as published). In float32 the model of
            7 billion weights takes 33 GB.
        dialect: As in `PublishedPolicy`.
        language: As in `PublishedPolicy`.
        platform: As in `PublishedPolicy`.
        request: As in `PublishedPolicy`.
        screenshots: As in `PublishedPolicy`.
        max_new_tokens: As in `PublishedPolicy`.
        max_pixels: Most pixels of a screenshot as the model sees it (None: as the folder says);
            fewer are quicker and need less memory, and small print is lost.

    Raises:
        ValueError: A file that is missing, another kind of model, or weights that do not fit.
    """
    model = Qwen2VL.from_pretrained(folder, device=device, dtype=dtype)
    if max_pixels is not None:
        low = min(model.processor.min_pixels, max_pixels)
        model.processor = dataclasses.replace(
            model.processor, min_pixels=low, max_pixels=max_pixels
        )
    return PublishedPolicy(
        model, dialect=dialect, language=language, platform=platform, request=request,
        screenshots=screenshots, max_new_tokens=max_new_tokens,
    )  # fmt: skip


def _special_ids(model: Qwen2VL) -> dict[str, int]:
    """Words of special tokens and their numbers."""
    c, tokenizer = model.config, model.tokenizer
    marks = {
        "<|image_pad|>": c.image_token_id, "<|vision_start|>": c.vision_start_token_id,
        "<|vision_end|>": c.vision_end_token_id,
    }  # fmt: skip
    for word, wanted in marks.items():
        if tokenizer.id_of(word) != wanted:
            raise ValueError(
                f"{word} is token {tokenizer.id_of(word)} of the tokenizer and {wanted} of "
                "config.json: these files do not belong together"
            )
    found = {word: tokenizer.id_of(word) for word in (_START, _END, _STOP, *_BOXES)}
    for word in (_START, _END):
        if found[word] is None:
            raise ValueError(f"the tokenizer has no {word}, which conversations are written with")
    return {word: number for word, number in found.items() if number is not None}


def _key(pixels: np.ndarray) -> bytes:
    shape = f"{pixels.shape}{pixels.dtype}".encode()
    return hashlib.blake2b(np.ascontiguousarray(pixels).tobytes() + shape, digest_size=16).digest()
