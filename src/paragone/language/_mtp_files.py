"""Modules that predict further tokens, on disk: our own two files, and the layouts of two houses.

    mtp.json, mtp.safetensors                    what `save` writes, alone or beside a model; names
    model.layers.{L+k}.enorm.weight, hnorm, eh_proj, shared_head.norm, shared_head.head,
        embed_tokens, and a block's own names    those of DeepSeek-V3, with L the model's layers
    extra_heads.{i}.attention.wq.weight, …       Meta's, within consolidated*.pth

Heads and embeddings that are copies of the model's are not kept twice. Rotary pairs are brought
into the layout of the model.

References:
    DeepSeek-AI (2024), arXiv:2412.19437; names as in the published files of DeepSeek-V3.
    Gloeckle et al. (2024), arXiv:2404.19737; names as in facebook/multi-token-prediction.

Shapes: L layers of the model, D modules.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paragone.language import _moe_names
from paragone.language._draft_stale import check
from paragone.language._format_hf import hf_tensors
from paragone.language._format_meta import meta_extra_heads
from paragone.language._format_weights import in_layout
from paragone.training.run_folder import write_whole

__all__ = ["read", "write"]

_CARD, _WEIGHTS = "mtp.json", "mtp.safetensors"
_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_COPIES = {"embed_tokens.weight": "model.embed_tokens.weight",
           "shared_head.head.weight": "lm_head.weight"}  # fmt: skip
_MOST_LINES = 12


def write(ahead: Any, folder: Path) -> Path:
    """Writes card and weights; returns the folder."""
    config = ahead.base.config
    folder.mkdir(parents=True, exist_ok=True)
    first = config.num_hidden_layers
    tensors = {
        _renamed(name, first): x.detach().cpu().contiguous()
        for name, x in ahead.modules.state_dict().items()
    }
    if ahead.draft_ids is not None:
        tensors["draft_ids"] = ahead.draft_ids.cpu()
    if config.n_routed_experts:
        tensors = _moe_names.split(tensors, "deepseek_v3")
    card = {
        "kind": "mtp", "modules": ahead.kind, "depth": ahead.depth, "reads": ahead.reads,
        "accuracies": list(ahead.accuracies), "layers": first, "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size, "rope_layout": config.rope_layout,
        "card": ahead.card,
    }  # fmt: skip
    beside = folder / f".{_WEIGHTS}"
    save_file(tensors, beside, metadata={"format": "pt"})
    beside.replace(folder / _WEIGHTS)
    write_whole(folder / _CARD, (json.dumps(card, indent=1) + "\n").encode())
    return folder


def read(kind: Any, folder: Path, model: Any) -> Any:
    """Reads modules in whatever layout they come."""
    if (folder / _CARD).is_file():
        return _own(kind, folder, model)
    config = model.config
    first = config.num_hidden_layers
    if (folder / "config.json").is_file():
        tensors = hf_tensors(folder, lambda name: _number(name) >= first)
        depth = len({_number(name) for name in tensors})
        if not depth:
            raise ValueError(
                f"{folder} has no {_CARD} and no layers from {first} on: it holds no modules that "
                "predict further tokens"
            )
        deeper = config.replace(num_hidden_layers=first + depth)
        tensors = _moe_names.joined(tensors, deeper, folder)
        ahead = kind(model, depth, "sequential")
        return _filled(ahead, tensors, folder)
    tensors = meta_extra_heads(folder, first)
    if not tensors:
        raise ValueError(
            f"{folder} has neither {_CARD}, nor config.json, nor a consolidated.pth of extra_heads"
        )
    depth = len({_number(name) for name in tensors})
    tensors, _ = in_layout(tensors, config.replace(rope_layout="interleaved"), config.rope_layout)
    return _filled(kind(model, depth, "parallel", reads="trunk"), tensors, folder)


def _own(kind: Any, folder: Path, model: Any) -> Any:
    card = json.loads((folder / _CARD).read_text(encoding="utf-8"))
    config = model.config
    wrong = [
        f"{name}={card.get(name)} (the model: {value})"
        for name, value in (("layers", config.num_hidden_layers), ("vocab_size", config.vocab_size),
                            ("hidden_size", config.hidden_size))
        if card.get(name) != value
    ]  # fmt: skip
    if card.get("kind") != "mtp" or wrong:
        raise ValueError(
            f"{folder / _CARD}: modules of another model: {'; '.join(wrong) or card.get('kind')}"
        )
    ahead = kind(model, card["depth"], card["modules"], reads=card["reads"])
    ahead.accuracies = tuple(card["accuracies"])
    ahead.card = card["card"]
    tensors = load_file(folder / _WEIGHTS)
    ids = tensors.pop("draft_ids", None)
    if ids is not None:
        ahead.draft_ids = ids.to(model.lm_head.weight.device)
    if card["rope_layout"] != config.rope_layout:
        there = config.replace(rope_layout=card["rope_layout"])
        tensors, _ = in_layout(tensors, there, config.rope_layout)
    if config.n_routed_experts:
        deeper = config.replace(num_hidden_layers=config.num_hidden_layers + card["depth"])
        tensors = _moe_names.joined(tensors, deeper, folder)
    _filled(ahead, tensors, folder)
    check(ahead, model, ahead.card)
    return ahead


def _number(name: str) -> int:
    """Of a layer, by a tensor's name; -1 where it is of none."""
    found = _LAYER.match(name)
    return -1 if found is None else int(found[1])


def _renamed(name: str, first: int) -> str:
    """`layers.{k}.…` to `model.layers.{L+k}.…`."""
    part = re.match(r"layers\.(\d+)\.(.+)", name)
    return name if part is None else f"model.layers.{first + int(part[1])}.{part[2]}"


def _filled(ahead: Any, tensors: dict[str, Tensor], source: Path) -> Any:
    """Gives modules their weights; copies of the model's own are shared with it."""
    first, state = ahead.base.config.num_hidden_layers, ahead.base.state_dict()
    given = {}
    for name, x in tensors.items():
        at, rest = _number(name) - first, _LAYER.sub("", name, count=1)
        shared = state.get(_COPIES.get(rest, ""))
        if shared is not None and ahead.kind == "sequential":
            if shared.shape == x.shape and torch.equal(shared.cpu(), x.cpu().to(shared.dtype)):
                continue
            _add_own(ahead.modules.layers[at], rest, x)
        given[f"layers.{at}.{rest}"] = x
    wanted = ahead.modules.state_dict()
    problems = [f"{_renamed(n, first)}: missing" for n in wanted if n not in given]
    problems += [f"{_renamed(n, first)}: unknown" for n in given if n not in wanted]
    problems += [
        f"{_renamed(n, first)}: shape {tuple(x.shape)}, expected {tuple(wanted[n].shape)}"
        for n, x in given.items() if n in wanted and x.shape != wanted[n].shape
    ]  # fmt: skip
    if problems:
        more = len(problems) - _MOST_LINES
        shown = [*problems[:_MOST_LINES], *([f"and {more} more"] if more > 0 else [])]
        raise ValueError(f"{source}: modules do not fit the model:\n  " + "\n  ".join(shown))
    ahead.modules.load_state_dict(given)
    ahead.modules.eval()
    return ahead


def _add_own(module: Any, rest: str, x: Tensor) -> None:
    """An embedding or a head that is not the model's."""
    like = module.eh_proj.weight
    where: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
    if rest.startswith("embed"):
        module.embed_tokens = nn.Embedding(x.shape[0], x.shape[1], **where)
    else:
        module.shared_head.head = nn.Linear(x.shape[1], x.shape[0], bias=False, **where)
