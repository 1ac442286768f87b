"""Files of the Qwen2-VL family: the published folder, read strictly by either layout of names.

    config.json, preprocessor_config.json, tokenizer.json
    model*.safetensors          visual.*, model.embed_tokens, model.layers.i.*, model.norm, lm_head

Published files have these names; what newer programs write has `model.visual.*` and
`model.language_model.*`. Both are read, and the first is written, which both kinds of programs
read. A tied head is written once, as the embedding. Weights are mapped: a page is in memory from
when it is first used, and a type of one's own (`dtype`) is made tensor by tensor.

References:
    The safetensors format (huggingface/safetensors, README); names as in the files of
    Qwen/Qwen2-VL-2B-Instruct and ByteDance-Seed/UI-TARS-1.5-7B.

Shapes: those of the parameters.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paragone.language._format_hf import hf_tensors
from paragone.multimodal._kimi_files import put_weights
from paragone.multimodal._model_files import checked_weights, read_json
from paragone.multimodal._qwen2_vl_config import KINDS, Qwen2VLConfig
from paragone.training.run_folder import write_whole

__all__ = ["is_published", "read_config_of", "read_weights", "renamed", "write_model"]

_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_NEWER = (("model.visual.", "visual."), ("model.language_model.", "model."))


def is_published(folder: Path) -> bool:
    """Whether a folder's `config.json` is that of a Qwen2-VL or a Qwen2.5-VL."""
    path = folder / "config.json"
    try:
        raw = read_json(path, "the folder of a Qwen2-VL")
    except ValueError:
        return False
    return raw.get("model_type") in KINDS


def read_config_of(folder: Path) -> Qwen2VLConfig:
    """Reads `config.json`.

    Raises:
        ValueError: No such file, or one of another model.
    """
    path = folder / "config.json"
    raw = read_json(path, "the folder of a Qwen2-VL")
    return Qwen2VLConfig.from_dict(raw, path)


def renamed(name: str) -> str:
    """The published name of a tensor that may have the newer one.

    Example:
        >>> renamed("model.language_model.norm.weight"), renamed("model.norm.weight")
        ('model.norm.weight', 'model.norm.weight')
    """
    for newer, published in _NEWER:
        if name.startswith(newer):
            return published + name.removeprefix(newer)
    return name


def read_weights(model: Any, folder: Path, device: Any, dtype: torch.dtype | None) -> None:
    """Gives a model on `meta` the weights of a folder.

    Args:
        model: A `Qwen2VL` of the folder's configuration.
        folder: With safetensors, whole or in shards.
        device: Where the weights are to be (None: the CPU).
        dtype: Their type (None: that of the file).

    Raises:
        ValueError: Names, shapes or types that do not fit, all of them in one message.
    """
    given: dict[str, Tensor] = {}
    for name, x in hf_tensors(folder, lambda name: True).items():
        if renamed(name) in given:
            raise ValueError(f"{folder}: {renamed(name)} is there under two names")
        given[renamed(name)] = x
    if model.config.text_config.tie_word_embeddings and _EMBEDDING in given:
        if _HEAD in given and not torch.equal(given[_HEAD], given[_EMBEDDING]):
            raise ValueError(
                f"{folder}: {_HEAD} differs from {_EMBEDDING}, but tie_word_embeddings is true: "
                "set it to false to keep both"
            )
        given[_HEAD] = given[_EMBEDDING]
    checked_weights(model.state_dict(), given, folder)
    place = torch.device("cpu" if device is None else device)
    for name in given:
        given[name] = given[name].to(place, dtype)
        if name == _EMBEDDING and model.config.text_config.tie_word_embeddings:
            given[_HEAD] = given[name]
    model.load_state_dict(given, assign=True)
    model.tie()


def write_model(model: Any, folder: Path, shard_bytes: int) -> None:
    """Writes config, weights, processor and, where there is one, the tokenizer.

    Args:
        model: A `Qwen2VL`.
        folder: Made if it does not exist.
        shard_bytes: Most bytes of one file of weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dtype = str(model.lm_head.weight.dtype).removeprefix("torch.")
    text = json.dumps(model.config.to_dict(dtype), indent=2, sort_keys=True) + "\n"
    write_whole(folder / "config.json", text.encode())
    model.processor.save_pretrained(folder)
    if model.tokenizer is not None:
        model.tokenizer.save(folder)
    tensors = model.state_dict()
    if model.config.text_config.tie_word_embeddings:
        del tensors[_HEAD]
    put_weights(tensors, folder, shard_bytes)
