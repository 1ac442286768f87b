"""Hugging Face folders: `config.json` and safetensors, whole or in shards with an index.

References:
    The safetensors format (huggingface/safetensors, README); names of tensors as in the files of
    Llama, Mixtral and DeepSeek-V3.

Shapes: E experts, F hidden units of one, M model width.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from paragone.language._format_config import kind_of, read_config, write_config
from paragone.language._format_weights import in_layout
from paragone.language._moe_names import joined, split
from paragone.language.config import LlamaConfig
from paragone.language.llama import Llama

__all__ = ["hf_tensors", "read_hf", "write_hf"]

_INDEX = "model.safetensors.index.json"
_WHOLE = "model.safetensors"


def read_hf(folder: Path) -> tuple[LlamaConfig, dict[str, Tensor]]:
    """Reads a folder.

    Raises:
        ValueError: A file that is missing, broken or of another kind.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no config.json; a Hugging Face folder has one")
    raw = _json(path)
    config = read_config(raw, path)
    tensors: dict[str, Tensor] = {}
    for file in _files(folder):
        for name, x in _tensors(file):
            tensors[name] = x
    return config, joined(tensors, config, folder)


def write_hf(model: Llama, folder: Path, *, shard_bytes: int = 5 << 30) -> None:
    """Writes `config.json` and the weights; a tied head is written once, as the embedding.

    Args:
        model: What to write.
        folder: Where; made if it does not exist.
        shard_bytes: Most bytes of one file; beyond it, shards and an index.
    """
    config, tensors = model.config, model.state_dict()
    kind = kind_of(config)
    if kind in ("mixtral", "qwen3_moe") and _biased(tensors):
        warnings.warn(
            f"experts are chosen by a bias, which files of {kind} do not hold: written as "
            "model_type paragone, which only this library reads",
            stacklevel=4,
        )
        kind = "paragone"
    if kind != "paragone":
        if config.kv_lora_rank is None:
            tensors, config = in_layout(tensors, config, "half")
        tensors = split(tensors, kind)
    if config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    folder.mkdir(parents=True, exist_ok=True)
    dtype = str(model.lm_head.weight.dtype).removeprefix("torch.")
    text = json.dumps(write_config(config, dtype, kind), indent=2, sort_keys=True)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    for old in folder.glob("model*.safetensors*"):
        old.unlink()
    _write(tensors, folder, shard_bytes)


def _biased(tensors: dict[str, Tensor]) -> bool:
    return any(
        bool(x.any()) for name, x in tensors.items() if name.endswith("e_score_correction_bias")
    )


def _write(tensors: dict[str, Tensor], folder: Path, most: int) -> None:
    shards: list[dict[str, Tensor]] = [{}]
    filled = total = 0
    for name, x in tensors.items():
        size = x.numel() * x.element_size()
        if shards[-1] and filled + size > most:
            shards.append({})
            filled = 0
        shards[-1][name] = x.detach().to("cpu").contiguous()
        filled, total = filled + size, total + size
    if len(shards) == 1:
        save_file(shards[0], folder / _WHOLE, metadata={"format": "pt"})
        return
    where: dict[str, str] = {}
    for at, shard in enumerate(shards, 1):
        file = f"model-{at:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _files(folder: Path) -> list[Path]:
    if (folder / _INDEX).is_file():
        named = sorted(set(_json(folder / _INDEX)["weight_map"].values()))
        missing = [name for name in named if not (folder / name).is_file()]
        if missing:
            raise ValueError(f"{folder}: the index names {', '.join(missing)}, which are not there")
        return [folder / name for name in named]
    if (folder / _WHOLE).is_file():
        return [folder / _WHOLE]
    raise ValueError(
        f"{folder} has neither {_WHOLE} nor {_INDEX}; weights in other formats (pytorch_model.bin) "
        "are not read"
    )


def hf_tensors(folder: Path, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """Tensors of a folder whose names are wanted; the others are not read.

    Raises:
        ValueError: Files that are missing.
    """
    return {name: x for file in _files(folder) for name, x in _tensors(file, wanted)}


def _tensors(
    file: Path, wanted: Callable[[str], bool] = lambda name: True
) -> Iterator[tuple[str, Tensor]]:
    with safe_open(file, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118
            if wanted(name):
                yield name, opened.get_tensor(name)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: {error}; JSON is expected") from error
