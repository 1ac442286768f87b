"""Checkpoints: one call that reads whatever file a Llama comes in, one that writes it.

The same model is kept in four ways that differ in names, in the order of axes and in which
coordinates make a rotary pair:

- "hf": a Hugging Face folder, `config.json` and safetensors, pairs (i, i + D/2);
- "meta": Meta's folder, `params.json` and `consolidated.*.pth`, pairs (2i, 2i + 1);
- "llama2c": one `.bin` of llama2.c, pairs (2i, 2i + 1);
- "gguf", "gguf-q8_0": one file of llama.cpp, pairs (2i, 2i + 1); the second with weights of 8 bits.

A loaded model keeps the layout of its file, which its configuration names; saving permutes where
the other is wanted. What is wrong with a file is said at once, in one message.

References:
    Touvron et al. (2023), LLaMA, arXiv:2302.13971 (the model).
    Su et al. (2021), arXiv:2104.09864, eq. 34 (pairs of coordinates).

Shapes: none; weights have those of `Llama`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from paragone._core.lazy import resolve
from paragone.language._format_gguf import is_gguf, read_fields
from paragone.language._format_gguf_names import read_gguf, save_gguf
from paragone.language._format_hf import read_hf, write_hf
from paragone.language._format_llama2c import is_llama2c, read_llama2c, write_llama2c
from paragone.language._format_meta import is_meta, read_meta, write_meta
from paragone.language._format_weights import build_model
from paragone.language.llama import Llama

__all__ = ["FORMATS", "load", "read_model", "save"]

FORMATS = ("hf", "meta", "llama2c", "gguf", "gguf-q8_0")
"""What `save` writes and `load` reads."""

_TEXT_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer.bin")


def load(
    path: str | os.PathLike[str],
    tokenizer: str | os.PathLike[str] | None = None,
    *,
    device: Any = None,
    dtype: torch.dtype | None = None,
) -> tuple[Llama, Any]:
    """Reads a model and its tokenizer.

    Args:
        path: A Hugging Face folder, Meta's folder, a llama2.c `.bin` or a `.gguf`.
        tokenizer: Its file or folder (None: what lies in the model's folder, or in the
            GGUF itself).
        device: Where to put the model (None: the CPU).
        dtype: Type of the weights (None: that of the file).

    Returns:
        The model, in evaluation mode, and the tokenizer, None where there is none.

    Raises:
        ValueError: No such file, an unknown format, or contents that do not fit together.
    """
    path = Path(path)
    model = read_model(path, device=device, dtype=dtype)
    found = Path(tokenizer) if tokenizer is not None else _tokenizer_of(path)
    if found is None:
        return model, None
    return model, resolve("paragone.language.tokenizer:Tokenizer").load(found)


def read_model(
    path: str | os.PathLike[str], *, device: Any = None, dtype: torch.dtype | None = None
) -> Llama:
    """Reads a model alone.

    Args:
        path: As in `load`.
        device: As in `load`.
        dtype: As in `load`.

    Raises:
        ValueError: As in `load`.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist; name a model's folder, .bin or .gguf")
    readers = {"hf": read_hf, "meta": read_meta, "llama2c": read_llama2c, "gguf": read_gguf}
    config, tensors = readers[_kind(path)](path)
    return build_model(config, tensors, path, device=device, dtype=dtype)


def save(model: Llama, tokenizer: Any, folder: str | os.PathLike[str], format: str = "hf") -> Path:
    """Writes a model and, where there is one, its tokenizer.

    Args:
        model: The model.
        tokenizer: A `Tokenizer`, or None.
        folder: Where; made if it does not exist.
        format: One of `FORMATS`.

    Returns:
        What `load` is to be given.

    Raises:
        ValueError: An unknown format, or a model that the format cannot hold.
    """
    folder = Path(folder)
    if format not in FORMATS:
        raise ValueError(f"format={format!r} is none of {', '.join(FORMATS)}")
    if getattr(model, "adapter", None) is not None:
        raise ValueError(
            "the model has an adapter, which no format holds: merge_lora(model) first, or write it "
            "apart with save_adapter"
        )
    path = folder
    folder.mkdir(parents=True, exist_ok=True)
    if format == "hf":
        write_hf(model, folder)
    elif format == "meta":
        write_meta(model, folder)
    elif format == "llama2c":
        path = folder / "model.bin"
        write_llama2c(model, path)
    else:
        path = folder / f"model-{'q8_0' if format == 'gguf-q8_0' else 'f32'}.gguf"
        save_gguf(model, tokenizer, path, bytes_=format == "gguf-q8_0")
    if tokenizer is not None:
        tokenizer.save(folder)
    return path


def _kind(path: Path) -> str:
    if path.is_dir():
        return "meta" if is_meta(path) and not (path / "config.json").is_file() else "hf"
    if is_gguf(path):
        return "gguf"
    if is_llama2c(path):
        return "llama2c"
    raise ValueError(
        f"{path} is none of the known formats: a folder with config.json or params.json, a "
        "llama2.c .bin, a .gguf"
    )


def _tokenizer_of(path: Path) -> Path | None:
    if path.is_dir():
        return path if any((path / name).is_file() for name in _TEXT_FILES) else None
    if is_gguf(path):
        return path if "tokenizer.ggml.tokens" in read_fields(path) else None
    return _tokenizer_of(path.parent)
