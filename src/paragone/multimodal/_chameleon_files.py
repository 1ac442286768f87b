"""Files of Chameleon: one folder with the published names, the image tokenizer inside.

    config.json                  published fields, vocabulary_map, vq_config, and our own
    model*.safetensors           model.embed_tokens, model.layers.i.*, model.norm, model.vqmodel.*,
                                 lm_head; whole, or in shards with an index
    tokenizer.json               text and words of codes

Published folders hold the encoder's half of the image tokenizer: such a model reads pictures, and
draws when it is given a decoder (`image_tokenizer=`).

References:
    facebook/chameleon-7b (names of tensors and fields, as transformers reads them).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as packed
from torch import Tensor

from paragone.language._format_hf import hf_tensors
from paragone.language.tokenizer import Tokenizer
from paragone.multimodal._chameleon_config import ChameleonConfig
from paragone.multimodal._model_files import checked_weights, read_json
from paragone.training.run_folder import Folder, write_whole

__all__ = ["load", "save"]

_VQ = "model.vqmodel."
_TEXT_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer.bin")
_INDEX = "model.safetensors.index.json"


def save(model: Any, folder: Path, shard_bytes: int = 5 << 30) -> Path:
    """Writes a model; each file is whole at every instant.

    Args:
        model: A `Chameleon`.
        folder: Where; made if it does not exist.
        shard_bytes: Most bytes of one file of weights.
    """
    files = Folder(folder)
    tensors = {name: x.detach().cpu().contiguous() for name, x in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight")
    _write(tensors, folder, shard_bytes)
    if model.tokenizer is not None:
        model.tokenizer.save(folder)
    dtype = str(model.lm_head.weight.dtype).removeprefix("torch.")
    files.write_config({**model.config.to_dict(), "dtype": dtype})
    return folder


def _write(tensors: Mapping[str, Tensor], folder: Path, most: int) -> None:
    shards: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name, x in tensors.items():
        size = x.numel() * x.element_size()
        if shards[-1] and filled + size > most:
            shards.append({})
            filled = 0
        shards[-1][name] = x
        filled += size
    count = len(shards)
    names = ["model.safetensors"] if count == 1 else [
        f"model-{at:05d}-of-{count:05d}.safetensors" for at in range(1, count + 1)
    ]  # fmt: skip
    for name, shard in zip(names, shards, strict=True):
        write_whole(folder / name, packed(shard, {"format": "pt"}))
    if count > 1:
        total = sum(x.numel() * x.element_size() for x in tensors.values())
        where = {x: name for name, shard in zip(names, shards, strict=True) for x in shard}
        index = {"metadata": {"total_size": total}, "weight_map": where}
        write_whole(folder / _INDEX, json.dumps(index, indent=1).encode())
    elif (folder / _INDEX).exists():
        (folder / _INDEX).unlink()
    for old in folder.glob("model*.safetensors"):
        if old.name not in names:
            old.unlink()


def load(
    kind: Any, folder: Path, image_tokenizer: Any, device: Any, dtype: torch.dtype | None
) -> Any:
    """Reads a model; see `Chameleon.from_pretrained`."""
    raw = read_json(folder / "config.json", "the folder of a Chameleon")
    if raw.get("model_type") != "chameleon":
        raise ValueError(
            f"{folder / 'config.json'}: model_type={raw.get('model_type')!r}, 'chameleon' is "
            "expected"
        )
    tensors = hf_tensors(folder, lambda name: True)
    decoder = any(name.startswith(_VQ + "decoder.") for name in tensors)
    if image_tokenizer is not None:
        tensors = {name: x for name, x in tensors.items() if not name.startswith(_VQ)}
        tensors |= {_VQ + name: x for name, x in image_tokenizer.state_dict().items()}
        config = ChameleonConfig.make(raw, vq_config=image_tokenizer.config)
    else:
        config = ChameleonConfig.make(raw, vq_config={"decoder": decoder})
    model = kind(config, device="meta")
    if config.tie_word_embeddings:
        tensors["lm_head.weight"] = tensors.get("model.embed_tokens.weight", torch.empty(0))
    checked_weights(model.state_dict(), tensors, folder)
    where = torch.device("cpu" if device is None else device)
    model.load_state_dict({name: x.to(where, dtype) for name, x in tensors.items()}, assign=True)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.freeze_pictures()
    if any((folder / name).is_file() for name in _TEXT_FILES):
        model.tokenizer = Tokenizer.load(folder)
    return model.eval()
