"""The contestants of `scaling`: Llamas of growing size, each on the lines of compute near its own.

A size that a line would train for less than some tens of steps, or for hours, is left out of it:
the bottom of the line is elsewhere.
"""

from __future__ import annotations

from typing import Any

from paragone._core.lazy import resolve
from paragone.lab.spec import Contestant

__all__ = ["SIZES", "contestants", "decoder"]

HEAD = 16

SIZES: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "w8": (8, 1, ("a",)),
    "w16": (16, 1, ("a", "b", "c")),
    "w24": (24, 2, ("a", "b", "c", "d")),
    "w32": (32, 2, ("a", "b", "c", "d", "e")),
    "w48": (48, 2, ("a", "b", "c", "d", "e")),
    "w64": (64, 3, ("c", "d", "e")),
    "w96": (96, 4, ("d", "e")),
    "w128": (128, 6, ("e",)),
}
"""Id to width, layers, and the lines that it takes part in."""


def decoder(vocab: int, width: int, layers: int) -> Any:
    """A Llama with heads of about 16 and its embedding as the head.

    Args:
        vocab: Symbols V.
        width: Model width M.
        layers: Blocks L.
    """
    config = resolve("paragone.language:LlamaConfig")(
        vocab_size=vocab, hidden_size=width, num_hidden_layers=layers,
        num_attention_heads=max(1, width // HEAD), head_dim=HEAD, tie_word_embeddings=True,
    )  # fmt: skip
    return resolve("paragone.language:Llama")(config)


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
