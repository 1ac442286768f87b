r"""Who guesses, by what a folder holds: heads of any kind, or a smaller model.

Heads are told apart by the names of their weights, which are those of the publications,

| names | drafter |
|---|---|
| `0.0.linear.weight` | `Medusa` |
| `fc.weight` | `Eagle` |
| `model.layers.{L + k}.eh_proj.weight`, `extra_heads.{i}.…` | `MultiTokenPrediction` |
| those of a model alone | `DraftModel` |

so folders that were published, or were written here (modules of several tokens with an `mtp.json`),
need nothing else. Of weights only the names are read for that.

Cost: reading the heads.

References:
    Cai et al. (2024), arXiv:2401.10774; Li et al. (2024), arXiv:2401.15077;
    DeepSeek-AI (2024), arXiv:2412.19437, section 2.2; Gloeckle et al. (2024), arXiv:2404.19737
    (who published the names).
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from paragone.language.drafting import Drafter

__all__ = ["drafter_of", "kind_of", "load_drafter"]

_KINDS = {
    "medusa": re.compile(r"(medusa_head\.)?\d+\.\d+\.(linear\.)?weight"),
    "eagle": re.compile(r"fc\.weight"),
    "mtp": re.compile(r"(model\.layers\.\d+\.eh_proj\.weight|extra_heads\..*)"),
    "model": re.compile(r"(model\.embed_tokens\.weight|tok_embeddings\.weight)"),
}
_PICKLED = ("*.pt", "*.pth", "*.bin")


def drafter_of(speculate: Any, model: Any, tokenizer: Any = None) -> Drafter | None:
    """The drafter that a user means, who may also name a folder.

    Args:
        speculate: As in `generate`, or the path of heads or of a smaller model.
        model: The `Llama` that decides.
        tokenizer: Its tokenizer; a smaller model that has another one is refused.

    Raises:
        ValueError: None of these, or files that do not fit the model.
        FileNotFoundError: No such folder.
    """
    from paragone.language.generate import draft_of

    named = isinstance(speculate, str | os.PathLike) and speculate != "prompt-lookup"
    return load_drafter(speculate, model, tokenizer) if named else draft_of(speculate)


def load_drafter(folder: str | os.PathLike[str], model: Any, tokenizer: Any = None) -> Drafter:
    """Loads heads of any kind, or a smaller model that drafts.

    Prefer it to `Medusa.load` and the like where the kind is the user's affair.

    Args:
        folder: Heads as `save` writes them or as they were published; a model's folder, a llama2.c
            .bin or a .gguf.
        model: The `Llama` that decides.
        tokenizer: Its tokenizer; a smaller model that has another one is refused.

    Raises:
        ValueError: A folder with nothing of that, or one that does not fit the model.
        FileNotFoundError: No such folder.
    """
    path = Path(folder)
    kind = kind_of(path)
    if kind == "medusa":
        from paragone.language.medusa import Medusa

        return Medusa.load(path, model)
    if kind == "eagle":
        from paragone.language.eagle import Eagle

        return Eagle.load(path, model)
    if kind == "mtp":
        from paragone.language.multi_token_prediction import MultiTokenPrediction

        return MultiTokenPrediction.load(path, model)
    return _smaller(path, model, tokenizer)


def kind_of(path: Path) -> str:
    """Says "medusa", "eagle", "mtp" or "model".

    Args:
        path: A folder, or the file of a model.

    Raises:
        ValueError: Nothing of that.
        FileNotFoundError: Nothing at all.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; a folder of heads (paragone draft-heads writes one), of a "
            "smaller model, or prompt-lookup is expected"
        )
    if path.is_file():
        return "model"
    if (path / "mtp.json").is_file():
        return "mtp"
    names = sorted(_names(path))
    for kind, pattern in _KINDS.items():
        if any(pattern.fullmatch(name) for name in names):
            return kind
    raise ValueError(
        f"{path}: neither heads nor a model; it has "
        f"{'weights such as ' + ', '.join(names[:3]) if names else 'no weights'}"
    )


def _names(folder: Path) -> Iterable[str]:
    """Names of all weights of a folder."""
    import torch
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                yield from file.keys()
        except SafetensorError as error:
            raise ValueError(f"{path}: expected safetensors, could not read it: {error}") from error
    for path in sorted(path for pattern in _PICKLED for path in folder.glob(pattern)):
        if path.name in ("last.pt", "training_args.bin"):
            continue
        try:
            yield from torch.load(path, map_location="meta", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError, TypeError) as error:
            raise ValueError(f"{path}: expected weights by name, could not read them") from error


def _smaller(path: Path, model: Any, tokenizer: Any) -> Drafter:
    """A smaller model of the same words."""
    from paragone.language.checkpoints import load
    from paragone.language.draft_model import DraftModel

    weight = model.model.embed_tokens.weight
    network, words = load(path, device=str(weight.device))
    other = None if tokenizer is None or words is None else _apart(words, tokenizer)
    if other is not None:
        raise ValueError(
            f"{path} writes other tokens than the model that decides (token {other}): a draft "
            "model has the same tokenizer"
        )
    return DraftModel(network)


def _apart(words: Any, others: Any) -> int | None:
    """The first token that two tokenizers write differently."""
    sizes = words.vocab_size, others.vocab_size
    for token in range(min(sizes)):
        if words.token_bytes(token) != others.token_bytes(token):
            return token
    return min(sizes) if sizes[0] != sizes[1] else None
