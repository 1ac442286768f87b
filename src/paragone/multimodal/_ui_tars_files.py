"""The folder of a `UITars`: config.json with the vocabulary, and model.safetensors.

References:
    The safetensors format (huggingface/safetensors, README).

Shapes: none.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from paragone.training.run_folder import write_whole

__all__ = ["read_folder", "write_folder"]

_WEIGHTS = "model.safetensors"


def write_folder(model: Any, folder: str | os.PathLike[str]) -> Path:
    """Writes a model; each file is replaced whole.

    Args:
        model: A `UITars`.
        folder: Made if it is not there.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    state = {name: x.detach().cpu().contiguous() for name, x in model.state_dict().items()}
    text = json.dumps(model.config.to_dict(), indent=1, ensure_ascii=False)
    write_whole(path / "config.json", text.encode())
    write_whole(path / _WEIGHTS, save(state, {"format": "pt"}))
    return path


def read_folder(model: Any, folder: Path, device: Any, dtype: torch.dtype | None) -> None:
    """Gives a model on `meta` the weights of a folder.

    Args:
        model: A `UITars` of the folder's configuration.
        folder: With model.safetensors.
        device: Where the weights are to be (None: the CPU).
        dtype: Their type (None: that of the file).

    Raises:
        ValueError: No such file, or names and shapes that do not fit.
    """
    path = folder / _WEIGHTS
    if not path.is_file():
        raise ValueError(f"{path}: no such file; the weights of a UITars are expected")
    given = load_file(path, device=str(device or "cpu"))
    wanted = model.state_dict()
    wrong = sorted(set(wanted) ^ set(given)) + [
        f"{name}: shape {tuple(given[name].shape)}, expected {tuple(x.shape)}"
        for name, x in wanted.items() if name in given and given[name].shape != x.shape
    ]  # fmt: skip
    if wrong:
        raise ValueError(f"{path}: does not fit its config.json: {'; '.join(wrong[:6])}")
    if dtype is not None:
        given = {k: x.to(dtype) if x.is_floating_point() else x for k, x in given.items()}
    model.load_state_dict(given, assign=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith("encoder.stem.tokenizer."))
