"""Models of `paragone.language` as commands of the shell open them.

Importing this module loads the standard library alone; the function imports what it needs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

__all__ = ["drafts", "opened", "place_of"]


def place_of(device: str) -> str:
    """The device that "auto" means here."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def opened(
    model: str | os.PathLike[str],
    tokenizer: str | None = None,
    *,
    device: str = "auto",
    threads: int | None = None,
) -> tuple[Any, Any]:
    """Model and tokenizer of a path, on the device; torch takes the threads from then on.

    Args:
        model: A folder, a llama2.c .bin or a .gguf.
        tokenizer: Path of the tokenizer, if it does not lie beside the model.
        device: "auto", "cpu", "cuda" and so on.
        threads: Threads of torch; None: as they are.

    Raises:
        UsageError: There is no tokenizer.
        ValueError: Files that are broken.
        FileNotFoundError: No such model.
    """
    import torch

    from paragone._core.errors import UsageError
    from paragone.language.checkpoints import load

    network, words = load(Path(model), tokenizer, device=place_of(device))
    if words is None:
        raise UsageError(f"{model}: no tokenizer beside it; name one with --tokenizer")
    if threads is not None:
        torch.set_num_threads(threads)
    return network, words


def drafts(text: str) -> int | str:
    """How much is to be drafted, as a word of the shell says it.

    Raises:
        UsageError: Neither "auto" nor a number from 1 on.

    Example:
        >>> drafts("auto"), drafts("4")
        ('auto', 4)
    """
    from paragone._core.errors import UsageError

    if text == "auto":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--draft {text!r} is not understood; write auto, or a number from 1 on")
    return int(text)
