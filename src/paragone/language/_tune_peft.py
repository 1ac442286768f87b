"""Adapters on disk in PEFT's layout: adapter_config.json beside adapter_model.safetensors.

Keys are `base_model.model.<module>.lora_A.weight` and `.lora_B.weight`; modules trained whole have
their own name. Adapters are made for Hugging Face's order of rotary pairs: in a model that keeps
them interleaved the rows of B of queries and keys are put in its order, and back when written.

References:
    Hu et al. (2022), "LoRA", arXiv:2106.09685, eq. 3.

Shapes: r rank, O outputs, H heads, D head width.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paragone.training.run_folder import write_whole

__all__ = ["read", "write"]

_PREFIX = "base_model.model."
_PLAIN: dict[str, Any] = {
    "alora_invocation_tokens": None, "arrow_config": None, "auto_mapping": None,
    "corda_config": None, "ensure_weight_tying": False, "eva_config": None,
    "exclude_modules": None, "fan_in_fan_out": False, "init_lora_weights": True,
    "kasa_config": None, "layer_replication": None, "layers_pattern": None,
    "layers_to_transform": None, "loftq_config": {}, "lora_bias": False, "lora_ga_config": None,
    "megatron_config": None, "megatron_core": "megatron.core", "monteclora_config": None,
    "qalora_group_size": 16, "revision": None, "target_parameters": None,
    "trainable_token_indices": None, "use_bdlora": None, "use_dora": False, "use_qalora": False,
    "velora_config": None,
}  # fmt: skip
"""Fields of the format that this writer leaves at their usual value."""

_REFUSED = (
    "alora_invocation_tokens", "arrow_config", "fan_in_fan_out", "kasa_config",
    "layer_replication", "lora_bias", "monteclora_config", "target_parameters",
    "trainable_token_indices", "use_bdlora", "use_dora", "use_qalora", "velora_config",
)  # fmt: skip
"""Fields that change what the adapter computes, in ways that are not built here."""


def write(model: nn.Module, adapter: Any, folder: Any, base: str | None) -> None:
    """Writes both files; see `lora.save_adapter`.

    Args:
        model: With an adapter.
        adapter: Its description.
        folder: Where.
        base: Name of the model it belongs to.
    """
    from safetensors.torch import save

    from paragone.language.lora import adapted

    maps, tensors = adapted(model), {}
    for name, each in maps.items():
        b = each.lora_B.weight
        if _turned(model, name):
            b = _half(b, model.config)
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = each.lora_A.weight
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = b
    for name in adapter.saved:
        tensors[f"{_PREFIX}{name}.weight"] = model.get_parameter(f"{name}.weight")
    others = {n: m for n, m in maps.items() if m.rank != adapter.rank}
    scaled = {
        name: each.scale * (each.rank**0.5 if adapter.rslora else each.rank)
        for name, each in maps.items()
        if abs(each.scale - adapter.scale(each.rank)) > 1e-9 * each.scale
    }
    ends = sorted({name.rsplit(".", 1)[-1] for name in maps})
    simple = len(maps) == sum(_linear(m, n) and n.rsplit(".", 1)[-1] in ends
                              for n, m in model.named_modules())  # fmt: skip
    config = {
        **_PLAIN, "peft_type": "LORA", "peft_version": "0.21.2", "task_type": "CAUSAL_LM",
        "inference_mode": True, "base_model_name_or_path": base, "bias": "none",
        "r": adapter.rank, "lora_alpha": _number(adapter.alpha), "lora_dropout": adapter.dropout,
        "use_rslora": adapter.rslora, "rank_pattern": {n: m.rank for n, m in others.items()},
        "alpha_pattern": {name: _number(alpha) for name, alpha in scaled.items()},
        "target_modules": ends if simple else sorted(maps),
        "modules_to_save": [n.rsplit(".", 1)[-1] for n in adapter.saved] or None,
    }  # fmt: skip
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    write_whole(path / "adapter_model.safetensors", save(plain, {"format": "pt"}))
    text = json.dumps(dict(sorted(config.items())), indent=2)
    write_whole(path / "adapter_config.json", text.encode())


def read(
    model: nn.Module, folder: Any
) -> tuple[dict[str, Any], dict[str, tuple[int, float | None]], dict[str, Tensor]]:
    """Returns the configuration, rank and alpha of each map, and weights by our names.

    Args:
        model: That the adapter is for.
        folder: PEFT's.

    Raises:
        ValueError: What does not fit, all at once.
    """
    path = Path(folder)
    config = _config(path)
    found = {k.removeprefix(_PREFIX): v for k, v in _tensors(path).items()}
    ranks: dict[str, tuple[int, float | None]] = {}
    tensors, saved, problems = {}, [], []
    for key, tensor in found.items():
        name, _, part = key.rpartition(".lora_")
        if part in ("A.weight", "B.weight"):
            problems += _misfit(model, name, part[0], tensor, found)
            rank = tensor.shape[0 if part[0] == "A" else 1]
            ranks[name] = (rank, _pattern(config["alpha_pattern"], name, None))
            if part[0] == "B" and _turned(model, name) and not problems:
                tensor = _interleaved(tensor, model.config)
            tensors[key] = tensor
            continue
        name = key.removesuffix(".weight")
        module = dict(model.named_modules()).get(name)
        shape = getattr(getattr(module, "weight", None), "shape", None)
        if shape is None or name == key:
            problems.append(f"{key}: no such module in this model")
        elif shape != tensor.shape:
            problems.append(
                f"{key}: {tuple(tensor.shape)}, the model has {tuple(shape)}"
                + ("; resize_embeddings first" if name.endswith("embed_tokens") else "")
            )
        saved.append(name)
        tensors[key] = tensor
    if not ranks:
        problems.append("no lora_A and lora_B in it")
    if problems:
        raise ValueError(f"{path}: does not fit this model: {'; '.join(problems)}")
    return {**config, "saved": saved}, ranks, tensors


def _config(path: Path) -> dict[str, Any]:
    file = path / "adapter_config.json"
    if not file.is_file():
        raise ValueError(f"{path}: expected PEFT's folder with adapter_config.json")
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: expected JSON ({error})") from error
    usual = {"r": 8, "lora_alpha": 8, "lora_dropout": 0.0, "use_rslora": False,
             "alpha_pattern": {}, "bias": "none", "peft_type": "LORA"}  # fmt: skip
    config = {**usual, **given}
    wrong = [name for name in _REFUSED if config.get(name)]
    wrong += [f"{n}={config[n]!r}" for n in ("bias", "peft_type") if config[n] != usual[n]]
    if wrong:
        raise ValueError(f"{file}: {', '.join(wrong)} are not known here; plain LoRA is")
    return config


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = path / "adapter_model.safetensors"
    if not file.is_file():
        beside = path / "adapter_model.bin"
        if beside.is_file():
            return torch.load(beside, map_location="cpu", weights_only=True)
        raise ValueError(f"{file}: not there")
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file}: expected safetensors ({error})") from error


def _misfit(
    model: nn.Module, name: str, part: str, tensor: Tensor, found: dict[str, Tensor]
) -> list[str]:
    module: Any = dict(model.named_modules()).get(name)
    if not isinstance(module, nn.Linear):
        return [f"{name}: no linear map of this model"]
    other = found.get(f"{name}.lora_{'B' if part == 'A' else 'A'}.weight")
    size = module.in_features if part == "A" else module.out_features
    if other is None:
        return [f"{name}: lora_{part} without the other"]
    rank = other.shape[1 if part == "A" else 0]
    want = (rank, size) if part == "A" else (size, rank)
    if tuple(tensor.shape) != want:
        return [f"{name}.lora_{part}: {tuple(tensor.shape)}, {want} is expected"]
    return []


def _pattern(patterns: dict[str, Any], name: str, usual: Any) -> Any:
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return usual


def _linear(module: nn.Module, name: str) -> bool:
    if name.endswith((".base_layer", ".lora_A", ".lora_B")):
        return False
    return isinstance(module, nn.Linear) or hasattr(module, "lora_A")


def _number(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value


def _turned(model: nn.Module, name: str) -> bool:
    layout = getattr(getattr(model, "config", None), "rope_layout", "half")
    return layout == "interleaved" and name.rsplit(".", 1)[-1] in ("q_proj", "k_proj")


def _half(b: Tensor, config: Any) -> Tensor:
    """Rows of interleaved pairs in Hugging Face's order."""
    return b.unflatten(0, (-1, config.head_size // 2, 2)).transpose(1, 2).reshape(b.shape)


def _interleaved(b: Tensor, config: Any) -> Tensor:
    return b.unflatten(0, (-1, 2, config.head_size // 2)).transpose(1, 2).reshape(b.shape)
