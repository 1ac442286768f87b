"""Kimi-VL's files: the published folder, read strictly and written, whole or in shards.

In memory the matrices of a layer's experts are stacked; files have one of each. Everything that
does not fit is said in one message. Files are replaced whole, so that a folder that is written
again can be opened at every instant.

References:
    The safetensors format (huggingface/safetensors, README); names as in the files of Kimi-VL-A3B.

Shapes: E experts, F hidden units of one, M model width.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from paragone.language._format_hf import hf_tensors
from paragone.language._moe_names import joined, split
from paragone.multimodal._kimi_config import KimiVLConfig
from paragone.multimodal._model_files import checked_weights, read_json

__all__ = ["published", "put_weights", "read_config_of", "read_weights", "write_weights"]

_TEXT = "language_model."
_HEAD, _EMBEDDING = f"{_TEXT}lm_head.weight", f"{_TEXT}model.embed_tokens.weight"
_INDEX, _WHOLE = "model.safetensors.index.json", "model.safetensors"


def published(model: Any) -> dict[str, Tensor]:
    """A model's tensors under the names of files; views of its own, on any device.

    Args:
        model: A `KimiVL`.
    """
    config: KimiVLConfig = model.config
    state = model.state_dict()
    if config.text_config.tie_word_embeddings:
        del state[_HEAD]
    if config.text_kind == "paragone":
        return state
    text = {name.removeprefix(_TEXT): x for name, x in state.items() if name.startswith(_TEXT)}
    other = {name: x for name, x in state.items() if not name.startswith(_TEXT)}
    return other | {_TEXT + name: x for name, x in split(text, config.text_kind).items()}


def read_config_of(folder: Path) -> KimiVLConfig:
    """Reads `config.json`.

    Raises:
        ValueError: No such file, or one of another model.
    """
    path = folder / "config.json"
    raw = read_json(path, "the folder of a Kimi-VL")
    kind = raw.get("model_type")
    if kind != "kimi_vl":
        raise ValueError(f"{path}: model_type={kind!r}; 'kimi_vl' is expected")
    return KimiVLConfig.from_dict(raw, path)


def read_weights(model: Any, folder: Path, device: Any, dtype: torch.dtype | None) -> None:
    """Gives a model on `meta` the weights of a folder.

    Args:
        model: A `KimiVL` of the folder's configuration.
        folder: With safetensors, whole or in shards.
        device: Where the weights are to be (None: the CPU).
        dtype: Their type (None: that of the file).

    Raises:
        ValueError: Names, shapes or types that do not fit, all of them in one message.
    """
    config: KimiVLConfig = model.config
    tensors = hf_tensors(folder, lambda name: True)
    text = {name.removeprefix(_TEXT): x for name, x in tensors.items() if name.startswith(_TEXT)}
    given = {name: x for name, x in tensors.items() if not name.startswith(_TEXT)}
    given |= {_TEXT + name: x for name, x in joined(text, config.text_config, folder).items()}
    if config.text_config.tie_word_embeddings and _EMBEDDING in given:
        given[_HEAD] = given[_EMBEDDING]
    checked_weights(model.state_dict(), given, folder)
    place = torch.device("cpu" if device is None else device)
    for name, x in given.items():
        kept = dtype is None or name.endswith("e_score_correction_bias")
        given[name] = x.to(place, None if kept else dtype)
    model.load_state_dict(given, assign=True)
    if config.text_config.tie_word_embeddings:
        language = model.language_model
        language.lm_head.weight = language.model.embed_tokens.weight


def write_weights(model: Any, folder: Path, shard_bytes: int) -> None:
    """Writes safetensors with the published names.

    Args:
        model: A `KimiVL`.
        folder: Where; it exists.
        shard_bytes: Most bytes of one file; beyond it, shards and an index.
    """
    put_weights(published(model), folder, shard_bytes)


def put_weights(tensors: Mapping[str, Tensor], folder: Path, shard_bytes: int) -> None:
    """Writes named tensors, whole or in shards; files of weights that are no longer named go.

    Args:
        tensors: By name.
        folder: Where; it exists.
        shard_bytes: As in `write_weights`.
    """
    shards: list[dict[str, Tensor]] = [{}]
    filled = total = 0
    for name, x in tensors.items():
        size = x.numel() * x.element_size()
        if shards[-1] and filled + size > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = x.detach()
        filled, total = filled + size, total + size
    if len(shards) == 1:
        _put(shards[0], folder / _WHOLE)
        written = {_WHOLE}
    else:
        where: dict[str, str] = {}
        for at, shard in enumerate(shards, 1):
            file = f"model-{at:05d}-of-{len(shards):05d}.safetensors"
            _put(shard, folder / file)
            where |= dict.fromkeys(shard, file)
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        written = {_INDEX, *where.values()}
    for old in folder.glob("model*.safetensors*"):
        if old.name not in written:
            old.unlink()


def _put(tensors: Mapping[str, Tensor], path: Path) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    whole = {name: x.to("cpu").contiguous() for name, x in tensors.items()}
    save_file(whole, beside, metadata={"format": "pt"})
    os.replace(beside, path)
