"""Folders of Medusa heads: `config.json` beside `medusa_lm_head.safetensors`, or as published.

Published folders hold `medusa_lm_head.pt` or `.safetensors` with `{k}.{i}.linear.weight`,
`{k}.{i}.linear.bias` and `{k}.{n}.weight`, and no measurements; whole models that were trained
with their heads have the same names behind `medusa_head.`.

References:
    FasterDecoding/Medusa (names of tensors, fields of config.json).

Shapes: M width, V vocabulary, V' drafted tokens, n blocks.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from paragone.language._medusa_heads import MedusaHeads
from paragone.training.run_folder import write_whole

__all__ = ["read_heads", "write_heads"]

_NAMES = (
    "medusa_lm_head.safetensors", "medusa_lm_head.pt", "model.safetensors", "pytorch_model.bin",
)  # fmt: skip
_KEY = re.compile(r"(?:medusa_heads?\.)?(\d+)\.(\d+)\.(.+)")
_IDS = "draft_ids"


def write_heads(
    heads: MedusaHeads, ids: Tensor | None, notes: dict[str, Any], folder: Path
) -> None:
    """Writes heads.

    Args:
        heads: K heads.
        ids: (V',) tokens of a drafted vocabulary that is not the whole one.
        notes: Further fields of config.json.
        folder: Made if it does not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: x.detach().cpu().contiguous() for name, x in heads.state_dict().items()}
    if ids is not None:
        state[_IDS] = ids.cpu()
    config = {
        "model_type": "medusa", "medusa_num_heads": len(heads), "medusa_num_layers": heads.layers,
        "hidden_size": heads.width, **notes,
    }  # fmt: skip
    write_whole(folder / "medusa_lm_head.safetensors", save(state, {"format": "pt"}))
    write_whole(folder / "config.json", (json.dumps(config, indent=1) + "\n").encode())


def read_heads(
    folder: Path, width: int, words: int
) -> tuple[MedusaHeads, Tensor | None, dict[str, Any]]:
    """Reads heads for a model.

    Args:
        folder: What `write_heads` wrote, or a published one; or the file of weights itself.
        width: M of the model.
        words: V of the model.

    Returns:
        Heads in float32, tokens of the drafted vocabulary or None, and the fields of config.json.

    Raises:
        ValueError: A file that is missing or broken, or heads of another model: all that does not
            fit is named.
    """
    path = _weights_file(folder)
    tensors = _tensors(path)
    config = _config(path.parent)
    ids = tensors.pop(_IDS, None)
    found: dict[tuple[int, int, str], Tensor] = {}
    for name, x in tensors.items():
        match = _KEY.fullmatch(name)
        if match and (path.name.startswith("medusa") or name.startswith("medusa")):
            found[int(match[1]), int(match[2]), match[3]] = x
        elif path.name.startswith("medusa"):
            raise ValueError(f"{path} holds {name!r}; names like '0.0.linear.weight' are expected")
    if not found:
        raise ValueError(f"{path} holds no heads; names like '0.0.linear.weight' are expected")
    heads = _shaped(found, width, words if ids is None else len(ids), path)
    asked = config.get("medusa_num_heads", len(heads))
    if asked != len(heads):
        warnings.warn(
            f"{path.parent / 'config.json'} says medusa_num_heads={asked}, {path.name} holds "
            f"{len(heads)}: all of them are used",
            stacklevel=4,
        )
    if ids is not None and (ids.min() < 0 or ids.max() >= words):
        raise ValueError(f"{path}: drafted tokens up to {int(ids.max())}; the model has {words}")
    return heads, ids, config


def _shaped(
    found: dict[tuple[int, int, str], Tensor], width: int, words: int, path: Path
) -> MedusaHeads:  # fmt: skip
    """Heads of the sizes that the tensors have, filled; or all that does not fit."""
    count = 1 + max(k for k, _, _ in found)
    layers = 1 + max((i for _, i, rest in found if rest.startswith("linear.")), default=-1)
    own = any(rest == "weight" for _, _, rest in found)
    inner = 0
    if any(rest == "out.weight" for _, _, rest in found):
        inner = next(len(x) for (_, _, rest), x in found.items() if rest == "linear.weight")
    heads = MedusaHeads(count, width, layers, words if own else 0, inner)
    wanted = {name: x.shape for name, x in heads.state_dict().items()}
    given = {f"{k}.{i}.{rest}": x for (k, i, rest), x in found.items()}
    wrong = [f"{name} is missing" for name in sorted(wanted.keys() - given.keys())]
    wrong += [f"{name} is unknown" for name in sorted(given.keys() - wanted.keys())]
    wrong += [
        f"{name} has shape {tuple(given[name].shape)}, {tuple(shape)} fits this model"
        for name, shape in sorted(wanted.items()) if name in given and given[name].shape != shape
    ]  # fmt: skip
    wrong += [
        f"{name} is {x.dtype}" for name, x in sorted(given.items()) if not x.is_floating_point()
    ]
    if wrong:
        raise ValueError(f"{path} does not fit the model: " + "; ".join(wrong))
    heads.load_state_dict({name: x.float() for name, x in given.items()})
    return heads


def _weights_file(folder: Path) -> Path:
    if folder.is_file():
        return folder
    for name in _NAMES:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"{folder} has no heads: one of {', '.join(_NAMES)} is expected")


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise ValueError(
            f"{path}: expected tensors by name, could not read it ({error})"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(x, Tensor) for x in found.values()):
        raise ValueError(f"{path}: expected tensors by name, found a {type(found).__name__}")
    return found


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, found something else ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected an object, found a {type(found).__name__}")
    return found
