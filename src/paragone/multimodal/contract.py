r"""One contract for models of texts and pictures: what training, study and shell ask of them.

A model turns documents into sums of losses that can be added up over batches and ranks, apart for
text and pictures, and continues prompts:

$$ L = \frac{\sum_t \ell_t + \lambda \sum_p \ell_p + \sum_k r_k}{\#t + \#p} , $$

with t tokens of text, p tokens or patches of pictures, and r what keeps training stable (z-loss,
loads of experts), reported apart.

References:
    Zhou et al. (2024), Transfusion, arXiv:2408.11039, eq. 4 (weighted sum of both losses).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from paragone._core.lazy import resolve
from paragone.multimodal._model_files import read_json
from paragone.multimodal.documents import Document, Part

__all__ = ["ARCHITECTURES", "Losses", "VisionLanguage", "open_model"]

ARCHITECTURES = {
    "kimi": ("kimi_vl", "paragone.multimodal.kimi_vl:KimiVL"),
    "chameleon": ("chameleon", "paragone.multimodal.chameleon:Chameleon"),
    "lossless": ("lossless", "paragone.multimodal.lossless:LosslessTransformer"),
}
"""Name on the command line to `model_type` in config.json and the class."""


@dataclasses.dataclass(frozen=True)
class Losses:
    """Sums over a batch of documents; gradients flow through all of them.

    Attributes:
        text: Sum of the losses of learned tokens of text, in nats.
        text_count: How many they are.
        image: Sum over learned tokens or patches of pictures: nats of tokens, or mean squared
            errors of patches (of a patch, the mean over its numbers).
        image_count: How many they are.
        image_weight: What multiplies `image` in the total.
        others: Further sums that are added as they are: "z_text", "z_image", "balance".
    """

    text: Tensor
    text_count: int
    image: Tensor
    image_count: int
    image_weight: float = 1.0
    others: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        """What is differentiated, a sum; divide by `count` for the mean."""
        total = self.text + self.image_weight * self.image
        for one in self.others.values():
            total = total + one
        return total

    @property
    def count(self) -> int:
        """Tokens and patches that are learned."""
        return self.text_count + self.image_count


class VisionLanguage(nn.Module):
    """A model of documents; subclasses write `losses`, `generate` and the two of files.

    Attributes:
        arch: A key of `ARCHITECTURES`.
        draws: Whether it makes pictures.
        tokenizer: A `paragone.language.Tokenizer`, or None until one is set.
        outer_weights: Beginnings of names of matrices that are no hidden ones (what takes pixels
            in, the head), which Muon leaves to AdamW; embeddings need not be named.
    """

    arch: str
    draws: bool
    tokenizer: Any
    outer_weights: tuple[str, ...] | None = None

    def losses(self, documents: Sequence[Document]) -> Losses:
        """Sums of losses; what is drawn (times, noise, dropout) comes from torch's generator.

        Args:
            documents: Any number; they do not see each other, and the result is that of each alone.

        Raises:
            ValueError: A picture that does not fit, or an empty batch.
        """
        raise NotImplementedError

    def generate(
        self,
        prompts: Sequence[Sequence[Part]],
        *,
        pictures: Literal["none", "one", "free"] = "none",
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        guidance: float | None = None,
        size: tuple[int, int] | None = None,
        seed: int = 0,
    ) -> list[Document]:
        """Continues prompts; what comes back is what is new.

        Args:
            prompts: Texts and pictures in order, of each document.
            pictures: "none": text alone; "one": exactly one picture, at once, and nothing else;
                "free": the model decides.
            max_new_tokens: Most tokens of text (with "free", pictures' tokens count, too).
            temperature: Of tokens; 0 takes the most likely one.
            top_p: Share of probability that tokens are drawn from.
            guidance: Strength of classifier-free guidance of pictures (None: the model's own).
            size: Rows and columns of pixels of new pictures (None: the model's own).
            seed: What is drawn depends on it and on the prompt's place alone.

        Returns:
            One document a prompt.

        Raises:
            ValueError: A model that does not draw, or values out of range.
        """
        raise NotImplementedError

    def describe(
        self, pictures: Sequence[np.ndarray], question: str = "", **options: Any
    ) -> list[str]:
        """Texts that follow pictures, and a question if there is one; options as in `generate`."""
        prompts = [(one, question) if question else (one,) for one in pictures]
        return [one.text for one in self.generate(prompts, pictures="none", **options)]

    def draw(self, texts: Sequence[str], **options: Any) -> list[np.ndarray]:
        """Pictures that follow texts, (H, W, C) uint8; options as in `generate`."""
        options.setdefault("temperature", 1.0)
        drawn = self.generate([(text,) for text in texts], pictures="one", **options)
        return [one.pictures[0] for one in drawn]

    def parts(self) -> dict[str, list[str]]:
        """Parts by name (such as "vision"), each as beginnings of names of parameters."""
        return {"language": [""]}

    def after_step(self) -> dict[str, float]:
        """What is to be done after each step of the optimizer; returns what is worth a line."""
        return {}

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Writes config.json, model.safetensors and the tokenizer."""
        raise NotImplementedError

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], *, device: Any = None, dtype: torch.dtype | None = None
    ) -> VisionLanguage:
        """Reads what `save_pretrained` wrote, or the published layout.

        Raises:
            ValueError: A file that is missing, or weights that do not fit.
        """
        raise NotImplementedError


def open_model(
    folder: str | os.PathLike[str], *, device: Any = None, dtype: torch.dtype | None = None
) -> VisionLanguage:
    """Opens the model of a folder, whichever of the three it is.

    Args:
        folder: Holds config.json with a `model_type`, and weights.
        device: Where to put it (None: the CPU).
        dtype: Type of the weights (None: that of the file).

    Raises:
        ValueError: No such file, or another kind of model.
    """
    path = Path(folder) / "config.json"
    kind = read_json(path, "the folder of a model").get("model_type")
    for name, target in ARCHITECTURES.values():
        if kind == name:
            return resolve(target).from_pretrained(folder, device=device, dtype=dtype)
    known = ", ".join(name for name, _ in ARCHITECTURES.values())
    raise ValueError(f"{path}: model_type={kind!r} is none of {known}")
