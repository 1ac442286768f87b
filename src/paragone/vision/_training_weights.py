"""Weights from files: what fits is loaded, what does not is told.

A file seldom holds exactly what a network has: another head, another class count, names of another
library. Names are translated by the networks themselves; here tensors are matched by name and
shape, against the whole network or its backbone, whichever takes more.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Loaded", "load_weights", "read_weights"]


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What became of a file's tensors.

    Attributes:
        file: Its path.
        part: Which part of the network took them; "" is the whole.
        loaded: Names of the network's tensors that were loaded.
        missing: Names of those that the file has not: they keep their initial values.
        unused: Names of the file's tensors that the network has not.
        reshaped: Name, shape in the file, shape in the network, of those that differ.
    """

    file: str
    part: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    reshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.missing) + len(self.reshaped)
        into = f" into {self.part}" if self.part else ""
        text = f"{Path(self.file).name}: {len(self.loaded)} of {total} tensors loaded{into}"
        if self.missing:
            text += f"; {len(self.missing)} not in the file ({_some(self.missing)})"
        if self.reshaped:
            name, found, wanted = self.reshaped[0]
            text += (
                f"; {len(self.reshaped)} of another shape ({name}: "
                f"{'x'.join(map(str, found))} in the file, {'x'.join(map(str, wanted))} here)"
            )
        if self.unused:
            text += f"; {len(self.unused)} of the file not used ({_some(self.unused)})"
        return text


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:2]) + (", …" if len(names) > 2 else "")


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Reads a state dict from a safetensors file or one of `torch.save`; no code is run.

    Raises:
        ValueError: The file is none, or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file of weights")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path}: expected safetensors, found something else ({error})") \
                from error  # fmt: skip
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: expected a state dict, could not read it ({reason})") from error
    for key in ("state_dict", "model", "model_state_dict", "ema"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    tensors = {k: v for k, v in found.items() if isinstance(v, Tensor)} \
        if isinstance(found, Mapping) else {}  # fmt: skip
    if not tensors:
        raise ValueError(f"{path}: expected a state dict, found no tensors in it")
    return {k.removeprefix("module."): v for k, v in tensors.items()}


def load_weights(network: nn.Module, path: str | os.PathLike[str]) -> Loaded:
    """Loads what fits from a file and returns what did and what did not.

    Args:
        network: Takes the weights, itself or in its backbone.
        path: Safetensors, or a state dict of `torch.save`.

    Raises:
        ValueError: No tensor fits.
    """
    state = read_weights(path)
    parts = {"": network}
    parts |= {n: m for n, m in network.named_children() if any(True for _ in m.parameters())}
    trials = {name: _fitting(part, state) for name, part in parts.items()}
    best = max(trials, key=lambda name: sum(v.numel() for v in trials[name][0].values()))
    fitting, unused, reshaped = trials[best]
    part = parts[best]
    own = part.state_dict()
    if not any(name in fitting for name, _ in part.named_parameters()):
        some = ", ".join(list(state)[:3])
        raise ValueError(
            f"{path}: none of its {len(state)} tensors ({some}, …) fits a tensor of "
            f"{type(network).__name__} by name and shape"
        )
    part.load_state_dict(fitting, strict=False)
    prefix = f"{best}." if best else ""
    odd = {name for name, _, _ in reshaped}
    every = [n for n in network.state_dict() if not n.endswith("num_batches_tracked")]
    loaded = {prefix + k for k in fitting if k in own}
    return Loaded(
        str(path), best, tuple(n for n in every if n in loaded),
        tuple(n for n in every if n not in loaded and n.removeprefix(prefix) not in odd),
        tuple(unused), tuple(reshaped),
    )  # fmt: skip


def _fitting(
    part: nn.Module, state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str], list[tuple[str, tuple[int, ...], tuple[int, ...]]]]:
    """What of a state a module takes, after the module's own translation of names."""
    own = part.state_dict()
    translated: dict[str, Tensor] = {}

    def keep(_: nn.Module, found: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        translated.update(found)
        found.clear()

    handle = part.register_load_state_dict_pre_hook(keep)
    try:
        part.load_state_dict(dict(state), strict=False)
    finally:
        handle.remove()
    fitting = {k: v for k, v in translated.items() if k in own and own[k].shape == v.shape}
    unused = [k for k in translated if k not in own]
    reshaped = [
        (k, tuple(v.shape), tuple(own[k].shape))
        for k, v in translated.items()
        if k in own and own[k].shape != v.shape
    ]
    return fitting, unused, reshaped
