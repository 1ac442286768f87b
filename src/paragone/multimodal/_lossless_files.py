"""Folders of a `LosslessTransformer`: config.json, model.safetensors and the tokenizer.

References:
    The safetensors format (huggingface/safetensors, README).

Shapes: those of the parameters.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from paragone.language.tokenizer import Tokenizer
from paragone.multimodal._lossless_config import LosslessConfig, config_of
from paragone.multimodal._model_files import read_json
from paragone.training.run_folder import write_whole

__all__ = ["filled", "read_model", "write_model"]

_HEAD, _EMBEDDING = "language.lm_head.weight", "language.model.embed_tokens.weight"


def write_model(model: Any, folder: Path) -> Path:
    """Writes a model; each file is whole at every instant."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: x.detach().cpu().contiguous() for name, x in model.state_dict().items()}
    if model.config.text_config.tie_word_embeddings:
        tensors.pop(_HEAD, None)
    write_whole(folder / "model.safetensors", save(tensors, metadata={"format": "pt"}))
    text = json.dumps(model.config.as_dict(), indent=2, sort_keys=True) + "\n"
    write_whole(folder / "config.json", text.encode())
    if model.tokenizer is not None:
        model.tokenizer.save(folder)
    return folder


def read_model(folder: Path) -> tuple[LosslessConfig, dict[str, Tensor], Any]:
    """Reads a folder.

    Raises:
        ValueError: A file that is missing, broken or of another kind.
    """
    path, weights = folder / "config.json", folder / "model.safetensors"
    for file in (path, weights):
        if not file.is_file():
            raise ValueError(f"{file}: no such file; save_pretrained writes it")
    raw = read_json(path, "the folder of a LosslessTransformer")
    kind = raw.get("model_type")
    if kind != "lossless":
        raise ValueError(f"{path}: model_type={kind!r}; 'lossless' is expected")
    try:
        config = config_of(raw, {})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    try:
        tensors = load_file(weights)
    except SafetensorError as error:
        raise ValueError(f"{weights}: no safetensors file ({error})") from error
    known = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))
    return config, tensors, Tokenizer.load(folder) if known else None


def filled(
    model: Any, tensors: dict[str, Tensor], tokenizer: Any, folder: Path, device: Any, dtype: Any
) -> Any:
    """A model on "meta" with the weights of a file; all that does not fit is said at once."""
    if model.config.text_config.tie_word_embeddings and _EMBEDDING in tensors:
        tensors[_HEAD] = tensors[_EMBEDDING]
    own = model.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in tensors]
    wrong += [f"{name} is not of this model" for name in tensors if name not in own]
    wrong += [
        f"{name} has shape {tuple(x.shape)}, {tuple(own[name].shape)} is expected"
        for name, x in tensors.items() if name in own and x.shape != own[name].shape
    ]  # fmt: skip
    if wrong:
        more = f"; and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise ValueError(f"{folder / 'model.safetensors'}: {'; '.join(wrong[:8])}{more}")
    device = torch.device("cpu") if device is None else device
    moved = {
        name: x.to(device=device, dtype=dtype if dtype and x.is_floating_point() else x.dtype)
        for name, x in tensors.items()
    }
    model.load_state_dict(moved, assign=True)
    if model.config.text_config.tie_word_embeddings:
        model.language.lm_head.weight = model.language.model.embed_tokens.weight
    model.tokenizer = tokenizer
    return model.eval()
