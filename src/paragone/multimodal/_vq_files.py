"""Files of picture tokenizers: a folder of its own, Chameleon's folder, taming's checkpoint.

    own folder          config.json, model.safetensors            encoder.*, quantize.embedding.*
    Chameleon's (HF)    config.json with vq_config, safetensors   model.vqmodel.encoder.*, ...
    taming, Chameleon   one .ckpt of torch                        encoder.*, loss.* (left out)

Hugging Face's conversion keeps the encoder's half alone.

References:
    facebookresearch/chameleon, `vqgan.ckpt`; transformers, `ChameleonVQVAE` (names of tensors).
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paragone.language._format_hf import hf_tensors
from paragone.multimodal._model_files import checked_weights, read_json
from paragone.multimodal.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from paragone.training.run_folder import Folder

__all__ = ["fill", "load", "save"]

_PREFIXES = ("", "model.vqmodel.", "vqmodel.")
_CODES = "quantize.embedding.weight"
_LEFT_OUT = ("loss.", "quantize.ema_")
_FOLDER = "the folder of a tokenizer"


def save(tokenizer: ImageTokenizer, folder: Path) -> Path:
    """Writes config.json and model.safetensors, each whole at every instant."""
    files = Folder(folder)
    files.write_config(tokenizer.config.to_dict())
    files.write_model(tokenizer, {"format": "pt"})
    return folder


def load(path: Path, device: Any, dtype: torch.dtype | None) -> ImageTokenizer:
    """Reads a tokenizer; see `ImageTokenizer.from_pretrained`."""
    if path.is_file():
        raw, tensors = _beside(path), _checkpoint(path)
    else:
        raw = read_json(path / "config.json", _FOLDER)
        tensors = hf_tensors(path, lambda name: name.startswith(_wanted(raw)))
    prefix = next((one for one in _PREFIXES if one + _CODES in tensors), None)
    if prefix is None:
        raise ValueError(f"{path}: no tensor {_CODES}; the weights of a picture tokenizer have one")
    tensors = {
        name.removeprefix(prefix): x
        for name, x in tensors.items()
        if name.startswith(prefix) and not name.removeprefix(prefix).startswith(_LEFT_OUT)
    }
    decoder = any(name.startswith("decoder.") for name in tensors)
    config = ImageTokenizerConfig.make(raw.get("vq_config") or raw, decoder=decoder)
    tokenizer = ImageTokenizer(config, device="meta")
    fill(tokenizer, tensors, path, device=device, dtype=dtype)
    return tokenizer.eval()


def fill(
    tokenizer: ImageTokenizer,
    tensors: Mapping[str, Tensor],
    source: Path | str,
    *,
    device: Any = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Gives a tokenizer, which may be on meta, its weights.

    Raises:
        ValueError: Names or shapes that do not fit, all of them in one message.
    """
    checked_weights(tokenizer.state_dict(), tensors, source)
    device = torch.device("cpu" if device is None else device)
    tokenizer.load_state_dict(
        {name: x.to(device, dtype) for name, x in tensors.items()}, assign=True
    )


def _wanted(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """In a model's folder its other tensors, gigabytes, stay unread."""
    return _PREFIXES[1:] if "vq_config" in raw else ("",)


def _beside(path: Path) -> dict[str, Any]:
    near = path.with_name("config.json")
    return read_json(near, _FOLDER) if near.is_file() else {}


def _checkpoint(path: Path) -> dict[str, Tensor]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(
            f"{path}: expected a checkpoint of tensors alone ({error}); save its state_dict anew"
        ) from error
    found = found.get("state_dict", found) if isinstance(found, dict) else {}
    return {name: x for name, x in found.items() if isinstance(x, Tensor)}
