"""The contestants of `scaling`: Llamas of growing size, each on the lines of compute near its own.

A size that a line would train for less than some tens of steps, or for hours, is left out of it:
the bottom of the line is elsewhere.
"""

from __future__ import annotations

from typing import Any

import torch

from paragone._core.lazy import resolve
from paragone.lab.spec import Contestant

__all__ = ["SIZES", "contestants", "decoder"]

HEAD = 16
SPREAD = 0.55

SIZES: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "w8": (8, 1, ("a",)),
    "w12": (12, 1, ("a", "b")),
    "w16": (16, 1, ("a", "b", "c")),
    "w24": (24, 1, ("a", "b", "c", "d")),
    "w32": (32, 1, ("a", "b", "c", "d")),
    "w48": (48, 1, ("b", "c", "d", "e")),
    "w64": (64, 2, ("c", "d", "e")),
    "w96": (96, 3, ("d", "e")),
    "w128": (128, 4, ("d", "e")),
}
"""Id to width, layers, and the lines that it takes part in."""


def decoder(vocab: int, width: int, layers: int) -> Any:
    """A Llama with heads of 16 and its embedding as the head.

    Narrow layers need larger first weights than 0.02: their deviation is half of 1 / sqrt(M).

    Args:
        vocab: Symbols V.
        width: Model width M.
        layers: Blocks L.
    """
    config = resolve("paragone.language:LlamaConfig")(
        vocab_size=vocab, hidden_size=width, num_hidden_layers=layers,
        num_attention_heads=max(1, width // HEAD), head_dim=HEAD, tie_word_embeddings=True,
        # Of windows this short plain operations are as quick, and guests are made of them, too.
        mixer_options={"backend": "torch"},
    )  # fmt: skip
    model = resolve("paragone.language:Llama")(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(SPREAD * width**-0.5 / 0.02)
    return model


def contestants() -> list[Contestant]:
    """A Llama of each size."""
    return [
        Contestant(
            id=id, title=f"width {width}, {layers} layer{'s' * (layers > 1)}",
            make="paragone.lab.contestants.scaling:decoder", method="llama",
            params={"width": width, "layers": layers}, needs={"line": list(lines)},
        )
        for id, (width, layers, lines) in SIZES.items()
    ]  # fmt: skip
